//! plug: what a link is plugged into: a variant for each kind of switch, an arm for each in the functions
//! here. Whoever makes, looks at or removes links asks here and knows no kind itself.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use unshare::fail::hint;

use crate::link::{LinkSpec, Onto};
use crate::machine::{Machine, Undo};
use crate::netlink::{Message, Socket, errno};
use crate::rtnl::{self, Link, PortState, VlanEntry};

/// How long a port may take until it forwards: the kernel does it in its own time, mostly below 1 ms.
const PORT_READY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub enum Plug {
    /// A Linux bridge: the outer end of a pair is born on it.
    Bridge(Link),
    /// An interface of the host that macvlans share: there is no outer end.
    Nic(Link),
}

/// The VLANs of a port: the one of its untagged frames, and those that it carries tagged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vlans {
    pub tag: Option<u16>,
    pub trunks: Vec<u16>,
}

impl Vlans {
    pub fn any(&self) -> bool {
        self.tag.is_some() || !self.trunks.is_empty()
    }
}

/// As the statement is written, with a blank before.
impl fmt::Display for Vlans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tag) = self.tag {
            write!(f, " tag {tag}")?;
        }
        if !self.trunks.is_empty() {
            let list: Vec<String> = self.trunks.iter().map(u16::to_string).collect();
            write!(f, " trunk {}", list.join(","))?;
        }
        Ok(())
    }
}

/// What has that name; None where there is nothing of it.
pub fn find(outside: &mut Socket, onto: &Onto) -> Result<Option<Plug>> {
    let found = rtnl::find_link(outside, onto.name())?;
    Ok(match onto {
        Onto::Nic(..) => found.map(Plug::Nic),
        Onto::Switch(name) => match found {
            Some(link) if link.kind == "bridge" => Some(Plug::Bridge(link)),
            Some(_) => bail!("'{name}' is not a switch"),
            None => None,
        },
    })
}

/// Fails where nothing can be plugged in.
pub fn usable(found: Option<Plug>, onto: &Onto) -> Result<Plug> {
    let name = onto.name();
    match found {
        None if matches!(onto, Onto::Nic(..)) => Err(anyhow!("no interface '{name}'")),
        None => Err(hint(anyhow!("no switch '{name}'"), format!("netns switch add '{name}' makes it"))),
        Some(Plug::Bridge(link)) if !link.up => {
            Err(hint(anyhow!("the switch '{name}' is down"), format!("netns switch add '{name}' opens it")))
        }
        Some(Plug::Nic(link)) if !link.up => {
            Err(hint(anyhow!("the interface '{name}' is down"), format!("ip link set '{name}' up")))
        }
        Some(plug) => Ok(plug),
    }
}

/// The name of the switch that an outer end is on.
pub fn of_port(outside: &mut Socket, outer: &Link) -> Result<Option<String>> {
    let Some(master) = outer.master else { return Ok(None) };
    Ok(rtnl::find_index(outside, master)?.map(|link| link.name))
}

/// Before outer ends are removed: a bridge forgets its ports by itself.
pub fn pull(_outside: &mut Socket, _outer: &[String]) -> Result<()> {
    Ok(())
}

impl Plug {
    /// The master that the outer end of a pair is born with.
    pub fn master(&self) -> Option<u32> {
        match self {
            Plug::Bridge(link) => Some(link.index),
            Plug::Nic(_) => None,
        }
    }

    /// What links get that are not asked for another; None for the usual 1500.
    pub fn mtu(&self) -> Option<u32> {
        match self {
            Plug::Bridge(link) => Some(link.mtu).filter(|mtu| *mtu != 1500),
            Plug::Nic(_) => None,
        }
    }

    pub fn nic(&self) -> Option<u32> {
        match self {
            Plug::Nic(link) => Some(link.index),
            Plug::Bridge(_) => None,
        }
    }

    /// The VLANs that a port is in.
    pub fn vlans_of(&self, outside: &mut Socket, outer: &Link) -> Result<Vlans> {
        match self {
            Plug::Bridge(bridge) if bridge.vlan_filtering => bridge_vlans(outside, outer.index),
            _ => Ok(Vlans::default()),
        }
    }
}

fn bridge_vlans(outside: &mut Socket, port: u32) -> Result<Vlans> {
    let mut vlans = Vlans::default();
    for entry in rtnl::vlans(outside, port)? {
        match entry {
            // What every port of a bridge is in that nobody has said anything about.
            VlanEntry { id: 1, untagged: true } => {}
            VlanEntry { id, untagged: true } => vlans.tag = Some(id),
            VlanEntry { id, untagged: false } => vlans.trunks.push(id),
        }
    }
    Ok(vlans)
}

/// After the pairs were made, all at once: what makes their outer ends ports as asked for.
pub fn attach(machine: &mut Machine, ports: &[(&Plug, &LinkSpec)]) -> Result<()> {
    let mut filtering: Vec<u32> = Vec::new();
    for (plug, spec) in ports.iter().filter(|(_, spec)| spec.vlans.any()) {
        let Plug::Bridge(bridge) = plug else { continue };
        if !bridge.vlan_filtering && !filtering.contains(&bridge.index) {
            filtering.push(bridge.index);
            filter_vlans(machine, bridge)?;
        }
        let outer = spec.end.outer();
        let port = rtnl::find_link(&mut machine.outside, &outer)?;
        let port = port.with_context(|| format!("'{outer}' has vanished"))?.index;
        let mut messages = vec![rtnl::remove_vlan(port, 1)];
        messages.extend(spec.vlans.tag.map(|id| rtnl::add_vlan(port, VlanEntry { id, untagged: true })));
        messages.extend(
            spec.vlans.trunks.iter().map(|id| rtnl::add_vlan(port, VlanEntry { id: *id, untagged: false })),
        );
        machine.outside.tell(messages)?;
    }
    Ok(())
}

/// Ports that nobody has said anything about stay together: they are in VLAN 1.
fn filter_vlans(machine: &mut Machine, bridge: &Link) -> Result<()> {
    match machine.outside.tell(vec![rtnl::set_vlan_filtering(&bridge.name, true)]) {
        Err(error) if errno(&error) == Some(Errno::EOPNOTSUPP) => {
            bail!("the bridges of this kernel know no VLANs (CONFIG_BRIDGE_VLAN_FILTERING)")
        }
        done => done?,
    }
    machine.did(Undo::Outside(vec![rtnl::set_vlan_filtering(&bridge.name, false)]));
    Ok(())
}

/// Until the switches pass frames from and to the new ports. The kernel tells a bridge of the carrier a
/// moment later (net/core/link_watch.c), and what is sent before is lost: the first ping, or the probe.
pub fn wait_until_open(machine: &mut Machine, ports: &[(&Plug, &LinkSpec)]) -> Result<()> {
    let deadline = Instant::now() + PORT_READY;
    for (plug, spec) in ports {
        let Plug::Bridge(bridge) = plug else { continue };
        loop {
            let outer = spec.end.outer();
            let port = rtnl::find_link(&mut machine.outside, &outer)?;
            let port = port.with_context(|| format!("'{outer}' has vanished"))?;
            // A kernel that does not tell the state (before 3.13) leaves no choice but to go on.
            match port.port.unwrap_or(PortState::Forwarding) {
                PortState::Forwarding => break,
                PortState::Undecided => {
                    eprintln!(
                        "netns: note: the spanning tree of '{}' has not opened the port yet",
                        bridge.name
                    );
                    break;
                }
                PortState::Disabled if Instant::now() > deadline => {
                    bail!("the switch '{}' does not open its port '{outer}'", bridge.name);
                }
                PortState::Disabled => {}
            }
            machine.signals.wait(&[], Instant::now() + Duration::from_millis(1))?;
        }
    }
    Ok(())
}

/// What every port is given at the end: from then on the link is whole.
pub fn mark(spec: &LinkSpec) -> Message {
    rtnl::set_alias(&spec.end.outer(), &spec.end.alias())
}
