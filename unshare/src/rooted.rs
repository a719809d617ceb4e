//! rooted: paths of a tree that may be hostile, resolved so that they cannot lead out of it.
//!
//! openat2(2) with RESOLVE_IN_ROOT does it in one call; kernels before 5.6 get a walk by hand, one
//! component at a time and never through a link that the kernel would follow for us.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use nix::Result;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

/// Opens what is at `path` inside `root` as chroot would see it; absolute and relative paths mean the same.
/// Making is for `make_dirs` and `make_file`.
pub fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: Mode) -> Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(mode)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(root, path, how) {
        // ENOSYS: an old kernel. EPERM: an old seccomp filter around us. EAGAIN: somebody renames in the
        // tree while we look; the walk does not mind.
        Err(Errno::ENOSYS | Errno::EPERM | Errno::EAGAIN) => walk(root, path, flags, mode),
        done => done,
    }
}

/// A place to mount on.
pub fn open_path(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    open(root, path, OFlag::O_PATH, Mode::empty())
}

/// Of directories that are made by the way.
pub const USUAL: Mode = Mode::from_bits_truncate(0o755);

/// Makes the directory `path` and all above it, inside `root`, and opens it as a place to mount on.
pub fn make_dirs(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    make_dirs_with(root, path, USUAL)
}

/// As `make_dirs`; those that are made have this mode.
pub fn make_dirs_with(root: BorrowedFd<'_>, path: &Path, mode: Mode) -> Result<OwnedFd> {
    if let Ok(fd) = open(root, path, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()) {
        return Ok(fd);
    }
    let mut made = std::path::PathBuf::from("/");
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        let parent = open_path(root, &made)?;
        match mkdirat(parent.as_fd(), name, mode) {
            Ok(()) | Err(Errno::EEXIST) => made.push(name),
            Err(errno) => return Err(errno),
        }
    }
    open(root, &made, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())
}

/// Makes the empty file `path` inside `root` unless something is there, and opens it as a place to mount on.
/// Directories above it that are made have the mode `above`.
pub fn make_file(root: BorrowedFd<'_>, path: &Path, above: Mode) -> Result<OwnedFd> {
    match open_path(root, path) {
        Err(Errno::ENOENT) => {}
        done => return done,
    }
    let parent = make_dirs_with(root, path.parent().ok_or(Errno::EISDIR)?, above)?;
    let name = path.file_name().ok_or(Errno::EISDIR)?;
    // O_EXCL: a dangling link of this name is not followed.
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    openat(parent.as_fd(), name, flags, Mode::from_bits_truncate(0o644))?;
    openat(parent.as_fd(), name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

fn walk(root: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: Mode) -> Result<OwnedFd> {
    const LINKS_AT_MOST: usize = 40; // as the kernel
    let mut todo: VecDeque<OsString> = parts(path);
    let mut above: Vec<OwnedFd> = Vec::new(); // the way back: ".." is a pop, never a look-up
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            above.pop();
            continue;
        }
        let here = above.last().map_or(root, |fd| fd.as_fd());
        let last = todo.is_empty();
        let step = openat(
            here,
            name.as_os_str(),
            OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        let kind = SFlag::from_bits_truncate(fstat(step.as_fd())?.st_mode & SFlag::S_IFMT.bits());
        if kind != SFlag::S_IFLNK {
            if last && !flags.contains(OFlag::O_PATH) {
                return openat(here, name.as_os_str(), flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, mode);
            }
            if flags.contains(OFlag::O_DIRECTORY) && last && kind != SFlag::S_IFDIR {
                return Err(Errno::ENOTDIR);
            }
            above.push(step);
            continue;
        }
        if last && flags.contains(OFlag::O_NOFOLLOW) {
            return if flags.contains(OFlag::O_PATH) { Ok(step) } else { Err(Errno::ELOOP) };
        }
        links += 1;
        if links > LINKS_AT_MOST {
            return Err(Errno::ELOOP);
        }
        let target = readlinkat(here, name.as_os_str())?;
        if Path::new(&target).is_absolute() {
            above.clear();
        }
        for part in parts(Path::new(&target)).into_iter().rev() {
            todo.push_front(part);
        }
    }
    match above.pop() {
        Some(fd) if flags.contains(OFlag::O_PATH) => Ok(fd),
        Some(fd) => openat(fd.as_fd(), ".", flags | OFlag::O_CLOEXEC, mode),
        None => openat(root, ".", flags | OFlag::O_CLOEXEC, mode),
    }
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt, symlink};

    /// A tree with links that try to lead out, and what each path must end at.
    #[test]
    fn links_end_inside_by_both_ways() {
        let top = std::env::temp_dir().join(format!("rooted-{}", std::process::id()));
        let tree = top.join("tree");
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("etc/name"), "inside").unwrap();
        fs::create_dir_all(top.join("etc")).unwrap();
        fs::write(top.join("etc/name"), "outside").unwrap();
        symlink("/etc", tree.join("absolute")).unwrap();
        symlink("../../../etc", tree.join("relative")).unwrap();
        symlink("loop", tree.join("loop")).unwrap();
        let inside = fs::metadata(tree.join("etc/name")).unwrap().ino();
        let root = File::open(&tree).unwrap();
        type Open = fn(BorrowedFd<'_>, &Path, OFlag, Mode) -> Result<OwnedFd>;
        for open in [open as Open, walk as Open] {
            for path in
                ["etc/name", "/etc/name", "../etc/name", "absolute/name", "/relative/name", "etc/../etc/name"]
            {
                let fd = open(root.as_fd(), Path::new(path), OFlag::O_PATH, Mode::empty()).unwrap();
                assert_eq!(fstat(fd.as_fd()).unwrap().st_ino, inside, "{path}");
            }
            let fails =
                |path: &str, flags| open(root.as_fd(), Path::new(path), flags, Mode::empty()).unwrap_err();
            assert_eq!(fails("loop", OFlag::O_PATH), Errno::ELOOP);
            assert_eq!(fails("none", OFlag::O_PATH), Errno::ENOENT);
            assert_eq!(fails("etc/name", OFlag::O_PATH | OFlag::O_DIRECTORY), Errno::ENOTDIR);
        }
        fs::remove_dir_all(&top).unwrap();
    }
}
