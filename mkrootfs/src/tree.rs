//! tree: the root that is being made. Packages are not trusted to leave its paths alone: every path is
//! resolved inside it (openat2(2) RESOLVE_IN_ROOT), whatever links lie in it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, fstatat, makedev, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};
use unshare::rooted;

pub struct Tree {
    root: OwnedFd,
}

impl Tree {
    pub fn open(path: &Path) -> Result<Tree> {
        let root = File::open(path).with_context(|| format!("cannot open '{}'", path.display()))?;
        Ok(Tree { root: root.into() })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// An existing directory.
    pub fn dir(&self, path: &Path) -> nix::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        rooted::open(self.fd(), path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())
    }

    /// A directory that is made, with all above it, when it is missing.
    pub fn make_dir(&self, path: &str) -> Result<OwnedFd> {
        let made = rooted::make_dirs(self.fd(), Path::new(path)).and_then(|_| self.dir(Path::new(path)));
        made.with_context(|| format!("cannot make the directory '/{path}'"))
    }

    /// Writes a file of that mode, in place of what is there.
    pub fn write(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let (dir, name) = self.place(path)?;
        write_at(dir.as_fd(), name, bytes, mode).with_context(|| format!("cannot write '/{path}'"))
    }

    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let fd = rooted::open(self.fd(), Path::new(path), OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty())
            .ok()?;
        let mut bytes = Vec::new();
        File::from(fd).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Whether a name at the top of the tree is a symbolic link.
    pub fn is_link(&self, name: &str) -> bool {
        fstatat(self.fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFLNK.bits())
    }

    /// Whether the name itself is a file, and no link to one.
    pub fn is_file(&self, path: &str) -> bool {
        let Ok((dir, name)) = self.place(path) else { return false };
        fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits())
    }

    pub fn is_device(&self, path: &str) -> bool {
        rooted::open_path(self.fd(), Path::new(path))
            .and_then(fstat)
            .is_ok_and(|stat| stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits())
    }

    pub fn remove(&self, path: &str) -> Result<()> {
        let (dir, name) = self.place(path)?;
        match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno).with_context(|| format!("cannot remove '/{path}'")),
        }
    }

    pub fn symlink(&self, target: &str, path: &str) -> Result<()> {
        let (dir, name) = self.place(path)?;
        symlinkat(target, dir, name).with_context(|| format!("cannot make the link '/{path}'"))
    }

    pub fn device(&self, path: &str, mode: u32, number: (u64, u64)) -> Result<()> {
        let (dir, name) = self.place(path)?;
        mknodat(
            dir.as_fd(),
            name,
            SFlag::S_IFCHR,
            Mode::from_bits_truncate(mode),
            makedev(number.0, number.1),
        )
        .and_then(|()| chmod_at(dir.as_fd(), name, mode))
        .with_context(|| format!("cannot make the device '/{path}'"))
    }

    /// The directory that `path` lies in, and its name there.
    fn place<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p OsStr)> {
        let path = Path::new(path);
        let parent = path.parent().unwrap_or(Path::new(""));
        let dir = self.dir(parent).with_context(|| format!("cannot open '/{}'", parent.display()))?;
        Ok((dir, path.file_name().expect("the paths that are written here have a name")))
    }
}

pub fn write_at(dir: BorrowedFd<'_>, name: &OsStr, bytes: &[u8], mode: u32) -> Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(mode);
    let mut file = File::from(openat(dir, name, flags, mode)?);
    file.write_all(bytes)?;
    fchmod(&file, mode)?;
    Ok(())
}

fn chmod_at(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> nix::Result<()> {
    let mode = Mode::from_bits_truncate(mode);
    nix::sys::stat::fchmodat(dir, name, mode, nix::sys::stat::FchmodatFlags::FollowSymlink)
}

/// The directories that must be there before the first package, and the links of a merged /usr.
pub fn lay_out(tree: &Tree, arch: &str, merged: bool) -> Result<()> {
    mkdirat(tree.fd(), "usr", Mode::from_bits_truncate(0o755)).context("cannot make '/usr'")?;
    for name in ["bin", "sbin", "lib"].iter().chain(library_dirs(arch)).filter(|_| merged) {
        tree.make_dir(&format!("usr/{name}"))?;
        tree.symlink(&format!("usr/{name}"), name)?;
    }
    for name in ["info", "alternatives", "parts", "triggers", "updates"] {
        tree.make_dir(&format!("var/lib/dpkg/{name}"))?;
    }
    Ok(())
}

/// Takes the links away that no package has put anything behind.
pub fn prune(tree: &Tree, arch: &str) -> Result<()> {
    for name in library_dirs(arch) {
        let usr = tree.make_dir("usr")?;
        match unlinkat(&usr, *name, UnlinkatFlags::RemoveDir) {
            Ok(()) => tree.remove(name)?,
            Err(Errno::ENOTEMPTY | Errno::ENOENT) => {}
            Err(errno) => return Err(errno).with_context(|| format!("cannot remove '/usr/{name}'")),
        }
    }
    Ok(())
}

/// What else libc6 and its kin may put beside /lib.
fn library_dirs(arch: &str) -> &'static [&'static str] {
    match arch {
        "amd64" => &["lib32", "lib64", "libx32"],
        "i386" => &["lib64", "libx32"],
        "mips64el" => &["lib32", "lib64", "libo32"],
        "ppc64el" | "loong64" => &["lib64"],
        "s390x" => &["lib32"],
        _ => &[],
    }
}

/// Character devices by path, mode and number.
#[rustfmt::skip]
pub const NODES: [(&str, u32, (u64, u64)); 8] = [
    ("dev/null", 0o666, (1, 3)), ("dev/zero", 0o666, (1, 5)), ("dev/full", 0o666, (1, 7)),
    ("dev/random", 0o666, (1, 8)), ("dev/urandom", 0o666, (1, 9)), ("dev/tty", 0o666, (5, 0)),
    ("dev/console", 0o666, (5, 1)), ("dev/ptmx", 0o666, (5, 2)),
];

/// What every program expects in /dev before anybody mounts one there. Where devices cannot be made, empty files
/// stand in their places: to mount on, and for a tar file to have devices there.
pub fn make_devices(tree: &Tree, can: bool) -> Result<()> {
    const LINKS: [(&str, &str); 4] = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    for dir in ["dev/pts", "dev/shm"] {
        tree.make_dir(dir)?;
    }
    for (path, mode, number) in NODES {
        if can {
            tree.device(path, mode, number)?;
        } else {
            tree.write(path, b"", mode)?;
        }
    }
    for (name, target) in LINKS {
        tree.symlink(target, &format!("dev/{name}"))?;
    }
    Ok(())
}

/// The path of a tar entry as one below the root; None when it tries to be something else.
pub fn inner_path(bytes: &[u8]) -> Option<PathBuf> {
    if bytes.starts_with(b"/") {
        return None;
    }
    let mut path = PathBuf::new();
    for part in bytes.split(|c| *c == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return None,
            name if name.contains(&0) => return None,
            name => path.push(OsStr::from_bytes(name)),
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_packages_stay_below_the_root() {
        let inner = |text: &[u8]| inner_path(text).map(|path| path.to_str().unwrap().to_owned());
        assert_eq!(inner(b"./usr/bin/").as_deref(), Some("usr/bin"));
        assert_eq!(inner(b"./").as_deref(), Some(""));
        assert_eq!(inner(b"a//b/./c").as_deref(), Some("a/b/c"));
        for bad in [&b"/etc/passwd"[..], b"../x", b"./a/../../x", b"a/..", b"a\0b"] {
            assert_eq!(inner(bad), None);
        }
    }
}
