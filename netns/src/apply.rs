//! apply: from statements to a network: one plan over all of them, one way back from wherever it fails.
//!
//! Every command that makes something is an apply of one statement. All is looked at before anything is made;
//! names come first, then switches, links, and last what nft does, which is all or nothing by itself.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use unshare::fail::print;

use crate::add;
use crate::address::Cidr;
use crate::compare;
use crate::file::{self, Line};
use crate::filters;
use crate::link::{LinkSpec, Onto};
use crate::machine::{Machine, lock_host, need_capabilities};
use crate::manner::Manner;
use crate::nat::Wanted;
use crate::plan::{Plan, Purpose, about, no_network};
use crate::plug::{self, Plug};
use crate::publish;
use crate::rtnl;
use crate::show;
use crate::switch;
use crate::tunnel;
use crate::wire::{self, Job};
use crate::words::Statement;

/// Makes what a file asks for.
pub fn file(file: &Path, manner: Manner) -> Result<()> {
    run(&file::read(file)?, manner)
}

/// One statement of the command line.
pub fn one(statement: Statement, manner: Manner) -> Result<()> {
    run(&[Line { number: None, statement }], manner)
}

/// Makes what is missing.
fn run(lines: &[Line], manner: Manner) -> Result<()> {
    check_capabilities(lines)?;
    let mut machine = Machine::open()?;
    let purpose = if manner.dry_run { Purpose::Tell } else { Purpose::Make };
    let mut plan = Plan::new(&mut machine, lines, purpose)?;
    let changes = if manner.tells() { plan.words() } else { Vec::new() };
    if manner.dry_run {
        return manner.tell(&changes, &[]);
    }
    if !plan.names.is_empty() {
        let names = std::mem::take(&mut plan.names);
        add::add(&mut machine, &names)?;
        machine.go_home()?;
        // Again, now that the namespaces are there and can be locked.
        plan = Plan::new(&mut machine, lines, purpose)?;
    }
    let outcome = act(&mut machine, plan)?;
    machine.keep();
    filters::warn(&outcome.watched, outcome.outside);
    manner.tell(&changes, &outcome.chosen)
}

fn check_capabilities(lines: &[Line]) -> Result<()> {
    for line in lines {
        let raw = matches!(&line.statement, Statement::Link(spec) if spec.next_free || spec.check.is_some());
        if !matches!(line.statement, Statement::Add(_)) {
            need_capabilities(raw).map_err(|error| about(line, error))?;
        }
    }
    Ok(())
}

/// What is missing, what differs and what is too much; the status is 1 where anything is, as of diff(1).
pub fn diff(file: &Path, as_json: bool) -> Result<u8> {
    let lines = file::read(file)?;
    check_capabilities(&lines)?;
    let mut machine = Machine::open()?;
    let mut plan = Plan::new(&mut machine, &lines, Purpose::Compare)?;
    let kinds = [
        ("!", "differing", std::mem::take(&mut plan.differences)),
        ("+", "missing", plan.words()),
        ("-", "extra", show::beyond(&mut machine, &lines)?),
    ];
    let differs = kinds.iter().any(|(_, _, list)| !list.is_empty());
    if as_json {
        let record: serde_json::Map<String, _> =
            kinds.into_iter().map(|(_, word, list)| (word.to_owned(), json!(list))).collect();
        print(&format!("{}\n", json!(record)))?;
    } else {
        let lines = |(sign, _, list): (&str, _, Vec<String>)| {
            list.iter().map(|what| format!("{sign} {what}\n")).collect::<String>()
        };
        print(&kinds.into_iter().map(lines).collect::<String>())?;
    }
    Ok(u8::from(differs))
}

fn act(machine: &mut Machine, plan: Plan<'_>) -> Result<Outcome> {
    let moves = plan.switches.iter().any(|(_, _, state)| state.uplink.is_some());
    let choose = plan.links.iter().any(|(_, spec, _)| spec.next_free);
    let by_nft = !(plan.nats.is_empty() && plan.publications.is_empty());
    let _alone = (moves || choose || by_nft).then(lock_host).transpose()?;
    let (mut new, mut uplinked) = (Vec::new(), Vec::new());
    for (line, spec, state) in &plan.switches {
        if switch::make(machine, spec, state).map_err(|error| about(line, error))? {
            new.push(spec.name.clone());
        }
        uplinked.extend(spec.uplink.as_ref().map(|_| &spec.name));
        machine.signals.check()?;
    }
    for (line, spec) in &plan.tunnels {
        tunnel::make(machine, spec).map_err(|error| about(line, error))?;
    }
    let alone: Vec<String> = new.iter().filter(|name| !uplinked.contains(name)).cloned().collect();
    let chosen = make_links(machine, plan.links, &alone)?;
    let mut wanted = Wanted::default();
    for (line, switch) in &plan.nats {
        let networks = networks(machine, switch).map_err(|error| about(line, error))?;
        wanted.masquerade.push(((*switch).to_owned(), networks));
    }
    for (line, spec, _) in &plan.publications {
        wanted.publish.extend(publish::prepare(machine, spec).map_err(|error| about(line, error))?);
    }
    machine.signals.check()?;
    let lines =
        plan.nats.iter().map(|(line, _)| *line).chain(plan.publications.iter().map(|(line, _, _)| *line));
    if let (Some(nft), Some(line)) = (&plan.nft, lines.last()) {
        nft.ensure(&wanted).map_err(|error| about(line, error))?;
    }
    for (line, spec, _) in &plan.publications {
        publish::hairpin(machine, &spec.target).map_err(|error| about(line, error))?;
    }
    let outside = !wanted.masquerade.is_empty();
    let masked = wanted.masquerade.into_iter().map(|(switch, _)| switch).filter(|name| !new.contains(name));
    let watched = new.iter().cloned().chain(masked).collect();
    Ok(Outcome { chosen, watched, outside })
}

fn make_links(
    machine: &mut Machine,
    links: Vec<(&Line, &LinkSpec, compare::State)>,
    alone: &[String],
) -> Result<Vec<String>> {
    let mut plugs: Vec<(&Onto, Plug)> = Vec::new();
    for (line, spec, _) in &links {
        if plugs.iter().all(|(onto, _)| *onto != &spec.onto) {
            let found = plug::find(machine, &spec.onto);
            let plug = found.and_then(|found| plug::usable(found, &spec.onto));
            plugs.push((&spec.onto, plug.map_err(|error| about(line, error))?));
        }
    }
    let mut jobs = Vec::new();
    let mut completions = Vec::new();
    for (line, spec, state) in links {
        let space = machine.space_of(&spec.end.target).context("the namespace is open")?;
        let plug = plugs.iter().find(|(onto, _)| *onto == &spec.onto).map(|(_, plug)| plug);
        let plug = plug.context("the switch was found")?;
        match state {
            compare::State::Present(completion) => completions.push((line, space, completion)),
            compare::State::New { leftover } => {
                let alone = alone.iter().any(|name| name == spec.onto.name());
                jobs.push(Job { number: line.number, spec, plug, space, leftover, alone });
            }
        }
    }
    let chosen = wire::make(machine, &jobs)?;
    for (line, space, completion) in completions {
        let done = machine.outside.tell(completion.outside);
        let done = done.and_then(|()| machine.inside(space).tell(completion.inside));
        done.map_err(|error| about(line, error))?;
    }
    Ok(chosen.iter().map(ToString::to_string).collect())
}

fn networks(machine: &mut Machine, switch: &str) -> Result<Vec<Cidr>> {
    let link = rtnl::find_link(&mut machine.outside, switch)?;
    let link = link.with_context(|| format!("no switch '{switch}'"))?;
    let networks = rtnl::addresses(&mut machine.outside, link.index)?;
    if networks.is_empty() { Err(no_network()) } else { Ok(networks) }
}

/// What is to be said when all is done.
struct Outcome {
    chosen: Vec<String>,
    watched: Vec<String>,
    outside: bool,
}
