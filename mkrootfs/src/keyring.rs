//! keyring: whose signatures count: the user's own file, else the host's keyrings of the suite's vendor, else, for
//! Debian, the keys that came with this program (mkrootfs/keys).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;

use crate::cli::Options;
use crate::suite::{Facts, Family};
use crate::trouble::Kind;

const BUILT_IN: &[u8] = include_bytes!("../keys/debian-archive-keyring.pgp");

const HOSTS: &str = "/usr/share/keyrings";

/// Keyring files, and the package that would bring the first.
pub struct Keyrings {
    files: Vec<PathBuf>,
    package: &'static str,
    /// Where the host has none of them, these count.
    instead: Option<&'static [u8]>,
}

/// What the user names, else what the suite's family has.
pub fn keyrings(options: &Options, facts: &Facts) -> Keyrings {
    let files = match &options.keyring {
        Some(keyring) => vec![keyring.clone()],
        None => facts.keyrings().iter().map(|name| of_host(Path::new(HOSTS), name)).collect(),
    };
    let debian = facts.family == Family::Debian && !facts.old_keys && options.keyring.is_none();
    Keyrings { files, package: facts.keyring_package(), instead: debian.then_some(BUILT_IN) }
}

/// Packages have begun to call the files by another ending.
fn of_host(dir: &Path, name: &str) -> PathBuf {
    let newer = dir.join(name).with_extension("pgp");
    if newer.exists() { newer } else { dir.join(name).with_extension("gpg") }
}

impl Keyrings {
    /// The host has none: what came with this program is used.
    pub fn are_built_in(&self) -> bool {
        self.instead.is_some() && self.files.iter().all(|file| is_missing(file))
    }

    /// Those that are there, by absolute paths; one is enough. `scratch` has room for the built-in one.
    pub fn open(&self, scratch: &Path) -> Result<Vec<PathBuf>> {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        if let Some(keys) = self.instead.filter(|_| self.are_built_in()) {
            let file = scratch.join("debian-archive-keyring.pgp");
            fs::write(&file, keys).with_context(|| format!("cannot write '{}'", file.display()))?;
            return Ok(vec![absolute(&file)]);
        }
        let mut found = Vec::new();
        let mut failure = None;
        for keyring in &self.files {
            match fs::File::open(keyring) {
                Ok(_) => found.push(absolute(keyring)),
                Err(error) => failure = failure.or(Some((keyring, error))),
            }
        }
        match failure {
            Some((keyring, error)) if found.is_empty() => {
                let hint = format!("apt-get install {}, or name another with --keyring FILE", self.package);
                Err(Kind::Trust.hinted(
                    format!("cannot open the keyring '{}'", keyring.display()),
                    Errno::from_raw(error.raw_os_error().unwrap_or_default()).desc(),
                    hint,
                ))
            }
            _ => Ok(found),
        }
    }
}

/// A keyring that may not be read is not one that is missing: its owner has decided about trust.
fn is_missing(file: &Path) -> bool {
    matches!(fs::symlink_metadata(file), Err(error) if error.kind() == io::ErrorKind::NotFound)
}
