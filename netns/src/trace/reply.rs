//! reply: what comes back to a probe, and who has sent it.

use std::io::IoSliceMut;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, getsockopt, recvmsg, sockopt};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The time to live has run out there.
    Passing,
    Open,
    Closed,
    /// As traceroute(8) marks it: !H, !N, !X …
    Refused(&'static str),
}

impl What {
    /// Behind the address in a line.
    pub fn mark(&self) -> String {
        match self {
            What::Passing => String::new(),
            What::Open => " [open]".into(),
            What::Closed => " [closed]".into(),
            What::Refused(why) => format!(" {why}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// None from a kernel that does not say.
    pub from: Option<IpAddr>,
    pub what: What,
    pub time: Duration,
}

/// What came back after `time`; None when it was nothing in time for the kernel.
pub fn read(socket: &OwnedFd, time: Duration, destination: IpAddr) -> Result<Option<Reply>> {
    if let Some((from, what)) = heard(socket)? {
        return Ok(Some(Reply { from, what, time }));
    }
    let errno = getsockopt(socket, sockopt::SocketError).context("cannot ask the socket")?;
    let (from, what) = match Errno::from_raw(errno) {
        Errno::UnknownErrno => (Some(destination), What::Open), // 0
        Errno::ECONNREFUSED => (Some(destination), What::Closed),
        Errno::ETIMEDOUT => return Ok(None),
        // From a kernel that does not say who: 11 of ICMP becomes this too (net/ipv4/tcp_ipv4.c).
        Errno::EHOSTUNREACH => (None, What::Passing),
        other => return Err(anyhow!(other)),
    };
    Ok(Some(Reply { from, what, time }))
}

/// What ICMP said about this probe and who said it.
fn heard(socket: &OwnedFd) -> Result<Option<(Option<IpAddr>, What)>> {
    let mut data = [0; 64];
    let mut iov = [IoSliceMut::new(&mut data)];
    let mut space = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut iov, Some(&mut space), flags) {
        Ok(message) => message,
        Err(_) => return Ok(None), // EAGAIN: it said nothing
    };
    for part in message.cmsgs().context("cannot read what ICMP said")? {
        let (error, from) = match part {
            ControlMessageOwned::Ipv4RecvErr(error, from) => {
                (error, from.map(|from| IpAddr::from(from.sin_addr.s_addr.to_ne_bytes())))
            }
            ControlMessageOwned::Ipv6RecvErr(error, from) => {
                (error, from.map(|from| IpAddr::from(from.sin6_addr.s6_addr)))
            }
            _ => continue,
        };
        if let Some(what) = meaning(error.ee_origin, error.ee_type, error.ee_code) {
            return Ok(Some((from, what)));
        }
    }
    Ok(None)
}

/// RFC 792 and RFC 4443; marks as traceroute(8) has them.
fn meaning(origin: u8, kind: u8, code: u8) -> Option<What> {
    match (origin, kind, code) {
        (libc::SO_EE_ORIGIN_ICMP, 11, _) | (libc::SO_EE_ORIGIN_ICMP6, 3, _) => Some(What::Passing),
        (libc::SO_EE_ORIGIN_ICMP, 3, 0) | (libc::SO_EE_ORIGIN_ICMP6, 1, 0) => Some(What::Refused("!N")),
        (libc::SO_EE_ORIGIN_ICMP, 3, 2) => Some(What::Refused("!P")),
        (libc::SO_EE_ORIGIN_ICMP, 3, 3) | (libc::SO_EE_ORIGIN_ICMP6, 1, 4) => Some(What::Refused("!p")),
        (libc::SO_EE_ORIGIN_ICMP, 3, 9 | 10 | 13) | (libc::SO_EE_ORIGIN_ICMP6, 1, 1 | 5 | 6) => {
            Some(What::Refused("!X"))
        }
        (libc::SO_EE_ORIGIN_ICMP, 3, _) | (libc::SO_EE_ORIGIN_ICMP6, 1, _) => Some(What::Refused("!H")),
        _ => None,
    }
}
