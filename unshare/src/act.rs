//! act: do the steps, one call each, and become the program.
//!
//! Who does what, when there is a child (the protocol between the two is this list; outside.rs has that with
//! a third process, which stays in the caller's namespaces):
//!
//!   parent                                   child
//!   close descriptors, read fstab, look up
//!     ids, open the pid file
//!   unshare, map ids, steps `before`
//!   hold signals, fork --------------------> die with the parent (kill_child)
//!                                            the world: mounts and root; steps `after`
//!   keep namespaces in files, write the
//!     pid file <---------------------------- all is ready (only when there are such files)
//!   let it go -----------------------------> init or the program
//!   wait, pass signals down
//!   end as the child

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::Path;

use anyhow::{Context, Error, Result, anyhow};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, Gid, Pid, Uid, setgid, setgroups, setsid, setuid};
use unshare::child::{DeathTie, Held, Wait, close_inherited, end_as};
use unshare::exec::{self, Environment};
use unshare::fstab::{self, Line};
use unshare::seccomp::Filter;
use unshare::{caps, sys};

use crate::gate::{Gate, Keeper, Waiting};
use crate::outside::{Outside, Tasks, Writes, write_one};
use crate::pidfile::PidFile;
use crate::plan::{Fork, Plan, Step};
use crate::{hints, init, lookup, mounts};

/// What is opened and looked up before anything changes: a mistake ends here.
struct Found {
    table: Vec<Line>,
    pid_file: Option<PidFile>,
    own_writes: Writes,
    tasks: Tasks,
    environment: Option<Environment>,
    filter: Option<Filter>,
}

pub fn run(plan: Plan) -> Result<()> {
    let mut found = find(&plan)?;
    warn(&plan);
    for step in &plan.early {
        act(step, None)?;
    }
    let (mut outside, into) = leave(&plan, &mut found)?;
    for step in &plan.before {
        act(step, None)?;
    }
    let mut gate = None;
    if let Some(fork) = &plan.fork {
        gate = become_child(fork, plan.init, into, found.pid_file.take(), outside.take())?;
    }
    if let Some(world) = &plan.world {
        mounts::make(world, &found.table)?;
    }
    for step in &plan.after {
        act(step, found.filter.as_ref())?;
    }
    if let Some(gate) = gate {
        gate.pass()?;
    }
    if let Some(outside) = outside {
        outside.bind().unwrap_or_else(|status| std::process::exit(status));
    }
    if plan.init {
        return init::run(&plan.argv, found.environment, &plan.keep_fds);
    }
    Err(exec::exec_in(&plan.argv, found.environment))
}

fn find(plan: &Plan) -> Result<Found> {
    if plan.close_fds {
        close_inherited(&plan.keep_fds);
    }
    let table = plan.fstab.as_deref().map(fstab::read).transpose()?.unwrap_or_default();
    let filter = plan.seccomp.as_ref().map(|(profile, keep)| profile.filter(*keep)).transpose()?.flatten();
    let (own_writes, mut tasks) = lookup::resolve(&plan.ids)?;
    tasks.binds = plan.files.clone();
    let pid_file = plan.fork.as_ref().and_then(|fork| fork.pid_file.as_deref());
    let kept = |names: &Vec<OsString>| -> Environment {
        names.iter().filter_map(|name| Some((name.clone(), std::env::var_os(name)?))).collect()
    };
    Ok(Found {
        table,
        pid_file: pid_file.map(PidFile::open).transpose()?,
        own_writes,
        tasks,
        environment: plan.environment.as_ref().map(kept),
        filter,
    })
}

/// To who sits at a terminal only: a script may want exactly this.
fn warn(plan: &Plan) {
    if plan.kinds.contains(CloneFlags::CLONE_NEWPID) && plan.fork.is_none() {
        let text = hints::pid_without_fork(plan.argv.first().map(OsString::as_os_str));
        if let Some(text) = text.filter(|_| std::io::stderr().is_terminal()) {
            eprintln!("unshare: {text}");
        }
    }
}

/// Leaves the namespaces and maps the ids. Gives back the process outside, when it is still needed, and the
/// namespaces that the child must be born into, as this kernel knows no other way.
fn leave(plan: &Plan, found: &mut Found) -> Result<(Option<Outside>, CloneFlags)> {
    let tasks = std::mem::take(&mut found.tasks);
    let (maps, binds) = (tasks.maps(), !tasks.binds.is_empty());
    if maps || binds || plan.fork.is_none() {
        sys::default_action(libc::SIGCHLD).context("cannot reset SIGCHLD")?;
    }
    let mut outside = if maps || binds { Some(Outside::start(tasks)?) } else { None };
    if let Some((uid, gid)) = plan.ids.owner {
        setgroups(&[]).context("setgroups failed")?;
        setgid(Gid::from_raw(gid)).context("setgid() failed")?;
        setuid(Uid::from_raw(uid)).context("setuid() failed")?;
    }
    let into = unshare(plan.kinds, plan.fork.is_some())?;
    for (file, text) in &found.own_writes {
        write_one(Path::new("/proc/self"), file, text).map_err(hints::on_map)?;
    }
    if let Some(outside) = outside.as_mut().filter(|_| maps) {
        outside.write_maps();
    }
    if binds {
        return Ok((outside, into));
    }
    if let Some(outside) = outside {
        outside.dismiss();
    }
    Ok((None, into))
}

/// unshare(2). Before Linux 3.8 it knows no pid namespaces; a child can be born into one by clone(2).
fn unshare(kinds: CloneFlags, fork: bool) -> Result<CloneFlags> {
    if kinds.is_empty() {
        return Ok(kinds);
    }
    let pid = kinds & CloneFlags::CLONE_NEWPID;
    let done = match nix::sched::unshare(kinds) {
        Err(Errno::EINVAL) if fork && !pid.is_empty() => {
            nix::sched::unshare(kinds - pid).map(|()| pid).map_err(|_| Errno::EINVAL)
        }
        done => done.map(|()| CloneFlags::empty()),
    };
    done.context("unshare failed").map_err(|e| hints::on_unshare(e, kinds))
}

fn act(step: &Step, filter: Option<&Filter>) -> Result<()> {
    let done = match step {
        Step::Nice(value) => sys::set_nice(*value).map_err(Error::new),
        Step::Raise(limit) => limit.raise().map_err(Error::new),
        Step::Limit(limit) => limit.set().map_err(Error::new),
        Step::Hostname(name) => nix::unistd::sethostname(name).map_err(Error::new),
        Step::Loopback => sys::loopback_up().map_err(Error::new),
        Step::Chdir(dir) => nix::unistd::chdir(dir).map_err(Error::new),
        Step::NewSession => match setsid() {
            // Already the leader of a group, as a job of an interactive shell is; a child of ours never is.
            Err(Errno::EPERM) => Err(anyhow!("this process leads a process group; add --fork")),
            done => done.map(drop).map_err(Error::new),
        },
        Step::NewKeyring => match sys::new_session_keyring() {
            Err(Errno::ENOSYS) => Ok(()), // a kernel without keyrings has none to share
            done => done.map_err(Error::new),
        },
        Step::Setgroups => setgroups(&[]).map_err(Error::new),
        Step::Setgid(id) => setgid(Gid::from_raw(*id)).map_err(Error::new),
        Step::Setuid(id) => setuid(Uid::from_raw(*id)).map_err(Error::new),
        Step::SetuidKeepingCaps(id) => caps::setuid_keeping(Uid::from_raw(*id)),
        Step::NoNewPrivs => sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop).map_err(Error::new),
        Step::Seccomp => filter.map_or(Ok(()), Filter::load),
        Step::Bounding(keep) => caps::drop_bounding(*keep),
        Step::Caps(keep) => caps::limit(*keep),
        Step::Ambient => caps::make_ambient(),
    };
    let done = done.with_context(|| step.to_string());
    if *step == Step::Setgroups { done.map_err(hints::on_setgroups) } else { done }
}

/// Forks; comes back in the child, with the gate at which it must wait. The parent stays in here.
fn become_child(
    fork: &Fork,
    init: bool,
    into: CloneFlags,
    pid_file: Option<PidFile>,
    outside: Option<Outside>,
) -> Result<Option<Waiting>> {
    let gate = if pid_file.is_some() || outside.is_some() { Some(Gate::new()?) } else { None };
    let to_hold = fork.forward.unwrap_or_else(|| sys::sigset(&[libc::SIGINT, libc::SIGTERM]));
    let forward = fork.forward.is_some();
    // Process 1 must have all signals blocked from its first moment: the kernel drops what it does not handle.
    let held = if init { Held::block(&sys::all_signals(), false)? } else { Held::block(&to_hold, forward)? };
    let tie = fork.kill_child.map(DeathTie::before_fork);
    match sys::fork_into(into).context("fork failed").map_err(hints::on_fork)? {
        ForkResult::Child => {
            drop(outside);
            if init {
                // It names places of the host, and everybody in the ship can read /proc/1/cmdline.
                sys::replace_command_line(b"init");
            } else {
                held.restore()?;
            }
            if let Some(tie) = tie {
                tie.bind()?;
            }
            Ok(gate.map(Gate::child))
        }
        ForkResult::Parent { child } => {
            if init {
                held.reduce_to(&to_hold, forward)?;
            }
            if let Some(gate) = gate {
                keep_files(gate.parent(), child, pid_file, outside)?;
            }
            let forward = fork.forward.unwrap_or_else(SigSet::empty);
            end_as(Wait { forward, follow_stops: false }.wait_for(child)?)
        }
    }
}

/// When the child is ready: what must be in files before the program begins.
fn keep_files(
    mut gate: Keeper,
    child: Pid,
    pid_file: Option<PidFile>,
    outside: Option<Outside>,
) -> Result<()> {
    let end_child = || {
        let _ = nix::sys::signal::kill(child, Signal::SIGKILL);
    };
    if !gate.ready().inspect_err(|_| end_child())? {
        // How it ended is told by waiting for it.
        if let Some(file) = pid_file {
            file.remove();
        }
        return Ok(());
    }
    if let Some(outside) = outside {
        outside.bind().unwrap_or_else(|status| {
            end_child();
            std::process::exit(status)
        });
    }
    if let Some(file) = pid_file {
        file.write(child).inspect_err(|_| end_child())?;
    }
    gate.open().inspect_err(|_| end_child())
}
