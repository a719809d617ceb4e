//! copy: a tree with all that belongs to it: owners, modes, times, extended attributes, hard links, devices; the
//! same disk blocks where the file system can share them (ioctl_ficlone(2)).
//!
//! The source may be hostile and somebody may change it meanwhile: it is walked by descriptors, one name at a
//! time, never through a link, and not into what is mounted in it.
//!
//! Threads share the directories: who comes to one copies its files and leaves the directories in it, as (the open
//! directory, a name in it), for whoever has time. The newest are taken first, so that few are open at a time. The
//! last one out of a directory, which has all its children then, sets its times.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use anyhow::{Context, Error, Result};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, copy_file_range, openat, readlinkat};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, futimens, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, symlinkat};

use crate::sys;

/// Whether the copy has the blocks of the source.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    Always,
    WherePossible,
    Never,
}

struct Walk<'w> {
    /// The path of what is copied, for errors.
    source: &'w Path,
    mount: u64,
    root: OwnedFd,
    /// Where a file with several names was copied to first. Held while such a file is copied.
    links: Mutex<HashMap<(u64, u64), PathBuf>>,
    sharing: Sharing,
    /// The file system has not refused yet.
    can_share: AtomicBool,
    /// Some blocks are.
    shared: AtomicBool,
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// Directories that wait, how many are being copied, and what has failed first.
#[derive(Default)]
struct Queue {
    waiting: Vec<(Arc<Place>, OsString)>,
    busy: usize,
    failure: Option<Error>,
}

/// A directory of both trees.
struct Place {
    from: OwnedFd,
    to: OwnedFd,
    stat: FileStat,
    path: PathBuf,
    above: Option<Arc<Place>>,
}

/// Copies what lies in `source`, whose path is `name`, into the new directory `to`, which gets the owner, mode and
/// times of `source` as well. True when blocks are shared. The disk is not waited for.
pub fn copy(source: BorrowedFd<'_>, name: &Path, to: BorrowedFd<'_>, sharing: Sharing) -> Result<bool> {
    let walk = Walk {
        source: name,
        mount: sys::mount_id(source)?,
        root: to.try_clone_to_owned()?,
        links: Mutex::default(),
        sharing,
        can_share: AtomicBool::new(sharing != Sharing::Never),
        shared: AtomicBool::new(false),
        queue: Mutex::default(),
        changed: Condvar::new(),
    };
    let _mask = sys::Umask::set(0);
    let top = Place {
        from: source.try_clone_to_owned()?,
        to: to.try_clone_to_owned()?,
        stat: fstat(source)?,
        path: PathBuf::new(),
        above: None,
    };
    walk.place(top)?;
    thread::scope(|scope| {
        for _ in 1..thread::available_parallelism().map_or(2, usize::from).min(MOST) {
            // Where no more threads are allowed, this one does it all.
            let _ = thread::Builder::new().spawn_scoped(scope, || walk.work());
        }
        walk.work();
    });
    match walk.queue.into_inner().expect(NO_PANIC).failure {
        Some(error) => Err(error),
        None => Ok(walk.shared.into_inner()),
    }
}

/// More threads than these wait for the file system's journal only.
const MOST: usize = 8;

const NO_PANIC: &str = "no thread panics while it holds it";

impl Walk<'_> {
    fn work(&self) {
        while let Some((above, name)) = self.next() {
            let done = self.subdir(above, &name);
            let mut queue = self.queue.lock().expect(NO_PANIC);
            queue.busy -= 1;
            if let Err(error) = done {
                queue.failure.get_or_insert(error);
            }
            self.changed.notify_all();
        }
    }

    /// None when there is nothing more to do, or no sense in doing it.
    fn next(&self) -> Option<(Arc<Place>, OsString)> {
        let mut queue = self.queue.lock().expect(NO_PANIC);
        loop {
            if queue.failure.is_some() {
                return None;
            }
            if let Some(next) = queue.waiting.pop() {
                queue.busy += 1;
                return Some(next);
            }
            if queue.busy == 0 {
                return None;
            }
            queue = self.changed.wait(queue).expect(NO_PANIC);
        }
    }

    fn subdir(&self, above: Arc<Place>, name: &OsStr) -> Result<()> {
        let open = || -> Result<Place> {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let from = openat(&above.from, name, flags, Mode::empty())?;
            mkdirat(&above.to, name, Mode::from_bits_truncate(0o700))?;
            let to = openat(&above.to, name, flags, Mode::empty())?;
            Ok(Place { stat: fstat(&from)?, from, to, path: above.path.join(name), above: None })
        };
        let place = open().with_context(|| self.at(&above, name))?;
        self.place(Place { above: Some(above), ..place })
    }

    /// The files of a directory; those in it are left for later.
    fn place(&self, place: Place) -> Result<()> {
        let place = Arc::new(place);
        // What is mounted there is not part of the tree: the place stays, empty.
        if sys::mount_id(place.from.as_fd())? == self.mount {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let mut entries = Dir::from_fd(openat(&place.from, ".", flags, Mode::empty())?)?;
            for entry in entries.iter() {
                let entry = entry.with_context(|| self.at(&place, OsStr::new("")))?;
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name != "." && name != ".." {
                    self.entry(&place, name).with_context(|| self.at(&place, name))?;
                }
            }
        }
        self.leave(place)
    }

    /// What an error is about.
    fn at(&self, place: &Place, name: &OsStr) -> String {
        format!("cannot copy '{}'", self.source.join(&place.path).join(name).display())
    }

    fn entry(&self, place: &Arc<Place>, name: &OsStr) -> Result<()> {
        let stat = fstatat(&place.from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        if kind == SFlag::S_IFDIR {
            self.queue.lock().expect(NO_PANIC).waiting.push((Arc::clone(place), name.to_owned()));
            self.changed.notify_one();
            return Ok(());
        }
        // A socket is nothing without the process that listens.
        if kind == SFlag::S_IFSOCK {
            return Ok(());
        }
        if stat.st_nlink == 1 {
            return self.other(place, name, kind, &stat);
        }
        // The first name is whole before the second one is made: links are few.
        let mut links = self.links.lock().expect(NO_PANIC);
        if let Some(first) = links.get(&(stat.st_dev, stat.st_ino)) {
            return self.link(first, place.to.as_fd(), name);
        }
        self.other(place, name, kind, &stat)?;
        links.insert((stat.st_dev, stat.st_ino), place.path.join(name));
        Ok(())
    }

    fn other(&self, place: &Place, name: &OsStr, kind: SFlag, stat: &FileStat) -> Result<()> {
        let (from, to) = (place.from.as_fd(), place.to.as_fd());
        match kind {
            SFlag::S_IFREG => self.file(from, to, name),
            SFlag::S_IFLNK => symlink(from, to, name, stat),
            _ => node(to, name, kind, stat),
        }
    }

    fn file(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let source = openat(from, name, flags | OFlag::O_RDONLY, Mode::empty())?;
        let stat = fstat(&source)?;
        let copy = openat(
            to,
            name,
            flags | OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL,
            Mode::from_bits_truncate(0o600),
        )?;
        // A file may be a place to mount on as well; and it may have been exchanged since we looked.
        let same = sys::mount_id(source.as_fd())? == self.mount;
        if same && stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits() {
            self.content(source.as_fd(), copy.as_fd(), stat.st_size as u64)?;
        }
        set_all(source.as_fd(), copy.as_fd(), &stat)
    }

    fn content(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> Result<()> {
        if size == 0 {
            return Ok(());
        }
        if self.can_share.load(Ordering::Relaxed) {
            match sys::clone_file(from, to) {
                Ok(()) => {
                    self.shared.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                Err(errno) if self.sharing == Sharing::Always => {
                    let error = anyhow::Error::new(errno).context("cannot share its blocks");
                    return Err(unshare::fail::hint(
                        error,
                        "without --reflink the best way there is is taken",
                    ));
                }
                Err(Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::EXDEV | Errno::ENOSYS | Errno::EPERM) => {
                    self.can_share.store(false, Ordering::Relaxed)
                }
                Err(Errno::EINVAL) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let mut copied = 0;
        while copied < size {
            match copy_file_range(from, None, to, None, 1 << 30) {
                Ok(0) => break,
                Ok(count) => copied += count as u64,
                // From here on by hand: the offsets of both descriptors are where the call left them.
                Err(Errno::ENOSYS | Errno::EXDEV | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EPERM) => {
                    let (mut from, mut to) =
                        (File::from(from.try_clone_to_owned()?), File::from(to.try_clone_to_owned()?));
                    return Ok(std::io::copy(&mut from, &mut to).map(drop)?);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn link(&self, first: &Path, to: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let parent = unshare::rooted::open_path(
            self.root.as_fd(),
            first.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        )?;
        let first_name = first.file_name().context("a file has a name")?;
        Ok(linkat(parent.as_fd(), first_name, to, name, AtFlags::empty())?)
    }

    /// Who holds the last share of a directory has all its children behind him; then the same of the one above.
    fn leave(&self, place: Arc<Place>) -> Result<()> {
        let mut place = Some(place);
        while let Some(last) = place.take().and_then(Arc::into_inner) {
            let set = set_all(last.from.as_fd(), last.to.as_fd(), &last.stat);
            set.with_context(|| self.at(&last, OsStr::new("")))?;
            place = last.above;
        }
        Ok(())
    }
}

fn symlink(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr, stat: &FileStat) -> Result<()> {
    symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?;
    set_times_and_owner(to, name, stat)
}

fn node(to: BorrowedFd<'_>, name: &OsStr, kind: SFlag, stat: &FileStat) -> Result<()> {
    let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
    mknodat(to, name, kind, mode, stat.st_rdev)?;
    set_times_and_owner(to, name, stat)
}

fn set_times_and_owner(to: BorrowedFd<'_>, name: &OsStr, stat: &FileStat) -> Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    fchownat(to, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let (atime, mtime) = times(stat);
    Ok(utimensat(to, name, &atime, &mtime, UtimensatFlags::NoFollowSymlink)?)
}

/// Owner first, as it clears set-id bits and capabilities; times last, as all else changes them.
fn set_all(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &FileStat) -> Result<()> {
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    copy_xattrs(from, to)?;
    fchmod(to, Mode::from_bits_truncate(stat.st_mode & 0o7777))?;
    let (atime, mtime) = times(stat);
    Ok(futimens(to, &atime, &mtime)?)
}

fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let found = match sys::xattrs(from) {
        Err(Errno::EOPNOTSUPP) => return Ok(()),
        found => found?,
    };
    for (name, value) in found {
        sys::set_xattr(to, &name, &value)
            .with_context(|| format!("cannot set '{}'", name.to_string_lossy()))?;
    }
    Ok(())
}

fn times(stat: &FileStat) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(stat.st_atime, stat.st_atime_nsec), TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec))
}
