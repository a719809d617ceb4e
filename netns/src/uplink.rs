//! uplink: a network card of the host becomes a port of a switch, and its addresses and routes the switch's:
//! left on the card they would hear nothing any more. All in one datagram, so that a shell over that very
//! card lives on, and back when the switch is deleted.
//!
//! Which addresses came with the card is written in its alias: "netns uplink ADDRESS/PREFIX …". Open vSwitch
//! is told first, and for a moment the card is both the host's and its.

use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;

use crate::address::{Cidr, Mac};
use crate::link::ALIAS;
use crate::machine::{Machine, Undo};
use crate::netlink::{Attributes, Message, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, errno, u32_at};
use crate::ovs::NewPort;
use crate::plug;
use crate::rtnl::{self, Link};

const MARK: &str = "netns uplink";

// linux/rtnetlink.h, linux/if_addr.h
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const IFA_LABEL: u16 = 3;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x02;
/// Those flags of an address that are somebody's wish and not its state: MANAGETEMPADDR, NOPREFIXROUTE.
const WISHES: u32 = 0x100 | 0x200;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_NH_ID: u16 = 30;
/// DST, GATEWAY, PRIORITY, PREFSRC, METRICS, TABLE, VIA, PREF, EXPIRES: the rest is told, not asked for.
const COPIED: [u16; 9] = [1, 5, 6, 7, 8, 15, 18, 20, 23];
const RTPROT_KERNEL: u8 = 2;
const RT_TABLE_LOCAL: u8 = 255;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;

/// An address or a route as the kernel told it: the fixed structure and the attributes.
type Raw = Vec<u8>;

/// What is about to go from one interface to another.
#[derive(Default)]
struct Luggage {
    addresses: Vec<(Cidr, Raw)>,
    routes: Vec<Raw>,
}

/// A card that is to become a port.
pub struct Move {
    nic: Link,
    luggage: Luggage,
}

impl Move {
    pub fn nic(&self) -> &str {
        &self.nic.name
    }
}

pub fn is_one(link: &Link) -> bool {
    link.alias.starts_with(MARK)
}

/// None where the card is a port of the switch already.
pub fn plan(machine: &mut Machine, nic: &str, switch: Option<&Link>) -> Result<Option<Move>> {
    let found = rtnl::find_link(&mut machine.outside, nic)?;
    let nic = found.with_context(|| format!("no interface '{nic}'"))?;
    let name = &nic.name;
    let is_on = plug::of_port(machine, &nic)?;
    if is_one(&nic) && is_on.is_some() && is_on.as_deref() == switch.map(|switch| &*switch.name) {
        return Ok(None);
    }
    if nic.master.is_some() || is_on.is_some() {
        bail!("'{name}' is a port of something already");
    }
    if nic.loopback || nic.kind == "bridge" || nic.alias.starts_with(ALIAS) {
        bail!("'{name}' cannot be an uplink");
    }
    let luggage = pack(machine, nic.index, |_| true)?;
    let list: Vec<String> = luggage.addresses.iter().map(|(cidr, _)| format!(" {cidr}")).collect();
    if MARK.len() + " rp_filter=2 disable_ipv6=1".len() + list.concat().len() > 255 {
        bail!("'{name}' has more addresses than can be remembered in its alias");
    }
    Ok(Some(Move { nic, luggage }))
}

/// The addresses that a switch has from its uplink.
pub fn brought(machine: &mut Machine, switch: Option<&Link>) -> Result<Vec<Cidr>> {
    let Some(switch) = switch else { return Ok(Vec::new()) };
    for nic in rtnl::all_links(&mut machine.outside)?.iter().filter(|link| is_one(link)) {
        if plug::of_port(machine, nic)?.as_deref() == Some(&*switch.name) {
            return Ok(remembered(nic));
        }
    }
    Ok(Vec::new())
}

pub fn remembered(nic: &Link) -> Vec<Cidr> {
    nic.alias.split(' ').filter_map(|word| Cidr::parse(word).ok()).collect()
}

/// The card becomes a port, and the switch takes its MAC address too: networks of clouds accept no other.
pub fn act(machine: &mut Machine, uplink: &Move, switch: &Link) -> Result<()> {
    let Move { nic, luggage } = uplink;
    let old_mac = Mac::try_from(&switch.mac[..]).context("the switch has no MAC address")?;
    let mac = Mac::try_from(&nic.mac[..]).with_context(|| format!("'{}' has no MAC address", nic.name))?;
    let by_kernel = switch.kind == "bridge";
    let silenced = if by_kernel { String::new() } else { attach_to_ovs(machine, nic, switch, mac)? };
    let mut back = vec![rtnl::set_alias(&nic.name, &nic.alias), rtnl::set_mac(&switch.name, old_mac)];
    if by_kernel {
        back.push(rtnl::set_master(&nic.name, 0));
    }
    back.extend(carry(luggage, switch.index, nic.index));
    machine.did(Undo::Outside(back));
    let list: Vec<String> = luggage.addresses.iter().map(|(cidr, _)| format!(" {cidr}")).collect();
    let mut there = vec![rtnl::set_mac(&switch.name, mac)];
    if by_kernel {
        there.push(rtnl::set_master(&nic.name, switch.index));
    }
    there.push(rtnl::set_alias(&nic.name, &format!("{MARK}{silenced}{}", list.concat())));
    there.push(rtnl::set_up(&nic.name));
    there.extend(carry(luggage, nic.index, switch.index));
    tell(machine, there).with_context(|| format!("cannot move '{}' to the switch", nic.name))
}

/// Gives back what is to be remembered of the card.
fn attach_to_ovs(machine: &mut Machine, nic: &Link, switch: &Link, mac: Mac) -> Result<String> {
    let (ovs, cancel) = machine.ovs()?.context("Open vSwitch has gone")?;
    let netdev = ovs.bridge(&switch.name, cancel)?.is_some_and(|bridge| bridge.netdev);
    ovs.set_mac(&switch.name, mac, cancel)?;
    let port =
        NewPort { bridge: &switch.name, name: &nic.name, ship: None, tag: None, trunks: &[], tunnel: None };
    ovs.add_ports(&[port], cancel)?;
    machine.did(Undo::Ports(vec![nic.name.clone()]));
    if !netdev {
        return Ok(String::new());
    }
    machine.did(Undo::Outside(vec![rtnl::set_arp(&nic.name, true)]));
    machine.outside.tell(vec![rtnl::set_arp(&nic.name, false)])?;
    let mut remembered = String::new();
    for (file, word) in knobs(&nic.name) {
        let Ok(old) = fs::read_to_string(&file) else { continue }; // a kernel without IPv6
        fs::write(&file, "1").with_context(|| format!("cannot write '1' to '{file}'"))?;
        remembered += &format!(" {word}={}", old.trim());
        machine.did(Undo::File(file, old));
    }
    Ok(remembered)
}

/// Where ovs-vswitchd switches itself it gets a copy of each frame, and the host the frame: it must not take
/// the same twice. What comes where no answer would go is dropped (unless "all" is 2), and so is IPv6.
fn knobs(nic: &str) -> [(String, &'static str); 2] {
    [
        (format!("/proc/sys/net/ipv4/conf/{nic}/rp_filter"), "rp_filter"),
        (format!("/proc/sys/net/ipv6/conf/{nic}/disable_ipv6"), "disable_ipv6"),
    ]
}

/// Before the switch is removed: the card gets back what it brought, and the routes over it.
pub fn give_back(machine: &mut Machine, nic: &Link, switch: &Link) -> Result<()> {
    let own = remembered(nic);
    let luggage = pack(machine, switch.index, |cidr| own.contains(cidr))?;
    let mut there = vec![rtnl::set_alias(&nic.name, &nic.alias)];
    let mut back = vec![rtnl::set_alias(&nic.name, "")];
    if switch.kind == "bridge" {
        there.push(rtnl::set_master(&nic.name, switch.index));
        back.push(rtnl::set_master(&nic.name, 0));
    } else {
        let (ovs, cancel) = machine.ovs()?.context("Open vSwitch has gone")?;
        ovs.delete_ports(&[&nic.name], cancel)?;
        back.push(rtnl::set_arp(&nic.name, true));
        for (file, word) in knobs(&nic.name) {
            let old = nic.alias.split(' ').find_map(|known| known.strip_prefix(word)?.strip_prefix('='));
            let Some(old) = old else { continue };
            fs::write(&file, old).with_context(|| format!("cannot write '{old}' to '{file}'"))?;
            machine.did(Undo::File(file, "1".into()));
        }
    }
    there.extend(carry(&luggage, nic.index, switch.index));
    machine.did(Undo::Outside(there));
    back.extend(carry(&luggage, switch.index, nic.index));
    tell(machine, back).with_context(|| format!("cannot give '{}' back", nic.name))
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

/// First the new addresses, so that routes have somewhere to go; then the old ones away.
fn carry(luggage: &Luggage, from: u32, to: u32) -> Vec<Message> {
    let mut messages: Vec<Message> =
        luggage.addresses.iter().map(|(cidr, raw)| address(RTM_NEWADDR, cidr, raw, to)).collect();
    messages.extend(luggage.routes.iter().map(|raw| route(RTM_DELROUTE, raw, from)));
    messages.extend(luggage.addresses.iter().map(|(cidr, raw)| address(RTM_DELADDR, cidr, raw, from)));
    messages.extend(luggage.routes.iter().map(|raw| route(RTM_NEWROUTE, raw, to)));
    messages
}

fn address(kind: u16, cidr: &Cidr, raw: &Raw, index: u32) -> Message {
    let (what, flags) = match kind {
        RTM_NEWADDR => (format!("give '{cidr}'"), NLM_F_CREATE | NLM_F_REPLACE),
        _ => (format!("take '{cidr}' away"), 0),
    };
    let mut fixed: [u8; 8] = raw[..8].try_into().expect("checked when it was packed");
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut wishes = u32::from(fixed[2]);
    let mut message = Message::new(what, kind, flags, &{
        fixed[2] = 0;
        fixed
    });
    for (attribute, value) in Attributes(&raw[8..]) {
        match attribute {
            IFA_LABEL => {} // begins with the name of its interface
            IFA_FLAGS => wishes = u32_at(value, 0).unwrap_or(0),
            _ => message = message.put(attribute, value),
        }
    }
    let nodad = if cidr.address.is_ipv6() { IFA_F_NODAD } else { 0 };
    message.put_u32(IFA_FLAGS, (wishes & WISHES) | nodad)
}

fn route(kind: u16, raw: &Raw, index: u32) -> Message {
    let (what, flags) = match kind {
        RTM_NEWROUTE => ("set a route", NLM_F_CREATE | NLM_F_REPLACE),
        _ => ("take a route away", 0),
    };
    let mut fixed: [u8; 12] = raw[..12].try_into().expect("checked when it was packed");
    let flags_of_route = u32_at(&fixed, 8).unwrap_or(0) & RTNH_F_ONLINK;
    fixed[8..12].copy_from_slice(&flags_of_route.to_ne_bytes());
    let message = Message::new(what, kind, flags, &fixed).put_u32(RTA_OIF, index);
    let copied = Attributes(&raw[12..]).filter(|(attribute, _)| COPIED.contains(attribute));
    copied.fold(message, |message, (attribute, value)| message.put(attribute, value))
}

/// The wanted addresses of an interface, and the routes over it that are not the kernel's own: those to
/// neighbours first, as the others need them.
fn pack(machine: &mut Machine, index: u32, wanted: impl Fn(&Cidr) -> bool) -> Result<Luggage> {
    let mut luggage = Luggage::default();
    let mut fixed = [0; 8];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    machine.outside.dump(Message::new("list the addresses", RTM_GETADDR, NLM_F_DUMP, &fixed), |payload| {
        let address = rtnl::parse_address(payload).filter(|_| u32_at(payload, 4) == Some(index));
        luggage.addresses.extend(address.filter(&wanted).map(|cidr| (cidr, payload.to_vec())));
    })?;
    let mut tangled = false;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let mut fixed = [0; 12];
        fixed[0] = family;
        machine.outside.dump(
            Message::new("list the routes", RTM_GETROUTE, NLM_F_DUMP, &fixed),
            |payload| match sort(payload, index) {
                Kind::Tangled => tangled = true,
                Kind::Ours if belongs(payload, &luggage.addresses) => luggage.routes.push(payload.to_vec()),
                _ => {}
            },
        )?;
    }
    if tangled {
        bail!("routes with several next hops lead over it, which cannot be moved");
    }
    let (over_gateways, direct): (Vec<_>, Vec<_>) =
        luggage.routes.into_iter().partition(|raw| find(raw, RTA_GATEWAY).is_some());
    luggage.routes = [direct, over_gateways].concat();
    Ok(luggage)
}

pub enum Kind {
    Ours,
    Tangled,
    Other,
}

fn find(raw: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut attributes = Attributes(raw.get(12..)?);
    attributes.find(|(attribute, _)| *attribute == wanted).map(|(_, value)| value)
}

pub fn sort(payload: &[u8], index: u32) -> Kind {
    let [table, protocol, _, kind] = [4, 5, 6, 7].map(|at| payload.get(at).copied().unwrap_or(0));
    if protocol == RTPROT_KERNEL || table == RT_TABLE_LOCAL || kind != RTN_UNICAST {
        return Kind::Other;
    }
    // struct rtnexthop: length, flags, hops, index.
    let mut hops = find(payload, RTA_MULTIPATH).unwrap_or(&[]);
    while let Some(hop) = u32_at(hops, 4) {
        if hop == index {
            return Kind::Tangled;
        }
        let length = crate::netlink::u16_at(hops, 0).map_or(0, usize::from).next_multiple_of(4).max(8);
        hops = hops.get(length..).unwrap_or(&[]);
    }
    match find(payload, RTA_OIF).and_then(|value| u32_at(value, 0)) {
        Some(oif) if oif == index && find(payload, RTA_NH_ID).is_some() => Kind::Tangled,
        Some(oif) if oif == index => Kind::Ours,
        _ => Kind::Other,
    }
}

/// Whether a route goes with these addresses: it leads to one of their neighbours or comes from one of them.
fn belongs(payload: &[u8], addresses: &[(Cidr, Raw)]) -> bool {
    let ip = |wanted| find(payload, wanted).and_then(rtnl::parse_ip);
    let source = ip(RTA_PREFSRC);
    let near = |gateway: IpAddr| {
        matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local())
            || addresses.iter().any(|(cidr, _)| cidr.contains(gateway))
    };
    match (ip(RTA_GATEWAY), source) {
        (Some(gateway), _) => near(gateway),
        (None, Some(source)) => addresses.iter().any(|(cidr, _)| cidr.address == source),
        (None, None) => true,
    }
}
