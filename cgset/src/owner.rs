//! owner: a group that lives as long as one cgset carries the mark of that cgset (an extended attribute).
//!
//! After kill -9 nobody removes the group; the next run of the same name sees that its owner is gone and
//! clears it away first. The mark is the process number with its start time, so that a number used again
//! is not taken for it, and the pid namespace, in which alone the number means something.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Result, anyhow};
use unshare::fail::hint;

use crate::cli::Request;
use crate::files;
use crate::group::{self, Place};
use crate::layout::Layout;
use crate::remove;
use crate::sys;

/// trusted.* asks for CAP_SYS_ADMIN, and cannot be forged without; user.* serves in a user namespace.
const NAMES: [&str; 2] = ["trusted.cgset.owner", "user.cgset.owner"];

enum Owner {
    /// This many, where the number is known.
    Alive(String),
    Gone,
    None,
}

/// What the mark says: to be made before the group is, so that nothing lies between the group and its mark.
pub fn me() -> Option<String> {
    identity("self")
}

/// Marks `dir`. A file system that holds no marks costs only the clearing after kill -9.
pub fn mark(dir: &Path, me: Option<&String>) {
    let _ = me.is_some_and(|me| NAMES.iter().any(|name| sys::set_xattr(dir, name, me).is_ok()));
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

fn owner(dir: &Path) -> Owner {
    let Some(mark) = NAMES.iter().find_map(|name| sys::get_xattr(dir, name).ok()) else { return Owner::None };
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

/// Clears what a killed run of the same name left; refuses to enter what another run will tear down.
pub fn settle(layout: &Layout, request: &Request) -> Result<()> {
    let name = &request.group.0;
    let place = Place::new(layout, layout.tracker(), request.parent.as_ref(), &request.group)?;
    match owner(&place.path) {
        Owner::Gone if request.runs() => {
            let places = group::existing(layout, request.parent.as_ref(), &request.group)?;
            remove::remove(layout, &places, name)
        }
        // Limits set from outside: from now on the group is the caller's.
        Owner::Gone => {
            let _ = NAMES.iter().any(|name| sys::remove_xattr(&place.path, name).is_ok());
            Ok(())
        }
        Owner::Alive(pid) if request.runs() => {
            let error = anyhow!("group '{name}' belongs to a running cgset ({pid}) and ends with it");
            Err(hint(error, format!("to share a group make it first: cgset {name}; every run then joins it")))
        }
        Owner::Alive(_) | Owner::None => Ok(()),
    }
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
