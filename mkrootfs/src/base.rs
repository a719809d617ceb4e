//! base: finished roots kept in the cache, so that the second bootstrap of the same set is a copy.
//!
//! `base/KEY` is a whole tree; KEY is the digest of all that decides what is in it. `request/KEY` is a link to it
//! by what was asked for and by the Release files: as long as these are the same, no index need be read. A tree
//! is not hashed again when it is used, as a package is. So bases are kept only where nobody else can write, and
//! a tree with secrets of its own (a host key) is not kept at all: two machines must not share one.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::fstat;
use nix::unistd::syncfs;

use crate::cache::Cache;
use crate::clone::Copy;
use crate::digest;
use crate::machine_id;
use crate::staging;
use crate::tree::Tree;

pub struct Bases {
    dir: PathBuf,
}

/// A base that nobody removes while this is held.
pub struct Base {
    path: PathBuf,
    _lock: Flock<File>,
}

/// A base that nobody finds yet.
pub struct Draft {
    partial: PathBuf,
    whole: PathBuf,
    mark: PathBuf,
    /// Held, so that nobody takes it for a killed run's.
    lock: Flock<File>,
}

/// A digest of lines, each of which says one thing that decides.
pub fn key<'l>(lines: impl IntoIterator<Item = &'l str>) -> String {
    let lines: Vec<&str> = lines.into_iter().collect();
    digest::sha256(lines.join("\n").as_bytes())
}

/// Makes the place for bases; false where somebody else could exchange what lies there.
pub fn is_private(cache: &Cache) -> Result<bool> {
    for part in ["base", "request"] {
        let path = cache.dir().join(part);
        // Old set-id programs lie in there: others must not get at them.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.with_context(|| format!("cannot make '{}'", path.display()))?;
        // Whoever made it.
        let _ = fs::set_permissions(&path, Permissions::from_mode(0o700));
    }
    let real = fs::canonicalize(cache.dir().join("base")).context("cannot find the cache")?;
    Ok(real.ancestors().all(only_ours))
}

impl Bases {
    pub fn open(cache: &Cache) -> Bases {
        Bases { dir: cache.dir().to_owned() }
    }

    /// The base that an earlier run has made for this request.
    pub fn asked_before(&self, request: &str) -> Option<Base> {
        let link = fs::read_link(self.dir.join("request").join(request)).ok()?;
        self.find(link.file_name()?.to_str()?)
    }

    pub fn find(&self, key: &str) -> Option<Base> {
        let path = self.dir.join("base").join(key);
        let dir = File::open(&path).ok()?;
        let lock = Flock::lock(dir, FlockArg::LockShared).ok()?;
        // It may have been removed before the lock was ours.
        let (there, here) = (fs::symlink_metadata(&path).ok()?, lock.metadata().ok()?);
        if there.ino() != here.ino() {
            return None;
        }
        // For 'cache prune': when it was used last. Its own time belongs to the tree.
        let _ = fs::write(self.mark(key), "");
        Some(Base { path, _lock: lock })
    }

    fn mark(&self, key: &str) -> PathBuf {
        self.dir.join("base").join(format!("{key}.used"))
    }

    /// Removes what killed runs have left.
    pub fn sweep(&self) {
        let entries = fs::read_dir(self.dir.join("base")).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().contains(".partial-")) {
            if let Ok(Some(_lock)) = is_free(&entry.path()) {
                let _ = staging::remove_tree(&entry.path());
            }
        }
    }

    /// Begins a base as a copy of a finished root; None when that has secrets.
    pub fn draft(&self, key: &str, root: &Path) -> Result<Option<Draft>> {
        if has_secrets(&Tree::open(root)?)? {
            return Ok(None);
        }
        let dir = self.dir.join("base");
        self.sweep();
        let (whole, partial) = (dir.join(key), dir.join(unique(key)));
        DirBuilder::new().mode(0o755).create(&partial)?;
        let lock = Flock::lock(File::open(&partial)?, FlockArg::LockShared).map_err(|(_, errno)| errno)?;
        let draft = Draft { whole, partial, mark: self.mark(key), lock };
        Copy::open(root, &draft.whole)?.make(&draft.partial)?;
        Ok(Some(draft))
    }
}

impl Draft {
    /// No base is looked at again: what has its name must be on the disk, as the file system of `written` is.
    pub fn keep(self, written: Option<&File>, request: Option<&str>) -> Result<()> {
        let device = |file: &File| fstat(file).map(|data| data.st_dev);
        if written.map(device).transpose()? != Some(device(&self.lock)?) {
            syncfs(&*self.lock).context("cannot write it to the disk")?;
        }
        match fs::rename(&self.partial, &self.whole) {
            // Another run has been faster: its base is as good.
            Err(_) if self.whole.is_dir() => {}
            done => done?,
        }
        let _ = fs::write(&self.mark, "");
        remember(&self.whole, request)
    }
}

/// What did not become a base is not left.
impl Drop for Draft {
    fn drop(&mut self) {
        let _ = staging::remove_tree(&self.partial);
    }
}

impl Base {
    /// Makes `root` a copy of it. The caller waits for the disk.
    pub fn copy_to(&self, root: &Path) -> Result<()> {
        Copy::open(&self.path, root)?.make(root)?;
        machine_id::renew(&Tree::open(root)?)
    }

    pub fn remember(&self, request: Option<&str>) -> Result<()> {
        remember(&self.path, request)
    }
}

/// From now on a base answers a request.
fn remember(base: &Path, request: Option<&str>) -> Result<()> {
    let (Some(request), Some(key), Some(cache)) = (request, base.file_name(), base.ancestors().nth(2)) else {
        return Ok(());
    };
    let dir = cache.join("request");
    let (link, aside) = (dir.join(request), dir.join(unique(request)));
    std::os::unix::fs::symlink(Path::new("../base").join(key), &aside)?;
    Ok(fs::rename(&aside, &link)?)
}

/// Owned by us or root, and nobody else may rename what lies in it.
fn only_ours(dir: &Path) -> bool {
    let us = nix::unistd::geteuid().as_raw();
    let sticky = |mode: u32| mode & 0o1000 != 0;
    fs::metadata(dir)
        .is_ok_and(|data| [0, us].contains(&data.uid()) && (data.mode() & 0o022 == 0 || sticky(data.mode())))
}

/// Files in /etc that not everybody may read were made for this root alone, but for the ones of passwords, which
/// are the same in all new roots.
fn has_secrets(tree: &Tree) -> Result<bool> {
    const COMMON: [&str; 6] = ["shadow", "shadow-", "gshadow", "gshadow-", ".pwd.lock", "passwd-"];
    let mut todo = vec![PathBuf::from("etc")];
    while let Some(dir) = todo.pop() {
        let fd = match tree.dir(&dir) {
            Err(Errno::ENOENT) => continue,
            fd => fd?,
        };
        let mut list = nix::dir::Dir::from_fd(fd)?;
        let entries: Vec<_> = list.iter().collect::<nix::Result<_>>()?;
        for entry in entries {
            let name = entry.file_name().to_str().unwrap_or("?");
            if name == "." || name == ".." {
                continue;
            }
            let data =
                nix::sys::stat::fstatat(&list, entry.file_name(), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?;
            match data.st_mode & libc::S_IFMT {
                libc::S_IFDIR => todo.push(dir.join(name)),
                libc::S_IFREG if data.st_mode & 0o004 == 0 && data.st_size > 0 => {
                    let common = dir == Path::new("etc") && COMMON.contains(&name);
                    if !common && !shipped(tree, &dir.join(name)) {
                        return Ok(true);
                    }
                }
                _ => {}
            }
        }
    }
    Ok(false)
}

/// Whether a package has brought this file: then it is the same everywhere.
fn shipped(tree: &Tree, path: &Path) -> bool {
    let line = format!("\n/{}\n", path.display());
    let Ok(fd) = tree.dir(Path::new("var/lib/dpkg/info")) else { return false };
    let Ok(mut list) = nix::dir::Dir::from_fd(fd) else { return false };
    let names: Vec<_> = list.iter().flatten().map(|entry| entry.file_name().to_owned()).collect();
    names.iter().filter_map(|name| name.to_str().ok()).filter(|name| name.ends_with(".list")).any(|name| {
        let text = tree.read(&format!("var/lib/dpkg/info/{name}")).unwrap_or_default();
        memchr::memmem::find(&text, line.as_bytes()).is_some()
    })
}

/// A name that no other run uses: pids repeat, as each run has a pid namespace of its own.
fn unique(stem: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    format!("{stem}.partial-{}-{now}", std::process::id())
}

/// Whether a directory of the cache is one that a killed run has left: nobody holds it.
pub fn is_free(path: &Path) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(File::open(path)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_with_every_line() {
        assert_eq!(key(["a", "b"]), key(["a", "b"]));
        assert_ne!(key(["a", "b"]), key(["ab"]));
        assert_ne!(key(["a", "b"]), key(["b", "a"]));
    }
}
