//! address: addresses and default routes of an interface.

use std::net::IpAddr;

use anyhow::Result;

use crate::address::{Cidr, in_order, octets};
use crate::netlink::{Attributes, Message, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Socket, u32_at};

// linux/rtnetlink.h
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_TABLE: u16 = 15;

// linux/if_addr.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_NODAD: u8 = 2;

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

pub fn new_address(index: u32, cidr: &Cidr) -> Message {
    address(format!("give '{cidr}'"), RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, index, cidr)
}

pub fn delete_address(index: u32, cidr: &Cidr) -> Message {
    address(format!("take '{cidr}' away"), RTM_DELADDR, 0, index, cidr)
}

/// The kernel's own duplicate detection for IPv6 is left out: the address could not be used for a second,
/// and `probe` has asked already.
fn address(what: String, kind: u16, flags: u16, index: u32, cidr: &Cidr) -> Message {
    let nodad = if cidr.address.is_ipv6() { IFA_F_NODAD } else { 0 };
    let mut fixed = [family(cidr.address), cidr.prefix, nodad, 0, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    let octets_ = octets(cidr.address);
    let message = Message::new(what, kind, flags, &fixed).put(IFA_LOCAL, &octets_).put(IFA_ADDRESS, &octets_);
    match cidr.broadcast() {
        Some(broadcast) => message.put(IFA_BROADCAST, &octets(broadcast)),
        None => message,
    }
}

/// The addresses of one interface; those that IPv6 makes by itself (fe80::) are left out.
pub fn addresses(socket: &mut Socket, index: u32) -> Result<Vec<Cidr>> {
    let mut fixed = [0; 8];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut list = Vec::new();
    socket.dump(Message::new("list the addresses", RTM_GETADDR, NLM_F_DUMP, &fixed), |payload| {
        // Before 4.20 the kernel lists the addresses of all interfaces.
        if u32_at(payload, 4) == Some(index) {
            list.extend(parse_address(payload));
        }
    })?;
    Ok(in_order(list))
}

pub fn parse_address(payload: &[u8]) -> Option<Cidr> {
    let prefix = *payload.get(1)?;
    let attributes = || Attributes(payload.get(8..).unwrap_or(&[]));
    // IPv6 has the address in IFA_ADDRESS, IPv4 in IFA_LOCAL where the two differ.
    let value = attributes().find(|(kind, _)| *kind == IFA_LOCAL);
    let (_, value) = value.or_else(|| attributes().find(|(kind, _)| *kind == IFA_ADDRESS))?;
    let address = parse_ip(value)?;
    let own = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    (!own).then_some(Cidr { address, prefix })
}

pub fn parse_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

// struct rtmsg
fn rtmsg(family: u8) -> [u8; 12] {
    const RT_TABLE_MAIN: u8 = 254;
    const RTPROT_STATIC: u8 = 4;
    const RTN_UNICAST: u8 = 1;
    [family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_UNICAST, 0, 0, 0, 0]
}

pub fn new_default_route(index: u32, gateway: IpAddr) -> Message {
    let what = format!("set the gateway '{gateway}'");
    Message::new(what, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &rtmsg(family(gateway)))
        .put(RTA_GATEWAY, &octets(gateway))
        .put_u32(RTA_OIF, index)
}

/// The gateways of the default routes over one interface.
pub fn gateways(socket: &mut Socket, index: u32) -> Result<Vec<IpAddr>> {
    let mut list = Vec::new();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let mut fixed = [0; 12];
        fixed[0] = family;
        let message = Message::new("list the routes", RTM_GETROUTE, NLM_F_DUMP, &fixed);
        socket.dump(message.put_u32(RTA_TABLE, 254), |payload| {
            let attributes = || Attributes(payload.get(12..).unwrap_or(&[]));
            let over = attributes().any(|(kind, value)| kind == RTA_OIF && u32_at(value, 0) == Some(index));
            if over && payload.get(1) == Some(&0) {
                list.extend(attributes().filter(|(k, _)| *k == RTA_GATEWAY).filter_map(|(_, v)| parse_ip(v)));
            }
        })?;
    }
    Ok(list)
}
