//! cli: the words of the command line as plain data; nothing here looks at the world.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use lexopt::prelude::*;
use nix::sched::CloneFlags;
use nix::sys::signal::SigSet;
use nix::unistd::Pid;
use unshare::caps::Caps;
use unshare::fail::{Usage, text};
use unshare::fstab::{self, Line};
use unshare::limits::Limit;
use unshare::ns::{self, KINDS, Kind};
use unshare::options::{Names, Parser, unexpected};
use unshare::seccomp::Profile;
use unshare::signals;

pub const HELP: &str = "\
Usage: nsenter [options] [PROGRAM [ARGUMENT...]]

Run PROGRAM (default: the login shell) in the namespaces of another process.

  -t, --target PID[:INODE]   the process to take namespaces from; INODE is that
                             of its pidfd
  -a, --all                  enter all its namespaces

Namespaces, of the target or named by FILE, which may be :NSID:
  -m, --mount[=FILE]         mount namespace
  -u, --uts[=FILE]           UTS namespace (host name)
  -i, --ipc[=FILE]           System V IPC and POSIX message queues
  -n, --net[=FILE]           network namespace
  -N, --net-socket FD        network namespace of that socket of the target
  -p, --pid[=FILE]           pid namespace
  -U, --user[=FILE]          user namespace
      --user-parent          the parent of the user namespace
  -C, --cgroup[=FILE]        cgroup namespace
  -T, --time[=FILE]          time namespace

Mounts in the target's root, before PROGRAM runs; without PROGRAM, that is all:
      --bind SRC:DST[:ro]    a directory or file of the caller's; repeatable
      --fstab FILE           what FILE says
      --fstab-line LINE      one line of that kind; repeatable

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
      --keep-caps            with -U keep the capabilities as another user, too
      --caps LIST|target     keep these capabilities alone: names with commas,
                             'all', 'none', 'default', or what the target has
      --seccomp default|i386|none|FILE
                             refuse system calls, as unshare does
      --rlimit NAME=SOFT:HARD  set a limit, as prlimit names it; repeatable
  -Z, --follow-context       run with the target's SELinux context
      --close-fds            close all inherited descriptors above 2
      --pty                  a terminal of its own for the program
  -F, --no-fork              do not fork although the pid namespace is entered
      --kill-child[=SIGNAL]  kill the child when nsenter dies (default KILL)
      --forward-signals[=LIST]  pass signals on to the child: names with
                             commas, or 'all' (default TERM,INT)

  -h, --help                 print this help
  -V, --version              print the version
";

const NAMES: Names = Names {
    standard: &[
        "all",
        "help",
        "version",
        "target=",
        "mount[=]",
        "uts[=]",
        "ipc[=]",
        "net[=]",
        "net-socket=",
        "pid[=]",
        "user[=]",
        "cgroup[=]",
        "time[=]",
        "setuid=",
        "setgid=",
        "root[=]",
        "wd[=]",
        "wdns=",
        "env",
        "no-fork",
        "join-cgroup",
        "preserve-credentials",
        "keep-caps",
        "user-parent",
        "follow-context",
    ],
    ours: &[
        "bind=",
        "fstab=",
        "fstab-line=",
        "caps=",
        "seccomp=",
        "rlimit=",
        "close-fds",
        "pty",
        "kill-child[=]",
        "forward-signals[=]",
    ],
};

pub enum Request {
    Help,
    Version,
    Run(Box<Options>),
}

#[derive(Debug)]
pub struct Options {
    pub target: Option<Pid>,
    /// The inode that its pidfd must have.
    pub inode: Option<u64>,
    pub all: bool,
    pub kinds: Vec<(CloneFlags, Source)>,
    pub net_socket: Option<i32>,
    pub user_parent: bool,
    pub mounts: Vec<Mount>,
    pub root: Option<Place>,
    pub wd: Option<Place>,
    pub wdns: Option<PathBuf>,
    pub env: bool,
    pub join_cgroup: bool,
    pub setuid: Option<Id>,
    pub setgid: Option<Id>,
    pub preserve_credentials: bool,
    pub keep_caps: bool,
    pub caps: Option<KeepCaps>,
    pub seccomp: Option<Profile>,
    pub rlimits: Vec<Limit>,
    pub follow_context: bool,
    pub close_fds: bool,
    pub pty: bool,
    pub no_fork: bool,
    pub kill_child: Option<i32>,
    pub forward: SigSet,
    pub argv: Vec<OsString>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mount {
    Line(Line),
    /// An fstab.
    File(PathBuf),
}

/// Which namespace of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Target,
    File(PathBuf),
    Id(u64),
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

pub fn parse(words: lexopt::Parser) -> Result<Request> {
    let mut parser = Parser::new(words, &NAMES);
    let mut o = Options::none();
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Request::Help),
            Short('V') | Long("version") => return Ok(Request::Version),
            Short('t') | Long("target") => target(&mut o, parser.value()?)?,
            Short('a') | Long("all") => o.all = true,
            Short('N') | Long("net-socket") => o.net_socket = Some(descriptor(parser.value()?)?),
            Long("user-parent") => o.user_parent = true,
            Short('r') | Long("root") => o.root = Some(place(parser.optional_value())),
            Short('w') | Long("wd") => o.wd = Some(place(parser.optional_value())),
            Short('W') | Long("wdns") => o.wdns = Some(strip_equals(parser.value()?).into()),
            Short('e') | Long("env") => o.env = true,
            Short('c') | Long("join-cgroup") => o.join_cgroup = true,
            Short('S') | Long("setuid") => o.setuid = Some(id("uid", parser.value()?)?),
            Short('G') | Long("setgid") => o.setgid = Some(id("gid", parser.value()?)?),
            Long("preserve-credentials") => o.preserve_credentials = true,
            Long("bind") => o.mounts.push(Mount::Line(fstab::bind(&parser.value()?)?)),
            Long("fstab") => o.mounts.push(Mount::File(parser.value()?.into())),
            Long("fstab-line") => o.mounts.push(Mount::Line(fstab_line(parser.value()?)?)),
            Long("seccomp") => o.seccomp = Some(Profile::parse(parser.value()?)),
            Long("rlimit") => o.rlimits.push(Limit::parse(&text(parser.value()?)?)?),
            Long("keep-caps") => o.keep_caps = true,
            Long("caps") => o.caps = Some(keep_caps(parser.value()?)?),
            Short('Z') | Long("follow-context") => o.follow_context = true,
            Long("close-fds") => o.close_fds = true,
            Long("pty") => o.pty = true,
            Short('F') | Long("no-fork") => o.no_fork = true,
            Long("kill-child") => o.kill_child = Some(signals::or_kill(parser.optional_value())?),
            Long("forward-signals") => o.forward = signals::to_forward(parser.optional_value())?,
            Short(letter) if ns::by_letter(letter).is_some() => {
                let kind = ns::by_letter(letter).expect("the guard has found it");
                take(&mut o, kind, parser.optional_value())?;
            }
            Long(word) if ns::by_word(word).is_some() => {
                let kind = ns::by_word(word).expect("the guard has found it");
                take(&mut o, kind, parser.optional_value())?;
            }
            // The first word that is no option is the program, and what follows is its own.
            Value(program) => {
                o.argv.push(program);
                o.argv.extend(parser.rest()?);
            }
            other => return Err(unexpected(other)),
        }
    }
    let mount = ns::by_word("mount").expect("the table has it").flag;
    if !o.mounts.is_empty() && !o.all && !o.kinds.iter().any(|(flag, _)| *flag == mount) {
        o.kinds.push((mount, Source::Target));
    }
    check(&o)?;
    Ok(Request::Run(Box::new(o)))
}

/// The rules between options.
fn check(o: &Options) -> Result<()> {
    let from_target = o.all
        || o.kinds.iter().any(|(_, source)| *source == Source::Target)
        || o.net_socket.is_some()
        || o.user_parent
        || o.root == Some(Place::Target)
        || o.wd == Some(Place::Target)
        || o.env
        || o.join_cgroup
        || o.follow_context
        || o.setuid == Some(Id::Follow)
        || o.setgid == Some(Id::Follow)
        || o.caps == Some(KeepCaps::Target);
    if from_target && o.target.is_none() {
        bail!(Usage("no target PID specified: add --target PID".into()));
    }
    if !from_target && o.kinds.is_empty() && o.root.is_none() && o.wd.is_none() {
        bail!(Usage("no namespace specified: name one or more, or --all".into()));
    }
    for (both, names) in
        [(o.wd.is_some() && o.wdns.is_some(), "--wd and --wdns"), (o.pty && o.no_fork, "--pty and --no-fork")]
    {
        if both {
            bail!(Usage(format!("options {names} cannot be combined")));
        }
    }
    Ok(())
}

impl Options {
    fn none() -> Options {
        Options {
            target: None,
            inode: None,
            all: false,
            kinds: Vec::new(),
            net_socket: None,
            user_parent: false,
            mounts: Vec::new(),
            root: None,
            wd: None,
            wdns: None,
            env: false,
            join_cgroup: false,
            setuid: None,
            setgid: None,
            preserve_credentials: false,
            keep_caps: false,
            caps: None,
            seccomp: None,
            rlimits: Vec::new(),
            follow_context: false,
            close_fds: false,
            pty: false,
            no_fork: false,
            kill_child: None,
            forward: SigSet::empty(),
            argv: Vec::new(),
        }
    }
}

fn take(o: &mut Options, kind: &Kind, file: Option<OsString>) -> Result<()> {
    let source = match file.map(strip_equals) {
        None => Source::Target,
        Some(word) => match word.as_bytes().strip_prefix(b":") {
            None => Source::File(word.into()),
            Some(digits) => {
                let digits = String::from_utf8_lossy(digits);
                let id = digits.parse();
                Source::Id(id.map_err(|_| anyhow!(Usage(format!("failed to parse nsid: {digits}"))))?)
            }
        },
    };
    o.kinds.retain(|(flag, _)| *flag != kind.flag);
    o.kinds.push((kind.flag, source));
    Ok(())
}

fn place(value: Option<OsString>) -> Place {
    value.map_or(Place::Target, |dir| Place::Dir(strip_equals(dir).into()))
}

/// -n=/path as util-linux takes it since 2.41: the file is /path.
fn strip_equals(value: OsString) -> OsString {
    match value.as_bytes().strip_prefix(b"=") {
        Some(rest) => OsString::from_vec(rest.to_vec()),
        None => value,
    }
}

/// PID[:INODE]
fn target(o: &mut Options, value: OsString) -> Result<()> {
    if o.target.is_some() {
        bail!(Usage("option --target may be given only once".into()));
    }
    let word = text(value)?;
    let (pid, inode) = match word.split_once(':') {
        Some((pid, inode)) => (pid, Some(inode)),
        None => (word.as_str(), None),
    };
    let wrong = || Usage(format!("failed to parse PID argument '{word}'"));
    let number = pid.parse().ok().filter(|number| *number > 0).ok_or_else(wrong)?;
    o.target = Some(Pid::from_raw(number));
    o.inode = inode.map(|digits| digits.parse().ok().filter(|n| *n > 0).ok_or_else(wrong)).transpose()?;
    Ok(())
}

fn fstab_line(value: OsString) -> Result<Line> {
    let line = fstab::parse(value.as_bytes())?;
    line.ok_or_else(|| Usage(format!("nothing to mount in '{}'", value.to_string_lossy())).into())
}

fn descriptor(value: OsString) -> Result<i32> {
    let word = text(value)?;
    word.parse()
        .ok()
        .filter(|number| *number >= 0)
        .ok_or_else(|| Usage(format!("failed to parse file descriptor: '{word}'")).into())
}

fn id(what: &str, value: OsString) -> Result<Id> {
    let word = text(value)?;
    if word == "follow" {
        return Ok(Id::Follow);
    }
    word.parse().map(Id::Number).map_err(|_| anyhow!(Usage(format!("failed to parse {what}: '{word}'"))))
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
            assert_eq!(file(&[word]), Source::File("/x".into()), "{word}");
        }
        let o = options(&["-t1", "-n", "/x"]).unwrap();
        assert_eq!((o.kinds[0].1.clone(), o.argv), (Source::Target, vec!["/x".into()]));
        assert_eq!(file(&["-n:42"]), Source::Id(42));
        assert_eq!(file(&["--net=:42"]), Source::Id(42));
        assert!(options(&["-n:x"]).unwrap_err().to_string().contains("failed to parse nsid: x"));
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
        assert!(options(&["-t1", "-a", "-S", "x"]).unwrap_err().to_string().contains("failed to parse uid"));
    }

    #[test]
    fn a_target_is_a_pid_with_or_without_an_inode_and_named_once() {
        let o = options(&["-t7:8", "-a"]).unwrap();
        assert_eq!((o.target, o.inode), (Some(Pid::from_raw(7)), Some(8)));
        for word in ["0", "-1", "x", "1x", "1:", "1:0", "1:x", "99999999999"] {
            let said = options(&["-t", word, "-a"]).unwrap_err().to_string();
            assert_eq!(said, format!("failed to parse PID argument '{word}'"));
        }
        assert!(options(&["-t1", "-t1", "-a"]).unwrap_err().to_string().contains("only once"));
    }

    #[test]
    fn every_name_is_handled_and_in_the_help() {
        for line in HELP.lines().filter(|line| line.starts_with("  ")) {
            let Some((_, option)) = line.split_once("--") else { continue };
            let name: String = option.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            assert!(NAMES.all().any(|known| known == name), "{line}");
        }
        for name in NAMES.all() {
            assert!(HELP.contains(&format!("--{name}")), "{name}");
            let said = options(&[&format!("--{name}=1")]).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(!said.contains("unrecognized"), "{name}: {said}");
        }
    }

    #[test]
    fn fuzz_the_command_line_takes_anything() {
        let names: Vec<_> = NAMES.all().collect();
        crate::fuzz::rounds(3000, |dice| {
            let mut words: Vec<String> = (0..dice.below(6))
                .map(|_| match dice.below(4) {
                    0 => format!("--{}", names[dice.below(names.len() as u64) as usize]),
                    1 => format!("--{}={}", dice.text("abcdefghimnopstuwy-", 9), dice.text("a0:,=/ é", 6)),
                    2 => format!("-{}", dice.text("aumnipCTUrwWSGNecFZ0=:/x", 6)),
                    _ => dice.text("-abc0:1,= /", 8),
                })
                .collect();
            if dice.below(2) == 0 {
                words.insert(0, format!("-t{}", dice.text("0123456789:-", 6)));
            }
            if let Ok(Request::Run(o)) = parse(lexopt::Parser::from_args(words)) {
                assert!(o.target.is_none_or(|pid| pid.as_raw() > 0) && o.inode != Some(0));
                assert!(o.target.is_some() || !(o.all || o.env || o.join_cgroup));
            }
        });
    }

    #[test]
    fn what_excludes_each_other_is_said() {
        for words in [&["-t1", "-n", "-w/x", "-W/y"][..], &["-t1", "-n", "--pty", "--no-fork"]] {
            assert!(options(words).unwrap_err().to_string().contains("cannot be combined"), "{words:?}");
        }
    }
}
