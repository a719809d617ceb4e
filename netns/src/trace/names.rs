//! names: what routers are called, and nobody waits for a name server that is slow or not there.
//!
//! /etc/hosts is read here. Whoever is not in it is asked for by a process of its own, while the probes are
//! under way: getnameinfo(3) knows no time limit, and takes ten seconds where nobody answers. That process
//! stays in the network namespace that the names are known in.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::unistd::{ForkResult, Pid};
use unshare::child::{DeathTie, Wait};

use crate::sys;

/// A name server that takes longer is not asked again.
const PATIENCE: Duration = Duration::from_secs(1);
/// NI_MAXHOST of glibc, and an address before it.
const LONGEST: usize = 1025 + 64;

pub struct Names {
    hosts: String,
    known: BTreeMap<IpAddr, Option<String>>,
    /// Asked for and not known yet, the earliest first.
    pending: Vec<(IpAddr, Instant)>,
    helper: Option<Helper>,
}

impl Names {
    /// Nobody has a name.
    pub fn none() -> Names {
        Names { hosts: String::new(), known: BTreeMap::new(), pending: Vec::new(), helper: None }
    }

    /// To be called where the names are known: the process that asks stays there. Without it, where none can
    /// be had, there is still /etc/hosts.
    pub fn ask_from_here() -> Names {
        let hosts = fs::read("/etc/hosts").unwrap_or_default();
        Names {
            hosts: String::from_utf8_lossy(&hosts).into_owned(),
            helper: Helper::start().ok(),
            ..Names::none()
        }
    }

    /// Begins to find a name.
    pub fn want(&mut self, address: IpAddr) {
        if self.known.contains_key(&address) || self.pending.iter().any(|(pending, _)| *pending == address) {
            return;
        }
        let name = of_hosts(&self.hosts, address);
        match &self.helper {
            Some(helper) if name.is_none() && helper.ask(address) => {
                self.pending.push((address, Instant::now()));
            }
            _ => drop(self.known.insert(address, name)),
        }
    }

    pub fn of(&self, address: IpAddr) -> Option<&str> {
        self.known.get(&address)?.as_deref()
    }

    pub fn is_pending(&self, address: IpAddr) -> bool {
        self.pending.iter().any(|(pending, _)| *pending == address)
    }

    /// What can be read when a name has been found, and until when that may take; None when none is wanted.
    pub fn awaited(&self) -> Option<(BorrowedFd<'_>, Instant)> {
        let (_, asked) = self.pending.first()?;
        Some((self.helper.as_ref()?.socket.as_fd(), *asked + PATIENCE))
    }

    /// Takes in what has been found, and gives up what has taken too long.
    pub fn update(&mut self) {
        while let Some(answer) = self.helper.as_ref().and_then(Helper::answer) {
            let Some((address, name)) = answer else { return self.give_up() };
            self.pending.retain(|(pending, _)| *pending != address);
            self.known.insert(address, name);
        }
        if self.pending.first().is_some_and(|(_, asked)| asked.elapsed() >= PATIENCE) {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.helper = None;
        self.known.extend(self.pending.drain(..).map(|(address, _)| (address, None)));
    }
}

/// The first name of the line that has the address: hosts(5).
fn of_hosts(hosts: &str, address: IpAddr) -> Option<String> {
    hosts.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        (words.next()?.parse() == Ok(address)).then_some(())?;
        words.next().filter(|name| is_plain(name)).map(str::to_owned)
    })
}

/// A stranger's text for the terminal.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The process that waits for name servers: gets an address, answers "ADDRESS NAME" or "ADDRESS ".
struct Helper {
    process: Pid,
    socket: OwnedFd,
}

impl Helper {
    fn start() -> anyhow::Result<Helper> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (socket, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        // Also with a trace that is killed.
        let tie = DeathTie::before_fork(Signal::SIGKILL as i32);
        match unshare::sys::fork()? {
            ForkResult::Parent { child } => Ok(Helper { process: child, socket }),
            ForkResult::Child => {
                drop(socket);
                if tie.bind().is_ok() {
                    serve(&other);
                }
                std::process::exit(0)
            }
        }
    }

    fn ask(&self, address: IpAddr) -> bool {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(self.socket.as_raw_fd(), address.to_string().as_bytes(), flags).is_ok()
    }

    /// The next of the answers that are there: an address and its name. None in it when the process has ended.
    fn answer(&self) -> Option<Option<(IpAddr, Option<String>)>> {
        let mut room = [0; LONGEST];
        let length = recv(self.socket.as_raw_fd(), &mut room, MsgFlags::MSG_DONTWAIT).ok()?;
        Some(found(&room[..length]))
    }
}

fn found(answer: &[u8]) -> Option<(IpAddr, Option<String>)> {
    let (address, name) = std::str::from_utf8(answer).ok()?.split_once(' ')?;
    Some((address.parse().ok()?, Some(name.to_owned()).filter(|name| is_plain(name))))
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = unshare::sys::kill(self.process, Signal::SIGKILL as i32);
        let _ = Wait::plain().wait_for(self.process);
    }
}

fn serve(socket: &OwnedFd) {
    let mut room = [0; 64];
    while let Ok(length @ 1..) = recv(socket.as_raw_fd(), &mut room, MsgFlags::empty()) {
        let Some(address) = std::str::from_utf8(&room[..length]).ok().and_then(|word| word.parse().ok())
        else {
            return;
        };
        let name = sys::name_of(address).unwrap_or_default();
        let answer = format!("{address} {name}");
        if send(socket.as_raw_fd(), answer.as_bytes(), MsgFlags::MSG_NOSIGNAL).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_in_hosts_counts() {
        let hosts =
            "# 10.0.0.1 no\n10.0.0.1\tone.test one # two\n10.0.0.1 later\nfd00:0::1 six\n10.0.0.2\nx y";
        let name = |address: &str| of_hosts(hosts, address.parse().unwrap());
        assert_eq!(name("10.0.0.1").unwrap(), "one.test");
        assert_eq!(name("fd00::1").unwrap(), "six");
        assert_eq!((name("10.0.0.2"), name("10.0.0.3")), (None, None));
        assert_eq!(of_hosts("10.0.0.1 \x1b[31m", "10.0.0.1".parse().unwrap()), None);
    }
}
