//! unpack: a package's tree into the root (tar(5)); many at once.
//!
//! Packages share directories, and threads must not decide whose mode a directory gets: files are unpacked in
//! any order, the directories' metadata are set afterwards in the order of the packages, the first one wins.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, symlinkat};
use tar::EntryType;
use unshare::rooted;

use crate::deb::Deb;
use crate::digest;
use crate::tree::{Tree, inner_path};
use crate::trouble::Kind;

/// What dpkg's data base is to know about an unpacked package.
#[derive(Default)]
pub struct Unpacked {
    /// Every path of the package in its order, as dpkg writes them.
    pub list: Vec<u8>,
    /// MD5 by path, for the files that are configuration.
    pub conffiles: HashMap<String, String>,
    directories: Vec<(PathBuf, Meta)>,
    /// Files that another package had put there before.
    pub taken: Vec<PathBuf>,
}

#[derive(Clone, Copy)]
struct Meta {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
}

struct Unpacker<'t> {
    tree: &'t Tree,
    conffiles: HashSet<String>,
    /// The directory of the last entry: the next one mostly lies there too.
    parent: Option<(PathBuf, OwnedFd)>,
    links: Vec<(PathBuf, PathBuf)>,
    done: Unpacked,
    buffer: Vec<u8>,
    /// Only these, in place of what is there (a package that replaces another's files).
    only: Option<&'t HashSet<PathBuf>>,
}

pub fn unpack(tree: &Tree, deb: &Deb) -> Result<Unpacked> {
    run(tree, deb, None)
}

/// Puts some files of a package in the place of another package's.
pub fn replace(tree: &Tree, deb: &Deb, only: &HashSet<PathBuf>) -> Result<()> {
    run(tree, deb, Some(only)).map(drop)
}

fn run(tree: &Tree, deb: &Deb, only: Option<&HashSet<PathBuf>>) -> Result<Unpacked> {
    let conffiles = deb.text("conffiles").lines().map(|line| line.trim().to_owned()).collect();
    let mut unpacker = Unpacker {
        tree,
        conffiles,
        parent: None,
        links: Vec::new(),
        done: Unpacked::default(),
        buffer: vec![0; 128 << 10],
        only,
    };
    let damaged = |error| Kind::BadPackage.because("its tree is damaged", error);
    let mut archive = tar::Archive::new(deb.data()?);
    for entry in archive.entries().map_err(damaged)? {
        unpacker.entry(entry.map_err(damaged)?)?;
    }
    unpacker.link_all()?;
    Ok(unpacker.done)
}

impl Unpacker<'_> {
    fn entry(&mut self, mut entry: tar::Entry<'_, impl Read>) -> Result<()> {
        let bytes = entry.path_bytes().into_owned();
        let Some(path) = inner_path(&bytes) else { bail!(outside(&bytes)) };
        let meta = meta(entry.header())?;
        self.note(&path);
        if self.only.is_some_and(|only| !only.contains(&path)) {
            return Ok(());
        }
        match entry.header().entry_type() {
            EntryType::Directory => self.directory(path, meta),
            EntryType::Regular | EntryType::Continuous => self
                .file(&path, meta, &mut entry)
                .map_err(|e| e.context(format!("cannot unpack '/{}'", path.display()))),
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.symlink(&path, meta, &target)
                    .with_context(|| format!("cannot make the link '/{}'", path.display()))
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let Some(target) = inner_path(&target) else { bail!(outside(&target)) };
                self.links.push((target, path));
                Ok(())
            }
            // Debian Policy 10.6: packages bring no devices; their scripts make what must be.
            other => bail!(
                Kind::BadPackage
                    .error(format!("'/{}' is of type {other:?}, which no package may bring", path.display()))
            ),
        }
    }

    fn note(&mut self, path: &Path) {
        self.done.list.push(b'/');
        let bytes = path.as_os_str().as_bytes();
        self.done.list.extend_from_slice(if bytes.is_empty() { b"." } else { bytes });
        self.done.list.push(b'\n');
    }

    fn directory(&mut self, path: PathBuf, meta: Meta) -> Result<()> {
        if let Some(name) = path.file_name() {
            let name = name.to_owned();
            let parent = self.parent(&path)?;
            match mkdirat(parent, name.as_os_str(), Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => {
                    return Err(errno).with_context(|| format!("cannot make '/{}'", path.display()));
                }
            }
        }
        self.done.directories.push((path, meta));
        Ok(())
    }

    fn file(&mut self, path: &Path, meta: Meta, content: &mut impl Read) -> Result<()> {
        let Some(name) = path.file_name() else { bail!("the root is not a file") };
        let only = self.only.is_some();
        let parent = self.parent(path)?;
        if only {
            let _ = nix::unistd::unlinkat(parent, name, nix::unistd::UnlinkatFlags::NoRemoveDir);
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = match openat(parent, name, flags, Mode::from_bits_truncate(meta.mode & 0o755)) {
            Ok(fd) => File::from(fd),
            Err(Errno::EEXIST) => {
                self.done.taken.push(path.to_owned());
                return Ok(());
            }
            Err(errno) => return Err(errno.into()),
        };
        let absolute =
            path.to_str().map(|path| format!("/{path}")).filter(|path| self.conffiles.contains(path));
        let mut kept = Vec::new();
        loop {
            let count = content
                .read(&mut self.buffer)
                .map_err(|e| Kind::BadPackage.because("its tree is damaged", e))?;
            if count == 0 {
                break;
            }
            file.write_all(&self.buffer[..count])?;
            if absolute.is_some() {
                kept.extend_from_slice(&self.buffer[..count]);
            }
        }
        if let Some(path) = absolute {
            self.done.conffiles.insert(path, digest::md5(&kept));
        }
        // Owner first: chown clears the set-id bits.
        if (meta.uid, meta.gid) != (0, 0) {
            fchown(&file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))?;
        }
        if meta.mode & !0o755 != 0 {
            fchmod(&file, Mode::from_bits_truncate(meta.mode))?;
        }
        let time = TimeSpec::new(meta.mtime, 0);
        Ok(futimens(&file, &time, &time)?)
    }

    fn symlink(&mut self, path: &Path, meta: Meta, target: &[u8]) -> Result<()> {
        let Some(name) = path.file_name() else { bail!("the root is not a link") };
        let target = std::ffi::OsStr::from_bytes(target);
        let parent = self.parent(path)?;
        match symlinkat(target, parent, name) {
            Ok(()) => {}
            Err(Errno::EEXIST) => {
                let there = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                let directory = there.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
                // The same link, or a directory where the package thinks of a link to one: both stay (dpkg).
                if !directory && readlinkat(parent, name).ok().as_deref() != Some(target) {
                    self.done.taken.push(path.to_owned());
                    return Ok(());
                }
                if directory {
                    return Ok(());
                }
            }
            Err(errno) => return Err(errno.into()),
        }
        if (meta.uid, meta.gid) != (0, 0) {
            let (uid, gid) = (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
            fchownat(parent, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        let time = TimeSpec::new(meta.mtime, 0);
        Ok(utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)?)
    }

    /// Hard links, when all that they can point to is there.
    fn link_all(&mut self) -> Result<()> {
        for (target, path) in std::mem::take(&mut self.links) {
            let from = self.parent(&target)?.try_clone_to_owned()?;
            let to = self.parent(&path)?;
            let names = target.file_name().zip(path.file_name());
            let (target_name, name) = names.context("a link needs two names")?;
            match linkat(from, target_name, to, name, AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::EEXIST) => self.done.taken.push(path),
                Err(Errno::ENOENT) => {
                    let text = format!(
                        "'/{}' is a link to '/{}', which is missing",
                        path.display(),
                        target.display()
                    );
                    bail!(Kind::BadPackage.error(text));
                }
                Err(errno) => {
                    return Err(errno).with_context(|| format!("cannot make the link '/{}'", path.display()));
                }
            }
        }
        Ok(())
    }

    /// The directory in which `path` lies.
    fn parent(&mut self, path: &Path) -> Result<std::os::fd::BorrowedFd<'_>> {
        let dir = path.parent().unwrap_or(Path::new(""));
        if self.parent.as_ref().is_none_or(|(last, _)| last != dir) {
            let opened = match self.tree.dir(dir) {
                Err(Errno::ENOENT) => rooted::make_dirs(self.tree.fd(), dir).and_then(|_| self.tree.dir(dir)),
                done => done,
            };
            let opened = opened.with_context(|| format!("cannot open '/{}'", dir.display()))?;
            self.parent = Some((dir.to_owned(), opened));
        }
        Ok(self.parent.as_ref().expect("it was set above").1.as_fd())
    }
}

fn meta(header: &tar::Header) -> Result<Meta> {
    let read = || -> std::io::Result<Meta> {
        let number = |n: u64| u32::try_from(n).map_err(std::io::Error::other);
        Ok(Meta {
            mode: header.mode()? & 0o7777,
            uid: number(header.uid()?)?,
            gid: number(header.gid()?)?,
            mtime: i64::try_from(header.mtime()?).map_err(std::io::Error::other)?,
        })
    };
    read().map_err(|e| Kind::BadPackage.because("its tree is damaged", e))
}

fn outside(path: &[u8]) -> anyhow::Error {
    Kind::BadPackage
        .error(format!("it has a path that leads out of the tree: '{}'", String::from_utf8_lossy(path)))
}

/// Mode, owner and time of all directories, the first package that has one deciding.
pub fn settle_directories<'u>(tree: &Tree, packages: impl Iterator<Item = &'u Unpacked>) -> Result<()> {
    let mut seen = HashSet::new();
    for (path, meta) in packages.flat_map(|unpacked| &unpacked.directories) {
        let set = || -> nix::Result<()> {
            let dir = tree.dir(path)?;
            // One directory may be known by two paths: /lib/x and /usr/lib/x.
            if !seen.insert(fstat(&dir)?.st_ino) {
                return Ok(());
            }
            fchown(&dir, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))?;
            fchmod(&dir, Mode::from_bits_truncate(meta.mode))?;
            let time = TimeSpec::new(meta.mtime, 0);
            futimens(&dir, &time, &time)
        };
        let mut set = set;
        set().with_context(|| format!("cannot set the mode of '/{}'", path.display()))?;
    }
    Ok(())
}
