//! owner: a group that lives as long as one cgset carries the mark of that cgset (an extended attribute).
//!
//! After kill -9 nobody removes the group; the next run of the same name sees that its owner is gone and
//! clears it away first; levels above it that were made along the way are marked too, and go when they are
//! empty. The mark is the process number with its start time, so that a number used again
//! is not taken for it, and the pid namespace, in which alone the number means something.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;

use crate::files;
use crate::group::{self, Place};
use crate::layout::Layout;
use crate::name::{Group, Parent};
use crate::request::Request;
use crate::sys;

/// trusted.* asks for CAP_SYS_ADMIN, and cannot be forged without; user.* serves in a user namespace.
const NAMES: [&str; 2] = ["trusted.cgset.owner", "user.cgset.owner"];

pub enum Owner {
    /// This many, where the number is known.
    Alive(String),
    Gone,
    None,
}

/// At the end of the mark of a directory above the group: others may use it too.
pub const LEVEL: &str = " level";

/// What the mark says: to be made before the group is, so that nothing lies between the group and its mark.
pub fn me() -> Option<String> {
    identity("self")
}

/// On the directory of a group that a run is making, from its first moment on: the mark comes after.
const UNFINISHED: u32 = 0o1000; // the sticky bit, which means nothing there

/// Longer than anybody takes between the two; after kill -9 in between the bit stays.
const PATIENCE: Duration = Duration::from_secs(1);

/// Makes the directory of a group that will be marked.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o777 | UNFINISHED).create(dir)
}

fn is_unfinished(dir: &Path) -> bool {
    fs::metadata(dir).is_ok_and(|meta| meta.mode() & UNFINISHED != 0)
}

/// Marks `dir`. A file system that holds no marks costs only the clearing after kill -9.
pub fn mark(dir: &Path, me: Option<&String>, level: bool) {
    if let Some(me) = me {
        let text = format!("{me}{}", if level { LEVEL } else { "" });
        let _ = NAMES.iter().any(|name| sys::set_xattr(dir, name, &text).is_ok());
    }
    if let Some(meta) = fs::metadata(dir).ok().filter(|meta| meta.mode() & UNFINISHED != 0) {
        let _ = fs::set_permissions(dir, Permissions::from_mode(meta.mode() & 0o777));
    }
}

pub fn unmark(layout: &Layout, request: &Request) -> Result<()> {
    for place in group::existing(layout, &request.options.parent, &request.group)? {
        let _ = NAMES.iter().any(|name| sys::remove_xattr(&place.path, name).is_ok());
    }
    Ok(())
}

fn read_mark(dir: &Path) -> Option<String> {
    NAMES.iter().find_map(|name| sys::get_xattr(dir, name).ok())
}

fn identity(pid: &str) -> Option<String> {
    let stat = files::read(&Path::new("/proc").join(pid).join("stat")).ok()?;
    let namespace = fs::metadata("/proc/self/ns/pid").ok()?.ino();
    let number = files::first(&stat).to_owned();
    Some(format!("{number} {} {namespace}", start_time(&stat)?))
}

/// Field 22 of proc_pid_stat(5); the name, field 2, may hold spaces and brackets.
fn start_time(stat: &str) -> Option<&str> {
    stat.rsplit_once(") ")?.1.split(' ').nth(19)
}

fn owner(mark: Option<&str>) -> Owner {
    let Some(mark) = mark.map(|mark| mark.trim_end_matches(LEVEL)) else { return Owner::None };
    let mut parts = mark.split(' ');
    let (Some(pid), Some(_), Some(namespace)) = (parts.next(), parts.next(), parts.next()) else {
        return Owner::None;
    };
    let here = fs::metadata("/proc/self/ns/pid").map(|m| m.ino().to_string()).unwrap_or_default();
    if namespace != here {
        // It cannot be seen from here, so it is not declared dead.
        return Owner::Alive("of another pid namespace".into());
    }
    match identity(pid) {
        Some(now) if now == mark => Owner::Alive(pid.to_owned()),
        _ => Owner::Gone,
    }
}

/// Whose it is, where runs of the same name come and go meanwhile. One that ends removes its group, and another
/// may make it anew: who is gone is so only if his mark is still there afterwards.
pub fn read_owner(dir: &Path) -> (Option<String>, Owner) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let unfinished = is_unfinished(dir);
        let mark = read_mark(dir);
        match owner(mark.as_deref()) {
            Owner::None if unfinished && Instant::now() < deadline => thread::sleep(PATIENCE / 1000),
            Owner::Gone if read_mark(dir) != mark => {}
            owner => return (mark, owner),
        }
    }
}

/// False where somebody has claimed a directory that this run made above its group.
pub fn still_mine(dir: &Path) -> bool {
    match read_mark(dir) {
        Some(mark) => {
            matches!(owner(Some(&mark)), Owner::Alive(pid) if pid == std::process::id().to_string())
        }
        // Without marks nobody can claim.
        None => NAMES.iter().any(|name| sys::get_xattr(dir, name) != Err(Errno::ENODATA)),
    }
}

/// The one by which the rest is found last, and only while the rest went: else the next run tries again.
pub fn rmdir_all(places: &[Place]) -> bool {
    places.iter().rev().all(|place| files::rmdir(&place.path).is_ok())
}

/// Removes the empty levels above a group that a killed run has left.
pub fn sweep_levels(layout: &Layout, parent: &Parent, group: &Group) -> Result<()> {
    let mut name = group.0.as_str();
    while let Some((above, _)) = name.rsplit_once('/') {
        name = above;
        let places = group::existing(layout, parent, &Group(name.into()))?;
        let Some(first) = places.first() else { continue };
        let mark = read_mark(&first.path);
        let left = mark.as_ref().is_some_and(|mark| mark.ends_with(LEVEL));
        if !left || !matches!(owner(mark.as_deref()), Owner::Gone) {
            return Ok(());
        }
        if !rmdir_all(&places) {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let fields: Vec<String> = (3..=30).map(|n| n.to_string()).collect();
        let stat = format!("12 (a) b (c) {}\n", fields.join(" "));
        assert_eq!(start_time(&stat), Some("22"));
    }

    #[test]
    fn a_process_is_itself_and_no_other() {
        assert_eq!(identity("self"), identity(&std::process::id().to_string()));
        assert_ne!(identity("self"), identity("1"));
    }
}
