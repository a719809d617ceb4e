//! inside: a target that cannot be replaced, as a file system is mounted there: the tree is made in it, in a directory
//! of ours, and at the end its entries move up. What a run has moved that is killed meanwhile stands in a list, by
//! which the next one takes it back.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::renameat;
use nix::sys::stat::{Mode, fchmod, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown};

use crate::staging::remove_at;
use crate::sys;
use crate::trouble::Kind;

/// What our directory's name begins with.
pub const STEM: &str = ".mkrootfs.partial-";

/// In our directory: names of the tree, each ended by a zero byte.
const LIST: &str = "moved";

/// What mke2fs(8) puts into each new file system.
const LOST_FOUND: &str = "lost+found";

pub fn is_ours(dir: &Path) -> bool {
    dir.file_name().is_some_and(|name| name.as_bytes().starts_with(STEM.as_bytes()))
}

/// Whether a target is a directory that has to stay.
pub fn must_stay(target: &Path) -> bool {
    let is_dir = |path: &Path| fs::symlink_metadata(path).is_ok_and(|data| data.is_dir());
    is_dir(target) && (is_mount_point(target) || is_dir(&target.join(LOST_FOUND)))
}

/// Or a subvolume of btrfs, which has a device number of its own.
fn is_mount_point(target: &Path) -> bool {
    let open = |path: &Path| File::open(path).ok();
    let Some((here, above)) = open(target).zip(target.parent().and_then(open)) else { return false };
    let device = |dir: &File| dir.metadata().ok().map(|data| data.dev());
    let mount = |dir: &File| sys::mount_id(dir.as_fd()).ok();
    device(&here) != device(&above) || mount(&here) != mount(&above)
}

/// Nothing of anybody's may lie in it.
pub fn check(target: &Path) -> Result<()> {
    match names(target)?.iter().find(|name| *name != LOST_FOUND) {
        None => Ok(()),
        Some(name) => {
            let why = anyhow!("the directory is not empty: it has '{}'", name.to_string_lossy());
            bail!(Kind::Asked.because(format!("cannot make '{}'", target.display()), why))
        }
    }
}

/// The whole tree becomes the target's, with the mode and the time that its root has.
pub fn move_up(root: &Path, target: &Path, ours: &Path) -> Result<()> {
    let failed = || format!("cannot move the finished tree into '{}'", target.display());
    let (from, to) = (File::open(root).with_context(failed)?, File::open(target).with_context(failed)?);
    let data = from.metadata().with_context(failed)?;
    // What may fail comes before the first entry moves.
    fchown(&to, Some(Uid::from_raw(data.uid())), Some(Gid::from_raw(data.gid())))
        .and_then(|()| fchmod(&to, Mode::from_bits_truncate(data.mode())))
        .with_context(failed)?;
    let names = names(root)?;
    let list: Vec<u8> = names.iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
    fs::write(ours.join(LIST), list).with_context(failed)?;
    for name in &names {
        renameat(&from, name.as_os_str(), &to, name.as_os_str()).with_context(failed)?;
    }
    fs::remove_file(ours.join(LIST)).with_context(failed)?;
    remove_at(to.as_fd(), ours.file_name().with_context(failed)?).with_context(failed)?;
    let time = TimeSpec::new(data.mtime(), data.mtime_nsec());
    futimens(&to, &time, &time).with_context(failed)
}

/// Takes away what a killed run has moved up.
pub fn take_back(target: &Path, ours: &Path) -> Result<()> {
    let Ok(list) = fs::read(ours.join(LIST)) else { return Ok(()) };
    let failed = || format!("cannot remove what a killed run has left in '{}'", target.display());
    let dir = File::open(target).with_context(failed)?;
    let names = list.split(|byte| *byte == 0).map(OsStr::from_bytes);
    for name in names.filter(|name| !name.is_empty() && !name.as_bytes().contains(&b'/')) {
        remove_at(dir.as_fd(), name).with_context(failed)?;
    }
    Ok(())
}

fn names(dir: &Path) -> Result<Vec<OsString>> {
    let read = || fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>();
    let mut names: Vec<OsString> = read().with_context(|| format!("cannot read '{}'", dir.display()))?;
    names.sort();
    Ok(names)
}
