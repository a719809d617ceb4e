//! settle: before a group is used: what a killed run of the same name left goes; what another run owns is left alone.

use anyhow::{Result, anyhow};
use unshare::fail::hint;

use crate::group::{self, Place};
use crate::layout::Layout;
use crate::owner::{LEVEL, Owner, owner, read_mark, rmdir_all, sweep_levels, unmark};
use crate::remove;
use crate::request::Request;

/// Clears what a killed run of the same name left; refuses to enter what another run will tear down.
pub fn settle(layout: &Layout, request: &Request) -> Result<()> {
    let name = &request.group.0;
    let Some(tracker) = layout.tracker() else { return Ok(()) };
    let place = Place::new(layout, tracker, &request.options.parent, &request.group)?;
    let mark = read_mark(&place.path);
    let level = mark.as_ref().is_some_and(|mark| mark.ends_with(LEVEL));
    match owner(mark.as_deref()) {
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
        Owner::Alive(pid) if request.runs() => {
            let error = anyhow!("group '{name}' belongs to a running cgset ({pid}) and ends with it");
            Err(hint(error, format!("to share a group make it first: cgset {name}; every run then joins it")))
        }
        Owner::Alive(_) | Owner::None => Ok(()),
    }
}
