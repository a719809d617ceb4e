//! ovs: bridges and ports of Open vSwitch, by what is written into its database.
//!
//! ovs-vswitchd does what the database says, a moment later: each change counts `next_cfg` up and is done
//! when `cur_cfg` has come as far; a port that works has a positive `ofport`, one that cannot has -1 and an
//! `error` (ovs-vswitchd.conf.db(5)). Who writes must wait for that, with a limit, and take back what failed:
//! the database would otherwise do it some day.
//!
//! `mutate … insert` adds to a set without rewriting it, so programs that change a bridge at the same time
//! do not disturb each other.

pub mod bridge;
mod operations;
pub mod tunnel;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};
use nix::sys::socket::SockProtocol;
use serde_json::{Value, json};
use unshare::fail::hint;

use crate::address::{Mac, format_mac};
use crate::netlink::{Message, Socket};
use crate::ovsdb::{Client, Patience, Refused, map, printable, rows, set, uuid};
use crate::signals::Signals;
pub use bridge::{Bridge, NewPort, Port};
use bridge::{SHIP, additions, bridges_of};
use operations::{count_up, counter, counters, goal, insert, mutate, named, select, wait};
pub use tunnel::Tunnel;

/// How long ovs-vswitchd may take. The first bridge costs it 0.2 s, a port some ms.
const ENOUGH: Duration = Duration::from_secs(5);
/// The database's own limit comes a little before ours, so that its answer arrives.
const MARGIN: Duration = Duration::from_millis(500);
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

    /// Until ovs-vswitchd has been through its work once more, and with it has heard what the kernel told it
    /// of devices until now.
    pub fn catch_up(&mut self, signals: Cancel<'_>) -> Result<()> {
        let results = self.transact(&[count_up(), counters()], signals)?;
        self.wait_until_done(goal(&results), signals)
    }

    fn read(&mut self, signals: Cancel<'_>) -> Result<Vec<Bridge>> {
        let operations = [
            select("Bridge", json!([]), &["name", "datapath_type", "ports"]),
            select("Port", json!([]), &["_uuid", "name", "interfaces", "tag", "trunks", "external_ids"]),
            select("Interface", json!([]), &["_uuid", "name", "type", "options", "mtu_request", "error"]),
        ];
        Ok(bridge::read(&self.transact(&operations, signals)?))
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
        done.inspect_err(|_| {
            let goal = self.write_off_bridge(name, None);
            self.wait_for_signalled(goal, signals);
        })
        .map(|()| true)
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

    /// Takes it out of the database; gives back the count at which it is gone, None where there is none.
    pub fn write_off_bridge(&mut self, name: &str, signals: Cancel<'_>) -> Result<Option<i64>> {
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
        .inspect_err(|_| {
            let goal = self.write_off_ports(&named(&names), None);
            self.wait_for_signalled(goal, signals);
        })
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

    /// After something was written off: until it has gone, where it was a signal that ended the waiting. An
    /// ovs-vswitchd that has not done the one in time does not do the other.
    fn wait_for_signalled(&mut self, goal: Result<Option<i64>>, signals: Cancel<'_>) {
        if let (Ok(Some(goal)), Some(Err(_))) = (goal, signals.map(Signals::check)) {
            let _ = self.wait_until_done(goal, None);
        }
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
