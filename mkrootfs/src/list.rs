//! list: the set that would be installed, without installing it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;
use unshare::fail;

use crate::bootstrap;
use crate::job::Job;
use crate::packages::Package;
use crate::resolve::Selection;
use crate::staging;

pub fn run(job: &Job) -> Result<()> {
    let scratch = Scratch::make()?;
    bootstrap::with_selection(job, &scratch.0, |selection| {
        fail::print(&match (job.options.names, job.options.json) {
            (true, _) => names(selection),
            (false, true) => json(selection)?,
            (false, false) => lines(selection),
        })
    })
}

/// As debootstrap prints them: on one line.
fn names(selection: &Selection) -> String {
    let names: Vec<&str> = selection.packages.iter().map(|package| package.name).collect();
    format!("{}\n", names.join(" "))
}

/// A line a package: name, version, bytes, SHA-256, why.
fn lines(selection: &Selection) -> String {
    let line = |p: &Package| {
        let get = |name| p.field(name).unwrap_or("-");
        let why = &selection.reasons[p.name];
        format!("{}\t{}\t{}\t{}\t{why}\n", p.name, p.version, get("Size"), get("SHA256"))
    };
    selection.packages.iter().map(line).collect()
}

fn json(selection: &Selection) -> Result<String> {
    let one = |p: &Package| {
        json!({
            "name": p.name,
            "version": p.version,
            "size": p.field("Size").and_then(|size| size.parse::<u64>().ok()),
            "sha256": p.field("SHA256"),
            "reason": selection.reasons[p.name],
        })
    };
    let all: Vec<_> = selection.packages.iter().map(one).collect();
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

/// A directory for what a verifier is to read, as there is no target to work beside.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Result<Scratch> {
        let template = std::env::temp_dir().join("mkrootfs.XXXXXX");
        let made = nix::unistd::mkdtemp(&template);
        made.map(Scratch)
            .with_context(|| format!("cannot make a directory in '{}'", std::env::temp_dir().display()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = staging::remove_tree(&self.0);
    }
}
