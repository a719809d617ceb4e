//! filters: firewalls that drop what passes through the host unless a rule lets it: Docker's and many others'.
//! They swallow what ships send without a word, so one comes from us. Where br_netfilter is on that is true
//! for traffic between ships of one switch, too.
//!
//! The chains are read from the kernel: to run nft for it would cost every new switch 10 ms.

use std::fs;
use std::process::{Command, Output, Stdio};

use anyhow::Result;
use unshare::fail::say;

use crate::chains::{self, Chain};

/// NF_INET_FORWARD and NF_BR_FORWARD.
const FORWARD: u32 = 2;
const NF_DROP: u32 = 0;

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
    Ok(chains::all()?.iter().filter(|chain| drops(chain)).map(Chain::to_string).collect())
}

fn drops(chain: &Chain) -> bool {
    chain.hook == Some(FORWARD) && chain.policy == Some(NF_DROP)
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
    use crate::chains::tests::chain;

    #[test]
    fn only_chains_that_drop_what_is_forwarded_are_named() {
        let drops = |family, hook, policy| drops(&Chain::parse(&chain(family, hook, policy)).unwrap());
        assert!(drops(2, FORWARD, NF_DROP) && drops(1, FORWARD, NF_DROP));
        assert!(!drops(2, FORWARD, 1) && !drops(2, 1, NF_DROP));
    }
}
