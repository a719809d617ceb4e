//! tunnel: a port of a switch whose far side is a switch on another host, so that the two form one.

use std::fmt;
use std::net::IpAddr;

use anyhow::{Context, Error, Result, anyhow, bail};
use serde_json::{Value, json};
use unshare::fail::{hint, say};

use crate::link::Onto;
use crate::machine::{Machine, Undo};
use crate::manner::Manner;
use crate::ovs::tunnel::{KINDS, Kind, mtu_through};
use crate::ovs::{self, NewPort, Tunnel};
use crate::plug::{self, Plug};
use crate::rtnl;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelSpec {
    pub switch: String,
    pub name: String,
    pub kind: &'static Kind,
    pub remote: IpAddr,
    pub key: Option<u32>,
}

impl TunnelSpec {
    /// From the words behind SWITCH and NAME: KIND remote ADDRESS [key NUMBER].
    pub fn parse(
        switch: String,
        name: String,
        mut words: impl Iterator<Item = String>,
    ) -> Result<TunnelSpec> {
        let kind = words.next().unwrap_or_default();
        let kind = KINDS.iter().find(|known| known.word == kind);
        let kind = kind.ok_or_else(|| anyhow!("a tunnel is one of vxlan, geneve, gre"))?;
        let (mut remote, mut key) = (None, None);
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| anyhow!("'{word}' needs a value"))?;
            match word.as_str() {
                "remote" => remote = Some(parse_remote(&value)?),
                "key" => key = Some(kind.parse_key(&value)?),
                _ => bail!("unknown word '{word}'"),
            }
        }
        let remote = remote.ok_or_else(|| anyhow!("a tunnel needs 'remote' and an address"))?;
        Ok(TunnelSpec { switch, name, kind, remote, key })
    }

    /// One that is there; None when no statement could have made it.
    pub fn of_port(switch: &str, name: &str, tunnel: &Tunnel) -> Option<TunnelSpec> {
        let words = tunnel.to_string();
        let words = words.split(' ').map(str::to_owned);
        TunnelSpec::parse(switch.into(), name.into(), words).ok()
    }

    pub fn json(&self) -> Value {
        let Tunnel { kind, remote, key } = self.as_written();
        json!({"name": self.name, "switch": self.switch, "kind": kind, "remote": remote, "key": key})
    }

    fn as_written(&self) -> Tunnel {
        Tunnel {
            kind: self.kind.word.into(),
            remote: self.remote.to_string(),
            key: self.key.map(|key| key.to_string()),
        }
    }
}

/// As the statement is written.
impl fmt::Display for TunnelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tunnel add {} {} {}", self.switch, self.name, self.as_written())
    }
}

fn parse_remote(word: &str) -> Result<IpAddr> {
    let address: Option<IpAddr> = word.parse().ok();
    let usable = address.filter(|ip| !ip.is_multicast() && !ip.is_unspecified());
    usable.ok_or_else(|| anyhow!("not the address of a host: '{word}'"))
}

/// Whether it is to be made; one that is there and differs is an error.
pub fn plan(machine: &mut Machine, spec: &TunnelSpec) -> Result<bool> {
    let onto = Onto::Switch(spec.switch.clone());
    match plug::find(machine, &onto)? {
        Some(Plug::Ovs(bridge)) => is_missing(spec, &bridge),
        Some(_) => Err(needs_ovs(&spec.switch)),
        None => Ok(true), // the switch is to come, or `make` says that there is none
    }
}

fn needs_ovs(switch: &str) -> Error {
    let error = anyhow!("'{switch}' is no switch of Open vSwitch");
    hint(error, format!("netns switch add --ovs '{switch}' makes one where there is none of the name"))
}

fn is_missing(spec: &TunnelSpec, bridge: &ovs::Bridge) -> Result<bool> {
    let Some(port) = bridge.ports.iter().find(|port| port.name == spec.name) else { return Ok(true) };
    let asked = spec.as_written();
    match &port.tunnel {
        Some(is) if *is == asked => Ok(false),
        Some(is) => Err(hint(
            anyhow!("it exists as '{is}', not '{asked}'"),
            format!("netns tunnel del '{}' '{}' first", spec.switch, spec.name),
        )),
        None => bail!("'{}' has a port '{}' that is no tunnel", spec.switch, spec.name),
    }
}

pub fn make(machine: &mut Machine, spec: &TunnelSpec) -> Result<()> {
    let onto = Onto::Switch(spec.switch.clone());
    let found = plug::find(machine, &onto)?;
    let Plug::Ovs(bridge) = plug::usable(found, &onto)? else { return Err(needs_ovs(&spec.switch)) };
    let tunnel = spec.as_written();
    let port =
        NewPort { bridge: &spec.switch, name: &spec.name, tunnel: Some(&tunnel), ..NewPort::default() };
    let (ovs, cancel) = machine.ovs()?.context("Open vSwitch has gone")?;
    ovs.add_ports(&[port], cancel)?;
    machine.did(Undo::Ports(vec![spec.name.clone()]));
    warn_of_large_packets(machine, spec, &bridge, &tunnel)
}

/// Links made before a tunnel have Ethernet's MTU: their large packets get lost in it.
fn warn_of_large_packets(
    machine: &mut Machine,
    spec: &TunnelSpec,
    bridge: &ovs::Bridge,
    tunnel: &Tunnel,
) -> Result<()> {
    let Some(most) = mtu_through(std::iter::once(tunnel)) else { return Ok(()) };
    let links = rtnl::all_links(&mut machine.outside)?;
    let large = |port: &&ovs::Port| links.iter().any(|link| link.name == port.name && link.mtu > most);
    let names: Vec<String> = bridge
        .ports
        .iter()
        .filter(large)
        .filter_map(|port| port.ship.as_ref().map(|(ship, ifname)| format!("{ship}:{ifname}")))
        .collect();
    if !names.is_empty() {
        say(
            "netns",
            &format!(
                "note: '{}' carries packets of {most} bytes; larger ones of {} will be lost",
                spec.name,
                names.join(" ")
            ),
        );
    }
    Ok(())
}

/// `tunnel del SWITCH NAME`.
pub fn delete(switch: &str, name: &str, manner: Manner) -> Result<()> {
    let failed = || format!("cannot delete the tunnel '{name}'");
    let mut machine = Machine::open()?;
    let found = plug::find(&mut machine, &Onto::Switch(switch.to_owned())).with_context(failed)?;
    let Some(plug) = found else { return Err(anyhow!("no switch '{switch}'")).with_context(failed) };
    let there = matches!(&plug, Plug::Ovs(bridge)
        if bridge.ports.iter().any(|port| port.name == name && port.tunnel.is_some()));
    if !there {
        return Err(anyhow!("'{switch}' has no tunnel '{name}'")).with_context(failed);
    }
    if !manner.dry_run {
        let (ovs, cancel) = machine.ovs()?.context("Open vSwitch has gone")?;
        ovs.delete_ports(&[name], cancel).with_context(failed)?;
    }
    manner.tell(&[format!("tunnel del {switch} {name}")], &[])
}
