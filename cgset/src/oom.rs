//! oom: wait until the kernel kills for memory in a group, or until nobody is inside any more.
//!
//!   v2   memory.events and cgroup.events tell by poll(2) that they have changed (cgroup-v2.rst)
//!   v1   an eventfd tells of an OOM in its own group, just before the kill (memory.rst, "OOM Control"); the
//!        groups below have one each, and who is inside has to be asked for again and again
//! What counts is the number of kills, compared with the one at the start.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::exit;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::uio::pread;
use unshare::fail::{self, hint};

use crate::counters;
use crate::files;
use crate::group::{self, Place};

/// How often v1 is asked, and v2 in case that something is not told.
const ASK: Duration = Duration::from_millis(200);
/// On v1, after the notice, until the kill is counted.
const ASK_SOON: Duration = Duration::from_millis(2);
const SOON: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Killed,
    Empty,
}

impl Source {
    fn wanted(&self) -> PollFd<'_> {
        match self {
            Source::Changes(file) => PollFd::new(file.as_fd(), PollFlags::POLLPRI),
            Source::Notice(event, _) => PollFd::new(event.as_fd(), PollFlags::POLLIN),
        }
    }
}

pub struct Watch {
    places: Vec<Place>,
    sources: Vec<Source>,
    before: u64,
}

enum Source {
    Changes(File),
    /// The control file must stay open as long as the notice is wanted.
    Notice(EventFd, #[allow(dead_code, reason = "held open")] Vec<File>),
}

impl Watch {
    pub fn new(places: &[Place]) -> Result<Watch> {
        let Some(memory) = places.iter().find(|place| counters::counts_kills(place)) else {
            let error = anyhow!("no kill for memory can be seen here: the group has no 'memory' controller");
            return Err(hint(error, "cgset GROUP mem=max hands it down"));
        };
        let mut sources = Vec::new();
        if memory.hierarchy.v2 {
            let watched = ["memory.events", "cgroup.events"].map(|file| memory.path.join(file));
            sources.extend(watched.iter().map(|file| changes(file)).collect::<Result<Vec<_>>>()?);
        } else {
            sources.push(notice(&memory.path)?);
        }
        Ok(Watch { places: places.to_vec(), sources, before: counters::oom_kills(places) })
    }

    /// Comes back after a kill, and with `empty_too` when nobody is inside; not where the first has yet to enter.
    pub fn wait(&self, empty_too: bool) -> Result<Ended> {
        let mut soon = None;
        loop {
            if self.kills() > 0 {
                return Ok(Ended::Killed);
            }
            if empty_too && group::all_members(&self.places).is_empty() {
                // The last one may have been killed just now.
                return Ok(if self.kills() > 0 { Ended::Killed } else { Ended::Empty });
            }
            let asks_soon = soon.is_some_and(|until| Instant::now() < until);
            if self.sleep(if asks_soon { ASK_SOON } else { ASK })? {
                soon = Some(Instant::now() + SOON);
            }
        }
    }

    pub fn kills(&self) -> u64 {
        counters::oom_kills(&self.places).saturating_sub(self.before)
    }

    /// True when something was told.
    fn sleep(&self, most: Duration) -> Result<bool> {
        let mut fds: Vec<PollFd<'_>> = self.sources.iter().map(Source::wanted).collect();
        let told = match poll(&mut fds, PollTimeout::try_from(most).unwrap_or(PollTimeout::ZERO)) {
            Ok(0) | Err(Errno::EINTR) => return Ok(false),
            Ok(_) => true,
            Err(errno) => return Err(Error::new(errno).context("cannot wait for the group")),
        };
        for source in &self.sources {
            match source {
                // The kernel tells a reader of what has changed since it read.
                Source::Changes(file) => drop(pread(file.as_fd(), &mut [0; 512], 0)),
                Source::Notice(event, _) => drop(event.read()),
            }
        }
        Ok(told)
    }
}

fn changes(path: &Path) -> Result<Source> {
    let file =
        File::open(path).map_err(|e| Error::new(e).context(format!("cannot open '{}'", path.display())))?;
    let _ = pread(file.as_fd(), &mut [0; 512], 0);
    Ok(Source::Changes(file))
}

fn notice(top: &Path) -> Result<Source> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let event = EventFd::from_flags(flags).map_err(|e| Error::new(e).context("cannot make an eventfd"))?;
    let mut held = Vec::new();
    for dir in group::tree(top) {
        let path: PathBuf = dir.join("memory.oom_control");
        let Ok(file) = File::open(&path) else { continue };
        let line = format!("{} {}", event.as_fd().as_raw_fd(), file.as_raw_fd());
        files::write(&dir.join("cgroup.event_control"), &line)
            .map_err(|errno| files::cannot("ask for a notice from", &path, errno))?;
        held.push(file);
    }
    Ok(Source::Notice(event, held))
}

/// --wait-oom: ends with 0 when nobody is inside any more, and with `status` after a kill.
pub fn wait(places: &[Place], name: &str, status: u8) -> Result<()> {
    let watch = Watch::new(places)?;
    if watch.wait(true)? == Ended::Empty {
        return Ok(());
    }
    fail::say("cgset", &format!("{name}: {}", counters::kills_line(places, watch.kills())));
    exit(status.into())
}
