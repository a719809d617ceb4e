//! apply: from statements to a network: one plan over all of them, one way back from wherever it fails.
//!
//! Every command that makes something is an apply of one statement. All is looked at before anything is made;
//! names come first, then switches, links, and last what nft does, which is all or nothing by itself.

use std::io::Read;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Error, Result, anyhow, bail};
use unshare::fail::{hint, print};

use crate::address::Cidr;
use crate::filters;
use crate::link::{self, LinkSpec, Onto};
use crate::machine::{Machine, need_capabilities};
use crate::nat::{self, Nft, Wanted};
use crate::plug::{self, Plug};
use crate::publish::{self, PublishSpec};
use crate::rtnl;
use crate::show;
use crate::store::{self, Target};
use crate::switch::{self, SwitchSpec};
use crate::tunnel::{self, TunnelSpec};
use crate::wire::{self, Job};
use crate::words::{self, Read as Words, Statement};

/// A file that is longer is none that a person has written or we have printed.
const LONGEST_FILE: u64 = 16 << 20;

/// A statement, and its line in a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    pub number: Option<usize>,
    pub statement: Statement,
}

impl Line {
    fn at(&self, error: Error) -> Error {
        match self.number {
            Some(number) => error.context(format!("line {number}")),
            None => error,
        }
    }
}

/// Reads a file, "-" for standard input: a statement a line, blank lines and what stands behind # left out.
pub fn read(file: &Path) -> Result<Vec<Line>> {
    let mut text = String::new();
    let failed = || format!("cannot read '{}'", file.display());
    let length = if file == Path::new("-") {
        std::io::stdin().lock().take(LONGEST_FILE).read_to_string(&mut text)
    } else {
        let opened = std::fs::File::open(file).with_context(failed)?;
        opened.take(LONGEST_FILE).read_to_string(&mut text)
    };
    if length.with_context(failed)? as u64 == LONGEST_FILE {
        return Err(anyhow!("it is longer than {LONGEST_FILE} bytes")).with_context(failed);
    }
    let mut lines = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let number = Some(at + 1);
        // What is wrong with a file is no misuse of the command line.
        let wrong = |error: Error| anyhow!("line {}: {error:#}", at + 1);
        if let Some(statement) = read_line(line).map_err(wrong)? {
            lines.push(Line { number, statement });
        }
    }
    check(&lines)?;
    Ok(lines)
}

/// The statement of a line; None for a blank one.
pub fn read_line(line: &str) -> Result<Option<Statement>> {
    let words = split(line)?;
    if words.is_empty() {
        return Ok(None);
    }
    let mut parser = lexopt::Parser::from_args(words);
    parser.set_short_equals(false);
    match words::statement(&mut parser, |other| Err::<Option<()>, _>(other.unexpected().into()))? {
        Words::Continue(statement) => Ok(Some(statement)),
        Words::Break(()) => bail!("that is no statement"),
    }
}

/// The words of a line, as a shell splits them: 'quotes' and \ keep what they stand before together.
fn split(line: &str) -> Result<Vec<String>> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            _ if quoted => word.get_or_insert_default().push(c),
            '\\' => {
                let next = characters.next().context("a line cannot end with '\\'")?;
                word.get_or_insert_default().push(next);
            }
            '#' if word.is_none() => break,
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    if quoted {
        bail!("a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

/// What statements cannot say together, whatever the machine is like.
fn check(lines: &[Line]) -> Result<()> {
    let mut seen: Vec<&Line> = Vec::new();
    for line in lines {
        for other in &seen {
            clash(&line.statement, &other.statement).map_err(|error| {
                let number = other.number.map_or(String::new(), |number| format!(" (line {number})"));
                line.at(anyhow!("{error}{number}"))
            })?;
        }
        seen.push(line);
    }
    Ok(())
}

fn clash(one: &Statement, other: &Statement) -> Result<()> {
    match (one, other) {
        (Statement::Link(one), Statement::Link(other)) => {
            if one.end == other.end {
                bail!("'{}' is linked already", one.end.label());
            }
            let address =
                one.addresses.iter().find(|a| other.addresses.iter().any(|b| a.address == b.address));
            match address.filter(|_| one.onto.name() == other.onto.name() && one.vlans == other.vlans) {
                Some(cidr) => bail!("'{}' is the address of '{}' already", cidr.address, other.end.label()),
                None => Ok(()),
            }
        }
        (Statement::Tunnel(one), Statement::Tunnel(other)) if one.name == other.name => {
            bail!("the tunnel '{}' is added already", one.name)
        }
        (Statement::Switch(one), Statement::Switch(other)) if one.name == other.name => {
            bail!("the switch '{}' is added already", one.name)
        }
        (Statement::Switch(switch), Statement::Link(link))
        | (Statement::Link(link), Statement::Switch(switch))
            if link.onto.name() == switch.name =>
        {
            let own = switch.addresses.iter().find(|a| link.addresses.iter().any(|b| a.address == b.address));
            match own {
                Some(cidr) => {
                    bail!("'{}' is the address of '{}' and '{}'", cidr.address, link.end.label(), switch.name)
                }
                None => Ok(()),
            }
        }
        (Statement::Publish(one), Statement::Publish(other)) if one.port.collides(&other.port) => {
            bail!("the port of '{one}' is published already by '{other}'")
        }
        _ => Ok(()),
    }
}

/// Whether it is only to be told what would be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Make,
    DryRun,
    Diff,
}

/// What a file asks for; gives the status. A difference is 1, as diff(1) has it.
pub fn file(file: &Path, mode: Mode) -> Result<u8> {
    let differs = run(&read(file)?, mode)?;
    Ok(u8::from(differs && mode == Mode::Diff))
}

/// One statement of the command line.
pub fn one(statement: Statement, dry_run: bool) -> Result<()> {
    let mode = if dry_run { Mode::DryRun } else { Mode::Make };
    run(&[Line { number: None, statement }], mode).map(drop)
}

/// Makes what is missing; true where something was or would be.
pub fn run(lines: &[Line], mode: Mode) -> Result<bool> {
    for line in lines {
        let raw = matches!(&line.statement, Statement::Link(spec) if spec.next_free || spec.check.is_some());
        if !matches!(line.statement, Statement::Add(_)) {
            need_capabilities(raw).map_err(|error| about(line, error))?;
        }
    }
    let mut machine = Machine::open()?;
    let mut plan = Plan::new(&mut machine, lines, mode)?;
    if mode != Mode::Make {
        let sign = if mode == Mode::Diff { "+ " } else { "" };
        let mut text: String = plan.differences.iter().map(|what| format!("! {what}\n")).collect();
        text.extend(plan.words().into_iter().map(|words| format!("{sign}{words}\n")));
        if mode == Mode::Diff {
            text.extend(show::beyond(&mut machine, lines)?.into_iter().map(|words| format!("- {words}\n")));
        }
        print(&text)?;
        return Ok(!text.is_empty());
    }
    if !plan.names.is_empty() {
        let names = std::mem::take(&mut plan.names);
        store::add(&mut machine, &names)?;
        machine.go_home()?;
        // Again, now that the namespaces are there and can be locked.
        plan = Plan::new(&mut machine, lines, mode)?;
    }
    let outcome = act(&mut machine, plan)?;
    machine.keep();
    outcome.tell()?;
    Ok(true)
}

/// The error of a statement, with what it was about and where.
fn about(line: &Line, error: Error) -> Error {
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
struct Plan<'a> {
    names: Vec<&'a str>,
    switches: Vec<(&'a Line, &'a SwitchSpec, switch::State)>,
    tunnels: Vec<(&'a Line, &'a TunnelSpec)>,
    links: Vec<(&'a Line, &'a LinkSpec, link::State)>,
    nats: Vec<(&'a Line, &'a str)>,
    publications: Vec<(&'a Line, &'a PublishSpec, bool)>,
    nft: Option<Nft>,
    /// What nft listed, where a statement needs to know.
    ruleset: Option<Rc<nat::Ruleset>>,
    /// What is there and differs, where that is wanted to be known and not the end.
    differences: Vec<String>,
}

impl<'a> Plan<'a> {
    /// Looks at all that the statements name, with a lock on it for those who act afterwards: that needs all
    /// namespaces to be there.
    fn new(machine: &mut Machine, lines: &'a [Line], mode: Mode) -> Result<Plan<'a>> {
        let mut plan = Plan::default();
        plan.find_names(lines);
        plan.open_spaces(machine, lines, mode == Mode::Make && plan.names.is_empty())?;
        for line in lines {
            let Statement::Switch(spec) = &line.statement else { continue };
            match switch::plan(machine, spec) {
                Ok(state) => plan.switches.push((line, spec, state)),
                Err(error) => plan.differs(mode, about(line, error))?,
            }
        }
        for line in lines {
            if let Err(error) = plan.add_rest(machine, line) {
                plan.differs(mode, about(line, error))?;
            }
        }
        Ok(plan)
    }

    fn differs(&mut self, mode: Mode, error: Error) -> Result<()> {
        if mode != Mode::Diff {
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
                let state = link::plan(machine, spec, space, plug.as_ref())?;
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

    fn ruleset(&mut self) -> Result<Rc<nat::Ruleset>> {
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
    fn words(&mut self) -> Vec<String> {
        let mut words: Vec<String> =
            self.names.iter().map(|name| Statement::Add(vec![(*name).to_owned()]).to_string()).collect();
        for (_, spec, state) in &self.switches {
            words.extend(state.words(spec));
        }
        words.extend(self.tunnels.iter().map(|(_, spec)| spec.to_string()));
        for (_, spec, state) in &self.links {
            match state {
                link::State::New { .. } => words.push(spec.to_string()),
                link::State::Present(completion) => words.extend(completion.words.iter().cloned()),
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

fn no_network() -> Error {
    hint(anyhow!("NAT needs to know the subnet"), "give the switch an address: --address 10.0.0.254/24")
}

fn act(machine: &mut Machine, plan: Plan<'_>) -> Result<Outcome> {
    let moves = plan.switches.iter().any(|(_, _, state)| state.uplink.is_some());
    let choose = plan.links.iter().any(|(_, spec, _)| spec.next_free);
    let by_nft = !(plan.nats.is_empty() && plan.publications.is_empty());
    let _alone = (moves || choose || by_nft).then(|| machine.lock_host()).transpose()?;
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
    let outside = !wanted.masquerade.is_empty();
    let mut watched = new;
    for (switch, _) in wanted.masquerade {
        if !watched.contains(&switch) {
            watched.push(switch);
        }
    }
    Ok(Outcome { chosen, watched, outside })
}

fn make_links(
    machine: &mut Machine,
    links: Vec<(&Line, &LinkSpec, link::State)>,
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
            link::State::Present(completion) => completions.push((line, space, completion)),
            link::State::New { leftover } => {
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

impl Outcome {
    fn tell(self) -> Result<()> {
        filters::warn(&self.watched, self.outside);
        print(&self.chosen.iter().map(|cidr| format!("{cidr}\n")).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_as_a_shell_does_it() {
        let words = |line: &str| split(line).unwrap().join("|");
        assert_eq!(words("  link web:eth0\tbr0 # behind"), "link|web:eth0|br0");
        assert_eq!(words("add 'a b' a\\ b 'it'\\''s' a#b"), "add|a b|a b|it's|a#b");
        assert_eq!((words("# all"), words(""), words("''")), (String::new(), String::new(), String::new()));
        assert_eq!(split("''").unwrap(), [""]);
        assert!(split("add 'a").is_err() && split("add a\\").is_err());
    }

    #[test]
    fn a_statement_is_written_as_it_is_read() {
        for line in [
            "add web 'a b'",
            "switch add br0 --address 10.0.0.254/24 --address fd00::fe/64 --mtu 1400 --uplink eth0 --nat",
            "link web:eth0 br0 10.0.0.1/24 fd00::1/64 via 10.0.0.254 mtu 1400 mac 02:00:00:00:00:01 tag 10 trunk 20,30 rate 80mbit promisc",
            "switch add br0 --ovs --datapath netdev",
            "tunnel add br0 t0 vxlan remote 192.0.2.1 key 7",
            "tunnel add br0 t0 gre remote 2001:db8::1",
            "link 'a b:eth0' macvtap:eth0",
            "link pid:1:eth0 br0 --next-free via 10.0.0.254",
            "nat on br0",
            "publish 8080 web:80",
            "publish [fd00::1]:53 'a b:53' udp",
        ] {
            let statement = read_line(line).unwrap().unwrap();
            assert_eq!(statement.to_string(), line);
        }
    }

    #[test]
    fn a_file_makes_and_does_not_remove() {
        for line in [
            "del web",
            "unlink web:eth0",
            "switch del br0",
            "nat off br0",
            "link --help",
            "add -n web",
            "exec web ls",
            "switch",
        ] {
            assert!(read_line(line).is_err(), "{line}");
        }
    }

    #[test]
    fn statements_that_clash_are_found_before_anything_is_done() {
        let lines = |text: &str| -> Vec<Line> {
            let read = |line: &str| read_line(line).unwrap().unwrap();
            text.split(';')
                .enumerate()
                .map(|(at, line)| Line { number: Some(at + 1), statement: read(line) })
                .collect()
        };
        for bad in [
            "link a:eth0 br0;link a:eth0 br1",
            "link a:eth0 br0 10.0.0.1/24;link b:eth0 br0 10.0.0.1/16",
            "switch add br0;switch add br0",
            "switch add br0 --address 10.0.0.1/24;link a:eth0 br0 10.0.0.1/24",
            "publish 80 a:80;publish 192.0.2.1:80 b:80",
        ] {
            let error = check(&lines(bad)).unwrap_err().to_string();
            assert!(error.starts_with("line 2"), "{error}");
        }
        assert!(
            check(&lines(
                "link a:eth0 br0 10.0.0.1/24;link b:eth0 br1 10.0.0.1/24;publish 80 a:80;publish 80 b:80 udp"
            ))
            .is_ok()
        );
    }
}
