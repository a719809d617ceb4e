//! terminal: made in the tree that the program will see, for whom, and like the caller's (pty(7)).

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, major, makedev, minor};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{Uid, fchown};
use unshare::rooted;

use crate::sys;

pub struct Pty {
    pub master: OwnedFd,
    pub slave: OwnedFd,
    /// How the caller's terminal was, if standard input is one.
    pub before: Option<Termios>,
}

/// A pseudo terminal of the devpts in `tree`, else of our own; owned by `owner` when one is named.
pub fn make(tree: Option<BorrowedFd<'_>>, owner: Option<u32>) -> Result<Pty> {
    let ours = File::open("/").context("cannot open '/'")?;
    let trees = tree.into_iter().chain([ours.as_fd()]);
    let mut why = Errno::ENOENT;
    for (tree, name) in trees.flat_map(|tree| ["dev/pts/ptmx", "dev/ptmx"].map(|name| (tree, name))) {
        match pair(tree, Path::new(name)) {
            Ok((master, slave)) => {
                let before = like_the_callers(&slave).context("cannot set up the terminal")?;
                own(&slave, owner).context("cannot give the terminal away")?;
                return Ok(Pty { master, slave, before });
            }
            // None there, or none that may be used: a false one, or not for us.
            Err(errno @ (Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)) => why = errno,
            Err(errno @ (Errno::ENODEV | Errno::ENXIO | Errno::EACCES | Errno::EPERM)) => why = errno,
            Err(errno) => return Err(errno).context("cannot make a terminal"),
        }
    }
    Err(why).context("cannot make a terminal: no usable /dev/pts/ptmx, there or here")
}

fn own(slave: &OwnedFd, owner: Option<u32>) -> nix::Result<()> {
    match owner.map(|id| fchown(slave, Some(Uid::from_raw(id)), None)) {
        None | Some(Err(Errno::EPERM)) => Ok(()), // who may not change it is the owner already
        Some(done) => done,
    }
}

/// The tree may be hostile: what lies there is opened only if it is the device that makes terminals.
fn pair(tree: BorrowedFd<'_>, name: &Path) -> nix::Result<(OwnedFd, OwnedFd)> {
    let found = rooted::open_path(tree, name)?;
    is_device(&found, makedev(5, 2))?;
    let master = reopen(&found, OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK)?;
    sys::unlock_pty(master.as_fd())?;
    let slave = match sys::pty_peer(master.as_fd()) {
        Err(Errno::ENOTTY | Errno::EINVAL) => {
            let number = sys::pty_number(master.as_fd())?;
            let found = rooted::open_path(tree, Path::new(&format!("dev/pts/{number}")))?;
            is_device(&found, makedev(136 + u64::from(number >> 8), u64::from(number & 0xff)))?;
            reopen(&found, OFlag::O_RDWR | OFlag::O_NOCTTY)?
        }
        peer => peer?,
    };
    Ok((master, slave))
}

fn is_device(fd: &OwnedFd, device: libc::dev_t) -> nix::Result<()> {
    let stat = fstat(fd)?;
    let is_char = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits();
    let same = (major(stat.st_rdev), minor(stat.st_rdev)) == (major(device), minor(device));
    if is_char && same { Ok(()) } else { Err(Errno::ENODEV) }
}

/// Our own /proc is still there, and its link leads to exactly what has been looked at.
fn reopen(found: &OwnedFd, flags: OFlag) -> nix::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    open(path.as_str(), flags | OFlag::O_CLOEXEC, Mode::empty())
}

/// Modes and size of the caller's terminal, whichever standard stream it is on. Gives back the modes of standard
/// input, if that is one.
fn like_the_callers(slave: &OwnedFd) -> nix::Result<Option<Termios>> {
    let mut callers = None;
    for stream in sys::STREAMS {
        callers = callers.or(modes_of(stream)?.map(|modes| (stream, modes)));
    }
    let before = modes_of(sys::STDIN)?;
    let mut modes = match &callers {
        Some((_, modes)) => modes.clone(),
        None => tcgetattr(slave)?,
    };
    if before.is_none() {
        // What comes from a file or a pipe has not been typed: nobody wants to read it twice.
        modes.local_flags -= LocalFlags::ECHO;
    }
    tcsetattr(slave, SetArg::TCSANOW, &modes)?;
    if let Some((terminal, _)) = callers {
        sys::window_size(terminal).and_then(|size| sys::set_window_size(slave.as_fd(), &size))?;
    }
    Ok(before)
}

/// None for what is no terminal, or one that has been hung up.
fn modes_of(stream: BorrowedFd<'_>) -> nix::Result<Option<Termios>> {
    match tcgetattr(stream) {
        Err(Errno::ENOTTY | Errno::EINVAL | Errno::EIO | Errno::EBADF) => Ok(None),
        modes => modes.map(Some),
    }
}
