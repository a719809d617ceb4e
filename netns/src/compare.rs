//! compare: how far a link is from what is asked for.

use std::net::IpAddr;

use anyhow::{Context, Error, Result, anyhow, bail};
use unshare::fail::hint;

use crate::address::{Cidr, format_mac, in_order};
use crate::link::{LinkSpec, Onto};
use crate::machine::Machine;
use crate::netlink::{Message, Socket};
use crate::plug::{self, Plug};
use crate::rate;
use crate::rtnl::{self, Link};

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
