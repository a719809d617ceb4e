//! nat: ships reach the world by the host's address: one nft(8) table of our own, `slipway`.
//!
//! Each switch has a chain "masquerade-SWITCH" there, so that switches come and go without reading each
//! other's rules. An empty chain "forwarding-was-0" is our memory: it stands there while forwarding is on
//! because we switched it on, and the removal of the last switch puts it back. nft loads a file as one
//! transaction, and what is in no table of ours is never named.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use serde_json::{Value, json};
use unshare::fail::hint;

use crate::address::Cidr;

const TABLE: &str = "slipway";
const MEMORY: &str = "forwarding-was-0";
const BRIDGE_CALLS: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// One of the two protocols.
struct Family {
    word: &'static str,
    forwarding: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family { word: "ip", forwarding: "/proc/sys/net/ipv4/ip_forward" },
    Family { word: "ip6", forwarding: "/proc/sys/net/ipv6/conf/all/forwarding" },
];

impl Family {
    /// The kernel's forwarding, open to be switched on; None when it is on.
    fn closed_switch(&self) -> Result<Option<File>> {
        let path = self.forwarding;
        let value = fs::read_to_string(path).with_context(|| format!("cannot read '{path}'"))?;
        if value.trim() != "0" {
            return Ok(None);
        }
        OpenOptions::new().write(true).open(path).map(Some).with_context(|| format!("cannot open '{path}'"))
    }
}

pub struct Nft(PathBuf);

impl Nft {
    /// None without the program, and on a kernel without netfilter, which can hold no rules of ours.
    pub fn find() -> Option<Nft> {
        if kernel_has_netfilter() { Nft::program() } else { None }
    }

    fn program() -> Option<Nft> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
        places.extend(["/usr/sbin".into(), "/sbin".into()]);
        places.into_iter().map(|dir| dir.join("nft")).find(|file| file.is_file()).map(Nft)
    }

    pub fn need() -> Result<Nft> {
        if !kernel_has_netfilter() {
            bail!("NAT needs nf_tables, which this kernel does not have");
        }
        Nft::program().ok_or_else(|| hint(anyhow!("NAT needs the program 'nft'"), "apt-get install nftables"))
    }

    /// Runs commands (libnftables-json(5)), all of them or none, and gives back what there is then.
    ///
    /// JSON in, not only out: told to write JSON, nft takes no commands of its own language on stdin.
    /// Terse: the elements of other people's sets may be many.
    fn run(&self, mut commands: Vec<Value>) -> Result<Ruleset> {
        commands.push(json!({"list": {"ruleset": null}}));
        let script = json!({ "nftables": commands }).to_string();
        let program = self.0.display();
        let mut child = Command::new(&self.0)
            .args(["-t", "-j", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run '{program}'"))?;
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        // It fits into the pipe; should nft die early, its status tells.
        let _ = stdin.write_all(script.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().with_context(|| format!("cannot wait for '{program}'"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("'{program}' failed: {}", said.lines().next().unwrap_or("no reason given"));
        }
        let mut listed: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("cannot read what '{program}' lists"))?;
        let entries = listed["nftables"].as_array_mut().map(std::mem::take).unwrap_or_default();
        Ok(Ruleset(entries))
    }

    pub fn ruleset(&self) -> Result<Ruleset> {
        self.run(Vec::new())
    }

    /// Masquerades what leaves the subnets of `switch` by another interface, and lets the host forward.
    ///
    /// One transaction, any number of times to the same effect; after it nothing can fail, for the switches
    /// of the kernel are open before. Where all is there already no transaction is made: even one that
    /// changes nothing waits for the kernel (RCU), 12 ms in every start of a ship.
    pub fn switch_on(&self, switch: &str, subnets: &[Cidr]) -> Result<Ruleset> {
        let present = self.ruleset()?;
        let mut commands = Vec::new();
        let mut closed = Vec::new();
        for family in &FAMILIES {
            let own: Vec<&Cidr> =
                subnets.iter().filter(|cidr| cidr.address.is_ipv4() == (family.word == "ip")).collect();
            if own.is_empty() {
                continue;
            }
            let file = family.closed_switch()?;
            if file.is_none() && present.has_rules(family.word, switch, &own) {
                continue;
            }
            commands.extend(rules(family.word, switch, &own, file.is_some()));
            closed.extend(file.map(|file| (family, file)));
        }
        if !commands.is_empty() {
            self.run(commands).context("cannot set up NAT")?;
        }
        for (family, mut file) in closed {
            // After its memory is written: killed in between, the next run does this.
            file.write_all(b"1").with_context(|| format!("cannot write '1' to '{}'", family.forwarding))?;
            if family.word == "ip6" {
                // Documentation/networking/ip-sysctl.rst, accept_ra.
                eprintln!(
                    "netns: note: IPv6 forwarding is on: interfaces without accept_ra=2 get no routes from routers"
                );
            }
        }
        Ok(present)
    }

    /// Takes the chains of `switch` away; with the last one the table goes, and forwarding becomes what it
    /// was. False when there was nothing.
    pub fn switch_off(&self, switch: &str) -> Result<bool> {
        let present = self.ruleset()?;
        let ours = chain_of(switch);
        let mut commands = Vec::new();
        for family in &FAMILIES {
            let word = family.word;
            let names = present.chains_of_ours(word);
            if !names.contains(&ours.as_str()) {
                continue;
            }
            if names.iter().any(|name| *name != ours && *name != MEMORY) {
                let chain = json!({"chain": {"family": word, "table": TABLE, "name": ours}});
                commands.extend([json!({ "flush": chain }), json!({ "delete": chain })]);
                continue;
            }
            if names.contains(&MEMORY) {
                let file = family.forwarding;
                fs::write(file, "0").with_context(|| format!("cannot write '0' to '{file}'"))?;
            }
            commands.push(json!({"delete": {"table": {"family": word, "name": TABLE}}}));
        }
        if commands.is_empty() {
            return Ok(false);
        }
        self.run(commands).context("cannot remove NAT")?;
        Ok(true)
    }
}

fn kernel_has_netfilter() -> bool {
    let opened =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter);
    opened.err() != Some(Errno::EPROTONOSUPPORT)
}

/// What the host's tables hold, as nft lists it.
pub struct Ruleset(Vec<Value>);

impl Ruleset {
    fn all<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter_map(move |entry| entry.get(kind))
    }

    fn chains_of_ours(&self, family: &str) -> Vec<&str> {
        let ours = |chain: &&Value| chain["family"] == family && chain["table"] == TABLE;
        self.all("chain").filter(ours).filter_map(|chain| chain["name"].as_str()).collect()
    }

    pub fn masquerade(&self, switch: &str) -> bool {
        let ours = chain_of(switch);
        FAMILIES.iter().any(|family| self.chains_of_ours(family.word).contains(&ours.as_str()))
    }

    /// Whether the chain of a switch is there with exactly the rules that we would give it.
    fn has_rules(&self, family: &str, switch: &str, subnets: &[&Cidr]) -> bool {
        let chain = chain_of(switch);
        let ours = |rule: &&Value| {
            rule["family"] == family && rule["table"] == TABLE && rule["chain"] == chain.as_str()
        };
        let present: Vec<&Value> = self.all("rule").filter(ours).map(|rule| &rule["expr"]).collect();
        let wanted: Vec<Value> = subnets.iter().map(|cidr| expressions(family, switch, cidr)).collect();
        present.into_iter().eq(wanted.iter())
    }

    /// Chains that drop what no rule lets pass on its way through the host: Docker's and many firewalls'.
    /// They see bridged traffic too where br_netfilter is on.
    pub fn dropping(&self) -> Vec<String> {
        let drops = |chain: &&Value| chain["hook"] == "forward" && chain["policy"] == "drop";
        let name = |chain: &Value| {
            let word = |key: &str| chain[key].as_str().unwrap_or("?").to_owned();
            format!("{} {} {}", word("family"), word("table"), word("name"))
        };
        self.all("chain").filter(drops).map(name).collect()
    }
}

/// Whether what passes through a bridge goes through the host's IP filters.
pub fn bridges_are_filtered() -> bool {
    fs::read_to_string(BRIDGE_CALLS).is_ok_and(|value| value.trim() == "1")
}

/// What nft takes in the name of a chain.
pub fn check_switch(name: &str) -> Result<()> {
    if name.bytes().any(|b| !b.is_ascii_alphanumeric() && !b"_-.".contains(&b)) {
        bail!("the name of a switch with NAT has letters, digits, '_', '-' and '.' only: '{name}'");
    }
    Ok(())
}

fn chain_of(switch: &str) -> String {
    format!("masquerade-{switch}")
}

/// The one rule, in the words in which nft lists it too.
fn expressions(family: &str, switch: &str, cidr: &Cidr) -> Value {
    json!([
        {"match": {"op": "==", "left": {"payload": {"protocol": family, "field": "saddr"}},
                   "right": {"prefix": {"addr": cidr.network(), "len": cidr.prefix}}}},
        {"match": {"op": "!=", "left": {"meta": {"key": "oifname"}}, "right": switch}},
        {"masquerade": null},
    ])
}

/// What makes the chain of a switch, from whatever was there.
fn rules(family: &str, switch: &str, subnets: &[&Cidr], remember: bool) -> Vec<Value> {
    let table = json!({"add": {"table": {"family": family, "name": TABLE}}});
    let chain = json!({"family": family, "table": TABLE, "name": chain_of(switch)});
    let mut hooked = chain.clone();
    hooked["type"] = "nat".into();
    hooked["hook"] = "postrouting".into();
    hooked["prio"] = 100.into();
    hooked["policy"] = "accept".into();
    let mut commands = vec![table, json!({"add": {"chain": hooked}}), json!({"flush": {"chain": chain}})];
    for cidr in subnets {
        let rule = json!({"family": family, "table": TABLE, "chain": chain_of(switch), "expr": expressions(family, switch, cidr)});
        commands.push(json!({"add": {"rule": rule}}));
    }
    if remember {
        commands.push(json!({"add": {"chain": {"family": family, "table": TABLE, "name": MEMORY}}}));
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_name_our_table_only() {
        let cidr = Cidr::parse("10.0.0.254/24").unwrap();
        let commands = rules("ip", "br0", &[&cidr], true);
        let verbs: Vec<String> = commands
            .iter()
            .map(|command| {
                let (verb, object) = command.as_object().unwrap().iter().next().unwrap();
                let (kind, value) = object.as_object().unwrap().iter().next().unwrap();
                let table = if kind == "table" { &value["name"] } else { &value["table"] };
                assert_eq!(table, "slipway");
                format!("{verb} {kind}")
            })
            .collect();
        assert_eq!(verbs, ["add table", "add chain", "flush chain", "add rule", "add chain"]);
        let prefix = &commands[3]["add"]["rule"]["expr"][0]["match"]["right"]["prefix"];
        assert_eq!(*prefix, json!({"addr": "10.0.0.0", "len": 24}));
        assert_eq!(rules("ip", "br0", &[&cidr], false).len(), 4);
    }

    #[test]
    fn a_name_that_would_be_code_is_refused() {
        assert!(check_switch("br-0.x_y").is_ok());
        for bad in ["br;x", "br{", "br$x", "br#"] {
            assert!(check_switch(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn dropping_chains_are_named() {
        let chain = |family: &str, policy: &str| json!({"chain": {"family": family, "table": "filter", "name": "FORWARD", "hook": "forward", "policy": policy}});
        let present = Ruleset(vec![chain("ip", "drop"), chain("ip6", "accept"), chain("inet", "drop")]);
        assert_eq!(present.dropping(), ["ip filter FORWARD", "inet filter FORWARD"]);
    }
}
