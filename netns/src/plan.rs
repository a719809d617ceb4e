//! plan: what is to be done so that statements are true, found out by looking only.

use std::rc::Rc;

use anyhow::{Context, Error, Result, anyhow};
use unshare::fail::hint;

use crate::compare;
use crate::file::Line;
use crate::link::{LinkSpec, Onto};
use crate::machine::Machine;
use crate::nft::{self, Nft};
use crate::plug;
use crate::publish::{self, PublishSpec};
use crate::store::{self, Target};
use crate::switch::{self, SwitchSpec};
use crate::tunnel::{self, TunnelSpec};
use crate::words::Statement;

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be done: what it is about is locked.
    Make,
    /// To be told.
    Tell,
    /// To be told, with what is there and differs.
    Compare,
}

/// The error of a statement, with what it was about and where.
pub fn about(line: &Line, error: Error) -> Error {
    let what = match &line.statement {
        Statement::Add(_) => return line.at(error),
        Statement::Switch(spec) => format!("cannot add the switch '{}'", spec.name),
        Statement::Tunnel(spec) => format!("cannot add the tunnel '{}'", spec.name),
        Statement::Link(spec) => format!("cannot link '{}'", spec.end.label()),
        Statement::Nat(switch) => format!("cannot give '{switch}' NAT"),
        Statement::Publish(spec) => format!("cannot publish '{}'", spec.port),
    };
    line.at(error.context(what))
}

/// All that is to be done.
#[derive(Default)]
pub struct Plan<'a> {
    pub names: Vec<&'a str>,
    pub switches: Vec<(&'a Line, &'a SwitchSpec, switch::State)>,
    pub tunnels: Vec<(&'a Line, &'a TunnelSpec)>,
    pub links: Vec<(&'a Line, &'a LinkSpec, compare::State)>,
    pub nats: Vec<(&'a Line, &'a str)>,
    pub publications: Vec<(&'a Line, &'a PublishSpec, bool)>,
    pub nft: Option<Nft>,
    /// What nft listed, where a statement needs to know.
    ruleset: Option<Rc<nft::Ruleset>>,
    /// What is there and differs, where that is wanted to be known and not the end.
    pub differences: Vec<String>,
}

impl<'a> Plan<'a> {
    /// Looks at all that the statements name, with a lock on it for those who act afterwards: that needs all
    /// namespaces to be there.
    pub fn new(machine: &mut Machine, lines: &'a [Line], purpose: Purpose) -> Result<Plan<'a>> {
        let mut plan = Plan::default();
        plan.find_names(lines);
        plan.open_spaces(machine, lines, purpose == Purpose::Make && plan.names.is_empty())?;
        for line in lines {
            let Statement::Switch(spec) = &line.statement else { continue };
            match switch::plan(machine, spec) {
                Ok(state) => plan.switches.push((line, spec, state)),
                Err(error) => plan.differs(purpose, about(line, error))?,
            }
        }
        for line in lines {
            if let Err(error) = plan.add_rest(machine, line) {
                plan.differs(purpose, about(line, error))?;
            }
        }
        Ok(plan)
    }

    fn differs(&mut self, purpose: Purpose, error: Error) -> Result<()> {
        if purpose != Purpose::Compare {
            return Err(error);
        }
        self.differences.push(format!("{error:#}"));
        Ok(())
    }

    fn find_names(&mut self, lines: &'a [Line]) {
        for line in lines {
            let Statement::Add(names) = &line.statement else { continue };
            for name in names {
                if store::inode_of(name).is_none() && !self.names.contains(&name.as_str()) {
                    self.names.push(name);
                }
            }
        }
    }

    fn open_spaces(&self, machine: &mut Machine, lines: &'a [Line], lock: bool) -> Result<()> {
        let mut targets = Vec::new();
        for line in lines {
            let target = match &line.statement {
                Statement::Link(spec) => &spec.end.target,
                Statement::Publish(spec) => &spec.target,
                _ => continue,
            };
            let to_come = matches!(target, Target::Name(name) if self.names.contains(&name.as_str()));
            if !to_come && !targets.contains(&target) {
                // To say which line it is; opened again together.
                target.open().map_err(|error| about(line, error))?;
                targets.push(target);
            }
        }
        machine.open_spaces(targets.into_iter(), lock)
    }

    fn add_rest(&mut self, machine: &mut Machine, line: &'a Line) -> Result<()> {
        match &line.statement {
            Statement::Link(spec) => {
                let found = plug::find(machine, &spec.onto)?;
                let plug =
                    if self.is_to_come(&spec.onto) { found } else { Some(plug::usable(found, &spec.onto)?) };
                let space = machine.space_of(&spec.end.target);
                let state = compare::plan(machine, spec, space, plug.as_ref())?;
                self.links.push((line, spec, state));
            }
            Statement::Tunnel(spec) => {
                if tunnel::plan(machine, spec)? {
                    self.tunnels.push((line, spec));
                }
            }
            Statement::Nat(switch) => {
                self.need_nft()?;
                if !self.switches.iter().any(|(_, spec, _)| spec.name == *switch) {
                    let onto = Onto::Switch(switch.clone());
                    plug::usable(plug::find(machine, &onto)?, &onto)?;
                }
                self.nats.push((line, switch));
            }
            Statement::Switch(spec) if spec.nat => {
                self.need_nft()?;
                let of_plan = self.switches.iter().find(|(_, known, _)| *known == spec);
                if of_plan.is_some_and(|(_, _, state)| state.networks.is_empty() && state.uplink.is_none()) {
                    return Err(no_network());
                }
                self.nats.push((line, &spec.name));
            }
            Statement::Publish(spec) => {
                let present = self.ruleset()?;
                let found = publish::resolve(machine, spec)?;
                for published in &found {
                    published.commands(published.family(), &present)?;
                }
                let there = !found.is_empty() && found.iter().all(|one| one.is_there(one.family(), &present));
                self.publications.push((line, spec, there));
            }
            Statement::Add(_) | Statement::Switch(_) => {}
        }
        Ok(())
    }

    fn need_nft(&mut self) -> Result<&Nft> {
        if self.nft.is_none() {
            self.nft = Some(Nft::need()?);
        }
        self.nft.as_ref().context("nft was found")
    }

    fn ruleset(&mut self) -> Result<Rc<nft::Ruleset>> {
        if let Some(ruleset) = &self.ruleset {
            return Ok(Rc::clone(ruleset));
        }
        let ruleset = Rc::new(self.need_nft()?.ruleset()?);
        self.ruleset = Some(Rc::clone(&ruleset));
        Ok(ruleset)
    }

    /// Whether a statement before makes it or switches it on.
    fn is_to_come(&self, onto: &Onto) -> bool {
        matches!(onto, Onto::Switch(name) if self.switches.iter().any(|(_, spec, _)| spec.name == *name))
    }

    /// What is to be done, for the reader.
    pub fn words(&mut self) -> Vec<String> {
        let mut words: Vec<String> =
            self.names.iter().map(|name| Statement::Add(vec![(*name).to_owned()]).to_string()).collect();
        for (_, spec, state) in &self.switches {
            words.extend(state.words(spec));
        }
        words.extend(self.tunnels.iter().map(|(_, spec)| spec.to_string()));
        for (_, spec, state) in &self.links {
            match state {
                compare::State::New { .. } => words.push(spec.to_string()),
                compare::State::Present(completion) => words.extend(completion.words.iter().cloned()),
            }
        }
        let ruleset = if self.nats.is_empty() { None } else { self.ruleset().ok() };
        let has_nat = |switch: &str| ruleset.as_ref().is_some_and(|ruleset| ruleset.masquerade(switch));
        for (line, switch) in &self.nats {
            let told =
                matches!(&line.statement, Statement::Switch(spec) if words.contains(&spec.to_string()));
            if !told && !has_nat(switch) {
                words.push(format!("nat on {switch}"));
            }
        }
        words.extend(
            self.publications.iter().filter(|(_, _, there)| !there).map(|(_, spec, _)| spec.to_string()),
        );
        words
    }
}

pub fn no_network() -> Error {
    hint(anyhow!("NAT needs to know the subnet"), "give the switch an address: --address 10.0.0.254/24")
}
