//! link: a cable from a namespace to a switch: its words and its names.
//!
//! An outer end without its alias was left by a killed link, and the next one replaces it. Outer ends are
//! found by their name, which is made from TARGET and IFNAME alone: there is no list to keep.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::address::{Cidr, Mac, format_mac};
use crate::mark;
use crate::rate::Rate;
use crate::store::{Target, quoted};

/// The VLANs of a port: the one of its untagged frames, and those that it carries tagged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vlans {
    pub tag: Option<u16>,
    pub trunks: Vec<u16>,
}

impl Vlans {
    pub fn any(&self) -> bool {
        self.tag.is_some() || !self.trunks.is_empty()
    }
}

/// As the statement is written, with a blank before.
impl fmt::Display for Vlans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tag) = self.tag {
            write!(f, " tag {tag}")?;
        }
        if !self.trunks.is_empty() {
            let list: Vec<String> = self.trunks.iter().map(u16::to_string).collect();
            write!(f, " trunk {}", list.join(","))?;
        }
        Ok(())
    }
}

/// What a link is asked to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSpec {
    pub end: End,
    pub onto: Onto,
    pub addresses: Vec<Cidr>,
    /// Take the first address of the switch's networks that nobody has.
    pub next_free: bool,
    pub gateways: Vec<IpAddr>,
    pub mtu: Option<u32>,
    pub mac: Option<Mac>,
    pub vlans: Vlans,
    pub rate: Option<Rate>,
    pub promisc: bool,
    /// How long to listen for somebody who has the address; None for not at all.
    pub check: Option<Duration>,
}

/// What a link leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Onto {
    Switch(String),
    /// An interface of the host that is shared: the kind of device, "macvlan" or "macvtap", and its name.
    Nic(&'static str, String),
}

impl Onto {
    pub fn name(&self) -> &str {
        match self {
            Onto::Switch(name) | Onto::Nic(_, name) => name,
        }
    }
}

impl fmt::Display for Onto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Onto::Switch(name) => f.write_str(name),
            Onto::Nic(kind, name) => write!(f, "{kind}:{name}"),
        }
    }
}

impl LinkSpec {
    pub fn new(end: End, onto: Onto) -> LinkSpec {
        LinkSpec {
            end,
            onto,
            addresses: vec![],
            next_free: false,
            gateways: vec![],
            mtu: None,
            mac: None,
            vlans: Vlans::default(),
            rate: None,
            promisc: false,
            check: None,
        }
    }
}

/// As the statement is written.
impl fmt::Display for LinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {} {}", quoted(&self.end.label()), self.onto)?;
        self.addresses.iter().try_for_each(|cidr| write!(f, " {cidr}"))?;
        if self.next_free {
            f.write_str(" --next-free")?;
        }
        self.gateways.iter().try_for_each(|gateway| write!(f, " via {gateway}"))?;
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        if let Some(mac) = self.mac {
            write!(f, " mac {}", format_mac(&mac))?;
        }
        write!(f, "{}", self.vlans)?;
        if let Some(rate) = self.rate {
            write!(f, " rate {rate}")?;
        }
        f.write_str(if self.promisc { " promisc" } else { "" })
    }
}

/// The inner end of a link: TARGET:IFNAME.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub target: Target,
    pub ifname: String,
}

impl End {
    /// The interface has no colon in its name, a target may.
    pub fn parse(word: &str) -> Result<End> {
        let Some((target, ifname)) = word.rsplit_once(':') else {
            bail!("'{word}' is not TARGET:IFNAME, as in 'web:eth0'");
        };
        let end = End { target: Target::parse(target)?, ifname: ifname.to_owned() };
        crate::address::check_ifname(ifname)?;
        if end.alias().len() > mark::LONGEST {
            bail!("'{word}' is too long: a link has room for {} bytes", mark::LONGEST - mark::LINK.len());
        }
        Ok(end)
    }

    pub fn label(&self) -> String {
        format!("{}:{}", self.target.label(), self.ifname)
    }

    pub fn alias(&self) -> String {
        format!("{}{}", mark::LINK, self.label())
    }

    /// At most 15 bytes: the beginning of the ship's name for the eye, a hash of the whole for the rest.
    pub fn outer(&self) -> String {
        let label = self.target.label();
        let seen: String = label.chars().filter(char::is_ascii_alphanumeric).take(6).collect();
        format!("{seen}-{:08x}", fnv1a(self.label().as_bytes()))
    }
}

/// FNV-1a, 32 bits: must never change, or links made before are not found any more.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_names_are_stable_short_and_differ() {
        let outer = |word: &str| End::parse(word).unwrap().outer();
        assert_eq!(outer("web:eth0"), "web-543522e0");
        assert_ne!(outer("web:eth0"), outer("web:eth1"));
        let long = outer("a-very-long-ship-name-netns:eth0");
        assert!(long.starts_with("averyl-") && long.len() == 15, "{long}");
        assert!(crate::address::check_ifname(&outer("ü:eth0").replacen('-', "x", 1)).is_ok());
    }

    #[test]
    fn an_end_is_split_at_its_last_colon() {
        let end = End::parse("pid:12:eth0").unwrap();
        assert_eq!((end.target.clone(), end.ifname.as_str()), (Target::Pid(12), "eth0"));
        assert_eq!(end.alias(), "netns:pid:12:eth0");
        assert_eq!(End::parse("a:b:eth0").unwrap().target, Target::Name("a:b".into()));
        for bad in
            ["web", "web:", ":eth0", "web:a b", "web:0123456789abcdef", &format!("{}:eth0", "x".repeat(250))]
        {
            assert!(End::parse(bad).is_err(), "{bad}");
        }
    }
}
