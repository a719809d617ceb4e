//! request: what one call is to do, as data.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::name::{Group, Parent};
use crate::words::Word;

#[derive(Debug)]
pub enum Action {
    Print(String),
    /// On groups that are there.
    Do {
        verb: Verb,
        groups: Vec<Group>,
        options: Options,
    },
    Set(Request),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Show,
    List,
    Top,
    WaitOom,
    Freeze,
    Thaw,
    Kill,
    Remove,
}

impl Verb {
    const NAMES: [(Verb, &str); 8] = [
        (Verb::Show, "--show"),
        (Verb::List, "--list"),
        (Verb::Top, "--top"),
        (Verb::WaitOom, "--wait-oom"),
        (Verb::Freeze, "--freeze"),
        (Verb::Thaw, "--thaw"),
        (Verb::Kill, "--kill"),
        (Verb::Remove, "--remove"),
    ];

    /// The verb behind the two dashes.
    pub fn named(word: &str) -> Option<Verb> {
        let found = Verb::NAMES.iter().find(|(_, name)| name.strip_prefix("--") == Some(word));
        found.map(|(verb, _)| *verb)
    }

    pub fn name(self) -> &'static str {
        Verb::NAMES.iter().find(|(verb, _)| *verb == self).map_or("", |(_, name)| name)
    }

    /// How many groups it takes.
    pub fn takes(self, count: usize) -> bool {
        match self {
            Verb::Show | Verb::WaitOom => count == 1,
            Verb::List | Verb::Top => count <= 1,
            Verb::Freeze | Verb::Thaw | Verb::Kill | Verb::Remove => count >= 1,
        }
    }
}

#[derive(Debug, Default)]
pub struct Options {
    pub parent: Parent,
    pub pids: Vec<i32>,
    pub pids_from_stdin: bool,
    pub keep: bool,
    pub leaf: bool,
    pub scope: bool,
    pub own: Option<String>,
    pub report: Option<PathBuf>,
    pub oom_exit: Option<u8>,
    pub force: bool,
    pub dry_run: bool,
    pub verbose: bool,
    pub json: bool,
    pub iterations: Option<u64>,
    pub delay: Option<Duration>,
}

/// A group to be made, limited, entered.
#[derive(Debug)]
pub struct Request {
    pub group: Group,
    pub words: Vec<Word>,
    pub argv: Vec<OsString>,
    pub options: Options,
}

impl Request {
    pub fn runs(&self) -> bool {
        !self.argv.is_empty()
    }

    /// A command whose limits may all be skipped, and nothing else is asked of a group: it runs on a host
    /// without any.
    pub fn does_without(&self) -> bool {
        let Options { keep, leaf, scope, own, parent, pids, pids_from_stdin, .. } = &self.options;
        let asks = *keep || *leaf || *scope || own.is_some() || *parent != Parent::Usual;
        let moves = *pids_from_stdin || !pids.is_empty();
        let skips = !self.words.is_empty() && self.words.iter().all(|word| word.optional);
        self.runs() && skips && !asks && !moves
    }

    /// The processor time is asked for, which v1 counts in a tree of its own.
    pub fn wants_time(&self) -> bool {
        self.options.report.is_some()
    }
}
