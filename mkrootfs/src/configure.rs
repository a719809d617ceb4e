//! configure: the target's own scripts and its own dpkg make installed packages of unpacked ones.
//!
//!   worker (pid 1 of the run)    door                  inner (pid 1 of the scripts)        runner
//!   fork -------------------->   new pid, ipc, uts,
//!                                net namespaces
//!                                fork ------------->   own mount namespace, the tree
//!                                                      becomes the root, /proc, no
//!                                                      sync, few capabilities
//!   read what the scripts say,                         fork --------------------------->   each preinst, then
//!   keep the end                                       reap what scripts leave             dpkg --configure -a
//!   wait   <------------------   wait: its status  <-- wait: its status   <-------------   exit, with the step
//!                                                                                          that failed
//!
//! The scripts see no process, network, mount or host name but their own; the worker stays where it is, as hooks
//! run after that. The forks are safe as all threads of the download have been joined.
//!
//! Process 1 has another root directory than the scripts: by that ischroot(1) tells them, as in other bootstraps,
//! that no init is there to be told of a new libc, for which libc6 would sleep a second.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio, exit};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, chroot, fchdir, pipe2, pivot_root};
use unshare::caps::{self, Caps};
use unshare::fail;

use crate::dpkg::{ADMIN, Installed};
use crate::idle;
use crate::progress::Progress;
use crate::supervise;
use crate::sys;
use crate::trouble::Kind;

/// Devices that scripts use; where the root's cannot be, the host's are mounted for them.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// What scripts of packages need; neither modules nor clocks nor mounts are among it.
const CAPS: &str = "default,mknod,ipc_lock,sys_nice,sys_resource";

/// Lines of a failing script that are shown.
const TAIL: usize = 20;

/// Before anything is done: can programs run there?
pub fn check(root: &Path) -> Result<()> {
    if !flags(root)?.contains(FsFlags::ST_NOEXEC) {
        return Ok(());
    }
    Err(Kind::Asked.hinted(
        format!("cannot configure packages in '{}'", root.display()),
        "its file system is mounted noexec",
        "mount -o remount,exec; or --foreign: unpack only",
    ))
}

fn flags(root: &Path) -> Result<FsFlags> {
    let about =
        statvfs(root).with_context(|| format!("cannot look at the file system of '{}'", root.display()));
    about.map(|about| about.flags())
}

/// Runs the scripts, and `meanwhile` beside them. `devices`: there are some in the root.
pub fn configure(
    root: &Path,
    packages: &[Installed],
    devices: bool,
    progress: &Progress,
    meanwhile: impl FnOnce() -> Result<()> + Send,
) -> Result<()> {
    // Mounted nodev, they cannot be opened.
    let devices = devices && !flags(root)?.contains(FsFlags::ST_NODEV);
    let (said, say) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    let (failed, fail) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    match unshare::sys::fork().context("cannot fork")? {
        ForkResult::Child => {
            drop((said, failed));
            leave(door(root, packages, devices, say, &fail), &fail)
        }
        ForkResult::Parent { child } => {
            drop((say, fail));
            let (tail, beside) = thread::scope(|scope| {
                let beside = scope.spawn(meanwhile);
                (follow(said, packages.len(), progress), beside.join().expect("no thread of ours panics"))
            });
            let why = std::io::read_to_string(fs::File::from(failed)).unwrap_or_default();
            match waitpid(child, None).context("cannot wait for the scripts")? {
                WaitStatus::Exited(_, 0) => beside,
                _ if why.is_empty() => bail!("the packages' scripts were killed"),
                _ => {
                    progress.clear();
                    // The script's own words, as they are, before our line.
                    let _ = std::io::stderr().write_all(tail.as_bytes());
                    Err(anyhow!(why))
                }
            }
        }
    }
}

/// Ends one of our processes: 0 when the scripts ended well; what failed is said by `fail`.
fn leave(done: Result<bool>, fail: &OwnedFd) -> ! {
    if let Err(error) = &done {
        let pipe = fail.try_clone().map(fs::File::from);
        let _ = pipe.and_then(|mut pipe| pipe.write_all(fail::told(error).as_bytes()));
    }
    exit(i32::from(!matches!(done, Ok(true))))
}

/// Between the worker and the scripts: true when they ended well.
fn door(root: &Path, packages: &[Installed], devices: bool, say: OwnedFd, fail: &OwnedFd) -> Result<bool> {
    let tie = || unshare::sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong);
    tie().context("cannot tie the scripts to us")?;
    let kinds = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWNET;
    unshare(kinds).context("cannot make namespaces for the packages' scripts")?;
    match unshare::sys::fork().context("cannot fork")? {
        ForkResult::Child => {
            let tied = tie().context("cannot tie the scripts to us");
            leave(tied.and_then(|_| inner(root, packages, devices, say, fail)), fail)
        }
        ForkResult::Parent { child } => {
            let ended = waitpid(child, None).context("cannot wait for the scripts")?;
            Ok(matches!(ended, WaitStatus::Exited(_, 0)))
        }
    }
}

/// Passes on how far dpkg is, and keeps the last lines.
fn follow(said: OwnedFd, count: usize, progress: &Progress) -> String {
    let mut tail = std::collections::VecDeque::new();
    let mut done = 0;
    for line in BufReader::new(fs::File::from(said)).split(b'\n').map_while(|line| line.ok()) {
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.starts_with("Setting up ") {
            done += 1;
            progress.state(&format!("configuring {done} of {count}"));
        }
        progress.detail(&line);
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    tail.into_iter().fold(String::new(), |text, line| text + "| " + &line + "\n")
}

/// Process 1 of the scripts' world.
fn inner(root: &Path, packages: &[Installed], devices: bool, say: OwnedFd, fail: &OwnedFd) -> Result<bool> {
    enter(root, devices)?;
    let _ = nix::unistd::sethostname("localhost");
    // Only speed is lost without.
    let _ = sys::swallow_sync();
    caps::reduce(Caps::parse(CAPS)?)?;
    let top = fs::File::open("/").context("cannot open the root directory")?;
    chroot("/dev").context("cannot make '/dev' the root directory of process 1")?;
    match unshare::sys::fork().context("cannot fork")? {
        ForkResult::Child => {
            let back =
                fchdir(&top).and_then(|()| chroot(".")).context("cannot go back to the root directory");
            leave(back.and_then(|()| scripts(packages, &say)).map(|()| true), fail)
        }
        ForkResult::Parent { child } => {
            drop((top, say));
            reap(child)
        }
    }
}

/// Waits for a child and for what others leave to process 1; true when the child ended well.
fn reap(child: Pid) -> Result<bool> {
    loop {
        match waitpid(None, None::<WaitPidFlag>) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => return Ok(status == 0),
            Ok(WaitStatus::Signaled(pid, ..)) if pid == child => return Ok(false),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for the scripts"),
        }
    }
}

fn scripts(packages: &[Installed], say: &OwnedFd) -> Result<()> {
    let _mask = sys::Umask::set(0o022);
    // Of all preinst scripts base-passwd's must be the first: it makes the users that others refer to.
    let (first, rest): (Vec<_>, Vec<_>) = packages.iter().partition(|p| p.package.name == "base-passwd");
    for package in first.into_iter().chain(rest) {
        if package.control.contains_key("preinst") && !idle::is_idle(package.text("preinst")) {
            preinst(package, say)?;
        }
    }
    let _ = fs::remove_dir_all(format!("{ADMIN}/tmp.ci"));
    let mut dpkg = program("dpkg")?;
    dpkg.args(["--configure", "-a", "--force-unsafe-io"]);
    run(&mut dpkg, say).map_err(|e| e.context("cannot configure the packages"))
}

/// The tree becomes the root; the old one is gone, not hidden (pivot_root(2), NOTES).
fn enter(root: &Path, devices: bool) -> Result<()> {
    let failed = || format!("cannot make '{}' the root directory", root.display());
    unshare(CloneFlags::CLONE_NEWNS).with_context(failed)?;
    if !supervise::make_private().with_context(failed)? {
        return chroot(root).and_then(|()| chdir("/")).with_context(failed);
    }
    mount(Some(root), root, None::<&str>, MsFlags::MS_BIND, None::<&str>).with_context(failed)?;
    for name in DEVICES.iter().filter(|_| !devices) {
        let place = root.join("dev").join(name);
        let from = Path::new("/dev").join(name);
        mount(Some(&from), &place, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("cannot mount '{}' for the packages' scripts", from.display()))?;
    }
    chdir(root).and_then(|()| pivot_root(".", ".")).with_context(failed)?;
    umount2(".", MntFlags::MNT_DETACH).and_then(|()| chdir("/")).with_context(failed)?;
    // Without /proc a plain bootstrap works too; there are containers that allow none.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let _ = mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>);
    // Only speed is lost without.
    let _ = idle::cover_helper();
    Ok(())
}

/// Runs a preinst from where dpkg would, with the control files beside it: debconf looks for them there.
fn preinst(package: &Installed, say: &OwnedFd) -> Result<()> {
    let dir = format!("{ADMIN}/tmp.ci");
    let lay = || -> std::io::Result<()> {
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir)?;
        for (name, bytes) in &package.control {
            let path = format!("{dir}/{name}");
            fs::write(&path, bytes)?;
            let mode = if ["preinst", "config"].contains(&name.as_str()) { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    };
    let name = package.package.name;
    lay().with_context(|| format!("cannot prepare the preinst of '{name}'"))?;
    let arch = crate::packages::field(package.text("control"), "Architecture").unwrap_or("all");
    let mut script = program(&format!("{dir}/preinst"))?;
    script.arg("install").env("DPKG_MAINTSCRIPT_NAME", "preinst").env("DPKG_MAINTSCRIPT_PACKAGE", name);
    script.env("DPKG_MAINTSCRIPT_ARCH", arch).env("DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT", "1");
    script.env("DPKG_ROOT", "").env("DPKG_ADMINDIR", ADMIN);
    run(&mut script, say).map_err(|e| e.context(format!("the preinst of '{name}' failed")))
}

/// A program of the tree, looked up there, in a clean environment.
fn program(name: &str) -> Result<Command> {
    const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let found = PATH.split(':').map(|dir| Path::new(dir).join(name)).find(|file| file.exists());
    let mut command = Command::new(found.with_context(|| format!("no '{name}' in the tree"))?);
    command.env_clear().env("PATH", PATH).env("HOME", "/root").env("LC_ALL", "C.UTF-8");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("DEBCONF_NONINTERACTIVE_SEEN", "true");
    if let Some(epoch) = std::env::var_os("SOURCE_DATE_EPOCH") {
        command.env("SOURCE_DATE_EPOCH", epoch);
    }
    Ok(command)
}

fn run(command: &mut Command, say: &OwnedFd) -> Result<()> {
    let out = || say.as_fd().try_clone_to_owned().map(Stdio::from);
    command.stdin(Stdio::null()).stdout(out()?).stderr(out()?).current_dir("/");
    let ended = command.status().context("cannot run it")?;
    match ended.code().unwrap_or_else(|| 128 + ended.signal().unwrap_or(0)) {
        0 => Ok(()),
        status => Err(anyhow!("exit status {status}")),
    }
}
