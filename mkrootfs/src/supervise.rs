//! supervise: the work is done by a child in namespaces of its own, the parent waits and cleans up.
//!
//!   parent                                         child
//!   block the signals that end us
//!   fork into new mount and pid namespaces ----->  die with the parent; all mounts private; work
//!   wait for the child or for a signal
//!   signal: kill the child, and with it the
//!     pid namespace and the mounts              x
//!   child ended well: rename; else remove
//!
//! So nothing that runs for us outlives us, by no signal, and no mount of ours is ever seen outside.

use std::os::fd::{AsFd, OwnedFd};
use std::process::exit;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, pipe2};
use unshare::child::Held;
use unshare::{fail::hint, sys};

/// How the work ended.
pub enum End {
    Status(i32),
    /// We were told to stop.
    Signal(Signal),
}

/// Runs `work`, whose result is an exit status, in a child.
pub fn run(work: impl FnOnce() -> i32) -> Result<End> {
    let mut deadly = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        deadly.add(signal);
    }
    // A caller that ignores SIGINT (a shell's background job) is followed: blocking does not lift that.
    let _held = Held::block(&deadly, true)?;
    let (watched, ours) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    enter()?;
    match sys::fork().context("cannot fork")? {
        ForkResult::Child => {
            drop(ours);
            if let Err(error) = settle(watched) {
                exit(i32::from(unshare::fail::report("mkrootfs", &error, &crate::STATUSES)));
            }
            exit(work())
        }
        ForkResult::Parent { child } => {
            drop(watched);
            wait(child, &deadly)
        }
    }
}

/// The child's namespaces; the mount namespace is entered by us both, which harms nobody.
fn enter() -> Result<()> {
    let done = unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS);
    done.context("cannot make namespaces").map_err(|error| {
        hint(error, "in a container this needs CAP_SYS_ADMIN: podman run --privileged, or run it outside")
    })?;
    make_private().map(drop).context("cannot make the mounts private")
}

/// Keeps our mounts to ourselves. False in a chroot whose root is no mount: there is no mount then that we
/// could make private, and so none may be made.
pub fn make_private() -> nix::Result<bool> {
    match mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>) {
        Err(Errno::EINVAL) => Ok(false),
        done => done.map(|()| true),
    }
}

fn settle(watched: OwnedFd) -> Result<()> {
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)
        .context("cannot tie us to the parent")?;
    // The parent may have died before that.
    let mut fds = [PollFd::new(watched.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
        exit(1);
    }
    Ok(())
}

fn wait(child: Pid, deadly: &SigSet) -> Result<End> {
    let mut set = *deadly;
    set.add(Signal::SIGCHLD);
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, status)) => return Ok(End::Status(status)),
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                bail!("the work was killed by {signal}: is there enough memory?")
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for the child"),
        }
        let Some(got) = sys::sigwaitinfo(&set).context("cannot wait for a signal")? else { continue };
        if let Some(signal) = Signal::try_from(got.signal).ok().filter(|signal| *signal != Signal::SIGCHLD) {
            let _ = kill(child, Signal::SIGKILL);
            // Its namespace ends with it: when this returns nobody works in the tree any more.
            let _ = waitpid(child, None);
            return Ok(End::Signal(signal));
        }
    }
}
