//! enter: go in, and become the program.
//!
//! A hostile process inside may look at us from the moment we are in its pid namespace, and that is the
//! child alone. So before the fork root and working directory are switched, every descriptor of ours is
//! closed, and the process is made undumpable, which hides its /proc/PID links and our binary from all but
//! CAP_SYS_PTRACE (CVE-2016-9962, CVE-2019-5736). The program itself is dumpable again, by its exec.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Error, Result};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::SigSet;
use nix::unistd::{ForkResult, Gid, Uid, chdir, chroot, dup2_stderr, fchdir, setgid, setgroups, setuid};
use unshare::child::{DeathTie, Held, Wait, end_as};
use unshare::{caps, exec, fail, sys};

use crate::cgroup::Groups;
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
fn go(target: Target, terminal: Option<Option<DeathTie>>) -> Result<()> {
    // Entering a user namespace may leave us without the right to this: then the result below counts.
    let groups_dropped = target.setgid.is_some() && setgroups(&[]).is_ok();
    enter(&target.namespaces)?;
    change_directories(&target)?;
    let Target { namespaces, root, wd, groups, .. } = target;
    drop((namespaces, root, wd));
    // Before the fork: who looks at the child, and may, finds no more power in it than the program will have.
    set_ids(target.setuid, target.setgid, groups_dropped)?;
    if let Some((keep, no_new_privs)) = target.caps {
        caps::reduce(keep).context("cannot reduce the capabilities")?;
        if no_new_privs {
            sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).context("cannot set no_new_privs")?;
        }
    }
    let own_terminal = terminal.is_some();
    if let Some(Some(tie)) = terminal {
        tie.bind()?; // after the last change of credentials, which would undo it
    }
    if target.fork {
        sys::prctl(libc::PR_SET_DUMPABLE, 0).context("cannot become undumpable")?;
        fork(target.kill_child, target.forward, groups)?;
    } else if let Some(groups) = groups {
        groups.join()?;
    }
    if own_terminal {
        pty::take()?;
    }
    if let Some(context) = target.context {
        fs::write("/proc/thread-self/attr/exec", context).context("failed to set exec context")?;
    }
    Err(exec::exec_in(&target.argv, target.environment))
}

/// In two rounds. Root that enters a container of somebody else must join the user namespace last, while
/// it may still do all; a user who enters his own must join it first, to be allowed anything. So the first
/// round leaves the user namespace out and forgives; the second does what is left.
fn enter(namespaces: &Namespaces) -> Result<()> {
    let user = CloneFlags::CLONE_NEWUSER;
    let mut entered = CloneFlags::empty();
    for last in [false, true] {
        if let Some((pidfd, mask)) = &namespaces.of_pidfd {
            let wanted = if last { *mask - entered } else { *mask - user };
            match join_pidfd(pidfd.as_fd(), wanted) {
                Ok(()) => entered |= wanted,
                Err(_) if !last && mask.contains(user) => {}
                Err(errno) => {
                    return Err(hint(errno)).context("reassociate to namespaces failed");
                }
            }
        }
        for (fd, kind) in &namespaces.of_files {
            if entered.contains(kind.flag) || (!last && kind.flag == user) {
                continue;
            }
            match sys::setns(fd.as_fd(), kind.flag) {
                Ok(()) => entered |= kind.flag,
                Err(_) if !last => {}
                Err(errno) => {
                    return Err(hint(errno))
                        .with_context(|| format!("reassociate to namespace '{}' failed", kind.file));
                }
            }
        }
    }
    Ok(())
}

fn join_pidfd(pidfd: BorrowedFd<'_>, wanted: CloneFlags) -> nix::Result<()> {
    if wanted.is_empty() { Ok(()) } else { sys::setns(pidfd, wanted) }
}

fn hint(errno: Errno) -> Error {
    match errno {
        Errno::EPERM => fail::hint(Error::new(errno), "run it as root, or enter the user namespace too (-U)"),
        _ => Error::new(errno),
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
        None => sys::fork().context("fork failed"),
    };
    let forked = forked.map_err(|e| match e.downcast_ref() {
        Some(Errno::ENOMEM) => fail::hint(e, "the process 1 of that pid namespace is gone"),
        _ => e,
    })?;
    match forked {
        ForkResult::Child => {
            drop(groups);
            held.restore()?;
            tie.map_or(Ok(()), DeathTie::bind)
        }
        ForkResult::Parent { child } => {
            drop(groups);
            end_as(Wait { forward, follow_stops: true }.wait_for(child)?)
        }
    }
}

fn set_ids(uid: Option<u32>, gid: Option<u32>, groups_dropped: bool) -> Result<()> {
    if let Some(gid) = gid {
        match setgroups(&[]) {
            Err(errno) if !groups_dropped => {
                return Err(fail::hint(Error::new(errno), "add --preserve-credentials"))
                    .context("setgroups failed");
            }
            _ => {}
        }
        setgid(Gid::from_raw(gid)).with_context(|| format!("setgid({gid}) failed"))?;
    }
    if let Some(uid) = uid {
        setuid(Uid::from_raw(uid)).with_context(|| format!("setuid({uid}) failed"))?;
    }
    Ok(())
}
