//! onto: mount on places that are held by descriptor.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{SFlag, fstat};
use unshare::rooted;

/// Nothing in proc and sys is a program or a device.
pub const KERNEL: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// The newer calls: not there in an old kernel, or refused by an old seccomp filter around us that does not know
/// them. The older way then tells what is wrong, if it is something else.
pub fn is_missing(errno: Errno) -> bool {
    matches!(errno, Errno::ENOSYS | Errno::EPERM)
}

/// Mounts a file system of the kernel's own on a directory of the root.
pub fn mount_on(root: BorrowedFd<'_>, dir: &Path, kind: &str, flags: MsFlags, data: &str) -> Result<()> {
    let place = rooted::make_dirs(root, dir).with_context(|| format!("cannot open '{}'", dir.display()))?;
    Ok(mount(Some(kind), by_fd(&place).as_str(), Some(kind), flags, Some(data))?)
}

pub fn bind_on(source: &OwnedFd, place: &OwnedFd, how: MsFlags) -> Result<()> {
    Ok(mount(Some(by_fd(source).as_str()), by_fd(place).as_str(), None::<&str>, how, None::<&str>)?)
}

pub fn kind_of(fd: &OwnedFd) -> nix::Result<SFlag> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode & SFlag::S_IFMT.bits()))
}

/// A path that is exactly this descriptor: the magic link does not look anything up.
pub fn by_fd(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
