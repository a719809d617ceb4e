//! refusal: what the kernel's no means here, and what to do about it.

use std::path::Path;

use anyhow::Error;
use nix::errno::Errno;
use unshare::fail::hint;

use crate::files::{self, cannot};
use crate::group;

pub fn to_make(dir: &Path, errno: Errno) -> Error {
    let error = cannot("make group", dir, errno);
    match errno {
        Errno::EACCES | Errno::EPERM => hint(
            error,
            "run it as root, with --parent below a group that is yours, or with --scope where systemd runs",
        ),
        Errno::EROFS => hint(error, "the cgroup tree is mounted read-only here"),
        Errno::EAGAIN => {
            hint(error, "a group above allows no more below it: cgroup.max.descendants, cgroup.max.depth")
        }
        _ => error,
    }
}

/// To hand a v2 controller down.
pub fn to_enable(level: &Path, controller: &str, errno: Errno) -> Error {
    let file = level.join("cgroup.subtree_control");
    let error = cannot(&format!("write '+{controller}' to"), &file, errno);
    match errno {
        Errno::EBUSY => {
            let inside = group::name_them(&group::members(level));
            let text = format!(
                "a v2 group that hands controllers down may hold no processes itself, and in '{}' stand: {inside}; \
                 move them into a group of their own: cgset GROUP --pid N; those of our own group go by --leaf",
                level.display()
            );
            hint(error, text)
        }
        Errno::ENOENT => {
            let why = format!("'{}' has no '{controller}' to hand down", level.display());
            hint(error, why + &by_root(controller))
        }
        Errno::EOPNOTSUPP => hint(error, "the group is threaded: only cpu and pids work there"),
        Errno::EACCES | Errno::EPERM => {
            hint(error, format!("'{}' is not yours", level.display()) + &by_root(controller))
        }
        _ => error,
    }
}

/// How a group gets a controller from above.
fn by_root(controller: &str) -> String {
    const LIFTED: [(&str, &str); 4] =
        [("memory", "mem"), ("pids", "procs"), ("cpu", "cpu"), ("cpuset", "cpus")];
    let word = LIFTED.iter().find(|(name, _)| *name == controller);
    word.map_or(String::new(), |(_, word)| format!("; as root: cgset GROUP {word}=max, for the group above"))
}

/// Why the kernel lets nobody in.
pub fn to_enter(error: Error, file: &Path, errno: Errno) -> Error {
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

pub fn to_write(file: &Path, value: &str, errno: Errno) -> Error {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or("");
    let what = match errno {
        Errno::EISDIR => "open".to_owned(),
        _ => format!("write '{value}' to"),
    };
    let error = cannot(&what, file, errno);
    match (name, errno) {
        ("memory.limit_in_bytes" | "memory.memsw.limit_in_bytes", Errno::EBUSY) => {
            hint(error, "more than that is in use: stop something in the group first")
        }
        ("cpu.cfs_quota_us", Errno::EINVAL) => {
            hint(error, "on v1 a group may not have more than the one above it: raise that first")
        }
        ("cpuset.cpus" | "cpuset.mems", Errno::EINVAL | Errno::EACCES | Errno::ERANGE | Errno::ENOSPC) => {
            let above = file.ancestors().nth(2).unwrap_or(file);
            let has = cpuset_above(above, name).unwrap_or_default();
            hint(
                error,
                format!("the group above has '{has}'; a group that is in use needs at least one of them"),
            )
        }
        ("io.max", Errno::ENODEV) => hint(error, "is that a disk? lsblk lists them"),
        ("io.max", Errno::EINVAL) => hint(error, "it takes bare numbers; with a unit: write=/dev/sda:1M"),
        (_, Errno::EACCES | Errno::EPERM) => hint(error, "run it as root"),
        _ => error,
    }
}

/// What the group above may use: on v2 its own list is most often empty.
fn cpuset_above(dir: &Path, name: &str) -> Option<String> {
    let names = [format!("{name}.effective"), name.to_owned()];
    names.iter().find_map(|name| files::read(&dir.join(name)).ok()).map(|text| text.trim().to_owned())
}

/// The words under which limits are known on every host.
const OTHER_NAMES: [(&str, &str); 14] = [
    ("memory.limit_in_bytes", "mem=100M"),
    ("memory.max", "mem=100M"),
    ("memory.memsw.limit_in_bytes", "mem=100M swap=50M"),
    ("memory.swap.max", "swap=50M"),
    ("memory.swappiness", "swappiness=0"),
    ("memory.soft_limit_in_bytes", "high=80M or low=20M, which v2 has instead"),
    ("cpu.shares", "weight=100"),
    ("cpu.weight", "weight=100"),
    ("cpu.cfs_quota_us", "cpu=1.5"),
    ("cpu.max", "cpu=1.5"),
    ("blkio.throttle.read_bps_device", "read=/dev/sda:10M"),
    ("blkio.throttle.write_bps_device", "write=/dev/sda:10M"),
    ("memory.oom.group", "oomgroup=1"),
    ("io.max", "read=/dev/sda:10M write=/dev/sda:10M"),
];

pub fn no_such_file(file: &Path, by_name: bool) -> Error {
    let error = cannot("open", file, Errno::ENOENT);
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or("");
    let hinted = match OTHER_NAMES.iter().find(|(other, _)| by_name && *other == name) {
        Some((_, word)) => format!("on this host there is no such file; the word for every host is {word}"),
        None => "this kernel has no such file; a ? at the end of the value skips it then".into(),
    };
    hint(error, hinted)
}
