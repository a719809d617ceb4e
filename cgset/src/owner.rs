//! owner: a group that lives as long as one cgset carries the mark of that cgset (an extended attribute).
//!
//! After kill -9 nobody removes the group; the next run of the same name sees that its owner is gone and
//! clears it away first; levels above it that were made along the way are marked too, and go when they are
//! empty. The mark is the process number with its start time, so that a number used again
//! is not taken for it, and the pid namespace, in which alone the number means something.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

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

/// Marks `dir`. A file system that holds no marks costs only the clearing after kill -9.
pub fn mark(dir: &Path, me: Option<&String>, level: bool) {
    let Some(me) = me else { return };
    let text = format!("{me}{}", if level { LEVEL } else { "" });
    let _ = NAMES.iter().any(|name| sys::set_xattr(dir, name, &text).is_ok());
}

pub fn unmark(layout: &Layout, request: &Request) -> Result<()> {
    for place in group::existing(layout, &request.options.parent, &request.group)? {
        let _ = NAMES.iter().any(|name| sys::remove_xattr(&place.path, name).is_ok());
    }
    Ok(())
}

pub fn read_mark(dir: &Path) -> Option<String> {
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

pub fn owner(mark: Option<&str>) -> Owner {
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
