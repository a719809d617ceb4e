//! plug: what a link is plugged into: a variant for each kind of switch, an arm for each in the functions
//! here. Whoever makes, looks at or removes links asks here and knows no kind itself.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use serde_json::{Value, json};
use unshare::fail::{hint, say, told};

use crate::link::{LinkSpec, Onto, Vlans};
use crate::machine::{Machine, Undo};
use crate::mark::{belongs_to, is_uplink};
use crate::netlink::{Message, Socket, errno};
use crate::ovs::tunnel::mtu_through;
use crate::ovs::{self, NewPort, Ovs, Tunnel};
use crate::rtnl::{self, Link, PortState, VlanEntry};
use crate::sys;

/// How long a port may take until it forwards: the kernel does it in its own time, mostly below 1 ms.
const PORT_READY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub enum Plug {
    /// A Linux bridge: the outer end of a pair is born on it.
    Bridge(Link),
    /// A bridge of Open vSwitch: the outer end is written into its database.
    Ovs(ovs::Bridge),
    /// An interface of the host that macvlans share: there is no outer end.
    Nic(Link),
}

/// What has that name; None where there is nothing of it.
pub fn find(machine: &mut Machine, onto: &Onto) -> Result<Option<Plug>> {
    let found = rtnl::find_link(&mut machine.outside, onto.name())?;
    Ok(match onto {
        Onto::Nic(..) => found.map(Plug::Nic),
        Onto::Switch(name) => match found {
            Some(link) if link.kind == "bridge" => Some(Plug::Bridge(link)),
            other => match ovs_bridge(machine, name)? {
                Some(bridge) => Some(Plug::Ovs(bridge)),
                None => match other {
                    Some(link) if !is_closing(machine, &link)? => bail!("'{name}' is not a switch"),
                    _ => None,
                },
            },
        },
    })
}

/// A device that Open vSwitch has for a moment longer than the bridge; true when it has gone.
pub fn is_closing(machine: &mut Machine, link: &Link) -> Result<bool> {
    if !matches!(link.kind.as_str(), "tun" | "openvswitch") {
        return Ok(false);
    }
    let settled = match machine.ovs() {
        Ok(Some((ovs, cancel))) => ovs.settle(cancel).is_ok(),
        _ => false,
    };
    machine.signals.check()?;
    Ok(settled && rtnl::find_link(&mut machine.outside, &link.name)?.is_none())
}

pub fn ovs_bridge(machine: &mut Machine, name: &str) -> Result<Option<ovs::Bridge>> {
    match machine.ovs()? {
        Some((ovs, cancel)) => ovs.bridge(name, cancel),
        None => Ok(None),
    }
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
pub fn of_port(machine: &mut Machine, outer: &Link) -> Result<Option<String>> {
    match bridge_of_kernel(&mut machine.outside, outer)? {
        Some(name) => Ok(Some(name)),
        None => match machine.ovs() {
            Ok(Some((ovs, cancel))) => ovs.bridge_of(&outer.name, cancel),
            _ => Ok(None), // a database that does not answer says nothing about ports
        },
    }
}

/// A master that is no bridge is Open vSwitch's in the kernel, of which all its bridges are.
fn bridge_of_kernel(outside: &mut Socket, outer: &Link) -> Result<Option<String>> {
    let Some(master) = outer.master else { return Ok(None) };
    Ok(rtnl::find_index(outside, master)?.filter(|link| link.kind == "bridge").map(|link| link.name))
}

/// Before outer ends are removed: a bridge forgets its ports by itself, Open vSwitch has to be told. When it
/// cannot be, that is no reason to keep the link: a port without a device is replaced by the next link.
pub fn pull(machine: &mut Machine, outer: &[Link]) -> Result<()> {
    let mut names = Vec::new();
    for link in outer {
        if bridge_of_kernel(&mut machine.outside, link)?.is_none() {
            names.push(link.name.as_str());
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    unmark(&mut machine.outside, names.iter().copied());
    let done = match machine.ovs() {
        Ok(Some((ovs, cancel))) => ovs.delete_ports(&names, cancel),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    machine.signals.check()?;
    if let Err(error) = done {
        say(
            "netns",
            &format!("note: cannot close '{}' in Open vSwitch: {}", names.join("' '"), told(&error)),
        );
    }
    Ok(())
}

/// Before ships end, and with them the devices: the ports of their links, as in `pull`. Not to be stopped
/// half-way.
pub fn forget(ships: &[&str]) {
    let close = || {
        let Some(mut ovs) = Ovs::find()? else { return Ok(()) };
        let mut outside = Socket::open()?;
        let links = rtnl::all_links(&mut outside)?;
        let theirs = |link: &&Link| {
            link.master.is_none() && belongs_to(link).is_some_and(|(ship, _)| ships.contains(&ship))
        };
        unmark(&mut outside, links.iter().filter(theirs).map(|link| &*link.name));
        ovs.delete_ports_of(ships, None)
    };
    let done: Result<()> = close();
    if let Err(error) = done {
        say("netns", &format!("note: cannot close the ports of '{}': {}", ships.join("' '"), told(&error)));
    }
}

/// No links any more, from before they are no ports: killed in between, the next link replaces them.
fn unmark<'a>(outside: &mut Socket, outer: impl Iterator<Item = &'a str>) {
    let _ = outside.tell(outer.map(|name| rtnl::set_alias(name, "")).collect()); // one that has gone needs none
}

impl Plug {
    /// The master that the outer end of a pair is born with.
    pub fn master(&self) -> Option<u32> {
        match self {
            Plug::Bridge(link) => Some(link.index),
            Plug::Ovs(_) | Plug::Nic(_) => None,
        }
    }

    pub fn nic(&self) -> Option<u32> {
        match self {
            Plug::Nic(link) => Some(link.index),
            Plug::Bridge(_) | Plug::Ovs(_) => None,
        }
    }

    /// The VLANs that a port is in.
    pub fn vlans_of(&self, outside: &mut Socket, outer: &Link) -> Result<Vlans> {
        match self {
            Plug::Bridge(bridge) if bridge.vlan_filtering => bridge_vlans(outside, outer.index),
            Plug::Ovs(bridge) => {
                let port = bridge.ports.iter().find(|port| port.name == outer.name);
                Ok(port.map(|port| Vlans { tag: port.tag, trunks: port.trunks.clone() }).unwrap_or_default())
            }
            _ => Ok(Vlans::default()),
        }
    }

    /// What a packet may have that goes over this switch, where that is not the usual; through its tunnels,
    /// too.
    pub fn mtu(&self) -> Option<u32> {
        match self {
            Plug::Bridge(link) => Some(link.mtu).filter(|mtu| *mtu != 1500),
            Plug::Ovs(bridge) => {
                let through = mtu_through(bridge.ports.iter().filter_map(|port| port.tunnel.as_ref()));
                bridge.mtu.into_iter().chain(through).min()
            }
            Plug::Nic(_) => None,
        }
    }
}

/// What is plugged into a switch.
pub struct Port {
    pub name: String,
    /// The target and interface of a link of ours.
    pub ship: Option<(String, String)>,
    pub vlans: Option<Vlans>,
    pub tunnel: Option<Tunnel>,
    /// What Open vSwitch says is wrong with it.
    pub error: Option<String>,
    /// None where the device has gone.
    pub link: Option<Link>,
}

impl Port {
    pub fn is_uplink(&self) -> bool {
        self.link.as_ref().is_some_and(is_uplink)
    }

    /// As the user knows it, where it is one of ours.
    pub fn label(&self) -> String {
        match &self.ship {
            Some((ship, ifname)) => format!("{ship}:{ifname}"),
            None => self.name.clone(),
        }
    }

    pub fn json(&self) -> Value {
        let (ship, ifname) = self.ship.as_ref().map(|(ship, ifname)| (ship, ifname)).unzip();
        let vlans = self.vlans.clone().unwrap_or_default();
        let tunnel = self.tunnel.as_ref();
        let tunnel = tunnel.map(|t| json!({"kind": t.kind, "remote": t.remote, "key": t.key}));
        json!({
            "outer": self.name, "ship": ship, "ifname": ifname, "tag": vlans.tag, "trunks": vlans.trunks,
            "tunnel": tunnel, "error": self.error,
        })
    }
}

impl Plug {
    /// All that is plugged in, tunnels and uplinks too; VLANs where they come without asking.
    pub fn ports(&self, links: &[Link]) -> Vec<Port> {
        match self {
            Plug::Bridge(bridge) => links
                .iter()
                .filter(|link| link.master == Some(bridge.index))
                .map(|link| Port {
                    name: link.name.clone(),
                    ship: belongs_to(link).map(|(ship, ifname)| (ship.to_owned(), ifname.to_owned())),
                    vlans: None,
                    tunnel: None,
                    error: None,
                    link: Some(link.clone()),
                })
                .collect(),
            Plug::Ovs(bridge) => bridge
                .ports
                .iter()
                .map(|port| Port {
                    name: port.name.clone(),
                    ship: port.ship.clone(),
                    vlans: Some(Vlans { tag: port.tag, trunks: port.trunks.clone() }),
                    tunnel: port.tunnel.clone(),
                    error: port.error.clone(),
                    link: links.iter().find(|link| link.name == port.name).cloned(),
                })
                .collect(),
            Plug::Nic(_) => Vec::new(),
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Plug::Bridge(_) => "bridge",
            Plug::Ovs(_) => "ovs",
            Plug::Nic(_) => "nic",
        }
    }

    pub fn datapath(&self) -> Option<&'static str> {
        match self {
            Plug::Ovs(bridge) => Some(bridge.datapath()),
            Plug::Bridge(_) | Plug::Nic(_) => None,
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

/// Before pairs are made, all at once: ports whose device has gone behind our back. ovs-vswitchd would take
/// the new device for the old one, which was down, and switch it off.
pub fn close_stale(machine: &mut Machine, ports: &[(&Plug, &LinkSpec)]) -> Result<()> {
    let on_ovs = ports.iter().filter(|(plug, _)| matches!(plug, Plug::Ovs(_)));
    let names: Vec<String> = on_ovs.map(|(_, spec)| spec.end.outer()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (ovs, cancel) = machine.ovs()?.context("Open vSwitch has gone")?;
    ovs.delete_ports(&names, cancel)
}

/// After the pairs were made, all at once: what makes their outer ends ports as asked for.
pub fn attach(machine: &mut Machine, ports: &[(&Plug, &LinkSpec)]) -> Result<()> {
    attach_to_ovs(machine, ports)?;
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

/// One transaction, however many there are.
fn attach_to_ovs(machine: &mut Machine, ports: &[(&Plug, &LinkSpec)]) -> Result<()> {
    let own = |(plug, spec): &(&'_ Plug, &'_ LinkSpec)| match plug {
        Plug::Ovs(_) => Some((spec.end.outer(), spec.end.target.label())),
        Plug::Bridge(_) | Plug::Nic(_) => None,
    };
    let words: Vec<(String, String)> = ports.iter().filter_map(own).collect();
    if words.is_empty() {
        return Ok(());
    }
    let on_ovs = ports.iter().filter_map(|(plug, spec)| match plug {
        Plug::Ovs(bridge) => Some((bridge, *spec)),
        Plug::Bridge(_) | Plug::Nic(_) => None,
    });
    let mut new = Vec::new();
    for ((bridge, spec), (name, ship)) in on_ovs.zip(&words) {
        if bridge.netdev {
            // ovs-vswitchd gets a copy of each frame, the host the frame itself.
            let [ipv4, ipv6] = rtnl::be_deaf(name);
            machine.outside.tell(vec![ipv4])?;
            let _ = machine.outside.tell(vec![ipv6]);
            let space = machine.space_of(&spec.end.target).context("the namespace is open")?;
            sys::checksum_in_software(machine.inside(space).as_fd(), &spec.end.ifname)
                .context("cannot switch checksum offload off")?;
        }
        let ship = Some((ship.as_str(), spec.end.ifname.as_str()));
        let Vlans { tag, trunks } = &spec.vlans;
        new.push(NewPort { bridge: &bridge.name, name, ship, tag: *tag, trunks, tunnel: None });
    }
    let (ovs, cancel) = machine.ovs()?.context("Open vSwitch has gone")?;
    ovs.add_ports(&new, cancel)?;
    machine.did(Undo::Ports(words.into_iter().map(|(name, _)| name).collect()));
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
                    say(
                        "netns",
                        &format!("note: the spanning tree of '{}' has not opened the port yet", bridge.name),
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
