//! rtnl: the messages of rtnetlink(7) that make and change devices; below `rtnl`, what devices look like
//! (link) and their addresses and routes (address).

mod address;
mod link;

use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::{Context, Error, Result};
use nix::errno::Errno;

use crate::address::Mac;
use crate::netlink::{
    Attributes, Message, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Socket, errno, u16_at, u32_at,
};
use crate::sys;
pub use address::{
    addresses, delete_address, gateways, new_address, new_default_route, parse_address, parse_ip,
};
pub use link::{Link, PortState, all_links, find_index, find_link, get_link, gone};

// linux/rtnetlink.h
pub const RTM_NEWLINK: u16 = 16;
pub const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_GETNSID: u16 = 90;

// linux/if_link.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const BRIDGE_VLAN_INFO_PVID: u16 = 2;
const BRIDGE_VLAN_INFO_UNTAGGED: u16 = 4;
const IFLA_MACVLAN_MODE: u16 = 1;
const MACVLAN_MODE_BRIDGE: u32 = 4;
const IFLA_BRPORT_MODE: u16 = 4;
const RTEXT_FILTER_BRVLAN: u32 = 2;

// linux/net_namespace.h
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

const UP: u32 = libc::IFF_UP as u32;
const PROMISC: u32 = libc::IFF_PROMISC as u32;

/// struct ifinfomsg.
fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&change.to_ne_bytes());
    fixed
}

/// The two ends of a pair.
pub struct Pair<'a> {
    pub what: String,
    pub outer: &'a str,
    pub master: Option<u32>,
    pub inner: &'a str,
    pub namespace: BorrowedFd<'a>,
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
}

/// The pair in one message, all or nothing: the outer end up and a port of its bridge, the inner one born
/// in its namespace (a move would cost 20 ms of waiting in the kernel). The inner end must not be asked to
/// be up: drivers/net/veth.c, veth_newlink() answers ENOTCONN. One queue each way: with more the kernel
/// makes one for each processor and waits for RCU, while traffic uses one anyway.
pub fn new_pair(pair: &Pair<'_>) -> Message {
    let mtu = |message: Message| match pair.mtu {
        Some(mtu) => message.put_u32(IFLA_MTU, mtu),
        None => message,
    };
    let queues = |m: Message| m.put_u32(IFLA_NUM_TX_QUEUES, 1).put_u32(IFLA_NUM_RX_QUEUES, 1);
    let inner = |message: Message| {
        let message = queues(mtu(message.raw(&ifinfo(0, 0, 0)).put_str(IFLA_IFNAME, pair.inner)))
            .put_u32(IFLA_NET_NS_FD, pair.namespace.as_raw_fd() as u32);
        match pair.mac {
            Some(mac) => message.put(IFLA_ADDRESS, &mac),
            None => message,
        }
    };
    let message =
        Message::new(pair.what.as_str(), RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfo(0, UP, UP))
            .put_str(IFLA_IFNAME, pair.outer);
    let message = match pair.master {
        Some(master) => message.put_u32(IFLA_MASTER, master),
        None => message,
    };
    queues(mtu(message)).nest(IFLA_LINKINFO, |message| {
        message
            .put_str(IFLA_INFO_KIND, "veth")
            .nest(IFLA_INFO_DATA, |message| message.nest(VETH_INFO_PEER, inner))
    })
}

/// A device of a namespace that shares an interface of the host.
pub struct Shared<'a> {
    pub what: String,
    pub kind: &'a str,
    pub lower: u32,
    pub inner: &'a str,
    pub namespace: BorrowedFd<'a>,
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
}

/// A macvlan or macvtap born in its namespace; those of one interface reach each other, but not the host.
pub fn new_shared(shared: &Shared<'_>) -> Message {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let mut message = Message::new(shared.what.as_str(), RTM_NEWLINK, flags, &ifinfo(0, 0, 0))
        .put_str(IFLA_IFNAME, shared.inner)
        .put_u32(IFLA_LINK, shared.lower)
        .put_u32(IFLA_NET_NS_FD, shared.namespace.as_raw_fd() as u32);
    if let Some(mac) = shared.mac {
        message = message.put(IFLA_ADDRESS, &mac);
    }
    if let Some(mtu) = shared.mtu {
        message = message.put_u32(IFLA_MTU, mtu);
    }
    message.nest(IFLA_LINKINFO, |message| {
        message
            .put_str(IFLA_INFO_KIND, shared.kind)
            .nest(IFLA_INFO_DATA, |message| message.put_u32(IFLA_MACVLAN_MODE, MACVLAN_MODE_BRIDGE))
    })
}

/// A bridge that forwards as soon as it is switched on. Its MAC address is its own: one that is not set follows
/// the ports as they come and go, and the ships' neighbour tables would point at nobody.
pub fn new_bridge(name: &str, mac: Mac) -> Message {
    let what = format!("make the switch '{name}'");
    Message::new(what, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfo(0, 0, 0))
        .put_str(IFLA_IFNAME, name)
        .put(IFLA_ADDRESS, &mac)
        .nest(IFLA_LINKINFO, |message| {
            message
                .put_str(IFLA_INFO_KIND, "bridge")
                .nest(IFLA_INFO_DATA, |m| m.put_u32(IFLA_BR_FORWARD_DELAY, 0).put_u32(IFLA_BR_STP_STATE, 0))
        })
}

pub fn set_up(name: &str) -> Message {
    let what = format!("switch '{name}' on");
    Message::new(what, RTM_NEWLINK, 0, &ifinfo(0, UP, UP)).put_str(IFLA_IFNAME, name)
}

pub fn set_up_inside(name: &str, promisc: bool) -> Message {
    let flags = if promisc { UP | PROMISC } else { UP };
    let what = format!("switch '{name}' on in the namespace");
    Message::new(what, RTM_NEWLINK, 0, &ifinfo(0, flags, flags)).put_str(IFLA_IFNAME, name)
}

/// Whether a bridge keeps VLANs apart.
pub fn set_vlan_filtering(name: &str, on: bool) -> Message {
    let what = format!("set VLAN filtering of '{name}'");
    Message::new(what, RTM_NEWLINK, 0, &ifinfo(0, 0, 0)).put_str(IFLA_IFNAME, name).nest(IFLA_LINKINFO, |m| {
        m.put_str(IFLA_INFO_KIND, "bridge")
            .nest(IFLA_INFO_DATA, |m| m.put(IFLA_BR_VLAN_FILTERING, &[u8::from(on)]))
    })
}

/// One VLAN of a bridge's port: of its untagged frames, or carried tagged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanEntry {
    pub id: u16,
    pub untagged: bool,
}

pub fn add_vlan(port: u32, entry: VlanEntry) -> Message {
    let flags = if entry.untagged { BRIDGE_VLAN_INFO_PVID | BRIDGE_VLAN_INFO_UNTAGGED } else { 0 };
    vlan(format!("put the port into VLAN {}", entry.id), RTM_SETLINK, port, flags, entry.id)
}

pub fn remove_vlan(port: u32, id: u16) -> Message {
    vlan(format!("take the port out of VLAN {id}"), RTM_DELLINK, port, 0, id)
}

fn vlan(what: String, kind: u16, port: u32, flags: u16, id: u16) -> Message {
    let mut fixed = ifinfo(port, 0, 0);
    fixed[0] = libc::AF_BRIDGE as u8;
    let info = [flags.to_ne_bytes(), id.to_ne_bytes()].concat();
    Message::new(what, kind, 0, &fixed).nest(IFLA_AF_SPEC, |m| m.put(IFLA_BRIDGE_VLAN_INFO, &info))
}

pub fn set_hairpin(port: u32, on: bool) -> Message {
    let mut fixed = ifinfo(port, 0, 0);
    fixed[0] = libc::AF_BRIDGE as u8;
    Message::new("set the port's hairpin mode", RTM_SETLINK, 0, &fixed)
        .nest(IFLA_PROTINFO, |m| m.put(IFLA_BRPORT_MODE, &[u8::from(on)]))
}

/// The VLANs of a bridge's port.
pub fn vlans(socket: &mut Socket, port: u32) -> Result<Vec<VlanEntry>> {
    let mut fixed = ifinfo(0, 0, 0);
    fixed[0] = libc::AF_BRIDGE as u8;
    let message = Message::new("list the VLANs", RTM_GETLINK, NLM_F_DUMP, &fixed);
    let mut list = Vec::new();
    socket.dump(message.put_u32(IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN), |payload| {
        if u32_at(payload, 4) == Some(port) {
            list.extend(parse_vlans(payload));
        }
    })?;
    Ok(list)
}

pub fn parse_vlans(payload: &[u8]) -> Vec<VlanEntry> {
    let attributes = Attributes(payload.get(16..).unwrap_or(&[]));
    let nests = attributes.filter(|(kind, _)| *kind == IFLA_AF_SPEC);
    let infos =
        nests.flat_map(|(_, nest)| Attributes(nest)).filter(|(kind, _)| *kind == IFLA_BRIDGE_VLAN_INFO);
    infos
        .filter_map(|(_, info)| {
            let untagged = u16_at(info, 0)? & BRIDGE_VLAN_INFO_UNTAGGED != 0;
            Some(VlanEntry { id: u16_at(info, 2)?, untagged })
        })
        .collect()
}

/// Makes it a port of that bridge; 0 for none.
pub fn set_master(name: &str, master: u32) -> Message {
    let what = format!("make '{name}' a port");
    Message::new(what, RTM_NEWLINK, 0, &ifinfo(0, 0, 0))
        .put_str(IFLA_IFNAME, name)
        .put_u32(IFLA_MASTER, master)
}

pub fn set_mac(name: &str, mac: Mac) -> Message {
    let what = format!("set the MAC address of '{name}'");
    Message::new(what, RTM_NEWLINK, 0, &ifinfo(0, 0, 0)).put_str(IFLA_IFNAME, name).put(IFLA_ADDRESS, &mac)
}

pub fn set_mtu(name: &str, mtu: u32) -> Message {
    let what = format!("set the mtu of '{name}'");
    Message::new(what, RTM_NEWLINK, 0, &ifinfo(0, 0, 0)).put_str(IFLA_IFNAME, name).put_u32(IFLA_MTU, mtu)
}

/// Keeps the host from answering at an interface whose frames somebody else switches: the first message for
/// IPv4, where it would answer for every address it has, the second, which needs a kernel with IPv6, for
/// the address that this one would get.
pub fn be_deaf(name: &str) -> [Message; 2] {
    const NOARP: u32 = libc::IFF_NOARP as u32;
    const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
    const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
    let message = |fixed| {
        Message::new(format!("switch ARP of '{name}' off"), RTM_NEWLINK, 0, fixed).put_str(IFLA_IFNAME, name)
    };
    let ipv6 = |m: Message| m.put(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
    let families = |m: Message| m.nest(libc::AF_INET6 as u16, ipv6);
    [message(&ifinfo(0, NOARP, NOARP)), message(&ifinfo(0, 0, 0)).nest(IFLA_AF_SPEC, families)]
}

/// Whether the host asks and answers at that interface.
pub fn set_arp(name: &str, on: bool) -> Message {
    const NOARP: u32 = libc::IFF_NOARP as u32;
    let what = format!("set ARP of '{name}'");
    Message::new(what, RTM_NEWLINK, 0, &ifinfo(0, if on { 0 } else { NOARP }, NOARP))
        .put_str(IFLA_IFNAME, name)
}

pub fn set_alias(name: &str, alias: &str) -> Message {
    let what = format!("set the alias of '{name}'");
    Message::new(what, RTM_NEWLINK, 0, &ifinfo(0, 0, 0))
        .put_str(IFLA_IFNAME, name)
        .put(IFLA_IFALIAS, alias.as_bytes())
}

pub fn delete_link(name: &str) -> Message {
    Message::new(format!("remove '{name}'"), RTM_DELLINK, 0, &ifinfo(0, 0, 0)).put_str(IFLA_IFNAME, name)
}

/// Removes many devices at once: the kernel waits about 20 ms for each that is removed alone, and once for a
/// whole group. A device that is gone already is no error.
pub fn delete_links(socket: &mut Socket, names: &[String]) -> Result<()> {
    let gone = |error: &Error| errno(error) == Some(Errno::ENODEV);
    if let [name] = names {
        return socket.tell(vec![delete_link(name)]).or_else(|e| if gone(&e) { Ok(()) } else { Err(e) });
    }
    if names.is_empty() {
        return Ok(());
    }
    // Drawn by chance from two thousand million: no device is in it but these.
    let group = u32::from_ne_bytes(sys::random::<4>().context("cannot draw a number")?) | 0x8000_0000;
    for some in names.chunks(16) {
        let into = |name: &String| {
            let what = format!("mark '{name}'");
            Message::new(what, RTM_NEWLINK, 0, &ifinfo(0, 0, 0))
                .put_str(IFLA_IFNAME, name)
                .put_u32(IFLA_GROUP, group)
        };
        for answer in socket.batch(some.iter().map(into).collect())? {
            answer.result.or_else(|e| if gone(&e) { Ok(()) } else { Err(e) })?;
        }
    }
    let message =
        Message::new("remove the links", RTM_DELLINK, 0, &ifinfo(0, 0, 0)).put_u32(IFLA_GROUP, group);
    socket.tell(vec![message]).or_else(|e| if gone(&e) { Ok(()) } else { Err(e) })
}

/// The number by which this network namespace knows another; None where it knows it by none.
pub fn namespace_id(socket: &mut Socket, namespace: BorrowedFd<'_>) -> Result<Option<i32>> {
    let message = Message::new("ask for the namespace's number", RTM_GETNSID, 0, &[0; 4])
        .put_u32(NETNSA_FD, namespace.as_raw_fd() as u32);
    let payload = socket.ask(message)?.context("the kernel gave no namespace number")?;
    let mut attributes = Attributes(payload.get(4..).unwrap_or(&[]));
    let id = attributes.find(|(kind, _)| *kind == NETNSA_NSID).and_then(|(_, value)| u32_at(value, 0));
    Ok(id.map(|id| id as i32).filter(|id| *id >= 0))
}

/// Whether the number still stands for a namespace: not when that is being taken down.
pub fn namespace_lives(socket: &mut Socket, id: i32) -> bool {
    let message = Message::new("ask for a namespace", RTM_GETNSID, 0, &[0; 4]);
    socket.ask(message.put_u32(NETNSA_NSID, id as u32)).is_ok()
}
