//! extract: a tar stream of anybody's into a tree (tar(5)). Nothing it names can lie outside the tree: paths
//! that climb are refused, and links are followed as chroot would see them.

use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    Mode, SFlag, UtimensatFlags, fchmod, fstatat, futimens, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, symlinkat};
use tar::EntryType;
use unshare::rooted;

use crate::pack::carried;
use crate::staging;
use crate::sys;
use crate::tree::{Tree, inner_path};
use crate::trouble::Kind;

/// What a container image's layer says about those below it (OCI image specification, layers).
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

pub struct Extract<'t> {
    tree: &'t Tree,
    /// Make devices.
    pub devices: bool,
    /// Names that begin with ".wh." take away what lies below.
    pub layer: bool,
    /// Devices that were not made.
    pub left_out: usize,
    directories: Vec<(PathBuf, Meta)>,
    parent: Option<(PathBuf, OwnedFd)>,
    buffer: Vec<u8>,
}

struct Meta {
    mode: u32,
    uid: u32,
    gid: u32,
    time: TimeSpec,
    xattrs: Vec<(CString, Vec<u8>)>,
}

impl<'t> Extract<'t> {
    pub fn new(tree: &'t Tree) -> Extract<'t> {
        Extract {
            tree,
            devices: false,
            layer: false,
            left_out: 0,
            directories: Vec::new(),
            parent: None,
            buffer: vec![0; 128 << 10],
        }
    }

    /// Takes away what a layer hides; the stream is read once more for what it brings.
    pub fn hide(&mut self, stream: impl Read) -> Result<()> {
        let mut archive = tar::Archive::new(stream);
        for entry in archive.entries().map_err(damaged)? {
            let path = path_of(&entry.map_err(damaged)?.path_bytes())?;
            let Some(name) = path.file_name().filter(|name| name.as_bytes().starts_with(WHITEOUT.as_bytes()))
            else {
                continue;
            };
            let Ok(dir) = self.tree.dir(path.parent().unwrap_or(Path::new(""))) else { continue };
            if name == OPAQUE {
                clear(&dir)?;
            } else {
                remove(dir.as_fd(), OsStr::from_bytes(&name.as_bytes()[WHITEOUT.len()..]))?;
            }
        }
        Ok(())
    }

    pub fn run(&mut self, stream: impl Read) -> Result<()> {
        let mut archive = tar::Archive::new(stream);
        for entry in archive.entries().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            let path = path_of(&entry.path_bytes())?;
            self.entry(&path, &mut entry).map_err(|e| e.context(format!("'/{}'", path.display())))?;
        }
        self.parent = None;
        // At the end, as writing into a directory changes its time; of several entries the last one counts.
        let mut seen = HashSet::new();
        for (path, meta) in std::mem::take(&mut self.directories).into_iter().rev() {
            if !seen.insert(path.clone()) {
                continue;
            }
            let set = || settle(self.tree.dir(&path)?.as_fd(), &meta);
            set().with_context(|| format!("cannot set the mode of '/{}'", path.display()))?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, entry: &mut tar::Entry<'_, impl Read>) -> Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
            return Ok(());
        }
        let meta = meta(entry)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            self.directories.push((path.to_owned(), meta));
            return Ok(());
        };
        if self.layer && name.as_bytes().starts_with(WHITEOUT.as_bytes()) {
            return Ok(());
        }
        match kind {
            EntryType::Directory => self.directory(path, &name, meta),
            EntryType::Regular | EntryType::Continuous => self.file(path, &name, &meta, entry, false),
            EntryType::GNUSparse => self.file(path, &name, &meta, entry, true),
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let dir = self.place(path, &name)?;
                symlinkat(OsStr::from_bytes(&target), dir, name.as_os_str())?;
                stamp(dir, &name, &meta)
            }
            EntryType::Link => self.link(path, &name, &entry.link_name_bytes().unwrap_or_default()),
            EntryType::Char | EntryType::Block if !self.devices => {
                self.left_out += 1;
                Ok(())
            }
            EntryType::Char => self.node(path, &name, SFlag::S_IFCHR, &meta, entry.header()),
            EntryType::Block => self.node(path, &name, SFlag::S_IFBLK, &meta, entry.header()),
            EntryType::Fifo => self.node(path, &name, SFlag::S_IFIFO, &meta, entry.header()),
            other => bail!(Kind::BadPackage.error(format!("it is of the unknown type {other:?}"))),
        }
    }

    fn directory(&mut self, path: &Path, name: &OsStr, meta: Meta) -> Result<()> {
        let dir = self.parent(path)?;
        let there =
            fstatat(dir, name, AtFlags::empty()).is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFDIR);
        // A link to a directory of the tree stays, as the links of a merged /usr must: where it leads is known
        // only inside the tree.
        let linked = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFLNK);
        if linked {
            if self.tree.dir(path).is_err() {
                let dir = self.place(path, name)?;
                mkdirat(dir, name, Mode::from_bits_truncate(0o700))?;
            }
        } else if !there {
            let dir = self.place(path, name)?;
            mkdirat(dir, name, Mode::from_bits_truncate(0o700))?;
        }
        self.directories.push((path.to_owned(), meta));
        Ok(())
    }

    fn file(
        &mut self,
        path: &Path,
        name: &OsStr,
        meta: &Meta,
        content: &mut impl Read,
        sparse: bool,
    ) -> Result<()> {
        let dir = self.place(path, name)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(dir, name, flags, Mode::from_bits_truncate(0o600))?);
        loop {
            let count = content.read(&mut self.buffer).map_err(damaged)?;
            if count == 0 {
                break;
            }
            write_block(&mut file, &self.buffer[..count], sparse)?;
        }
        if sparse {
            let end = file.stream_position()?;
            file.set_len(end)?;
        }
        settle(file.as_fd(), meta)
    }

    fn link(&mut self, path: &Path, name: &OsStr, target: &[u8]) -> Result<()> {
        let target = path_of(target)?;
        let target_name = target.file_name().context("a link to the root directory")?;
        let from = self.tree.dir(target.parent().unwrap_or(Path::new("")))?;
        if target == path {
            return Ok(());
        }
        let to = self.place(path, name)?;
        Ok(linkat(&from, target_name, to, name, AtFlags::empty())?)
    }

    fn node(
        &mut self,
        path: &Path,
        name: &OsStr,
        kind: SFlag,
        meta: &Meta,
        header: &tar::Header,
    ) -> Result<()> {
        let number = |n: io::Result<Option<u32>>| n.ok().flatten().map_or(0, u64::from);
        let device = makedev(number(header.device_major()), number(header.device_minor()));
        let dir = self.place(path, name)?;
        mknodat(
            dir,
            name,
            kind,
            Mode::from_bits_truncate(meta.mode),
            if kind == SFlag::S_IFIFO { 0 } else { device },
        )?;
        stamp(dir, name, meta)?;
        let mode = Mode::from_bits_truncate(meta.mode);
        Ok(nix::sys::stat::fchmodat(dir, name, mode, nix::sys::stat::FchmodatFlags::FollowSymlink)?)
    }

    /// The directory of an entry, with its name free.
    fn place(&mut self, path: &Path, name: &OsStr) -> Result<BorrowedFd<'_>> {
        let dir = self.parent(path)?;
        remove(dir, name)?;
        Ok(dir)
    }

    fn parent(&mut self, path: &Path) -> Result<BorrowedFd<'_>> {
        let dir = path.parent().unwrap_or(Path::new(""));
        if self.parent.as_ref().is_none_or(|(last, _)| last != dir) {
            let opened = match self.tree.dir(dir) {
                Err(Errno::ENOENT) => rooted::make_dirs(self.tree.fd(), dir).and_then(|_| self.tree.dir(dir)),
                done => done,
            };
            self.parent =
                Some((dir.to_owned(), opened.with_context(|| format!("cannot open '/{}'", dir.display()))?));
        }
        Ok(self.parent.as_ref().expect("it was set above").1.as_fd())
    }
}

/// Whole blocks of zeros of a sparse file become holes.
fn write_block(file: &mut File, bytes: &[u8], sparse: bool) -> io::Result<()> {
    if sparse && bytes.iter().all(|byte| *byte == 0) {
        return file.seek(SeekFrom::Current(bytes.len() as i64)).map(drop);
    }
    file.write_all(bytes)
}

/// Takes a name away, whatever it is: a later entry counts, as everywhere with tar.
fn remove(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    if name.is_empty() || name == "." || name == ".." {
        bail!(outside(name.as_bytes()));
    }
    staging::remove_at(dir, name)
}

fn clear(dir: &OwnedFd) -> Result<()> {
    let mut list = nix::dir::Dir::from_fd(dir.try_clone()?)?;
    let names: Vec<_> = list.iter().flatten().map(|entry| entry.file_name().to_owned()).collect();
    for name in
        names.iter().map(|name| OsStr::from_bytes(name.to_bytes())).filter(|n| *n != "." && *n != "..")
    {
        remove(dir.as_fd(), name)?;
    }
    Ok(())
}

/// Owner first, as it clears set-id bits and capabilities; the time last, as all else changes it.
fn settle(fd: BorrowedFd<'_>, meta: &Meta) -> Result<()> {
    fchown(fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))?;
    fchmod(fd, Mode::from_bits_truncate(meta.mode))?;
    for (name, value) in &meta.xattrs {
        match sys::set_xattr(fd, name, value) {
            Err(Errno::EOPNOTSUPP) => {}
            done => done.with_context(|| format!("cannot set '{}'", name.to_string_lossy()))?,
        }
    }
    Ok(futimens(fd, &meta.time, &meta.time)?)
}

/// Owner and time of what cannot be opened.
fn stamp(dir: BorrowedFd<'_>, name: &OsStr, meta: &Meta) -> Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
    fchownat(dir, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(utimensat(dir, name, &meta.time, &meta.time, UtimensatFlags::NoFollowSymlink)?)
}

/// What the header says, and what a pax header before it says better.
fn meta(entry: &mut tar::Entry<'_, impl Read>) -> Result<Meta> {
    let header = entry.header();
    let number = |n: io::Result<u64>| {
        n.map_err(damaged).and_then(|n| u32::try_from(n).map_err(|e| damaged(io::Error::other(e))))
    };
    let mut meta = Meta {
        mode: header.mode().map_err(damaged)? & 0o7777,
        uid: number(header.uid())?,
        gid: number(header.gid())?,
        time: TimeSpec::new(header.mtime().map_err(damaged)? as i64, 0),
        xattrs: Vec::new(),
    };
    let Some(extensions) = entry.pax_extensions().map_err(damaged)? else { return Ok(meta) };
    for extension in extensions.flatten() {
        let (Ok(key), value) = (extension.key(), extension.value_bytes()) else { continue };
        let text = std::str::from_utf8(value).unwrap_or("");
        match key {
            "uid" => meta.uid = text.parse().unwrap_or(meta.uid),
            "gid" => meta.gid = text.parse().unwrap_or(meta.gid),
            "mtime" => meta.time = time(text).unwrap_or(meta.time),
            _ if key.starts_with("GNU.sparse.") => {
                bail!(
                    Kind::BadPackage.error("its holes are written in the pax form, which is not known here")
                )
            }
            _ => {
                let name = key.strip_prefix("SCHILY.xattr.").filter(|name| carried(name));
                if let Some(name) = name.and_then(|name| CString::new(name).ok()) {
                    meta.xattrs.push((name, value.to_vec()));
                }
            }
        }
    }
    Ok(meta)
}

/// "1700000000.25" as seconds and nanoseconds.
fn time(text: &str) -> Option<TimeSpec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some(TimeSpec::new(seconds.parse().ok()?, nanos.parse().ok()?))
}

fn path_of(bytes: &[u8]) -> Result<PathBuf> {
    inner_path(bytes).ok_or_else(|| outside(bytes))
}

fn outside(path: &[u8]) -> anyhow::Error {
    let shown = String::from_utf8_lossy(path);
    Kind::Hostile.error(format!("the archive has a path that leads out of the tree: '{shown}'"))
}

fn damaged(error: io::Error) -> anyhow::Error {
    Kind::BadPackage.because("the archive is damaged", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions() {
        assert_eq!(time("12.5"), Some(TimeSpec::new(12, 500_000_000)));
        assert_eq!(time("12"), Some(TimeSpec::new(12, 0)));
        assert_eq!(time("x"), None);
    }
}
