//! plan: every rule between the words and the host, as a list of steps; reads, and writes nothing.

use std::path::{Path, PathBuf};

use anyhow::{Error, Result, anyhow, bail};
use unshare::fail::{hint, usage};

use crate::files;
use crate::group::{self, Place};
use crate::layout::{Hierarchy, LEAF, Layout};
use crate::limits::Rules;
use crate::name::Parent;
use crate::own;
use crate::request::{Options, Request};
use crate::step::{Plan, Step};
use crate::systemd;
use crate::words::{Knob, Word};

pub fn plan(layout: &Layout, request: &Request) -> Result<Plan> {
    let words = offered(layout, &request.words)?;
    let existing = group::existing(layout, &request.options.parent, &request.group)?;
    let mut plan = Plan {
        steps: Vec::new(),
        places: Vec::new(),
        fresh: existing.is_empty(),
        as_unit: as_unit(layout, &words, request.runs()),
        notes: notes(layout, &words),
    };
    below(layout, request)?;
    stand(&mut plan, layout, request, &words, &existing)?;
    plan.notes.extend(systemd::note(layout, &plan.places));
    for place in &plan.places {
        let words = words.iter().copied().filter(|w| layout.home_of(w) == Some(&place.hierarchy)).collect();
        let rules = Rules { layout, place, words, force: request.options.force, runs: request.runs() };
        plan.steps.extend(rules.steps()?);
    }
    if let Some(word) = &request.options.own {
        let ids = own::ids(word)?;
        plan.steps.extend(plan.places.iter().map(|place| own::step(layout, place, ids)));
    }
    let newcomers = plan.places.iter().filter(|place| !plan.fresh && !place.path.is_dir());
    let from: Vec<PathBuf> = existing.iter().map(|place| place.path.clone()).collect();
    let gather = newcomers.map(|place| Step::Gather { from: from.clone(), into: place.clone() });
    plan.steps.extend(gather.collect::<Vec<_>>());
    moves(&mut plan, layout, request)?;
    Ok(plan)
}

/// There must be something to put the group below.
fn below(layout: &Layout, request: &Request) -> Result<()> {
    let Options { parent, leaf, .. } = &request.options;
    if *leaf && !layout.below_own(parent) {
        return Err(usage("--leaf belongs to --parent ."));
    }
    match parent {
        Parent::Group(above) if group::existing(layout, &Parent::Root, above)?.is_empty() => {
            bail!("there is no group '{}' to put '{}' below", above.0, request.group.0)
        }
        _ => Ok(()),
    }
}

/// The group's directory in each tree that it needs: the tracker, those of the words, and where it is already.
fn stand(
    plan: &mut Plan,
    layout: &Layout,
    request: &Request,
    words: &[&Word],
    existing: &[Place],
) -> Result<()> {
    // Time used is counted by a tree of its own on v1.
    let counted = |h: &Hierarchy| request.wants_time() && h.has("cpuacct");
    let needed = |h: &Hierarchy| words.iter().any(|w| h.takes(w)) || counted(h);
    let others = layout.hierarchies.iter().filter(|h| Some(*h) != layout.tracker());
    for hierarchy in layout.tracker().into_iter().chain(others) {
        let exists = existing.iter().any(|p| p.hierarchy == *hierarchy);
        if exists || needed(hierarchy) || Some(hierarchy) == layout.tracker() {
            let place = Place::new(layout, hierarchy, &request.options.parent, &request.group)?;
            if request.options.leaf && hierarchy.v2 {
                leaf(plan, hierarchy, &layout.own(hierarchy)?);
            }
            let marked = plan.fresh && request.runs() && !request.options.keep;
            make_levels(plan, &place, words, marked);
            plan.places.push(place);
        }
    }
    Ok(())
}

/// The words that this host has a controller for; a missing one is an error unless it may be skipped.
fn offered<'a>(layout: &Layout, words: &'a [Word]) -> Result<Vec<&'a Word>> {
    let mut found = Vec::new();
    for word in words {
        if layout.home_of(word).is_some() {
            found.push(word);
        } else if !word.optional {
            return Err(not_offered(layout, word));
        }
    }
    Ok(found)
}

fn not_offered(layout: &Layout, word: &Word) -> Error {
    let v2 = layout.hierarchies.iter().all(|h| h.v2);
    let (Some(controller), without) =
        (word.controller(v2).or(word.controller(true)), format!("to do without it: {}=…?", word.name()))
    else {
        return anyhow!("'{}' is not offered here", word.name());
    };
    if word.controller(false).is_none() && layout.home(controller).is_some() {
        let text = format!(
            "{}= is a limit of cgroup v2 only, and '{controller}' is a controller of v1 here",
            word.name()
        );
        return hint(Error::msg(text), without);
    }
    let why = layout.why_missing(controller);
    let why = why.unwrap_or_else(|| "neither a v1 mount nor cgroup.controllers of v2 has it".into());
    hint(anyhow!("no '{controller}' controller on this host: {why}"), without)
}

fn as_unit(layout: &Layout, words: &[&Word], runs: bool) -> bool {
    let on = |w: &&&Word| w.knob == Knob::OomGroup && w.amount == crate::amount::Amount::Exact(1);
    runs && words.iter().find(on).is_some_and(|w| layout.home_of(w).is_some_and(|h| !h.v2))
}

fn notes(layout: &Layout, words: &[&Word]) -> Vec<String> {
    let swappiness = words.iter().find(|w| w.knob == Knob::Swappiness);
    let on_v2 =
        |w: &&&Word| layout.home_of(w).is_some_and(|h| h.v2) && w.amount == crate::amount::Amount::Exact(0);
    let text = "cgroup v2 has no swappiness for a group: swappiness=0 is done as swap=0";
    swappiness.filter(on_v2).map(|_| text.to_owned()).into_iter().collect()
}

/// The processes of our own v2 group go to a leaf of it, so that it can hand controllers down. The root may
/// hold processes all the same.
fn leaf(plan: &mut Plan, hierarchy: &Hierarchy, own: &Path) {
    let dir = hierarchy.mount.join(own);
    let inside = group::members(&dir);
    if own.as_os_str().is_empty() || inside.is_empty() {
        return;
    }
    let leaf = dir.join(LEAF);
    if !leaf.is_dir() {
        plan.steps.push(Step::MakeDir(leaf.clone()));
    }
    let (file, back) = (leaf.join("cgroup.procs"), dir.join("cgroup.procs"));
    let into = |pid| Step::Move { pid, file: file.clone(), back: Some(back.clone()) };
    plan.steps.extend(inside.into_iter().map(into));
}

/// The directories down to the group, and on v2 the controllers handed down at each level. One controller a
/// write: a line with one that is missing is refused as a whole.
fn make_levels(plan: &mut Plan, place: &Place, words: &[&Word], marked: bool) {
    let hierarchy = &place.hierarchy;
    let below = place.path.strip_prefix(&hierarchy.mount).expect("a place is below its mount");
    let mut level = hierarchy.mount.clone();
    for part in below.components() {
        if hierarchy.v2 {
            enable(plan, hierarchy, &level, words);
        }
        level.push(part);
        // Of the group itself that has been asked: who makes it meanwhile is not to be taken for us.
        let fresh = (plan.fresh && level == place.path) || !level.is_dir();
        if fresh {
            plan.steps.push(Step::MakeDir(level.clone()));
        }
        // The group itself in one tree only: by that one the others are found.
        if fresh && marked && (level != place.path || plan.places.is_empty()) {
            plan.steps.push(Step::Mark { dir: level.clone(), level: level != place.path });
        }
        if hierarchy.has("cpuset") && !hierarchy.v2 {
            let empty = |file: &PathBuf| fresh || files::read(file).is_ok_and(|text| text.trim().is_empty());
            let files = ["cpuset.cpus", "cpuset.mems"].map(|file| level.join(file));
            plan.steps.extend(files.into_iter().filter(empty).map(Step::Inherit));
        }
    }
}

fn enable(plan: &mut Plan, hierarchy: &Hierarchy, level: &Path, words: &[&Word]) {
    let on = files::read(&level.join("cgroup.subtree_control")).unwrap_or_default();
    for word in words.iter().filter(|w| hierarchy.takes(w)) {
        let controller = word.controller(true).unwrap_or_default();
        let have = group::hands_down(&on, controller);
        let step = Step::Enable { level: level.to_owned(), controller: controller.to_owned() };
        if controller != "cgroup" && !have && !plan.steps.contains(&step) {
            plan.steps.push(step);
        }
    }
}

fn moves(plan: &mut Plan, layout: &Layout, request: &Request) -> Result<()> {
    for &pid in &request.options.pids {
        if pid == 1 && !request.options.force {
            let error = anyhow!("process 1 runs the system: held or out of memory, it takes all with it");
            return Err(hint(error, "if it is meant: --force"));
        }
        if !layout.host("/proc").join(pid.to_string()).exists() {
            bail!("there is no process {pid}");
        }
        for place in &plan.places {
            let back = layout.way_back(&place.hierarchy, pid);
            plan.steps.push(Step::Move { pid, file: place.path.join("cgroup.procs"), back });
        }
    }
    Ok(())
}
