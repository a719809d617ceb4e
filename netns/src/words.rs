//! words: the statements, which say what shall be there. A command line has one, a file for `apply` has one
//! a line, and both are read here.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::{Result, anyhow};
use lexopt::prelude::*;
use unshare::fail::{Usage, text};

use crate::address::{Cidr, check_ifname, parse_gateway, parse_mac};
use crate::link::{End, LinkSpec};
use crate::nat;
use crate::store::check_name;
use crate::switch::SwitchSpec;

const LONGEST_CHECK: u64 = 60_000;

/// One thing that shall be there.
#[derive(Debug, PartialEq, Eq)]
pub enum Statement {
    Add(Vec<String>),
    Link(LinkSpec),
    Switch(SwitchSpec),
}

pub fn usage(text: impl Into<String>) -> anyhow::Error {
    Usage(text.into()).into()
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

/// The words behind the statement's verb. What is an option of no statement, as --help, is `other`'s.
pub fn add<T: From<Statement>>(
    parser: &mut lexopt::Parser,
    other: impl Fn(lexopt::Arg) -> Result<T>,
) -> Result<T> {
    let mut names = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Value(value) => names.push(name(value)?),
            argument => return other(argument),
        }
    }
    Ok(Statement::Add(some(names)?).into())
}

pub fn link<T: From<Statement>>(
    parser: &mut lexopt::Parser,
    other: impl Fn(lexopt::Arg) -> Result<T>,
) -> Result<T> {
    let mut words = Vec::new();
    let mut check = Some(Duration::from_millis(200));
    while let Some(argument) = parser.next()? {
        match argument {
            Long("check") => check = Some(milliseconds(&text(parser.value()?)?)?),
            Long("no-check") => check = None,
            Value(value) => words.push(text(value)?),
            argument => return other(argument),
        }
    }
    let mut words = words.into_iter();
    let (Some(end), Some(switch)) = (words.next(), words.next()) else {
        return Err(usage("a link needs TARGET:IFNAME and SWITCH"));
    };
    let mut spec = LinkSpec::new(word(End::parse(&end))?, switch_name(switch.into())?, check);
    word(properties(&mut spec, words))?;
    Ok(Statement::Link(spec).into())
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
            "mtu" => spec.mtu = Some(parse_mtu(&value()?)?),
            "mac" => spec.mac = Some(parse_mac(&value()?)?),
            address => {
                let cidr = Cidr::parse(address)?;
                if spec.addresses.iter().any(|other| other.address == cidr.address) {
                    return Err(anyhow!("address '{}' is given twice", cidr.address));
                }
                spec.addresses.push(cidr);
            }
        }
    }
    for gateway in gateways {
        let gateway = parse_gateway(&gateway, &spec.addresses)?;
        if spec.gateways.iter().any(|other| other.is_ipv4() == gateway.is_ipv4()) {
            return Err(anyhow!("gateway '{gateway}' is the second of its family"));
        }
        spec.gateways.push(gateway);
    }
    match spec.mtu {
        // RFC 8200 5; below it the kernel switches IPv6 off.
        Some(mtu) if mtu < 1280 && spec.addresses.iter().any(|cidr| cidr.address.is_ipv6()) => {
            Err(anyhow!("mtu '{mtu}' is too small for IPv6, which needs 1280"))
        }
        _ => Ok(()),
    }
}

/// linux/if_ether.h: ETH_MIN_MTU, ETH_MAX_MTU.
fn parse_mtu(number: &str) -> Result<u32> {
    let mtu = number.parse().ok().filter(|mtu| (68..=65535).contains(mtu));
    mtu.ok_or_else(|| anyhow!("mtu is not 68 to 65535: '{number}'"))
}

pub fn switch_add<T: From<Statement>>(
    parser: &mut lexopt::Parser,
    other: impl Fn(lexopt::Arg) -> Result<T>,
) -> Result<T> {
    let (mut name, mut addresses, mut nat) = (None, Vec::<Cidr>::new(), false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("address") => {
                let cidr = word(Cidr::parse(&text(parser.value()?)?))?;
                if addresses.iter().any(|other| other.address.is_ipv4() == cidr.address.is_ipv4()) {
                    return Err(usage(format!("address '{cidr}' is the second of its family")));
                }
                addresses.push(cidr);
            }
            Long("nat") => nat = true,
            Value(value) => only(&mut name, value)?,
            argument => return other(argument),
        }
    }
    let name = name.ok_or_else(|| usage("no switch given"))?;
    if nat {
        word(nat::check_switch(&name))?;
    }
    Ok(Statement::Switch(SwitchSpec { name, addresses, nat }).into())
}
