//! publish: a port of the host leads to a ship: from outside, from the host itself by any of its addresses
//! (127.0.0.1 too), from other ships and from the ship itself.
//!
//! Rules in the table that `nat` keeps. Each carries a comment, "PORT TARGET:PORT [udp] @ ADDRESS SWITCH",
//! which is all that is remembered:
//!   publish        prerouting: what comes to the host goes to the ship
//!   publish-local  output: what the host sends to itself, too
//!   publish-back   postrouting: what a neighbour or the host sends that way comes from the switch's address,
//!                  or the answer would go straight back and not be recognised
//!   publish-guard  route_localnet lets ships ask for the host's 127.0.0.1: they shall not

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use serde_json::{Value, json};
use unshare::fail::hint;

use crate::address::Cidr;
use crate::machine::Machine;
use crate::mark::belongs_to;
use crate::netlink::{Socket, errno};
use crate::nft::{Ruleset, TABLE, check_switch};
use crate::rtnl::{self, Link};
use crate::store::{Target, quoted};

pub const CHAINS: [&str; 4] = ["publish", "publish-local", "publish-back", "publish-guard"];
/// What nft takes as a comment, less what stands around the words.
const LONGEST: usize = 127 - " @  ".len() - 39 - 15;

/// What a port is published as: on one address of the host or on all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub address: Option<IpAddr>,
    pub port: u16,
    pub udp: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishSpec {
    pub port: Port,
    pub target: Target,
    pub to: u16,
}

impl Port {
    /// [ADDRESS:]PORT; an IPv6 address stands in brackets.
    pub fn parse(word: &str, udp: bool) -> Result<Port> {
        if let Some(port) = parse_port(word) {
            return Ok(Port { address: None, port, udp });
        }
        let parsed = word.parse::<SocketAddr>().ok().filter(|socket| {
            let port = word.rsplit(':').next().and_then(parse_port);
            port == Some(socket.port()) && !matches!(socket, SocketAddr::V6(v6) if v6.scope_id() != 0)
        });
        let Some(socket) = parsed else {
            bail!("'{word}' is not [ADDRESS:]PORT, as in '8080' or '[fd00::1]:80'")
        };
        let address = socket.ip();
        if address.is_unspecified() || address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
            bail!("'{address}' is not an address of a host");
        }
        Ok(Port { address: Some(address), port: socket.port(), udp })
    }

    /// Whether one packet could be for both.
    pub fn collides(&self, other: &Port) -> bool {
        let same = match (self.address, other.address) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        same && self.port == other.port && self.udp == other.udp
    }

    pub fn protocol(&self) -> &'static str {
        if self.udp { "udp" } else { "tcp" }
    }

    fn loopback(&self) -> bool {
        self.address.is_none_or(|address| address.is_loopback())
    }
}

fn parse_port(word: &str) -> Option<u16> {
    word.parse().ok().filter(|port| *port > 0 && word.bytes().all(|b| b.is_ascii_digit()))
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{}", SocketAddr::new(address, self.port)),
            None => write!(f, "{}", self.port),
        }
    }
}

impl PublishSpec {
    pub fn parse(port: &str, to: &str, udp: bool) -> Result<PublishSpec> {
        let port = Port::parse(port, udp)?;
        let Some((target, to)) = to.rsplit_once(':').and_then(|(t, to)| Some((t, parse_port(to)?))) else {
            bail!("'{to}' is not TARGET:PORT, as in 'web:80'");
        };
        let spec = PublishSpec { port, target: Target::parse(target)?, to };
        if spec.words().len() > LONGEST {
            bail!("'{target}' is too long a name to publish a port for: nft has no room for it");
        }
        Ok(spec)
    }

    /// The statement without its verb.
    fn words(&self) -> String {
        let udp = if self.port.udp { " udp" } else { "" };
        format!("{} {}:{}{udp}", self.port, self.target.label(), self.to)
    }
}

/// As the statement is written.
impl fmt::Display for PublishSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = format!("{}:{}", self.target.label(), self.to);
        write!(f, "publish {} {}{}", self.port, quoted(&end), if self.port.udp { " udp" } else { "" })
    }
}

/// A publication that knows where the ship is.
pub struct Published {
    spec: PublishSpec,
    pub to: IpAddr,
    network: Cidr,
    switch: String,
}

/// One rule of ours, by its comment.
pub struct Entry {
    pub spec: PublishSpec,
    pub switch: String,
    pub chain: String,
    pub handle: u64,
    comment: String,
}

impl Entry {
    pub fn parse(rule: &Value) -> Option<Entry> {
        let comment = rule["comment"].as_str()?;
        let chain = rule["chain"].as_str().filter(|chain| CHAINS.contains(chain))?;
        let (words, place) = comment.rsplit_once(" @ ")?;
        let (rest, udp) = words.strip_suffix(" udp").map_or((words, false), |rest| (rest, true));
        let (port, to) = rest.split_once(' ')?;
        Some(Entry {
            spec: PublishSpec::parse(port, to, udp).ok()?,
            switch: place.split_once(' ')?.1.to_owned(),
            chain: chain.to_owned(),
            handle: rule["handle"].as_u64()?,
            comment: comment.to_owned(),
        })
    }
}

/// What of the tables publishes ports.
impl Ruleset {
    /// The rules of ours that publish ports.
    pub fn published(&self, family: &str) -> Vec<Entry> {
        self.rules_of_ours(family).filter_map(Entry::parse).collect()
    }

    /// All that is published, a line each, in both families.
    pub fn publications(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> =
            ["ip", "ip6"].into_iter().flat_map(|family| self.published(family)).collect();
        entries.retain(|entry| entry.chain == CHAINS[0]);
        entries
    }
}

/// Where a ship is: its first address of each family on a switch. None where it has none yet.
pub fn resolve(machine: &mut Machine, spec: &PublishSpec) -> Result<Vec<Published>> {
    let Some(space) = machine.space_of(&spec.target) else { return Ok(Vec::new()) };
    let links = rtnl::all_links(&mut machine.outside)?;
    let label = spec.target.label();
    let mut found: Vec<Published> = Vec::new();
    for outer in links.iter().filter(|link| belongs_to(link).is_some_and(|(ship, _)| ship == label)) {
        let (Some(inner), Some(switch)) = (outer.peer, crate::plug::of_port(machine, outer)?) else {
            continue;
        };
        for network in rtnl::addresses(machine.inside(space), inner)? {
            let to = network.address;
            let asked = spec.port.address.is_none_or(|address| address.is_ipv4() == to.is_ipv4());
            if asked && found.iter().all(|other| other.to.is_ipv4() != to.is_ipv4()) {
                found.push(Published { spec: spec.clone(), to, network, switch: switch.clone() });
            }
        }
    }
    Ok(found)
}

/// The publications of a command whose links are made.
pub fn prepare(machine: &mut Machine, spec: &PublishSpec) -> Result<Vec<Published>> {
    let found = resolve(machine, spec)?;
    if found.is_empty() {
        let label = spec.target.label();
        let error = anyhow!("'{label}' has no address of that family on a switch");
        return Err(hint(error, format!("netns link '{label}:eth0' SWITCH ADDRESS/PREFIX")));
    }
    for published in &found {
        check_switch(&published.switch)?;
    }
    Ok(found)
}

/// Where bridges are filtered a packet from the ship to itself is turned round on the bridge, and that needs
/// leave. After the rules, by which the next `unpublish` finds what a killed command has left.
pub fn hairpin(machine: &mut Machine, target: &Target) -> Result<()> {
    let label = target.label();
    for outer in rtnl::all_links(&mut machine.outside)? {
        let ours = belongs_to(&outer).is_some_and(|(ship, _)| ship == label);
        if ours && outer.port.is_some() && !outer.hairpin {
            machine.outside.tell(vec![rtnl::set_hairpin(outer.index, true)])?;
        }
    }
    Ok(())
}

/// Nothing leads to these ships any more.
pub fn stop_hairpin(ships: &[String]) -> Result<()> {
    if ships.is_empty() {
        return Ok(());
    }
    let mut socket = Socket::open()?;
    let links = rtnl::all_links(&mut socket)?;
    let theirs = |link: &&Link| belongs_to(link).is_some_and(|(ship, _)| ships.iter().any(|one| one == ship));
    let turned = links.iter().filter(|link| link.hairpin).filter(theirs);
    match socket.tell(turned.map(|outer| rtnl::set_hairpin(outer.index, false)).collect()) {
        Err(error) if errno(&error) == Some(Errno::ENODEV) => Ok(()), // has gone meanwhile
        done => done,
    }
}

impl Published {
    pub fn family(&self) -> &'static str {
        if self.to.is_ipv4() { "ip" } else { "ip6" }
    }

    fn comment(&self) -> String {
        format!("{} @ {} {}", self.spec.words(), self.to, self.switch)
    }

    /// Whether all the rules are there.
    pub fn is_there(&self, family: &str, present: &Ruleset) -> bool {
        let comment = self.comment();
        let there = present.published(family).iter().filter(|entry| entry.comment == comment).count();
        there == self.rules(family).len()
    }

    /// What makes the rules, from whatever was there; nothing where all is.
    pub fn commands(&self, family: &str, present: &Ruleset) -> Result<Vec<Value>> {
        let others: Vec<Entry> = present.published(family);
        let rival = others.iter().find(|e| e.spec != self.spec && e.spec.port.collides(&self.spec.port));
        if let Some(rival) = rival {
            let error = anyhow!("the port is taken by '{}'", rival.spec);
            let udp = if rival.spec.port.udp { " udp" } else { "" };
            return Err(hint(error, format!("netns unpublish {}{udp}", rival.spec.port)));
        }
        if self.is_there(family, present) {
            return Ok(Vec::new());
        }
        let mut commands: Vec<Value> = chains(family);
        // The same words from before, when the ship was elsewhere.
        commands.extend(others.iter().filter(|entry| entry.spec == self.spec).map(|entry| {
            json!({"delete": {"rule": {"family": family, "table": TABLE, "chain": entry.chain, "handle": entry.handle}}})
        }));
        let comment = self.comment();
        commands.extend(self.rules(family).into_iter().map(|(chain, expressions)| {
            json!({"add": {"rule": {"family": family, "table": TABLE, "chain": chain, "comment": comment, "expr": expressions}}})
        }));
        Ok(commands)
    }

    fn rules(&self, family: &str) -> Vec<(&'static str, Value)> {
        let Port { address, port, .. } = self.spec.port;
        let protocol = self.spec.port.protocol();
        let is = |left: Value, right: Value| json!({"match": {"op": "==", "left": left, "right": right}});
        let field = |name: &str| json!({"payload": {"protocol": family, "field": name}});
        let to_port =
            |port: u16| is(json!({"payload": {"protocol": protocol, "field": "dport"}}), port.into());
        let here = match address {
            Some(address) => is(field("daddr"), address.to_string().into()),
            None => is(json!({"fib": {"result": "type", "flags": ["daddr"]}}), "local".into()),
        };
        let turn = json!({"dnat": {"addr": self.to, "port": self.spec.to}});
        let turned = json!({"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}});
        let to_ship = is(field("daddr"), self.to.to_string().into());
        let neighbour = is(
            field("saddr"),
            json!({"prefix": {"addr": self.network.network(), "len": self.network.prefix}}),
        );
        let host = is(json!({"fib": {"result": "type", "flags": ["saddr"]}}), "local".into());
        let back = |from: Value| json!([turned, to_ship, to_port(self.spec.to), from, {"masquerade": null}]);
        let mut rules = vec![
            (CHAINS[0], json!([here, to_port(port), turn])),
            (CHAINS[1], json!([here, to_port(port), turn])),
            (CHAINS[2], back(neighbour)),
            (CHAINS[2], back(host)),
        ];
        if family == "ip" && self.spec.port.loopback() {
            let from = is(json!({"meta": {"key": "iifname"}}), self.switch.clone().into());
            let loopback = json!({"prefix": {"addr": "127.0.0.0", "len": 8}});
            rules.push((CHAINS[3], json!([from, is(field("daddr"), loopback), {"drop": null}])));
        }
        rules
    }

    /// What lets 127.0.0.1 leave by the switch, open to be switched on; None when it is on or not needed.
    pub fn localnet(&self) -> Result<Option<File>> {
        if self.to.is_ipv6() || !self.spec.port.loopback() {
            return Ok(None);
        }
        let path = localnet_of(&self.switch);
        let value = fs::read_to_string(&path).with_context(|| format!("cannot read '{path}'"))?;
        if value.trim() == "1" {
            return Ok(None);
        }
        OpenOptions::new().write(true).open(&path).map(Some).with_context(|| format!("cannot open '{path}'"))
    }
}

pub fn localnet_of(switch: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{switch}/route_localnet")
}

fn chains(family: &str) -> Vec<Value> {
    let hooks = [
        ("nat", "prerouting", -100),
        ("nat", "output", -100),
        ("nat", "postrouting", 100),
        ("filter", "prerouting", -300),
    ];
    let chain = |(name, (kind, hook, priority)): (&&str, (&str, &str, i32))| {
        json!({"add": {"chain": {"family": family, "table": TABLE, "name": name, "type": kind, "hook": hook,
            "prio": priority, "policy": "accept"}}})
    };
    CHAINS.iter().zip(hooks).map(chain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_may_have_an_address_before_it() {
        let text = |word: &str| Port::parse(word, false).map(|port| port.to_string());
        for good in ["1", "65535", "192.0.2.1:80", "127.0.0.1:80", "[fd00::1]:80"] {
            assert_eq!(text(good).unwrap(), good);
        }
        for bad in [
            "",
            "0",
            "65536",
            "+80",
            "080x",
            "fd00::1:80",
            "0.0.0.0:80",
            "[::]:80",
            "web:80",
            "192.0.2.1:0",
            "192.0.2.1:+8",
            "[fe80::1%2]:80",
        ] {
            assert!(text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_remembered_is_read_back() {
        for (port, to, udp) in
            [("80", "web:80", false), ("[fd00::1]:80", "pid:7:81", true), ("1", "a b @ c:9", true)]
        {
            let spec = PublishSpec::parse(port, to, udp).unwrap();
            let network = Cidr::parse("10.0.0.1/24").unwrap();
            let published =
                Published { spec: spec.clone(), to: network.address, network, switch: "br0".into() };
            let rule = json!({"comment": published.comment(), "chain": "publish", "handle": 7});
            let entry = Entry::parse(&rule).unwrap();
            assert_eq!((entry.spec, entry.switch.as_str(), entry.handle), (spec, "br0", 7));
        }
        assert!(PublishSpec::parse("80", &format!("{}:80", "x".repeat(70)), false).is_err());
    }

    #[test]
    fn all_addresses_collide_with_one() {
        let port = |word: &str| Port::parse(word, false).unwrap();
        assert!(port("80").collides(&port("192.0.2.1:80")));
        assert!(!port("192.0.2.2:80").collides(&port("192.0.2.1:80")));
        assert!(!port("80").collides(&Port::parse("80", true).unwrap()));
    }
}
