//! luggage: the addresses and routes of an interface, packed to go to another one.

use std::net::IpAddr;

use anyhow::{Result, bail};

use crate::address::Cidr;
use crate::machine::Machine;
use crate::netlink::{Attributes, Message, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, u16_at, u32_at};
use crate::rtnl;

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
pub struct Luggage {
    addresses: Vec<(Cidr, Raw)>,
    routes: Vec<Raw>,
}

impl Luggage {
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.routes.is_empty()
    }

    pub fn addresses(&self) -> impl Iterator<Item = Cidr> {
        self.addresses.iter().map(|(cidr, _)| *cidr)
    }
}

/// First the new addresses, so that routes have somewhere to go; then the old ones away.
pub fn carry(luggage: &Luggage, from: u32, to: u32) -> Vec<Message> {
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
pub fn pack(machine: &mut Machine, index: u32, wanted: impl Fn(&Cidr) -> bool) -> Result<Luggage> {
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
        let length = u16_at(hops, 0).map_or(0, usize::from).next_multiple_of(4).max(8);
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
