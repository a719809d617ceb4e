//! signals: a command that makes several things is stopped between its steps and undone, not cut off.
//!
//! SIGINT, SIGTERM and SIGHUP are blocked while it works. It asks between steps whether one is pending and
//! waits on a signalfd; when the undoing is over the mask is given back and the signal has its usual effect.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::sys;

const STOPPING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

pub struct Signals {
    old: SigSet,
    set: SigSet,
}

/// Why a command gave up; nobody reads it unless the signal is one that the process outlives.
#[derive(Debug)]
struct Stopped(Signal);

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stopped by {}", self.0.as_str())
    }
}

impl std::error::Error for Stopped {}

pub enum Wake {
    Ready,
    Deadline,
}

impl Signals {
    pub fn block() -> Result<Signals> {
        let mut set = SigSet::empty();
        STOPPING.into_iter().for_each(|signal| set.add(signal));
        let mut old = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut old)).context("cannot block signals")?;
        Ok(Signals { old, set })
    }

    /// An error when one of them is waiting. One that is ignored (nohup) counts for nothing, though the
    /// kernel keeps it pending while it is blocked.
    pub fn check(&self) -> Result<()> {
        let pending = sys::pending().context("cannot ask for signals")?;
        match STOPPING
            .into_iter()
            .find(|signal| pending.contains(*signal) && !unshare::sys::is_ignored(*signal as i32))
        {
            Some(signal) => Err(Stopped(signal).into()),
            None => Ok(()),
        }
    }

    /// Waits until one of `fds` can be read, but not beyond `deadline`; a signal is an error.
    pub fn wait(&self, fds: &[BorrowedFd<'_>], deadline: Instant) -> Result<Wake> {
        let told = SignalFd::with_flags(&self.set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context("cannot open a signalfd")?;
        loop {
            self.check()?;
            // What is still pending here is ignored: taken off, or the poll would never rest.
            while let Ok(Some(_)) = told.read_signal() {}
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Wake::Deadline);
            }
            // Round up: 0.3 ms left must not become a busy loop.
            let left = left.as_millis() as u64 + 1;
            let mut polled: Vec<PollFd> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
            polled.push(PollFd::new(told.as_fd(), PollFlags::POLLIN));
            match poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("cannot wait"),
            }
            if polled[..fds.len()].iter().any(|fd| fd.any() == Some(true)) {
                return Ok(Wake::Ready);
            }
        }
    }
}

impl Drop for Signals {
    /// Here a signal that came meanwhile ends the process.
    fn drop(&mut self) {
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.old), None);
    }
}
