//! words: the statements, which say what shall be there. A command line has one, a file for `apply` has one
//! a line, and both are read here.

use std::ffi::OsString;
use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use lexopt::prelude::*;
use unshare::fail::{text, usage};

use crate::address::{Cidr, check_ifname, parse_gateway, parse_mac, parse_router};
use crate::link::{End, LinkSpec, Onto};
use crate::nft;
use crate::publish::PublishSpec;
use crate::rate::Rate;
use crate::store::{check_name, quoted};
use crate::switch::SwitchSpec;
use crate::tunnel::TunnelSpec;

const LONGEST_CHECK: u64 = 60_000;

/// One thing that shall be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    Add(Vec<String>),
    Switch(SwitchSpec),
    Tunnel(TunnelSpec),
    Link(LinkSpec),
    Nat(String),
    Publish(PublishSpec),
}

/// As it is written.
impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Statement::Add(names) => {
                f.write_str("add")?;
                names.iter().try_for_each(|name| write!(f, " {}", quoted(name)))
            }
            Statement::Switch(spec) => spec.fmt(f),
            Statement::Tunnel(spec) => spec.fmt(f),
            Statement::Link(spec) => spec.fmt(f),
            Statement::Nat(switch) => write!(f, "nat on {switch}"),
            Statement::Publish(spec) => spec.fmt(f),
        }
    }
}

/// What has been read: a statement, or what an option such as --help asks for instead.
pub type Read<T> = ControlFlow<T, Statement>;

/// What becomes of an option that no statement has: None goes on.
pub trait Extra<T>: FnMut(lexopt::Arg<'_>) -> Result<Option<T>> {}

impl<T, F: FnMut(lexopt::Arg<'_>) -> Result<Option<T>>> Extra<T> for F {}

/// The statement whose verb is next, as a line of a file has it.
pub fn statement<T>(parser: &mut lexopt::Parser, extra: impl Extra<T>) -> Result<Read<T>> {
    let verb = verb(parser)?;
    match verb.as_str() {
        "add" => add(parser, extra),
        "link" => link(parser, extra),
        "publish" => publish(parser, extra),
        "nat" => match self::verb(parser)?.as_str() {
            "on" => nat_on(parser, extra),
            other => Err(usage(format!("a file cannot have 'nat {other}', only 'nat on'"))),
        },
        "switch" => match self::verb(parser)?.as_str() {
            "add" => switch_add(parser, extra),
            other => Err(usage(format!("a file cannot have 'switch {other}', only 'switch add'"))),
        },
        "tunnel" => match self::verb(parser)?.as_str() {
            "add" => tunnel_add(parser, extra),
            other => Err(usage(format!("a file cannot have 'tunnel {other}', only 'tunnel add'"))),
        },
        _ => Err(usage(format!("'{verb}' is none of add, switch add, tunnel add, link, nat on and publish"))),
    }
}

fn verb(parser: &mut lexopt::Parser) -> Result<String> {
    match parser.next()? {
        Some(Value(word)) => text(word),
        Some(other) => Err(other.unexpected().into()),
        None => Err(usage("the statement ends too early")),
    }
}

/// What a rule on words refuses is a usage error.
pub fn word<T>(result: Result<T>) -> Result<T> {
    result.map_err(|error| usage(error.to_string()))
}

pub fn name(value: OsString) -> Result<String> {
    let name = text(value)?;
    word(check_name(&name))?;
    Ok(name)
}

pub fn switch_name(value: OsString) -> Result<String> {
    let name = text(value)?;
    word(check_ifname(&name))?;
    Ok(name)
}

pub fn some(names: Vec<String>) -> Result<Vec<String>> {
    if names.is_empty() { Err(usage("no name given")) } else { Ok(names) }
}

/// One switch a statement: a second name is unexpected.
pub fn only(slot: &mut Option<String>, value: OsString) -> Result<()> {
    let name = switch_name(value)?;
    match slot.replace(name) {
        None => Ok(()),
        Some(_) => Err(usage("more than one switch given")),
    }
}

/// The words behind the statement's verb.
pub fn add<T>(parser: &mut lexopt::Parser, mut extra: impl Extra<T>) -> Result<Read<T>> {
    let mut names = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Value(value) => names.push(name(value)?),
            argument => {
                if let Some(instead) = extra(argument)? {
                    return Ok(Read::Break(instead));
                }
            }
        }
    }
    Ok(Read::Continue(Statement::Add(some(names)?)))
}

pub fn link<T>(parser: &mut lexopt::Parser, mut extra: impl Extra<T>) -> Result<Read<T>> {
    let mut words = Vec::new();
    let mut check = Some(Duration::from_millis(200));
    let mut next_free = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("check") => check = Some(milliseconds(&text(parser.value()?)?)?),
            Long("no-check") => check = None,
            Long("next-free") => next_free = true,
            Value(value) => words.push(text(value)?),
            argument => {
                if let Some(instead) = extra(argument)? {
                    return Ok(Read::Break(instead));
                }
            }
        }
    }
    let mut words = words.into_iter();
    let (Some(end), Some(onto)) = (words.next(), words.next()) else {
        return Err(usage("a link needs TARGET:IFNAME and SWITCH"));
    };
    let mut spec = LinkSpec::new(word(End::parse(&end))?, onto_of(&onto)?);
    (spec.check, spec.next_free) = (check, next_free);
    word(properties(&mut spec, words))?;
    Ok(Read::Continue(Statement::Link(spec)))
}

/// SWITCH, or a card of the host that is to be shared: macvlan:NIC, macvtap:NIC.
fn onto_of(word_: &str) -> Result<Onto> {
    for kind in ["macvlan", "macvtap"] {
        if let Some(nic) = word_.strip_prefix(kind).and_then(|rest| rest.strip_prefix(':')) {
            word(check_ifname(nic))?;
            return Ok(Onto::Nic(kind, nic.to_owned()));
        }
    }
    switch_name(word_.into()).map(Onto::Switch)
}

/// Zero would ask and not listen.
fn milliseconds(number: &str) -> Result<Duration> {
    let parsed = number.parse().ok().filter(|ms| (1..=LONGEST_CHECK).contains(ms));
    let ms = parsed.ok_or_else(|| usage(format!("not 1 to {LONGEST_CHECK} milliseconds: '{number}'")))?;
    Ok(Duration::from_millis(ms))
}

/// Addresses as they are, the rest as iproute2 has it: a word and its value.
fn properties(spec: &mut LinkSpec, mut words: impl Iterator<Item = String>) -> Result<()> {
    let mut gateways = Vec::new();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| anyhow!("'{word}' needs a value"));
        match word.as_str() {
            "via" => gateways.push(value()?),
            "mtu" => once(&mut spec.mtu, &word, parse_mtu(&value()?)?)?,
            "mac" => once(&mut spec.mac, &word, parse_mac(&value()?)?)?,
            "tag" => once(&mut spec.vlans.tag, &word, parse_vlan(&value()?)?)?,
            "trunk" => trunks(&mut spec.vlans.trunks, &value()?)?,
            "rate" => once(&mut spec.rate, &word, Rate::parse(&value()?)?)?,
            "promisc" => spec.promisc = true,
            address => {
                let cidr = Cidr::parse(address)?;
                if spec.addresses.iter().any(|other| other.address == cidr.address) {
                    bail!("address '{}' is given twice", cidr.address);
                }
                spec.addresses.push(cidr);
            }
        }
    }
    for gateway in gateways {
        // Of a network that the switch will tell nothing can be said yet; the kernel looks at it then.
        let gateway = match spec.next_free {
            true => parse_router(&gateway)?,
            false => parse_gateway(&gateway, &spec.addresses)?,
        };
        if spec.gateways.iter().any(|other| other.is_ipv4() == gateway.is_ipv4()) {
            bail!("gateway '{gateway}' is the second of its family");
        }
        spec.gateways.push(gateway);
    }
    fits(spec)
}

/// What cannot be together.
fn fits(spec: &LinkSpec) -> Result<()> {
    if let Some(tag) = spec.vlans.tag.filter(|tag| spec.vlans.trunks.contains(tag)) {
        bail!("VLAN '{tag}' is both tag and trunk");
    }
    if spec.next_free && !spec.addresses.is_empty() {
        bail!("--next-free finds the address: '{}' is one too many", spec.addresses[0]);
    }
    match (&spec.onto, spec.mtu) {
        (Onto::Nic(..), _) if spec.vlans.any() || spec.next_free => {
            bail!("'{}' is no switch: it has no VLANs and no free addresses", spec.onto)
        }
        // RFC 8200 5; below it the kernel switches IPv6 off.
        (_, Some(mtu)) if mtu < 1280 && spec.addresses.iter().any(|cidr| cidr.address.is_ipv6()) => {
            bail!("mtu '{mtu}' is too small for IPv6, which needs 1280")
        }
        _ => Ok(()),
    }
}

fn once<T>(slot: &mut Option<T>, word: &str, value: T) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => bail!("'{word}' is given twice"),
    }
}

/// IEEE 802.1Q: 0 is no VLAN and 4095 is reserved.
fn parse_vlan(number: &str) -> Result<u16> {
    let id = number.parse().ok().filter(|id| (1..=4094).contains(id));
    id.ok_or_else(|| anyhow!("VLAN is not 1 to 4094: '{number}'"))
}

fn trunks(list: &mut Vec<u16>, words: &str) -> Result<()> {
    for id in words.split(',') {
        let id = parse_vlan(id)?;
        match list.binary_search(&id) {
            Ok(_) => bail!("VLAN '{id}' is given twice"),
            Err(at) => list.insert(at, id),
        }
    }
    Ok(())
}

/// linux/if_ether.h: ETH_MIN_MTU, ETH_MAX_MTU.
fn parse_mtu(number: &str) -> Result<u32> {
    let mtu = number.parse().ok().filter(|mtu| (68..=65535).contains(mtu));
    mtu.ok_or_else(|| anyhow!("mtu is not 68 to 65535: '{number}'"))
}

pub fn switch_add<T>(parser: &mut lexopt::Parser, mut extra: impl Extra<T>) -> Result<Read<T>> {
    let (mut name, mut spec) = (None, SwitchSpec::default());
    while let Some(argument) = parser.next()? {
        match argument {
            Long("address") => {
                let cidr = word(Cidr::parse(&text(parser.value()?)?))?;
                if spec.addresses.iter().any(|other| other.address.is_ipv4() == cidr.address.is_ipv4()) {
                    return Err(usage(format!("address '{cidr}' is the second of its family")));
                }
                spec.addresses.push(cidr);
            }
            Long("nat") => spec.nat = true,
            Long("ovs") => spec.ovs = true,
            Long("datapath") => spec.datapath = Some(datapath(&text(parser.value()?)?)?),
            Long("mtu") => spec.mtu = Some(word(parse_mtu(&text(parser.value()?)?))?),
            Long("uplink") => spec.uplink = Some(switch_name(parser.value()?)?),
            Value(value) => only(&mut name, value)?,
            argument => {
                if let Some(instead) = extra(argument)? {
                    return Ok(Read::Break(instead));
                }
            }
        }
    }
    spec.name = name.ok_or_else(|| usage("no switch given"))?;
    if spec.nat {
        word(nft::check_switch(&spec.name))?;
    }
    if spec.datapath.is_some() && !spec.ovs {
        return Err(usage("--datapath is for a switch with --ovs"));
    }
    Ok(Read::Continue(Statement::Switch(spec)))
}

/// As ovs-vsctl(8) calls them.
fn datapath(word: &str) -> Result<&'static str> {
    let known = ["system", "netdev"].into_iter().find(|known| *known == word);
    known.ok_or_else(|| usage(format!("a datapath is system or netdev, not '{word}'")))
}

pub fn tunnel_add<T>(parser: &mut lexopt::Parser, mut extra: impl Extra<T>) -> Result<Read<T>> {
    let mut words = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Value(value) => words.push(text(value)?),
            argument => {
                if let Some(instead) = extra(argument)? {
                    return Ok(Read::Break(instead));
                }
            }
        }
    }
    let mut words = words.into_iter();
    let (Some(switch), Some(name)) = (words.next(), words.next()) else {
        return Err(usage("a tunnel needs SWITCH and NAME"));
    };
    let (switch, name) = (switch_name(switch.into())?, switch_name(name.into())?);
    Ok(Read::Continue(Statement::Tunnel(word(TunnelSpec::parse(switch, name, words))?)))
}

pub fn nat_on<T>(parser: &mut lexopt::Parser, mut extra: impl Extra<T>) -> Result<Read<T>> {
    let mut name = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Value(value) => only(&mut name, value)?,
            argument => {
                if let Some(instead) = extra(argument)? {
                    return Ok(Read::Break(instead));
                }
            }
        }
    }
    let name = name.ok_or_else(|| usage("no switch given"))?;
    word(nft::check_switch(&name))?;
    Ok(Read::Continue(Statement::Nat(name)))
}

pub fn publish<T>(parser: &mut lexopt::Parser, mut extra: impl Extra<T>) -> Result<Read<T>> {
    let mut words = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Value(value) => words.push(text(value)?),
            argument => {
                if let Some(instead) = extra(argument)? {
                    return Ok(Read::Break(instead));
                }
            }
        }
    }
    let (port, to, udp) = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [port, to] => (port, to, false),
        [port, to, protocol] => (port, to, udp(protocol)?),
        _ => return Err(usage("publish needs [ADDRESS:]PORT and TARGET:PORT")),
    };
    Ok(Read::Continue(Statement::Publish(word(PublishSpec::parse(port, to, udp))?)))
}

pub fn udp(word: &str) -> Result<bool> {
    match word {
        "udp" => Ok(true),
        "tcp" => Ok(false),
        _ => Err(usage(format!("'{word}' is neither tcp nor udp"))),
    }
}
