//! link: an interface as the kernel describes it, and how to find it.

use anyhow::Result;
use nix::errno::Errno;

use super::{
    IFLA_ADDRESS, IFLA_BR_VLAN_FILTERING, IFLA_BRPORT_MODE, IFLA_EXT_MASK, IFLA_IFALIAS, IFLA_IFNAME,
    IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_INFO_SLAVE_DATA, IFLA_LINK, IFLA_LINKINFO, IFLA_MASTER, IFLA_MTU,
    PROMISC, RTM_DELLINK, RTM_GETLINK, UP, ifinfo,
};
use crate::netlink::{Attributes, Message, NLM_F_DUMP, Socket, errno, string, u16_at, u32_at};

const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_BRPORT_STATE: u16 = 1;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;

/// An interface as the kernel describes it.
#[derive(Clone, Debug)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub up: bool,
    pub promisc: bool,
    pub loopback: bool,
    pub kind: String,
    pub alias: String,
    pub mac: Vec<u8>,
    pub mtu: u32,
    pub master: Option<u32>,
    /// The other end of a veth, by its index over there; what a macvlan sits on.
    pub peer: Option<u32>,
    /// By which number this network namespace knows the one of the other end, if that is another.
    pub peer_ns: Option<i32>,
    /// As a port of a bridge.
    pub port: Option<PortState>,
    /// As a port of a bridge: whether frames go back where they came from.
    pub hairpin: bool,
    /// As a bridge: whether it keeps VLANs apart.
    pub vlan_filtering: bool,
}

/// linux/if_bridge.h, BR_STATE_*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// No carrier yet, or switched off.
    Disabled,
    Forwarding,
    /// The spanning tree protocol has not decided.
    Undecided,
}

impl Link {
    pub fn parse(payload: &[u8]) -> Option<Link> {
        let mut link = Link {
            index: u32_at(payload, 4)?,
            name: String::new(),
            up: u32_at(payload, 8)? & UP != 0,
            promisc: u32_at(payload, 8)? & PROMISC != 0,
            loopback: u32_at(payload, 8)? & libc::IFF_LOOPBACK as u32 != 0,
            kind: String::new(),
            alias: String::new(),
            mac: Vec::new(),
            mtu: 0,
            master: None,
            peer: None,
            peer_ns: None,
            port: None,
            hairpin: false,
            vlan_filtering: false,
        };
        for (attribute, value) in Attributes(payload.get(16..)?) {
            match attribute {
                IFLA_IFNAME => link.name = string(value),
                IFLA_IFALIAS => link.alias = string(value),
                IFLA_ADDRESS => link.mac = value.to_vec(),
                IFLA_MTU => link.mtu = u32_at(value, 0)?,
                IFLA_MASTER => link.master = u32_at(value, 0),
                IFLA_LINK => link.peer = u32_at(value, 0),
                IFLA_LINK_NETNSID => link.peer_ns = u32_at(value, 0).map(|id| id as i32),
                IFLA_LINKINFO => link.parse_info(value),
                _ => {}
            }
        }
        // Kernels before 5.17 leave the index of the other end out where it is this one's, too, as it is between
        // two namespaces by chance (net/core/rtnetlink.c, nla_put_iflink).
        if link.peer.is_none() && ["veth", "macvlan", "macvtap"].contains(&link.kind.as_str()) {
            link.peer = Some(link.index);
        }
        Some(link)
    }

    fn parse_info(&mut self, info: &[u8]) {
        for (attribute, value) in Attributes(info) {
            match attribute {
                IFLA_INFO_KIND => self.kind = string(value),
                IFLA_INFO_DATA if self.kind == "bridge" => {
                    let filtering = Attributes(value).find(|(kind, _)| *kind == IFLA_BR_VLAN_FILTERING);
                    self.vlan_filtering = filtering.is_some_and(|(_, on)| on.first() == Some(&1));
                }
                IFLA_INFO_SLAVE_DATA => {
                    let hairpin = Attributes(value).find(|(kind, _)| *kind == IFLA_BRPORT_MODE);
                    self.hairpin = hairpin.is_some_and(|(_, on)| on.first() == Some(&1));
                    let state = Attributes(value).find(|(kind, _)| *kind == IFLA_BRPORT_STATE);
                    self.port = state.and_then(|(_, state)| state.first()).map(|state| match state {
                        3 => PortState::Forwarding,
                        1 | 2 => PortState::Undecided,
                        _ => PortState::Disabled,
                    });
                }
                _ => {}
            }
        }
    }
}

pub fn get_link(name: &str) -> Message {
    Message::new(format!("find '{name}'"), RTM_GETLINK, 0, &ifinfo(0, 0, 0))
        .put_str(IFLA_IFNAME, name)
        .put_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
}

/// The link of that name, or None where there is none.
pub fn find_link(socket: &mut Socket, name: &str) -> Result<Option<Link>> {
    found(socket.ask(get_link(name)))
}

pub fn find_index(socket: &mut Socket, index: u32) -> Result<Option<Link>> {
    let message = Message::new(format!("find interface {index}"), RTM_GETLINK, 0, &ifinfo(index, 0, 0));
    found(socket.ask(message.put_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)))
}

/// Reads the answer to `get_link`.
pub fn found(answer: Result<Option<Vec<u8>>>) -> Result<Option<Link>> {
    match answer {
        Ok(payload) => Ok(payload.as_deref().and_then(Link::parse)),
        Err(error) if errno(&error) == Some(Errno::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

pub fn all_links(socket: &mut Socket) -> Result<Vec<Link>> {
    let message = Message::new("list the links", RTM_GETLINK, NLM_F_DUMP, &ifinfo(0, 0, 0))
        .put_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    let mut links = Vec::new();
    socket.dump(message, |payload| links.extend(Link::parse(payload)))?;
    Ok(links)
}

/// The link that a notification says is gone. A bridge tells of ports that leave it in the same words, but
/// under its own family.
pub fn gone(kind: u16, payload: &[u8]) -> Option<u32> {
    let device = u16_at(payload, 0)? as u8 == libc::AF_UNSPEC as u8;
    (kind == RTM_DELLINK && device).then(|| u32_at(payload, 4)).flatten()
}

#[cfg(test)]
mod tests {
    use super::super::RTM_NEWLINK;
    use super::*;

    #[test]
    fn a_link_without_the_index_of_its_other_end_has_that_of_its_own() {
        let device = |kind: &'static str| {
            Message::new("", RTM_NEWLINK, 0, &ifinfo(7, 0, 0))
                .nest(IFLA_LINKINFO, |m| m.put_str(IFLA_INFO_KIND, kind))
        };
        let peer = |message: Message| Link::parse(&message.sealed()[16..]).unwrap().peer;
        assert_eq!(peer(device("veth").put_u32(IFLA_LINK, 9)), Some(9));
        assert_eq!(peer(device("macvtap")), Some(7));
        assert_eq!(peer(device("bridge")), None);
    }
}
