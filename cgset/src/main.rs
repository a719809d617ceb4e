//! cgset: set limits in a cgroup (v1, v2 and mixed hosts, the same words), run a program inside, report.
//!
//! Parse, then find where each controller lives, then plan (reads only), then act (every step can be undone).

mod act;
mod amount;
mod check;
mod cli;
mod counters;
mod device;
mod files;
mod freeze;
#[cfg(test)]
mod fuzz;
mod group;
mod layout;
mod limits;
mod list;
mod name;
mod oom;
mod own;
mod owner;
mod plan;
mod refusal;
mod remove;
mod report;
mod request;
mod run;
mod script;
mod settle;
mod show;
mod step;
mod sys;
mod systemd;
mod top;
mod words;

use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context, Error, Result};
use unshare::fail::{self, Statuses};

use layout::Layout;
use name::Group;
use report::Report;
use request::{Action, Options, Request, Verb};

/// Of --wait-oom: the kernel has killed.
const KILLED: u8 = 3;

fn main() -> ExitCode {
    let action = cli::parse(std::env::args_os().skip(1));
    // Where a command runs inside, its own status must be told from ours: 125, as env(1) does.
    let failure = if matches!(&action, Ok(Action::Set(request)) if request.runs()) { 125 } else { 1 };
    fail::end("cgset", &Statuses { usage: 2, failure }, action.and_then(obey))
}

fn obey(action: Action) -> Result<()> {
    match action {
        Action::Print(text) => fail::print(&text),
        Action::Do { verb, groups, options } => act_on_groups(verb, &groups, &options),
        Action::Set(mut request) => set(&mut request),
    }
}

fn act_on_groups(verb: Verb, groups: &[Group], options: &Options) -> Result<()> {
    let layout = Layout::some()?;
    let parent = &options.parent;
    let one = |name: &Group| group::found(&layout, parent, name);
    match (verb, groups) {
        (Verb::Show, [name]) => show::show(&one(name)?, name, options.json),
        (Verb::WaitOom, [name]) => oom::wait(&one(name)?, &name.0, options.oom_exit.unwrap_or(KILLED)),
        (Verb::List, names) => list::list(&layout, parent, names.first(), options.json),
        (Verb::Top, names) => top::top(&layout, parent, names.first(), options),
        (Verb::Remove, names) => {
            each(names, |name| remove::remove_named(&layout, parent, name, options.verbose, options.dry_run))
        }
        (_, names) => each(names, |name| match verb {
            Verb::Freeze => freeze::freeze(&layout, &one(name)?, &name.0),
            Verb::Thaw => freeze::thaw(&one(name)?, &name.0),
            _ => remove::kill(&layout, &one(name)?, &name.0),
        }),
    }
}

/// Goes on after a failure, so that one stubborn group does not hold up the rest.
fn each(names: &[Group], act: impl Fn(&Group) -> Result<()>) -> Result<()> {
    let mut failed: Option<Error> = None;
    for error in names.iter().filter_map(|name| act(name).err()) {
        if let Some(earlier) = failed.replace(error) {
            fail::report("cgset", &earlier, &Statuses { usage: 2, failure: 1 });
        }
    }
    failed.map_or(Ok(()), Err)
}

fn set(request: &mut Request) -> Result<()> {
    let layout = Layout::read()?;
    if layout.hierarchies.is_empty() && !request.does_without() {
        return Err(layout::none_mounted());
    }
    let options = &mut request.options;
    if options.scope {
        return systemd::enter_scope(&layout, request);
    }
    if options.pids_from_stdin {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read process numbers from standard input")?;
        options.pids.extend(cli::pids(&text)?);
    }
    if options.dry_run {
        return fail::print(&plan::plan(&layout, request)?.script(request));
    }
    let report = options.report.as_ref().map(|path| Report::open(path, options.json)).transpose()?;
    // From here to the end no signal may come between a step and its undo.
    let held = run::hold_signals(request.runs())?;
    let plan = settle::plan(&layout, request)?;
    for note in &plan.notes {
        fail::say("cgset", &format!("note: {note}"));
    }
    let made = act::act(&layout, &plan, request)?;
    if request.runs() {
        return run::run(&layout, &plan, made, request, &held, report);
    }
    made.keep();
    held.restore()
}
