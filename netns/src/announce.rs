//! announce: tells the neighbours who has an address now (RFC 5227 2.3; RFC 4861 7.2.6).
//!
//! A ship that is made anew has another MAC address, and who has talked to the old one goes on doing so until
//! his entry has run out, half a minute. The kernel says it when an interface is given its MAC address, if
//! arp_notify and ndisc_notify (Documentation/networking/ip-sysctl.rst) are on: a packet socket of our own
//! would do the same, and take 10 ms to be closed.

use std::fs;
use std::net::IpAddr;

use anyhow::Result;

use crate::address::Mac;
use crate::machine::Machine;
use crate::rtnl::{self, Link};

/// For an interface in a namespace whose addresses are given. Where it cannot be done, as with a /proc/sys
/// that is read-only, nobody is worse off than before.
pub fn announce(machine: &mut Machine, space: usize, link: &Link, addresses: &[IpAddr]) -> Result<()> {
    let Ok(mac) = Mac::try_from(&link.mac[..]) else { return Ok(()) };
    let knobs: Vec<String> = [("ipv4", "arp_notify"), ("ipv6", "ndisc_notify")]
        .into_iter()
        .filter(|(family, _)| addresses.iter().any(|address| address.is_ipv4() == (*family == "ipv4")))
        .map(|(family, knob)| format!("/proc/sys/net/{family}/conf/{}/{knob}", link.name))
        .collect();
    if knobs.is_empty() {
        return Ok(());
    }
    // These files are of the namespace of who opens them.
    machine.enter(space)?;
    let on: Vec<&String> = knobs.iter().filter(|knob| change(knob, "0", "1")).collect();
    let _ = machine.inside(space).tell(vec![rtnl::set_mac(&link.name, mac)]);
    for knob in on {
        change(knob, "1", "0");
    }
    machine.go_home()
}

/// Whether it was `from` and is `to` now.
fn change(knob: &str, from: &str, to: &str) -> bool {
    fs::read_to_string(knob).is_ok_and(|value| value.trim() == from) && fs::write(knob, to).is_ok()
}
