//! systemd: on a host that it manages, groups that are not delegated are its own; a scope is a group for others.
//!
//! systemd writes its values again at a daemon-reload, and switches controllers off that no unit of its own
//! needs (systemd's docs/CGROUP_DELEGATION.md).

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Error, Result, anyhow};
use nix::unistd::geteuid;
use unshare::fail::{self, hint};

use crate::group::Place;
use crate::layout::Layout;
use crate::request::Request;
use crate::script::quote;
use crate::sys;

/// A warning where the group lies in a part of the tree that systemd has not given away.
pub fn note(layout: &Layout, places: &[Place]) -> Option<String> {
    let place = places.iter().find(|place| place.hierarchy.v2).or(places.first())?;
    if !layout.systemd() || delegated(place) {
        return None;
    }
    let below = place.path.strip_prefix(&place.hierarchy.mount).unwrap_or(&place.path);
    let mut names = below.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
    let is_unit = |name: &String| [".service", ".scope", ".slice"].iter().any(|end| name.ends_with(end));
    Some(match names.rfind(is_unit) {
        Some(unit) => format!(
            "'{}' belongs to systemd, which may write its own values again\n\
             hint: systemctl set-property --runtime {unit} MemoryMax=100M TasksMax=50 CPUQuota=150%",
            below.display()
        ),
        None => format!(
            "systemd manages the groups of this host and has not delegated '{}': it may switch controllers off\n\
             hint: cgset --scope … -- COMMAND runs it in a scope of systemd's that is delegated",
            below.display()
        ),
    })
}

/// A unit with Delegate=yes carries a mark; so do the groups below it, by lying there.
fn delegated(place: &Place) -> bool {
    let marked = |dir: &Path| {
        ["trusted.delegate", "user.delegate"]
            .iter()
            .any(|name| sys::get_xattr(dir, name).as_deref() == Ok("1"))
    };
    place.path.ancestors().take_while(|dir| dir.starts_with(&place.hierarchy.mount)).any(marked)
}

/// Becomes systemd-run, which starts this cgset again in a new scope of its own.
pub fn enter_scope(layout: &Layout, request: &Request) -> Result<()> {
    if !layout.systemd() {
        let error = anyhow!("--scope is for hosts that systemd manages, and it does not run here");
        return Err(hint(error, "without it: cgset GROUP WORD=VALUE... -- COMMAND"));
    }
    let me = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new("systemd-run");
    if !geteuid().is_root() {
        command.arg("--user");
    }
    // --collect: a scope that ends badly would otherwise stay until somebody types reset-failed.
    command.args(["--scope", "--quiet", "--collect", "--property=Delegate=yes"]);
    command.arg(format!("--description=cgset {}", request.group.0)).arg("--").arg(me);
    command.args(["--parent", ".", "--leaf"]).args(std::env::args_os().skip(1));
    if request.options.dry_run {
        let mut words: Vec<String> = command.get_args().map(|word| quote(&word.to_string_lossy())).collect();
        // The first is ours; the command may have one of its own.
        words.iter().position(|word| word == "--dry-run").map(|at| words.remove(at));
        return fail::print(&format!("#!/bin/sh\nexec systemd-run {}\n", words.join(" ")));
    }
    let error = Error::new(command.exec()).context("cannot execute 'systemd-run'");
    Err(hint(error, "it comes with systemd; is it on PATH?"))
}
