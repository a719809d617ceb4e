//! pack: a tree as a tar stream (tar(5), POSIX pax), the same bytes for the same tree: names in order, numbers
//! for owners, times in whole seconds and none after SOURCE_DATE_EPOCH.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use tar::{EntryType, Header};

use crate::sys;
use crate::tree;
use crate::trouble::Kind;

const OPEN: OFlag = OFlag::O_RDONLY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC).union(OFlag::O_NONBLOCK);

struct Packer<W: Write> {
    out: tar::Builder<W>,
    /// Times after this are this.
    latest: Option<i64>,
    mount: u64,
    /// Empty files in the places of devices are packed as devices.
    stand_ins: bool,
    /// The first name of files with several.
    links: HashMap<(u64, u64), PathBuf>,
}

/// Writes the tree below `root`; what is mounted in it is not part of it, sockets are left out.
pub fn pack(root: &Path, stand_ins: bool, out: impl Write) -> Result<()> {
    let failed = || format!("cannot pack '{}'", root.display());
    let dir: OwnedFd =
        openat(nix::fcntl::AT_FDCWD, root, OPEN | OFlag::O_DIRECTORY, Mode::empty()).with_context(failed)?;
    let stat = fstat(&dir)?;
    let mut packer = Packer {
        out: tar::Builder::new(out),
        latest: epoch()?,
        mount: sys::mount_id(dir.as_fd())?,
        stand_ins,
        links: HashMap::new(),
    };
    packer.directory(dir, Path::new(""), &stat).with_context(failed)?;
    packer.out.into_inner().and_then(|mut out| out.flush()).with_context(failed)
}

/// SOURCE_DATE_EPOCH (reproducible-builds.org), in seconds since 1970.
pub fn epoch() -> Result<Option<i64>> {
    match std::env::var_os("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => {
            let number = text.to_str().and_then(|text| text.parse().ok());
            let shown = text.to_string_lossy();
            number
                .map(Some)
                .ok_or_else(|| Kind::Asked.error(format!("SOURCE_DATE_EPOCH is no number: '{shown}'")))
        }
    }
}

impl<W: Write> Packer<W> {
    fn directory(&mut self, dir: OwnedFd, path: &Path, stat: &FileStat) -> Result<()> {
        let mut header = self.header(stat, EntryType::Directory);
        self.xattrs(dir.as_fd())?;
        let mut name = Path::new(".").join(path).into_os_string();
        name.push("/");
        self.put(&mut header, &name, None, std::io::empty(), 0)?;
        if sys::mount_id(dir.as_fd())? != self.mount {
            return Ok(());
        }
        let mut list = Dir::from_fd(dir.try_clone()?)?;
        let mut names: Vec<OsString> = Vec::new();
        for entry in list.iter() {
            names.push(OsString::from_vec(entry?.file_name().to_bytes().to_vec()));
        }
        names.retain(|name| name != "." && name != "..");
        names.sort();
        for name in names {
            let path = path.join(&name);
            self.entry(dir.as_fd(), &name, &path).with_context(|| format!("'/{}'", path.display()))?;
        }
        Ok(())
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<()> {
        let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let kind = stat.st_mode & libc::S_IFMT;
        let full = Path::new(".").join(path).into_os_string();
        if kind != libc::S_IFDIR && kind != libc::S_IFSOCK && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                let first = Path::new(".").join(first).into_os_string();
                let mut header = self.header(&stat, EntryType::Link);
                return self.put(&mut header, &full, Some(&first), std::io::empty(), 0);
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_owned());
        }
        match kind {
            libc::S_IFDIR => {
                let dir = openat(dir, name, OPEN | OFlag::O_DIRECTORY, Mode::empty())?;
                let stat = fstat(&dir)?;
                self.directory(dir, path, &stat)
            }
            libc::S_IFREG if self.stand_ins && stat.st_size == 0 && device_of(path).is_some() => {
                let (major, minor) = device_of(path).unwrap_or_default();
                let mut header = self.header(&stat, EntryType::Char);
                header.set_device_major(major as u32)?;
                header.set_device_minor(minor as u32)?;
                self.put(&mut header, &full, None, std::io::empty(), 0)
            }
            libc::S_IFREG => self.file(dir, name, &full),
            libc::S_IFLNK => {
                let target = readlinkat(dir, name)?;
                let mut header = self.header(&stat, EntryType::Symlink);
                self.put(&mut header, &full, Some(&target), std::io::empty(), 0)
            }
            libc::S_IFCHR | libc::S_IFBLK => {
                let kind = if kind == libc::S_IFCHR { EntryType::Char } else { EntryType::Block };
                let mut header = self.header(&stat, kind);
                header.set_device_major(nix::sys::stat::major(stat.st_rdev) as u32)?;
                header.set_device_minor(nix::sys::stat::minor(stat.st_rdev) as u32)?;
                self.put(&mut header, &full, None, std::io::empty(), 0)
            }
            libc::S_IFIFO => {
                let mut header = self.header(&stat, EntryType::Fifo);
                self.put(&mut header, &full, None, std::io::empty(), 0)
            }
            // A socket is nothing without the process that listens.
            _ => Ok(()),
        }
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &OsStr, full: &OsStr) -> Result<()> {
        let file = File::from(openat(dir, name, OPEN, Mode::empty())?);
        let stat = fstat(&file)?;
        // A file may be a place to mount on as well.
        let same = sys::mount_id(file.as_fd())? == self.mount;
        let size = if same { stat.st_size as u64 } else { 0 };
        let mut header = self.header(&stat, EntryType::Regular);
        self.xattrs(file.as_fd())?;
        // One that grows meanwhile is packed as it was; one that shrinks breaks the archive and is an error.
        let mut content = file.take(size);
        self.put(&mut header, full, None, &mut content, size)?;
        match content.limit() {
            0 => Ok(()),
            _ => Err(anyhow!("it has become shorter while it was read")),
        }
    }

    fn header(&self, stat: &FileStat, kind: EntryType) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(u64::from(stat.st_uid));
        header.set_gid(u64::from(stat.st_gid));
        let time = self.latest.map_or(stat.st_mtime, |latest| stat.st_mtime.min(latest));
        header.set_mtime(time.max(0) as u64);
        header
    }

    fn put(
        &mut self,
        header: &mut Header,
        name: &OsStr,
        target: Option<&OsStr>,
        content: impl Read,
        size: u64,
    ) -> Result<()> {
        header.set_size(size);
        if let Some(target) = target {
            self.long(b'K', target.as_bytes())?;
            fit(&mut header.as_old_mut().linkname, target.as_bytes());
        }
        self.long(b'L', name.as_bytes())?;
        fit(&mut header.as_old_mut().name, name.as_bytes());
        header.set_cksum();
        Ok(self.out.append(header, content)?)
    }

    /// A name that does not fit into the header goes before it (GNU tar's way).
    fn long(&mut self, kind: u8, name: &[u8]) -> Result<()> {
        if name.len() <= 100 {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        fit(&mut header.as_old_mut().name, b"././@LongLink");
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(name.len() as u64 + 1);
        header.set_entry_type(EntryType::new(kind));
        header.set_cksum();
        Ok(self.out.append(&header, name.chain(&[0][..]))?)
    }

    fn xattrs(&mut self, fd: BorrowedFd<'_>) -> Result<()> {
        let mut found = match sys::xattrs(fd) {
            Err(Errno::EOPNOTSUPP) => return Ok(()),
            found => found?,
        };
        found.sort();
        let named: Vec<(String, Vec<u8>)> = found
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| carried(name))
            .map(|(name, value)| (format!("SCHILY.xattr.{name}"), value))
            .collect();
        let pairs = named.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        match named.is_empty() {
            true => Ok(()),
            false => Ok(self.out.append_pax_extensions(pairs)?),
        }
    }
}

fn device_of(path: &Path) -> Option<(u64, u64)> {
    tree::NODES.iter().find(|(node, ..)| path == Path::new(node)).map(|(.., number)| *number)
}

/// Attributes that belong to the tree, not to the machine: labels and an overlay's notes stay where they are.
pub fn carried(name: &str) -> bool {
    name.starts_with("user.") || name.starts_with("system.posix_acl_") || name == "security.capability"
}

fn fit(field: &mut [u8], bytes: &[u8]) {
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
}
