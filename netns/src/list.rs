//! list: what there is, read from the kernel each time: names, and the links that carry our alias.

use anyhow::Result;
use serde_json::{Value, json};
use unshare::fail::print;

use crate::mark::belongs_to;
use crate::netlink::Socket;
use crate::ovs::{self, Ovs};
use crate::rtnl::{self, Link};
use crate::store;

/// Where outer ends are plugged in.
struct Switches {
    links: Vec<Link>,
    bridges: Vec<ovs::Bridge>,
}

impl Switches {
    /// Open vSwitch is asked only where an end is on no bridge of Linux.
    fn find(links: Vec<Link>) -> Switches {
        let mut switches = Switches { links, bridges: Vec::new() };
        let mut ends = switches.links.iter().filter(|link| belongs_to(link).is_some());
        if ends.any(|link| switches.of(link) == "-") {
            let found = Ovs::find().ok().flatten();
            switches.bridges =
                found.and_then(|mut ovs| ovs.bridges(None).ok().map(<[_]>::to_vec)).unwrap_or_default();
        }
        switches
    }

    fn of(&self, outer: &Link) -> &str {
        let bridge = |link: &&Link| Some(link.index) == outer.master && link.kind == "bridge";
        let has = |bridge: &&ovs::Bridge| bridge.ports.iter().any(|port| port.name == outer.name);
        match self.links.iter().find(bridge) {
            Some(link) => &link.name,
            None => self.bridges.iter().find(has).map_or("-", |bridge| &bridge.name),
        }
    }
}

/// One name a line: NAME live|stale [IFNAME=OUTER@SWITCH ...].
pub fn list(as_json: bool) -> Result<()> {
    let entries = store::entries()?;
    let links = if entries.is_empty() { Vec::new() } else { rtnl::all_links(&mut Socket::open()?)? };
    let switches = Switches::find(links);
    let mut text = String::new();
    let mut records = Vec::new();
    for entry in &entries {
        let state = if entry.inode.is_some() { "live" } else { "stale" };
        let own: Vec<(&str, &Link)> = switches
            .links
            .iter()
            .filter_map(|link| {
                belongs_to(link).filter(|(ship, _)| *ship == entry.name).map(|(_, i)| (i, link))
            })
            .collect();
        let words = own.iter().map(|(ifname, l)| format!(" {ifname}={}@{}", l.name, switches.of(l)));
        text += &format!("{} {state}{}\n", entry.name.escape_debug(), words.collect::<String>());
        let links: Vec<Value> = own
            .iter()
            .map(|(ifname, l)| json!({"ifname": ifname, "outer": l.name, "switch": switches.of(l)}))
            .collect();
        records.push(json!({"name": entry.name, "state": state, "inode": entry.inode, "links": links}));
    }
    print(&if as_json { format!("{}\n", Value::from(records)) } else { text })
}
