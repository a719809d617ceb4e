//! own: give a group to a user, who may then make groups below it, set limits there and move in what is his.
//!
//! The limits of the group itself stay root's. cgroups(7), "Delegation": the directory, and on v2 the files that
//! /sys/kernel/cgroup/delegate lists; the first process has to be put inside by root.

use anyhow::Result;
use nix::unistd::{Group, User};
use unshare::fail::usage;

use crate::files;
use crate::group::Place;
use crate::layout::Layout;
use crate::step::{Ids, Step};

/// "1000", "1000:1000", "user" or "user:group".
pub fn ids(word: &str) -> Result<Ids> {
    let (user, group) = match word.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (word, None),
    };
    // -1 means "leave it" to chown(2).
    let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n != u32::MAX && !text.starts_with('+'));
    let by_name = |text: &str| User::from_name(text).ok().flatten().map(|user| user.uid.as_raw());
    let group_by_name = |text: &str| Group::from_name(text).ok().flatten().map(|group| group.gid.as_raw());
    let missing = |what: &str, name: &str| usage(format!("there is no {what} '{name}' to own the group"));
    let user = number(user).or_else(|| by_name(user)).ok_or_else(|| missing("user", user))?;
    let find = |name: &str| {
        number(name).or_else(|| group_by_name(name)).ok_or_else(|| missing("group of users", name))
    };
    Ok(Ids { user, group: group.map(find).transpose()? })
}

pub fn step(layout: &Layout, place: &Place, ids: Ids) -> Step {
    const ALWAYS: &str = "cgroup.procs cgroup.threads cgroup.subtree_control";
    let listed = match place.hierarchy.v2 {
        true => files::read(&layout.host("/sys/kernel/cgroup/delegate")).unwrap_or(ALWAYS.into()),
        false => "cgroup.procs tasks".into(),
    };
    let plain = |name: &&str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._".contains(&b));
    let files = listed.split_whitespace().filter(plain).map(str::to_owned).collect();
    Step::Own { dir: place.path.clone(), files, ids }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers_or_names() {
        assert_eq!(ids("1000").unwrap(), Ids { user: 1000, group: None });
        assert_eq!(ids("root:7").unwrap().to_string(), "0:7");
        for text in ["", ":", "1:", "4294967295", "-1", "+5", "no such user", "0:no such group"] {
            assert!(ids(text).is_err(), "{text}");
        }
    }
}
