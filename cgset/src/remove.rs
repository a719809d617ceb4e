//! remove: kill all that runs in a group, then remove its directories, the deepest first.
//!
//! Nothing is ever moved up: a process that left the group would leave its limits. Three ways to kill:
//!   v2 with cgroup.kill (Linux 5.14): one write, which a forking group cannot outrun
//!   freezer (v1), cgroup.freeze (v2): hold all, SIGKILL each, let go; a killed task of v1 dies when let go
//!   neither: SIGKILL each, again and again, until none is left or the time is over

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use unshare::fail::{self, hint};

use crate::files::{self, cannot, rmdir};
use crate::freeze::Freezer;
use crate::group::{self, Place};
use crate::layout::Layout;
use crate::name::{Group, Parent};
use crate::owner;

/// Longer than anything killed takes to go, but for tasks that hang in the kernel.
const LIMIT: Duration = Duration::from_secs(10);
/// How long a freezing group is waited for in one round.
const FREEZE_LIMIT: Duration = Duration::from_millis(500);

/// One of those named; its script when nothing is to be done.
pub fn remove_named(
    layout: &Layout,
    parent: &Parent,
    name: &Group,
    verbose: bool,
    dry_run: bool,
) -> Result<()> {
    let places = group::existing(layout, parent, name)?;
    if dry_run {
        return fail::print(&script(&places));
    }
    if verbose && places.is_empty() {
        fail::say("cgset", &format!("there is no group '{}'", name.0));
    }
    remove(layout, &places, &name.0)?;
    owner::sweep_levels(layout, parent, name)
}

/// A group that is not there is as asked.
pub fn remove(layout: &Layout, places: &[Place], name: &str) -> Result<()> {
    group::not_ourselves(layout, places, &format!("remove '{name}'"))?;
    let deadline = Instant::now() + LIMIT;
    // Most often nobody is left, and then this is all.
    let mut left = remove_empty(places)?;
    let mut pause = Duration::from_micros(200);
    while !left.is_empty() {
        kill_all(places, deadline);
        left = remove_empty(places)?;
        if left.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            return Err(stuck(&left, places));
        }
        wait_for_change(places, pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    Ok(())
}

/// Ends all that runs in the group; the group stays.
pub fn kill(layout: &Layout, places: &[Place], name: &str) -> Result<()> {
    group::not_ourselves(layout, places, &format!("kill '{name}'"))?;
    kill_members(places)
}

pub fn kill_members(places: &[Place]) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    let mut pause = Duration::from_micros(200);
    loop {
        let inside = group::all_members(places);
        if inside.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("killed, and still there: {}", group::name_them(&inside));
        }
        kill_all(places, deadline);
        wait_for_change(places, pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn stuck(left: &[PathBuf], places: &[Place]) -> Error {
    let inside = group::all_members(places);
    let error = cannot("remove", &left[0], Errno::EBUSY);
    if inside.is_empty() {
        return hint(error, "nobody is seen inside; is another group or a mount below it in use?");
    }
    hint(error, format!("killed, and still there: {}", group::name_them(&inside)))
}

/// Removes every directory that lets itself be removed; gives those that are busy. The tracker's goes only when
/// the rest has gone: it carries the mark, by which the next run finds the rest when this one is killed here, and
/// which keeps others from making the group anew while this one still kills in it.
fn remove_empty(places: &[Place]) -> Result<Vec<PathBuf>> {
    let mut busy = Vec::new();
    for (at, place) in places.iter().enumerate().rev() {
        if at == 0 && !busy.is_empty() {
            break;
        }
        match rmdir(&place.path) {
            Ok(()) | Err(Errno::ENOENT) => continue,
            Err(_) => {}
        }
        for dir in group::tree(&place.path) {
            match rmdir(&dir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(Errno::EBUSY | Errno::ENOTEMPTY) => busy.push(dir),
                Err(errno) => return Err(cannot("remove", &dir, errno)),
            }
        }
    }
    Ok(busy)
}

fn kill_all(places: &[Place], deadline: Instant) {
    for place in places.iter().filter(|p| p.hierarchy.v2) {
        // The whole tree below with it.
        let _ = files::write(&place.path.join("cgroup.kill"), "1");
    }
    if group::all_members(places).is_empty() {
        return;
    }
    let freezers: Vec<Freezer> = places.iter().filter_map(Freezer::of).collect();
    for freezer in &freezers {
        freezer.hold(deadline.min(Instant::now() + FREEZE_LIMIT));
    }
    let me = std::process::id() as i32;
    for pid in group::all_members(places) {
        // 0 is one whom this pid namespace does not see; kill(0) would be our own process group.
        if pid > 1 && pid != me {
            let _ = signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    for freezer in &freezers {
        freezer.let_go();
    }
}

/// v2 tells when the last one is gone (cgroup.events); v1 has to be asked again.
fn wait_for_change(places: &[Place], pause: Duration) {
    let events = places.iter().find(|p| p.hierarchy.v2).map(|p| p.path.join("cgroup.events"));
    let populated = |file: &Path| files::read(file).ok().and_then(|text| files::keyed(&text, "populated"));
    match events {
        Some(file) if populated(&file) == Some(1) => poll_event(&file, pause),
        _ => thread::sleep(pause),
    }
}

fn poll_event(file: &Path, pause: Duration) {
    use nix::fcntl::{OFlag, open};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let Ok(fd) = open(file, OFlag::O_RDONLY | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty()) else {
        return;
    };
    // The kernel tells a reader of what has changed since it read.
    let mut block = [0; 256];
    let _ = nix::unistd::read(fd.as_fd(), &mut block);
    let timeout = PollTimeout::try_from(pause.max(Duration::from_millis(1))).unwrap_or(PollTimeout::ZERO);
    let _ = poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLPRI)], timeout);
}

fn script(places: &[Place]) -> String {
    let mut text = String::from("#!/bin/sh\nset -e\n");
    for place in places {
        let dir = crate::script::quote(&place.path.to_string_lossy());
        if place.hierarchy.v2 {
            text += &format!("echo 1 > {dir}/cgroup.kill\n");
        } else {
            text += &format!("xargs -r kill -KILL < {dir}/cgroup.procs\n");
        }
        text += &format!(
            "while ! find {dir} -depth -type d -exec rmdir {{}} + 2>/dev/null; do sleep 0.1; done\n"
        );
    }
    text
}
