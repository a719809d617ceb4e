//! enter: go in, and become the program.
//!
//! A hostile process inside may look at us from the moment we are in its pid namespace, and that is the
//! child alone. So before the fork root and working directory are switched, every descriptor of ours is
//! closed, and the process is made undumpable, which hides its /proc/PID links and our binary from all but
//! CAP_SYS_PTRACE (CVE-2016-9962, CVE-2019-5736). The program itself is dumpable again, by its exec.

use std::os::fd::AsFd;

use anyhow::{Context, Error, Result};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::SigSet;
use nix::unistd::{ForkResult, chdir, chroot, dup2_stderr, fchdir, setgroups};
use unshare::child::{DeathTie, Held, Wait, end_as};
use unshare::ns::{KINDS, Kind};
use unshare::{exec, fail, sys};

use crate::cgroup::Groups;
use crate::credentials;
use crate::namespaces::Namespaces;
use crate::pty;
use crate::target::Target;

pub fn run(mut target: Target) -> Result<()> {
    let Some(worker) = target.worker.take() else { return go(target, None) };
    go(target, Some(worker.tie)).inspect_err(|_| {
        // Standard error to the caller's again, by way of the relay.
        let _ = dup2_stderr(&worker.complaints);
    })
}

/// `terminal` is there when standard input is a terminal of the program's own; it may hold a tie to the relay.
fn go(mut target: Target, terminal: Option<Option<DeathTie>>) -> Result<()> {
    // Entering a user namespace may leave us without the right to this: then the result below counts.
    let groups_dropped = target.setgid.is_some() && setgroups(&[]).is_ok();
    credentials::raise(&target)?;
    enter(&target.namespaces, ALL, With::User)?;
    change_directories(&target)?;
    target.close();
    // Before the fork: who looks at the child, and may, finds no more power in it than the program will have.
    credentials::reduce(&target, groups_dropped)?;
    target.followed = None;
    let own_terminal = terminal.is_some();
    let no_new_privs = target.caps.is_some_and(|(_, no_new_privs)| no_new_privs);
    if let Some(Some(tie)) = terminal {
        tie.bind()?; // after the last change of credentials, which would undo it
    }
    if target.fork {
        sys::prctl(libc::PR_SET_DUMPABLE, 0).context("cannot become undumpable")?;
        fork(target.kill_child, target.forward, target.groups)?;
    } else if let Some(groups) = target.groups {
        groups.join()?;
    }
    if own_terminal {
        pty::take()?;
    }
    if let (Some(filter), true) = (&target.seccomp, no_new_privs) {
        filter.load().context("cannot restrict the system calls")?;
    }
    Err(exec::exec_in(&target.argv, target.environment))
}

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
pub fn enter(namespaces: &Namespaces, wanted: CloneFlags, with: With) -> Result<()> {
    let user = CloneFlags::CLONE_NEWUSER;
    let mut left = namespaces.mask() & wanted;
    join(namespaces, &mut left, user, &mut |_, _| Ok(()))?;
    if with == With::UserIfNeeded && (left - user).is_empty() {
        return Ok(());
    }
    join(namespaces, &mut left, CloneFlags::empty(), &mut |errno, kind| {
        let wanted = kind.map_or(namespaces.of_target, |kind| kind.flag);
        Err(hint(errno, wanted)).with_context(|| match kind {
            Some(kind) => format!("reassociate to namespace '{}' failed", kind.file),
            None => "reassociate to namespaces failed".into(),
        })
    })
}

/// One round: what is `left` but not `later`.
fn join(
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

fn change_directories(target: &Target) -> Result<()> {
    if let Some(root) = &target.root {
        // Into the new root, too: a working directory left outside is a way out for who can look at us,
        // as it is with util-linux's -r alone.
        fchdir(root).and_then(|()| chroot(".")).context("change root directory failed")?;
    }
    if let Some(dir) = &target.wdns {
        chdir(dir).with_context(|| format!("change directory to '{}' failed", dir.display()))?;
    }
    if let Some(wd) = &target.wd {
        fchdir(wd).context("change directory by working directory file descriptor failed")?;
    }
    Ok(())
}

/// Comes back in the child; the parent stays in here and ends as the child ends.
fn fork(kill_child: Option<i32>, forward: SigSet, groups: Option<Groups>) -> Result<()> {
    let held = Held::block(&forward, forward != SigSet::empty())?;
    let tie = kill_child.map(DeathTie::before_fork);
    let forked = match &groups {
        Some(groups) => groups.fork_inside(),
        None => sys::fork_into(CloneFlags::empty()).context("fork failed"),
    };
    let forked = forked.map_err(hint_on_fork)?;
    match forked {
        ForkResult::Child => {
            drop(groups);
            held.restore()?;
            tie.map_or(Ok(()), DeathTie::bind)
        }
        ForkResult::Parent { child } => {
            drop(groups);
            let wait = Wait { forward, follow_stops: true };
            end_as(match wait.for_a_moment(child) {
                Some(end) => end,
                None => wait.wait_for(child)?,
            })
        }
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
