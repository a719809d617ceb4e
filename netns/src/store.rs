//! store: the names in /run/netns and the namespaces behind them, laid out as ip-netns(8) does.
//!
//! A name is an empty file with the namespace bind-mounted on it. The directory is a mount of its own and
//! shared, so that every mount namespace sees the names come and go; whoever changes it holds flock(2) on
//! it. What is no nsfs file is stale: its maker was killed, or made it in a mount namespace of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use nix::unistd::Pid;
use unshare::fail::{hint, say};

use crate::sys;

pub const DIR: &str = "/run/netns";
pub const OWN: &str = "/proc/self/ns/net";

/// Names go into file names, messages and aliases of interfaces.
pub fn check_name(name: &str) -> Result<()> {
    let problem = match name {
        "" => "it is empty",
        "." | ".." => "it is a directory",
        _ if name.len() > 255 => "it is longer than 255 bytes",
        _ if name.contains('/') => "it has a slash",
        _ if name.starts_with('-') => "it begins with a dash",
        _ if name.starts_with("pid:") => "'pid:' is for process numbers",
        _ if name.chars().any(char::is_control) => "it has control characters",
        _ => return Ok(()),
    };
    bail!("bad namespace name '{}': {problem}", name.escape_debug())
}

pub fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Where a link ends or a program shall run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Name(String),
    Pid(i32),
    Path(String),
}

impl Target {
    /// Digits are a name unless "pid:" stands before them; a path has a slash.
    pub fn parse(word: &str) -> Result<Target> {
        if word.contains('/') {
            return Ok(Target::Path(word.to_owned()));
        }
        let Some(number) = word.strip_prefix("pid:") else {
            check_name(word)?;
            return Ok(Target::Name(word.to_owned()));
        };
        match number.parse() {
            Ok(pid) if pid > 0 && number.bytes().all(|b| b.is_ascii_digit()) => Ok(Target::Pid(pid)),
            _ => bail!("not a process number: '{number}'"),
        }
    }

    /// As the user writes it, and as the alias of a link's outer end has it.
    pub fn label(&self) -> String {
        match self {
            Target::Name(name) => name.clone(),
            Target::Pid(pid) => format!("pid:{pid}"),
            Target::Path(path) => path.clone(),
        }
    }

    /// The namespace itself: from now on neither a renamed file nor a recycled process number matters.
    pub fn open(&self) -> Result<OwnedFd> {
        match self {
            Target::Name(name) => open_named(name),
            Target::Pid(pid) => open_of_process(*pid),
            Target::Path(path) => {
                let fd = open_file(Path::new(path)).with_context(|| format!("cannot open '{path}'"))?;
                if !is_namespace(&fd) {
                    bail!("'{path}' is not a namespace");
                }
                Ok(fd)
            }
        }
    }
}

/// The namespace that this process is in.
pub fn open_own() -> Result<OwnedFd> {
    open_file(Path::new(OWN)).with_context(|| format!("cannot open '{OWN}'"))
}

/// By which a namespace is known, whatever its names.
pub fn inode(namespace: &OwnedFd) -> Result<u64> {
    Ok(fstat(namespace).context("cannot stat a namespace")?.st_ino)
}

/// A word as a shell and a file for `apply` take it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_.:/@+=,%[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn open_file(path: &Path) -> nix::Result<OwnedFd> {
    // O_NONBLOCK: a user's path may be a FIFO.
    open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK, Mode::empty())
}

fn is_namespace(fd: &OwnedFd) -> bool {
    fstatfs(fd).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

fn open_named(name: &str) -> Result<OwnedFd> {
    match open_file(&path(name)) {
        Ok(fd) if is_namespace(&fd) => Ok(fd),
        Ok(_) => Err(stale(name)),
        Err(Errno::ENOENT) => Err(missing(name)),
        Err(errno) => Err(errno).with_context(|| format!("cannot open '{}'", path(name).display())),
    }
}

pub fn missing(name: &str) -> Error {
    hint(anyhow!("no network namespace '{name}'"), format!("netns add '{name}' makes it"))
}

pub fn stale(name: &str) -> Error {
    let error = anyhow!("'{}' is stale: there is no namespace behind it", path(name).display());
    hint(error, format!("netns add '{name}' makes it anew, netns del '{name}' removes it"))
}

/// The descriptor of the process is taken first: while it names a living process, /proc/PID was its own.
fn open_of_process(pid: i32) -> Result<OwnedFd> {
    let gone = || anyhow!("no such process: '{pid}'");
    let pinned = match unshare::sys::pidfd_open(Pid::from_raw(pid)) {
        Ok(fd) => Some(fd),
        Err(Errno::ENOSYS) => None, // before 5.3
        Err(Errno::ESRCH) => return Err(gone()),
        Err(errno) => return Err(errno).with_context(|| format!("cannot open process '{pid}'")),
    };
    let file = match open_file(Path::new(&format!("/proc/{pid}/ns/net"))) {
        Ok(file) => file,
        Err(Errno::ENOENT) => return Err(gone()), // a zombie has no namespaces any more
        Err(errno) => return Err(errno).with_context(|| format!("cannot open the namespace of '{pid}'")),
    };
    match pinned {
        Some(pidfd) if !sys::pidfd_alive(pidfd.as_fd()) => Err(gone()),
        _ => Ok(file),
    }
}

/// One entry of the directory.
pub struct Entry {
    pub name: String,
    /// The inode of the namespace; None when stale.
    pub inode: Option<u64>,
}

/// All names in order; none where the directory is missing.
pub fn entries() -> Result<Vec<Entry>> {
    let listing = match fs::read_dir(DIR) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read '{DIR}'")),
    };
    let mut entries: Vec<Entry> = Vec::new();
    for entry in listing {
        let name = entry.with_context(|| format!("cannot read '{DIR}'"))?.file_name();
        let name = OsString::into_string(name).unwrap_or_else(|odd| odd.to_string_lossy().into_owned());
        let inode = inode_of(&name);
        entries.insert(entries.partition_point(|other| other.name < name), Entry { name, inode });
    }
    Ok(entries)
}

pub fn inode_of(name: &str) -> Option<u64> {
    let fd = open_file(&path(name)).ok().filter(is_namespace)?;
    File::from(fd).metadata().ok().map(|meta| meta.ino())
}

/// The directory, locked against all who change it, as ip-netns(8) does.
fn lock(make: bool) -> Result<Flock<File>> {
    let opened = File::open(DIR).or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound || !make {
            return Err(error);
        }
        fs::DirBuilder::new().recursive(true).mode(0o755).create(DIR)?;
        File::open(DIR)
    });
    let directory = opened.with_context(|| format!("cannot make or open '{DIR}'"))?;
    Flock::lock(directory, FlockArg::LockExclusive)
        .map_err(|(_, errno)| Error::new(errno).context(format!("cannot lock '{DIR}'")))
}

/// For those who watch it before there is a name.
pub fn make_directory() -> Result<()> {
    lock(true).map(drop)
}

/// The names that live, with their inodes, when none of our own is in the middle of making one; and whether that
/// is all there is.
pub fn whole_names() -> Result<(BTreeMap<String, u64>, bool)> {
    let _lock = match lock(false) {
        Err(error) if is_not_found(&error) => return Ok((BTreeMap::new(), true)),
        lock => lock?,
    };
    let entries = entries()?;
    let all = entries.iter().all(|entry| entry.inode.is_some());
    let names = entries.into_iter().filter_map(|entry| Some((entry.name, entry.inode?)));
    Ok((names.collect(), all))
}

/// A mount of its own, shared with other mount namespaces; nothing to do but the first time. Private in
/// between: below a shared /run the new mount would be a peer of /run and every name be mounted twice.
fn share_directory() -> Result<()> {
    const NONE: Option<&str> = None;
    let set = |flags| mount(NONE, DIR, NONE, flags, NONE);
    match set(MsFlags::MS_SHARED | MsFlags::MS_REC) {
        Err(Errno::EINVAL) => {} // not a mount point yet
        done => return done.with_context(|| format!("cannot share '{DIR}'")),
    }
    mount(Some(DIR), DIR, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
        .and_then(|()| set(MsFlags::MS_PRIVATE | MsFlags::MS_REC))
        .and_then(|()| set(MsFlags::MS_SHARED | MsFlags::MS_REC))
        .with_context(|| format!("cannot mount '{DIR}' on itself"))
}

/// The directory made, shared and locked: for those who add names.
pub fn begin() -> Result<Flock<File>> {
    let lock = lock(true)?;
    share_directory()?;
    Ok(lock)
}

/// Puts a namespace, as a path, on the empty file of a name.
pub fn mount_on_name(namespace: &str, name: &str) -> Result<()> {
    mount(Some(namespace), &path(name), None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot mount the namespace on '{}'", path(name).display()))
}

/// Makes the empty file; false when the name has a living namespace. A stale one is taken over.
pub fn take_name(name: &str) -> Result<bool> {
    let file = path(name);
    let create = || fs::OpenOptions::new().write(true).create_new(true).mode(0o000).open(&file).map(drop);
    let failed = || format!("cannot make '{}'", file.display());
    match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        done => return done.map(|()| true).with_context(failed),
    }
    if inode_of(name).is_some() {
        return Ok(false);
    }
    remove_name(name)?;
    create().with_context(failed)?;
    say("netns", &format!("note: '{}' was stale and has been replaced", file.display()));
    Ok(true)
}

/// Takes the namespace off its file, lazily as it may be in use, and removes the file. The namespace
/// itself ends with its last process.
pub fn remove_name(name: &str) -> Result<()> {
    let file = path(name);
    match umount2(&file, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL) => {} // EINVAL: nothing is mounted there
        Err(errno) => return Err(errno).with_context(|| format!("cannot unmount '{}'", file.display())),
    }
    fs::remove_file(&file).with_context(|| format!("cannot remove '{}'", file.display()))
}

/// Names that are to be removed, the directory locked.
pub struct Removal<'a> {
    pub names: Vec<&'a str>,
    _lock: Option<Flock<File>>,
}

impl<'a> Removal<'a> {
    /// All of them or none: `check` sees every living one and may object.
    pub fn plan(
        names: &'a [String],
        mut check: impl FnMut(&str, OwnedFd) -> Result<()>,
        if_exists: bool,
    ) -> Result<Removal<'a>> {
        let lock = match lock(false) {
            Err(error) if is_not_found(&error) && if_exists => None,
            Err(error) if is_not_found(&error) => return Err(missing(&names[0])),
            lock => Some(lock?),
        };
        let mut present = Vec::new();
        for name in names {
            match open_file(&path(name)) {
                Ok(fd) if is_namespace(&fd) => check(name, fd)?,
                Ok(_) | Err(Errno::EACCES) => {}
                Err(Errno::ENOENT) if if_exists => continue,
                Err(Errno::ENOENT) => bail!("no network namespace '{name}'"),
                Err(errno) => {
                    return Err(errno).with_context(|| format!("cannot open '{}'", path(name).display()));
                }
            }
            if !present.contains(&name.as_str()) {
                present.push(name.as_str());
            }
        }
        Ok(Removal { names: present, _lock: lock })
    }

    /// From here on nothing is made anew: goes on after a failure and reports the first.
    pub fn act(self) -> Result<()> {
        let mut result = Ok(());
        for name in &self.names {
            result = result.and(remove_name(name));
        }
        unshare_directory();
        result
    }
}

/// With the last name goes the mount that `share_directory` made, and only that: it is of the same file
/// system as the directory above it. Who waits for the lock finds it gone and makes it again.
fn unshare_directory() {
    let device = |path: &str| fs::metadata(path).map(|meta| meta.dev());
    let own = matches!((device(DIR), device("/run")), (Ok(dir), Ok(above)) if dir == above);
    if own && fs::read_dir(DIR).is_ok_and(|mut names| names.next().is_none()) {
        let _ = umount2(DIR, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    }
}

fn is_not_found(error: &Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// The processes of a namespace that /proc shows here, and in its order: that of their numbers.
pub fn processes_in(inode: u64) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read '/proc'")? {
        let name = entry.context("cannot read '/proc'")?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // It may end while we look; then it is in no namespace.
        if fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|meta| meta.ino() == inode) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_refused() {
        for bad in ["", ".", "..", "a/b", "-x", "--", "pid:1", "a\nb", &"x".repeat(256)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in ["web", "1", "a b", "a:b", "ü", &"x".repeat(255)] {
            assert!(check_name(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn digits_are_a_name_unless_pid_stands_before_them() {
        assert_eq!(Target::parse("1").unwrap(), Target::Name("1".into()));
        assert_eq!(Target::parse("pid:1").unwrap(), Target::Pid(1));
        assert_eq!(Target::parse("/proc/1/ns/net").unwrap(), Target::Path("/proc/1/ns/net".into()));
        for bad in ["pid:", "pid:0", "pid:-1", "pid:x", "pid:+1", "pid:99999999999"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }
}
