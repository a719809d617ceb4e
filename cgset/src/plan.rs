//! plan: every rule between the words and the host, as a list of steps; reads, and writes nothing.

use std::path::{Path, PathBuf};

use anyhow::{Error, Result, anyhow, bail};
use unshare::fail::hint;

use crate::cli::{Parent, Request};
use crate::files;
use crate::group::{self, Place};
use crate::layout::{Hierarchy, Layout};
use crate::words::{Amount, Knob, MILLION, Word};

/// One change, with what its undo needs.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    MakeDir(PathBuf),
    /// The new group lives as long as this cgset: say so on it.
    Mark(PathBuf),
    /// v1 cpuset beside another controller: nobody may enter before these are filled.
    Inherit(PathBuf),
    /// Hand a v2 controller down from this level.
    Enable {
        level: PathBuf,
        controller: &'static str,
    },
    /// Refuse a limit below what is in use; v1 does, v2 would kill.
    MakeRoom {
        dir: PathBuf,
        bytes: u64,
    },
    Write {
        file: PathBuf,
        value: String,
        check: Check,
        optional: bool,
    },
    Move {
        pid: i32,
        file: PathBuf,
        back: Option<PathBuf>,
    },
}

/// What reading back must give: the kernel takes some wrong values without a word.
#[derive(Debug, PartialEq, Eq)]
pub enum Check {
    /// Rounded down to pages; None is no limit.
    Bytes(Option<u64>),
    /// The first word.
    Word(String),
}

pub struct Plan {
    pub steps: Vec<Step>,
    /// Where the command goes, the tracker's first.
    pub places: Vec<Place>,
    /// The group does not exist yet.
    pub fresh: bool,
}

/// A limit as the kernel writes it. v1 has no word for "none" but the largest number of pages.
pub fn parse_limit(text: &str) -> Option<u64> {
    files::first(text).parse().ok().filter(|bytes| *bytes < 1 << 62)
}

pub fn plan(layout: &Layout, request: &Request) -> Result<Plan> {
    let parent = request.parent.as_ref();
    let words = offered(layout, &request.words)?;
    let existing = group::existing(layout, parent, &request.group)?;
    let mut plan = Plan { steps: Vec::new(), places: Vec::new(), fresh: existing.is_empty() };
    if let Some(Parent::Group(above)) = parent {
        if group::existing(layout, None, above)?.is_empty() {
            bail!("there is no group '{}' to put '{}' below", above.0, request.group.0);
        }
    }
    let needed = |h: &Hierarchy| words.iter().any(|w| h.has(w.knob.controller()));
    let mut trees: Vec<&Hierarchy> = layout.ours().collect();
    trees.sort_by_key(|h| *h != layout.tracker());
    for hierarchy in trees {
        let exists = existing.iter().any(|p| p.hierarchy == *hierarchy);
        if exists || needed(hierarchy) || hierarchy == layout.tracker() {
            let place = Place::new(layout, hierarchy, parent, &request.group)?;
            make_levels(&mut plan, &place, &words);
            if plan.fresh && plan.places.is_empty() && request.runs() && !request.keep {
                plan.steps.push(Step::Mark(place.path.clone()));
            }
            plan.places.push(place);
        }
    }
    for place in plan.places.clone() {
        limits(&mut plan, layout, &place, &words, request.force)?;
    }
    moves(&mut plan, layout, &request.pids)?;
    Ok(plan)
}

/// The words that this host has a controller for; a missing one is an error unless it may be skipped.
fn offered(layout: &Layout, words: &[Word]) -> Result<Vec<Word>> {
    let mut found = Vec::new();
    for word in words {
        let controller = word.knob.controller();
        if layout.home(controller).is_some() {
            found.push(word.clone());
        } else if !word.optional {
            let why = layout.why_missing(controller);
            let why = why.unwrap_or_else(|| "neither a v1 mount nor cgroup.controllers of v2 has it".into());
            let error = anyhow!("no '{controller}' controller on this host: {why}");
            return Err(hint(error, format!("to do without it: {}=…?", word.knob.word())));
        }
    }
    Ok(found)
}

/// The directories down to the group, and on v2 the controllers handed down at each level. One controller a
/// write: a line with one that is missing is refused as a whole.
fn make_levels(plan: &mut Plan, place: &Place, words: &[Word]) {
    let hierarchy = &place.hierarchy;
    let below = place.path.strip_prefix(&hierarchy.mount).expect("a place is below its mount");
    let mut level = hierarchy.mount.clone();
    for part in below.components() {
        if hierarchy.v2 {
            let on = files::read(&level.join("cgroup.subtree_control")).unwrap_or_default();
            for (_, _, controller) in Knob::TABLE {
                let wanted =
                    words.iter().any(|w| w.knob.controller() == controller) && hierarchy.has(controller);
                // A fixture's file holds what was written to it: "+memory".
                let have = on.split_whitespace().any(|c| c.trim_start_matches('+') == controller);
                let step = Step::Enable { level: level.clone(), controller };
                if wanted && !have && plan.steps.last() != Some(&step) {
                    plan.steps.push(step);
                }
            }
        }
        level.push(part);
        if !level.is_dir() {
            plan.steps.push(Step::MakeDir(level.clone()));
            if hierarchy.has("cpuset") && !hierarchy.v2 {
                plan.steps.extend(["cpuset.cpus", "cpuset.mems"].map(|file| Step::Inherit(level.join(file))));
            }
        }
    }
}

fn limits(plan: &mut Plan, layout: &Layout, place: &Place, words: &[Word], force: bool) -> Result<()> {
    let word = |knob: Knob| words.iter().find(|w| w.knob == knob && place.hierarchy.has(knob.controller()));
    let bytes = |w: &Word| bytes(layout, w.amount);
    match (word(Knob::Mem), word(Knob::Swap), place.hierarchy.v2) {
        (None, None, _) => {}
        (mem, swap, true) => {
            let mem_bytes = mem.map(bytes).transpose()?;
            // Swap first: a lower mem= pushes out what a lower swap= would then find there.
            if let Some(swap) = swap {
                plan.steps.push(size(place, "memory.swap.max", bytes(swap)?, "max", swap.optional));
            }
            if let Some(limit) = mem_bytes {
                if let (Some(bytes), false) = (limit, force || !place.path.is_dir()) {
                    plan.steps.push(Step::MakeRoom { dir: place.path.clone(), bytes });
                }
                plan.steps.push(size(place, "memory.max", limit, "max", false));
            }
        }
        (mem, swap, false) => {
            let wish = V1Wish { mem: mem.map(bytes).transpose()?, swap: swap.map(bytes).transpose()? };
            memory_v1(plan, place, &wish, swap.is_some_and(|w| w.optional))?;
        }
    }
    if let Some(word) = word(Knob::Procs) {
        let value = match word.amount {
            Amount::Exact(count) => count.to_string(),
            _ => "max".into(),
        };
        plan.steps.push(exact(place, "pids.max", value));
    }
    if let Some(word) = word(Knob::Cpu) {
        plan.steps.push(processors(place, word.amount));
    }
    Ok(())
}

fn bytes(layout: &Layout, amount: Amount) -> Result<Option<u64>> {
    Ok(match amount {
        Amount::Max => None,
        Amount::Exact(bytes) => Some(bytes),
        Amount::OfRam(part) => Some((u128::from(layout.ram()?) * u128::from(part) / 100_000) as u64),
    })
}

fn size(place: &Place, file: &str, bytes: Option<u64>, none: &str, optional: bool) -> Step {
    let value = bytes.map_or(none.to_owned(), |bytes| bytes.to_string());
    Step::Write { file: place.path.join(file), value, check: Check::Bytes(bytes), optional }
}

fn exact(place: &Place, file: &str, value: String) -> Step {
    Step::Write { file: place.path.join(file), check: Check::Word(value.clone()), value, optional: false }
}

/// The period stays as it is, so that one write does it and no moment has half of both.
fn processors(place: &Place, amount: Amount) -> Step {
    let v2 = place.hierarchy.v2;
    let file = if v2 { "cpu.max" } else { "cpu.cfs_quota_us" };
    let Amount::Exact(parts) = amount else {
        return exact(place, file, if v2 { "max" } else { "-1" }.into());
    };
    let period_file = if v2 { file } else { "cpu.cfs_period_us" };
    let text = files::read(&place.path.join(period_file)).unwrap_or_default();
    let period = text.split_whitespace().last().and_then(|word| word.parse().ok()).unwrap_or(100_000);
    exact(place, file, (u128::from(parts) * period / u128::from(MILLION)).to_string())
}

struct V1Wish {
    mem: Option<Option<u64>>,
    swap: Option<Option<u64>>,
}

/// v1 counts memory and swap in one limit (memsw), never below that of memory alone: swap = memsw - limit,
/// and of two changes the one comes first after which this still holds (memory.rst, "Memory+Swap").
fn memory_v1(plan: &mut Plan, place: &Place, wish: &V1Wish, optional: bool) -> Result<()> {
    const LIMIT: &str = "memory.limit_in_bytes";
    const MEMSW: &str = "memory.memsw.limit_in_bytes";
    let read = |file: &str| parse_limit(&files::read(&place.path.join(file)).unwrap_or_default());
    let (old_limit, old_memsw) = (read(LIMIT), read(MEMSW));
    let counts_swap = place.hierarchy.mount.join(MEMSW).exists();
    if !counts_swap && wish.swap.is_some() && !optional {
        let error = anyhow!("swap= cannot be set: this kernel does not count swap (no '{MEMSW}')");
        return Err(hint(error, "boot with swapaccount=1, or write swap=…? to do without"));
    }
    let limit = wish.mem.unwrap_or(old_limit);
    let memsw = match (wish.swap, limit) {
        (Some(Some(_)), None) => return Err(no_limit_to_add_to()),
        (Some(Some(swap)), Some(limit)) => Some(limit.saturating_add(swap)),
        (Some(None), _) | (None, None) => None,
        // Only mem= was said: what was left for swap stays.
        (None, Some(limit)) => old_memsw.map(|old| old - old_limit.unwrap_or(old).min(old) + limit),
    };
    let set_limit = wish.mem.map(|_| size(place, LIMIT, limit, "-1", false));
    let set_memsw = (counts_swap && memsw != old_memsw).then(|| size(place, MEMSW, memsw, "-1", optional));
    let above = |new: Option<u64>, old: Option<u64>| new.unwrap_or(u64::MAX) > old.unwrap_or(u64::MAX);
    let steps = if above(limit, old_memsw) { [set_memsw, set_limit] } else { [set_limit, set_memsw] };
    plan.steps.extend(steps.into_iter().flatten());
    Ok(())
}

fn no_limit_to_add_to() -> Error {
    let error = anyhow!("swap= needs a limit of mem= on a v1 host, which counts both in one");
    hint(error, "give both: mem=100M swap=50M")
}

fn moves(plan: &mut Plan, layout: &Layout, pids: &[i32]) -> Result<()> {
    for &pid in pids {
        if !Path::new("/proc").join(pid.to_string()).exists() {
            bail!("there is no process {pid}");
        }
        for place in plan.places.clone() {
            let stands = layout.standing(&place.hierarchy, &pid.to_string()).ok();
            let back = stands.map(|below| place.hierarchy.mount.join(below).join("cgroup.procs"));
            plan.steps.push(Step::Move { pid, file: place.path.join("cgroup.procs"), back });
        }
    }
    Ok(())
}

impl Plan {
    /// The plan as a shell script that does the same.
    pub fn script(&self, request: &Request) -> String {
        let mut text = String::from("#!/bin/sh\nset -e\n");
        for step in &self.steps {
            text += &step.shell();
        }
        if request.runs() {
            let words: Vec<String> = request.argv.iter().map(|word| quote(&word.to_string_lossy())).collect();
            text += "status=0\n(\n";
            for place in &self.places {
                text += &format!("    echo 0 > {}\n", quote_path(&place.entrance()));
            }
            text += &format!("    exec {}\n) || status=$?\n", words.join(" "));
            if self.fresh && !request.keep {
                for step in self.steps.iter().rev() {
                    if let Step::MakeDir(dir) = step {
                        text += &format!("rmdir {}\n", quote_path(dir));
                    }
                }
            }
            text += "exit $status\n";
        }
        text
    }
}

impl Step {
    /// The step as a line of shell.
    pub fn shell(&self) -> String {
        let echo = |value: &str, file: &Path| format!("echo {value} > {}\n", quote_path(file));
        match self {
            Step::MakeDir(dir) => format!("mkdir {}\n", quote_path(dir)),
            Step::Mark(_) => String::new(),
            Step::Inherit(file) => {
                let name = file.file_name().expect("a control file has a name");
                let above = file.ancestors().nth(2).expect("a group has a parent").join(name);
                format!("cat {} > {}\n", quote_path(&above), quote_path(file))
            }
            Step::Enable { level, controller } => {
                echo(&format!("+{controller}"), &level.join("cgroup.subtree_control"))
            }
            Step::MakeRoom { dir, bytes } => {
                format!("test \"$(cat {})\" -le {bytes}\n", quote_path(&dir.join("memory.current")))
            }
            Step::Write { file, value, optional: false, .. } => echo(value, file),
            Step::Write { file, value, .. } => {
                format!("! test -e {} || {}", quote_path(file), echo(value, file))
            }
            Step::Move { pid, file, .. } => echo(&pid.to_string(), file),
        }
    }
}

fn quote_path(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

/// For sh: as it is where it has nothing special.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:=@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quote("a/b-1"), "a/b-1");
        assert_eq!(quote("it's $x"), r"'it'\''s $x'");
        assert_eq!(quote(""), "''");
    }

    #[test]
    fn no_limit_is_written_in_two_ways() {
        assert_eq!(parse_limit("9223372036854771712\n"), None);
        assert_eq!(parse_limit("max\n"), None);
        assert_eq!(parse_limit("4096\n"), Some(4096));
    }

    #[test]
    fn memsw_and_limit_are_written_in_an_order_that_the_kernel_takes() {
        let dir = std::env::temp_dir().join(format!("cgset-plan-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("g")).unwrap();
        std::fs::write(dir.join("memory.memsw.limit_in_bytes"), "").unwrap();
        let hierarchy = Hierarchy {
            v2: false,
            mount: dir.clone(),
            shown: "/".into(),
            controllers: vec!["memory".into()],
        };
        let place = Place { hierarchy, path: dir.join("g") };
        let none = "9223372036854771712".to_string();
        let steps = |old: [Option<u64>; 2], mem, swap| {
            let old = old.map(|v| v.map_or(none.clone(), |v| v.to_string()));
            std::fs::write(dir.join("g/memory.limit_in_bytes"), &old[0]).unwrap();
            std::fs::write(dir.join("g/memory.memsw.limit_in_bytes"), &old[1]).unwrap();
            let mut plan = Plan { steps: Vec::new(), places: Vec::new(), fresh: false };
            memory_v1(&mut plan, &place, &V1Wish { mem, swap }, false)?;
            let show = |step: Step| match step {
                Step::Write { file, value, .. } if file.ends_with("memory.limit_in_bytes") => {
                    format!("limit {value}")
                }
                Step::Write { value, .. } => format!("memsw {value}"),
                other => panic!("{other:?}"),
            };
            Ok::<_, Error>(plan.steps.into_iter().map(show).collect::<Vec<_>>().join(", "))
        };
        const M: u64 = 1000;
        // From none at all, lowering, raising beyond the old sum, and raising within it.
        assert_eq!(steps([None, None], Some(Some(M)), Some(Some(0))).unwrap(), "limit 1000, memsw 1000");
        assert_eq!(
            steps([Some(5 * M), Some(6 * M)], Some(Some(M)), Some(Some(M))).unwrap(),
            "limit 1000, memsw 2000"
        );
        assert_eq!(
            steps([Some(M), Some(2 * M)], Some(Some(3 * M)), Some(Some(M))).unwrap(),
            "memsw 4000, limit 3000"
        );
        assert_eq!(
            steps([Some(M), Some(9 * M)], Some(Some(3 * M)), Some(Some(M))).unwrap(),
            "limit 3000, memsw 4000"
        );
        // mem= alone leaves swap as it was; lifting the limit lifts the sum.
        assert_eq!(steps([Some(M), Some(3 * M)], Some(Some(4 * M)), None).unwrap(), "memsw 6000, limit 4000");
        assert_eq!(steps([Some(M), None], Some(Some(4 * M)), None).unwrap(), "limit 4000");
        assert_eq!(steps([Some(M), Some(M)], Some(None), None).unwrap(), "memsw -1, limit -1");
        assert_eq!(steps([Some(M), Some(M)], None, Some(None)).unwrap(), "memsw -1");
        assert!(steps([None, None], None, Some(Some(M))).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
