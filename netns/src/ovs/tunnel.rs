//! tunnel: the kinds of tunnels, and what they take from a packet.

use std::fmt;

use anyhow::{Result, anyhow};

/// Ethernet's own, of which a tunnel takes some away.
const ETHERNET_MTU: u32 = 1500;

#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    pub word: &'static str,
    /// Bits of a key.
    key_bits: u32,
    /// What it adds to a packet besides the outer IP header: the inner Ethernet header, UDP, its own.
    overhead: u32,
}

/// RFC 7348, RFC 8926 (no options), RFC 2890 with a key.
pub const KINDS: [Kind; 3] = [
    Kind { word: "vxlan", key_bits: 24, overhead: 14 + 8 + 8 },
    Kind { word: "geneve", key_bits: 24, overhead: 14 + 8 + 8 },
    Kind { word: "gre", key_bits: 32, overhead: 14 + 8 },
];

impl Kind {
    pub fn parse_key(&self, word: &str) -> Result<u32> {
        let key = word.parse::<u32>().ok().filter(|key| u64::from(*key) < 1 << self.key_bits);
        key.ok_or_else(|| anyhow!("not a key of {} bits: '{word}'", self.key_bits))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    pub kind: String,
    pub remote: String,
    pub key: Option<String>,
}

/// As a statement has it.
impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} remote {}", self.kind, self.remote)?;
        self.key.iter().try_for_each(|key| write!(f, " key {key}"))
    }
}

/// What a packet through one of these tunnels may have, where the hosts are joined by plain Ethernet; None
/// without tunnels.
pub fn mtu_through<'a>(tunnels: impl Iterator<Item = &'a Tunnel>) -> Option<u32> {
    let overhead = |tunnel: &Tunnel| {
        let kind = KINDS.iter().find(|kind| kind.word == tunnel.kind)?;
        let header = if tunnel.remote.contains(':') { 40 } else { 20 };
        Some(kind.overhead + header)
    };
    tunnels.filter_map(overhead).max().map(|overhead| ETHERNET_MTU - overhead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_take_their_headers_from_the_mtu() {
        let tunnel =
            |kind: &str, remote: &str| Tunnel { kind: kind.into(), remote: remote.into(), key: None };
        assert_eq!(mtu_through([].iter()), None);
        assert_eq!(mtu_through([tunnel("vxlan", "192.0.2.1")].iter()), Some(1450));
        assert_eq!(mtu_through([tunnel("gre", "192.0.2.1")].iter()), Some(1458));
        let both = [tunnel("gre", "192.0.2.1"), tunnel("geneve", "2001:db8::1"), tunnel("other", "")];
        assert_eq!(mtu_through(both.iter()), Some(1430));
    }
}
