//! act: do the steps in order, read back, and on failure undo them in reverse.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Error, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::uio::pread;
use nix::unistd::{SysconfVar, sysconf};
use std::os::fd::AsFd;
use unshare::fail::hint;

use crate::cli::Request;
use crate::files::{self, cannot};
use crate::group;
use crate::owner;
use crate::plan::{Check, Plan, Step, parse_limit};
use crate::words::human;

enum Done {
    Made(PathBuf),
    Enabled { level: PathBuf, controller: &'static str },
    Wrote { file: PathBuf, old: String },
    Moved { pid: i32, back: PathBuf },
}

/// What was done so far; dropped, it is undone.
pub struct Undo {
    done: Vec<Done>,
}

impl Undo {
    /// Keeps it all; gives the directories that were made, in order.
    pub fn keep(mut self) -> Vec<PathBuf> {
        let made = std::mem::take(&mut self.done);
        made.into_iter()
            .filter_map(|done| if let Done::Made(dir) = done { Some(dir) } else { None })
            .collect()
    }

    fn made(&self, dir: &Path) -> bool {
        self.done.iter().any(|done| matches!(done, Done::Made(made) if made == dir))
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        // Each as far as it goes: somebody may have built upon a step by now, and that stays.
        for done in self.done.drain(..).rev() {
            let _ = match done {
                Done::Made(dir) => files::rmdir(&dir),
                Done::Enabled { level, controller } => {
                    files::write(&level.join("cgroup.subtree_control"), &format!("-{controller}"))
                }
                Done::Wrote { file, old } => files::write(&file, &old),
                Done::Moved { pid, back } => files::write(&back, &pid.to_string()),
            };
        }
    }
}

pub fn act(plan: &Plan, request: &Request) -> Result<Undo> {
    let mut undo = Undo { done: Vec::new() };
    let me = if plan.steps.iter().any(|step| matches!(step, Step::Mark(_))) { owner::me() } else { None };
    for step in &plan.steps {
        if request.verbose {
            eprint!("{}", step.shell());
        }
        match step {
            Step::MakeDir(dir) => make(dir, &mut undo)?,
            Step::Mark(dir) if undo.made(dir) => owner::mark(dir, me.as_ref()),
            Step::Mark(_) => {
                bail!("group '{}' is being made by somebody else at this moment", request.group.0)
            }
            Step::Inherit(file) => inherit(file)?,
            Step::Enable { level, controller } => enable(level, controller, &mut undo)?,
            Step::MakeRoom { dir, bytes } => make_room(dir, *bytes)?,
            Step::Write { file, value, check, optional } => match set(file, value, check) {
                Ok(old) => undo.done.push(Done::Wrote { file: file.clone(), old }),
                Err(error) if *optional && error.downcast_ref() == Some(&Errno::ENOENT) => {}
                Err(error) => return Err(error),
            },
            Step::Move { pid, file, back } => {
                enter(*pid, file)?;
                undo.done.extend(back.clone().map(|back| Done::Moved { pid: *pid, back }));
            }
        }
    }
    Ok(undo)
}

fn make(dir: &Path, undo: &mut Undo) -> Result<()> {
    match fs::create_dir(dir) {
        Ok(()) => undo.done.push(Done::Made(dir.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            let error = cannot("make group", dir, errno);
            return Err(match errno {
                Errno::EACCES | Errno::EPERM => {
                    hint(error, "run it as root, or with --parent below a group that is yours")
                }
                Errno::EROFS => hint(error, "the cgroup tree is mounted read-only here"),
                Errno::EAGAIN => hint(
                    error,
                    "a group above allows no more below it: cgroup.max.descendants, cgroup.max.depth",
                ),
                _ => error,
            });
        }
    }
    Ok(())
}

/// cpusets(7): on v1 a new group has no processors and no memory nodes, and nobody can enter (ENOSPC).
fn inherit(file: &Path) -> Result<()> {
    if !files::read_or_say(file)?.trim().is_empty() {
        return Ok(());
    }
    let name = file.file_name().expect("a control file has a name");
    let above = file.ancestors().nth(2).expect("a group has a parent").join(name);
    let value = files::read_or_say(&above)?;
    files::write(file, value.trim())
        .map_err(|errno| cannot(&format!("write '{}' to", value.trim()), file, errno))
}

fn enable(level: &Path, controller: &'static str, undo: &mut Undo) -> Result<()> {
    let file = level.join("cgroup.subtree_control");
    let Err(errno) = files::write(&file, &format!("+{controller}")) else {
        undo.done.push(Done::Enabled { level: level.to_owned(), controller });
        return Ok(());
    };
    let error = cannot(&format!("write '+{controller}' to"), &file, errno);
    Err(match errno {
        Errno::EBUSY => {
            let inside = group::name_them(&group::members(level));
            let text = format!(
                "a v2 group that hands controllers down may hold no processes itself, and in '{}' stand: {inside}; \
                 move them into a group of their own: cgset GROUP --pid N",
                level.display()
            );
            hint(error, text)
        }
        Errno::ENOENT => hint(error, format!("the group above does not hand '{controller}' down")),
        Errno::EOPNOTSUPP => hint(error, "the group is threaded: only cpu and pids work there"),
        _ => error,
    })
}

/// v2 would take a limit below what is in use and kill for it; v1 refuses. So: ask the kernel to give back
/// what it can (memory.reclaim, Linux 5.19), then refuse as v1 does.
fn make_room(dir: &Path, bytes: u64) -> Result<()> {
    let used =
        || files::read(&dir.join("memory.current")).ok().and_then(|text| parse_limit(&text)).unwrap_or(0);
    let before = used();
    if before <= bytes {
        return Ok(());
    }
    // EAGAIN: not all of it; what counts is how much is left.
    let _ = files::write(&dir.join("memory.reclaim"), &(before - bytes).to_string());
    let after = used();
    if after <= bytes {
        return Ok(());
    }
    let error =
        anyhow!("'{}' uses {}, more than the new limit of {}", dir.display(), human(after), human(bytes));
    Err(hint(error, "stop something in it first, or --force: the kernel will then kill"))
}

/// Writes one value and reads it back; gives the value before.
fn set(file: &Path, value: &str, check: &Check) -> Result<String> {
    let fd =
        open(file, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map_err(|e| cannot("open", file, e))?;
    let read = || -> Result<String> {
        let mut block = [0; 256];
        let got = pread(fd.as_fd(), &mut block, 0).map_err(|errno| cannot("read", file, errno))?;
        let text = String::from_utf8_lossy(&block[..got]);
        Ok(text.lines().next().unwrap_or("").to_owned())
    };
    let old = read()?;
    files::write_fd(fd.as_fd(), value).map_err(|errno| explain(file, value, errno))?;
    let now = read()?;
    if !check.holds(&now) {
        // The write was taken, so the undo of this step is ours.
        let _ = files::write(file, &rewritable(&old));
        bail!("'{}' reads '{now}' after '{value}' was written to it", file.display());
    }
    Ok(rewritable(&old))
}

/// What v1 shows for "no limit" it takes as a number only on the same page size; "-1" it takes always.
fn rewritable(old: &str) -> String {
    match old.parse::<u64>() {
        Ok(number) if number >= 1 << 62 => "-1".into(),
        _ => old.to_owned(),
    }
}

impl Check {
    fn holds(&self, text: &str) -> bool {
        match self {
            Check::Word(word) => files::first(text) == word,
            Check::Bytes(None) => parse_limit(text).is_none() && !text.is_empty(),
            Check::Bytes(Some(want)) => {
                let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as u64;
                parse_limit(text).is_some_and(|got| got <= *want && want - got < page)
            }
        }
    }
}

fn explain(file: &Path, value: &str, errno: Errno) -> Error {
    let error = cannot(&format!("write '{value}' to"), file, errno);
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or("");
    match (name, errno) {
        ("memory.limit_in_bytes" | "memory.memsw.limit_in_bytes", Errno::EBUSY) => {
            hint(error, "more than that is in use: stop something in the group first")
        }
        ("cpu.cfs_quota_us", Errno::EINVAL) => {
            hint(error, "on v1 a group may not have more than the one above it: raise that first")
        }
        (_, Errno::EACCES | Errno::EPERM) => hint(error, "run it as root"),
        _ => error,
    }
}

/// Moves a running process in.
fn enter(pid: i32, file: &Path) -> Result<()> {
    let Err(errno) = files::write(file, &pid.to_string()) else { return Ok(()) };
    let error = Error::new(errno).context(format!("cannot move process {pid} into '{}'", file.display()));
    Err(refused_entry(error, file, errno))
}

/// Why the kernel lets nobody in.
pub fn refused_entry(error: Error, file: &Path, errno: Errno) -> Error {
    match errno {
        Errno::EBUSY => {
            let dir = file.parent().unwrap_or(file);
            let on = files::read(&dir.join("cgroup.subtree_control")).unwrap_or_default();
            let text =
                format!("it hands '{}' down: processes may stand in the groups below it only", on.trim());
            hint(error, text)
        }
        Errno::ENOSPC => hint(error, "a v1 cpuset lets nobody in before cpuset.cpus and cpuset.mems are set"),
        Errno::EAGAIN => hint(error, "its procs= limit is reached"),
        Errno::EINVAL => hint(error, "threads of the kernel cannot be moved"),
        Errno::ESRCH => hint(error, "it has ended"),
        Errno::EACCES | Errno::EPERM => {
            hint(error, "run it as root: moving needs the right to write where both groups meet")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_down_to_a_page_is_as_asked_and_nothing_else() {
        let want = |bytes| Check::Bytes(Some(bytes));
        assert!(want(100_000_000).holds("99999744"));
        assert!(want(4096).holds("4096"));
        assert!(!want(100_000_000).holds("100003840"));
        assert!(!want(100_000_000).holds("1"));
        assert!(!want(100_000_000).holds("max"));
        assert!(Check::Bytes(None).holds("max") && Check::Bytes(None).holds("9223372036854771712"));
        assert!(!Check::Bytes(None).holds("4096") && !Check::Bytes(None).holds(""));
        assert!(Check::Word("max".into()).holds("max 100000") && !Check::Word("5".into()).holds("50"));
    }
}
