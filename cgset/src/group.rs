//! group: the directories of one group, one a tree, and who is inside.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use unshare::fail::hint;

use crate::files;
use crate::layout::{Hierarchy, Layout};
use crate::name::{Group, Parent};

/// The directory of the group in one tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub hierarchy: Hierarchy,
    pub path: PathBuf,
}

impl Place {
    pub fn new(layout: &Layout, hierarchy: &Hierarchy, parent: &Parent, group: &Group) -> Result<Place> {
        let below = layout.place(hierarchy, parent, group)?;
        Ok(Place { hierarchy: hierarchy.clone(), path: hierarchy.mount.join(below) })
    }

    /// The file by which a process enters by itself. On v1 "0" written to tasks moves the writing thread,
    /// and for that alone the kernel does not wait for all processors (commit 9a3284fad42f, Linux 5.5): 0.1 ms
    /// instead of 10. A process of one thread is then inside as a whole.
    pub fn entrance(&self) -> PathBuf {
        self.path.join(if self.hierarchy.v2 { "cgroup.procs" } else { "tasks" })
    }
}

/// The places where the group exists now, the tracker's first.
pub fn existing(layout: &Layout, parent: &Parent, group: &Group) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    for hierarchy in &layout.hierarchies {
        let place = Place::new(layout, hierarchy, parent, group)?;
        if place.path.is_dir() {
            places.push(place);
        }
    }
    if let Some(at) = places.iter().position(|place| Some(&place.hierarchy) == layout.tracker()) {
        places[..=at].rotate_right(1);
    }
    Ok(places)
}

/// As `existing`, of a group that must be there.
pub fn found(layout: &Layout, parent: &Parent, group: &Group) -> Result<Vec<Place>> {
    let places = existing(layout, parent, group)?;
    if !places.is_empty() {
        return Ok(places);
    }
    let error = anyhow!("there is no group '{}'", group.0);
    Err(match parent {
        Parent::Usual if layout.below_own(parent) => {
            hint(error, "it was looked for in the group that you were given; --parent / is the root")
        }
        _ => error,
    })
}

/// The group's directory and all below it, the deepest first: the order of removal.
pub fn tree(top: &Path) -> Vec<PathBuf> {
    let mut found = vec![top.to_owned()];
    let mut next = 0;
    while let Some(dir) = found.get(next).cloned() {
        found.extend(below(&dir).into_iter().map(|name| dir.join(name)));
        next += 1;
    }
    found.reverse();
    found
}

/// The names of the groups right below.
pub fn below(dir: &Path) -> BTreeSet<OsString> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.file_name()).collect()
}

/// Whether `on`, the text of cgroup.subtree_control, names a controller. (A fixture's file holds what was written
/// to it: "+memory".)
pub fn hands_down(on: &str, controller: &str) -> bool {
    on.split_whitespace().any(|word| word.trim_start_matches('+') == controller)
}

/// The processes of one directory. 0 stands for one of another pid namespace.
pub fn members(dir: &Path) -> Vec<i32> {
    let text = files::read(&dir.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// All processes of the group, in every tree and below.
pub fn all_members(places: &[Place]) -> Vec<i32> {
    let mut pids: Vec<i32> =
        places.iter().flat_map(|p| tree(&p.path)).flat_map(|dir| members(&dir)).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// "12 (sh), 13 (sleep)": the first few, by name.
pub fn name_them(pids: &[i32]) -> String {
    const MOST: usize = 5;
    let name = |pid: &i32| match files::read(Path::new(&format!("/proc/{pid}/comm"))) {
        Ok(comm) => format!("{pid} ({})", comm.trim_end()),
        Err(_) if *pid == 0 => "one of another pid namespace".into(),
        Err(_) => pid.to_string(),
    };
    let mut text = pids.iter().take(MOST).map(name).collect::<Vec<_>>().join(", ");
    if pids.len() > MOST {
        text += &format!(" and {} more", pids.len() - MOST);
    }
    text
}

/// Whoever kills or freezes his own group does not live to end it.
pub fn not_ourselves(layout: &Layout, places: &[Place], what: &str) -> Result<()> {
    let me = std::process::id();
    for Place { hierarchy, path } in places {
        if layout.standing(hierarchy, "self").is_ok_and(|own| hierarchy.mount.join(own).starts_with(path)) {
            let error = anyhow!("cannot {what}: cgset itself ({me}) runs in it");
            return Err(hint(error, "call it from outside of the group"));
        }
    }
    Ok(())
}
