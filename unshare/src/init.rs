//! init: the duties of process 1 in a pid namespace (pid_namespaces(7)): reap, pass signals on, and end as
//! the program ends, which ends all that is left.

use std::ffi::OsString;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::wait::WaitPidFlag;
use nix::unistd::{ForkResult, Pid};
use unshare::child::{self, End};
use unshare::exec::{self, Environment};
use unshare::sys::{self, Waited};

/// Runs the program as process 2. All signals are blocked when this begins: `act` has seen to it.
pub fn run(argv: &[OsString], environment: Option<Environment>, kept_fds: &[i32]) -> Result<()> {
    // Our /proc/1/exe is the host's file: without this a root in the ship could open it (CVE-2019-5736).
    sys::prctl(libc::PR_SET_DUMPABLE, 0).context("cannot become undumpable")?;
    match sys::fork_into(CloneFlags::empty()).context("fork failed")? {
        ForkResult::Child => {
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
                .context("cannot unblock signals")?;
            Err(exec::exec_in(argv, environment))
        }
        ForkResult::Parent { child } => {
            // A reader at the other end must see the end of file when the program lets go, not when we do.
            kept_fds.iter().for_each(|fd| sys::close(*fd));
            std::process::exit(child::shell_status(stand_in(child)?))
        }
    }
}

fn stand_in(program: Pid) -> Result<End> {
    let all = sys::all_signals();
    loop {
        let Some(got) = sys::sigwaitinfo(&all).context("cannot wait for a signal")? else { continue };
        if got.signal == Signal::SIGCHLD as i32 {
            if let Some(status) = reap(program)? {
                return Ok(status);
            }
        } else if !child::has_it_already(&got, program) {
            let _ = sys::kill(program, got.signal);
        }
    }
}

/// Collects every child that has ended; the status of the program when it is among them.
fn reap(program: Pid) -> Result<Option<End>> {
    let mut ended = None;
    loop {
        match sys::wait(Pid::from_raw(-1), WaitPidFlag::WNOHANG) {
            Ok(Waited::Ended(pid, end)) if pid == program => ended = Some(end),
            Ok(Waited::Nothing) | Err(Errno::ECHILD) => return Ok(ended),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for children"),
        }
    }
}
