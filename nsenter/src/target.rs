//! target: open everything of the target, and of the caller's world, before anything is entered.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, open as open_file};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, fstat};
use nix::unistd::Pid;
use unshare::caps::{self, Caps};
use unshare::child::DeathTie;
use unshare::exec::Environment;
use unshare::fstab::{self, Line};
use unshare::limits::Limit;
use unshare::seccomp::Filter;

use crate::carry::{self, Load};
use crate::cgroup::{self, Groups};
use crate::cli::{Id, KeepCaps, Mount, Options, Place};
use crate::namespaces::{self, Namespaces};
use crate::seal;
use crate::terminal::{self, Pty};

/// The process that goes in.
pub struct Worker {
    /// For the last words of one that fails: its standard error is the program's terminal by then.
    pub complaints: OwnedFd,
    pub tie: Option<DeathTie>,
}

/// All that entering needs, by descriptor.
pub struct Target {
    pub namespaces: Namespaces,
    /// What is mounted first, and in which tree.
    pub loads: Vec<Load>,
    pub tree: Option<OwnedFd>,
    pub root: Option<OwnedFd>,
    pub wd: Option<OwnedFd>,
    /// Looked up inside, so not opened yet.
    pub wdns: Option<PathBuf>,
    pub environment: Option<Environment>,
    pub groups: Option<Groups>,
    pub setuid: Option<Id>,
    pub setgid: Option<Id>,
    /// Whose owner is meant by `Follow`: as it is seen inside.
    pub followed: Option<OwnedFd>,
    pub keep_caps: bool,
    /// The program has those that were named although it is not root.
    pub ambient: bool,
    /// To keep, and whether to set no_new_privs.
    pub caps: Option<(Caps, bool)>,
    pub seccomp: Option<Filter>,
    pub rlimits: Vec<Limit>,
    pub fork: bool,
    pub kill_child: Option<i32>,
    pub forward: SigSet,
    pub argv: Vec<OsString>,
    pub pty: Option<Pty>,
    /// With a terminal of its own: who we are.
    pub worker: Option<Worker>,
}

impl Target {
    /// Lets go of what has been entered.
    pub fn close(&mut self) {
        self.namespaces.close();
        (self.root, self.wd) = (None, None);
    }
}

pub fn open(o: Options) -> Result<Target> {
    let pidfd = o.target.map(|pid| namespaces::pidfd(pid, o.inode)).transpose()?.flatten();
    let namespaces = namespaces::open(&o, pidfd)?;
    let mask = namespaces.mask();
    if let (Some(pid), true) = (o.target, mask.contains(CloneFlags::CLONE_NEWPID)) {
        seal::against(pid)?;
    }
    let user = mask.contains(CloneFlags::CLONE_NEWUSER);
    let default = (user && !o.preserve_credentials).then_some(Id::Number(0));
    let mut target = Target {
        loads: Vec::new(),
        tree: None,
        root: place(o.root.as_ref(), o.target, "root")?,
        wd: place(o.wd.as_ref(), o.target, "cwd")?,
        environment: o.target.filter(|_| o.env).map(environment).transpose()?,
        groups: o.target.filter(|_| o.join_cgroup).map(cgroup::of).transpose()?,
        setuid: o.setuid.or(default),
        setgid: o.setgid.or(default),
        followed: followed(&o)?,
        keep_caps: o.keep_caps && user,
        caps: o.caps.map(|caps| keep_caps(caps, o.target)).transpose()?,
        seccomp: None,
        rlimits: o.rlimits.clone(),
        ambient: false,
        fork: mask.contains(CloneFlags::CLONE_NEWPID) && !o.no_fork,
        kill_child: o.kill_child,
        forward: o.forward,
        wdns: o.wdns.clone(),
        argv: o.argv.clone(),
        pty: None,
        worker: None,
        namespaces,
    };
    prepare(&o, &mut target)?;
    if let (Some(pid), Some(pidfd)) = (o.target, &target.namespaces.target) {
        still_there(pid, pidfd)?;
    }
    Ok(target)
}

/// What follows from the rest.
fn prepare(o: &Options, target: &mut Target) -> Result<()> {
    let other = target.setuid.is_some_and(|uid| uid != Id::Number(0));
    target.ambient = matches!(o.caps, Some(KeepCaps::These(_))) && other;
    let keep = target.caps.map_or(Caps::ALL, |(keep, _)| keep);
    target.seccomp = o.seccomp.as_ref().map(|profile| profile.filter(keep)).transpose()?.flatten();
    target.tree = tree(o, target)?;
    target.loads = carry::load(lines(o)?, target.namespaces.mask())?;
    target.pty = o.pty.then(|| terminal(o, target)).transpose()?;
    match o.target {
        Some(pid) if o.follow_context => follow_context(pid),
        _ => Ok(()),
    }
}

/// What has been opened by the target's number is the target's only if that is still its own.
fn still_there(pid: Pid, pidfd: &OwnedFd) -> Result<()> {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(1..) => bail!("the process {pid} has ended"),
        _ => Ok(()),
    }
}

/// The tree that the program will see, where a terminal is made and mounts go; None for the caller's own, or
/// where it cannot be told before it is entered.
fn tree(o: &Options, target: &Target) -> Result<Option<OwnedFd>> {
    let needed = o.pty || !o.mounts.is_empty();
    match (&target.root, o.target) {
        (Some(root), _) if needed => Ok(Some(root.try_clone()?)),
        (None, Some(_)) if needed && target.namespaces.mask().contains(CloneFlags::CLONE_NEWNS) => {
            place(Some(&Place::Target), o.target, "root")
        }
        _ => Ok(None),
    }
}

fn lines(o: &Options) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for mount in &o.mounts {
        match mount {
            Mount::Line(line) => lines.push(line.clone()),
            Mount::File(file) => lines.extend(fstab::read(file)?),
        }
    }
    Ok(lines)
}

/// In the tree that the program will see, owned by whom the program will be.
fn terminal(o: &Options, target: &Target) -> Result<Pty> {
    let owner = match (o.target, target.setuid, &target.followed) {
        (_, Some(Id::Follow), Some(followed)) => Some(fstat(followed)?.st_uid),
        (Some(pid), Some(Id::Number(uid)), _)
            if target.namespaces.mask().contains(CloneFlags::CLONE_NEWUSER) =>
        {
            let path = format!("/proc/{pid}/uid_map");
            let map = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            outside_id(&map, uid)
        }
        (_, Some(Id::Number(uid)), _) => Some(uid),
        _ => None,
    };
    terminal::make(target.tree.as_ref().map(OwnedFd::as_fd), owner)
}

/// What an id inside is to us (user_namespaces(7): inside, outside, count).
fn outside_id(map: &str, inside: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<u32>().ok());
        let (first, outside, count) = (numbers.next()?, numbers.next()?, numbers.next()?);
        let offset = inside.checked_sub(first).filter(|offset| *offset < count)?;
        outside.checked_add(offset)
    })
}

fn place(asked: Option<&Place>, target: Option<Pid>, link: &str) -> Result<Option<OwnedFd>> {
    let path = match (asked, target) {
        (None, _) => return Ok(None),
        (Some(Place::Dir(dir)), _) => dir.clone(),
        (Some(Place::Target), Some(pid)) => PathBuf::from(format!("/proc/{pid}/{link}")),
        (Some(Place::Target), None) => unreachable!("the command line asks for a target"),
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let fd = open_file(&path, flags, Mode::empty())
        .with_context(|| format!("cannot open {}", path.display()))
        .map_err(namespaces::hint_on_access)?;
    Ok(Some(fd))
}

/// Of a name that comes twice the last counts, as for getenv of most programs.
fn environment(pid: Pid) -> Result<Environment> {
    let path = format!("/proc/{pid}/environ");
    let mut bytes = Vec::new();
    let file = File::open(&path).with_context(|| format!("cannot open {path}"));
    let mut file = file.map_err(namespaces::hint_on_proc)?;
    file.read_to_end(&mut bytes).with_context(|| format!("cannot read {path}"))?;
    Ok(parse_environment(&bytes).into_iter().collect())
}

fn parse_environment(bytes: &[u8]) -> BTreeMap<OsString, OsString> {
    bytes
        .split(|b| *b == 0)
        .filter_map(|pair| {
            // A name may begin with '=', as execve(2) takes anything.
            let at = pair.iter().skip(1).position(|b| *b == b'=')? + 1;
            Some((OsString::from_vec(pair[..at].to_vec()), OsString::from_vec(pair[at + 1..].to_vec())))
        })
        .collect()
}

fn followed(o: &Options) -> Result<Option<OwnedFd>> {
    let (Some(pid), true) = (o.target, [o.setuid, o.setgid].contains(&Some(Id::Follow))) else {
        return Ok(None);
    };
    let path = format!("/proc/{pid}");
    let fd = open_file(path.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .with_context(|| format!("cannot open {path}"))?;
    Ok(Some(fd))
}

fn keep_caps(asked: KeepCaps, target: Option<Pid>) -> Result<(Caps, bool)> {
    match (asked, target) {
        (KeepCaps::These(caps), _) => Ok((caps, false)),
        (KeepCaps::Target, Some(pid)) => {
            let path = format!("/proc/{pid}/status");
            let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            caps::of_status(&status).with_context(|| path)
        }
        (KeepCaps::Target, None) => unreachable!("the command line asks for a target"),
    }
}

/// Nothing where SELinux is off, as util-linux has it (selinux(8)). Before anything is entered: the /proc that
/// is asked must be our own. It holds for the next exec, across a fork.
fn follow_context(pid: Pid) -> Result<()> {
    if !unshare::sys::exists("/sys/fs/selinux/enforce").context("cannot look for SELinux")? {
        return Ok(());
    }
    let context = fs::read(format!("/proc/{pid}/attr/current"))
        .with_context(|| format!("failed to get {pid} SELinux context"))?;
    fs::write("/proc/thread-self/attr/exec", &context)
        .with_context(|| format!("failed to set exec context to '{}'", String::from_utf8_lossy(&context)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_two_variables_counts() {
        let parsed = parse_environment(b"A=1\0B=x=y\0A=2\0bad\0=C=3\0\0");
        let get = |name: &str| parsed.get(&OsString::from(name)).map(|v| v.to_str().unwrap().to_owned());
        assert_eq!((get("A"), get("B"), get("=C")), (Some("2".into()), Some("x=y".into()), Some("3".into())));
        assert_eq!(parsed.len(), 3);
    }

    #[test]
    fn an_id_is_translated_by_its_line_of_the_map() {
        let map = "         0     100000      10\n        20       1000          1\n";
        let ids = [0, 9, 10, 20, 21].map(|id| outside_id(map, id));
        assert_eq!(ids, [Some(100_000), Some(100_009), None, Some(1000), None]);
    }
}
