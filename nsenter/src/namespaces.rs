//! namespaces: find the ones to enter and open them (namespaces(7), pidfd_open(2), ioctl_nsfs(2)).

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Error, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open as open_file};
use nix::sched::CloneFlags;
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::fstatfs;
use nix::unistd::{Pid, getpid};
use unshare::fail;
use unshare::ns::{KINDS, Kind};

use crate::cli::{Options, Source, not_named};
use crate::sys;

pub struct Namespaces {
    /// The target itself, where the kernel has pidfds.
    pub target: Option<OwnedFd>,
    /// What is entered by that, all in one call (Linux 5.8).
    pub of_target: CloneFlags,
    /// By file, in the order of the table.
    pub of_files: Vec<(OwnedFd, &'static Kind)>,
}

impl Namespaces {
    pub fn mask(&self) -> CloneFlags {
        self.of_files.iter().fold(self.of_target, |mask, (_, kind)| mask | kind.flag)
    }

    /// Lets go of all.
    pub fn close(&mut self) {
        self.target = None;
        self.of_files.clear();
    }
}

/// `pidfd` is the target's, where the kernel has such things.
pub fn open(o: &Options, pidfd: Option<OwnedFd>) -> Result<Namespaces> {
    let mut wanted = o.kinds.clone();
    if let (true, Some(pid)) = (o.all, o.target) {
        for kind in not_named(o) {
            if exists_and_differs(pid, kind)? {
                wanted.push((kind.flag, Source::Target));
            }
        }
    }
    let mut files = Vec::new();
    if o.user_parent {
        let parent = parent_user(o, &wanted)?;
        replace(&mut wanted, &mut files, CloneFlags::CLONE_NEWUSER, parent);
    }
    if let (Some(number), Some(pid)) = (o.net_socket, o.target) {
        let net = net_of_socket(pid, pidfd.as_ref(), number)?;
        replace(&mut wanted, &mut files, CloneFlags::CLONE_NEWNET, net);
    }
    let mask = wanted
        .iter()
        .filter(|(_, source)| *source == Source::Target)
        .fold(CloneFlags::empty(), |mask, (flag, _)| mask | *flag);
    let of_target =
        if pidfd.is_some() && !mask.is_empty() && takes_pidfds() { mask } else { CloneFlags::empty() };
    for (flag, source) in &wanted {
        let kind = KINDS.iter().find(|kind| kind.flag == *flag).expect("the table has what the words name");
        if *source != Source::Target || of_target.is_empty() {
            files.push((by_file(kind, source, o.target)?, *flag));
        }
    }
    let find = |kind: &Kind, files: &mut Vec<(OwnedFd, CloneFlags)>| {
        files.iter().position(|(_, flag)| *flag == kind.flag).map(|at| files.swap_remove(at).0)
    };
    let of_files = KINDS.iter().filter_map(|kind| Some((find(kind, &mut files)?, kind))).collect();
    Ok(Namespaces { target: pidfd, of_target, of_files })
}

/// In place of what was named of this kind.
fn replace(
    wanted: &mut Vec<(CloneFlags, Source)>,
    files: &mut Vec<(OwnedFd, CloneFlags)>,
    kind: CloneFlags,
    fd: OwnedFd,
) {
    wanted.retain(|(flag, _)| *flag != kind);
    files.push((fd, kind));
}

fn by_file(kind: &Kind, source: &Source, target: Option<Pid>) -> Result<OwnedFd> {
    let path = match (source, target) {
        (Source::Id(id), _) => return by_id(*id),
        (Source::File(file), _) => file.clone(),
        (Source::Target, Some(pid)) => Path::new("/proc").join(pid.to_string()).join(kind.file),
        (Source::Target, None) => unreachable!("the command line asks for a target"),
    };
    open_path(&path)
}

fn open_path(path: &Path) -> Result<OwnedFd> {
    open_file(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .with_context(|| format!("cannot open {}", path.display()))
        .map_err(hint_on_access)
}

/// A namespace as the kernel numbers them: a file handle of nsfs.
fn by_id(id: u64) -> Result<OwnedFd> {
    let nsfs = File::open("/proc/self/ns/mnt").context("cannot open /proc/self/ns/mnt")?;
    sys::open_namespace(nsfs.as_fd(), id)
        .with_context(|| format!("cannot open namespace of id {id}"))
        .map_err(|e| match e.downcast_ref() {
            Some(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ESTALE) => {
                fail::hint(e, "it is gone, or this kernel is older than 6.19, which knows namespaces by id")
            }
            _ => e,
        })
}

/// The owner of a user namespace that is named by a file, else of the target's.
fn parent_user(o: &Options, wanted: &[(CloneFlags, Source)]) -> Result<OwnedFd> {
    let user = KINDS.iter().find(|kind| kind.flag == CloneFlags::CLONE_NEWUSER).expect("it is in the table");
    let named = wanted.iter().find(|(flag, _)| *flag == user.flag).map_or(&Source::Target, |(_, s)| s);
    let child = by_file(user, named, o.target)?;
    sys::parent_of_user_namespace(child.as_fd()).context("failed to open parent namespace").map_err(|e| {
        match e.downcast_ref() {
            Some(Errno::EPERM) => fail::hint(e, "the parent lies outside of your own user namespace"),
            Some(Errno::ENOTTY) => fail::hint(e, "this needs Linux 4.9"),
            _ => e,
        }
    })
}

/// The namespace in which a socket of the target was made, which may be none that a process is in.
fn net_of_socket(pid: Pid, pidfd: Option<&OwnedFd>, number: i32) -> Result<OwnedFd> {
    let socket = pidfd.map_or(Err(Errno::ENOSYS), |pidfd| sys::pidfd_getfd(pidfd.as_fd(), number));
    let socket = socket.with_context(|| format!("cannot take descriptor {number} of process {pid}"));
    let socket = socket.map_err(|e| match e.downcast_ref() {
        Some(Errno::ENOSYS) => fail::hint(e, "this needs Linux 5.6"),
        _ => e,
    })?;
    sys::net_of_socket(socket.as_fd()).with_context(|| {
        format!("descriptor {number} of process {pid} is no socket with a network namespace")
    })
}

/// Whether --all means this kind: the kernel has it (a file is there), and a user namespace is not the one
/// we are in, which the kernel refuses to enter again.
fn exists_and_differs(pid: Pid, kind: &Kind) -> Result<bool> {
    let own = format!("/proc/self/{}", kind.file);
    let exists = unshare::sys::exists(&own).with_context(|| format!("cannot look for {own}"))?;
    if kind.flag != CloneFlags::CLONE_NEWUSER || !exists {
        return Ok(exists);
    }
    let path = format!("/proc/{pid}/{}", kind.file);
    let theirs =
        fs::metadata(&path).with_context(|| format!("stat of {path} failed")).map_err(hint_on_proc)?;
    let ours = fs::metadata("/proc/self/ns/user").context("stat of /proc/self/ns/user failed")?;
    Ok((theirs.dev(), theirs.ino()) != (ours.dev(), ours.ino()))
}

/// The target itself, whatever becomes of its number; None on kernels before 5.3.
pub fn pidfd(pid: Pid, inode: Option<u64>) -> Result<Option<OwnedFd>> {
    const PIDFS: nix::sys::statfs::FsType = nix::sys::statfs::FsType(0x5049_4446); // linux/magic.h
    let invalid = || format!("failed to obtain a valid file descriptor for PID {pid}");
    let fd = match (unshare::sys::pidfd_open(pid), inode) {
        (Ok(fd), None) => return Ok(Some(fd)),
        (Err(Errno::ENOSYS), None) => return Ok(None),
        (Err(errno), None) => {
            return Err(hint_on_proc(Error::new(errno).context(format!("cannot open process {pid}"))));
        }
        (opened, Some(_)) => opened.with_context(invalid)?,
    };
    if fstatfs(&fd).is_ok_and(|found| found.filesystem_type() != PIDFS) {
        return Err(fail::hint(
            Error::new(Errno::ENOTSUP).context(invalid()),
            "numbers of pidfds need Linux 6.9: leave ':INODE' out",
        ));
    }
    if Some(fstat(&fd).with_context(invalid)?.st_ino) != inode {
        return Err(Error::new(Errno::ESRCH).context(invalid()));
    }
    Ok(Some(fd))
}

/// Linux 5.3 to 5.7 open pidfds that setns(2) refuses with EINVAL; some of these have been taught. Entering the
/// UTS namespace that we are in changes nothing, and tells.
fn takes_pidfds() -> bool {
    if sys::kernel_version() >= (5, 8) {
        return true;
    }
    let own = unshare::sys::pidfd_open(getpid());
    own.is_ok_and(|fd| unshare::sys::setns(fd.as_fd(), CloneFlags::CLONE_NEWUTS) != Err(Errno::EINVAL))
}

pub fn hint_on_access(error: Error) -> Error {
    match error.downcast_ref() {
        Some(Errno::EACCES | Errno::EPERM) => fail::hint(error, "run it as root"),
        _ => error,
    }
}

pub fn hint_on_proc(error: Error) -> Error {
    let refused = |e: &std::io::Error| e.kind() == std::io::ErrorKind::PermissionDenied;
    match Path::new("/proc/self").exists() {
        true if fail::find(&error).is_some_and(refused) => fail::hint(error, "run it as root"),
        true => fail::hint(error, "is the process still running?"),
        false => fail::hint(error, "/proc is not mounted: mount -t proc proc /proc"),
    }
}
