//! probe: asks the wire whether an address is taken, before it is given (RFC 5227; RFC 4861 for IPv6).
//!
//! The question comes from the ship's own end of the link and from no address, so it reaches exactly those
//! that would collide, disturbs no neighbour table, and is answered by hosts that drop ping too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socket};

use crate::address::{Mac, octets};
use crate::signals::{Signals, Wake};
use crate::sys;

const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
const ETHERNET: usize = 14;
const IPV6: usize = 40;
const ARP_REQUEST: u16 = 1;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// Somebody has the address, or asks for it in the same moment.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    pub address: IpAddr,
    pub by: Mac,
}

/// What one interface asks the wire.
pub struct Question {
    mac: Mac,
    addresses: Vec<IpAddr>,
    /// One for each family; true for IPv4's.
    sockets: Vec<(OwnedFd, bool)>,
}

impl Question {
    /// For an interface of the namespace that this process is in now.
    pub fn open(index: u32, mac: Mac, addresses: Vec<IpAddr>) -> Result<Question> {
        let mut sockets = Vec::new();
        for (four, ethertype) in [(true, ETH_P_ARP), (false, ETH_P_IPV6)] {
            if addresses.iter().any(|address| address.is_ipv4() == four) {
                sockets.push((open(index, ethertype)?, four));
            }
        }
        Ok(Question { mac, addresses, sockets })
    }

    fn ask(&self) -> Result<()> {
        for address in &self.addresses {
            let frame = question(self.mac, *address);
            let ours = self
                .sockets
                .iter()
                .find(|(_, four)| *four == address.is_ipv4())
                .expect("a socket for each family");
            match send(ours.0.as_raw_fd(), &frame, MsgFlags::empty()) {
                // As good as lost on the wire: it is asked twice.
                Ok(_) | Err(Errno::ENOBUFS | Errno::EAGAIN) => {}
                Err(errno) => return Err(errno).context("cannot ask for the address"),
            }
        }
        Ok(())
    }
}

/// The first answer to one of several questions; every question is asked twice within `window`.
pub fn first(questions: &[Question], window: Duration, signals: &Signals) -> Result<Option<(usize, Taken)>> {
    let mut first = None;
    listen(questions, window, signals, |at, taken| {
        first = Some((at, taken));
        true
    })?;
    Ok(first)
}

/// The addresses of a question that are taken.
pub fn all(question: &Question, window: Duration, signals: &Signals) -> Result<Vec<IpAddr>> {
    let mut taken = Vec::new();
    listen(std::slice::from_ref(question), window, signals, |_, sign| {
        taken.push(sign.address);
        false
    })?;
    Ok(taken)
}

/// Asks and hands on what is heard, until the window is over or `enough` says so.
fn listen(
    questions: &[Question],
    window: Duration,
    signals: &Signals,
    mut enough: impl FnMut(usize, Taken) -> bool,
) -> Result<()> {
    if questions.is_empty() {
        return Ok(());
    }
    let fds: Vec<BorrowedFd> =
        questions.iter().flat_map(|question| question.sockets.iter().map(|(fd, _)| fd.as_fd())).collect();
    let start = Instant::now();
    for deadline in [start + window / 2, start + window] {
        questions.iter().try_for_each(Question::ask)?;
        loop {
            for (at, question) in questions.iter().enumerate() {
                for (fd, _) in &question.sockets {
                    if heard(fd, question, |taken| enough(at, taken)) {
                        return Ok(());
                    }
                }
            }
            if let Wake::Deadline = signals.wait(&fds, deadline)? {
                break;
            }
        }
    }
    Ok(())
}

fn open(index: u32, ethertype: u16) -> Result<OwnedFd> {
    // Without a protocol until it is bound: nothing of another interface gets in.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd =
        socket(AddressFamily::Packet, SockType::Raw, flags, None).context("cannot open a packet socket")?;
    sys::bind_packet(fd.as_fd(), index, ethertype).context("cannot bind the packet socket")?;
    Ok(fd)
}

/// Reads all that has come and hands on every sign of one of the addresses; true when it was enough.
fn heard(fd: &OwnedFd, question: &Question, mut enough: impl FnMut(Taken) -> bool) -> bool {
    let mut frame = [0; 1514];
    loop {
        let length = match recv(fd.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            Ok(length) => length,
            Err(Errno::EINTR) => continue,
            Err(_) => return false, // EAGAIN: that was all
        };
        let sign = sign(&frame[..length], question.mac, &question.addresses);
        if sign.is_some_and(&mut enough) {
            return true;
        }
    }
}

fn question(own: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp_probe(own, address),
        IpAddr::V6(address) => solicitation(own, address),
    }
}

fn ethernet(to: Mac, from: Mac, ethertype: u16) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes()].concat()
}

fn arp_probe(own: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet([0xff; 6], own, ETH_P_ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, ARP_REQUEST as u8]); // Ethernet, IPv4, their lengths, request
    frame.extend(own);
    frame.extend([0; 4 + 6]); // from no address, to we do not know whom
    frame.extend(address.octets());
    frame.resize(60, 0); // the shortest frame there is
    frame
}

/// As duplicate detection does it (RFC 4862 5.4.2): from the unspecified address to the group that a holder
/// of the address must listen to.
fn solicitation(own: Mac, address: Ipv6Addr) -> Vec<u8> {
    let o = address.octets();
    let group =
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(o[13]), u16::from_be_bytes([o[14], o[15]]));
    let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(o);
    let checksum = icmp6_checksum(Ipv6Addr::UNSPECIFIED, group, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = ethernet([0x33, 0x33, 0xff, o[13], o[14], o[15]], own, ETH_P_IPV6);
    frame.extend([0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, 255]);
    frame.extend(Ipv6Addr::UNSPECIFIED.octets());
    frame.extend(group.octets());
    frame.extend(message);
    frame
}

/// RFC 8200 8.1: over both addresses, the length, the protocol and the message.
fn icmp6_checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let mut bytes = [from.octets(), to.octets()].concat();
    bytes.extend((message.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, ICMPV6]);
    bytes.extend(message);
    let mut sum: u32 =
        bytes.chunks(2).map(|c| (u32::from(c[0]) << 8) | u32::from(*c.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What a frame says about one of the addresses, if it comes from somebody else.
fn sign(frame: &[u8], own: Mac, addresses: &[IpAddr]) -> Option<Taken> {
    let (by, address) = match u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?) {
        ETH_P_ARP => arp_sign(frame.get(ETHERNET..)?)?,
        ETH_P_IPV6 => neighbour_sign(frame)?,
        _ => return None,
    };
    (by != own && addresses.contains(&address)).then_some(Taken { address, by })
}

/// RFC 5227 2.1.1: any packet from the address, and another's probe for it.
fn arp_sign(arp: &[u8]) -> Option<(Mac, IpAddr)> {
    let sender: Mac = arp.get(8..14)?.try_into().ok()?;
    let four = |at: usize| arp.get(at..at + 4)?.try_into().ok().map(|o: [u8; 4]| IpAddr::from(o));
    let (from, target) = (four(14)?, four(24)?);
    let probe = from.is_unspecified() && arp.get(6..8)? == ARP_REQUEST.to_be_bytes();
    Some((sender, if probe { target } else { from }))
}

/// An advertisement of the address, or another's duplicate detection for it (RFC 4862 5.4.3, 5.4.4).
fn neighbour_sign(frame: &[u8]) -> Option<(Mac, IpAddr)> {
    let packet = frame.get(ETHERNET..)?;
    if *packet.get(6)? != ICMPV6 {
        return None;
    }
    let message = packet.get(IPV6..)?;
    let from = packet.get(8..24)?;
    let claims = match *message.first()? {
        ADVERTISEMENT => true,
        SOLICITATION => from == octets(Ipv6Addr::UNSPECIFIED.into()),
        _ => false,
    };
    let target: [u8; 16] = message.get(8..24)?.try_into().ok()?;
    let sender: Mac = frame.get(6..12)?.try_into().ok()?;
    claims.then_some((sender, target.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];

    fn arp(sender: Mac, operation: u8, from: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let mut frame = ethernet(OWN, sender, ETH_P_ARP);
        frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
        frame.extend(sender);
        frame.extend(from);
        frame.extend([0; 6]);
        frame.extend(target);
        frame
    }

    #[test]
    fn answers_and_rival_probes_count_our_own_and_others_do_not() {
        let wanted = [IpAddr::from([10, 0, 0, 1])];
        let taken = Some(Taken { address: wanted[0], by: OTHER });
        let sign = |frame: Vec<u8>| sign(&frame, OWN, &wanted);
        assert_eq!(sign(arp(OTHER, 2, [10, 0, 0, 1], [0; 4])), taken);
        assert_eq!(sign(arp(OTHER, 1, [10, 0, 0, 1], [10, 0, 0, 9])), taken);
        assert_eq!(sign(arp(OTHER, 1, [0; 4], [10, 0, 0, 1])), taken);
        assert_eq!(sign(arp(OWN, 1, [0; 4], [10, 0, 0, 1])), None);
        assert_eq!(sign(arp(OTHER, 1, [10, 0, 0, 9], [10, 0, 0, 1])), None); // asks who has it, has it not
        assert_eq!(sign(arp(OTHER, 2, [10, 0, 0, 2], [0; 4])), None);
        assert_eq!(sign(vec![0; 20]), None);
    }

    #[test]
    fn a_solicitation_is_as_duplicate_detection_sends_it() {
        let address: Ipv6Addr = "fd00::12:3456".parse().unwrap();
        let frame = solicitation(OWN, address);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        assert_eq!(frame.len(), ETHERNET + IPV6 + 24);
        let group = "ff02::1:ff12:3456".parse().unwrap();
        // With the sum in place the sum over all is zero.
        assert_eq!(icmp6_checksum(Ipv6Addr::UNSPECIFIED, group, &frame[ETHERNET + IPV6..]), 0);
        assert_eq!(sign(&frame, OTHER, &[address.into()]), Some(Taken { address: address.into(), by: OWN }));
        assert_eq!(sign(&frame, OWN, &[address.into()]), None);
    }
}
