//! settle: before a group is used: what a killed run of the same name left goes; what another run owns is left alone.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Error, Result, anyhow, bail};
use unshare::fail::hint;

use crate::group::{self, Place};
use crate::layout::Layout;
use crate::owner::{LEVEL, Owner, read_owner, rmdir_all, sweep_levels, unmark};
use crate::plan;
use crate::remove;
use crate::request::Request;
use crate::step::Plan;

/// A plan for a group that nobody else is about to remove.
pub fn plan(layout: &Layout, request: &Request) -> Result<Plan> {
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        settle(layout, request)?;
        let plan = plan::plan(layout, request)?;
        if plan.fresh || !request.runs() || is_free(layout, request)? {
            return Ok(plan);
        }
    }
    bail!("group '{}' is made and removed by others all the time", request.group.0)
}

/// Clears what a killed run of the same name left; refuses to enter what another run will tear down.
fn settle(layout: &Layout, request: &Request) -> Result<()> {
    let name = &request.group.0;
    let Some(tracker) = layout.tracker() else { return Ok(()) };
    let place = Place::new(layout, tracker, &request.options.parent, &request.group)?;
    let (mark, owner) = read_owner(&place.path);
    let level = mark.as_ref().is_some_and(|mark| mark.ends_with(LEVEL));
    match owner {
        // Groups of others may lie below a level: it goes only when it is empty.
        Owner::Gone if request.runs() && level => {
            let places = group::existing(layout, &request.options.parent, &request.group)?;
            rmdir_all(&places);
            Ok(())
        }
        Owner::Gone if request.runs() => {
            let places = group::existing(layout, &request.options.parent, &request.group)?;
            remove::remove(layout, &places, name)?;
            sweep_levels(layout, &request.options.parent, &request.group)
        }
        // Set from outside, it is the caller's from now on: no run removes it any more.
        Owner::Gone => unmark(layout, request),
        Owner::Alive(_) if level && !request.runs() => unmark(layout, request),
        Owner::Alive(_) if level => Ok(()),
        Owner::Alive(pid) if request.runs() => Err(taken(name, &pid)),
        Owner::Alive(_) | Owner::None => Ok(()),
    }
}

fn taken(name: &str, pid: &str) -> Error {
    let error = anyhow!("group '{name}' belongs to a running cgset ({pid}) and ends with it");
    hint(error, format!("to share a group make it first: cgset {name}; every run then joins it"))
}

/// To be asked of a group that a plan has found: another run may have made it after `settle` looked, and would
/// kill who joins. False where it is gone again, and all must be looked at anew. Of one open directory, as by its
/// name it may be another at every call.
fn is_free(layout: &Layout, request: &Request) -> Result<bool> {
    let Some(tracker) = layout.tracker() else { return Ok(true) };
    let place = Place::new(layout, tracker, &request.options.parent, &request.group)?;
    let Ok(dir) = File::open(&place.path) else {
        // Made by others in some tree alone, or gone.
        return Ok(!group::existing(layout, &request.options.parent, &request.group)?.is_empty());
    };
    Ok(match read_owner(Path::new(&format!("/proc/self/fd/{}/.", dir.as_raw_fd()))) {
        (Some(mark), _) if mark.ends_with(LEVEL) => true,
        (_, Owner::Alive(pid)) => return Err(taken(&request.group.0, &pid)),
        (_, Owner::Gone) => false,
        (_, Owner::None) => true,
    })
}
