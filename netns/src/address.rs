//! address: the words of a link: addresses with their prefix, gateways, MAC addresses, interface names.
//!
//! All rules that need no kernel: what is refused here is a usage error and nothing has been touched.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};

/// An address and the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix: u8,
}

impl Cidr {
    /// ADDRESS/PREFIX, where the address is one that a host can have.
    pub fn parse(word: &str) -> Result<Cidr> {
        let Some((address, prefix)) = word.split_once('/') else {
            bail!("address '{word}' has no prefix length: write '{word}/24'");
        };
        let Ok(address) = address.parse::<IpAddr>() else { bail!("not an address: '{word}'") };
        let longest = if address.is_ipv4() { 32 } else { 128 };
        // Digits only: parse() takes "+24" too.
        let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix = prefix.parse::<u8>().ok().filter(|p| digits && (1..=longest).contains(p));
        let Some(prefix) = prefix else { bail!("prefix length of '{word}' is not 1 to {longest}") };
        let cidr = Cidr { address, prefix };
        check_host(address)?;
        // RFC 3021 and RFC 6164: links of two, and single addresses, have no network address.
        if prefix < longest - 1 {
            if address == cidr.network() {
                bail!("'{word}' is the address of the network itself");
            }
            if cidr.broadcast() == Some(address) {
                bail!("'{word}' is the broadcast address of its network");
            }
        }
        Ok(cidr)
    }

    fn bits(address: IpAddr) -> u128 {
        match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
            IpAddr::V6(v6) => v6.to_bits(),
        }
    }

    fn mask(&self) -> u128 {
        u128::MAX << (128 - u32::from(self.prefix))
    }

    pub fn network(&self) -> IpAddr {
        let bits = Cidr::bits(self.address) & self.mask();
        match self.address {
            IpAddr::V4(_) => Ipv4Addr::from_bits((bits >> 96) as u32).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
        }
    }

    /// "10.0.0.0/24", as nft and route tables have it.
    pub fn subnet(&self) -> String {
        format!("{}/{}", self.network(), self.prefix)
    }

    /// IPv6 has none.
    pub fn broadcast(&self) -> Option<IpAddr> {
        match self.address {
            IpAddr::V4(v4) if self.prefix < 31 => {
                Some(Ipv4Addr::from_bits(v4.to_bits() | !((self.mask() >> 96) as u32)).into())
            }
            _ => None,
        }
    }

    /// All addresses that others on the network can have, in order.
    pub fn hosts(self) -> impl Iterator<Item = IpAddr> {
        let first = Cidr::bits(self.network());
        let low = if self.address.is_ipv4() { 96 } else { 0 };
        let count = (!self.mask() >> low).saturating_add(1);
        let edges = count > 2;
        (0..count)
            .map(move |at| match self.address {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(((first >> 96) + at) as u32)),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(first + at)),
            })
            .skip(usize::from(edges))
            .filter(move |host| *host != self.address && self.broadcast() != Some(*host))
    }

    pub fn contains(&self, other: IpAddr) -> bool {
        other.is_ipv4() == self.address.is_ipv4()
            && Cidr::bits(other) & self.mask() == Cidr::bits(self.address) & self.mask()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Few, as an interface has.
pub fn in_order(addresses: Vec<Cidr>) -> Vec<Cidr> {
    let mut list = Vec::new();
    for cidr in addresses {
        list.insert(list.partition_point(|other| *other < cidr), cidr);
    }
    list
}

/// The octets in the order of the wire.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn check_host(address: IpAddr) -> Result<()> {
    let what = match address {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "the unspecified network 0.0.0.0/8",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_multicast() => "a multicast address",
        _ if address.is_unspecified() => "the unspecified address",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4 address written as IPv6",
        _ => return Ok(()),
    };
    bail!("'{address}' cannot be a host's address: it is {what}")
}

pub fn parse_router(word: &str) -> Result<IpAddr> {
    let Ok(gateway) = word.parse::<IpAddr>() else { bail!("not an address of a gateway: '{word}'") };
    check_host(gateway)?;
    Ok(gateway)
}

/// A gateway must be a neighbour: an address of one of the networks, but not ours.
pub fn parse_gateway(word: &str, addresses: &[Cidr]) -> Result<IpAddr> {
    let gateway = parse_router(word)?;
    if let Some(own) = addresses.iter().find(|cidr| cidr.address == gateway) {
        bail!("gateway '{gateway}' is the interface's own address '{own}'");
    }
    // A router's link-local address is always on the link.
    if matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return Ok(gateway);
    }
    let Some(home) = addresses.iter().find(|cidr| cidr.contains(gateway)) else {
        bail!("gateway '{gateway}' is in none of the interface's networks");
    };
    if home.prefix < 31
        && gateway.is_ipv4()
        && (gateway == home.network() || Some(gateway) == home.broadcast())
    {
        bail!("gateway '{gateway}' is the network or broadcast address of '{}'", home.subnet());
    }
    Ok(gateway)
}

pub type Mac = [u8; 6];

pub fn parse_mac(word: &str) -> Result<Mac> {
    let octets: Vec<Option<u8>> = word
        .split(':')
        .map(|o| u8::from_str_radix(o, 16).ok().filter(|_| o.len() == 2 && !o.starts_with('+')))
        .collect();
    let mac: Option<Vec<u8>> = octets.into_iter().collect();
    let Some(mac) = mac.and_then(|mac| Mac::try_from(mac).ok()) else {
        bail!("not a MAC address: '{word}'");
    };
    if mac == [0; 6] || mac[0] & 1 == 1 {
        bail!("'{word}' cannot be an interface's MAC address: it is zero or a group's");
    }
    Ok(mac)
}

pub fn format_mac(mac: &[u8]) -> String {
    mac.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":")
}

/// What the kernel takes as a name, and a little less: it would make "x0" of "x%d", and a name with odd
/// characters cannot be typed.
pub fn check_ifname(name: &str) -> Result<()> {
    const LONGEST: usize = libc::IFNAMSIZ - 1;
    let problem = match name {
        "" => "it is empty",
        "." | ".." => "the kernel refuses it",
        _ if name.len() > LONGEST => "it is longer than 15 bytes",
        _ if name.starts_with('-') => "it begins with a dash",
        _ if name.bytes().any(|b| !b.is_ascii_graphic() || b"/:%\"'\\".contains(&b)) => {
            "only letters, digits and signs other than / : % quotes and backslash are allowed"
        }
        _ => return Ok(()),
    };
    bail!("bad interface name '{}': {problem}", name.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_a_host_can_have() {
        for good in
            ["10.0.0.1/24", "10.0.0.0/31", "10.0.0.255/16", "192.0.2.7/32", "fd00::1/64", "fe80::1/64"]
        {
            assert_eq!(Cidr::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "10.0.0.256/24",
            "10.0.0.1/33",
            "10.0.0.1/0",
            "10.0.0.1/-1",
            "10.0.0.1/+8",
            "10.0.0.1/",
            "10.0.0.1/24 ",
            " 10.0.0.1/24",
            "10.0.0/24",
            "10.0.0",
            "10.0.0.1",
            "010.0.0.1/24",
            "10.0.0.0/24",
            "10.0.0.255/24",
            "0.0.0.0/8",
            "0.1.2.3/8",
            "127.0.0.1/8",
            "224.0.0.1/4",
            "255.255.255.255/32",
            "::/64",
            "::1/128",
            "ff02::1/64",
            "fd00::/64",
            "fd00::1/129",
            "::ffff:10.0.0.1/120",
        ] {
            assert!(Cidr::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_are_computed() {
        let cidr = Cidr::parse("10.1.2.3/20").unwrap();
        assert_eq!(
            (cidr.subnet().as_str(), cidr.broadcast()),
            ("10.1.0.0/20", Some([10, 1, 15, 255].into()))
        );
        assert_eq!(Cidr::parse("fd00:1::5/48").unwrap().subnet(), "fd00:1::/48");
    }

    #[test]
    fn hosts_are_all_but_the_edges_and_oneself() {
        let hosts = |word: &str| {
            let list: Vec<String> =
                Cidr::parse(word).unwrap().hosts().take(4).map(|h| h.to_string()).collect();
            list.join(" ")
        };
        assert_eq!(hosts("10.0.0.2/29"), "10.0.0.1 10.0.0.3 10.0.0.4 10.0.0.5");
        assert_eq!(hosts("10.0.0.5/30"), "10.0.0.6");
        assert_eq!(hosts("10.0.0.0/31"), "10.0.0.1");
        assert_eq!(hosts("10.0.0.1/32"), "");
        assert_eq!(hosts("fd00::1/64"), "fd00::2 fd00::3 fd00::4 fd00::5");
    }

    #[test]
    fn a_gateway_is_a_neighbour() {
        let own = [Cidr::parse("10.0.0.1/24").unwrap(), Cidr::parse("fd00::1/64").unwrap()];
        for good in ["10.0.0.254", "fd00::fe", "fe80::1"] {
            assert!(parse_gateway(good, &own).is_ok(), "{good}");
        }
        for bad in ["10.0.1.1", "10.0.0.1", "10.0.0.0", "10.0.0.255", "fd01::1", "x", "10.0.0.254/24"] {
            assert!(parse_gateway(bad, &own).is_err(), "{bad}");
        }
    }

    #[test]
    fn macs_are_of_one_interface() {
        assert_eq!(format_mac(&parse_mac("02:00:5e:10:00:fF").unwrap()), "02:00:5e:10:00:ff");
        for bad in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:0g",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "+2:0:0:0:0:0",
        ] {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn interface_names_as_the_kernel_takes_them() {
        assert!(check_ifname("eth0").is_ok() && check_ifname("abcdefghijklmno").is_ok());
        for bad in ["", ".", "..", "abcdefghijklmnop", "a b", "a/b", "a:b", "x%d", "-x", "a\"b", "a\n", "é"]
        {
            assert!(check_ifname(bad).is_err(), "{bad}");
        }
    }
}
