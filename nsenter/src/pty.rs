//! pty: a terminal of its own for the program (pty(7)).
//!
//! It is made in the devpts of the tree that the program will see, so that its name is right there, and from
//! outside, before anything is entered: one process stays out with the caller's terminal and relays, another
//! goes in with nothing but the new one. No descriptor of the caller's gets inside, so nobody there can read
//! from it or push input back into it (TIOCSTI).
//!
//!   relay                                   worker
//!   make the terminal, fork ------------->  its standard streams are the new terminal
//!   the caller's terminal to raw            enter the namespaces, fork into the pid namespace
//!   pass on bytes, size, signals            the program: leader of a new session on that terminal
//!   restore, end as the worker ended        end as the program ended

use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};
use unshare::child::{DeathTie, Held, end_as};

use crate::relay::{self, Relay};
use crate::sys;
use crate::target::{Target, Worker};
use crate::terminal::Pty;

/// Forks; comes back in the worker. The relay stays in here, and holds nothing of the target but the terminal.
pub fn split(mut target: Target, pty: Pty) -> Result<Target> {
    let to_hold = relay::signals(&target.forward)?;
    let signals = relay::receiver(&to_hold)?;
    let held = Held::block(&to_hold, true)?;
    // A worker that forks once more ends with its child; it must go at once, whatever the child is told.
    let tie = target.kill_child.map(|signal| if target.fork { Signal::SIGKILL as i32 } else { signal });
    let tie = tie.map(DeathTie::before_fork);
    let (heard, complaints) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    match unshare::sys::fork().context("fork failed")? {
        ForkResult::Child => {
            held.restore()?;
            drop((heard, signals));
            let worker = Worker { complaints, tie };
            move_to(&pty.slave, target.fork).context("cannot use the terminal")?;
            target.worker = Some(worker);
            Ok(target)
        }
        ForkResult::Parent { child } => {
            let forward = target.forward;
            drop((target, complaints, tie));
            end_as(Relay::new(pty, child, forward, heard).run(&signals)?)
        }
    }
}

fn move_to(slave: &OwnedFd, forks: bool) -> nix::Result<()> {
    if forks {
        // Out of the caller's session: what his terminal sends is for the relay.
        setsid()?;
    }
    dup2_stdin(slave)?;
    dup2_stdout(slave)?;
    dup2_stderr(slave)
}

/// In the process that becomes the program.
pub fn take() -> Result<()> {
    setsid().and_then(|_| sys::take_terminal()).context("cannot take the terminal")
}
