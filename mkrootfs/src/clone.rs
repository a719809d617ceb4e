//! clone: a root directory as a copy of another: a snapshot, a copy that shares its blocks, or a plain one.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::stat::fstat;

use crate::copy::{Sharing, copy};
use crate::inside;
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

impl Copy {
    pub fn open(source: &Path, target: &Path) -> Result<Copy> {
        let failed = || format!("cannot clone '{}'", source.display());
        let path = source.canonicalize().map_err(|e| Kind::Asked.because(failed(), e))?;
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
        if inside::is_ours(parent) {
            bail!(Kind::Asked.hinted(
                failed(),
                "the target is a mount point, which it cannot become",
                "name a new directory below it"
            ));
        }
        std::fs::remove_dir(root).with_context(failed)?;
        let parent = File::open(parent).with_context(failed)?;
        let made = sys::btrfs_snapshot(self.source.as_fd(), parent.as_fd(), name.as_bytes());
        if made.is_err() {
            std::fs::create_dir(root).with_context(failed)?;
        }
        made.with_context(failed)
    }

    /// A copy that shares its blocks where that is possible. The caller waits for the disk.
    pub fn make(&self, root: &Path) -> Result<()> {
        self.walk(root, Sharing::WherePossible).map(drop)
    }

    /// True when blocks are shared.
    fn walk(&self, root: &Path, sharing: Sharing) -> Result<bool> {
        let to = File::open(root).with_context(|| format!("cannot open '{}'", root.display()))?;
        copy(self.source.as_fd(), &self.path, to.as_fd(), sharing)
    }
}
