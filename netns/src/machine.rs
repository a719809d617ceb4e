//! machine: the host's network while one command works on it: where we look, what has been done so far, and
//! the way back.
//!
//! Nothing else of the process is of one namespace: a netlink socket stays where it was opened, so a command
//! goes from namespace to namespace and comes home for what the host's files and programs are needed for.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Error, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::address::Mac;
use crate::netlink::{Message, Socket};
use crate::ovs::{Cancel, Ovs};
use crate::rtnl;
use crate::signals::Signals;
use crate::store::{self, Target};

/// One thing that was done, as what takes it back.
pub enum Undo {
    /// A name in /run/netns.
    Name(String),
    /// A device of the host.
    Device(String),
    /// Messages for the host.
    Outside(Vec<Message>),
    /// Messages for the namespace of that number.
    Inside(usize, Vec<Message>),
    /// What stood in a file of /proc.
    File(String, String),
    /// Ports of Open vSwitch.
    Ports(Vec<String>),
    /// A bridge of Open vSwitch.
    Bridge(String),
    /// The MAC address that such a bridge had.
    BridgeMac(String, Mac),
}

/// A namespace that links end in.
pub struct Space {
    pub target: Target,
    fd: Held,
    inside: Socket,
}

enum Held {
    /// To look only.
    Open(OwnedFd),
    /// Against other commands: two at the same time would each take the other's half-made link for a
    /// leftover.
    Locked(Flock<OwnedFd>),
}

impl Held {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Held::Open(fd) => fd.as_fd(),
            Held::Locked(fd) => fd.as_fd(),
        }
    }
}

impl Space {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.fd()
    }
}

pub struct Machine {
    pub outside: Socket,
    pub spaces: Vec<Space>,
    home: OwnedFd,
    /// Some as soon as it was asked for, None in it where there is none.
    ovs: Option<Option<Ovs>>,
    undo: Vec<Undo>,
    // The last field: a signal that waits ends the process here, when all else is done.
    pub signals: Signals,
}

impl Machine {
    pub fn open() -> Result<Machine> {
        let signals = Signals::block()?;
        let home = store::open_own()?;
        Ok(Machine {
            outside: Socket::open()?,
            spaces: Vec::new(),
            home,
            ovs: None,
            undo: Vec::new(),
            signals,
        })
    }

    /// Opens the namespaces of `targets`; afterwards `space_of` knows them. Locked in the order of their
    /// inodes, so that two commands never wait for each other; the host comes after them (`lock_host`).
    pub fn open_spaces<'a>(&mut self, targets: impl Iterator<Item = &'a Target>, lock: bool) -> Result<()> {
        let home = store::inode(&self.home)?;
        let mut opened: BTreeMap<u64, (&Target, OwnedFd)> = BTreeMap::new();
        for target in targets {
            if opened.values().any(|(known, _)| *known == target) {
                continue;
            }
            let fd = target.open()?;
            let inode = store::inode(&fd)?;
            if inode == home {
                bail!("'{}' is the host's own namespace", target.label());
            }
            // They would wait for their own lock.
            if let Some((other, _)) = opened.insert(inode, (target, fd)) {
                bail!("'{}' and '{}' are the same namespace", other.label(), target.label());
            }
        }
        make_room(opened.len())?;
        self.spaces.clear();
        for (target, fd) in opened.into_values() {
            let fd = if lock { Held::Locked(locked(fd)?) } else { Held::Open(fd) };
            enter(fd.fd())?;
            self.spaces.push(Space { target: target.clone(), fd, inside: Socket::open()? });
        }
        self.go_home()
    }

    pub fn space_of(&self, target: &Target) -> Option<usize> {
        self.spaces.iter().position(|space| space.target == *target)
    }

    /// The socket inside a namespace.
    pub fn inside(&mut self, space: usize) -> &mut Socket {
        &mut self.spaces[space].inside
    }

    /// From now on this process is in the namespace.
    pub fn enter(&self, space: usize) -> Result<()> {
        enter(self.spaces[space].fd())
    }

    pub fn go_home(&self) -> Result<()> {
        enter(self.home.as_fd())
    }

    /// The host's Open vSwitch, with what ends waiting for it; None where there is none.
    pub fn ovs(&mut self) -> Result<Option<(&mut Ovs, Cancel<'_>)>> {
        if self.ovs.is_none() {
            self.ovs = Some(Ovs::find()?);
        }
        Ok(self.ovs.as_mut().and_then(Option::as_mut).map(|ovs| (ovs, Some(&self.signals))))
    }

    pub fn did(&mut self, undo: Undo) {
        self.undo.push(undo);
    }

    /// All is done and stays.
    pub fn keep(&mut self) {
        self.undo.clear();
    }

    /// Takes back what was done, the last first; what cannot be taken back must not hide why.
    fn take_back(&mut self) {
        let mut devices = Vec::new();
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Name(name) => drop(store::remove_name(&name)),
                // Collected: a hundred one by one would take the kernel seconds.
                Undo::Device(name) => devices.push(name),
                Undo::Ports(names) => {
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    self.with_ovs(|ovs| ovs.delete_ports(&names, None));
                }
                Undo::Bridge(name) => self.with_ovs(|ovs| ovs.delete_bridge(&name, None).map(drop)),
                Undo::BridgeMac(name, mac) => self.with_ovs(|ovs| ovs.set_mac(&name, mac, None)),
                Undo::File(path, value) => drop(std::fs::write(path, value)),
                Undo::Outside(messages) => drop(self.outside.tell(messages)),
                Undo::Inside(space, messages) => drop(self.spaces[space].inside.tell(messages)),
            }
        }
        let _ = rtnl::delete_links(&mut self.outside, &devices);
    }

    /// Where it was asked before, which is so where something of it has to be taken back.
    fn with_ovs(&mut self, act: impl FnOnce(&mut Ovs) -> Result<()>) {
        let _ = self.ovs.as_mut().and_then(Option::as_mut).map_or(Ok(()), act);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// Held until the end: commands that must not run beside each other on this host. To be called at home.
pub fn lock_host() -> Result<Flock<OwnedFd>> {
    locked(store::open_own()?)
}

fn locked(namespace: OwnedFd) -> Result<Flock<OwnedFd>> {
    Flock::lock(namespace, FlockArg::LockExclusive)
        .map_err(|(_, errno)| Error::new(errno).context("cannot lock a namespace"))
}

/// Four descriptors for each namespace, where the usual limit is 1024.
fn make_room(namespaces: usize) -> Result<()> {
    if namespaces < 200 {
        return Ok(());
    }
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot ask for limits")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of open files")
}

fn enter(namespace: BorrowedFd<'_>) -> Result<()> {
    unshare::sys::setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")
}

/// The kernel would refuse too, but some of it half-way.
pub fn need_capabilities(raw: bool) -> Result<()> {
    let [low, _] = unshare::sys::capget().context("cannot read the capabilities")?;
    let needed = [(12, "CAP_NET_ADMIN", true), (13, "CAP_NET_RAW", raw), (21, "CAP_SYS_ADMIN", true)];
    match needed.iter().find(|(bit, _, needed)| *needed && (low.effective >> bit) & 1 == 0) {
        Some((_, name, _)) => bail!("needs {name}"),
        None => Ok(()),
    }
}
