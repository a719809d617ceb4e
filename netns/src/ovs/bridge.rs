//! bridge: bridges and ports as the rows of Open vSwitch's database that they are (ovs-vswitchd.conf.db(5)).

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::Tunnel;
use super::operations::{count_up, counters, insert, mutate, wait};
use crate::ovsdb::{lookup, map, printable, rows, set, uuid};

/// Under which a port says whose it is: the target and its interface.
pub const SHIP: &str = "netns";
const IFNAME: &str = "netns-ifname";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    pub name: String,
    /// Switched by ovs-vswitchd itself and not by the kernel: packets pass without offloads.
    pub netdev: bool,
    /// Asked for; else its own interface has the smallest of its ports.
    pub mtu: Option<u32>,
    pub ports: Vec<Port>,
}

impl Bridge {
    pub fn datapath(&self) -> &'static str {
        if self.netdev { "netdev" } else { "system" }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    /// The ship and the interface whose outer end it is.
    pub ship: Option<(String, String)>,
    pub tag: Option<u16>,
    pub trunks: Vec<u16>,
    pub tunnel: Option<Tunnel>,
    /// What ovs-vswitchd says is wrong with it.
    pub error: Option<String>,
}

/// A port to be made.
#[derive(Clone, Debug, Default)]
pub struct NewPort<'a> {
    pub bridge: &'a str,
    pub name: &'a str,
    pub ship: Option<(&'a str, &'a str)>,
    pub tag: Option<u16>,
    pub trunks: &'a [u16],
    pub tunnel: Option<&'a Tunnel>,
}

/// The bridges with their ports, by name: from what was selected of Bridge, Port and Interface.
pub fn read(selected: &[Value]) -> Vec<Bridge> {
    let [of_bridges, of_ports, of_interfaces] = selected else { return Vec::new() };
    let mut bridges: Vec<Bridge> = Vec::new();
    for bridge in
        rows(of_bridges).iter().filter_map(|row| read_bridge(row, rows(of_ports), rows(of_interfaces)))
    {
        bridges.insert(bridges.partition_point(|other| other.name < bridge.name), bridge);
    }
    bridges
}

fn read_bridge(row: &Value, all_ports: &[Value], interfaces: &[Value]) -> Option<Bridge> {
    let name = row["name"].as_str()?.to_owned();
    let mut own = BTreeSet::new();
    own.extend(set(&row["ports"]).into_iter().filter_map(uuid));
    let own = all_ports.iter().filter(|port| uuid(&port["_uuid"]).is_some_and(|id| own.contains(id)));
    let mut ports: Vec<Port> = Vec::new();
    for port in own.filter_map(|port| read_port(port, interfaces)) {
        // The bridge's own port is no port to speak of.
        if port.name != name {
            ports.insert(ports.partition_point(|other| other.name < port.name), port);
        }
    }
    let own = interfaces.iter().find(|interface| interface["name"] == name);
    let mtu =
        own.and_then(|own| set(&own["mtu_request"]).first()?.as_u64()).and_then(|mtu| mtu.try_into().ok());
    Some(Bridge { name, netdev: row["datapath_type"] == "netdev", mtu, ports })
}

fn read_port(row: &Value, interfaces: &[Value]) -> Option<Port> {
    let ids = set(&row["interfaces"]);
    // One, unless it is a bond of somebody's.
    let interface = interfaces.iter().find(|interface| ids.first() == Some(&&interface["_uuid"]))?;
    let ids = &row["external_ids"];
    let ship = lookup(ids, SHIP).zip(lookup(ids, IFNAME)).map(|(ship, name)| (ship.into(), name.into()));
    let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
    let options = &interface["options"];
    let tunnel = lookup(options, "remote_ip").map(|remote| Tunnel {
        kind: interface["type"].as_str().unwrap_or_default().to_owned(),
        remote: remote.to_owned(),
        key: lookup(options, "key").map(str::to_owned),
    });
    Some(Port {
        name: row["name"].as_str()?.to_owned(),
        ship,
        tag: set(&row["tag"]).first().and_then(|tag| number(tag)),
        trunks: set(&row["trunks"]).into_iter().filter_map(number).collect(),
        tunnel,
        error: set(&interface["error"]).first().map(|text| printable(text)),
    })
}

/// One wait, two inserts a port and one mutation a bridge.
pub fn additions(ports: &[NewPort<'_>]) -> Vec<Value> {
    let bridges = bridges_of(ports);
    let there = |bridge: &&str| {
        let same = json!([{"name": bridge}]);
        wait("Bridge", json!([["name", "==", bridge]]), "name", "==", same, Duration::ZERO)
    };
    let mut operations: Vec<Value> = bridges.iter().map(there).collect();
    for (at, port) in ports.iter().enumerate() {
        let mut interface = json!({"name": port.name});
        if let Some(tunnel) = port.tunnel {
            let mut options = vec![("remote_ip", tunnel.remote.clone())];
            options.extend(tunnel.key.clone().map(|key| ("key", key)));
            interface["type"] = json!(tunnel.kind);
            interface["options"] = map(&options);
        }
        operations.push(insert("Interface", &format!("i{at}"), interface));
        operations.push(insert("Port", &format!("p{at}"), port_row(port, at)));
    }
    for bridge in bridges {
        let own = ports.iter().enumerate().filter(|(_, port)| port.bridge == bridge);
        let own: Vec<Value> = own.map(|(at, _)| json!(["named-uuid", format!("p{at}")])).collect();
        let insert = json!(["ports", "insert", ["set", own]]);
        operations.push(mutate("Bridge", json!([["name", "==", bridge]]), insert));
    }
    operations.extend([count_up(), counters()]);
    operations
}

/// Each once.
pub fn bridges_of<'a>(ports: &[NewPort<'a>]) -> Vec<&'a str> {
    let mut bridges = Vec::new();
    for port in ports {
        if !bridges.contains(&port.bridge) {
            bridges.push(port.bridge);
        }
    }
    bridges
}

fn port_row(port: &NewPort<'_>, at: usize) -> Value {
    // The end of a ship's link does not outlive a boot: "transient" lets Open vSwitch's own start-up drop it.
    let mut row = json!({"name": port.name, "interfaces": ["named-uuid", format!("i{at}")]});
    if let Some((ship, ifname)) = port.ship {
        row["external_ids"] = map(&[(SHIP, ship.into()), (IFNAME, ifname.into())]);
        row["other_config"] = map(&[("transient", "true".into())]);
    }
    if let Some(tag) = port.tag {
        row["tag"] = json!(tag);
    }
    if !port.trunks.is_empty() {
        row["trunks"] = json!(["set", port.trunks]);
    }
    row
}
