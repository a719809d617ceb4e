//! nat: ships reach the world by the host's address: one nft(8) table of our own, `slipway`.
//!
//! Each switch has a chain "masquerade-SWITCH" there, so that switches come and go without reading each
//! other's rules. An empty chain "forwarding-was-0" is our memory: it stands there while forwarding is on
//! because we switched it on, and the removal of the last switch puts it back. nft loads a file as one
//! transaction, and what is in no table of ours is never named.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use unshare::fail::say;

use crate::address::Cidr;
use crate::nft::{Nft, Ruleset, TABLE};
use crate::publish::{self, Published};

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

impl Nft {
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
            let (own, file) = wanted.commands(family, &present)?;
            if !own.is_empty() {
                commands.push(json!({"add": {"table": {"family": family.word, "name": TABLE}}}));
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

impl Wanted {
    /// What is missing of one protocol, and the kernel's forwarding where it has to be switched on.
    fn commands(&self, family: &Family, present: &Ruleset) -> Result<(Vec<Value>, Option<File>)> {
        let word = family.word;
        let mut own = Vec::new();
        let mut needed = false;
        for (switch, networks) in &self.masquerade {
            let networks: Vec<&Cidr> = networks.iter().filter(|cidr| family.is_of(cidr.address)).collect();
            needed |= !networks.is_empty();
            if !networks.is_empty() && !present.has_rules(word, switch, &networks) {
                own.extend(rules(word, switch, &networks));
            }
        }
        for published in self.publish.iter().filter(|one| family.is_of(one.to)) {
            needed = true;
            own.extend(published.commands(word, present)?);
        }
        let file = if needed { family.closed_switch()? } else { None };
        if file.is_some() {
            own.push(json!({"add": {"chain": {"family": word, "table": TABLE, "name": MEMORY}}}));
        }
        Ok((own, file))
    }
}

/// What of the tables is NAT of switches.
impl Ruleset {
    pub fn masquerade(&self, switch: &str) -> bool {
        let ours = chain_of(switch);
        FAMILIES.iter().any(|family| self.chains_of_ours(family.word).contains(&ours.as_str()))
    }

    /// Whether the chain of a switch is there with exactly the rules that we would give it.
    fn has_rules(&self, family: &str, switch: &str, subnets: &[&Cidr]) -> bool {
        let chain = chain_of(switch);
        let rules = self.rules_of_ours(family).filter(|rule| rule["chain"] == chain.as_str());
        let present: Vec<&Value> = rules.map(|rule| &rule["expr"]).collect();
        let wanted: Vec<Value> = subnets.iter().map(|cidr| expressions(family, switch, cidr)).collect();
        present.into_iter().eq(wanted.iter())
    }
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
}
