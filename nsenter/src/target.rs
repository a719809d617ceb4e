//! target: open everything of the target, and of the caller's world, before anything is entered.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, open as open_file};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use unshare::caps::{self, Caps};
use unshare::exec::Environment;

use crate::cgroup::{self, Groups};
use crate::cli::{Id, KeepCaps, Options, Place};
use crate::namespaces::{self, Namespaces};
use crate::pty::{self, Pty, Worker};

/// All that entering needs, by descriptor.
pub struct Target {
    pub namespaces: Namespaces,
    pub root: Option<OwnedFd>,
    pub wd: Option<OwnedFd>,
    /// Looked up inside, so not opened yet.
    pub wdns: Option<PathBuf>,
    pub environment: Option<Environment>,
    pub groups: Option<Groups>,
    pub setuid: Option<u32>,
    pub setgid: Option<u32>,
    pub caps: Option<(Caps, bool)>,
    /// For SELinux.
    pub context: Option<Vec<u8>>,
    pub fork: bool,
    pub kill_child: Option<i32>,
    pub forward: SigSet,
    pub argv: Vec<OsString>,
    /// With a terminal of its own: who we are.
    pub worker: Option<Worker>,
}

pub fn open(o: Options) -> Result<Target> {
    let pidfd = o.target.map(|pid| namespaces::pidfd(pid, o.inode)).transpose()?.flatten();
    let alive = pidfd.as_ref().map(OwnedFd::try_clone).transpose()?;
    let namespaces = namespaces::open(&o, pidfd)?;
    let mask = namespaces.mask();
    let user = mask.contains(CloneFlags::CLONE_NEWUSER);
    let followed = match (o.target, o.setuid, o.setgid) {
        (Some(pid), Some(Id::Follow), _) | (Some(pid), _, Some(Id::Follow)) => Some(owner(pid)?),
        _ => None,
    };
    let id = |asked: Option<Id>, follow: Option<u32>| match asked {
        Some(Id::Number(id)) => Some(id),
        Some(Id::Follow) => follow,
        None => (user && !o.preserve_credentials).then_some(0),
    };
    let target = Target {
        root: place(o.root.as_ref(), o.target, "root")?,
        wd: place(o.wd.as_ref(), o.target, "cwd")?,
        environment: o.target.filter(|_| o.env).map(environment).transpose()?,
        groups: o.target.filter(|_| o.join_cgroup).map(cgroup::of).transpose()?,
        setuid: id(o.setuid, followed.map(|(uid, _)| uid)),
        setgid: id(o.setgid, followed.map(|(_, gid)| gid)),
        caps: o.caps.map(|caps| keep_caps(caps, o.target)).transpose()?,
        context: o.target.filter(|_| o.follow_context).map(selinux_context).transpose()?.flatten(),
        fork: mask.contains(CloneFlags::CLONE_NEWPID) && !o.no_fork,
        kill_child: o.kill_child,
        forward: o.forward,
        wdns: o.wdns.clone(),
        argv: o.argv.clone(),
        worker: None,
        namespaces,
    };
    let pty = o.pty.then(|| terminal(&o, &target)).transpose()?;
    if let (Some(pid), Some(pidfd)) = (o.target, &alive) {
        still_there(pid, pidfd)?;
    }
    drop(alive);
    match pty {
        Some(pty) => pty::split(target, pty),
        None => Ok(target),
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

/// In the tree that the program will see, owned by whom the program will be.
fn terminal(o: &Options, target: &Target) -> Result<Pty> {
    let tree = match (&target.root, o.target) {
        (Some(root), _) => Some(root.try_clone()?),
        (None, Some(_)) if target.namespaces.mask().contains(CloneFlags::CLONE_NEWNS) => {
            place(Some(&Place::Target), o.target, "root")?
        }
        _ => None,
    };
    let owner = match (o.target, target.setuid) {
        (Some(pid), Some(uid)) if target.namespaces.mask().contains(CloneFlags::CLONE_NEWUSER) => {
            let path = format!("/proc/{pid}/uid_map");
            let map = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            outside_id(&map, uid)
        }
        (_, uid) => uid,
    };
    pty::make(tree.as_ref().map(OwnedFd::as_fd), owner)
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
    let fd =
        open_file(&path, flags, Mode::empty()).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Some(fd))
}

/// Of a name that comes twice the last counts, as for getenv of most programs.
fn environment(pid: Pid) -> Result<Environment> {
    let path = format!("/proc/{pid}/environ");
    let mut bytes = Vec::new();
    File::open(&path)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {path}"))?;
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

fn owner(pid: Pid) -> Result<(u32, u32)> {
    let path = format!("/proc/{pid}");
    let meta = fs::metadata(&path).with_context(|| format!("can not get process stat of '{path}'"))?;
    Ok((meta.uid(), meta.gid()))
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

/// None where SELinux is off, as util-linux has it (selinux(8)).
fn selinux_context(pid: Pid) -> Result<Option<Vec<u8>>> {
    if !unshare::sys::exists("/sys/fs/selinux/enforce") {
        return Ok(None);
    }
    let path = format!("/proc/{pid}/attr/current");
    fs::read(&path).map(Some).with_context(|| format!("failed to get {pid} SELinux context"))
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
