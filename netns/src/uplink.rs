//! uplink: a network card of the host becomes a port of a switch, and its addresses and routes the switch's:
//! left on the card they would hear nothing any more. All in one datagram, so that a shell over that very
//! card lives on, and back when the switch is deleted.
//!
//! Which addresses came with the card is written in its alias: "netns uplink ADDRESS/PREFIX …", from before
//! they move until they are back. A command that is killed at any moment leaves them on the one or the other,
//! and the next one goes on from there. Open vSwitch is told first and, when a switch goes, last: for a
//! moment the card is both the host's and its.

mod luggage;

use std::fs;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use unshare::fail::hint;

use crate::address::{Cidr, Mac};
use crate::machine::{Machine, Undo};
use crate::mark::{self, belongs_to, is_uplink};
use crate::netlink::{Message, errno};
use crate::ovs::NewPort;
use crate::plug;
use crate::rtnl::{self, Link};
#[cfg(test)]
pub use luggage::sort;
use luggage::{Luggage, carry, pack};

/// Before the alias that a card had from others.
const BEFORE: &str = " alias=";

/// A card that is to become a port, or one that a killed command has left half-way.
pub struct Move {
    nic: Link,
    is_port: bool,
    luggage: Luggage,
    /// All that it brings, with what is on the switch already.
    brings: Vec<Cidr>,
}

impl Move {
    pub fn nic(&self) -> &str {
        &self.nic.name
    }
}

/// None where the card is a port of the switch already, with all that belongs to it.
pub fn plan(machine: &mut Machine, nic: &str, switch: Option<&Link>) -> Result<Option<Move>> {
    let found = rtnl::find_link(&mut machine.outside, nic)?;
    let nic = found.with_context(|| format!("no interface '{nic}'"))?;
    let name = &nic.name;
    let is_on = plug::of_port(machine, &nic)?;
    let is_port = is_on.is_some() && is_on.as_deref() == switch.map(|switch| &*switch.name);
    if !is_port && (nic.master.is_some() || is_on.is_some()) {
        bail!("'{name}' is a port of something already");
    }
    if nic.loopback || nic.kind == "bridge" || belongs_to(&nic).is_some() {
        bail!("'{name}' cannot be an uplink");
    }
    let luggage = pack(machine, nic.index, |_| true)?;
    let mut brings: Vec<Cidr> = luggage.addresses().collect();
    let quiet = match switch.filter(|_| is_port) {
        Some(switch) => {
            let there = rtnl::addresses(&mut machine.outside, switch.index)?;
            brings.extend(remembered(&nic).into_iter().filter(|cidr| there.contains(cidr)));
            !ovs_switches(machine, switch)? || knobs(&nic).iter().all(Knob::is_set)
        }
        None => true,
    };
    if is_port && is_uplink(&nic) && luggage.is_empty() && quiet {
        return Ok(None);
    }
    if let Some(lost) = remembered(&nic).into_iter().find(|cidr| !is_port && !brings.contains(cidr)) {
        let error = anyhow!("'{name}' was the uplink of a switch that has gone, with it '{lost}'");
        return Err(hint(error, "netns switch del SWITCH gives it back"));
    }
    let longest = told(&nic, " rp_filter=2 disable_ipv6=1", &brings);
    if longest.len() > mark::LONGEST {
        bail!("'{name}' has more addresses than can be remembered in its alias");
    }
    Ok(Some(Move { nic, is_port, luggage, brings }))
}

/// The alias of a card that is a port: what it brings, what the files of /proc said, what its alias was.
fn told(nic: &Link, knobs: &str, brings: &[Cidr]) -> String {
    let addresses: String = brings.iter().map(|cidr| format!(" {cidr}")).collect();
    let before = match alias_before(nic) {
        "" => String::new(),
        alias => format!("{BEFORE}{alias}"),
    };
    format!("{}{knobs}{addresses}{before}", mark::UPLINK)
}

/// The words that `told` wrote, without what the alias was.
fn words(nic: &Link) -> impl Iterator<Item = &str> {
    let ours = if is_uplink(nic) { &*nic.alias } else { "" };
    ours.split(BEFORE).next().unwrap_or_default().split(' ')
}

fn alias_before(nic: &Link) -> &str {
    if is_uplink(nic) { nic.alias.split_once(BEFORE).map_or("", |(_, alias)| alias) } else { &nic.alias }
}

/// The addresses that a switch has from its uplink.
pub fn brought(machine: &mut Machine, switch: Option<&Link>) -> Result<Vec<Cidr>> {
    let Some(switch) = switch else { return Ok(Vec::new()) };
    for nic in rtnl::all_links(&mut machine.outside)?.iter().filter(|link| is_uplink(link)) {
        if plug::of_port(machine, nic)?.as_deref() == Some(&*switch.name) {
            return Ok(remembered(nic));
        }
    }
    Ok(Vec::new())
}

pub fn remembered(nic: &Link) -> Vec<Cidr> {
    words(nic).filter_map(|word| Cidr::parse(word).ok()).collect()
}

/// The card becomes a port, and the switch takes its MAC address too: networks of clouds accept no other.
pub fn act(machine: &mut Machine, uplink: &Move, switch: &Link) -> Result<()> {
    let Move { nic, is_port, luggage, brings } = uplink;
    let old_mac = Mac::try_from(&switch.mac[..]).context("the switch has no MAC address")?;
    let mac = Mac::try_from(&nic.mac[..]).with_context(|| format!("'{}' has no MAC address", nic.name))?;
    let by_kernel = switch.kind == "bridge";
    let doubled = !by_kernel && ovs_switches(machine, switch)?;
    if !by_kernel {
        attach_to_ovs(machine, uplink, switch, [old_mac, mac])?;
    }
    let knobs = if doubled { knobs(nic) } else { Vec::new() };
    let silenced: String = knobs.iter().map(Knob::told).collect();
    let mut there =
        vec![rtnl::set_alias(&nic.name, &told(nic, &silenced, brings)), rtnl::set_mac(&switch.name, mac)];
    let mut back = vec![rtnl::set_alias(&nic.name, &nic.alias), rtnl::set_mac(&switch.name, old_mac)];
    if by_kernel && !is_port {
        there.push(rtnl::set_master(&nic.name, switch.index));
        back.push(rtnl::set_master(&nic.name, 0));
    }
    if doubled {
        there.push(rtnl::set_arp(&nic.name, false));
        back.push(rtnl::set_arp(&nic.name, true));
    }
    there.push(rtnl::set_up(&nic.name));
    there.extend(carry(luggage, nic.index, switch.index));
    back.extend(carry(luggage, switch.index, nic.index));
    machine.did(Undo::Outside(back));
    tell(machine, there).with_context(|| format!("cannot move '{}' to the switch", nic.name))?;
    // Last: with its IPv6 the card loses what it still has of it.
    for knob in knobs {
        machine.did(Undo::File(knob.file.clone(), knob.before.clone()));
        knob.write("1")?;
    }
    Ok(())
}

fn attach_to_ovs(machine: &mut Machine, uplink: &Move, switch: &Link, macs: [Mac; 2]) -> Result<()> {
    let name = &uplink.nic.name;
    let [old, new] = macs;
    if !uplink.is_port {
        let (ovs, cancel) = machine.ovs()?.context("Open vSwitch has gone")?;
        ovs.add_ports(&[NewPort { bridge: &switch.name, name, ..NewPort::default() }], cancel)?;
        machine.did(Undo::Ports(vec![name.clone()]));
    }
    machine.did(Undo::BridgeMac(switch.name.clone(), old));
    let (ovs, cancel) = machine.ovs()?.context("Open vSwitch has gone")?;
    ovs.set_mac(&switch.name, new, cancel)
}

/// Whether ovs-vswitchd itself switches: then it gets a copy of each frame, and the host the frame.
fn ovs_switches(machine: &mut Machine, switch: &Link) -> Result<bool> {
    if switch.kind == "bridge" {
        return Ok(false);
    }
    Ok(plug::ovs_bridge(machine, &switch.name)?.is_some_and(|bridge| bridge.netdev))
}

/// A file of /proc that says 1 while the host must not take the same frame twice.
struct Knob {
    file: String,
    word: &'static str,
    before: String,
}

/// What comes where no answer would go is dropped (unless "all" is 2), and so is IPv6. None on a kernel
/// without it.
fn knobs(nic: &Link) -> Vec<Knob> {
    let files = [
        (format!("/proc/sys/net/ipv4/conf/{}/rp_filter", nic.name), "rp_filter"),
        (format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", nic.name), "disable_ipv6"),
    ];
    let knob = |(file, word): (String, &'static str)| {
        let is = fs::read_to_string(&file).ok()?.trim().to_owned();
        let known = words(nic).filter_map(|known| known.strip_prefix(word)?.strip_prefix('=')).next();
        Some(Knob { file, word, before: known.map_or(is, str::to_owned) })
    };
    files.into_iter().filter_map(knob).collect()
}

impl Knob {
    /// As the alias of the card has it.
    fn told(&self) -> String {
        format!(" {}={}", self.word, self.before)
    }

    fn is_set(&self) -> bool {
        fs::read_to_string(&self.file).is_ok_and(|is| is.trim() == "1")
    }

    fn write(&self, value: &str) -> Result<()> {
        fs::write(&self.file, value).with_context(|| format!("cannot write '{value}' to '{}'", self.file))
    }
}

/// Before the switch is removed: the card gets back what it brought, and the routes over it. From there on
/// the way is forward only: a switch that is half gone would keep them from the world.
pub fn give_back(machine: &mut Machine, nic: &Link, switch: &Link) -> Result<()> {
    let own = remembered(nic);
    let luggage = pack(machine, switch.index, |cidr| own.contains(cidr))?;
    let mut there = vec![rtnl::set_alias(&nic.name, &nic.alias)];
    let mut back = Vec::new();
    if switch.kind == "bridge" {
        there.push(rtnl::set_master(&nic.name, switch.index));
        back = vec![rtnl::set_alias(&nic.name, alias_before(nic)), rtnl::set_master(&nic.name, 0)];
    } else if ovs_switches(machine, switch)? {
        loosen(machine, nic)?;
        there.push(rtnl::set_arp(&nic.name, false));
        back.push(rtnl::set_arp(&nic.name, true));
    }
    there.extend(carry(&luggage, nic.index, switch.index));
    machine.did(Undo::Outside(there));
    back.extend(carry(&luggage, switch.index, nic.index));
    tell(machine, back).with_context(|| format!("cannot give '{}' back", nic.name))?;
    machine.keep();
    Ok(())
}

/// The knobs become what they were.
fn loosen(machine: &mut Machine, nic: &Link) -> Result<()> {
    for knob in knobs(nic).into_iter().filter(|knob| words(nic).any(|word| word == knob.told().trim())) {
        machine.did(Undo::File(knob.file.clone(), "1".into()));
        knob.write(&knob.before)?;
    }
    Ok(())
}

/// After it has what it brought and is no port any more.
pub fn forget(machine: &mut Machine, nic: &Link) -> Result<()> {
    machine.outside.tell(vec![rtnl::set_alias(&nic.name, alias_before(nic))])
}

/// Cards that were uplinks of switches that somebody has removed, or a killed command, too early to say so.
pub fn orphans(machine: &mut Machine, links: &[Link]) -> Result<Vec<Link>> {
    let mut orphans = Vec::new();
    for nic in links.iter().filter(|link| is_uplink(link) && link.master.is_none()) {
        // While Open vSwitch does not answer, nobody knows whose ports there are.
        if machine.ovs().is_ok() && plug::of_port(machine, nic)?.is_none() {
            orphans.push(nic.clone());
        }
    }
    Ok(orphans)
}

/// An orphan gets back those of its addresses that nobody has taken over.
pub fn adopt(machine: &mut Machine, nic: &Link, links: &[Link]) -> Result<()> {
    loosen(machine, nic)?;
    let mut taken = Vec::new();
    for link in links {
        taken.extend(rtnl::addresses(&mut machine.outside, link.index)?);
    }
    let mut back = vec![rtnl::set_arp(&nic.name, true)];
    let lost = remembered(nic).into_iter().filter(|cidr| !taken.contains(cidr));
    back.extend(lost.map(|cidr| rtnl::new_address(nic.index, &cidr)));
    back.push(rtnl::set_alias(&nic.name, alias_before(nic)));
    tell(machine, back).with_context(|| format!("cannot give '{}' back", nic.name))?;
    machine.keep();
    Ok(())
}

/// All in one datagram. What was to be taken away may have gone with something else.
fn tell(machine: &mut Machine, messages: Vec<Message>) -> Result<()> {
    let fatal = |error: &anyhow::Error| {
        !matches!(errno(error), Some(Errno::ESRCH | Errno::EADDRNOTAVAIL | Errno::ENODEV))
    };
    let answers = machine.outside.batch(messages)?;
    answers
        .into_iter()
        .try_for_each(|answer| answer.result.or_else(|e| if fatal(&e) { Err(e) } else { Ok(()) }))
}
