//! cache: verified downloads by their SHA-256, safe for any number of runs at once.
//!
//! `sha256/ab/abcd…` is whole and right: it is renamed there from `partial/abcd…`, which the one run that
//! downloads it holds locked (flock(2)). A run that is killed leaves the partial file, without a lock, for
//! the next to go on with. Nothing here is trusted: every file is hashed again when it is used.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::time::TimeSpec;

use crate::digest;

pub struct Cache {
    dir: PathBuf,
}

/// The right to download one file.
pub struct Claim {
    pub file: Flock<File>,
    partial: PathBuf,
    whole: PathBuf,
}

impl Cache {
    pub fn open(asked: Option<&Path>) -> Result<Cache> {
        let dir = match asked {
            Some(dir) => dir.to_owned(),
            None => default_dir(),
        };
        let dir = std::path::absolute(&dir).unwrap_or(dir);
        for part in ["sha256", "partial", "release"] {
            let path = dir.join(part);
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot make the cache '{}'", path.display()))?;
        }
        Ok(Cache { dir })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn whole(&self, sha256: &str) -> PathBuf {
        self.dir.join("sha256").join(&sha256[..2]).join(sha256)
    }

    pub fn has(&self, sha256: &str, size: u64) -> bool {
        fs::metadata(self.whole(sha256)).is_ok_and(|file| file.len() == size)
    }

    /// The file's bytes, if they are here and still the right ones.
    pub fn read(&self, sha256: &str) -> Option<Vec<u8>> {
        let path = self.whole(sha256);
        let mut file = File::open(&path).ok()?;
        let mut bytes = Vec::with_capacity(file.metadata().map_or(0, |data| data.len() as usize));
        file.read_to_end(&mut bytes).ok()?;
        if digest::sha256(&bytes) == sha256 {
            // For 'cache prune': when it was used last. Who may only read the cache leaves it as it is.
            let _ = nix::sys::stat::futimens(&file, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW);
            return Some(bytes);
        }
        // A bad disk, or somebody's hand: away with it, so that it is downloaded again.
        let _ = fs::remove_file(&path);
        None
    }

    /// Waits until no other run downloads this file; None when it is here by then.
    pub fn claim(&self, sha256: &str, size: u64) -> Result<Option<Claim>> {
        let (partial, whole) = (self.dir.join("partial").join(sha256), self.whole(sha256));
        loop {
            if self.has(sha256, size) {
                return Ok(None);
            }
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&partial);
            let file = file.with_context(|| format!("cannot write '{}'", partial.display()))?;
            let file = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, errno)| anyhow!("cannot lock '{}': {errno}", partial.display()))?;
            // The run that held the lock may have renamed the file: then this lock is on the past.
            let same = |there: fs::Metadata| file.metadata().is_ok_and(|here| here.ino() == there.ino());
            if fs::metadata(&partial).is_ok_and(same) {
                return Ok(Some(Claim { file, partial, whole }));
            }
        }
    }

    /// Puts in what was computed from verified files and what the signed index has a digest of.
    pub fn put(&self, sha256: &str, bytes: &[u8]) -> Result<()> {
        use std::io::Write;
        let Some(claim) = self.claim(sha256, bytes.len() as u64)? else { return Ok(()) };
        let mut file: &File = &claim.file;
        file.set_len(0).and_then(|()| file.write_all(bytes)).context("cannot write to the cache")?;
        claim.keep()
    }

    /// Where the last Release file of a suite is kept for --offline.
    fn release(&self, url: &str) -> PathBuf {
        self.dir.join("release").join(digest::sha256(url.as_bytes()))
    }

    pub fn read_release(&self, url: &str) -> Option<Vec<u8>> {
        fs::read(self.release(url)).ok()
    }

    pub fn put_release(&self, url: &str, bytes: &[u8]) -> Result<()> {
        let (path, aside) = (self.release(url), self.release(&format!("{url} {}", std::process::id())));
        // The supervisor's pid namespace is fresh in every run: the name must differ by more than the pid.
        let aside =
            aside.with_extension(format!("{:?}", std::time::SystemTime::now()).replace([' ', '{', '}'], ""));
        fs::write(&aside, bytes)
            .and_then(|()| fs::rename(&aside, &path))
            .with_context(|| format!("cannot write '{}'", path.display()))
    }
}

impl Claim {
    /// The download is whole and right.
    pub fn keep(self) -> Result<()> {
        let dir = self.whole.parent().expect("it lies in a directory of the cache");
        fs::create_dir_all(dir)
            .and_then(|()| fs::rename(&self.partial, &self.whole))
            .with_context(|| format!("cannot write '{}'", self.whole.display()))
    }
}

/// $XDG_CACHE_HOME/slipway or ~/.cache/slipway (XDG Base Directory Specification).
fn default_dir() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    dir_of(absolute("XDG_CACHE_HOME"), absolute("HOME"))
}

/// A job without a home still has a place that is its own; and system users have a home that must not be there.
fn dir_of(cache: Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    let home = home.filter(|home| home.is_dir()).map(|home| home.join(".cache"));
    cache.or(home).unwrap_or_else(|| PathBuf::from("/var/cache")).join("slipway")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_in_a_home_that_is_there() {
        let of = |cache: Option<&str>, home: Option<&str>| {
            dir_of(cache.map(PathBuf::from), home.map(PathBuf::from))
        };
        assert_eq!(of(Some("/c"), Some("/tmp")), Path::new("/c/slipway"));
        assert_eq!(of(None, Some("/tmp")), Path::new("/tmp/.cache/slipway"));
        assert_eq!(of(None, Some("/nonexistent")), Path::new("/var/cache/slipway"));
        assert_eq!(of(None, None), Path::new("/var/cache/slipway"));
    }
}
