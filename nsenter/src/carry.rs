//! carry: mount into a running mount namespace: a directory of the caller's, a disk, a file system.
//!
//! A helper does it, so that we stay what we are: it enters, and then makes the caller's root directory its own
//! again. So every source means what it means to the caller, while every target is resolved inside the root of
//! the one who is entered, by descriptor; no link planted there leads out. Trees of the caller's are copied
//! before (open_tree(2), Linux 5.2), as nobody can bind what lies in another mount namespace.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Error, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{ForkResult, chroot, fchdir};
use unshare::child::{End, Held, Wait, end_as};
use unshare::fail::{self, Statuses, Usage};
use unshare::fstab::{self, Bind, Line};
use unshare::{rooted, sys};

use crate::join::{ALL, With, hint_on_fork, join};
use crate::namespaces::Namespaces;

const PLACE: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

/// One line, its source at hand.
pub struct Load {
    line: Line,
    tree: Option<Tree>,
}

struct Tree {
    fd: OwnedFd,
    is_dir: bool,
    /// What mount_setattr(2) could not do before 5.12.
    unfinished: bool,
}

/// What shows the namespace of the one who mounts it, and so must not be the caller's.
const OWN: [(&str, CloneFlags, &str); 5] = [
    ("proc", CloneFlags::CLONE_NEWPID, "--pid"),
    ("sysfs", CloneFlags::CLONE_NEWNET, "--net"),
    ("mqueue", CloneFlags::CLONE_NEWIPC, "--ipc"),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP, "--cgroup"),
    ("cgroup2", CloneFlags::CLONE_NEWCGROUP, "--cgroup"),
];

/// Before anything is entered. A line whose source is missing, and may be (nofail), is left out.
pub fn load(lines: Vec<Line>, entered: CloneFlags) -> Result<Vec<Load>> {
    let mut loads = Vec::new();
    for line in lines {
        let shows = OWN.iter().find(|(kind, flag, _)| line.kind == *kind && !entered.contains(*flag));
        if let (Some((kind, _, option)), None) = (shows, line.bind) {
            bail!(Usage(format!("this {kind} would show the caller's namespace: add {option}")));
        }
        match line.bind.map(|how| copy(&line, how)).transpose() {
            Err(e) if line.nofail && fail::find(&e) == Some(&Errno::ENOENT) => {}
            tree => loads.push(Load {
                tree: tree
                    .with_context(|| format!("cannot take '{}' along", line.source.to_string_lossy()))?,
                line,
            }),
        }
    }
    Ok(loads)
}

/// A copy of the mounts at the source. Private: what is mounted on it later stays on its side.
fn copy(line: &Line, how: Bind) -> Result<Tree> {
    let source = open(line.source.as_os_str(), PLACE, Mode::empty())?;
    let is_dir = is_dir(&source)?;
    let clone = |how| match how {
        Bind::One => sys::open_tree_clone_one(source.as_fd()),
        Bind::Recursive => sys::open_tree_clone(source.as_fd()),
    };
    let fd = clone(how).map_err(|errno| match errno {
        Errno::ENOSYS => fail::hint(Error::new(errno), "this needs Linux 5.2: mount it before the start"),
        _ => Error::new(errno),
    })?;
    match sys::mount_setattr_private(fd.as_fd(), line.attributes()) {
        // Later by mount(2), which changes one mount only.
        Err(Errno::ENOSYS) if how == Bind::One || line.flags.is_empty() => {
            Ok(Tree { fd, is_dir, unfinished: true })
        }
        Err(Errno::ENOSYS) if !mounts_below(&source)? => {
            Ok(Tree { fd: clone(Bind::One)?, is_dir, unfinished: true })
        }
        Err(Errno::ENOSYS) => {
            let error = Error::new(Errno::ENOSYS).context("a bind with options, and mounts below it");
            Err(fail::hint(error, "needs Linux 5.12: --fstab-line 'SOURCE TARGET none bind,ro' for each"))
        }
        done => Ok(done.map(|()| Tree { fd, is_dir, unfinished: false })?),
    }
}

fn mounts_below(place: &OwnedFd) -> Result<bool> {
    let mut prefix = std::fs::read_link(by_fd(place))?.into_os_string();
    prefix.push("/");
    let mounts = std::fs::read("/proc/self/mountinfo")?;
    let mut points = mounts.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4));
    Ok(points.any(|point| fstab::unescape(point).as_bytes().starts_with(prefix.as_bytes())))
}

/// Mounts all of them, or none. `root` is that of the target; that of the mount namespace, when there is none.
pub fn deliver(loads: &[Load], namespaces: &Namespaces, root: Option<&OwnedFd>) -> Result<()> {
    if loads.is_empty() {
        return Ok(());
    }
    let end = in_child(|| {
        let callers = open("/", PLACE, Mode::empty())?;
        join(namespaces, ALL - CloneFlags::CLONE_NEWPID, With::UserIfNeeded)?;
        let root = match root {
            Some(root) => root.try_clone()?,
            None => open("/", PLACE, Mode::empty())?,
        };
        fchdir(&callers)
            .and_then(|()| chroot("."))
            .context("cannot return to the caller's root directory")?;
        drop(callers);
        let mut made = Vec::new();
        let done = mount_all(loads, namespaces, &root, &mut made);
        if !matches!(done, Ok(End::Status(0))) {
            made.iter().rev().for_each(take_away);
        }
        done
    })?;
    // What went wrong there has been said there.
    if end == End::Status(0) { Ok(()) } else { end_as(end) }
}

fn mount_all(
    loads: &[Load],
    namespaces: &Namespaces,
    root: &OwnedFd,
    made: &mut Vec<OwnedFd>,
) -> Result<End> {
    let (procs, others): (Vec<_>, Vec<_>) =
        loads.iter().partition(|load| load.tree.is_none() && load.line.kind == "proc");
    for load in others {
        let done = match &load.tree {
            Some(tree) => attach(&load.line, tree, root, made),
            None => mount_new(&load.line, root, made),
        };
        forgive(&load.line, done)?;
    }
    if procs.is_empty() { Ok(End::Status(0)) } else { mount_procs(&procs, namespaces, root) }
}

/// A proc shows the pid namespace in which its mounter runs, where others can look at him. So these come last,
/// by a process that has nothing of the caller's any more: the child of one that has put it off.
fn mount_procs(procs: &[&Load], namespaces: &Namespaces, root: &OwnedFd) -> Result<End> {
    let mount_one = |load: &Load| -> Result<()> {
        fchdir(&load.line.place(root.as_fd(), true)?)?;
        Ok(mount(Some("proc"), ".", Some("proc"), load.line.flags, Some(load.line.data.as_os_str()))?)
    };
    in_child(|| {
        fchdir(root).and_then(|()| chroot(".")).context("cannot change root directory")?;
        sys::prctl(libc::PR_SET_DUMPABLE, 0).context("cannot become undumpable")?;
        join(namespaces, CloneFlags::CLONE_NEWPID, With::UserIfNeeded)?;
        in_child(|| {
            procs.iter().try_for_each(|load| forgive(&load.line, mount_one(load)))?;
            Ok(End::Status(0))
        })
    })
}

fn forgive(line: &Line, done: Result<()>) -> Result<()> {
    match done {
        Err(e) if line.nofail && fail::find(&e) == Some(&Errno::ENOENT) => Ok(()),
        done => done.with_context(|| format!("cannot mount {}", line.named())),
    }
}

fn attach(line: &Line, tree: &Tree, root: &OwnedFd, made: &mut Vec<OwnedFd>) -> Result<()> {
    let place = line.place(root.as_fd(), tree.is_dir)?;
    if is_dir(&place)? != tree.is_dir {
        let (source, target) =
            if tree.is_dir { ("a directory", "is not") } else { ("a file", "is a directory") };
        return Err(anyhow!("'{}' is {source}, the target {target}", line.source.to_string_lossy()));
    }
    sys::move_mount(tree.fd.as_fd(), place.as_fd())?;
    made.push(tree.fd.try_clone()?);
    if tree.unfinished {
        change(&tree.fd, MsFlags::MS_PRIVATE | MsFlags::MS_REC).context("cannot make it private")?;
        if !line.flags.is_empty() {
            // Who has opened something to write to in between makes this fail, and gets nothing.
            change(&tree.fd, line.flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT)
                .context("cannot set the options")?;
        }
    }
    line.propagation.map_or(Ok(()), |mode| change(&tree.fd, mode).context("cannot set the propagation"))
}

fn mount_new(line: &Line, root: &OwnedFd, made: &mut Vec<OwnedFd>) -> Result<()> {
    let place = line.place(root.as_fd(), true)?;
    let (source, kind) = (Some(line.source.as_os_str()), Some(line.kind.as_os_str()));
    mount(source, by_fd(&place).as_str(), kind, line.flags, Some(line.data.as_os_str())).map_err(
        |errno| match errno {
            Errno::EPERM => fail::hint(
                Error::new(errno),
                "in a user namespace only some file systems may be mounted: run it as root",
            ),
            _ => Error::new(errno),
        },
    )?;
    let mounted = rooted::open_path(root.as_fd(), &line.target)?;
    made.push(mounted.try_clone()?);
    line.propagation.map_or(Ok(()), |mode| change(&mounted, mode).context("cannot set the propagation"))
}

fn change(mounted: &OwnedFd, how: MsFlags) -> nix::Result<()> {
    mount(None::<&Path>, by_fd(mounted).as_str(), None::<&Path>, how, None::<&Path>)
}

fn take_away(mounted: &OwnedFd) {
    let _ = umount2(by_fd(mounted).as_str(), MntFlags::MNT_DETACH);
}

/// In the caller's /proc.
fn by_fd(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn is_dir(fd: &OwnedFd) -> nix::Result<bool> {
    Ok(fstat(fd)?.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
}

/// Runs `work` in a child and waits for it. What goes wrong there is said there.
fn in_child(work: impl FnOnce() -> Result<End>) -> Result<End> {
    let held = Held::block(&SigSet::empty(), false)?;
    match sys::fork().context("fork failed").map_err(hint_on_fork)? {
        ForkResult::Child => end_as(work().unwrap_or_else(|error| {
            let statuses = Statuses { usage: 1, failure: 1 };
            End::Status(i32::from(fail::report("nsenter", &error, &statuses)))
        })),
        ForkResult::Parent { child } => {
            held.restore()?;
            Wait::plain().wait_for(child)
        }
    }
}
