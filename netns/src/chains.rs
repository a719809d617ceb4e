//! chains: those of nf_tables, as the kernel lists them (linux/netfilter/nf_tables.h).

use std::fmt;

use anyhow::Result;
use nix::sys::socket::SockProtocol;

use crate::netlink::{Attributes, Message, NLM_F_DUMP, Socket, string};

const NFT_MSG_GETCHAIN: u16 = (10 << 8) | 4;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const FAMILIES: [(u8, &str); 4] = [(1, "inet"), (2, "ip"), (7, "bridge"), (10, "ip6")];

#[derive(Debug)]
pub struct Chain {
    family: &'static str,
    pub table: String,
    pub name: String,
    /// Of a chain that packets come to by themselves.
    pub hook: Option<u32>,
    pub policy: Option<u32>,
}

/// As nft(8) names it.
impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.name)
    }
}

/// All of the host's; an error where the kernel has no nf_tables or the caller no CAP_NET_ADMIN.
pub fn all() -> Result<Vec<Chain>> {
    let mut socket = Socket::of(SockProtocol::NetlinkNetFilter)?;
    let mut chains = Vec::new();
    // struct nfgenmsg: of all families.
    socket.dump(Message::new("list the chains", NFT_MSG_GETCHAIN, NLM_F_DUMP, &[0; 4]), |payload| {
        chains.extend(Chain::parse(payload));
    })?;
    Ok(chains)
}

impl Chain {
    /// None for one of another family, as arp.
    pub fn parse(payload: &[u8]) -> Option<Chain> {
        let (_, family) = FAMILIES.iter().find(|(number, _)| payload.first() == Some(number))?;
        let mut chain = Chain { family, table: String::new(), name: String::new(), hook: None, policy: None };
        for (attribute, value) in Attributes(payload.get(4..)?) {
            match attribute {
                NFTA_CHAIN_TABLE => chain.table = string(value),
                NFTA_CHAIN_NAME => chain.name = string(value),
                NFTA_CHAIN_POLICY => chain.policy = number(value),
                NFTA_CHAIN_HOOK => {
                    let hook = Attributes(value).find(|(kind, _)| *kind == NFTA_HOOK_HOOKNUM);
                    chain.hook = hook.and_then(|(_, value)| number(value));
                }
                _ => {}
            }
        }
        Some(chain)
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = [(4 + value.len() as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// As the kernel sends it.
    pub fn chain(family: u8, hook: u32, policy: u32) -> Vec<u8> {
        let hook = attribute(NFTA_HOOK_HOOKNUM, &hook.to_be_bytes());
        [
            vec![family, 0, 0, 0],
            attribute(NFTA_CHAIN_TABLE, b"filter\0"),
            attribute(NFTA_CHAIN_NAME, b"FORWARD\0"),
            attribute(NFTA_CHAIN_HOOK, &hook),
            attribute(NFTA_CHAIN_POLICY, &policy.to_be_bytes()),
        ]
        .concat()
    }

    #[test]
    fn a_chain_is_read_as_the_kernel_sends_it() {
        let read = Chain::parse(&chain(2, 2, 0)).unwrap();
        assert_eq!(
            (read.to_string().as_str(), read.hook, read.policy),
            ("ip filter FORWARD", Some(2), Some(0))
        );
        for other in [chain(3, 2, 0), vec![2], vec![]] {
            assert!(Chain::parse(&other).is_none());
        }
    }
}
