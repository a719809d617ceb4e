//! exec: become a program inside a namespace, as ip-netns(8) does, but with the host's cgroups in place.
//!
//! /sys shows the devices of the namespace that it was mounted in, so the program gets a new one in a mount
//! namespace of its own. What was mounted below the old /sys is hidden by that; the cgroup tree is put
//! back, since a program without it cannot be limited or looked at. Every ship starts through here: each
//! system call counts.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, statvfs};
use unshare::fail::say;

use crate::store::Target;

const NONE: Option<&str> = None;
const CGROUP: &str = "/sys/fs/cgroup";
/// Files that stand for those of /etc inside a namespace.
const ETC: &str = "/etc/netns";

/// Comes back only with an error.
pub fn exec(target: &Target, argv: &[OsString]) -> Result<()> {
    let namespace = target.open()?;
    let label = target.label();
    unshare::sys::setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter '{label}'"))?;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    // Ours stay here; those of the host still come in.
    mount(NONE, "/", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE).context("cannot detach the mounts")?;
    mount_sys()?;
    if let Target::Name(name) = target {
        bind_etc(name)?;
    }
    Err(unshare::exec::exec(argv))
}

/// A /sys of this namespace, as writable as the old one was.
fn mount_sys() -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let read_only = match statvfs("/sys") {
        Ok(old) => old.flags().contains(FsFlags::ST_RDONLY),
        Err(Errno::ENOENT) => return Ok(()), // a root without /sys: nothing to show
        Err(errno) => return Err(errno).context("cannot look at '/sys'"),
    };
    let cgroup = open(CGROUP, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).ok();
    let flags = if read_only { flags | MsFlags::MS_RDONLY } else { flags };
    match mount(Some("sysfs"), "/sys", Some("sysfs"), flags, NONE) {
        Ok(()) => {}
        // In a container: the kernel gives no new sysfs where parts of the old one are covered
        // (fs/namespace.c, mount_too_revealing). The network is the right one all the same.
        Err(Errno::EPERM) => {
            say("netns", "note: no new '/sys' is allowed here, it shows the devices outside");
            return Ok(());
        }
        Err(errno) => return Err(errno).context("cannot mount '/sys'"),
    }
    let Some(cgroup) = cgroup else { return Ok(()) };
    // The old tree lies below the new mount, where no path leads but the descriptor.
    let old = format!("/proc/self/fd/{}", cgroup.as_raw_fd());
    match mount(Some(old.as_str()), CGROUP, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE) {
        // ENOENT: this kernel has no cgroups, the directory was only there before.
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno).with_context(|| format!("cannot put '{CGROUP}' back")),
    }
}

/// Binds what is in /etc/netns/NAME over the same names in /etc.
fn bind_etc(name: &str) -> Result<()> {
    let own = Path::new(ETC).join(name);
    let Ok(entries) = fs::read_dir(&own) else { return Ok(()) };
    for entry in entries.flatten() {
        let target = Path::new("/etc").join(entry.file_name());
        match mount(Some(&entry.path()), &target, NONE, MsFlags::MS_BIND, NONE) {
            Ok(()) => {}
            Err(errno @ (Errno::ENOENT | Errno::ENOTDIR)) => {
                say("netns", &format!("note: nothing to cover with '{}': {errno}", entry.path().display()));
            }
            Err(errno) => return Err(errno).with_context(|| format!("cannot cover '{}'", target.display())),
        }
    }
    Ok(())
}
