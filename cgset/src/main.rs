//! cgset: set limits in a cgroup (v1, v2 and mixed hosts, the same words), run a program inside, report.
//!
//! Parse, then find where each controller lives, then plan (reads only), then act (every step can be undone).

mod act;
mod cli;
mod counters;
mod files;
mod group;
mod layout;
mod owner;
mod plan;
mod remove;
mod run;
mod show;
mod sys;
mod words;

use std::process::ExitCode;

use anyhow::Result;
use unshare::fail::{self, Statuses};

use cli::{Action, Request};
use layout::Layout;

fn main() -> ExitCode {
    let action = cli::parse(std::env::args_os().skip(1));
    // Where a command runs inside, its own status must be told from ours: 125, as env(1) does.
    let failure = if matches!(&action, Ok(Action::Set(request)) if request.runs()) { 125 } else { 1 };
    fail::end("cgset", &Statuses { usage: 2, failure }, action.and_then(obey))
}

fn obey(action: Action) -> Result<()> {
    match action {
        Action::Print(text) => fail::print(&text),
        Action::Show { group, parent, json } => show::show(&Layout::read()?, parent.as_ref(), &group, json),
        Action::Remove { groups, parent, verbose, dry_run } => {
            remove::remove_all(&Layout::read()?, parent.as_ref(), &groups, verbose, dry_run)
        }
        Action::Set(request) => set(&request),
    }
}

fn set(request: &Request) -> Result<()> {
    let layout = Layout::read()?;
    if request.dry_run {
        return fail::print(&plan::plan(&layout, request)?.script(request));
    }
    // From here to the end no signal may come between a step and its undo.
    let held = run::hold_signals(request.runs())?;
    owner::settle(&layout, request)?;
    let plan = plan::plan(&layout, request)?;
    let made = act::act(&plan, request)?;
    if request.runs() {
        return run::run(&layout, &plan, made, request, &held);
    }
    made.keep();
    held.restore()
}
