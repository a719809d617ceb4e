//! ovs: bridges and ports of Open vSwitch, by what is written into its database.
//!
//! ovs-vswitchd does what the database says, a moment later: each change counts `next_cfg` up and is done
//! when `cur_cfg` has come as far; a port that works has a positive `ofport`, one that cannot has -1 and an
//! `error` (ovs-vswitchd.conf.db(5)). Who writes must wait for that, with a limit, and take back what failed:
//! the database would otherwise do it some day.
//!
//! `mutate … insert` adds to a set without rewriting it, so programs that change a bridge at the same time
//! do not disturb each other.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};
use nix::sys::socket::SockProtocol;
use serde_json::{Value, json};
use unshare::fail::hint;

use crate::address::{Mac, format_mac};
use crate::netlink::{Message, Socket};
use crate::ovsdb::{Client, Patience, Refused, lookup, map, printable, rows, set, uuid};
use crate::signals::Signals;

/// How long ovs-vswitchd may take. The first bridge costs it 0.2 s, a port some ms.
const ENOUGH: Duration = Duration::from_secs(5);
/// The database's own limit comes a little before ours, so that its answer arrives.
const MARGIN: Duration = Duration::from_millis(500);
/// Under which a port says whose it is: the target and its interface.
const SHIP: &str = "netns";
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    pub kind: String,
    pub remote: String,
    pub key: Option<String>,
}

/// As a statement has it.
impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} remote {}", self.kind, self.remote)?;
        self.key.iter().try_for_each(|key| write!(f, " key {key}"))
    }
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

/// Whether the kernel can switch for Open vSwitch; asking loads the module where there is one.
pub fn kernel_switches() -> bool {
    // linux/genetlink.h: struct genlmsghdr { CTRL_CMD_GETFAMILY, version 1 }, to GENL_ID_CTRL.
    const GENL_ID_CTRL: u16 = 16;
    const CTRL_ATTR_FAMILY_NAME: u16 = 2;
    let question = Message::new("ask for the kernel's Open vSwitch", GENL_ID_CTRL, 0, &[3, 1, 0, 0]);
    let question = question.put_str(CTRL_ATTR_FAMILY_NAME, "ovs_datapath");
    Socket::of(SockProtocol::NetlinkGeneric).and_then(|mut socket| socket.ask(question)).is_ok()
}

/// A signal ends the waiting; with None, while something is undone, none does.
pub type Cancel<'a> = Option<&'a Signals>;

pub struct Ovs {
    client: Client,
    /// What was read, until something is written.
    known: Option<Vec<Bridge>>,
}

/// Whether there is an Open vSwitch at all, for those who would have work to do before they ask it.
pub fn is_here() -> bool {
    place().exists()
}

pub fn missing() -> Error {
    let error = anyhow!("no Open vSwitch: there is no '{}'", place().display());
    hint(error, "apt-get install openvswitch-switch; service openvswitch-switch start")
}

/// Where the database listens, found as ovs-vsctl(8) finds it.
fn place() -> PathBuf {
    let directory = std::env::var_os("OVS_RUNDIR").filter(|value| !value.is_empty());
    PathBuf::from(directory.unwrap_or_else(|| "/var/run/openvswitch".into())).join("db.sock")
}

impl Ovs {
    /// None where there is no Open vSwitch.
    pub fn find() -> Result<Option<Ovs>> {
        Ok(Client::connect(&place())?.map(|client| Ovs { client, known: None }))
    }

    fn transact(&mut self, operations: &[Value], signals: Cancel<'_>) -> Result<Vec<Value>> {
        if operations.iter().any(|operation| operation["op"] == "mutate") {
            self.known = None;
        }
        let patience = Patience { until: Instant::now() + ENOUGH + MARGIN, signals };
        self.client.transact(operations, patience)
    }

    pub fn bridge(&mut self, name: &str, signals: Cancel<'_>) -> Result<Option<Bridge>> {
        Ok(self.bridges(signals)?.iter().find(|bridge| bridge.name == name).cloned())
    }

    /// The bridge that has a port of this name.
    pub fn bridge_of(&mut self, port: &str, signals: Cancel<'_>) -> Result<Option<String>> {
        let has = |bridge: &&Bridge| bridge.ports.iter().any(|known| known.name == port);
        Ok(self.bridges(signals)?.iter().find(has).map(|bridge| bridge.name.clone()))
    }

    /// All bridges with all their ports, by name.
    pub fn bridges(&mut self, signals: Cancel<'_>) -> Result<&[Bridge]> {
        if self.known.is_none() {
            self.known = Some(self.read(signals)?);
        }
        Ok(self.known.as_deref().unwrap_or_default())
    }

    /// Until ovs-vswitchd has done all that it was told until now, by whomever.
    pub fn settle(&mut self, signals: Cancel<'_>) -> Result<()> {
        let told = self.transact(&[counters()], signals)?;
        self.wait_until_done(goal(&told), signals)
    }

    fn read(&mut self, signals: Cancel<'_>) -> Result<Vec<Bridge>> {
        let operations = [
            select("Bridge", json!([]), &["name", "datapath_type", "ports"]),
            select("Port", json!([]), &["_uuid", "name", "interfaces", "tag", "trunks", "external_ids"]),
            select("Interface", json!([]), &["_uuid", "name", "type", "options", "mtu_request", "error"]),
        ];
        let results = self.transact(&operations, signals)?;
        let (ports, interfaces) = (rows(&results[1]), rows(&results[2]));
        let read = |row: &Value| -> Option<Bridge> {
            let name = row["name"].as_str()?.to_owned();
            let mut own = BTreeSet::new();
            own.extend(set(&row["ports"]).into_iter().filter_map(uuid));
            let own = ports.iter().filter(|port| uuid(&port["_uuid"]).is_some_and(|id| own.contains(id)));
            let mut ports: Vec<Port> = Vec::new();
            for port in own.filter_map(|port| read_port(port, interfaces)) {
                // The bridge's own port is no port to speak of.
                if port.name != name {
                    ports.insert(ports.partition_point(|other| other.name < port.name), port);
                }
            }
            let own = interfaces.iter().find(|interface| interface["name"] == name);
            let mtu = own
                .and_then(|own| set(&own["mtu_request"]).first()?.as_u64())
                .and_then(|mtu| mtu.try_into().ok());
            Some(Bridge { name, netdev: row["datapath_type"] == "netdev", mtu, ports })
        };
        let mut bridges: Vec<Bridge> = Vec::new();
        for bridge in rows(&results[0]).iter().filter_map(read) {
            bridges.insert(bridges.partition_point(|other| other.name < bridge.name), bridge);
        }
        Ok(bridges)
    }

    /// A bridge, its internal interface with a MAC address that does not follow the ports. False when it is
    /// there: made by another command at the same time.
    pub fn add_bridge(
        &mut self,
        name: &str,
        netdev: bool,
        mac: Mac,
        mtu: Option<u32>,
        signals: Cancel<'_>,
    ) -> Result<bool> {
        let mut interface = json!({"name": name, "type": "internal"});
        if let Some(mtu) = mtu {
            interface["mtu_request"] = json!(mtu);
        }
        let bridge = json!({
            "name": name,
            "datapath_type": if netdev { "netdev" } else { "system" },
            "other_config": map(&[("hwaddr", format_mac(&mac))]),
            "ports": ["named-uuid", "p"],
        });
        let operations = [
            insert("Interface", "i", interface),
            insert("Port", "p", json!({"name": name, "interfaces": ["named-uuid", "i"]})),
            insert("Bridge", "b", bridge),
            mutate("Open_vSwitch", json!([]), json!(["bridges", "insert", ["named-uuid", "b"]])),
            count_up(),
            counters(),
        ];
        let done = match self.transact(&operations, signals) {
            Err(error) if was_refused(&error) && self.bridge(name, signals)?.is_some() => {
                return self.settle(signals).map(|()| false);
            }
            Err(error) if was_refused(&error) => return Err(error),
            done => done.and_then(|results| self.wait_for_ports(&[name], &results, signals)),
        };
        done.inspect_err(|_| drop(self.write_off_bridge(name, None))).map(|()| true)
    }

    /// Gives a bridge's internal interface another MAC address.
    pub fn set_mac(&mut self, bridge: &str, mac: Mac, signals: Cancel<'_>) -> Result<()> {
        let which = || json!([["name", "==", bridge]]);
        let operations = [
            mutate("Bridge", which(), json!(["other_config", "delete", ["set", ["hwaddr"]]])),
            mutate(
                "Bridge",
                which(),
                json!(["other_config", "insert", map(&[("hwaddr", format_mac(&mac))])]),
            ),
            count_up(),
            counters(),
        ];
        let results = self.transact(&operations, signals)?;
        self.wait_until_done(goal(&results), signals)
    }

    /// False when there was none. Comes back when it is gone.
    pub fn delete_bridge(&mut self, name: &str, signals: Cancel<'_>) -> Result<bool> {
        match self.write_off_bridge(name, signals)? {
            Some(goal) => self.wait_until_done(goal, signals).map(|()| true),
            None => Ok(false),
        }
    }

    fn write_off_bridge(&mut self, name: &str, signals: Cancel<'_>) -> Result<Option<i64>> {
        let which = [select("Bridge", json!([["name", "==", name]]), &["_uuid"])];
        let found = self.transact(&which, signals)?;
        let Some(id) = rows(&found[0]).first().and_then(|row| uuid(&row["_uuid"])) else { return Ok(None) };
        let delete = mutate("Open_vSwitch", json!([]), json!(["bridges", "delete", ["uuid", id]]));
        let results = self.transact(&[delete, count_up(), counters()], signals)?;
        Ok(Some(goal(&results)))
    }

    /// All of them or none, in one transaction; comes back when packets pass.
    pub fn add_ports(&mut self, ports: &[NewPort<'_>], signals: Cancel<'_>) -> Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = ports.iter().map(|port| port.name).collect();
        match self.transact(&additions(ports), signals) {
            Err(error) if was_refused(&error) => return Err(explain(error, ports)),
            done => done.and_then(|results| self.wait_for_ports(&names, &results, signals)),
        }
        // Also when nobody knows whether it was done: a signal came before the answer.
        .inspect_err(|_| drop(self.write_off_ports(&named(&names), None)))
    }

    /// Until ovs-vswitchd has done what `results` of a transaction counted, and all ports have a number.
    fn wait_for_ports(&mut self, names: &[&str], results: &[Value], signals: Cancel<'_>) -> Result<()> {
        self.wait_until_done(goal(results), signals)?;
        let condition = |name: &&str| json!([["name", "==", name]]);
        let selects = names.iter().map(|name| select("Interface", condition(name), &["ofport", "error"]));
        let results = self.transact(&selects.collect::<Vec<_>>(), signals)?;
        for (name, result) in names.iter().zip(&results) {
            let row = rows(result).first().with_context(|| format!("the port '{name}' has vanished"))?;
            let number = set(&row["ofport"]).first().and_then(|number| number.as_i64());
            if number.is_none_or(|number| number <= 0) {
                let why =
                    set(&row["error"]).first().map_or("its log tells why".into(), |text| printable(text));
                return Err(anyhow!("Open vSwitch cannot open '{name}': {why}"));
            }
        }
        Ok(())
    }

    /// Removes those of these ports that there are, and comes back when they are closed: a device that is
    /// made anew before that, under the same name, would stay deaf.
    pub fn delete_ports(&mut self, names: &[&str], signals: Cancel<'_>) -> Result<()> {
        match self.write_off_ports(&named(names), signals)? {
            Some(goal) => self.wait_until_done(goal, signals),
            None => Ok(()),
        }
    }

    /// As `delete_ports`, for all ports of these ships.
    pub fn delete_ports_of(&mut self, ships: &[&str], signals: Cancel<'_>) -> Result<()> {
        let selects: Vec<Value> = ships
            .iter()
            .map(|ship| {
                let theirs = json!([["external_ids", "includes", map(&[(SHIP, ship.to_string())])]]);
                select("Port", theirs, &["_uuid"])
            })
            .collect();
        match self.write_off_ports(&selects, signals)? {
            Some(goal) => self.wait_until_done(goal, signals),
            None => Ok(()),
        }
    }

    fn write_off_ports(&mut self, selects: &[Value], signals: Cancel<'_>) -> Result<Option<i64>> {
        if selects.is_empty() {
            return Ok(None);
        }
        let found = self.transact(selects, signals)?;
        let ids: Vec<Value> = found.iter().flat_map(rows).map(|row| row["_uuid"].clone()).collect();
        if ids.is_empty() {
            return Ok(None);
        }
        // From all bridges: from one that does not have them, nothing is deleted.
        let delete = mutate("Bridge", json!([]), json!(["ports", "delete", ["set", ids]]));
        let results = self.transact(&[delete, count_up(), counters()], signals)?;
        Ok(Some(goal(&results)))
    }

    fn wait_until_done(&mut self, goal: i64, signals: Cancel<'_>) -> Result<()> {
        let end = Instant::now() + ENOUGH;
        let mut done = counter(&self.transact(&[counters()], signals)?[0], "cur_cfg");
        while done < goal {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(no_answer());
            }
            let as_it_was = json!([{"cur_cfg": done}]);
            let operations = [wait("Open_vSwitch", json!([]), "cur_cfg", "!=", as_it_was, left), counters()];
            done = counter(&self.transact(&operations, signals).map_err(unanswered)?[1], "cur_cfg");
        }
        Ok(())
    }
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
fn additions(ports: &[NewPort<'_>]) -> Vec<Value> {
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
fn bridges_of<'a>(ports: &[NewPort<'a>]) -> Vec<&'a str> {
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

/// Puts the two refusals that people meet into their words.
fn explain(error: Error, ports: &[NewPort<'_>]) -> Error {
    let Some(refused) = error.downcast_ref::<Refused>() else { return error };
    let bridges = bridges_of(ports);
    if let Some(bridge) = bridges.into_iter().nth(refused.operation) {
        return anyhow!("no switch '{bridge}'");
    }
    match ports.iter().find(|port| refused.details.contains(&format!("({})", port.name))) {
        Some(port) => anyhow!("Open vSwitch has a port '{}' already", port.name),
        None => error,
    }
}

fn was_refused(error: &Error) -> bool {
    error.is::<Refused>()
}

/// A wait that was in vain: in the database's words "timed out".
fn unanswered(error: Error) -> Error {
    match error.downcast_ref::<Refused>() {
        Some(refused) if refused.error == "timed out" => no_answer(),
        _ => error,
    }
}

fn no_answer() -> Error {
    hint(anyhow!("ovs-vswitchd does not answer"), "service openvswitch-switch restart")
}

fn named(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| select("Port", json!([["name", "==", name]]), &["_uuid"])).collect()
}

fn select(table: &str, condition: Value, columns: &[&str]) -> Value {
    json!({"op": "select", "table": table, "where": condition, "columns": columns})
}

fn insert(table: &str, called: &str, row: Value) -> Value {
    json!({"op": "insert", "table": table, "uuid-name": called, "row": row})
}

fn mutate(table: &str, condition: Value, mutation: Value) -> Value {
    json!({"op": "mutate", "table": table, "where": condition, "mutations": [mutation]})
}

fn wait(table: &str, condition: Value, column: &str, until: &str, rows: Value, limit: Duration) -> Value {
    json!({
        "op": "wait", "table": table, "where": condition, "columns": [column], "until": until, "rows": rows,
        "timeout": limit.as_millis() as u64,
    })
}

/// Tells ovs-vswitchd that there is something to do. The table has one row.
fn count_up() -> Value {
    mutate("Open_vSwitch", json!([]), json!(["next_cfg", "+=", 1]))
}

fn counters() -> Value {
    select("Open_vSwitch", json!([]), &["next_cfg", "cur_cfg"])
}

/// How far `cur_cfg` must come: said by the last operation, as it was in that moment.
fn goal(results: &[Value]) -> i64 {
    results.last().map_or(0, |result| counter(result, "next_cfg"))
}

fn counter(result: &Value, column: &str) -> i64 {
    rows(result).first().and_then(|row| row[column].as_i64()).unwrap_or_default()
}
