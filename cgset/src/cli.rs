//! cli: the command line as data; touches nothing.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Error, Result};
use lexopt::Arg::{Long, Short, Value};
use lexopt::Parser;
use unshare::fail::{Usage, hint, text};

use crate::words::{self, Word};

const HELP: &str = "\
Usage: cgset [options] GROUP [WORD=VALUE...] [--pid N]... [-- COMMAND...]
       cgset --show [--json] GROUP
       cgset --remove GROUP...

Make a control group, set limits in it, and run a command inside.

Words (max, none or -1 lifts a limit; a ? at the end: skip if not offered here):
  mem=100M      memory: bytes, K M G T (powers of 1024), 1.5G, 50% of the RAM
  swap=0        swap on top of mem: same values
  procs=200     processes and threads
  cpu=1.5       processor time: 1.5 or 150% is one and a half processors

Options:
  -p, --pid N         move process N into the group (may be repeated)
  -k, --keep          leave the group when COMMAND has ended
      --parent GROUP  put the group below this one, which must exist;
                        . is the group that cgset itself runs in
  -f, --force         allow limits that nothing can live with
  -s, --show          print limits, use, peaks and members
  -j, --json          with --show: as JSON
  -r, --remove        kill all that runs in the groups and remove them
  -n, --dry-run       print what would be done, as a shell script
  -v, --verbose       say what is done
  -h, --help          show this help
  -V, --version       show the version
";

/// What one call is to do.
#[derive(Debug)]
pub enum Action {
    Print(String),
    Show { group: Group, parent: Option<Parent>, json: bool },
    Remove { groups: Vec<Group>, parent: Option<Parent>, verbose: bool, dry_run: bool },
    Set(Request),
}

/// A checked name: relative, without "." or "..", never a control file's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group(pub String);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parent {
    Own,
    Group(Group),
}

#[derive(Debug)]
pub struct Request {
    pub group: Group,
    pub parent: Option<Parent>,
    pub words: Vec<Word>,
    pub pids: Vec<i32>,
    pub argv: Vec<OsString>,
    pub keep: bool,
    pub force: bool,
    pub dry_run: bool,
    pub verbose: bool,
}

impl Request {
    pub fn runs(&self) -> bool {
        !self.argv.is_empty()
    }
}

#[derive(Default)]
struct Flags {
    show: bool,
    remove: bool,
    json: bool,
    keep: bool,
    force: bool,
    dry_run: bool,
    verbose: bool,
    parent: Option<Parent>,
    pids: Vec<i32>,
}

pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Action> {
    let mut parser = Parser::from_args(args);
    parser.set_short_equals(false);
    let mut flags = Flags::default();
    let mut plain: Vec<OsString> = Vec::new();
    let mut argv = None;
    loop {
        // What follows "--" is the command; lexopt by itself would not tell where it begins.
        if parser.try_raw_args().is_some_and(|raw| raw.peek().is_some_and(|next| next == "--")) {
            argv = Some(parser.raw_args()?.skip(1).collect::<Vec<_>>());
            break;
        }
        match parser.next()? {
            None => break,
            Some(Value(word)) => plain.push(word),
            Some(Short('h') | Long("help")) => return Ok(Action::Print(HELP.into())),
            Some(Short('V') | Long("version")) => {
                return Ok(Action::Print(
                    concat!("cgset (slipway) ", env!("CARGO_PKG_VERSION"), "\n").into(),
                ));
            }
            Some(Short('s') | Long("show")) => flags.show = true,
            Some(Short('r') | Long("remove")) => flags.remove = true,
            Some(Short('j') | Long("json")) => flags.json = true,
            Some(Short('k') | Long("keep")) => flags.keep = true,
            Some(Short('f') | Long("force")) => flags.force = true,
            Some(Short('n') | Long("dry-run")) => flags.dry_run = true,
            Some(Short('v') | Long("verbose")) => flags.verbose = true,
            Some(Short('p') | Long("pid")) => flags.pids.push(pid(&text(parser.value()?)?)?),
            Some(Long("parent")) => flags.parent = Some(parent(&text(parser.value()?)?)?),
            Some(other) => return Err(other.unexpected().into()),
        }
    }
    let plain = plain.into_iter().map(text).collect::<Result<Vec<_>>>()?;
    action(flags, &plain, argv)
}

fn action(flags: Flags, plain: &[String], argv: Option<Vec<OsString>>) -> Result<Action> {
    if argv.as_ref().is_some_and(Vec::is_empty) {
        return Err(usage("no command after '--'".into()));
    }
    let Some((first, rest)) = plain.split_first() else { return Err(usage("no group given".into())) };
    if flags.show || flags.remove {
        let sets = flags.keep || flags.force || argv.is_some() || !flags.pids.is_empty();
        if sets || (flags.show && (flags.remove || flags.dry_run)) {
            return Err(usage("--show and --remove stand alone".into()));
        }
    }
    if flags.json && !flags.show {
        return Err(usage("--json belongs to --show".into()));
    }
    if flags.remove {
        let groups = plain.iter().map(|name| group(name)).collect::<Result<_>>()?;
        let Flags { parent, verbose, dry_run, .. } = flags;
        return Ok(Action::Remove { groups, parent, verbose, dry_run });
    }
    let group = group(first)?;
    if flags.show {
        if let Some(extra) = rest.first() {
            return Err(usage(format!("--show takes one group, and then came '{extra}'")));
        }
        return Ok(Action::Show { group, parent: flags.parent, json: flags.json });
    }
    if flags.keep && argv.is_none() {
        return Err(usage("--keep belongs to a command: without one the group stays anyway".into()));
    }
    let Flags { parent, pids, keep, force, dry_run, verbose, .. } = flags;
    let words = words::parse_all(rest, force)?;
    let argv = argv.unwrap_or_default();
    Ok(Action::Set(Request { group, parent, words, pids, argv, keep, force, dry_run, verbose }))
}

pub fn usage(text: String) -> Error {
    Error::new(Usage(text))
}

fn pid(word: &str) -> Result<i32> {
    match word.parse() {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(usage(format!("'{word}' is not a process number"))),
    }
}

fn parent(word: &str) -> Result<Parent> {
    Ok(if word == "." { Parent::Own } else { Parent::Group(group(word)?) })
}

/// Beginnings of the names of control files; a directory of such a name would shadow the file of a
/// controller that is not enabled yet, and the kernel refuses some of them (cgroup-v2.rst, "Conventions").
const CONTROL_FILES: [&str; 14] = [
    "cgroup.", "memory.", "pids.", "cpu.", "cpuacct.", "cpuset.", "io.", "blkio.", "devices.", "freezer.",
    "hugetlb.", "rdma.", "misc.", "dmem.",
];
const CONTROL_FILES_V1: [&str; 3] = ["tasks", "notify_on_release", "release_agent"];

fn group(name: &str) -> Result<Group> {
    let refuse = |why: &str| Err(usage(format!("'{}' cannot be a group: {why}", name.escape_debug())));
    if name.is_empty() {
        return refuse("the name is empty");
    }
    if Path::new(name).is_absolute() {
        return refuse("the name must be relative, as in 'web' or 'farm/web'");
    }
    if name.len() > 4000 {
        return refuse("the name is longer than a path may be");
    }
    for part in name.split('/') {
        if part.is_empty() || part == "." || part == ".." {
            return refuse("no part of it may be empty, '.' or '..'");
        }
        if part.len() > 255 {
            return refuse("a part of it is longer than 255 bytes");
        }
        // The kernel refuses a newline itself: /proc/PID/cgroup could not be read any more.
        if part.chars().any(char::is_control) {
            return refuse("it holds a control character");
        }
        if CONTROL_FILES_V1.contains(&part) || CONTROL_FILES.iter().any(|file| part.starts_with(file)) {
            return refuse(&format!("'{part}' is, or may become, the name of a control file"));
        }
    }
    if name.contains('=') {
        let error = usage(format!("'{name}' cannot be a group: it looks like a word"));
        return Err(hint(error, "the group comes first: cgset GROUP mem=100M"));
    }
    Ok(Group(name.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Action> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = "x".repeat(256);
        for name in
            ["", "/web", "a//b", "a/", "../x", "a/../b", ".", "tasks", "memory.max", "a/cgroup.procs", "a\nb"]
        {
            assert!(group(name).unwrap_err().is::<Usage>(), "{name:?}");
        }
        assert!(group(&long).is_err());
        assert_eq!(group("farm/ship-web.1").unwrap().0, "farm/ship-web.1");
    }

    #[test]
    fn the_command_keeps_its_own_options() {
        let Ok(Action::Set(request)) = read("web mem=1M -v -- ls --show -- x") else { panic!("not parsed") };
        assert_eq!((request.group.0.as_str(), request.verbose), ("web", true));
        assert_eq!(request.argv, ["ls", "--show", "--", "x"]);
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for line in [
            "",
            "web --",
            "--show web mem=1M",
            "--show --remove web",
            "--json web",
            "--keep web",
            "web --pid 0",
            "--remove web -- ls",
            "--show web --pid 1",
            "web ls",
            "web --nonsense",
            "mem=1M",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
