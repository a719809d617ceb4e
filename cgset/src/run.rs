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
use std::process::exit;

use anyhow::{Context, Error, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid};
use unshare::child::{End, Held, Wait, end_as};
use unshare::fail::{self, Statuses};

use crate::act::{Undo, refused_entry};
use crate::cli::Request;
use crate::counters;
use crate::files;
use crate::group::Place;
use crate::layout::Layout;
use crate::plan::Plan;
use crate::remove;
use crate::sys;
use crate::words::human;

const STATUSES: Statuses = Statuses { usage: 2, failure: 125 };

fn forwarded() -> SigSet {
    use Signal::*;
    [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2].into_iter().collect()
}

/// Holds back what would end this process in the middle; with a command to run, until it has ended.
pub fn hold_signals(runs: bool) -> Result<Held> {
    Held::block(&forwarded(), runs)
}

pub fn run(layout: &Layout, plan: &Plan, done: Undo, request: &Request, held: &Held) -> Result<()> {
    let kills_before = if plan.fresh { 0 } else { counters::oom_kills(&plan.places) };
    let child = start(plan, request, held)?;
    let made = done.keep();
    let status = Wait { forward: forwarded(), follow_stops: true }.wait_for(child)?;
    report_kills(plan, request, kills_before);
    if plan.fresh && !request.keep {
        tidy(layout, plan, request, &made);
    }
    finish(status)
}

fn finish(status: End) -> ! {
    end_as(status)
}

/// The command's status is the answer; that something stayed behind is told beside it.
fn tidy(layout: &Layout, plan: &Plan, request: &Request, made: &[std::path::PathBuf]) {
    if let Err(error) = remove::remove(layout, &plan.places, &request.group.0) {
        fail::report("cgset", &error, &STATUSES);
    }
    for above in made.iter().rev() {
        // Gone with the group, or somebody has put another group there by now.
        let _ = files::rmdir(above);
    }
}

fn report_kills(plan: &Plan, request: &Request, before: u64) {
    let kills = counters::oom_kills(&plan.places).saturating_sub(before);
    if kills == 0 {
        return;
    }
    let Some(memory) = counters::memory(&plan.places) else { return };
    let limit = memory.limit.map_or("max".into(), human);
    let peak = memory.peak.map_or("unknown".into(), human);
    let what = if kills == 1 { "process" } else { "processes" };
    let text = format!(
        "cgset: {}: out of memory: limit {limit}, peak {peak}, {kills} {what} killed\n",
        request.group.0
    );
    let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
}

fn start(plan: &Plan, request: &Request, held: &Held) -> Result<Pid> {
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
            // exit, so that nothing of the parent's is undone here.
            exit(fail::report("cgset", &error, &STATUSES).into())
        }
    }
}

/// A child that is born in the v2 group; false: it has to enter by itself (no v2, or a kernel before 5.7).
fn fork_into(v2: Option<&Place>) -> Result<(ForkResult, bool)> {
    if let Some(place) = v2 {
        let directory = directory(place)?;
        match sys::clone_into(directory.as_fd()) {
            Ok(fork) => return Ok((fork, true)),
            // ENOSYS: before 5.3, or a filter of system calls; E2BIG, EINVAL: no CLONE_INTO_CGROUP yet;
            // EPERM: such a filter again.
            Err(Errno::ENOSYS | Errno::E2BIG | Errno::EINVAL | Errno::EPERM) => {}
            Err(errno) => {
                let error = Error::new(errno).context(format!("cannot start in '{}'", place.path.display()));
                return Err(refused_entry(error, &place.entrance(), errno));
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
            return Err(refused_entry(error, &file, errno));
        }
    }
    Ok(())
}
