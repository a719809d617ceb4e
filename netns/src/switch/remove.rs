//! remove: takes a switch away, or its NAT alone.

use anyhow::{Context, Result, anyhow, bail};
use unshare::fail::say;

use crate::link::Onto;
use crate::machine::{Machine, lock_host};
use crate::manner::Manner;
use crate::nft::{Nft, Ruleset};
use crate::plug::{self, Plug, Port};
use crate::rtnl::{self, Link};
use crate::{unpublish, uplink};

#[derive(Debug, PartialEq, Eq)]
pub struct Removal {
    pub name: String,
    pub if_unused: bool,
    pub manner: Manner,
}

/// What nft has for a switch: its NAT and what is published on it.
struct Rules {
    nft: Option<(Nft, Ruleset)>,
    masquerade: bool,
    /// What takes the publications away, as statements.
    published: Vec<String>,
}

impl Rules {
    fn of(switch: &str) -> Result<Rules> {
        let mut rules = Rules { nft: None, masquerade: false, published: Vec::new() };
        if let Some(nft) = Nft::find() {
            let ruleset = nft.ruleset()?;
            let on_it: Vec<_> = ruleset.publications().into_iter().filter(|e| e.switch == switch).collect();
            rules.masquerade = ruleset.masquerade(switch);
            rules.published = unpublish::statements(&on_it);
            rules.nft = Some((nft, ruleset));
        }
        Ok(rules)
    }

    fn are_there(&self) -> bool {
        self.masquerade || !self.published.is_empty()
    }

    fn remove(self, switch: &str) -> Result<()> {
        if let Some((nft, ruleset)) = &self.nft {
            nft.switch_off(ruleset, switch)?;
        }
        self.published.iter().for_each(|statement| unpublish::say_goes(statement));
        Ok(())
    }
}

/// Removes the switch and its NAT; ports that are left end nowhere. What came with an uplink goes back to it.
pub fn delete(removal: &Removal) -> Result<()> {
    let name = &removal.name;
    remove(removal).with_context(|| format!("cannot delete the switch '{name}'"))
}

fn remove(removal: &Removal) -> Result<()> {
    let name = &removal.name;
    let mut machine = Machine::open()?;
    // Before looking: an uplink that came after it would go down with the switch.
    let _lock = lock_host()?;
    let found = plug::find(&mut machine, &Onto::Switch(name.clone()))?;
    let links = rtnl::all_links(&mut machine.outside)?;
    let link = links.iter().find(|link| link.name == *name).cloned();
    let orphans = uplink::orphans(&mut machine, &links)?;
    let mut ports = found.as_ref().map(|plug| plug.ports(&links)).unwrap_or_default();
    ports.retain(|port| port.tunnel.is_none());
    let uplink = ports.iter().position(Port::is_uplink).and_then(|at| ports.remove(at).link);
    if removal.if_unused && !ports.is_empty() {
        return removal.manner.tell(&[], &[]);
    }
    let rules = Rules::of(name)?;
    // Where somebody else has removed the bridge, our rules are what is left to remove.
    let is_any = found.is_some() || rules.are_there() || !orphans.is_empty();
    if !is_any && !removal.if_unused {
        bail!("no switch '{name}'");
    }
    let mut changes = if is_any { vec![format!("switch del {name}")] } else { Vec::new() };
    changes.extend(rules.published.iter().cloned());
    if removal.manner.dry_run {
        return removal.manner.tell(&changes, &[]);
    }
    rules.remove(name)?;
    orphans.iter().try_for_each(|nic| uplink::adopt(&mut machine, nic, &links))?;
    if let Some(plug) = found {
        take_down(&mut machine, name, &plug, link, uplink)?;
    }
    if !ports.is_empty() {
        let names: Vec<String> = ports.iter().map(Port::label).collect();
        say("netns", &format!("note: '{name}' had ports, now without a switch: {}", names.join(" ")));
    }
    removal.manner.tell(&changes, &[])
}

/// The bridge itself, after its uplink has what came with it.
fn take_down(
    machine: &mut Machine,
    name: &str,
    plug: &Plug,
    link: Option<Link>,
    uplink: Option<Link>,
) -> Result<()> {
    if let (Some(nic), Some(link)) = (&uplink, &link) {
        uplink::give_back(machine, nic, link)?;
    }
    let done = match plug {
        Plug::Ovs(_) => delete_ovs_bridge(machine, name, link, uplink.is_some()),
        _ => machine.outside.tell(vec![rtnl::delete_link(name)]),
    };
    if let (Some(nic), Plug::Ovs(_)) = (&uplink, plug) {
        uplink::forget(machine, nic)?;
    }
    done?;
    machine.keep();
    Ok(())
}

/// Takes the switch's way to the outside away.
pub fn nat_off(name: &str, manner: Manner) -> Result<()> {
    let failed = || format!("cannot take NAT from '{name}'");
    let mut machine = Machine::open()?;
    let _lock = lock_host()?;
    let had = match Nft::find() {
        None => false,
        Some(nft) if manner.dry_run => nft.ruleset().with_context(failed)?.masquerade(name),
        Some(nft) => nft.stop_masquerade(name).with_context(failed)?,
    };
    if !had && rtnl::find_link(&mut machine.outside, name)?.is_none() {
        return Err(anyhow!("no switch '{name}'")).with_context(failed);
    }
    manner.tell(had.then(|| format!("nat off {name}")).as_slice(), &[])
}

/// Not to be stopped half-way. Where ovs-vswitchd does not do it, the bridge is out of the database all the same.
fn delete_ovs_bridge(machine: &mut Machine, name: &str, link: Option<Link>, uplinked: bool) -> Result<()> {
    let (ovs, _) = machine.ovs()?.context("Open vSwitch has gone")?;
    // It closes a port with the flags that it knows: without this an uplink would be without ARP again.
    let caught_up = if uplinked { ovs.catch_up(None) } else { Ok(()) };
    let done = match caught_up {
        Ok(()) => ovs.delete_bridge(name, None).map(drop),
        // Who does not answer is not waited for twice.
        Err(error) => ovs.write_off_bridge(name, None).and(Err(error)),
    };
    let is_out = done.is_err() && matches!(ovs.bridge(name, None), Ok(None));
    if is_out && link.is_some_and(|link| link.kind == "tun") {
        // It stays when its process has died (tun(4), persistent).
        machine.outside.tell(vec![rtnl::delete_link(name)])?;
    }
    done
}
