//! target: open everything of the target, and of the caller's world, before anything is entered.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open as open_file};
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getpid};
use unshare::caps::{self, Caps};
use unshare::exec::Environment;
use unshare::ns::{KINDS, Kind};
use unshare::{fail, sys};

use crate::cgroup::{self, Groups};
use crate::cli::{Id, KeepCaps, Options, Place, not_named};

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
    pub fork: bool,
    pub kill_child: Option<i32>,
    pub forward_signals: bool,
    pub argv: Vec<OsString>,
}

pub struct Namespaces {
    /// Of the target, by its pidfd, all in one call (Linux 5.8); empty when there is none to enter so.
    pub of_pidfd: Option<(OwnedFd, CloneFlags)>,
    /// By file, in the order of the table.
    pub of_files: Vec<(OwnedFd, &'static Kind, String)>,
}

pub fn open(o: Options) -> Result<Target> {
    let namespaces = namespaces(&o)?;
    let enters = |kind: CloneFlags| {
        namespaces.of_pidfd.as_ref().is_some_and(|(_, mask)| mask.contains(kind))
            || namespaces.of_files.iter().any(|(_, k, _)| k.flag == kind)
    };
    let user = enters(CloneFlags::CLONE_NEWUSER) && !o.preserve_credentials;
    let followed = match (o.target, o.setuid, o.setgid) {
        (Some(pid), Some(Id::Follow), _) | (Some(pid), _, Some(Id::Follow)) => Some(owner(pid)?),
        _ => None,
    };
    let id = |asked: Option<Id>, follow: Option<u32>| match asked {
        Some(Id::Number(id)) => Some(id),
        Some(Id::Follow) => follow,
        None => user.then_some(0),
    };
    Ok(Target {
        root: place(o.root.as_ref(), o.target, "root")?,
        wd: place(o.wd.as_ref(), o.target, "cwd")?,
        environment: o.target.filter(|_| o.env).map(environment).transpose()?,
        groups: o.target.filter(|_| o.join_cgroup).map(cgroup::of).transpose()?,
        setuid: id(o.setuid, followed.map(|(uid, _)| uid)),
        setgid: id(o.setgid, followed.map(|(_, gid)| gid)),
        caps: o.caps.map(|caps| keep_caps(caps, o.target)).transpose()?,
        fork: enters(CloneFlags::CLONE_NEWPID) && !o.no_fork,
        kill_child: o.kill_child,
        forward_signals: o.forward_signals,
        wdns: o.wdns,
        argv: o.argv,
        namespaces,
    })
}

fn namespaces(o: &Options) -> Result<Namespaces> {
    let mut wanted = o.kinds.clone();
    if let (true, Some(pid)) = (o.all, o.target) {
        for kind in not_named(o) {
            if exists_and_differs(pid, kind)? {
                wanted.push((kind.flag, None));
            }
        }
    }
    let mut found = Namespaces { of_pidfd: None, of_files: Vec::new() };
    let mask = wanted.iter().filter(|(_, file)| file.is_none()).fold(CloneFlags::empty(), |m, (f, _)| m | *f);
    let pidfd = o.target.filter(|_| !mask.is_empty()).map(pidfd).transpose()?.flatten();
    for kind in &KINDS {
        let Some((_, file)) = wanted.iter().find(|(flag, _)| *flag == kind.flag) else { continue };
        let path = match (file, o.target) {
            (Some(file), _) => file.clone(),
            (None, _) if pidfd.is_some() => continue,
            (None, Some(pid)) => Path::new("/proc").join(pid.to_string()).join(kind.file),
            (None, None) => unreachable!("the command line asks for a target"),
        };
        let fd = open_file(&path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .with_context(|| format!("cannot open {}", path.display()))?;
        let name = if file.is_some() { path.display().to_string() } else { kind.file.to_owned() };
        found.of_files.push((fd, kind, name));
    }
    found.of_pidfd = pidfd.map(|fd| (fd, mask));
    Ok(found)
}

/// Whether --all means this kind: the kernel has it (a file is there), and a user namespace is not the one
/// we are in, which the kernel refuses to enter again.
fn exists_and_differs(pid: Pid, kind: &Kind) -> Result<bool> {
    let path = format!("/proc/{pid}/{}", kind.file);
    let theirs = match fs::metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && sys::exists(&format!("/proc/{pid}")) => {
            return Ok(false);
        }
        found => found.with_context(|| format!("stat of {path} failed")).map_err(hint_on_proc)?,
    };
    if kind.flag != CloneFlags::CLONE_NEWUSER {
        return Ok(true);
    }
    let ours = fs::metadata("/proc/self/ns/user").context("stat of /proc/self/ns/user failed")?;
    Ok((theirs.dev(), theirs.ino()) != (ours.dev(), ours.ino()))
}

/// None on kernels whose setns(2) does not take a pidfd.
fn pidfd(pid: Pid) -> Result<Option<OwnedFd>> {
    match sys::pidfd_open(pid) {
        Ok(fd) if takes_pidfds() => Ok(Some(fd)),
        Ok(_) => Ok(None),
        Err(Errno::ENOSYS) => Ok(None),
        Err(errno) => Err(hint_on_proc(Error::new(errno).context(format!("cannot open process {pid}")))),
    }
}

/// Linux 5.3 to 5.7 open pidfds that setns(2) refuses with EINVAL. Entering the UTS namespace that we are in
/// changes nothing, and tells.
fn takes_pidfds() -> bool {
    let own = sys::pidfd_open(getpid());
    own.is_ok_and(|fd| sys::setns(fd.as_fd(), CloneFlags::CLONE_NEWUTS) != Err(Errno::EINVAL))
}

fn hint_on_proc(error: Error) -> Error {
    fail::hint(error, "is the process still running, and is /proc mounted?")
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
}
