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

use std::process::exit;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, raise, sigprocmask,
};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::sys;

/// Signals held back while a child is to be stood in for; `restore` is for the child's side.
pub struct Held {
    old: SigSet,
}

impl Held {
    /// Blocks `signals` (and SIGCHLD when any of them is to be waited for) in this process.
    pub fn block(signals: &SigSet, wait_for_them: bool) -> Result<Held> {
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        sys::sigaction(Signal::SIGCHLD, &default).context("cannot reset SIGCHLD")?;
        let mut set = *signals;
        if wait_for_them {
            set.add(Signal::SIGCHLD);
        }
        let mut old = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut old)).context("cannot block signals")?;
        Ok(Held { old })
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
    pub fn wait_for(&self, child: Pid) -> Result<WaitStatus> {
        let mut flags = WaitPidFlag::empty();
        flags.set(WaitPidFlag::WUNTRACED, self.follow_stops);
        let forwarding = self.forward.iter().next().is_some();
        flags.set(WaitPidFlag::WNOHANG, forwarding);
        loop {
            match waitpid(child, Some(flags)) {
                Ok(status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) => return Ok(status),
                Ok(WaitStatus::Stopped(..)) => {
                    let _ = raise(Signal::SIGSTOP);
                    let _ = kill(child, Signal::SIGCONT);
                }
                Ok(WaitStatus::StillAlive) => self.pass_one_down(child)?,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("cannot wait for the child"),
            }
        }
    }

    fn pass_one_down(&self, child: Pid) -> Result<()> {
        let mut set = self.forward;
        set.add(Signal::SIGCHLD);
        let Some(got) = sys::sigwaitinfo(&set).context("cannot wait for a signal")? else { return Ok(()) };
        // What the terminal sends (SI_KERNEL) goes to the whole foreground group: the child has it too.
        if got.signal != Signal::SIGCHLD as i32 && !got.from_kernel {
            // It may have ended by now, which the next wait tells.
            let _ = sys::kill(child, got.signal);
        }
        Ok(())
    }
}

/// Ends this process as the child ended: the same status, or killed by the same signal.
pub fn end_as(status: WaitStatus) -> ! {
    match status {
        WaitStatus::Signaled(_, signal, _) => {
            // The child has dumped its core, if any; ours would overwrite it.
            let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
            let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
            let _ = sys::sigaction(signal, &default);
            let mut set = SigSet::empty();
            set.add(signal);
            let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&set), None);
            let _ = raise(signal);
            // Still here: process 1 of a pid namespace cannot kill itself.
            exit(128 + signal as i32)
        }
        WaitStatus::Exited(_, code) => exit(code),
        _ => unreachable!("wait_for gives back ended children only"),
    }
}

/// The status as a shell shows it: 128 + N for a death by signal N.
pub fn shell_status(status: WaitStatus) -> i32 {
    match status {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        _ => unreachable!("wait_for gives back ended children only"),
    }
}
