//! dev: a private /dev on tmpfs: the harmless devices, terminals of its own, shared memory, the fd links.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::MsFlags;
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknodat, umask};
use nix::unistd::symlinkat;
use unshare::rooted;

use crate::onto::{bind_on, mount_on};

/// Name and numbers, from the kernel's devices.txt.
const NODES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// `bind`: the devices come from the host by bind mounts, as a user namespace may not make any.
pub fn make(root: BorrowedFd<'_>, bind: bool) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    // Before anything lies over them, as in a root that stays the same.
    let hosts = if bind { hosts_nodes()? } else { Vec::new() };
    mount_on(root, Path::new("/dev"), "tmpfs", flags, "mode=755,size=64k")?;
    let dev = rooted::open_path(root, Path::new("/dev"))?;
    let old = umask(Mode::empty());
    let done = fill(root, dev.as_fd(), &hosts);
    umask(old);
    done
}

fn hosts_nodes() -> Result<Vec<OwnedFd>> {
    let open_one = |(name, ..): (&str, u64, u64)| {
        let path = format!("/dev/{name}");
        open(path.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .with_context(|| format!("cannot open '{path}'"))
    };
    NODES.into_iter().map(open_one).collect()
}

/// `hosts`: the devices to bind, in the order of `NODES`; none: make them.
fn fill(root: BorrowedFd<'_>, dev: BorrowedFd<'_>, hosts: &[OwnedFd]) -> Result<()> {
    for (at, (name, major, minor)) in NODES.into_iter().enumerate() {
        if let Some(source) = hosts.get(at) {
            bind_node(source, dev, name).with_context(|| format!("cannot bind '/dev/{name}'"))?;
        } else {
            mknodat(dev, name, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor))
                .with_context(|| format!("cannot make '/dev/{name}'"))?;
        }
    }
    for (name, target) in LINKS {
        symlinkat(target, dev, name).with_context(|| format!("cannot make the link '/dev/{name}'"))?;
    }
    for (name, mode) in [("pts", 0o755), ("shm", 0o1777)] {
        mkdirat(dev, name, Mode::from_bits_truncate(mode))
            .with_context(|| format!("cannot make '/dev/{name}'"))?;
    }
    mount_pts(root).context("cannot mount '/dev/pts'")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount_on(root, Path::new("/dev/shm"), "tmpfs", flags, "mode=1777").context("cannot mount '/dev/shm'")
}

/// Terminals belong to the group tty, 5 in Debian, so that write(1) and mesg(1) work. In a user namespace
/// which does not map it the kernel says EINVAL: then to whoever opens them.
fn mount_pts(root: BorrowedFd<'_>) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let mount = |data| mount_on(root, Path::new("/dev/pts"), "devpts", flags, data);
    match mount("newinstance,ptmxmode=0666,mode=0620,gid=5") {
        Err(e) if e.downcast_ref() == Some(&Errno::EINVAL) => mount("newinstance,ptmxmode=0666,mode=0620"),
        done => done,
    }
}

fn bind_node(source: &OwnedFd, dev: BorrowedFd<'_>, name: &str) -> Result<()> {
    let made = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    openat(dev, name, made, Mode::from_bits_truncate(0o666))?;
    let place = openat(dev, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    bind_on(source, &place, MsFlags::MS_BIND)
}
