//! nat: ships reach the world by the host's address: one nft(8) table of our own, `slipway`.
//!
//! Each switch has a chain "masquerade-SWITCH" there, so that switches come and go without reading each
//! other's rules. An empty chain "forwarding-was-0" is our memory: it stands there while forwarding is on
//! because we switched it on, and the removal of the last switch puts it back. nft loads a file as one
//! transaction, and what is in no table of ours is never named.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use serde_json::{Value, json};
use unshare::fail::{hint, say};

use crate::address::Cidr;
use crate::publish::{self, Published};

pub const TABLE: &str = "slipway";
const MEMORY: &str = "forwarding-was-0";

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
    fn is_of(&self, address: IpAddr) -> bool {
        address.is_ipv4() == (self.word == "ip")
    }

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
        Nft::program().ok_or_else(|| {
            hint(anyhow!("NAT needs the program 'nft'; iptables is not enough"), "apt-get install nftables")
        })
    }

    /// Runs commands (libnftables-json(5)), all of them or none, and gives back what there is then.
    ///
    /// JSON in, not only out: told to write JSON, nft takes no commands of its own language on stdin.
    /// Terse: the elements of other people's sets may be many.
    fn run(&self, mut commands: Vec<Value>) -> Result<Ruleset> {
        commands.push(json!({"list": {"ruleset": null}}));
        let script = json!({ "nftables": commands }).to_string();
        let program = self.0.display();
        // To nft "-" is /dev/stdin, which a bare /dev does not have.
        let input = if Path::new("/dev/stdin").exists() { "-" } else { "/proc/self/fd/0" };
        let mut child = Command::new(&self.0)
            .args(["-t", "-j", "-f", input])
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

    /// Masquerades what leaves the networks of switches by another interface, publishes ports, and lets the
    /// host forward.
    ///
    /// One transaction, any number of times to the same effect; after it nothing can fail, for the switches
    /// of the kernel are open before. Where all is there already no transaction is made: even one that
    /// changes nothing waits for the kernel (RCU), 12 ms in every start of a ship.
    pub fn ensure(&self, wanted: &Wanted) -> Result<()> {
        let present = self.ruleset()?;
        let mut commands = Vec::new();
        let mut closed = Vec::new();
        for family in &FAMILIES {
            let word = family.word;
            let mut own = Vec::new();
            let mut needed = false;
            for (switch, networks) in &wanted.masquerade {
                let networks: Vec<&Cidr> =
                    networks.iter().filter(|cidr| family.is_of(cidr.address)).collect();
                needed |= !networks.is_empty();
                if !networks.is_empty() && !present.has_rules(word, switch, &networks) {
                    own.extend(rules(word, switch, &networks));
                }
            }
            for published in wanted.publish.iter().filter(|one| family.is_of(one.to)) {
                needed = true;
                own.extend(published.commands(word, &present)?);
            }
            let file = if needed { family.closed_switch()? } else { None };
            if file.is_some() {
                own.push(json!({"add": {"chain": {"family": word, "table": TABLE, "name": MEMORY}}}));
            }
            if !own.is_empty() {
                commands.push(json!({"add": {"table": {"family": word, "name": TABLE}}}));
                commands.extend(own);
            }
            closed.extend(file.map(|file| (family, file)));
        }
        let local = wanted.publish.iter().map(Published::localnet).collect::<Result<Vec<_>>>()?;
        if !commands.is_empty() {
            self.run(commands).context("cannot set up NAT")?;
        }
        for (family, file) in closed {
            // After its memory is written: killed in between, the next run does this.
            write_one(file, family.forwarding)?;
            if family.word == "ip6" {
                // Documentation/networking/ip-sysctl.rst, accept_ra.
                say(
                    "netns",
                    "note: IPv6 forwarding is on: interfaces without accept_ra=2 get no routes from routers",
                );
            }
        }
        local.into_iter().flatten().try_for_each(|file| write_one(file, "route_localnet"))
    }

    /// Takes the chains of `switch` away and what is published on it. False when there was nothing.
    pub fn switch_off(&self, present: &Ruleset, switch: &str) -> Result<bool> {
        self.remove(present, &[chain_of(switch)], |entry| entry.switch == switch)
    }

    /// Takes the masquerading of `switch` away.
    pub fn stop_masquerade(&self, switch: &str) -> Result<bool> {
        self.remove(&self.ruleset()?, &[chain_of(switch)], |_| false)
    }

    /// Removes chains and publications; with the last of ours the table goes, and forwarding becomes what it
    /// was. False when there was nothing.
    pub fn remove(
        &self,
        present: &Ruleset,
        chains: &[String],
        unwanted: impl Fn(&publish::Entry) -> bool,
    ) -> Result<bool> {
        let mut commands = Vec::new();
        for family in &FAMILIES {
            let word = family.word;
            let names = present.chains_of_ours(word);
            let (gone, left): (Vec<_>, Vec<_>) =
                present.published(word).into_iter().partition(|entry| unwanted(entry));
            let mut doomed: Vec<&str> =
                names.iter().copied().filter(|name| chains.iter().any(|c| c == name)).collect();
            if doomed.is_empty() && gone.is_empty() {
                continue;
            }
            if left.is_empty() {
                doomed.extend(names.iter().copied().filter(|name| publish::CHAINS.contains(name)));
            }
            if names.iter().any(|name| *name != MEMORY && !doomed.contains(name)) {
                commands.extend(gone.iter().map(|entry| {
                    json!({"delete": {"rule": {"family": word,
                    "table": TABLE, "chain": entry.chain, "handle": entry.handle}}})
                }));
                for name in doomed {
                    let chain = json!({"chain": {"family": word, "table": TABLE, "name": name}});
                    commands.extend([json!({ "flush": chain }), json!({ "delete": chain })]);
                }
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

fn write_one(mut file: File, name: &str) -> Result<()> {
    file.write_all(b"1").with_context(|| format!("cannot write '1' to '{name}'"))
}

/// What there shall be of ours.
#[derive(Default)]
pub struct Wanted {
    /// Switches and their networks.
    pub masquerade: Vec<(String, Vec<Cidr>)>,
    pub publish: Vec<Published>,
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

    /// The rules of ours that publish ports.
    pub fn published(&self, family: &str) -> Vec<publish::Entry> {
        let ours = |rule: &&Value| rule["family"] == family && rule["table"] == TABLE;
        self.all("rule").filter(ours).filter_map(publish::Entry::parse).collect()
    }

    /// All that is published, a line each, in both families.
    pub fn publications(&self) -> Vec<publish::Entry> {
        let mut entries: Vec<publish::Entry> =
            FAMILIES.iter().flat_map(|family| self.published(family.word)).collect();
        entries.retain(|entry| entry.chain == publish::CHAINS[0]);
        entries
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
fn rules(family: &str, switch: &str, subnets: &[&Cidr]) -> Vec<Value> {
    let chain = json!({"family": family, "table": TABLE, "name": chain_of(switch)});
    let mut hooked = chain.clone();
    hooked["type"] = "nat".into();
    hooked["hook"] = "postrouting".into();
    hooked["prio"] = 100.into();
    hooked["policy"] = "accept".into();
    let mut commands = vec![json!({"add": {"chain": hooked}}), json!({"flush": {"chain": chain}})];
    for cidr in subnets {
        let rule = json!({"family": family, "table": TABLE, "chain": chain_of(switch), "expr": expressions(family, switch, cidr)});
        commands.push(json!({"add": {"rule": rule}}));
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_name_our_table_only() {
        let cidr = Cidr::parse("10.0.0.254/24").unwrap();
        let commands = rules("ip", "br0", &[&cidr]);
        let verbs: Vec<String> = commands
            .iter()
            .map(|command| {
                let (verb, object) = command.as_object().unwrap().iter().next().unwrap();
                let (kind, value) = object.as_object().unwrap().iter().next().unwrap();
                assert_eq!(value["table"], "slipway");
                format!("{verb} {kind}")
            })
            .collect();
        assert_eq!(verbs, ["add chain", "flush chain", "add rule"]);
        let prefix = &commands[2]["add"]["rule"]["expr"][0]["match"]["right"]["prefix"];
        assert_eq!(*prefix, json!({"addr": "10.0.0.0", "len": 24}));
    }

    #[test]
    fn a_name_that_would_be_code_is_refused() {
        assert!(check_switch("br-0.x_y").is_ok());
        for bad in ["br;x", "br{", "br$x", "br#"] {
            assert!(check_switch(bad).is_err(), "{bad}");
        }
    }
}
