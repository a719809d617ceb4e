//! pidfile: the child's pid in a file, there only once the child's world is ready: who finds a pid in it
//! may enter.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, UnlinkatFlags, unlinkat};

/// Opened before anything changes; its directory too, as the child's new root becomes ours.
pub struct PidFile {
    path: PathBuf,
    dir: OwnedFd,
    name: OsString,
    file: OwnedFd,
}

impl PidFile {
    pub fn open(path: &Path) -> Result<PidFile> {
        let make = || -> Result<PidFile> {
            let name = path.file_name().context("it has no file name")?.to_owned();
            let above = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let dir = open(above, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
            let file = openat(dir.as_fd(), name.as_os_str(), flags, Mode::from_bits_truncate(0o644))?;
            Ok(PidFile { path: path.to_owned(), dir, name, file })
        };
        make().with_context(|| format!("cannot write '{}'", path.display()))
    }

    pub fn write(self, child: Pid) -> Result<()> {
        std::fs::File::from(self.file)
            .write_all(format!("{child}\n").as_bytes())
            .with_context(|| format!("cannot write '{}'", self.path.display()))
    }

    /// For a child that has ended before it was ready.
    pub fn remove(self) {
        let _ = unlinkat(self.dir.as_fd(), self.name.as_os_str(), UnlinkatFlags::NoRemoveDir);
    }
}
