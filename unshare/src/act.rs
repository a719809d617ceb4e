//! act: do the steps, one call each, and become the program.
//!
//! Who does what, when there is a child (the protocol between the two is this list):
//!
//!   parent                                   child
//!   close descriptors, read fstab, open the
//!     pid file, unshare, steps `before`
//!   hold signals, fork --------------------> die with the parent (kill_child)
//!                                            the world: mounts and root; steps `after`
//!   write the pid file <-------------------- all is ready (only when there is a pid file)
//!   let it go -----------------------------> init or the program
//!   wait, pass signals down
//!   end as the child

use std::fs;

use anyhow::{Context, Error, Result, anyhow};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, Gid, Uid, getegid, geteuid, setgid, setgroups, setsid, setuid};
use unshare::child::{DeathTie, Held, Wait, close_inherited, end_as};
use unshare::seccomp::Filter;
use unshare::{caps, exec, fail, fstab, sys};

use crate::cli::Setgroups;
use crate::pidfile::{Gate, PidFile};
use crate::plan::{Fork, Plan, Step};
use crate::{init, mounts};

pub fn run(plan: Plan) -> Result<()> {
    if plan.close_fds {
        close_inherited(&plan.keep_fds);
    }
    let filter = plan.seccomp.as_ref().map(|(profile, keep)| profile.filter(*keep)).transpose()?.flatten();
    let table = plan.fstab.as_deref().map(fstab::read).transpose()?.unwrap_or_default();
    let pid_file = plan.fork.as_ref().and_then(|fork| fork.pid_file.as_deref());
    let pid_file = pid_file.map(PidFile::open).transpose()?;
    let ids = (geteuid(), getegid());
    if !plan.kinds.is_empty() {
        nix::sched::unshare(plan.kinds)
            .context("unshare failed")
            .map_err(|e| hint_on_unshare(e, plan.kinds))?;
    }
    for step in &plan.before {
        act(step, ids, None)?;
    }
    let gate = match &plan.fork {
        Some(fork) => become_child(fork, plan.init, pid_file)?,
        None => None,
    };
    if let Some(world) = &plan.world {
        mounts::make(world, &table)?;
    }
    for step in &plan.after {
        act(step, ids, filter.as_ref())?;
    }
    if let Some(gate) = gate {
        gate.pass();
    }
    if plan.init { init::run(&plan.argv, &plan.keep_fds) } else { Err(exec::exec(&plan.argv)) }
}

fn act(step: &Step, ids: (Uid, Gid), filter: Option<&Filter>) -> Result<()> {
    let done = match step {
        Step::MapRoot => map_root(ids),
        Step::Setgroups(Setgroups::Allow) => fs::write("/proc/self/setgroups", "allow").map_err(Error::new),
        Step::Setgroups(Setgroups::Deny) => fs::write("/proc/self/setgroups", "deny").map_err(Error::new),
        Step::Hostname(name) => nix::unistd::sethostname(name).map_err(Error::new),
        Step::Chdir(dir) => nix::unistd::chdir(dir).map_err(Error::new),
        Step::NewSession => match setsid() {
            // Already the leader of a group, as a job of an interactive shell is; a child of ours never is.
            Err(Errno::EPERM) => Err(anyhow!("EPERM: this process leads a process group; add --fork")),
            done => done.map(drop).map_err(Error::new),
        },
        Step::NewKeyring => match sys::new_session_keyring() {
            Err(Errno::ENOSYS) => Ok(()), // a kernel without keyrings has none to share
            done => done.map_err(Error::new),
        },
        Step::Setgid(id) => setgroups(&[]).map_err(Error::new).and_then(|()| Ok(setgid(Gid::from_raw(*id))?)),
        Step::Setuid(id) => setuid(Uid::from_raw(*id)).map_err(Error::new),
        Step::NoNewPrivs => sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop).map_err(Error::new),
        Step::Bounding(keep) => caps::drop_bounding(*keep),
        Step::Seccomp => filter.map_or(Ok(()), Filter::load),
        Step::Caps(keep) => caps::limit(*keep),
    };
    done.with_context(|| format!("cannot {step}"))
}

/// The one-line maps that user_namespaces(7) allows to everybody: own ids only, setgroups given up first.
fn map_root((uid, gid): (Uid, Gid)) -> Result<()> {
    for (file, text) in
        [("uid_map", format!("0 {uid} 1")), ("setgroups", "deny".into()), ("gid_map", format!("0 {gid} 1"))]
    {
        match fs::write(format!("/proc/self/{file}"), text) {
            Err(e) if file == "setgroups" && e.kind() == std::io::ErrorKind::NotFound => {} // before 3.19
            done => done.with_context(|| format!("write failed /proc/self/{file}"))?,
        }
    }
    Ok(())
}

/// Forks; comes back in the child, with the gate at which it must wait. The parent stays in here.
fn become_child(fork: &Fork, init: bool, pid_file: Option<PidFile>) -> Result<Option<Gate>> {
    let mut terminations = SigSet::empty();
    terminations.add(Signal::SIGINT);
    terminations.add(Signal::SIGTERM);
    let held = Held::block(&terminations, fork.forward)?;
    // Process 1 must have all signals blocked from its first moment: the kernel drops what it does not handle.
    let all = init.then(|| Held::block(&SigSet::all(), false)).transpose()?;
    let tie = fork.kill_child.map(DeathTie::before_fork);
    let forked = sys::fork();
    match forked.map_err(Error::new).context("fork failed").map_err(hint_on_fork)? {
        ForkResult::Child => {
            if init {
                init::forget_command_line();
            } else {
                held.restore()?;
            }
            if let Some(tie) = tie {
                tie.bind()?;
            }
            Ok(pid_file.map(PidFile::into_gate))
        }
        ForkResult::Parent { child } => {
            if let Some(all) = all {
                all.restore()?;
            }
            let forward = if fork.forward { terminations } else { SigSet::empty() };
            if let Some(file) = pid_file {
                file.write_when_ready(child).inspect_err(|_| {
                    let _ = nix::sys::signal::kill(child, Signal::SIGKILL);
                })?;
            }
            end_as(Wait { forward, follow_stops: false }.wait_for(child)?)
        }
    }
}

fn hint_on_unshare(error: Error, kinds: CloneFlags) -> Error {
    match error.downcast_ref::<Errno>() {
        Some(Errno::EPERM) if !kinds.contains(CloneFlags::CLONE_NEWUSER) && !geteuid().is_root() => {
            fail::hint(error, "run it as root, or add --map-root-user (-r)")
        }
        Some(Errno::EPERM) if kinds.contains(CloneFlags::CLONE_NEWUSER) => fail::hint(
            error,
            "user namespaces may be switched off: see sysctl kernel.unprivileged_userns_clone, \
                 and user_namespaces(7) for a chroot",
        ),
        Some(Errno::ENOSPC) => fail::hint(error, "a limit is reached: see sysctl -a | grep '^user.max_'"),
        Some(Errno::EINVAL) => {
            fail::hint(error, "this kernel lacks one of the namespaces: see ls /proc/self/ns")
        }
        _ => error,
    }
}

fn hint_on_fork(error: Error) -> Error {
    match error.downcast_ref::<Errno>() {
        Some(Errno::ENOMEM) => fail::hint(error, "the pid namespace has lost its process 1"),
        _ => error,
    }
}
