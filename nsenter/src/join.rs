//! join: setns(2) into the namespaces that have been opened.

use std::os::fd::AsFd;

use anyhow::{Context, Error, Result};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use unshare::ns::{KINDS, Kind};
use unshare::{fail, sys};

use crate::namespaces::Namespaces;

/// Kinds that nix has no name for, too.
pub const ALL: CloneFlags = CloneFlags::from_bits_retain(!0);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum With {
    User,
    /// The user namespace only where the others cannot be entered without it.
    UserIfNeeded,
}

/// Enters those that are `wanted`, in two rounds. Root that enters a container of somebody else must join the
/// user namespace last, while it may still do all; a user who enters his own must join it first, to be allowed
/// anything. So the first round leaves the user namespace out and forgives; the second does what is left.
pub fn join(namespaces: &Namespaces, wanted: CloneFlags, with: With) -> Result<()> {
    let user = CloneFlags::CLONE_NEWUSER;
    let mut left = namespaces.mask() & wanted;
    round(namespaces, &mut left, user, &mut |_, _| Ok(()))?;
    if with == With::UserIfNeeded && (left - user).is_empty() {
        return Ok(());
    }
    round(namespaces, &mut left, CloneFlags::empty(), &mut |errno, kind| {
        let wanted = kind.map_or(namespaces.of_target, |kind| kind.flag);
        Err(hint(errno, wanted)).with_context(|| match kind {
            Some(kind) => format!("reassociate to namespace '{}' failed", kind.file),
            None => "reassociate to namespaces failed".into(),
        })
    })
}

/// One round: what is `left` but not `later`.
fn round(
    namespaces: &Namespaces,
    left: &mut CloneFlags,
    later: CloneFlags,
    failed: &mut dyn FnMut(Errno, Option<&Kind>) -> Result<()>,
) -> Result<()> {
    let now = (namespaces.of_target & *left) - later;
    if let (Some(target), false) = (&namespaces.target, now.is_empty()) {
        match sys::setns(target.as_fd(), now) {
            Ok(()) => *left -= now,
            Err(errno) => failed(errno, None)?,
        }
    }
    for (fd, kind) in &namespaces.of_files {
        if !left.contains(kind.flag) || later.contains(kind.flag) {
            continue;
        }
        match sys::setns(fd.as_fd(), kind.flag) {
            Ok(()) => *left -= kind.flag,
            Err(errno) => failed(errno, Some(kind))?,
        }
    }
    Ok(())
}

fn hint(errno: Errno, wanted: CloneFlags) -> Error {
    let error = Error::new(errno);
    let missing = KINDS.iter().find(|kind| {
        wanted.contains(kind.flag) && sys::exists(&format!("/proc/self/{}", kind.file)) == Ok(false)
    });
    match (errno, missing) {
        (Errno::EPERM, _) => fail::hint(error, "run it as root, or enter the user namespace too (-U)"),
        (Errno::EINVAL, Some(kind)) if sys::exists("/proc/self/ns") == Ok(true) => {
            fail::hint(error, format!("this kernel has no {} namespaces", kind.word))
        }
        (Errno::EINVAL, None) if wanted.contains(CloneFlags::CLONE_NEWUSER) => {
            fail::hint(error, "nobody can enter the user namespace that he is in: leave -U out")
        }
        _ => error,
    }
}

pub fn hint_on_fork(error: Error) -> Error {
    match error.downcast_ref() {
        Some(Errno::ENOMEM) => {
            fail::hint(error, "the process 1 of that pid namespace is gone: start the container again")
        }
        _ => error,
    }
}
