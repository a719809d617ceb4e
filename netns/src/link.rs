//! link: a cable from a namespace to a switch: its words, its names, and what of it is there already.
//!
//! An outer end without its alias was left by a killed link, and the next one replaces it. Outer ends are
//! found by their name, which is made from TARGET and IFNAME alone: there is no list to keep.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use unshare::fail::hint;

use crate::address::{Cidr, Mac, format_mac, in_order};
use crate::machine::Machine;
use crate::netlink::{Message, Socket};
use crate::plug::{self, Plug, Vlans};
use crate::rate::{self, Rate};
use crate::rtnl::{self, Link};
use crate::store::{Target, quoted};

pub const ALIAS: &str = "netns:";
/// IFALIASZ, linux/if.h.
const LONGEST_ALIAS: usize = 255;

/// What a link is asked to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSpec {
    pub end: End,
    pub onto: Onto,
    pub addresses: Vec<Cidr>,
    /// Take the first address of the switch's networks that nobody has.
    pub next_free: bool,
    pub gateways: Vec<IpAddr>,
    pub mtu: Option<u32>,
    pub mac: Option<Mac>,
    pub vlans: Vlans,
    pub rate: Option<Rate>,
    pub promisc: bool,
    /// How long to listen for somebody who has the address; None for not at all.
    pub check: Option<Duration>,
}

/// What a link leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Onto {
    Switch(String),
    /// An interface of the host that is shared: the kind of device, "macvlan" or "macvtap", and its name.
    Nic(&'static str, String),
}

impl Onto {
    pub fn name(&self) -> &str {
        match self {
            Onto::Switch(name) | Onto::Nic(_, name) => name,
        }
    }
}

impl fmt::Display for Onto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Onto::Switch(name) => f.write_str(name),
            Onto::Nic(kind, name) => write!(f, "{kind}:{name}"),
        }
    }
}

impl LinkSpec {
    pub fn new(end: End, onto: Onto) -> LinkSpec {
        LinkSpec {
            end,
            onto,
            addresses: vec![],
            next_free: false,
            gateways: vec![],
            mtu: None,
            mac: None,
            vlans: Vlans::default(),
            rate: None,
            promisc: false,
            check: None,
        }
    }
}

/// As the statement is written.
impl fmt::Display for LinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {} {}", quoted(&self.end.label()), self.onto)?;
        self.addresses.iter().try_for_each(|cidr| write!(f, " {cidr}"))?;
        if self.next_free {
            f.write_str(" --next-free")?;
        }
        self.gateways.iter().try_for_each(|gateway| write!(f, " via {gateway}"))?;
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        if let Some(mac) = self.mac {
            write!(f, " mac {}", format_mac(&mac))?;
        }
        write!(f, "{}", self.vlans)?;
        if let Some(rate) = self.rate {
            write!(f, " rate {rate}")?;
        }
        f.write_str(if self.promisc { " promisc" } else { "" })
    }
}

/// The inner end of a link: TARGET:IFNAME.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub target: Target,
    pub ifname: String,
}

impl End {
    /// The interface has no colon in its name, a target may.
    pub fn parse(word: &str) -> Result<End> {
        let Some((target, ifname)) = word.rsplit_once(':') else {
            bail!("'{word}' is not TARGET:IFNAME, as in 'web:eth0'");
        };
        let end = End { target: Target::parse(target)?, ifname: ifname.to_owned() };
        crate::address::check_ifname(ifname)?;
        if end.alias().len() > LONGEST_ALIAS {
            bail!("'{word}' is too long: a link has room for {} bytes", LONGEST_ALIAS - ALIAS.len());
        }
        Ok(end)
    }

    pub fn label(&self) -> String {
        format!("{}:{}", self.target.label(), self.ifname)
    }

    pub fn alias(&self) -> String {
        format!("{ALIAS}{}", self.label())
    }

    /// At most 15 bytes: the beginning of the ship's name for the eye, a hash of the whole for the rest.
    pub fn outer(&self) -> String {
        let label = self.target.label();
        let seen: String = label.chars().filter(char::is_ascii_alphanumeric).take(6).collect();
        format!("{seen}-{:08x}", fnv1a(self.label().as_bytes()))
    }
}

/// FNV-1a, 32 bits: must never change, or links made before are not found any more.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// How far a link is from what is asked for.
pub enum State {
    /// Not there; what a killed one or an earlier ship has left goes first.
    New { leftover: Option<Leftover> },
    /// There and as asked, but for what is added with these.
    Present(Completion),
}

pub enum Leftover {
    /// The outer end of a pair; with the number of the namespace at its other end where that is not ours.
    Outer { link: Link, elsewhere: Option<i32> },
    /// A device in the namespace.
    Inner,
}

#[derive(Default)]
pub struct Completion {
    pub outside: Vec<Message>,
    pub inside: Vec<Message>,
    /// The same for the reader.
    pub words: Vec<String>,
}

/// Looks at what is there and asks for what differs. `space` is None where the namespace is still to be made,
/// `plug` where the switch is.
pub fn plan(
    machine: &mut Machine,
    spec: &LinkSpec,
    space: Option<usize>,
    plug: Option<&Plug>,
) -> Result<State> {
    match (&spec.onto, space) {
        (Onto::Switch(_), _) => plan_pair(machine, spec, space, plug),
        (Onto::Nic(..), Some(space)) => plan_shared(machine, spec, space, plug),
        (Onto::Nic(..), None) => Ok(State::New { leftover: None }),
    }
}

fn plan_pair(
    machine: &mut Machine,
    spec: &LinkSpec,
    space: Option<usize>,
    plug: Option<&Plug>,
) -> Result<State> {
    let Some(outer) = rtnl::find_link(&mut machine.outside, &spec.end.outer())? else {
        return Ok(State::New { leftover: None });
    };
    let whole = outer.alias == spec.end.alias();
    if outer.kind != "veth" || !(whole || outer.alias.is_empty()) {
        let by = if outer.alias.is_empty() { &outer.kind } else { &outer.alias };
        bail!("its outer name '{}' is taken by '{by}'", outer.name);
    }
    let here = match space {
        Some(space) => rtnl::namespace_id(&mut machine.outside, machine.spaces[space].fd())?,
        None => None,
    };
    let Some(space) = space.filter(|_| whole && outer.peer_ns == here) else {
        let elsewhere = outer.peer_ns.filter(|id| *id >= 0 && Some(*id) != here);
        return Ok(State::New { leftover: Some(Leftover::Outer { link: outer, elsewhere }) });
    };
    let found = rtnl::find_link(machine.inside(space), &spec.end.ifname)?;
    let inner = found.filter(|inner| inner.peer == Some(outer.index) && outer.peer == Some(inner.index));
    let inner = inner.ok_or_else(|| {
        let name = &spec.end.ifname;
        cut_first(spec, anyhow!("the inner end of '{}' is not called '{name}' any more", outer.name))
    })?;
    let mut differences = Differences(Vec::new());
    let is_on = plug::of_port(machine, &outer)?;
    differences.note("switch", is_on.as_deref().unwrap_or("none"), spec.onto.name());
    if let Some(plug) = plug.filter(|_| spec.vlans.any()) {
        let is = plug.vlans_of(&mut machine.outside, &outer)?;
        differences.note("VLANs", is.to_string().trim(), spec.vlans.to_string().trim());
    }
    complete(machine, spec, space, &inner, Some(&outer), differences)
}

/// A macvlan or macvtap has no outer end: what is there is seen from inside.
fn plan_shared(machine: &mut Machine, spec: &LinkSpec, space: usize, plug: Option<&Plug>) -> Result<State> {
    let Some(inner) = rtnl::find_link(machine.inside(space), &spec.end.ifname)? else {
        return Ok(State::New { leftover: None });
    };
    let Onto::Nic(kind, name) = &spec.onto else { unreachable!("a switch is planned as a pair") };
    let nic = plug.and_then(Plug::nic).with_context(|| format!("no interface '{name}'"))?;
    if inner.kind != *kind || !(inner.alias.is_empty() || inner.alias == spec.end.alias()) {
        bail!("the namespace has an interface '{}' already", inner.name);
    }
    if inner.alias.is_empty() {
        return Ok(State::New { leftover: Some(Leftover::Inner) });
    }
    let mut differences = Differences(Vec::new());
    if inner.peer != Some(nic) {
        differences.note("interface", "another", name);
    }
    complete(machine, spec, space, &inner, None, differences)
}

/// All that is asked for and differs is an error that says so; what is not there yet is to be added.
fn complete(
    machine: &mut Machine,
    spec: &LinkSpec,
    space: usize,
    inner: &Link,
    outer: Option<&Link>,
    mut differences: Differences,
) -> Result<State> {
    let mut completion = Completion::default();
    compare(machine.inside(space), spec, inner, &mut differences)?;
    let missing = missing_routes(machine.inside(space), spec, inner, &mut differences)?;
    if !differences.0.is_empty() {
        return Err(cut_first(spec, anyhow!("it exists with {}", differences.0.join(", "))));
    }
    if let Some(outer) = outer.filter(|outer| !outer.up) {
        completion.outside.push(rtnl::set_up(&outer.name));
        completion.words.push(format!("switch '{}' on", outer.name));
    }
    if !inner.up || (spec.promisc && !inner.promisc) {
        completion.inside.push(rtnl::set_up_inside(&inner.name, spec.promisc));
        completion.words.push(format!("switch '{}' on", spec.end.label()));
    }
    for gateway in missing {
        completion.inside.push(rtnl::new_default_route(inner.index, gateway));
        completion.words.push(format!("set the gateway '{gateway}' of '{}'", spec.end.label()));
    }
    Ok(State::Present(completion))
}

fn compare(inside: &mut Socket, spec: &LinkSpec, inner: &Link, differences: &mut Differences) -> Result<()> {
    if !spec.addresses.is_empty() || spec.next_free {
        let present = rtnl::addresses(inside, inner.index)?;
        let asked = in_order(spec.addresses.clone());
        // Any address is a free one that was taken before.
        if !spec.next_free || present.is_empty() {
            differences.note("address", &join(&present), &join(&asked));
        }
    }
    if let Some(mac) = spec.mac {
        differences.note("mac", &format_mac(&inner.mac), &format_mac(&mac));
    }
    if let Some(mtu) = spec.mtu {
        differences.note("mtu", &inner.mtu.to_string(), &mtu.to_string());
    }
    if let Some(asked) = spec.rate {
        let is = rate::of(inside, inner.index)?;
        differences.note("rate", &is.map_or("none".into(), |rate| rate.to_string()), &asked.to_string());
    }
    Ok(())
}

fn missing_routes(
    inside: &mut Socket,
    spec: &LinkSpec,
    inner: &Link,
    differences: &mut Differences,
) -> Result<Vec<IpAddr>> {
    let asked = &spec.gateways;
    let present = if asked.is_empty() { Vec::new() } else { rtnl::gateways(inside, inner.index)? };
    let mut missing = Vec::new();
    for asked in asked {
        match present.iter().find(|gateway| gateway.is_ipv4() == asked.is_ipv4()) {
            Some(is) => differences.note("gateway", &is.to_string(), &asked.to_string()),
            None => missing.push(*asked),
        }
    }
    Ok(missing)
}

fn cut_first(spec: &LinkSpec, error: Error) -> Error {
    hint(error, format!("netns unlink '{}' first", spec.end.label()))
}

/// What is there and was not asked for so.
struct Differences(Vec<String>);

impl Differences {
    fn note(&mut self, what: &str, is: &str, asked: &str) {
        if is != asked {
            self.0.push(format!("{what} '{is}', not '{asked}'"));
        }
    }
}

pub fn join(addresses: &[Cidr]) -> String {
    match addresses {
        [] => "none".into(),
        list => list.iter().map(Cidr::to_string).collect::<Vec<_>>().join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_names_are_stable_short_and_differ() {
        let outer = |word: &str| End::parse(word).unwrap().outer();
        assert_eq!(outer("web:eth0"), "web-543522e0");
        assert_ne!(outer("web:eth0"), outer("web:eth1"));
        let long = outer("a-very-long-ship-name-netns:eth0");
        assert!(long.starts_with("averyl-") && long.len() == 15, "{long}");
        assert!(crate::address::check_ifname(&outer("ü:eth0").replacen('-', "x", 1)).is_ok());
    }

    #[test]
    fn an_end_is_split_at_its_last_colon() {
        let end = End::parse("pid:12:eth0").unwrap();
        assert_eq!((end.target.clone(), end.ifname.as_str()), (Target::Pid(12), "eth0"));
        assert_eq!(end.alias(), "netns:pid:12:eth0");
        assert_eq!(End::parse("a:b:eth0").unwrap().target, Target::Name("a:b".into()));
        for bad in
            ["web", "web:", ":eth0", "web:a b", "web:0123456789abcdef", &format!("{}:eth0", "x".repeat(250))]
        {
            assert!(End::parse(bad).is_err(), "{bad}");
        }
    }
}
