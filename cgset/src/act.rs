//! act: do the steps in order, read back, and on failure undo them in reverse.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::uio::pread;
use unshare::fail::{self, hint};

use crate::amount::human;
use crate::check::Check;
use crate::files::{self, cannot};
use crate::group::{self, Place};
use crate::layout::Layout;
use crate::owner;
use crate::refusal;
use crate::request::Request;
use crate::step::{Ids, Plan, Step};

enum Done {
    Made(PathBuf),
    Enabled { level: PathBuf, controller: String, before: BTreeSet<OsString> },
    Wrote { file: PathBuf, old: Vec<String> },
    Owned { file: PathBuf, user: u32, group: u32 },
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
                // It would take the limits of a group with it that somebody has made since.
                Done::Enabled { level, before, .. } if !group::below(&level).is_subset(&before) => Ok(()),
                Done::Enabled { level, controller, .. } => {
                    files::write(&level.join("cgroup.subtree_control"), &format!("-{controller}"))
                }
                Done::Wrote { file, old } => old.iter().try_for_each(|line| files::write(&file, line)),
                Done::Owned { file, user, group } => {
                    chown(&file, Some(user), Some(group)).map_err(|_| Errno::EPERM)
                }
                Done::Moved { pid, back } => files::write(&back, &pid.to_string()),
            };
        }
    }
}

pub fn act(layout: &Layout, plan: &Plan, request: &Request) -> Result<Undo> {
    let mut undo = Undo { done: Vec::new() };
    let marks = plan.steps.iter().any(|step| matches!(step, Step::Mark { .. }));
    let me = if marks { owner::me() } else { None };
    for step in &plan.steps {
        if request.options.verbose {
            fail::tell(&step.shell());
        }
        match step {
            Step::MakeDir(dir) => {
                let is_marked = |step: &Step| matches!(step, Step::Mark { dir: d, level: false } if d == dir);
                make(dir, plan.steps.iter().any(is_marked), &mut undo)?;
            }
            Step::Mark { dir, level } if undo.made(dir) => owner::mark(dir, me.as_ref(), *level),
            // Somebody else made it at the same time; it is theirs to remove.
            Step::Mark { level: true, .. } => {}
            Step::Mark { .. } => {
                bail!("group '{}' is being made by somebody else at this moment", request.group.0)
            }
            Step::Inherit(file) => inherit(file, &mut undo)?,
            Step::Enable { level, controller } => enable(level, controller, &mut undo)?,
            Step::MakeRoom { dir, bytes } => make_room(dir, *bytes)?,
            Step::NeedOne(files) => need_one(files)?,
            Step::Write { file, optional: true, .. } if !file.exists() => {}
            Step::Write { file, value, check, .. } => {
                let old = set(file, value, check)?;
                undo.done.push(Done::Wrote { file: file.clone(), old });
            }
            Step::Gather { from, into } => gather(layout, from, into, &mut undo)?,
            Step::Own { dir, files, ids } => own(dir, files, *ids, &mut undo)?,
            Step::Move { pid, file, back } => {
                enter(*pid, file)?;
                undo.done.extend(back.clone().map(|back| Done::Moved { pid: *pid, back }));
            }
        }
    }
    Ok(undo)
}

fn make(dir: &Path, is_marked: bool, undo: &mut Undo) -> Result<()> {
    match if is_marked { owner::make_dir(dir) } else { fs::create_dir(dir) } {
        Ok(()) => undo.done.push(Done::Made(dir.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            return Err(refusal::to_make(dir, errno));
        }
    }
    Ok(())
}

/// cpusets(7): on v1 a new group has no processors and no memory nodes, and nobody can enter (ENOSPC).
fn inherit(file: &Path, undo: &mut Undo) -> Result<()> {
    if !files::read_or_say(file)?.trim().is_empty() {
        return Ok(());
    }
    let name = file.file_name().expect("a control file has a name");
    let above = file.ancestors().nth(2).expect("a group has a parent").join(name);
    let value = files::read_or_say(&above)?;
    files::write(file, value.trim())
        .map_err(|errno| cannot(&format!("write '{}' to", value.trim()), file, errno))?;
    undo.done.push(Done::Wrote { file: file.to_owned(), old: vec![String::new()] });
    Ok(())
}

fn enable(level: &Path, controller: &str, undo: &mut Undo) -> Result<()> {
    let file = level.join("cgroup.subtree_control");
    // In this order: who enables it between the two makes his group after both.
    let before = group::below(level);
    if group::hands_down(&files::read(&file).unwrap_or_default(), controller) {
        return Ok(()); // since the plan was made, and it is not ours to undo
    }
    let Err(errno) = files::write(&file, &format!("+{controller}")) else {
        undo.done.push(Done::Enabled { level: level.to_owned(), controller: controller.to_owned(), before });
        return Ok(());
    };
    Err(refusal::to_enable(level, controller, errno))
}

/// Gives the group to a user. The files differ with the kernel.
fn own(dir: &Path, names: &[String], ids: Ids, undo: &mut Undo) -> Result<()> {
    for file in [dir.to_owned()].into_iter().chain(names.iter().map(|name| dir.join(name))) {
        let Ok(meta) = fs::metadata(&file) else { continue };
        chown(&file, Some(ids.user), ids.group)
            .with_context(|| format!("cannot give '{}' to {ids}", file.display()))?;
        undo.done.push(Done::Owned { file, user: meta.uid(), group: meta.gid() });
    }
    Ok(())
}

/// v2 would take a limit below what is in use and kill for it; v1 refuses. So: ask the kernel to give back
/// what it can (memory.reclaim, Linux 5.19), then refuse as v1 does.
fn make_room(dir: &Path, bytes: u64) -> Result<()> {
    let used =
        || files::read(&dir.join("memory.current")).ok().and_then(|text| files::limit(&text)).unwrap_or(0);
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

fn need_one(files: &[PathBuf]) -> Result<()> {
    if files.iter().any(|file| file.exists()) {
        return Ok(());
    }
    let names: Vec<String> = files.iter().map(|file| format!("'{}'", file.display())).collect();
    let error = anyhow!("there is neither {}", names.join(" nor "));
    Err(hint(
        error,
        "modprobe bfq, the scheduler of disks that keeps weights; or a ? at the end of the value",
    ))
}

/// Writes one value and reads it back; gives what to write to have the value before.
fn set(file: &Path, value: &str, check: &Check) -> Result<Vec<String>> {
    let by_name = matches!(check, Check::Text(_) | Check::Any);
    let (read, fd) = match files::open_file(file, OFlag::O_RDWR) {
        Ok(fd) => (true, fd),
        Err(Errno::ENOENT) => return Err(refusal::no_such_file(file, by_name)),
        // Some can only be written, and there is nothing to compare or to undo: devices.deny, memory.reclaim.
        Err(Errno::EACCES) if by_name => (
            false,
            files::open_file(file, OFlag::O_WRONLY).map_err(|errno| refusal::to_write(file, value, errno))?,
        ),
        Err(errno) => return Err(refusal::to_write(file, value, errno)),
    };
    let old = if read { read_back(&fd, file)? } else { None };
    files::write_fd(fd.as_fd(), value).map_err(|errno| refusal::to_write(file, value, errno))?;
    let Some(old) = old else { return Ok(Vec::new()) };
    let back = check.way_back(&old);
    let now = read_back(&fd, file)?.unwrap_or_default();
    if !check.holds(&now) {
        // The write was taken, so the undo of this step is ours.
        let _ = back.iter().try_for_each(|line| files::write(file, line));
        let reads = now.lines().next().unwrap_or("");
        let error = anyhow!("'{}' reads '{reads}' after '{value}' was written to it", file.display());
        return Err(match check {
            Check::Text(_) => hint(error, "if it is meant: --force"),
            _ => error,
        });
    }
    Ok(back)
}

/// The text of a control file; None where reading is refused as such.
fn read_back(fd: &OwnedFd, file: &Path) -> Result<Option<String>> {
    let mut text = Vec::new();
    let mut block = [0; 4096];
    loop {
        match pread(fd.as_fd(), &mut block, text.len() as i64) {
            Ok(0) => return Ok(Some(String::from_utf8_lossy(&text).into_owned())),
            Ok(got) => text.extend_from_slice(&block[..got]),
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(None),
            Err(errno) => return Err(cannot("read", file, errno)),
        }
    }
}

/// Moves all that stand in the group into one more tree of it, until nobody new is found: some fork meanwhile.
/// Whoever is exiting stays where it was although the write succeeds (cgroup_migrate_add_task in
/// kernel/cgroup/cgroup.c), for as long as the machine lets it wait; it forks no more, so one move each is enough.
fn gather(layout: &Layout, from: &[PathBuf], into: &Place, undo: &mut Undo) -> Result<()> {
    const ROUNDS: usize = 100;
    let file = into.path.join("cgroup.procs");
    let mut moved = Vec::new();
    for _ in 0..ROUNDS {
        let everybody: Vec<i32> =
            from.iter().flat_map(|top| group::tree(top)).flat_map(|dir| group::members(&dir)).collect();
        // Read second: who was born in there is in both.
        let there = group::members(&into.path);
        let known = |pid: &i32| *pid <= 0 || there.contains(pid) || moved.contains(pid);
        let missing: Vec<i32> = everybody.into_iter().filter(|pid| !known(pid)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        for pid in missing {
            let back = layout.way_back(&into.hierarchy, pid);
            match enter(pid, &file) {
                Ok(()) => {
                    moved.push(pid);
                    undo.done.extend(back.map(|back| Done::Moved { pid, back }));
                }
                // It has ended meanwhile.
                Err(_) if !Path::new("/proc").join(pid.to_string()).exists() => {}
                Err(error) => return Err(error),
            }
        }
    }
    bail!("they fork faster than they can be moved to '{}'", into.path.display())
}

/// Moves a running process in.
fn enter(pid: i32, file: &Path) -> Result<()> {
    let Err(errno) = files::write(file, &pid.to_string()) else { return Ok(()) };
    let error = Error::new(errno).context(format!("cannot move process {pid} into '{}'", file.display()));
    Err(refusal::to_enter(error, file, errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_that_others_use_by_now_stays_on() {
        let level = std::env::temp_dir().join(format!("cgset-undo-{}", std::process::id()));
        let file = level.join("cgroup.subtree_control");
        fs::create_dir_all(level.join("old")).unwrap();
        for (new, last) in [("old", "-memory\n"), ("other", "+memory\n")] {
            fs::write(&file, "").unwrap();
            let mut undo = Undo { done: Vec::new() };
            enable(&level, "memory", &mut undo).unwrap();
            fs::create_dir_all(level.join(new)).unwrap();
            drop(undo);
            assert_eq!(fs::read_to_string(&file).unwrap(), last);
        }
        // Nor is it ours if it was on before.
        let mut undo = Undo { done: Vec::new() };
        enable(&level, "memory", &mut undo).unwrap();
        assert!(undo.done.is_empty());
        fs::remove_dir_all(&level).unwrap();
    }
}
