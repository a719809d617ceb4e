//! run: start the command inside the group, stand in for it, and tell when memory killed it.
//!
//!   parent                                       child
//!   clone3 into the v2 directory, else fork -->  born in the v2 group
//!                                                write "0" to the entrance of each v1 tree
//!                                                give the caller's signal mask back
//!   wait; pass signals down                      become the command
//!   read the counters, only then remove the group
//!   end as the command ended

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::exit;
use std::time::Instant;

use anyhow::{Context, Error, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid, pipe2, read, write};
use unshare::child::{DeathTie, Held, Wait, end_as};
use unshare::fail::{self, Statuses};

use crate::act::Undo;
use crate::counters;
use crate::files;
use crate::group::{self, Place};
use crate::layout::Layout;
use crate::oom::{self, Watch};
use crate::owner;
use crate::refusal;
use crate::remove;
use crate::report::{End, Report};
use crate::request::Request;
use crate::step::Plan;

const STATUSES: Statuses = Statuses { usage: 2, failure: 125 };

fn forwarded() -> SigSet {
    use Signal::*;
    [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2].into_iter().collect()
}

/// Holds back what would end this process in the middle; with a command to run, until it has ended.
pub fn hold_signals(runs: bool) -> Result<Held> {
    Held::block(&forwarded(), runs)
}

pub fn run(
    layout: &Layout,
    plan: &Plan,
    done: Undo,
    request: &Request,
    held: &Held,
    report: Option<Report>,
) -> Result<()> {
    let kills_before = if plan.fresh { 0 } else { counters::oom_kills(&plan.places) };
    let watch = plan.as_unit.then(|| Watch::new(&plan.places)).transpose()?;
    let (failed, failing) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).context("cannot make a pipe")?;
    let begun = Instant::now();
    let child = start(plan, request, held, &failing)?;
    drop(failing);
    let guard = watch.as_ref().map(|watch| guard_as_unit(watch, &plan.places));
    let status = Wait { forward: forwarded(), follow_stops: true }.wait_for(child);
    let wall = begun.elapsed();
    guard.into_iter().flatten().for_each(dismiss);
    // Nothing has run where the child said so before it ended: then all is as it was before.
    let ran = read(&failed, &mut [0]) != Ok(1);
    let (made, undo) = if ran { (done.keep(), None) } else { (Vec::new(), Some(done)) };
    let status = status?;
    // A limit that was set meanwhile may have brought a tree more.
    let places = group::existing(layout, &request.options.parent, &request.group)?;
    let end = End { status, wall, kills: counters::oom_kills(&places).saturating_sub(kills_before) };
    if ran {
        tell_kills(&places, request, end.kills);
    }
    let reported = report.map_or(Ok(()), |report| report.write(&places, &request.group.0, &end));
    if plan.fresh && !request.options.keep {
        tidy(layout, &places, request, &made);
    }
    drop(undo);
    reported?;
    match request.options.oom_exit {
        Some(code) if ran && end.kills > 0 => exit(code.into()),
        _ => end_as(status),
    }
}

/// The command's status is the answer; that something stayed behind is told beside it.
fn tidy(layout: &Layout, places: &[Place], request: &Request, made: &[PathBuf]) {
    if let Err(error) = remove::remove(layout, places, &request.group.0) {
        fail::report("cgset", &error, &STATUSES);
    }
    let above = made.iter().rev().filter(|dir| !places.iter().any(|place| place.path == **dir));
    for level in above.filter(|dir| owner::still_mine(dir)) {
        // It stays where somebody has put another group there by now.
        let _ = files::rmdir(level);
    }
    let _ = owner::sweep_levels(layout, &request.options.parent, &request.group);
}

fn tell_kills(places: &[Place], request: &Request, kills: u64) {
    if kills > 0 {
        fail::say("cgset", &format!("{}: {}", request.group.0, counters::kills_line(places, kills)));
    }
}

/// v1 kills one process and lets the rest go on; this child of ours ends the rest, as memory.oom.group does
/// on v2. It cannot be the parent, which sits in sigwaitinfo(2).
fn guard_as_unit(watch: &Watch, places: &[Place]) -> Option<Pid> {
    let tie = DeathTie::before_fork(Signal::SIGKILL as i32);
    match unshare::sys::fork() {
        Ok(ForkResult::Child) => {
            if tie.bind().is_ok() && watch.wait(false).is_ok_and(|end| end == oom::Ended::Killed) {
                let _ = remove::kill_members(places);
            }
            exit(0)
        }
        Ok(ForkResult::Parent { child }) => Some(child),
        Err(_) => None,
    }
}

fn dismiss(guard: Pid) {
    let _ = kill(guard, Signal::SIGKILL);
    let _ = Wait::plain().wait_for(guard);
}

fn start(plan: &Plan, request: &Request, held: &Held, failing: &OwnedFd) -> Result<Pid> {
    let v2 = plan.places.iter().find(|place| place.hierarchy.v2);
    let (fork, entered) = fork_into(v2)?;
    match fork {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let places = plan.places.iter().filter(|place| !(entered && place.hierarchy.v2));
            let error = match enter(places).and_then(|()| held.restore()) {
                Ok(()) => unshare::exec::exec(&request.argv),
                Err(error) => error,
            };
            let status = fail::report("cgset", &error, &STATUSES);
            let _ = write(failing, &[status]);
            // exit, so that nothing of the parent's is undone here.
            exit(status.into())
        }
    }
}

/// A child that is born in the v2 group; false: it has to enter by itself (no v2, or a kernel before 5.7).
fn fork_into(v2: Option<&Place>) -> Result<(ForkResult, bool)> {
    if let Some(place) = v2 {
        let directory = directory(place)?;
        match unshare::sys::fork_into_cgroup(directory.as_fd()) {
            Ok(fork) => return Ok((fork, true)),
            // ENOSYS: before 5.3, or a filter of system calls; E2BIG, EINVAL: no CLONE_INTO_CGROUP yet;
            // EPERM: such a filter again.
            Err(Errno::ENOSYS | Errno::E2BIG | Errno::EINVAL | Errno::EPERM) => {}
            Err(errno) => {
                let error = Error::new(errno).context(format!("cannot start in '{}'", place.path.display()));
                return Err(refusal::to_enter(error, &place.entrance(), errno));
            }
        }
    }
    Ok((unshare::sys::fork().context("cannot fork")?, false))
}

fn directory(place: &Place) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(&place.path, flags, Mode::empty()).map_err(|errno| files::cannot("open", &place.path, errno))
}

/// Enters by itself: "0" is the writer.
fn enter<'a>(places: impl Iterator<Item = &'a Place>) -> Result<()> {
    for place in places {
        let file = place.entrance();
        if let Err(errno) = files::write(&file, "0") {
            let error = files::cannot("enter", &place.path, errno);
            return Err(refusal::to_enter(error, &file, errno));
        }
    }
    Ok(())
}
