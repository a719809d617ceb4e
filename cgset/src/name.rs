//! name: of groups, from the command line: none that leads elsewhere, none of a control file.

use std::path::Path;

use anyhow::Result;
use unshare::fail::{hint, usage};

/// A checked name: relative, without "." or "..", never a control file's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group(pub String);

/// Below what a group lies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Parent {
    /// The root of each tree; for a user who was given the group that cgset runs in, that.
    #[default]
    Usual,
    Root,
    Own,
    Group(Group),
}

pub fn parent(word: &str) -> Result<Parent> {
    Ok(match word {
        "/" => Parent::Root,
        "." => Parent::Own,
        name => Parent::Group(group(name)?),
    })
}

/// Beginnings of the names of control files; a directory of such a name would shadow the file of a
/// controller that is not enabled yet, and the kernel refuses some of them (cgroup-v2.rst, "Conventions").
const CONTROL_FILES: [&str; 14] = [
    "cgroup.", "memory.", "pids.", "cpu.", "cpuacct.", "cpuset.", "io.", "blkio.", "devices.", "freezer.",
    "hugetlb.", "rdma.", "misc.", "dmem.",
];
const CONTROL_FILES_V1: [&str; 3] = ["tasks", "notify_on_release", "release_agent"];

pub fn group(name: &str) -> Result<Group> {
    let refuse = |why: &str| Err(usage(format!("'{}' cannot be a group: {why}", name.escape_debug())));
    if name.contains('=') {
        let error = usage(format!("'{}' cannot be a group: it looks like a word", name.escape_debug()));
        return Err(hint(error, "the group comes first: cgset GROUP mem=100M"));
    }
    if name.is_empty() {
        return refuse("the name is empty");
    }
    if Path::new(name).is_absolute() {
        return refuse("the name must be relative, as in 'web' or 'farm/web'");
    }
    if name.len() > 4000 {
        return refuse("the name is longer than a path may be");
    }
    for part in name.split('/') {
        if part.is_empty() || part == "." || part == ".." {
            return refuse("no part of it may be empty, '.' or '..'");
        }
        if part.len() > 255 {
            return refuse("a part of it is longer than 255 bytes");
        }
        // The kernel refuses a newline itself: /proc/PID/cgroup could not be read any more.
        if part.chars().any(char::is_control) {
            return refuse("it holds a control character");
        }
        if CONTROL_FILES_V1.contains(&part) || CONTROL_FILES.iter().any(|file| part.starts_with(file)) {
            return refuse(&format!("'{part}' is, or may become, the name of a control file"));
        }
    }
    Ok(Group(name.into()))
}

#[cfg(test)]
mod tests {
    use unshare::fail::Usage;

    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = "x".repeat(256);
        for name in
            ["", "/web", "a//b", "a/", "../x", "a/../b", ".", "tasks", "memory.max", "a/cgroup.procs", "a\nb"]
        {
            assert!(group(name).unwrap_err().is::<Usage>(), "{name:?}");
        }
        assert!(group(&long).is_err());
        assert_eq!(group("farm/ship-web.1").unwrap().0, "farm/ship-web.1");
    }

    #[test]
    fn whatever_is_taken_stays_below() {
        let pieces = ["a", "/", ".", "..", "\n", "memory.", "tasks", "é", " ", "=", "\u{1b}", "-"];
        crate::fuzz::mixed(&pieces, 8, |text| {
            if let Ok(Group(name)) = group(text) {
                let below =
                    Path::new(&name).components().all(|c| matches!(c, std::path::Component::Normal(_)));
                assert!(below && !name.contains('\n') && !name.contains('\u{1b}'), "{text:?}");
            }
        });
    }
}
