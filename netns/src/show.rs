//! show: what is there of ours, seen from outside and from inside the namespaces: for the reader, as JSON, as
//! the statements that make it anew, and as a drawing for dot(1).

use anyhow::Result;
use serde_json::{Value, json};
use unshare::fail::print;

use crate::address::{Cidr, Mac, format_mac};
use crate::file::Line;
use crate::link::{End, LinkSpec, Onto};
use crate::machine::Machine;
use crate::mark::{belongs_to, is_switch};
use crate::nft::{Nft, Ruleset};
use crate::plug::{self, Plug, Port};
use crate::publish::PublishSpec;
use crate::rate;
use crate::rtnl::{self, Link};
use crate::store::{self, Entry, Target};
use crate::switch::SwitchSpec;
use crate::tunnel::TunnelSpec;
use crate::uplink;
use crate::words::Statement;

/// In the place of its name where a link ends nowhere.
const NO_SWITCH: &str = "-";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Lines,
    Json,
    Plan,
    Dot,
}

/// All of ours at one moment, as far as it can be seen.
struct Picture {
    names: Vec<Entry>,
    switches: Vec<(SwitchSpec, Link)>,
    tunnels: Vec<TunnelSpec>,
    links: Vec<Seen>,
    publications: Vec<PublishSpec>,
}

/// A link: `spec` is what one would have to ask for to get it.
struct Seen {
    spec: LinkSpec,
    outer: Option<String>,
    /// Why it cannot be seen from inside.
    hidden: Option<String>,
    up: bool,
    /// What it would have without being asked for another.
    usual_mtu: u32,
}

pub fn show(form: Form) -> Result<()> {
    let mut machine = Machine::open()?;
    let picture = Picture::take(&mut machine)?;
    print(&match form {
        Form::Lines => picture.lines(),
        Form::Json => format!("{}\n", picture.json()),
        Form::Plan => picture.plan(),
        Form::Dot => picture.dot(),
    })
}

/// What is there of ours and in none of the statements.
pub fn beyond(machine: &mut Machine, lines: &[Line]) -> Result<Vec<String>> {
    let picture = Picture::take(machine)?;
    let asked = |there: &Statement| {
        lines.iter().any(|line| match (&line.statement, there) {
            (Statement::Add(names), Statement::Add(is)) => names.contains(&is[0]),
            (Statement::Switch(spec), Statement::Switch(is)) => spec.name == is.name,
            (Statement::Nat(_), Statement::Switch(_)) => false,
            (Statement::Tunnel(spec), Statement::Tunnel(is)) => spec.name == is.name,
            (Statement::Link(spec), Statement::Link(is)) => spec.end == is.end,
            (Statement::Publish(spec), Statement::Publish(is)) => spec == is,
            _ => false,
        })
    };
    Ok(picture.statements().filter(|there| !asked(there)).map(|there| there.to_string()).collect())
}

impl Picture {
    fn take(machine: &mut Machine) -> Result<Picture> {
        let names = store::entries()?;
        let links = rtnl::all_links(&mut machine.outside)?;
        let mut seen = Vec::new();
        let mut targets: Vec<Target> =
            names.iter().filter(|e| e.inode.is_some()).map(|e| Target::Name(e.name.clone())).collect();
        for outer in &links {
            let end =
                belongs_to(outer).and_then(|(ship, ifname)| End::parse(&format!("{ship}:{ifname}")).ok());
            let Some(end) = end else { continue };
            if !targets.contains(&end.target) {
                targets.push(end.target.clone());
            }
            let switch = plug::of_port(machine, outer)?.unwrap_or_else(|| NO_SWITCH.into());
            let mut link = Seen {
                spec: LinkSpec::new(end, Onto::Switch(switch)),
                outer: Some(outer.name.clone()),
                hidden: None,
                up: outer.up,
                usual_mtu: 1500,
            };
            let found = plug::find(machine, &link.spec.onto).ok().flatten();
            if let Some(plug) = found {
                link.spec.vlans = plug.vlans_of(&mut machine.outside, outer)?;
                link.usual_mtu = plug.mtu().unwrap_or(link.usual_mtu);
            }
            seen.push((link, outer.peer));
        }
        look_inside(machine, &targets, &links, &mut seen);
        let ruleset = Nft::find().and_then(|nft| nft.ruleset().ok());
        let links_seen: Vec<Seen> = seen.into_iter().map(|(link, _)| link).collect();
        let switches = switches(machine, &links, &links_seen, ruleset.as_ref())?;
        let mut publications: Vec<PublishSpec> = Vec::new();
        for entry in ruleset.map(|ruleset| ruleset.publications()).unwrap_or_default() {
            if !publications.contains(&entry.spec) {
                publications.push(entry.spec);
            }
        }
        let tunnels = tunnels(machine, &switches, &links);
        Ok(Picture { names, switches, tunnels, links: links_seen, publications })
    }

    /// In an order in which one could type them.
    fn statements(&self) -> impl Iterator<Item = Statement> {
        let live = self.names.iter().filter(|entry| entry.inode.is_some());
        live.map(|entry| Statement::Add(vec![entry.name.clone()]))
            .chain(self.switches.iter().map(|(spec, _)| Statement::Switch(spec.clone())))
            .chain(self.tunnels.iter().map(|spec| Statement::Tunnel(spec.clone())))
            .chain(self.links.iter().map(|link| Statement::Link(link.spec.clone())))
            .chain(self.publications.iter().map(|spec| Statement::Publish(spec.clone())))
    }

    fn plan(&self) -> String {
        let mut text = String::new();
        for statement in self.statements() {
            // A process will be another one, and half a link is none.
            let lost = match &statement {
                Statement::Link(spec) => {
                    let whole = |link: &&Seen| link.spec.end == spec.end && link.hidden.is_none();
                    let cut = spec.onto.name() == NO_SWITCH;
                    cut || matches!(spec.end.target, Target::Pid(_)) || !self.links.iter().any(|l| whole(&l))
                }
                Statement::Publish(spec) => matches!(spec.target, Target::Pid(_)),
                _ => false,
            };
            text += &format!("{}{statement}\n", if lost { "# " } else { "" });
        }
        text
    }

    fn lines(&self) -> String {
        let mut text = String::new();
        for entry in &self.names {
            let state = if entry.inode.is_some() { "live" } else { "stale" };
            text += &format!("namespace {} {state}\n", store::quoted(&entry.name));
        }
        for (spec, link) in &self.switches {
            text += &format!(
                "{} {}\n",
                spec.to_string().replacen(" add", "", 1),
                if link.up { "up" } else { "down" }
            );
        }
        text.extend(
            self.tunnels.iter().map(|spec| format!("{}\n", spec.to_string().replacen(" add", "", 1))),
        );
        for link in &self.links {
            let state = link.hidden.as_deref().unwrap_or(if link.up { "up" } else { "down" });
            text += &format!("{} {state}\n", link.spec);
        }
        text.extend(self.publications.iter().map(|spec| format!("{spec}\n")));
        text
    }

    fn json(&self) -> Value {
        let state = |up: bool| if up { "up" } else { "down" };
        let words = |list: &[Cidr]| list.iter().map(Cidr::to_string).collect::<Vec<_>>();
        let names = self.names.iter().map(|entry| {
            let state = if entry.inode.is_some() { "live" } else { "stale" };
            json!({"name": entry.name, "state": state, "inode": entry.inode})
        });
        let switches = self.switches.iter().map(|(spec, link)| {
            json!({"name": spec.name, "state": state(link.up), "mac": format_mac(&link.mac), "mtu": link.mtu,
                "addresses": words(&spec.addresses), "nat": spec.nat, "uplink": spec.uplink, "ovs": spec.ovs,
                "datapath": spec.datapath})
        });
        let links = self.links.iter().map(|link| {
            let spec = &link.spec;
            json!({"target": spec.end.target.label(), "ifname": spec.end.ifname, "outer": link.outer,
                "switch": spec.onto.to_string(), "state": link.hidden.as_deref().unwrap_or(state(link.up)),
                "addresses": words(&spec.addresses),
                "gateways": spec.gateways.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "mtu": spec.mtu.unwrap_or(link.usual_mtu), "mac": spec.mac.map(|mac| format_mac(&mac)),
                "tag": spec.vlans.tag, "trunks": spec.vlans.trunks,
                "rate": spec.rate.map(|rate| rate.to_string()), "promisc": spec.promisc})
        });
        let publications = self.publications.iter().map(|spec| {
            json!({"address": spec.port.address.map(|address| address.to_string()), "port": spec.port.port,
                "protocol": spec.port.protocol(), "target": spec.target.label(), "to": spec.to})
        });
        json!({"namespaces": names.collect::<Vec<_>>(), "switches": switches.collect::<Vec<_>>(),
            "tunnels": self.tunnels.iter().map(TunnelSpec::json).collect::<Vec<_>>(), "links": links.collect::<Vec<_>>(), "publications": publications.collect::<Vec<_>>()})
    }

    /// A box for each switch, an ellipse for each ship, the host in the middle of those that it has addresses on.
    fn dot(&self) -> String {
        let id = |word: &str| format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""));
        let mut text = String::from("graph netns {\n");
        for entry in self.names.iter().filter(|entry| entry.inode.is_some()) {
            text += &format!("  {};\n", id(&entry.name));
        }
        for (spec, _) in &self.switches {
            text += &format!("  {} [shape=box];\n", id(&spec.name));
            let mut label: Vec<String> = spec.addresses.iter().map(Cidr::to_string).collect();
            label.extend(spec.nat.then(|| "nat".into()));
            if !label.is_empty() {
                text += &format!("  host -- {} [label=\"{}\"];\n", id(&spec.name), label.join("\\n"));
            }
            if let Some(nic) = &spec.uplink {
                text += &format!("  {} -- {};\n", id(nic), id(&spec.name));
            }
        }
        for spec in &self.tunnels {
            let (switch, far) = (id(&spec.switch), id(&spec.remote.to_string()));
            text += &format!("  {switch} -- {far} [style=dotted, label={}];\n", id(&spec.name));
        }
        for Seen { spec, .. } in &self.links {
            let mut label = vec![spec.end.ifname.clone()];
            label.extend(spec.addresses.iter().map(Cidr::to_string));
            label.extend(spec.vlans.tag.map(|tag| format!("tag {tag}")));
            let (ship, onto) = (id(&spec.end.target.label()), id(spec.onto.name()));
            text += &format!("  {ship} -- {onto} [label={}];\n", id(&label.join(" ")));
        }
        for spec in &self.publications {
            let label = format!("{}/{} to {}", spec.port, spec.port.protocol(), spec.to);
            text +=
                &format!("  host -- {} [style=dashed, label={}];\n", id(&spec.target.label()), id(&label));
        }
        text + "}\n"
    }
}

/// Fills in what only the inner ends show, and finds links that have no outer one.
fn look_inside(
    machine: &mut Machine,
    targets: &[Target],
    links: &[Link],
    seen: &mut Vec<(Seen, Option<u32>)>,
) {
    for target in targets {
        if let Err(error) = machine.open_spaces([target].into_iter(), false) {
            for (link, _) in seen.iter_mut().filter(|(link, _)| link.spec.end.target == *target) {
                link.hidden = Some(format!("lost: {error}"));
            }
            continue;
        }
        for (link, peer) in seen.iter_mut().filter(|(link, _)| link.spec.end.target == *target) {
            if fill(machine, link, *peer).is_none() {
                link.hidden = Some("lost: its inner end is not there".into());
            }
        }
        for inner in rtnl::all_links(machine.inside(0)).unwrap_or_default() {
            let kind = ["macvlan", "macvtap"].into_iter().find(|kind| *kind == inner.kind);
            let end = belongs_to(&inner).map(|(ship, ifname)| End::parse(&format!("{ship}:{ifname}")));
            let nic = links.iter().find(|link| Some(link.index) == inner.peer);
            if let (Some(kind), Some(Ok(end)), Some(nic)) = (kind, end, nic) {
                let onto = Onto::Nic(kind, nic.name.clone());
                let mut link = Seen {
                    spec: LinkSpec::new(end, onto),
                    outer: None,
                    hidden: None,
                    up: inner.up,
                    usual_mtu: nic.mtu,
                };
                fill(machine, &mut link, Some(inner.index));
                seen.push((link, None));
            }
        }
    }
}

fn fill(machine: &mut Machine, link: &mut Seen, index: Option<u32>) -> Option<()> {
    let inside = machine.inside(0);
    let inner = rtnl::find_index(inside, index?).ok()??;
    let spec = &mut link.spec;
    if inner.name != spec.end.ifname {
        return None;
    }
    spec.addresses = rtnl::addresses(inside, inner.index).ok()?;
    spec.gateways = rtnl::gateways(inside, inner.index).ok()?;
    spec.mtu = Some(inner.mtu).filter(|mtu| *mtu != link.usual_mtu);
    spec.mac = Mac::try_from(&inner.mac[..]).ok();
    spec.promisc = inner.promisc;
    spec.rate = rate::of(inside, inner.index).ok()?;
    link.up &= inner.up;
    Some(())
}

/// Those of the switches that are shown.
fn tunnels(machine: &mut Machine, switches: &[(SwitchSpec, Link)], links: &[Link]) -> Vec<TunnelSpec> {
    let mut tunnels = Vec::new();
    for (switch, _) in switches.iter().filter(|(switch, _)| switch.ovs) {
        let plug = plug::find(machine, &Onto::Switch(switch.name.clone())).ok().flatten();
        for port in plug.map(|plug| plug.ports(links)).unwrap_or_default() {
            let spec = port.tunnel.and_then(|tunnel| TunnelSpec::of_port(&switch.name, &port.name, &tunnel));
            tunnels.extend(spec);
        }
    }
    tunnels
}

/// The bridges that we have made, and others that links of ours are on.
fn switches(
    machine: &mut Machine,
    links: &[Link],
    seen: &[Seen],
    ruleset: Option<&Ruleset>,
) -> Result<Vec<(SwitchSpec, Link)>> {
    let mut switches = Vec::new();
    let used = |name: &str| seen.iter().any(|link| link.outer.is_some() && link.spec.onto.name() == name);
    for link in links.iter().filter(|link| is_switch(link) || used(&link.name)) {
        let onto = Onto::Switch(link.name.clone());
        let Ok(Some(plug @ (Plug::Bridge(_) | Plug::Ovs(_)))) = plug::find(machine, &onto) else { continue };
        let nic = plug.ports(links).into_iter().find(Port::is_uplink).and_then(|port| port.link);
        let nic = nic.as_ref();
        let brought = nic.map(uplink::remembered).unwrap_or_default();
        let mut addresses = rtnl::addresses(&mut machine.outside, link.index)?;
        addresses.retain(|cidr| !brought.contains(cidr));
        let spec = SwitchSpec {
            name: link.name.clone(),
            addresses,
            nat: ruleset.is_some_and(|ruleset| ruleset.masquerade(&link.name)),
            mtu: match &plug {
                Plug::Ovs(bridge) => bridge.mtu,
                _ => Some(link.mtu).filter(|mtu| *mtu != 1500),
            },
            uplink: nic.map(|nic| nic.name.clone()),
            ovs: plug.datapath().is_some(),
            datapath: plug.datapath(),
        };
        switches.push((spec, link.clone()));
    }
    Ok(switches)
}
