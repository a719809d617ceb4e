//! switch: a Linux bridge that ships are linked to, the host's address on it, and the way out.

mod remove;

use std::fmt;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use serde_json::{Value, json};
use unshare::fail::{print, say, told};

use crate::address::{Cidr, Mac, format_mac};
use crate::machine::{Machine, Undo};
use crate::netlink::errno;
use crate::nft::Nft;
use crate::plug::{self, Plug, Port};
use crate::rtnl::{self, Link};
use crate::{mark, ovs, sys, uplink};
pub use remove::{Removal, delete, nat_off};

/// One that a killed command has left, or somebody has made and not switched on.
fn is_unfinished(link: &Link) -> bool {
    !link.up && link.alias.is_empty()
}

/// What a switch is asked to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwitchSpec {
    pub name: String,
    pub addresses: Vec<Cidr>,
    pub nat: bool,
    pub mtu: Option<u32>,
    /// An interface of the host that leads to the world.
    pub uplink: Option<String>,
    /// A bridge of Open vSwitch and not one of Linux.
    pub ovs: bool,
    /// Who switches for it: the kernel ("system") or ovs-vswitchd ("netdev"); None for the one that is there.
    pub datapath: Option<&'static str>,
}

/// As the statement is written.
impl fmt::Display for SwitchSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "switch add {}", self.name)?;
        f.write_str(if self.ovs { " --ovs" } else { "" })?;
        self.datapath.iter().try_for_each(|word| write!(f, " --datapath {word}"))?;
        self.addresses.iter().try_for_each(|cidr| write!(f, " --address {cidr}"))?;
        if let Some(mtu) = self.mtu {
            write!(f, " --mtu {mtu}")?;
        }
        if let Some(nic) = &self.uplink {
            write!(f, " --uplink {nic}")?;
        }
        f.write_str(if self.nat { " --nat" } else { "" })
    }
}

/// How far a switch is from what is asked for.
pub struct State {
    /// None where it is to be made.
    pub link: Option<Link>,
    pub missing: Vec<Cidr>,
    /// Those that it has and will have, but for what an uplink brings.
    pub networks: Vec<Cidr>,
    pub uplink: Option<uplink::Move>,
}

impl State {
    /// What is to be done, for the reader; nothing where all is as asked.
    pub fn words(&self, spec: &SwitchSpec) -> Vec<String> {
        let Some(link) = &self.link else { return vec![spec.to_string()] };
        let mut words = Vec::new();
        if !link.up {
            words.push(format!("switch '{}' on", spec.name));
        }
        words.extend(self.missing.iter().map(|cidr| format!("give '{cidr}' to '{}'", spec.name)));
        if let Some(uplink) = &self.uplink {
            words.push(format!("move '{}' to '{}'", uplink.nic(), spec.name));
        }
        words
    }
}

/// What is there and differs is an error; what is missing is added.
pub fn plan(machine: &mut Machine, spec: &SwitchSpec) -> Result<State> {
    let link = find(machine, spec)?;
    let present = match &link {
        Some(link) => rtnl::addresses(&mut machine.outside, link.index)?,
        None => Vec::new(),
    };
    match (&link, spec.mtu) {
        (Some(link), Some(mtu)) if link.mtu != mtu && !is_unfinished(link) => {
            bail!("it exists with mtu '{}', not '{mtu}'", link.mtu)
        }
        _ => {}
    }
    let uplink = match &spec.uplink {
        Some(nic) => uplink::plan(machine, nic, link.as_ref())?,
        None => None,
    };
    // What came with the uplink is the uplink's; few switches have one, so ask only where it matters.
    let all_asked = present.iter().all(|cidr| spec.addresses.contains(cidr));
    let brought = if all_asked { Vec::new() } else { uplink::brought(machine, link.as_ref())? };
    let own: Vec<Cidr> = present.iter().copied().filter(|cidr| !brought.contains(cidr)).collect();
    let missing = missing(&spec.addresses, &own)?;
    let mut networks = own;
    networks.extend(&missing);
    Ok(State { link, missing, networks, uplink })
}

/// The switch, where it is there and of the kind that is asked for; without --ovs any kind will do.
fn find(machine: &mut Machine, spec: &SwitchSpec) -> Result<Option<Link>> {
    let link = rtnl::find_link(&mut machine.outside, &spec.name)?;
    if spec.ovs && machine.ovs()?.is_none() {
        return Err(ovs::missing());
    }
    match link {
        Some(link) if link.kind == "bridge" && spec.ovs => {
            bail!("'{}' is there and is not a bridge of Open vSwitch", link.name)
        }
        Some(link) if link.kind == "bridge" => Ok(Some(link)),
        None if !spec.ovs => Ok(None),
        link => find_on_ovs(machine, spec, link),
    }
}

fn find_on_ovs(machine: &mut Machine, spec: &SwitchSpec, link: Option<Link>) -> Result<Option<Link>> {
    let name = &spec.name;
    let Some(bridge) = plug::ovs_bridge(machine, name)? else {
        return match link {
            Some(link) if !plug::is_closing(machine, &link)? => {
                Err(anyhow!("'{}' is there and is not a bridge", link.name))
            }
            _ => Ok(None),
        };
    };
    let is = bridge.datapath();
    match spec.datapath {
        Some(asked) if asked != is => bail!("it exists with datapath '{is}', not '{asked}'"),
        _ if link.is_some() => return Ok(link),
        _ => {}
    }
    // In the database and not there: somebody has asked for it a moment ago, or ovs-vswitchd cannot.
    if let Some((ovs, cancel)) = machine.ovs()? {
        ovs.settle(cancel)?;
    }
    let link = rtnl::find_link(&mut machine.outside, name)?;
    link.with_context(|| format!("Open vSwitch has a bridge '{name}' that it cannot open")).map(Some)
}

/// The addresses to be added. A bridge with another one of the same family is somebody's; we keep off.
fn missing(asked: &[Cidr], present: &[Cidr]) -> Result<Vec<Cidr>> {
    let mut missing = Vec::new();
    for cidr in asked.iter().filter(|cidr| !present.contains(cidr)) {
        if let Some(is) = present.iter().find(|is| is.address.is_ipv4() == cidr.address.is_ipv4()) {
            return Err(anyhow!("it exists with address '{is}', not '{cidr}'"));
        }
        missing.push(*cidr);
    }
    Ok(missing)
}

/// Makes or completes a switch; true when it is new.
pub fn make(machine: &mut Machine, spec: &SwitchSpec, state: &State) -> Result<bool> {
    let mut new = false;
    let link = match &state.link {
        Some(link) => link.clone(),
        None => {
            new = if spec.ovs { make_ovs_bridge(machine, spec)? } else { make_bridge(machine, spec)? };
            rtnl::find_link(&mut machine.outside, &spec.name)?.context("it has vanished")?
        }
    };
    if new || !link.up {
        let mut on = Vec::new();
        if new || is_unfinished(&link) {
            on.push(rtnl::set_alias(&spec.name, mark::SWITCH));
            // Not at birth, so that it stays when ports come (net/bridge, br_change_mtu).
            let mtu = spec.mtu.filter(|_| link.kind == "bridge");
            on.extend(mtu.map(|mtu| rtnl::set_mtu(&spec.name, mtu)));
        }
        on.push(rtnl::set_up(&spec.name));
        machine.outside.tell(on)?;
    }
    machine.signals.check()?;
    for cidr in &state.missing {
        match machine.outside.tell(vec![rtnl::new_address(link.index, cidr)]) {
            Err(error) if errno(&error) == Some(Errno::EEXIST) => {} // by another add at the same time
            done => {
                done?;
                machine.did(Undo::Outside(vec![rtnl::delete_address(link.index, cidr)]));
            }
        }
    }
    machine.signals.check()?;
    if let Some(uplink) = &state.uplink {
        uplink::act(machine, uplink, &link)?;
    }
    Ok(new)
}

/// Locally administered, of one interface.
fn new_mac() -> Result<Mac> {
    let mut mac = sys::random::<6>().context("cannot make a MAC address")?;
    mac[0] = (mac[0] & 0xfc) | 0x02;
    Ok(mac)
}

fn make_ovs_bridge(machine: &mut Machine, spec: &SwitchSpec) -> Result<bool> {
    let mac = new_mac()?;
    let netdev = match spec.datapath {
        Some(word) => word == "netdev",
        None => !ovs::kernel_switches(),
    };
    let (ovs, cancel) = machine.ovs()?.context("Open vSwitch has gone")?;
    let new = ovs.add_bridge(&spec.name, netdev, mac, spec.mtu, cancel)?;
    if new {
        machine.did(Undo::Bridge(spec.name.clone()));
    }
    Ok(new)
}

fn make_bridge(machine: &mut Machine, spec: &SwitchSpec) -> Result<bool> {
    let mac = new_mac()?;
    match machine.outside.tell(vec![rtnl::new_bridge(&spec.name, mac)]) {
        Err(error) if errno(&error) == Some(Errno::EEXIST) => Ok(false), // by another add at the same time
        done => {
            done?;
            machine.did(Undo::Device(spec.name.clone()));
            Ok(true)
        }
    }
}

/// One switch a line: NAME up|down MAC [ADDRESS ...] [nat] [ovs] [PORT ...].
pub fn show(name: Option<&str>, as_json: bool) -> Result<()> {
    let mut machine = Machine::open()?;
    let links = rtnl::all_links(&mut machine.outside)?;
    let mut switches: Vec<(&Link, Plug)> = links
        .iter()
        .filter(|link| link.kind == "bridge")
        .map(|link| (link, Plug::Bridge(link.clone())))
        .collect();
    for bridge in ovs_bridges(&mut machine) {
        // One that Open vSwitch has only in its database does not switch.
        let link = links.iter().find(|link| link.name == bridge.name);
        switches.extend(link.map(|link| (link, Plug::Ovs(bridge))));
    }
    switches.retain(|(link, _)| name.is_none_or(|name| name == link.name));
    if let (Some(name), []) = (name, &switches[..]) {
        return Err(anyhow!("no switch '{name}'"));
    }
    // Without nft there is no NAT of ours; who may not ask it, sees the rest.
    let ruleset = if switches.is_empty() { None } else { Nft::find().and_then(|nft| nft.ruleset().ok()) };
    let mut text = String::new();
    let mut records = Vec::new();
    for (link, plug) in switches {
        let addresses: Vec<String> =
            rtnl::addresses(&mut machine.outside, link.index)?.iter().map(Cidr::to_string).collect();
        let nat = ruleset.as_ref().is_some_and(|ruleset| ruleset.masquerade(&link.name));
        let ports = plug.ports(&links);
        let state = if link.up { "up" } else { "down" };
        let mac = format_mac(&link.mac);
        let mut words = vec![link.name.clone(), state.into(), mac.clone()];
        words.extend(addresses.iter().cloned());
        words.extend(nat.then(|| "nat".into()));
        words.extend(plug.datapath().map(|_| "ovs".into()));
        words.extend(ports.iter().map(Port::label));
        text += &(words.join(" ") + "\n");
        let ports: Vec<Value> = ports.iter().map(Port::json).collect();
        records.push(json!({
            "name": link.name, "kind": plug.kind(), "datapath": plug.datapath(), "state": state, "mac": mac,
            "addresses": addresses, "nat": nat, "ports": ports,
        }));
    }
    print(&if as_json { format!("{}\n", Value::from(records)) } else { text })
}

/// Those of Open vSwitch; one that does not answer is no reason to show nothing.
fn ovs_bridges(machine: &mut Machine) -> Vec<ovs::Bridge> {
    let found = match machine.ovs() {
        Ok(Some((ovs, cancel))) => ovs.bridges(cancel).map(<[_]>::to_vec),
        Ok(None) => return Vec::new(),
        Err(error) => Err(error),
    };
    found.unwrap_or_else(|error| {
        say("netns", &format!("note: {}", told(&error)));
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_each_family_can_be_added_but_not_a_second() {
        let cidr = |word: &str| Cidr::parse(word).unwrap();
        let (four, six) = (cidr("10.0.0.1/24"), cidr("fd00::1/64"));
        assert_eq!(missing(&[four, six], &[]).unwrap(), [four, six]);
        assert_eq!(missing(&[four, six], &[four]).unwrap(), [six]);
        let error = missing(&[cidr("10.0.0.2/24")], &[four]).unwrap_err();
        assert_eq!(error.to_string(), "it exists with address '10.0.0.1/24', not '10.0.0.2/24'");
    }
}
