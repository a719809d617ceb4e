//! filters: firewalls that drop what passes through the host unless a rule lets it: Docker's and many others'.
//! They swallow what ships send without a word, so one comes from us. Where br_netfilter is on that is true
//! for traffic between ships of one switch, too.
//!
//! The chains are read from the kernel (linux/netfilter/nf_tables.h): to run nft for it would cost every new
//! switch 10 ms.

use std::fs;
use std::process::{Command, Output, Stdio};

use anyhow::Result;
use nix::sys::socket::SockProtocol;
use unshare::fail::say;

use crate::netlink::{Attributes, Message, NLM_F_DUMP, Socket, string};

const NFT_MSG_GETCHAIN: u16 = (10 << 8) | 4;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_HOOK_HOOKNUM: u16 = 1;
/// NF_INET_FORWARD and NF_BR_FORWARD.
const FORWARD: u32 = 2;
const NF_DROP: u32 = 0;
const FAMILIES: [(u8, &str); 4] = [(1, "inet"), (2, "ip"), (7, "bridge"), (10, "ip6")];

const BRIDGE_CALLS: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// Warns for those switches; `outside` says whether they are to reach more than each other.
pub fn warn(switches: &[String], outside: bool) {
    let bridged = fs::read_to_string(BRIDGE_CALLS).is_ok_and(|value| value.trim() == "1");
    if switches.is_empty() || !(outside || bridged) {
        return;
    }
    // On a kernel without nf_tables there is nothing to be afraid of but the old tables.
    let mut chains = dropping().unwrap_or_default();
    chains.extend(dropping_legacy());
    for chain in chains {
        let what = if bridged { "between ships and to the outside" } else { "to the outside" };
        let switches = switches.join("', '");
        say(
            "netns",
            &format!("warning: policy drop of '{chain}' will swallow traffic of '{switches}' {what}"),
        );
    }
}

fn dropping() -> Result<Vec<String>> {
    let mut socket = Socket::of(SockProtocol::NetlinkNetFilter)?;
    let mut chains = Vec::new();
    // struct nfgenmsg: of all families.
    socket.dump(Message::new("list the chains", NFT_MSG_GETCHAIN, NLM_F_DUMP, &[0; 4]), |payload| {
        chains.extend(drops(payload));
    })?;
    Ok(chains)
}

/// The chain's name, if it is one of those.
pub fn drops(payload: &[u8]) -> Option<String> {
    let (_, family) = FAMILIES.iter().find(|(number, _)| payload.first() == Some(number))?;
    let find = |nest: &'_ [u8], wanted| {
        Attributes(nest).find(|(kind, _)| *kind == wanted).map(|(_, value)| value.to_vec())
    };
    let number = |bytes: Vec<u8>| bytes.try_into().ok().map(u32::from_be_bytes);
    let chain = payload.get(4..)?;
    let hook = number(find(&find(chain, NFTA_CHAIN_HOOK)?, NFTA_HOOK_HOOKNUM)?)?;
    let policy = number(find(chain, NFTA_CHAIN_POLICY)?)?;
    let (table, name) = (find(chain, NFTA_CHAIN_TABLE)?, find(chain, NFTA_CHAIN_NAME)?);
    (hook == FORWARD && policy == NF_DROP).then(|| format!("{family} {} {}", string(&table), string(&name)))
}

/// The chains of the old iptables, which nf_tables does not know. The tables are asked for only where they are
/// in use: to ask is to load them.
fn dropping_legacy() -> Vec<String> {
    let mut chains = Vec::new();
    for (names, program, word) in [
        ("/proc/net/ip_tables_names", "iptables-legacy", "iptables FORWARD"),
        ("/proc/net/ip6_tables_names", "ip6tables-legacy", "ip6tables FORWARD"),
    ] {
        let used = fs::read_to_string(names).is_ok_and(|list| list.lines().any(|line| line == "filter"));
        if !used {
            continue;
        }
        // Where there is only one iptables it has the plain name.
        let listed = [program, program.trim_end_matches("-legacy")].into_iter().find_map(|program| {
            Command::new(program).args(["-S", "FORWARD"]).stderr(Stdio::null()).output().ok()
        });
        let drops = |output: Output| {
            String::from_utf8_lossy(&output.stdout).lines().any(|line| line == "-P FORWARD DROP")
        };
        if listed.is_some_and(drops) {
            chains.push(word.to_owned());
        }
    }
    chains
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = [(4 + value.len() as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn chain(family: u8, hook: u32, policy: u32) -> Vec<u8> {
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
    fn only_chains_that_drop_what_is_forwarded_are_named() {
        assert_eq!(drops(&chain(2, FORWARD, NF_DROP)).as_deref(), Some("ip filter FORWARD"));
        assert_eq!(drops(&chain(1, FORWARD, NF_DROP)).as_deref(), Some("inet filter FORWARD"));
        for other in [chain(2, FORWARD, 1), chain(2, 1, NF_DROP), chain(3, FORWARD, NF_DROP), vec![2], vec![]]
        {
            assert_eq!(drops(&other), None);
        }
    }
}
