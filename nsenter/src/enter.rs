//! enter: go in, and become the program.
//!
//! A hostile process inside may look at us from the moment we are in its pid namespace, and that is the
//! child alone. So before the fork root and working directory are switched, every descriptor of ours is
//! closed, and the process is made undumpable, which hides its /proc/PID links and our binary from all but
//! CAP_SYS_PTRACE (CVE-2016-9962, CVE-2019-5736). The program itself is dumpable again, by its exec.

use anyhow::{Context, Result};
use nix::sched::CloneFlags;
use nix::sys::signal::SigSet;
use nix::unistd::{ForkResult, chdir, chroot, dup2_stderr, fchdir, setgroups};
use unshare::child::{DeathTie, Held, Wait, end_as};
use unshare::{exec, sys};

use crate::cgroup::Groups;
use crate::credentials;
use crate::join::{ALL, With, hint_on_fork, join};
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
    join(&target.namespaces, ALL, With::User)?;
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
