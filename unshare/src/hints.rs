//! hints: what to type when the kernel says no. All of this runs after a failure only.

use std::fs;
use std::path::Path;

use anyhow::Error;
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::geteuid;
use unshare::fail::hint;
use unshare::ns::{KINDS, Kind};

/// The Linux that each kind came with (namespaces(7)).
fn since(kind: &Kind) -> &'static str {
    match kind.word {
        "user" | "pid" => "3.8",
        "cgroup" => "4.6",
        "time" => "5.6",
        "net" => "2.6.29",
        "mount" => "2.4.19",
        _ => "2.6.19",
    }
}

pub fn on_unshare(error: Error, kinds: CloneFlags) -> Error {
    let user = kinds.contains(CloneFlags::CLONE_NEWUSER);
    match errno_of(&error) {
        Some(Errno::EPERM) if !user && !geteuid().is_root() => {
            hint(error, "run it as root, or add --map-root-user (-r)")
        }
        Some(Errno::EPERM) if user => on_user_namespace(error),
        Some(Errno::ENOSPC | Errno::EUSERS) => on_limit(error, kinds),
        Some(Errno::EINVAL) => {
            let missing = KINDS
                .iter()
                .find(|kind| kinds.contains(kind.flag) && !Path::new("/proc/self").join(kind.file).exists());
            match missing {
                Some(kind) => {
                    let text = format!("this kernel has no {} namespaces (Linux {})", kind.word, since(kind));
                    hint(error, text)
                }
                None => error,
            }
        }
        _ => error,
    }
}

/// unshare(2) or, under AppArmor, the first thing that needs the rights in the new user namespace.
fn on_user_namespace(error: Error) -> Error {
    if let Some(switch) = switched_off() {
        return hint(error, switch);
    }
    if in_chroot() {
        return hint(error, "a process in a chroot(2) may not make user namespaces: use --pivot-root there");
    }
    error
}

/// The system's own switch against user namespaces, if it is on.
fn switched_off() -> Option<&'static str> {
    if number("kernel/unprivileged_userns_clone") == Some(0) {
        return Some("user namespaces are switched off: sysctl -w kernel.unprivileged_userns_clone=1");
    }
    if number("kernel/apparmor_restrict_unprivileged_userns").is_some_and(|n| n != 0) {
        return Some(
            "AppArmor takes the rights in new user namespaces away: \
             sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        );
    }
    None
}

/// The limits of namespaces(7); at most 32 levels of user and pid namespaces end with the same error.
fn on_limit(error: Error, kinds: CloneFlags) -> Error {
    let limit = |kind: &Kind| {
        let file = if kind.word == "mount" { "mnt" } else { kind.word };
        format!("max_{file}_namespaces")
    };
    let asked: Vec<(String, u64)> = KINDS
        .iter()
        .filter(|kind| kinds.contains(kind.flag))
        .filter_map(|kind| Some((limit(kind), number(&format!("user/{}", limit(kind)))?)))
        .collect();
    match asked.iter().min_by_key(|(_, value)| *value) {
        Some((name, value)) => {
            let text = format!("sysctl -w user.{name}=N (now {value}; 32 levels of nesting are the most)");
            hint(error, text)
        }
        None => error,
    }
}

pub fn on_map(error: Error) -> Error {
    match errno_of(&error) {
        Some(Errno::EPERM | Errno::EACCES) if !geteuid().is_root() => match switched_off() {
            Some(switch) => hint(error, switch),
            None => error,
        },
        _ => error,
    }
}

pub fn on_fork(error: Error) -> Error {
    match errno_of(&error) {
        Some(Errno::ENOMEM) => {
            hint(error, "the pid namespace has lost its process 1: make it with --fork (-f)")
        }
        _ => error,
    }
}

pub fn on_bind(error: Error, kind: &Kind, file: &Path) -> Error {
    match errno_of(&error) {
        Some(Errno::EINVAL) if kind.word == "mount" && on_shared_mount(file) => {
            let dir = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).display();
            hint(
                error,
                format!("it is on a shared mount: mount --bind {dir} {dir}; mount --make-private {dir}"),
            )
        }
        Some(Errno::ENOENT) if file.as_os_str().is_empty() => hint(error, "name a file that is there"),
        Some(Errno::ENOENT) if !file.exists() => hint(error, format!("touch {}", file.display())),
        Some(Errno::ENOENT) if kind.file != kind.for_children => {
            hint(error, format!("this kernel has no {} (Linux 4.12; time namespaces 5.6)", kind.for_children))
        }
        _ => error,
    }
}

pub fn on_propagation(error: Error) -> Error {
    match errno_of(&error) {
        Some(Errno::EINVAL) => hint(error, "/ is not a mount point (a chroot?): --propagation unchanged"),
        Some(Errno::EPERM | Errno::EACCES) => on_map(error),
        _ => error,
    }
}

/// A new proc needs a pid namespace of the same user namespace, and a whole proc in sight.
pub fn on_proc(error: Error) -> Error {
    match errno_of(&error) {
        Some(Errno::EPERM) if nix::unistd::getpid().as_raw() != 1 => {
            hint(error, "a new /proc in a user namespace needs a new pid namespace: add --pid --fork")
        }
        Some(Errno::EPERM) => {
            hint(error, "the /proc outside is partly hidden, as in a container: bind that one instead")
        }
        _ => error,
    }
}

/// Descriptors are found by way of /proc.
pub fn without_proc(error: Error) -> Error {
    match errno_of(&error) {
        Some(Errno::ENOENT) if !Path::new("/proc/self").exists() => hint(error, "mount -t proc proc /proc"),
        _ => error,
    }
}

pub fn on_binfmt(error: Error) -> Error {
    match errno_of(&error) {
        Some(Errno::ENODEV) => hint(error, "this kernel has no binfmt_misc: modprobe binfmt_misc"),
        Some(Errno::EPERM) => hint(error, "a user namespace has its own binfmt_misc since Linux 6.7"),
        Some(Errno::EACCES) => hint(error, "map a user, as --map-root-user does"),
        _ => error,
    }
}

pub fn on_setgroups(error: Error) -> Error {
    let denied = fs::read_to_string("/proc/self/setgroups").is_ok_and(|word| word.trim() == "deny");
    match errno_of(&error) {
        Some(Errno::EPERM) if denied => hint(
            error,
            "groups that the caller maps himself deny setgroups(2): use --map-groups, as in --map-auto",
        ),
        _ => error,
    }
}

/// Said before a program starts that has nearly surely been started wrongly.
pub fn pid_without_fork(program: Option<&std::ffi::OsStr>) -> Option<&'static str> {
    const SHELLS: [&str; 9] = ["sh", "bash", "dash", "zsh", "fish", "ksh", "tcsh", "csh", "ash"];
    let shell =
        program.is_none_or(|p| Path::new(p).file_name().is_some_and(|n| SHELLS.iter().any(|s| n == *s)));
    shell.then_some(
        "--pid without --fork (-f): the first child becomes process 1, and after its end no other starts",
    )
}

fn number(sysctl: &str) -> Option<u64> {
    fs::read_to_string(Path::new("/proc/sys").join(sysctl)).ok()?.trim().parse().ok()
}

/// In a chroot the root is nearly never a mount point; the fifth field of mountinfo is that.
fn in_chroot() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    !mounts.is_empty() && !mounts.lines().any(|line| line.split(' ').nth(4) == Some("/"))
}

/// Whether the innermost mount that holds `file` is shared, as the optional fields of mountinfo say.
fn on_shared_mount(file: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Ok(file) = fs::canonicalize(file) else { return false };
    let point = |line: &str| line.split(' ').nth(4).map(str::to_owned).unwrap_or_default();
    let holding = mounts.lines().filter(|line| file.starts_with(point(line)));
    // Of two on the same place the later one is seen.
    holding.max_by_key(|line| point(line).len()).is_some_and(|line| line.contains(" shared:"))
}

/// The kernel's answer somewhere below, in either of the two types that carry it.
fn errno_of(error: &Error) -> Option<Errno> {
    error.chain().find_map(|cause| {
        let system = || cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        cause.downcast_ref::<Errno>().copied().or_else(|| system().map(Errno::from_raw))
    })
}
