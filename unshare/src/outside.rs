//! outside: a process that stays where the caller is, for what cannot be done from inside the new namespaces:
//! writing id maps with more than the caller's own id, and keeping namespaces in files.
//!
//!   this process                           the one outside
//!   start ------------------------------>  wait
//!   unshare
//!   ask 'm' ---------------------------->  write the maps, itself or by newuidmap and newgidmap
//!     <----------------------------------  done
//!   ... all that is to be done ...
//!   ask 'b' ---------------------------->  bind the namespaces to their files
//!     <----------------------------------  done
//!
//! When it fails it says why and ends; its status is then that of the whole.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

use anyhow::{Context, Error, Result, anyhow};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::wait::WaitPidFlag;
use nix::unistd::{ForkResult, Pid, geteuid};
use unshare::child::shell_status;
use unshare::exec::ExecError;
use unshare::fail::{self, Statuses, hint};
use unshare::ns::Kind;
use unshare::sys::{self, Waited};

use crate::ids::{self, Range};

/// What is written to files of /proc/PID, in this order.
pub type Writes = Vec<(&'static str, String)>;

/// What the process outside is there for.
#[derive(Default)]
pub struct Tasks {
    pub users: Vec<Range>,
    pub groups: Vec<Range>,
    /// What the process inside may not write itself, as it has given up its user id.
    pub writes: Writes,
    pub binds: Vec<(&'static Kind, PathBuf)>,
}

impl Tasks {
    pub fn maps(&self) -> bool {
        !self.users.is_empty() || !self.groups.is_empty() || !self.writes.is_empty()
    }
}

pub struct Outside {
    pid: Pid,
    line: UnixStream,
}

impl Outside {
    pub fn start(tasks: Tasks) -> Result<Outside> {
        // The number that this /proc knows us by: with one of another pid namespace it is not getpid(2).
        let me = fs::read_link("/proc/self")
            .map(|number| PathBuf::from("/proc").join(number))
            .context("cannot read /proc/self")
            .map_err(|e| hint(e, "mount -t proc proc /proc"))?;
        let (line, far) = UnixStream::pair().context("cannot make a pair of sockets")?;
        match sys::fork().context("fork failed")? {
            ForkResult::Parent { child } => Ok(Outside { pid: child, line }),
            ForkResult::Child => {
                drop(line);
                match serve(far, &me, &tasks) {
                    Ok(()) => exit(0),
                    Err(e) => exit(fail::report("unshare", &e, &Statuses { usage: 1, failure: 1 }).into()),
                }
            }
        }
    }

    /// Ends this process with the status of the other, which has said why, when it fails.
    pub fn write_maps(&mut self) {
        self.ask(b'm').unwrap_or_else(|status| exit(status));
    }

    /// Err is the status to end with.
    pub fn bind(mut self) -> std::result::Result<(), i32> {
        self.ask(b'b').map(|()| self.dismiss())
    }

    /// Lets it go, when there is nothing more to ask: it ends at the end of the line.
    pub fn dismiss(self) {
        let Outside { pid, line } = self;
        drop(line);
        wait(pid);
    }

    fn ask(&mut self, what: u8) -> std::result::Result<(), i32> {
        let done = self.line.write_all(&[what]).is_ok() && self.line.read(&mut [0]).is_ok_and(|n| n == 1);
        if done {
            return Ok(());
        }
        // However that failed, it must not wait for us while we wait for it.
        let _ = self.line.shutdown(Shutdown::Both);
        Err(match wait(self.pid) {
            0 => {
                eprintln!("unshare: no answer from the process outside");
                1
            }
            status => status,
        })
    }
}

/// Its status, when it has ended.
fn wait(pid: Pid) -> i32 {
    loop {
        match sys::wait(pid, WaitPidFlag::empty()) {
            Ok(Waited::Ended(_, end)) => return shell_status(end),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return 1,
        }
    }
}

fn serve(mut line: UnixStream, target: &Path, tasks: &Tasks) -> Result<()> {
    let mut word = [0];
    // The end of the line: this is over before it began.
    while line.read(&mut word).context("cannot read the request")? == 1 {
        match word[0] {
            b'm' => map(target, tasks)?,
            _ => bind(target, &tasks.binds)?,
        }
        // Who does not listen has ended.
        let _ = line.write_all(&word);
    }
    Ok(())
}

fn map(target: &Path, tasks: &Tasks) -> Result<()> {
    let (first, last): (Vec<_>, Vec<_>) = tasks.writes.iter().partition(|(file, _)| *file == "setgroups");
    write(target, first)?;
    for (file, program, ranges) in
        [("uid_map", "newuidmap", &tasks.users), ("gid_map", "newgidmap", &tasks.groups)]
    {
        if ranges.is_empty() {
            continue;
        }
        if geteuid().is_root() {
            write(target, [&(file, ids::text(ranges))])?;
        } else {
            by_program(program, target, ranges)?;
        }
    }
    write(target, last)
}

fn write<'a>(target: &Path, writes: impl IntoIterator<Item = &'a (&'static str, String)>) -> Result<()> {
    for (file, text) in writes {
        write_one(target, file, text)?;
    }
    Ok(())
}

/// Writes a file of /proc/PID, whole, as these want it; about itself in the words of util-linux, for which
/// scripts look.
pub fn write_one(target: &Path, file: &str, text: &str) -> Result<()> {
    let path = target.join(file);
    const PAGE: usize = 4096; // user_namespaces(7)
    if text.len() >= PAGE {
        return Err(anyhow!("{} too large for kernel 4k limit", path.display()));
    }
    let (no_open, no_write) = match (file, target.ends_with("self")) {
        ("timens_offsets", _) => ("failed to open", "failed to write to"),
        (_, true) => ("cannot open", "write failed"),
        (_, false) => ("failed to open", "failed to write"),
    };
    let mut opened = match OpenOptions::new().write(true).open(&path) {
        // Before 3.19 setgroups(2) needs no permission of its own.
        Err(e) if file == "setgroups" && e.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened.with_context(|| format!("{no_open} {}", path.display()))?,
    };
    opened.write_all(text.as_bytes()).with_context(|| format!("{no_write} {}", path.display()))
}

/// newuidmap(1), newgidmap(1): set-id programs that know which ids are whose.
fn by_program(program: &str, target: &Path, ranges: &[Range]) -> Result<()> {
    let number = target.file_name().unwrap_or_default();
    let fields =
        ranges.iter().flat_map(|r| [r.inner, r.outer, r.count]).map(|n| OsString::from(n.to_string()));
    let status = Command::new(program).arg(number).args(fields).status().map_err(|error| {
        let missing = error.kind() == ErrorKind::NotFound;
        let error = Error::new(ExecError::new(program.into(), error));
        if missing { hint(error, "apt-get install uidmap") } else { error }
    })?;
    if status.success() {
        return Ok(());
    }
    // It has said why.
    exit(status.code().unwrap_or(1))
}

fn bind(target: &Path, binds: &[(&'static Kind, PathBuf)]) -> Result<()> {
    for (kind, file) in binds {
        let source = target.join(kind.for_children);
        mount(Some(&source), file, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("mount {} on {} failed", source.display(), file.display()))
            .map_err(|e| crate::hints::on_bind(e, kind, file))?;
    }
    Ok(())
}
