//! staging: a new tree is made beside its target and renamed when it is whole.
//!
//! `TARGET.partial-PID/root` becomes TARGET, or, where TARGET is a mount point, what lies in it. The outer
//! directory is open to root only, as half a system has set-id programs already, and is held locked (flock(2))
//! while anybody works in it: one without a lock is what a killed run left, and the next run for the same target
//! removes it.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::inside;
use crate::sys;
use crate::trouble::Kind;

pub struct Staging {
    target: PathBuf,
    dir: PathBuf,
    /// It lies in the target.
    inside: bool,
    /// Directories above the target that were not there, the deepest first.
    above: Vec<PathBuf>,
    /// Kept open: it is the lock.
    _lock: Flock<File>,
}

impl Staging {
    /// Checks the target, removes what killed runs left, and makes the place to work in.
    pub fn make(target: &Path) -> Result<Staging> {
        let target = through_link(absolute(target)?);
        if !inside::must_stay(&target) {
            check_target(&target)?;
            let above = make_above(&target)?;
            return Staging::beside(target, above);
        }
        remove_stale(&target, inside::STEM, |ours| inside::take_back(&target, ours))?;
        inside::check(&target)?;
        let dir = target.join(format!("{}{}", inside::STEM, std::process::id()));
        Staging { target, inside: true, above: Vec::new(), _lock: lock_new(&dir)?, dir }.with_root()
    }

    /// For a target that is a file; one that is there is replaced at the end.
    pub fn make_file(target: &Path) -> Result<Staging> {
        let target = absolute(target)?;
        check_file(&target)?;
        Staging::beside(target, Vec::new())
    }

    fn beside(target: PathBuf, above: Vec<PathBuf>) -> Result<Staging> {
        let make = || -> Result<(PathBuf, Flock<File>)> {
            check_parent(&target)?;
            let stem = stem(&target)?;
            remove_stale(target.parent().expect("check has seen it"), &stem, |_| Ok(()))?;
            let dir = target.with_file_name(format!("{stem}{}", std::process::id()));
            Ok((dir.clone(), lock_new(&dir)?))
        };
        let (dir, lock) = make().inspect_err(|_| remove_above(&above))?;
        Staging { target, dir, inside: false, above, _lock: lock }.with_root()
    }

    fn with_root(self) -> Result<Staging> {
        match self.make_root() {
            Ok(()) => Ok(self),
            Err(error) => {
                let _ = self.abandon();
                Err(error)
            }
        }
    }

    /// The root must inherit nothing from where it is made: no group, no access list.
    fn make_root(&self) -> Result<()> {
        let root = self.root();
        let make = || -> io::Result<File> {
            let outer = File::open(&self.dir)?;
            sys::remove_xattr(outer.as_fd(), c"system.posix_acl_default")?;
            outer.set_permissions(Permissions::from_mode(0o700))?;
            fs::create_dir(&root)?;
            let root = File::open(&root)?;
            std::os::unix::fs::fchown(&root, Some(0), Some(0))?;
            root.set_permissions(Permissions::from_mode(0o755))?;
            Ok(root)
        };
        make().map(drop).with_context(|| format!("cannot make '{}'", root.display()))
    }

    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// For files that are needed while working.
    pub fn scratch(&self) -> &Path {
        &self.dir
    }

    /// The tree is whole: it becomes the target, or it goes, as when somebody else was faster.
    pub fn finish(self) -> Result<()> {
        if self.inside {
            return inside::move_up(&self.root(), &self.target, &self.dir).inspect_err(|_| {
                let _ = inside::take_back(&self.target, &self.dir).and_then(|()| remove_tree(&self.dir));
            });
        }
        let done = fs::rename(self.root(), &self.target);
        let done =
            done.with_context(|| format!("cannot rename the finished tree to '{}'", self.target.display()));
        done.and(self.abandon())
    }

    /// Where a target that is a file is made.
    pub fn file(&self) -> PathBuf {
        self.dir.join("file")
    }

    /// The file is whole: when it is on the disk it becomes the target, or it goes.
    pub fn finish_file(self) -> Result<()> {
        let written = File::open(self.file()).and_then(|file| file.sync_all());
        let written =
            written.with_context(|| format!("cannot write '{}' to the disk", self.target.display()));
        let done = written.and_then(|()| {
            let done = fs::rename(self.file(), &self.target);
            done.with_context(|| format!("cannot rename the finished file to '{}'", self.target.display()))
        });
        done.and(self.abandon())
    }

    pub fn abandon(self) -> Result<()> {
        remove_tree(&self.dir).inspect(|()| remove_above(&self.above))
    }

    /// Leaves the tree for the user to look at, under a name that no later run removes.
    pub fn keep(self) -> Result<PathBuf> {
        let name =
            self.target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let kept = match self.inside {
            true => self.target.join(format!("failed-{}", std::process::id())),
            false => self.target.with_file_name(format!("{name}.failed-{}", std::process::id())),
        };
        fs::rename(self.root(), &kept).with_context(|| format!("cannot rename to '{}'", kept.display()))?;
        remove_tree(&self.dir)?;
        Ok(kept)
    }
}

fn absolute(target: &Path) -> Result<PathBuf> {
    std::path::absolute(target).with_context(|| format!("cannot find '{}'", target.display()))
}

/// A link to a directory stands for it, as on another disk.
fn through_link(target: PathBuf) -> PathBuf {
    let real = fs::canonicalize(&target).ok().filter(|real| target.is_symlink() && real.is_dir());
    real.unwrap_or(target)
}

/// Makes what is missing above a target, as other bootstraps do; gives what was made, the deepest first.
fn make_above(target: &Path) -> Result<Vec<PathBuf>> {
    let missing = target.ancestors().skip(1).take_while(|dir| !dir.exists()).map(Path::to_owned);
    let missing: Vec<PathBuf> = missing.collect();
    for (at, dir) in missing.iter().enumerate().rev() {
        let made = fs::create_dir(dir).with_context(|| format!("cannot make '{}'", dir.display()));
        made.inspect_err(|_| remove_above(&missing[at + 1..]))?;
    }
    Ok(missing)
}

/// As far as nobody else has put anything there.
fn remove_above(dirs: &[PathBuf]) {
    let _ = dirs.iter().try_for_each(fs::remove_dir);
}

/// The directory to work in, locked.
fn lock_new(dir: &Path) -> Result<Flock<File>> {
    let make = || DirBuilder::new().mode(0o700).create(dir);
    make().with_context(|| format!("cannot make '{}'", dir.display()))?;
    lock(dir)?.ok_or_else(|| anyhow!("cannot lock '{}': another run has it", dir.display()))
}

/// A target is new, or a directory with nothing in it and nothing on it, and where it is to lie is there.
pub fn check(target: &Path) -> Result<()> {
    check_target(target)?;
    let device = |path: &Path| fs::metadata(path).ok().map(|data| data.dev());
    if device(target).is_some_and(|own| target.parent().and_then(device) != Some(own)) {
        bail!(Kind::Asked.hinted(
            format!("cannot make '{}'", target.display()),
            "something is mounted there",
            "name a new directory below it"
        ));
    }
    check_parent(target)
}

fn check_target(target: &Path) -> Result<()> {
    let text = format!("cannot make '{}'", target.display());
    let refuse = |why: &str| Kind::Asked.because(text.clone(), anyhow!("{why}"));
    target.parent().ok_or_else(|| refuse("it is the root directory"))?;
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot look at '{}'", target.display())),
        Ok(data) if !data.is_dir() => bail!(refuse("there is something that is not a directory")),
        Ok(_) => {
            let mut entries =
                fs::read_dir(target).with_context(|| format!("cannot read '{}'", target.display()))?;
            if entries.next().is_some() {
                bail!(refuse("the directory is not empty"));
            }
        }
    }
    Ok(())
}

fn check_file(target: &Path) -> Result<()> {
    match fs::symlink_metadata(target) {
        Ok(data) if !data.is_file() => {
            let why = anyhow!("there is something that is not a file");
            bail!(Kind::Asked.because(format!("cannot make '{}'", target.display()), why))
        }
        _ => check_parent(target),
    }
}

fn check_parent(target: &Path) -> Result<()> {
    let refuse =
        |why: String| Kind::Asked.because(format!("cannot make '{}'", target.display()), anyhow!(why));
    let parent = target.parent().ok_or_else(|| refuse("it is the root directory".into()))?;
    match fs::metadata(parent) {
        Ok(data) if data.is_dir() => Ok(()),
        Ok(_) => bail!(refuse("what it is to lie in is not a directory".into())),
        Err(_) => bail!(refuse(format!("there is no directory '{}'", parent.display()))),
    }
}

fn stem(target: &Path) -> Result<String> {
    let name = target.file_name().and_then(|name| name.to_str());
    let name = name.filter(|name| name.len() <= 200);
    let name = name
        .ok_or_else(|| Kind::Asked.error(format!("cannot make '{}': not a usable name", target.display())))?;
    Ok(format!("{name}.partial-"))
}

/// The lock on a directory; None when somebody else has it.
fn lock(dir: &Path) -> Result<Option<Flock<File>>> {
    let file = File::open(dir).with_context(|| format!("cannot open '{}'", dir.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno).with_context(|| format!("cannot lock '{}'", dir.display())),
    }
}

/// Removes what killed runs have left in `parent`; before that `undo` gets each.
fn remove_stale(parent: &Path, stem: &str, undo: impl Fn(&Path) -> Result<()>) -> Result<()> {
    let entries = fs::read_dir(parent).with_context(|| format!("cannot read '{}'", parent.display()))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(stem)) else { continue };
        let ours = !pid.is_empty() && pid.bytes().all(|c| c.is_ascii_digit());
        // Ours is made open to root only: what others call alike is not ours to remove.
        let owned =
            entry.metadata().is_ok_and(|data| data.is_dir() && data.uid() == 0 && data.mode() & 0o77 == 0);
        if !ours || !owned {
            continue;
        }
        if let Some(_lock) = lock(&entry.path())? {
            undo(&entry.path())?;
            remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a tree that may be hostile: never through a link, never into another file system.
pub fn remove_tree(path: &Path) -> Result<()> {
    let failed = || format!("cannot remove '{}'", path.display());
    let (parent, name) = path.parent().zip(path.file_name()).with_context(failed)?;
    let parent = File::open(parent).with_context(failed)?;
    let device = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        data => data.with_context(failed)?.dev(),
    };
    remove_dir(parent.as_fd(), name, device).with_context(failed)
}

/// As `remove_tree`, of a name in an open directory.
fn remove_dir(parent: std::os::fd::BorrowedFd<'_>, name: &std::ffi::OsStr, device: u64) -> Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = openat(parent, name, flags, Mode::empty())?;
    if fstat(&fd)?.st_dev != device {
        bail!("something is mounted on '{}' in it", Path::new(name).display());
    }
    let mut dir = Dir::from_fd(fd.try_clone()?)?;
    for entry in dir.iter() {
        let entry = entry?;
        let entry_name = std::ffi::OsStr::from_bytes(entry.file_name().to_bytes());
        if entry_name == "." || entry_name == ".." {
            continue;
        }
        if entry.file_type() == Some(Type::Directory) {
            remove_dir(fd.as_fd(), entry_name, device)?;
            continue;
        }
        remove_at(fd.as_fd(), entry_name)?;
    }
    Ok(unlinkat(parent, name, UnlinkatFlags::RemoveDir)?)
}

/// As `remove_tree`, of a name in an open directory, whatever it is; it may be gone already.
pub fn remove_at(dir: std::os::fd::BorrowedFd<'_>, name: &std::ffi::OsStr) -> Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => remove_dir(dir, name, fstat(dir)?.st_dev),
        Err(errno) => Err(errno.into()),
    }
}
