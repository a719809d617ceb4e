//! cli: the words of the command line as plain data; nothing here looks at the world.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use lexopt::prelude::*;
use nix::sched::CloneFlags;
use nix::unistd::Pid;
use unshare::caps::Caps;
use unshare::fail::{Usage, text};
use unshare::ns::{self, KINDS, Kind};
use unshare::signals;

pub const HELP: &str = "\
Usage: nsenter [options] [PROGRAM [ARGUMENT...]]

Run PROGRAM (default: the login shell) in the namespaces of another process.

  -t, --target PID           the process to take namespaces from
  -a, --all                  enter all its namespaces

Namespaces, of the target or named by a file:
  -m, --mount[=FILE]         mount namespace
  -u, --uts[=FILE]           UTS namespace (host name)
  -i, --ipc[=FILE]           System V IPC and POSIX message queues
  -n, --net[=FILE]           network namespace
  -p, --pid[=FILE]           pid namespace
  -U, --user[=FILE]          user namespace
  -C, --cgroup[=FILE]        cgroup namespace
  -T, --time[=FILE]          time namespace

The process:
  -r, --root[=DIR]           change the root directory: the target's, or DIR
  -w, --wd[=DIR]             change directory: the target's, or DIR (both DIRs
                             are opened before entering)
  -W, --wdns DIR             change directory to DIR, looked up inside
  -e, --env                  take the target's environment
  -c, --join-cgroup          join the target's cgroups
  -S, --setuid UID|follow    set the user id (default 0 with -U)
  -G, --setgid GID|follow    set the group id (default 0 with -U), drop
                             supplementary groups
      --preserve-credentials with -U leave user and group ids alone
      --caps LIST|target     keep these capabilities alone: names with commas,
                             'all', 'none', 'default', or what the target has
      --close-fds            close all inherited descriptors above 2
  -F, --no-fork              do not fork although the pid namespace is entered
      --kill-child[=SIGNAL]  kill the child when nsenter dies (default KILL)
      --forward-signals      pass HUP INT QUIT TERM USR1 USR2 on to the child

  -h, --help                 print this help
  -V, --version              print the version
";

pub enum Request {
    Help,
    Version,
    Run(Box<Options>),
}

#[derive(Debug, Default)]
pub struct Options {
    pub target: Option<Pid>,
    pub all: bool,
    /// With a file: that; without: the target's.
    pub kinds: Vec<(CloneFlags, Option<PathBuf>)>,
    pub root: Option<Place>,
    pub wd: Option<Place>,
    pub wdns: Option<PathBuf>,
    pub env: bool,
    pub join_cgroup: bool,
    pub setuid: Option<Id>,
    pub setgid: Option<Id>,
    pub preserve_credentials: bool,
    pub caps: Option<KeepCaps>,
    pub close_fds: bool,
    pub no_fork: bool,
    pub kill_child: Option<i32>,
    pub forward_signals: bool,
    pub argv: Vec<OsString>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    Target,
    Dir(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Id {
    Number(u32),
    Follow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepCaps {
    These(Caps),
    Target,
}

pub fn parse(mut parser: lexopt::Parser) -> Result<Request> {
    parser.set_short_equals(false);
    let mut o = Options::default();
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Request::Help),
            Short('V') | Long("version") => return Ok(Request::Version),
            Short('t') | Long("target") => o.target = Some(pid(parser.value()?)?),
            Short('a') | Long("all") => o.all = true,
            Short('r') | Long("root") => o.root = Some(place(parser.optional_value())),
            Short('w') | Long("wd") => o.wd = Some(place(parser.optional_value())),
            Short('W') | Long("wdns") => o.wdns = Some(parser.value()?.into()),
            Short('e') | Long("env") => o.env = true,
            Short('c') | Long("join-cgroup") => o.join_cgroup = true,
            Short('S') | Long("setuid") => o.setuid = Some(id("user id", parser.value()?)?),
            Short('G') | Long("setgid") => o.setgid = Some(id("group id", parser.value()?)?),
            Long("preserve-credentials") => o.preserve_credentials = true,
            Long("caps") => o.caps = Some(keep_caps(parser.value()?)?),
            Long("close-fds") => o.close_fds = true,
            Short('F') | Long("no-fork") => o.no_fork = true,
            Long("kill-child") => o.kill_child = Some(signals::or_kill(parser.optional_value())?),
            Long("forward-signals") => o.forward_signals = true,
            Short(letter) if ns::by_letter(letter).is_some() => {
                let kind = ns::by_letter(letter).expect("the guard has found it");
                take(&mut o, kind, parser.optional_value());
            }
            Long(word) if ns::by_word(word).is_some() => {
                let kind = ns::by_word(word).expect("the guard has found it");
                take(&mut o, kind, parser.optional_value());
            }
            // The first word that is no option is the program, and what follows is its own.
            Value(program) => {
                o.argv.push(program);
                o.argv.extend(parser.raw_args()?);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    check(&o)?;
    Ok(Request::Run(Box::new(o)))
}

/// The rules between options.
fn check(o: &Options) -> Result<()> {
    let from_target = o.all
        || o.kinds.iter().any(|(_, file)| file.is_none())
        || o.root == Some(Place::Target)
        || o.wd == Some(Place::Target)
        || o.env
        || o.join_cgroup
        || o.setuid == Some(Id::Follow)
        || o.setgid == Some(Id::Follow)
        || o.caps == Some(KeepCaps::Target);
    if from_target && o.target.is_none() {
        bail!(Usage("no target PID specified: add --target PID".into()));
    }
    if !from_target && o.kinds.is_empty() && o.root.is_none() && o.wd.is_none() {
        bail!(Usage("no namespace specified: name one or more, or --all".into()));
    }
    if o.wd.is_some() && o.wdns.is_some() {
        bail!(Usage("options --wd and --wdns are mutually exclusive".into()));
    }
    Ok(())
}

fn take(o: &mut Options, kind: &Kind, file: Option<OsString>) {
    o.kinds.retain(|(flag, _)| *flag != kind.flag);
    o.kinds.push((kind.flag, file.map(|f| strip_equals(f).into())));
}

fn place(value: Option<OsString>) -> Place {
    value.map_or(Place::Target, |dir| Place::Dir(strip_equals(dir).into()))
}

/// -n=/path as util-linux takes it since 2.41: the file is /path.
fn strip_equals(value: OsString) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    match value.as_bytes().strip_prefix(b"=") {
        Some(rest) => OsString::from_vec(rest.to_vec()),
        None => value,
    }
}

fn pid(value: OsString) -> Result<Pid> {
    let word = text(value)?;
    match word.parse() {
        Ok(number) if number > 0 => Ok(Pid::from_raw(number)),
        _ => Err(Usage(format!("failed to parse PID: '{word}'")).into()),
    }
}

fn id(what: &str, value: OsString) -> Result<Id> {
    let word = text(value)?;
    if word == "follow" {
        return Ok(Id::Follow);
    }
    word.parse().map(Id::Number).map_err(|_| anyhow!(Usage(format!("not a {what}: '{word}'"))))
}

fn keep_caps(value: OsString) -> Result<KeepCaps> {
    let word = text(value)?;
    Ok(if word == "target" { KeepCaps::Target } else { KeepCaps::These(Caps::parse(&word)?) })
}

/// All kinds as --all means them, less those that were named.
pub fn not_named(o: &Options) -> impl Iterator<Item = &'static Kind> + '_ {
    KINDS.iter().filter(|kind| !o.kinds.iter().any(|(flag, _)| *flag == kind.flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> Result<Options> {
        let all = ["nsenter"].iter().chain(words).map(OsString::from);
        match parse(lexopt::Parser::from_iter(all))? {
            Request::Run(options) => Ok(*options),
            _ => panic!("not a run: {words:?}"),
        }
    }

    #[test]
    fn a_file_is_attached_with_or_without_an_equals_sign() {
        let file = |words: &[&str]| options(words).unwrap().kinds[0].1.clone();
        for word in ["-n/x", "-n=/x", "--net=/x"] {
            assert_eq!(file(&[word]), Some("/x".into()), "{word}");
        }
        let o = options(&["-t1", "-n", "/x"]).unwrap();
        assert_eq!((o.kinds[0].1.clone(), o.argv), (None, vec!["/x".into()]));
    }

    #[test]
    fn without_a_target_only_files_can_be_entered() {
        for words in [&["-a"][..], &["-n"], &["-r"], &["-e", "-n/x"], &["--caps=target", "-n/x"]] {
            assert!(options(words).unwrap_err().to_string().contains("no target"), "{words:?}");
        }
        assert!(options(&["-n/x"]).is_ok());
        assert!(options(&["--root=/x"]).is_ok());
    }

    #[test]
    fn nothing_to_enter_is_said() {
        assert!(options(&["-t", "1"]).unwrap_err().to_string().contains("no namespace"));
        assert!(options(&["ls"]).unwrap_err().to_string().contains("no namespace"));
    }

    #[test]
    fn options_end_at_the_program() {
        assert_eq!(options(&["-t1", "-a", "ls", "-F"]).unwrap().argv, ["ls", "-F"]);
    }

    #[test]
    fn ids_are_numbers_or_follow() {
        let o = options(&["-t1", "-a", "-S", "follow", "-G", "5"]).unwrap();
        assert_eq!((o.setuid, o.setgid), (Some(Id::Follow), Some(Id::Number(5))));
        assert!(options(&["-t1", "-a", "-S", "-1"]).is_err());
        assert!(options(&["-t0", "-a"]).is_err());
    }
}
