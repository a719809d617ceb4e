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
use nix::sys::signal::SigSet;
use unshare::caps::Caps;
use unshare::fail::hint;
use unshare::limits::Limit;
use unshare::ns::{self, Kind};
use unshare::seccomp::Profile;
use unshare::signals;

use crate::cli::{Options, Propagation, Setgroups};
use crate::ids::{Block, Single};

#[derive(Debug)]
pub struct Plan {
    pub close_fds: bool,
    pub keep_fds: Vec<i32>,
    pub fstab: Option<PathBuf>,
    /// With the capabilities that will be left, on which the default profile depends.
    pub seccomp: Option<(Profile, Caps)>,
    /// What a user namespace would make impossible.
    pub early: Vec<Step>,
    pub ids: Ids,
    pub kinds: CloneFlags,
    /// Namespaces that are kept in files.
    pub files: Vec<(&'static Kind, PathBuf)>,
    /// Done by the process that unshares.
    pub before: Vec<Step>,
    /// Then a child, when asked for; the rest is its part.
    pub fork: Option<Fork>,
    pub world: Option<World>,
    pub after: Vec<Step>,
    pub init: bool,
    /// The variables that are kept; None: all.
    pub environment: Option<Vec<OsString>>,
    pub argv: Vec<OsString>,
}

/// How the new user namespace is set up: what is written to the files of /proc/PID.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ids {
    pub owner: Option<(u32, u32)>,
    pub user: Option<Single>,
    pub group: Option<Single>,
    pub users: Vec<Block>,
    pub groups: Vec<Block>,
    pub setgroups: Option<Setgroups>,
    /// (7, seconds) and (1, seconds): CLOCK_BOOTTIME and CLOCK_MONOTONIC, in the order of util-linux.
    pub clocks: Vec<(i32, i64)>,
}

#[derive(Debug)]
pub struct Fork {
    pub kill_child: Option<i32>,
    pub forward: Option<SigSet>,
    pub pid_file: Option<PathBuf>,
}

/// What the program will see of the file system.
#[derive(Debug, Default)]
pub struct World {
    pub propagation: Option<MsFlags>,
    pub root: Root,
    /// Where the program will be, from which places are sought.
    pub wd: Option<PathBuf>,
    pub mount_proc: Option<PathBuf>,
    pub mount_binfmt: Option<PathBuf>,
    pub load_interp: Option<OsString>,
    pub mount_sys: bool,
    pub mount_dev: bool,
    pub mask_paths: bool,
    /// A user namespace may not make device nodes: it gets the host's by bind mounts.
    pub bind_devices: bool,
    /// Something is mounted, here or by the fstab.
    pub mounts: bool,
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
    Nice(i32),
    /// The hard limit alone, where it goes up.
    Raise(Limit),
    Hostname(OsString),
    Loopback,
    Chdir(PathBuf),
    NewSession,
    NewKeyring,
    Limit(Limit),
    /// Before the user id changes, which takes the right to it.
    Bounding(Caps),
    Setgroups,
    Setgid(u32),
    Setuid(u32),
    SetuidKeepingCaps(u32),
    Caps(Caps),
    Ambient,
    NoNewPrivs,
    Seccomp,
}

/// What is said when it fails; for what util-linux does too, in its words.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Nice(value) => write!(f, "cannot set the nice value {value}"),
            Step::Raise(limit) | Step::Limit(limit) => write!(f, "cannot set the limit '{}'", limit.name),
            Step::Hostname(name) => write!(f, "cannot set the host name '{}'", name.to_string_lossy()),
            Step::Loopback => write!(f, "cannot bring the loopback interface up"),
            Step::Chdir(dir) => write!(f, "cannot change directory to {}", dir.display()),
            Step::NewSession => write!(f, "cannot make a new session"),
            Step::NewKeyring => write!(f, "cannot make a new session keyring"),
            Step::Bounding(_) => write!(f, "cannot reduce the bounding set"),
            Step::Setgroups => write!(f, "setgroups failed"),
            Step::Setgid(_) => write!(f, "setgid() failed"),
            Step::Setuid(_) | Step::SetuidKeepingCaps(_) => write!(f, "setuid() failed"),
            Step::Caps(_) => write!(f, "cannot reduce the capabilities"),
            Step::Ambient => write!(f, "cannot keep the capabilities"),
            Step::NoNewPrivs => write!(f, "cannot set no_new_privs"),
            Step::Seccomp => write!(f, "cannot restrict the system calls"),
        }
    }
}

pub fn plan(mut o: Options) -> Result<Plan> {
    // Named beside --jail, --caps also lives on in a program of another user; its own set does not.
    let named_caps = o.caps.is_some();
    if o.jail {
        add_jail(&mut o)?;
    }
    o.seccomp = o.seccomp.filter(|profile| *profile != Profile::None);
    check(&o)?;
    let kinds = kinds(&o);
    let fork =
        o.fork || o.init || o.kill_child.is_some() || o.forward_signals.is_some() || o.pid_file.is_some();
    let files = files(&o);
    if !fork && files.iter().any(|(kind, _)| kind.flag == CloneFlags::CLONE_NEWPID) {
        let error = anyhow::anyhow!("a pid namespace without a process cannot be kept in a file");
        return Err(hint(error, "add --fork (-f)"));
    }
    Ok(Plan {
        close_fds: o.close_fds,
        keep_fds: std::mem::take(&mut o.keep_fds),
        fstab: o.fstab.clone(),
        seccomp: o.seccomp.clone().map(|profile| (profile, o.caps.unwrap_or(Caps::ALL))),
        early: early(&o, kinds),
        kinds,
        before: before(&mut o),
        world: world(&mut o, kinds, fork),
        after: after(&mut o, kinds, named_caps),
        ids: ids(&mut o),
        fork: fork.then_some(Fork {
            kill_child: o.kill_child,
            forward: o.forward_signals,
            pid_file: o.pid_file,
        }),
        files,
        init: o.init,
        environment: o.environment,
        argv: o.argv,
    })
}

/// The default level of a ship; what else is given adds to it or, like --caps, replaces a part.
fn add_jail(o: &mut Options) -> Result<()> {
    o.kinds
        .extend(['m', 'u', 'i', 'p', 'C'].map(|l| (ns::by_letter(l).expect("a letter of the table"), None)));
    o.kill_child.get_or_insert(libc::SIGKILL);
    if o.forward_signals.is_none() {
        o.forward_signals = Some(signals::to_forward(None)?);
    }
    if o.caps.is_none() {
        o.caps = Some(Caps::parse("default")?);
    }
    o.mount_proc.get_or_insert("/proc".into());
    (o.fork, o.init, o.new_keyring, o.close_fds) = (true, true, true, true);
    (o.mount_sys, o.mount_dev, o.mask_paths) = (true, true, true);
    o.seccomp.get_or_insert(Profile::Default);
    Ok(())
}

/// What excludes or needs what.
fn check(o: &Options) -> Result<()> {
    let own_group_map = o.map_group.is_some() && o.map_groups.is_empty() && o.owner.is_none();
    if o.setgroups == Some(Setgroups::Allow) && own_group_map {
        bail!("options --setgroups=allow and --map-group are mutually exclusive");
    }
    if (o.monotonic.is_some() || o.boottime.is_some()) && !kinds(o).contains(ns::NEWTIME) {
        bail!("options --monotonic and --boottime require unsharing of a time namespace (-T)");
    }
    if o.root.is_some() && o.pivot_root.is_some() {
        bail!("options --root and --pivot-root are mutually exclusive");
    }
    if o.pivot_root.is_some() && o.propagation == Propagation::Set(MsFlags::MS_SHARED) {
        bail!("--pivot-root and --propagation shared exclude each other, see pivot_root(2)");
    }
    if !o.keep_fds.is_empty() && !o.close_fds {
        bail!("--keep-fd needs --close-fds");
    }
    Ok(())
}

/// True when something is mounted.
fn mounts(o: &Options) -> bool {
    o.fstab.is_some()
        || o.mount_proc.is_some()
        || o.mount_binfmt.is_some()
        || o.mount_sys
        || o.mount_dev
        || o.mask_paths
}

/// The namespaces that are named and those that are implied.
fn kinds(o: &Options) -> CloneFlags {
    let maps =
        o.map_user.is_some() || o.map_group.is_some() || !o.map_users.is_empty() || !o.map_groups.is_empty();
    let mut kinds = o.kinds.iter().fold(CloneFlags::empty(), |all, (kind, _)| all | kind.flag);
    for (flag, implied) in [
        (CloneFlags::CLONE_NEWNS, mounts(o) || o.pivot_root.is_some()),
        (CloneFlags::CLONE_NEWUTS, o.hostname.is_some()),
        (CloneFlags::CLONE_NEWNET, o.loopback),
        (CloneFlags::CLONE_NEWPID, o.init),
        (CloneFlags::CLONE_NEWUSER, maps || o.owner.is_some() || o.mount_binfmt.is_some()),
    ] {
        kinds.set(flag, implied || kinds.contains(flag));
    }
    kinds
}

/// The namespaces that are kept in files; of two files for one the last.
fn files(o: &Options) -> Vec<(&'static Kind, PathBuf)> {
    let last = |kind: &'static Kind| {
        let mut named = o.kinds.iter().rev().filter(|(other, _)| other.flag == kind.flag);
        let file = named.find_map(|(_, file)| file.clone())?;
        Some((kind, file))
    };
    ns::KINDS.iter().filter_map(last).collect()
}

fn early(o: &Options, kinds: CloneFlags) -> Vec<Step> {
    let mut steps: Vec<_> = o.nice.map(Step::Nice).into_iter().collect();
    if kinds.contains(CloneFlags::CLONE_NEWUSER) {
        steps.extend(o.rlimits.iter().copied().map(Step::Raise));
    }
    steps
}

fn ids(o: &mut Options) -> Ids {
    let clock = |number, offset: Option<i64>| offset.map(|seconds| (number, seconds));
    Ids {
        owner: o.owner,
        user: o.map_user.take(),
        group: o.map_group.take(),
        users: std::mem::take(&mut o.map_users),
        groups: std::mem::take(&mut o.map_groups),
        setgroups: o.setgroups,
        clocks: clock(7, o.boottime).into_iter().chain(clock(1, o.monotonic)).collect(),
    }
}

fn before(o: &mut Options) -> Vec<Step> {
    let mut steps: Vec<_> = o.hostname.take().map(Step::Hostname).into_iter().collect();
    steps.extend(o.loopback.then_some(Step::Loopback));
    steps
}

fn world(o: &mut Options, kinds: CloneFlags, fork: bool) -> Option<World> {
    let mounts = mounts(o);
    let mount_proc = o.mount_proc.take();
    let moved = o.root.is_some() || o.pivot_root.is_some();
    // /proc/sys/fs/binfmt_misc needs a proc. A new one can be had in a new pid namespace alone; elsewhere the
    // one that is there serves (util-linux tries, and says that /proc cannot be mounted).
    let in_proc = o.mount_binfmt == Some(None);
    let new_pids = kinds.contains(CloneFlags::CLONE_NEWPID) && fork;
    let world = World {
        propagation: match o.propagation {
            _ if !kinds.contains(CloneFlags::CLONE_NEWNS) => None,
            Propagation::Default => Some(MsFlags::MS_PRIVATE),
            Propagation::Set(mode) => Some(mode),
            Propagation::Unchanged => None,
        },
        mount_proc: mount_proc.or_else(|| (in_proc && (new_pids || moved)).then(|| "/proc".into())),
        mount_binfmt: o.mount_binfmt.take().map(|dir| dir.unwrap_or("/proc/sys/fs/binfmt_misc".into())),
        load_interp: o.load_interp.take(),
        root: match (o.root.take(), o.pivot_root.take()) {
            (Some(dir), _) => Root::Chroot(dir),
            (_, Some(dir)) => Root::Pivot(dir),
            _ => Root::Same,
        },
        wd: o.wd.clone(),
        mount_sys: o.mount_sys,
        mount_dev: o.mount_dev,
        mask_paths: o.mask_paths,
        bind_devices: kinds.contains(CloneFlags::CLONE_NEWUSER),
        mounts,
    };
    (mounts || world.root != Root::Same || world.propagation.is_some()).then_some(world)
}

fn after(o: &mut Options, kinds: CloneFlags, named_caps: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    steps.extend(o.wd.take().map(Step::Chdir));
    steps.extend(o.new_session.then_some(Step::NewSession));
    steps.extend(o.new_keyring.then_some(Step::NewKeyring));
    steps.extend(o.rlimits.iter().copied().map(Step::Limit));
    steps.extend(o.caps.map(Step::Bounding));
    // The kernel wants CAP_SYS_ADMIN for it, or no_new_privs: then it can go last, and a filter from a file
    // need not allow what is done here.
    steps.extend((o.seccomp.is_some() && !o.no_new_privs).then_some(Step::Seccomp));
    if let Some(gid) = o.setgid {
        steps.extend([Step::Setgroups, Step::Setgid(gid)]);
    }
    let keeps = named_caps && o.setuid.is_some_and(|uid| uid != 0);
    steps.extend(o.setuid.map(if keeps { Step::SetuidKeepingCaps } else { Step::Setuid }));
    steps.extend(o.caps.map(Step::Caps));
    let keep_all = o.keep_caps && kinds.contains(CloneFlags::CLONE_NEWUSER);
    steps.extend((keeps || keep_all).then_some(Step::Ambient));
    steps.extend(o.no_new_privs.then_some(Step::NoNewPrivs));
    steps.extend((o.seccomp.is_some() && o.no_new_privs).then_some(Step::Seccomp));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut Options)) -> Result<Plan> {
        let mut options = Options::default();
        change(&mut options);
        plan(options)
    }

    fn named(word: &str) -> (&'static Kind, Option<PathBuf>) {
        (ns::by_word(word).unwrap(), None)
    }

    #[test]
    fn of_two_files_the_last_is_meant() {
        let net = |file: Option<&str>| (ns::by_word("net").unwrap(), file.map(PathBuf::from));
        let plan = with(|o| o.kinds = vec![net(Some("/a")), net(Some("/b")), net(None)]).unwrap();
        assert_eq!(plan.files.iter().map(|(_, file)| file.to_str().unwrap()).collect::<Vec<_>>(), ["/b"]);
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
        assert!(with(|o| o.forward_signals = Some(SigSet::empty())).unwrap().fork.is_some());
        assert!(with(|o| o.pid_file = Some("p".into())).unwrap().fork.is_some());
        let init = with(|o| o.init = true).unwrap();
        assert!(init.fork.is_some() && init.kinds.contains(CloneFlags::CLONE_NEWPID));
    }

    #[test]
    fn contradictions_are_refused() {
        let both = with(|o| (o.root, o.pivot_root) = (Some("a".into()), Some("b".into())));
        assert!(both.unwrap_err().to_string().contains("mutually exclusive"));
        let groups = with(|o| (o.map_group, o.setgroups) = (Some(Single::Current), Some(Setgroups::Allow)));
        assert!(groups.unwrap_err().to_string().contains("mutually exclusive"));
        assert!(with(|o| o.keep_fds = vec![3]).is_err());
    }

    #[test]
    fn jail_leaves_what_was_said_beside_it() {
        let plan = with(|o| (o.jail, o.caps, o.kill_child) = (true, Some(Caps::NONE), Some(15))).unwrap();
        assert!(plan.after.contains(&Step::Caps(Caps::NONE)));
        assert_eq!(plan.fork.unwrap().kill_child, Some(15));
        let plan = with(|o| o.jail = true).unwrap();
        assert!(plan.after.contains(&Step::Caps(Caps::parse("default").unwrap())));
        assert!(plan.init && plan.close_fds && plan.world.unwrap().mask_paths);
    }

    #[test]
    fn another_user_keeps_only_the_capabilities_that_were_named() {
        let after = |change: fn(&mut Options)| with(change).unwrap().after;
        let named = after(|o| (o.caps, o.setuid) = (Some(Caps(1)), Some(33)));
        assert!(named.contains(&Step::SetuidKeepingCaps(33)) && named.contains(&Step::Ambient));
        let jail = after(|o| (o.jail, o.setuid) = (true, Some(33)));
        assert!(jail.contains(&Step::Setuid(33)) && !jail.contains(&Step::Ambient));
        let root = after(|o| (o.caps, o.setuid) = (Some(Caps(1)), Some(0)));
        assert!(!root.contains(&Step::Ambient));
    }

    #[test]
    fn capabilities_of_a_user_namespace_are_kept_in_one_only() {
        let ambient = |user| {
            let kind = named(if user { "user" } else { "uts" });
            with(|o| (o.keep_caps, o.kinds) = (true, vec![kind])).unwrap().after.contains(&Step::Ambient)
        };
        assert!(ambient(true) && !ambient(false));
    }

    #[test]
    fn a_pid_namespace_is_kept_only_with_a_process_in_it() {
        let keep = |o: &mut Options| {
            o.kinds = vec![(ns::by_word("pid").unwrap(), Some("f".into()))];
        };
        assert!(with(keep).is_err());
        assert!(
            with(|o| {
                keep(o);
                o.fork = true
            })
            .is_ok()
        );
    }

    #[test]
    fn binfmt_gets_a_new_proc_where_one_can_be_had() {
        let proc = |o: fn(&mut Options)| with(o).unwrap().world.unwrap().mount_proc;
        assert_eq!(proc(|o| o.mount_binfmt = Some(None)), None);
        assert_eq!(proc(|o| (o.mount_binfmt, o.init) = (Some(None), true)), Some("/proc".into()));
        assert_eq!(proc(|o| (o.mount_binfmt, o.init) = (Some(Some("/b".into())), true)), None);
    }

    #[test]
    fn clocks_need_a_time_namespace() {
        assert!(with(|o| o.boottime = Some(1)).unwrap_err().to_string().contains("(-T)"));
        let plan =
            with(|o| (o.monotonic, o.boottime, o.kinds) = (Some(-1), Some(2), vec![named("time")])).unwrap();
        assert_eq!(plan.ids.clocks, [(7, 2), (1, -1)]);
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
        assert_eq!(steps(false), [bounding, Step::Seccomp, Step::SetuidKeepingCaps(1), caps, Step::Ambient]);
        assert_eq!(steps(true).last(), Some(&Step::Seccomp));
        assert_eq!(with(|o| o.seccomp = Some(Profile::None)).unwrap().after, []);
    }

    #[test]
    fn capabilities_go_last_but_for_no_new_privs() {
        let plan = with(|o| (o.caps, o.setuid, o.new_session) = (Some(Caps::NONE), Some(1), true)).unwrap();
        assert_eq!(plan.after[plan.after.len() - 2..], [Step::Caps(Caps::NONE), Step::Ambient]);
    }
}
