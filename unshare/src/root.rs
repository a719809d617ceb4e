//! root: another root directory: chroot(2), or pivot_root(2), by which the old one is gone.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use nix::unistd::{chdir, chroot, fchdir, getpid, pivot_root};
use unshare::{fail, sys};

use crate::onto::is_missing;
use crate::plan::Root;

pub fn open_dir(root: &Root) -> Result<OwnedFd> {
    let place = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let at = |dir: &Path| open(dir, place, Mode::empty()).with_context(|| cannot_change_root(dir));
    match root {
        Root::Same => at(Path::new("/")),
        Root::Chroot(dir) => at(dir),
        Root::Pivot(dir) => {
            let on_itself = || -> nix::Result<OwnedFd> {
                let fd = open(dir, place, Mode::empty())?;
                match sys::open_tree_clone(fd.as_fd()) {
                    Ok(tree) => sys::move_mount(tree.as_fd(), fd.as_fd()).map(|()| tree),
                    Err(errno) if is_missing(errno) => {
                        mount(
                            Some(dir),
                            dir,
                            None::<&str>,
                            MsFlags::MS_BIND | MsFlags::MS_REC,
                            None::<&str>,
                        )?;
                        open(dir, place, Mode::empty())
                    }
                    Err(errno) => Err(errno),
                }
            };
            on_itself().with_context(|| format!("cannot mount the root '{}' on itself", dir.display()))
        }
    }
}

/// Makes it the root directory of this process.
pub fn change(how: &Root, root: &OwnedFd) -> Result<()> {
    match how {
        Root::Same => Ok(()),
        Root::Chroot(dir) => change_root(root).with_context(|| cannot_change_root(dir)),
        Root::Pivot(dir) => pivot(root).with_context(|| format!("cannot pivot root to '{}'", dir.display())),
    }
}

fn cannot_change_root(dir: &Path) -> String {
    format!("cannot change root directory to '{}'", dir.display())
}

fn change_root(root: &OwnedFd) -> Result<()> {
    fchdir(root)?;
    chroot(".")?;
    Ok(chdir("/")?)
}

/// The old root is let go as a slave: whatever --propagation has left shared, nothing is unmounted anywhere else.
fn pivot(root: &OwnedFd) -> Result<()> {
    let top = || open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let callers = top()?;
    leave_chroot().context("cannot leave the root directory of the caller")?;
    let old = match (top()?, swap_roots(root)) {
        // The new root lies over the old "/" itself, and so the way out has led to the new one.
        (_, Err(Errno::EBUSY)) => {
            change_root(&callers)?;
            swap_roots(root)?;
            callers
        }
        (_, Err(Errno::EINVAL)) => {
            let why = "the host's root is an initramfs or a shared mount: use --root";
            return Err(fail::hint(Errno::EINVAL.into(), why));
        }
        (old, done) => done.map(|()| old)?,
    };
    fchdir(&old)?;
    mount(None::<&str>, ".", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)
        .and_then(|()| umount2(".", MntFlags::MNT_DETACH))
        .context("cannot detach the old root")?;
    Ok(chdir("/")?)
}

/// pivot_root(2), "new_root and put_old may be the same": the old root lies over the new one for a moment.
fn swap_roots(root: &OwnedFd) -> nix::Result<()> {
    fchdir(root)?;
    pivot_root(".", ".")
}

/// To the root of the mount namespace, where setns(2) leads, be it to our own. In a chroot(2) pivot_root(2) would
/// change no more than our own root directory: who enters the namespace later would come out on the host.
fn leave_chroot() -> Result<()> {
    match sys::pidfd_open(getpid()).and_then(|me| sys::setns(me.as_fd(), CloneFlags::CLONE_NEWNS)) {
        // By process only since Linux 5.8 (EINVAL).
        Err(errno) if is_missing(errno) || errno == Errno::EINVAL => {
            let file = open("/proc/self/ns/mnt", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
            Ok(sys::setns(file.as_fd(), CloneFlags::CLONE_NEWNS)?)
        }
        done => Ok(done?),
    }
}
