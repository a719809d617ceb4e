//! list: what there is, read from the kernel each time: names, and the links that carry our alias.

use anyhow::Result;
use serde_json::{Value, json};
use unshare::fail::print;

use crate::link::ALIAS;
use crate::netlink::Socket;
use crate::rtnl::{self, Link};
use crate::store;

/// The link that an outer end belongs to, as (target, interface).
pub fn belongs_to(outer: &Link) -> Option<(&str, &str)> {
    outer.alias.strip_prefix(ALIAS)?.rsplit_once(':')
}

fn switch_of<'a>(outer: &Link, links: &'a [Link]) -> &'a str {
    links.iter().find(|link| Some(link.index) == outer.master).map_or("-", |link| &link.name)
}

/// One name a line: NAME live|stale [IFNAME=OUTER@SWITCH ...].
pub fn list(as_json: bool) -> Result<()> {
    let entries = store::entries()?;
    let links = if entries.is_empty() { Vec::new() } else { rtnl::all_links(&mut Socket::open()?)? };
    let mut text = String::new();
    let mut records = Vec::new();
    for entry in &entries {
        let state = if entry.inode.is_some() { "live" } else { "stale" };
        let own: Vec<(&str, &Link)> = links
            .iter()
            .filter_map(|link| {
                belongs_to(link).filter(|(ship, _)| *ship == entry.name).map(|(_, i)| (i, link))
            })
            .collect();
        let words = own.iter().map(|(ifname, l)| format!(" {ifname}={}@{}", l.name, switch_of(l, &links)));
        text += &format!("{} {state}{}\n", entry.name.escape_debug(), words.collect::<String>());
        let links: Vec<Value> = own
            .iter()
            .map(|(ifname, l)| json!({"ifname": ifname, "outer": l.name, "switch": switch_of(l, &links)}))
            .collect();
        records.push(json!({"name": entry.name, "state": state, "inode": entry.inode, "links": links}));
    }
    print(&if as_json { format!("{}\n", Value::from(records)) } else { text })
}
