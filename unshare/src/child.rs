//! child: fork, stand in for the child while it runs, and end as it ended (fork(2), waitpid(2)).
//!
//! The parent of a program must be invisible: what signals it gets, how it stops and how it ends are the
//! child's. The order matters and is the same in every tool:
//!
//!   parent                                      child
//!   SIGCHLD to default (a caller that ignores
//!     it would make wait fail), block signals
//!   fork ------------------------------------>  give the caller's mask back
//!   wait; pass signals down if asked            become the program
//!   end as the child ended

use std::os::fd::{AsFd, OwnedFd};
use std::process::exit;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, raise, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus};
use nix::unistd::{Pid, getpgid, getpid};

use crate::sys::{self, Waited};

pub use crate::sys::End;

/// Signals held back while a child is to be stood in for; `restore` is for the child's side.
pub struct Held {
    old: SigSet,
}

impl Held {
    /// Blocks `signals` (and SIGCHLD when any of them is to be waited for) in this process.
    pub fn block(signals: &SigSet, wait_for_them: bool) -> Result<Held> {
        sys::default_action(libc::SIGCHLD).context("cannot reset SIGCHLD")?;
        let mut set = *signals;
        if wait_for_them {
            set.add(Signal::SIGCHLD);
        }
        let mut old = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut old)).context("cannot block signals")?;
        Ok(Held { old })
    }

    /// Holds back `signals` alone, where more was held back until now.
    pub fn reduce_to(&self, signals: &SigSet, wait_for_them: bool) -> Result<()> {
        let mut set = sys::union(&self.old, signals);
        if wait_for_them {
            set.add(Signal::SIGCHLD);
        }
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None).context("cannot reduce the signal mask")
    }

    pub fn restore(&self) -> Result<()> {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.old), None).context("cannot restore the signal mask")
    }
}

/// How to wait for a child.
pub struct Wait {
    /// Signals, blocked by `Held`, that are passed down to the child.
    pub forward: SigSet,
    /// Stop when the child stops and wake it when continued (nsenter does, unshare does not).
    pub follow_stops: bool,
}

impl Wait {
    pub fn plain() -> Wait {
        Wait { forward: SigSet::empty(), follow_stops: false }
    }

    /// Waits until `child` has ended.
    pub fn wait_for(&self, child: Pid) -> Result<End> {
        let mut flags = WaitPidFlag::empty();
        flags.set(WaitPidFlag::WUNTRACED, self.follow_stops);
        let forwarding = !sys::numbers_in(&self.forward).is_empty();
        flags.set(WaitPidFlag::WNOHANG, forwarding);
        loop {
            match sys::wait(child, flags) {
                Ok(Waited::Ended(_, end)) => return Ok(end),
                Ok(Waited::Stopped(_)) => {
                    let _ = raise(Signal::SIGSTOP);
                    let _ = kill(child, Signal::SIGCONT);
                }
                Ok(Waited::Nothing) => self.pass_one_down(child)?,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("cannot wait for the child"),
            }
        }
    }

    /// How `child` ended, if it does so within 0.3 ms. Who sleeps has to be woken, on a machine that is idle by
    /// way of a processor that sleeps too: a tenth of all the time that a short program takes. On a machine that is
    /// not, others get the processor each time.
    pub fn for_a_moment(&self, child: Pid) -> Option<End> {
        (0..300).find_map(|_| match sys::wait(child, WaitPidFlag::WNOHANG) {
            Ok(Waited::Ended(_, end)) => Some(end),
            _ => {
                std::thread::yield_now();
                None
            }
        })
    }

    fn pass_one_down(&self, child: Pid) -> Result<()> {
        let mut set = self.forward;
        set.add(Signal::SIGCHLD);
        let Some(got) = sys::sigwaitinfo(&set).context("cannot wait for a signal")? else { return Ok(()) };
        if got.signal != Signal::SIGCHLD as i32 && !has_it_already(&got, child) {
            // It may have ended by now, which the next wait tells.
            let _ = sys::kill(child, got.signal);
        }
        Ok(())
    }
}

/// What the terminal sends goes to the whole foreground group, and so to the child, if it is still in ours.
pub fn has_it_already(got: &sys::SignalInfo, child: Pid) -> bool {
    got.from_kernel && getpgid(Some(child)) == getpgid(None)
}

/// Makes a child die with its parent: PR_SET_PDEATHSIG, and what that misses, a parent that died between
/// fork and the call.
pub struct DeathTie {
    signal: i32,
    parent: Option<OwnedFd>,
}

impl DeathTie {
    pub fn before_fork(signal: i32) -> DeathTie {
        // No pidfd before Linux 5.3: the gap stays open there.
        DeathTie { signal, parent: sys::pidfd_open(getpid()).ok() }
    }

    /// In the child.
    pub fn bind(self) -> Result<()> {
        sys::prctl(libc::PR_SET_PDEATHSIG, self.signal as libc::c_ulong)
            .context("cannot set the parent death signal")?;
        let Some(parent) = &self.parent else { return Ok(()) };
        let mut fds = [PollFd::new(parent.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
            exit(128 + self.signal);
        }
        Ok(())
    }
}

/// Closes all inherited descriptors above 2 but `keep`; before anything of our own is opened.
pub fn close_inherited(keep: &[i32]) {
    let mut keep: Vec<u32> = keep.iter().map(|fd| *fd as u32).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            sys::close_range(first, fd - 1);
        }
        first = first.max(fd + 1);
    }
    sys::close_range(first, u32::MAX);
}

/// Ends this process as the child ended: the same status, or killed by the same signal.
pub fn end_as(end: End) -> ! {
    let signal = match end {
        End::Status(code) => exit(code),
        End::Signal(signal) => signal,
    };
    // The child has dumped its core, if any; ours would overwrite it.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let _ = sys::default_action(signal);
    let _ = sys::kill(getpid(), signal);
    let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&sys::sigset(&[signal])), None);
    // Still here: process 1 of a pid namespace cannot kill itself.
    exit(128 + signal)
}

/// The status as a shell shows it: 128 + N for a death by signal N.
pub fn shell_status(end: impl Into<End>) -> i32 {
    match end.into() {
        End::Status(code) => code,
        End::Signal(signal) => 128 + signal,
    }
}

impl From<WaitStatus> for End {
    fn from(status: WaitStatus) -> End {
        match status {
            WaitStatus::Exited(_, code) => End::Status(code),
            WaitStatus::Signaled(_, signal, _) => End::Signal(signal as i32),
            _ => unreachable!("asked about ended children only"),
        }
    }
}
