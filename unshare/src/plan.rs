//! plan: every rule between options, and the order in which things are done; no system calls.
//!
//! The order is that of unshare(1) with our additions in the only places where they can stand:
//! descriptors are closed before anything is opened; files of the caller are opened before the world
//! changes; mounts are made while the caller's tree can still be seen, through descriptors of the new
//! root; capabilities go last, as every step before may need them.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, bail};
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use unshare::caps::Caps;
use unshare::fail::Usage;
use unshare::seccomp::Profile;

use crate::cli::{Options, Propagation, Setgroups};

#[derive(Debug)]
pub struct Plan {
    pub close_fds: bool,
    pub keep_fds: Vec<i32>,
    pub fstab: Option<PathBuf>,
    /// With the capabilities that will be left, on which the default profile depends.
    pub seccomp: Option<(Profile, Caps)>,
    pub kinds: CloneFlags,
    /// Done by the process that unshares.
    pub before: Vec<Step>,
    /// Then a child, when asked for; the rest is its part.
    pub fork: Option<Fork>,
    pub world: Option<World>,
    pub after: Vec<Step>,
    pub init: bool,
    pub argv: Vec<OsString>,
}

#[derive(Debug)]
pub struct Fork {
    pub kill_child: Option<i32>,
    pub forward: bool,
    pub pid_file: Option<PathBuf>,
}

/// What the program will see of the file system.
#[derive(Debug, Default)]
pub struct World {
    pub propagation: Option<MsFlags>,
    pub root: Root,
    pub mount_proc: Option<PathBuf>,
    pub mount_sys: bool,
    pub mount_dev: bool,
    pub mask_paths: bool,
    /// A user namespace may not make device nodes: it gets the host's by bind mounts.
    pub bind_devices: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub enum Root {
    #[default]
    Same,
    Chroot(PathBuf),
    Pivot(PathBuf),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    MapRoot,
    Setgroups(Setgroups),
    Hostname(OsString),
    Chdir(PathBuf),
    NewSession,
    NewKeyring,
    Setgid(u32),
    Setuid(u32),
    NoNewPrivs,
    /// Before the user id changes, which takes the right to it.
    Bounding(Caps),
    Seccomp,
    Caps(Caps),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::MapRoot => write!(f, "map the user to root"),
            Step::Setgroups(Setgroups::Allow) => write!(f, "allow setgroups"),
            Step::Setgroups(Setgroups::Deny) => write!(f, "deny setgroups"),
            Step::Hostname(name) => write!(f, "set the host name '{}'", name.to_string_lossy()),
            Step::Chdir(dir) => write!(f, "change directory to '{}'", dir.display()),
            Step::NewSession => write!(f, "make a new session"),
            Step::NewKeyring => write!(f, "make a new session keyring"),
            Step::Setgid(id) => write!(f, "set the group id {id}"),
            Step::Setuid(id) => write!(f, "set the user id {id}"),
            Step::NoNewPrivs => write!(f, "set no_new_privs"),
            Step::Bounding(_) => write!(f, "reduce the bounding set"),
            Step::Seccomp => write!(f, "restrict the system calls"),
            Step::Caps(_) => write!(f, "reduce the capabilities"),
        }
    }
}

pub fn plan(o: Options) -> Result<Plan> {
    if o.map_root && o.setgroups == Some(Setgroups::Allow) {
        bail!(Usage("options --setgroups=allow and --map-root-user are mutually exclusive".into()));
    }
    if o.root.is_some() && o.pivot_root.is_some() {
        bail!(Usage("options --root and --pivot-root are mutually exclusive".into()));
    }
    if o.pivot_root.is_some() && o.propagation == Propagation::Set(MsFlags::MS_SHARED) {
        bail!(Usage("--pivot-root and --propagation shared exclude each other, see pivot_root(2)".into()));
    }
    if !o.keep_fds.is_empty() && !o.close_fds {
        bail!(Usage("--keep-fd needs --close-fds".into()));
    }
    let mounts = o.pivot_root.is_some()
        || o.fstab.is_some()
        || o.mount_proc.is_some()
        || o.mount_sys
        || o.mount_dev
        || o.mask_paths;
    let mut kinds = o.kinds;
    kinds.set(CloneFlags::CLONE_NEWNS, mounts || kinds.contains(CloneFlags::CLONE_NEWNS));
    kinds.set(CloneFlags::CLONE_NEWUTS, o.hostname.is_some() || kinds.contains(CloneFlags::CLONE_NEWUTS));
    kinds.set(CloneFlags::CLONE_NEWPID, o.init || kinds.contains(CloneFlags::CLONE_NEWPID));
    kinds.set(CloneFlags::CLONE_NEWUSER, o.map_root || kinds.contains(CloneFlags::CLONE_NEWUSER));

    let mut before = Vec::new();
    before.extend(o.map_root.then_some(Step::MapRoot));
    before.extend(o.setgroups.filter(|_| !o.map_root).map(Step::Setgroups));
    before.extend(o.hostname.map(Step::Hostname));

    let fork = o.fork || o.init || o.kill_child.is_some() || o.forward_signals || o.pid_file.is_some();
    let fork =
        fork.then_some(Fork { kill_child: o.kill_child, forward: o.forward_signals, pid_file: o.pid_file });

    let new_mounts = kinds.contains(CloneFlags::CLONE_NEWNS);
    let world = World {
        propagation: match o.propagation {
            _ if !new_mounts => None,
            Propagation::Default => Some(MsFlags::MS_PRIVATE),
            Propagation::Set(mode) => Some(mode),
            Propagation::Unchanged => None,
        },
        root: match (o.root, o.pivot_root) {
            (Some(dir), _) => Root::Chroot(dir),
            (_, Some(dir)) => Root::Pivot(dir),
            _ => Root::Same,
        },
        mount_proc: o.mount_proc,
        mount_sys: o.mount_sys,
        mount_dev: o.mount_dev,
        mask_paths: o.mask_paths,
        bind_devices: kinds.contains(CloneFlags::CLONE_NEWUSER),
    };
    let untouched = !mounts && world.root == Root::Same && world.propagation.is_none();

    let mut after = Vec::new();
    after.extend(o.wd.map(Step::Chdir));
    after.extend(o.new_session.then_some(Step::NewSession));
    after.extend(o.new_keyring.then_some(Step::NewKeyring));
    after.extend(o.caps.map(Step::Bounding));
    // The kernel wants CAP_SYS_ADMIN for it, or no_new_privs: then it can go last, and a filter from a file
    // need not allow what is done here.
    let seccomp = o.seccomp.filter(|profile| *profile != Profile::None);
    after.extend((seccomp.is_some() && !o.no_new_privs).then_some(Step::Seccomp));
    after.extend(o.setgid.map(Step::Setgid));
    after.extend(o.setuid.map(Step::Setuid));
    after.extend(o.caps.map(Step::Caps));
    after.extend(o.no_new_privs.then_some(Step::NoNewPrivs));
    after.extend((seccomp.is_some() && o.no_new_privs).then_some(Step::Seccomp));

    Ok(Plan {
        close_fds: o.close_fds,
        keep_fds: o.keep_fds,
        fstab: o.fstab,
        seccomp: seccomp.map(|profile| (profile, o.caps.unwrap_or(Caps::ALL))),
        kinds,
        before,
        fork,
        world: (!untouched).then_some(world),
        after,
        init: o.init,
        argv: o.argv,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut Options)) -> Result<Plan> {
        let mut options = Options::default();
        change(&mut options);
        plan(options)
    }

    #[test]
    fn a_host_name_is_never_set_outside_a_new_uts_namespace() {
        let plan = with(|o| o.hostname = Some("web".into())).unwrap();
        assert!(plan.kinds.contains(CloneFlags::CLONE_NEWUTS));
    }

    #[test]
    fn whatever_mounts_gets_a_mount_namespace_made_private() {
        let changes: [fn(&mut Options); 6] = [
            |o| o.mount_proc = Some("/proc".into()),
            |o| o.mount_dev = true,
            |o| o.mount_sys = true,
            |o| o.mask_paths = true,
            |o| o.fstab = Some("f".into()),
            |o| o.pivot_root = Some("d".into()),
        ];
        for change in changes {
            let plan = with(change).unwrap();
            assert!(plan.kinds.contains(CloneFlags::CLONE_NEWNS));
            assert_eq!(plan.world.unwrap().propagation, Some(MsFlags::MS_PRIVATE));
        }
    }

    #[test]
    fn propagation_without_a_mount_namespace_is_ignored() {
        let plan = with(|o| o.propagation = Propagation::Set(MsFlags::MS_SHARED)).unwrap();
        assert!(plan.world.is_none());
    }

    #[test]
    fn what_needs_a_parent_forks() {
        assert!(with(|_| ()).unwrap().fork.is_none());
        assert!(with(|o| o.kill_child = Some(15)).unwrap().fork.is_some());
        assert!(with(|o| o.forward_signals = true).unwrap().fork.is_some());
        assert!(with(|o| o.pid_file = Some("p".into())).unwrap().fork.is_some());
        let init = with(|o| o.init = true).unwrap();
        assert!(init.fork.is_some() && init.kinds.contains(CloneFlags::CLONE_NEWPID));
    }

    #[test]
    fn contradictions_are_refused() {
        let both = with(|o| (o.root, o.pivot_root) = (Some("a".into()), Some("b".into())));
        assert!(both.unwrap_err().to_string().contains("mutually exclusive"));
        let groups = with(|o| (o.map_root, o.setgroups) = (true, Some(Setgroups::Allow)));
        assert!(groups.unwrap_err().to_string().contains("mutually exclusive"));
        assert!(with(|o| o.keep_fds = vec![3]).is_err());
    }

    #[test]
    fn the_filter_goes_before_the_right_to_it_or_last_with_no_new_privs() {
        let steps = |no_new_privs| {
            let change = |o: &mut Options| {
                (o.seccomp, o.setuid) = (Some(Profile::Default), Some(1));
                (o.caps, o.no_new_privs) = (Some(Caps::NONE), no_new_privs);
            };
            with(change).unwrap().after
        };
        let none = Caps::NONE;
        let (bounding, caps) = (Step::Bounding(none), Step::Caps(none));
        assert_eq!(steps(false), [bounding, Step::Seccomp, Step::Setuid(1), caps]);
        assert_eq!(steps(true).last(), Some(&Step::Seccomp));
        assert_eq!(with(|o| o.seccomp = Some(Profile::None)).unwrap().after, []);
    }

    #[test]
    fn capabilities_go_last_but_for_no_new_privs() {
        let plan = with(|o| (o.caps, o.setuid, o.new_session) = (Some(Caps::NONE), Some(1), true)).unwrap();
        assert_eq!(plan.after.last(), Some(&Step::Caps(Caps::NONE)));
    }
}
