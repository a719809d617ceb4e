//! clone: copy a root directory with all that belongs to it: owners, modes, times, extended attributes, hard
//! links, devices; the same disk blocks where the file system can share them (ioctl_ficlone(2)).
//!
//! The source may be hostile and somebody may change it meanwhile: it is walked by descriptors, one name at a
//! time, never through a link, and not into what is mounted in it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow, bail};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, copy_file_range, openat, readlinkat};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, futimens, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, symlinkat};

use crate::sys;
use crate::trouble::Kind;

pub struct Copy {
    source: OwnedFd,
    path: PathBuf,
}

/// How a clone is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Best,
    Copy,
    Reflink,
    Snapshot,
    Overlay,
}

/// Whether the copy has the blocks of the source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Always,
    WherePossible,
    Never,
}

struct Walk {
    mount: u64,
    root: OwnedFd,
    /// Where a file with several names was copied to first.
    links: HashMap<(u64, u64), PathBuf>,
    /// The path of what is being copied, for errors and links.
    at: PathBuf,
    sharing: Sharing,
    /// Some blocks are.
    shared: bool,
}

impl Copy {
    pub fn open(source: &Path, target: &Path) -> Result<Copy> {
        let failed = || format!("cannot clone '{}'", source.display());
        let path = source.canonicalize().map_err(|e| Kind::Asked.because(failed(), plain(e)))?;
        let fd = File::open(&path).with_context(failed)?;
        if !fd.metadata().with_context(failed)?.is_dir() {
            bail!(Kind::Asked.because(failed(), anyhow!("it is not a directory")));
        }
        let above =
            std::path::absolute(target).ok().and_then(|t| t.parent().and_then(|p| p.canonicalize().ok()));
        if above.is_some_and(|above| above.starts_with(&path)) {
            bail!(Kind::Asked.because(failed(), anyhow!("the copy would lie in it")));
        }
        Ok(Copy { source: fd.into(), path })
    }

    /// As `make`, by the way that was asked for or the best that the file system has; gives what was done.
    pub fn make_by(&self, by: By, root: &Path) -> Result<&'static str> {
        if by == By::Snapshot || (by == By::Best && self.is_subvolume()) {
            match self.snapshot(root) {
                Ok(()) => return Ok("a snapshot"),
                Err(error) if by == By::Snapshot => return Err(error),
                // In another file system, or not ours: it is copied.
                Err(_) => {}
            }
        }
        let sharing = match by {
            By::Copy => Sharing::Never,
            By::Reflink => Sharing::Always,
            _ => Sharing::WherePossible,
        };
        match self.walk(root, sharing)? {
            true => Ok("a copy that shares its blocks"),
            false => Ok("a copy"),
        }
    }

    /// A subvolume of btrfs has this number at its root.
    fn is_subvolume(&self) -> bool {
        const FIRST: u64 = 256;
        let btrfs = nix::sys::statfs::fstatfs(&self.source)
            .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::BTRFS_SUPER_MAGIC);
        btrfs && fstat(&self.source).is_ok_and(|stat| stat.st_ino == FIRST)
    }

    fn snapshot(&self, root: &Path) -> Result<()> {
        let failed = || format!("cannot make a snapshot of '{}'", self.path.display());
        if !self.is_subvolume() {
            bail!(Kind::Asked.because(failed(), anyhow!("it is no subvolume of btrfs")));
        }
        let (parent, name) = root.parent().zip(root.file_name()).context("a target has a name")?;
        std::fs::remove_dir(root).with_context(failed)?;
        let parent = File::open(parent).with_context(failed)?;
        let made = sys::btrfs_snapshot(self.source.as_fd(), parent.as_fd(), name.as_bytes());
        if made.is_err() {
            std::fs::create_dir(root).with_context(failed)?;
        }
        made.with_context(failed)
    }

    pub fn make(&self, root: &Path) -> Result<()> {
        self.walk(root, Sharing::WherePossible).map(drop)
    }

    /// True when blocks are shared.
    fn walk(&self, root: &Path, sharing: Sharing) -> Result<bool> {
        let to = File::open(root).with_context(|| format!("cannot open '{}'", root.display()))?;
        let from = fstat(&self.source)?;
        let mut walk = Walk {
            mount: sys::mount_id(self.source.as_fd())?,
            root: to.as_fd().try_clone_to_owned()?,
            links: HashMap::new(),
            at: PathBuf::new(),
            sharing,
            shared: false,
        };
        sys::umask(0);
        let done = walk
            .dir(self.source.as_fd(), to.as_fd())
            .and_then(|()| set_all(self.source.as_fd(), to.as_fd(), &from));
        done.map_err(|e| e.context(format!("cannot copy '{}'", self.path.join(&walk.at).display())))?;
        nix::unistd::syncfs(&to).context("cannot write the tree to the disk")?;
        Ok(walk.shared)
    }
}

impl Walk {
    fn dir(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
        let mut entries = Dir::from_fd(openat(
            from,
            ".",
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?)?;
        for entry in entries.iter() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            self.at.push(name);
            self.entry(from, to, name)?;
            self.at.pop();
        }
        Ok(())
    }

    fn entry(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        if kind != SFlag::S_IFDIR && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                return self.link(&first.clone(), to, name);
            }
            self.links.insert((stat.st_dev, stat.st_ino), self.at.clone());
        }
        match kind {
            SFlag::S_IFDIR => self.subdir(from, to, name),
            SFlag::S_IFREG => self.file(from, to, name),
            SFlag::S_IFLNK => symlink(from, to, name, &stat),
            // A socket is nothing without the process that listens.
            SFlag::S_IFSOCK => Ok(()),
            _ => node(to, name, kind, &stat),
        }
    }

    fn subdir(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let source = openat(from, name, flags, Mode::empty())?;
        let stat = fstat(&source)?;
        mkdirat(to, name, Mode::from_bits_truncate(0o700))?;
        let copy = openat(to, name, flags, Mode::empty())?;
        // What is mounted there is not part of the tree: the place stays, empty.
        if sys::mount_id(source.as_fd())? == self.mount {
            self.dir(source.as_fd(), copy.as_fd())?;
        }
        set_all(source.as_fd(), copy.as_fd(), &stat)
    }

    fn file(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
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

    fn content(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> Result<()> {
        if size == 0 {
            return Ok(());
        }
        if self.sharing != Sharing::Never {
            match sys::clone_file(from, to) {
                Ok(()) => {
                    self.shared = true;
                    return Ok(());
                }
                Err(errno) if self.sharing == Sharing::Always => {
                    return Err(errno).context("cannot share its blocks");
                }
                Err(Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::EXDEV | Errno::ENOSYS | Errno::EPERM) => {
                    self.sharing = Sharing::Never
                }
                Err(Errno::EINVAL) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        loop {
            match copy_file_range(from, None, to, None, 1 << 30) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // From here on by hand: the offsets of both descriptors are where the call left them.
                Err(Errno::ENOSYS | Errno::EXDEV | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EPERM) => {
                    let (mut from, mut to) =
                        (File::from(from.try_clone_to_owned()?), File::from(to.try_clone_to_owned()?));
                    return std::io::copy(&mut from, &mut to).map(drop).map_err(plain);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn link(&self, first: &Path, to: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let parent = unshare::rooted::open_path(
            self.root.as_fd(),
            first.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        )?;
        let first_name = first.file_name().context("a file has a name")?;
        Ok(linkat(parent.as_fd(), first_name, to, name, AtFlags::empty())?)
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

fn plain(error: std::io::Error) -> Error {
    error.raw_os_error().map_or_else(|| error.into(), |number| Errno::from_raw(number).into())
}
