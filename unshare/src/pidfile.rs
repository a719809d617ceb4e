//! pidfile: the child's pid in a file, there only once the child's world is ready: who finds a pid in it
//! may enter.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
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
    parent: UnixStream,
    child: UnixStream,
}

/// The child's end of the talk.
pub struct Gate(UnixStream);

impl PidFile {
    pub fn open(path: &Path) -> Result<PidFile> {
        let make = || -> Result<PidFile> {
            let name = path.file_name().context("it has no file name")?.to_owned();
            let above = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let dir = open(above, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
            let file = openat(dir.as_fd(), name.as_os_str(), flags, Mode::from_bits_truncate(0o644))?;
            let (parent, child) = UnixStream::pair()?;
            Ok(PidFile { path: path.to_owned(), dir, name, file, parent, child })
        };
        make().with_context(|| format!("cannot write '{}'", path.display()))
    }

    pub fn into_gate(self) -> Gate {
        Gate(self.child)
    }

    /// Waits for the child to be ready and writes its pid; removes the file when it dies before.
    pub fn write_when_ready(self, child: Pid) -> Result<()> {
        let PidFile { path, dir, name, file, mut parent, child: gate } = self;
        drop(gate);
        if parent.read(&mut [0]).unwrap_or(0) == 0 {
            let _ = unlinkat(dir.as_fd(), name.as_os_str(), UnlinkatFlags::NoRemoveDir);
            return Ok(()); // how it ended is told by waiting for it
        }
        std::fs::File::from(file)
            .write_all(format!("{child}\n").as_bytes())
            .with_context(|| format!("cannot write '{}'", path.display()))
    }
}

impl Gate {
    /// Says that all is ready, and waits until the pid is in the file (or the parent is gone).
    pub fn pass(mut self) {
        let _ = self.0.write_all(b"r");
        let _ = self.0.read(&mut [0]);
    }
}
