//! cli: the words of the command line as plain data; nothing here looks at the world.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use lexopt::prelude::*;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use unshare::caps::Caps;
use unshare::fail::{Usage, text};
use unshare::seccomp::Profile;
use unshare::{ns, signals};

pub const HELP: &str = "\
Usage: unshare [options] [PROGRAM [ARGUMENT...]]

Run PROGRAM (default: the login shell) in new namespaces.

Namespaces:
  -m, --mount                mount namespace
  -u, --uts                  UTS namespace (host name)
  -i, --ipc                  System V IPC and POSIX message queues
  -n, --net                  network namespace
  -p, --pid                  pid namespace, for children: see --fork
  -U, --user                 user namespace
  -C, --cgroup               cgroup namespace
  -T, --time                 time namespace
  -r, --map-root-user        be root in the new user namespace (implies -U)
      --setgroups allow|deny control setgroups(2) in the user namespace

The process:
  -f, --fork                 run PROGRAM as a child and wait for it
      --kill-child[=SIGNAL]  kill the child when unshare dies (default KILL)
      --forward-signals      pass TERM and INT on to the child (implies -f)
      --init                 be process 1 before PROGRAM: reap, pass signals
                             on, end as it ends (implies -f and -p)
      --pid-file FILE        write the child's pid to FILE (implies -f)
      --new-session          make PROGRAM the leader of a session (setsid)
      --new-keyring          give PROGRAM a session keyring of its own
      --close-fds            close all inherited descriptors above 2
      --keep-fd N            but not N; may be repeated
      --caps LIST            keep these capabilities alone: names with commas,
                             'all', 'none' or 'default'
      --no-new-privs         nothing that runs here gains privileges by exec
      --seccomp default|FILE refuse system calls: what no service needs, or by a
                             compiled filter; 'none' takes it out of --jail
  -S, --setuid UID           set the user id
  -G, --setgid GID           set the group id, drop supplementary groups

The world:
      --hostname NAME        set the host name (implies -u)
      --propagation MODE     private (default), shared, slave or unchanged
  -R, --root DIR             change the root directory with chroot(2)
      --pivot-root DIR       make DIR the root, detach the old (implies -m)
  -w, --wd DIR               change the working directory, inside the root
      --mount-proc[=DIR]     mount a new proc (default /proc; implies -m)
      --mount-sys            mount sysfs read-only on /sys (implies -m)
      --mount-dev            mount a private /dev (implies -m)
      --fstab FILE           mount what FILE says, inside the root
                             (implies -m)
      --mask-paths           hide or write-protect the kernel's knobs in /proc
                             and /sys (implies -m)
      --jail                 -m -u -i -p -C -f --kill-child --forward-signals
                             --init --new-keyring --close-fds --caps default
                             --seccomp default --mount-proc --mount-sys
                             --mount-dev --mask-paths

  -h, --help                 print this help
  -V, --version              print the version
";

pub enum Request {
    Help,
    Version,
    Run(Box<Options>),
}

#[derive(Debug)]
pub struct Options {
    pub kinds: CloneFlags,
    pub map_root: bool,
    pub setgroups: Option<Setgroups>,
    pub fork: bool,
    pub kill_child: Option<i32>,
    pub forward_signals: bool,
    pub init: bool,
    pub pid_file: Option<PathBuf>,
    pub new_session: bool,
    pub new_keyring: bool,
    pub close_fds: bool,
    pub keep_fds: Vec<i32>,
    pub caps: Option<Caps>,
    pub no_new_privs: bool,
    pub seccomp: Option<Profile>,
    pub setuid: Option<u32>,
    pub setgid: Option<u32>,
    pub hostname: Option<OsString>,
    pub propagation: Propagation,
    pub root: Option<PathBuf>,
    pub pivot_root: Option<PathBuf>,
    pub wd: Option<PathBuf>,
    pub mount_proc: Option<PathBuf>,
    pub mount_sys: bool,
    pub mount_dev: bool,
    pub fstab: Option<PathBuf>,
    pub mask_paths: bool,
    pub argv: Vec<OsString>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            kinds: CloneFlags::empty(),
            map_root: false,
            setgroups: None,
            fork: false,
            kill_child: None,
            forward_signals: false,
            init: false,
            pid_file: None,
            new_session: false,
            new_keyring: false,
            close_fds: false,
            keep_fds: Vec::new(),
            caps: None,
            no_new_privs: false,
            seccomp: None,
            setuid: None,
            setgid: None,
            hostname: None,
            propagation: Propagation::Default,
            root: None,
            pivot_root: None,
            wd: None,
            mount_proc: None,
            mount_sys: false,
            mount_dev: false,
            fstab: None,
            mask_paths: false,
            argv: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setgroups {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Default,
    Set(MsFlags),
    Unchanged,
}

pub fn parse(mut parser: lexopt::Parser) -> Result<Request> {
    parser.set_short_equals(false);
    let mut o = Options::default();
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Request::Help),
            Short('V') | Long("version") => return Ok(Request::Version),
            Short('r') | Long("map-root-user") => o.map_root = true,
            Long("setgroups") => o.setgroups = Some(setgroups(&text(parser.value()?)?)?),
            Short('f') | Long("fork") => o.fork = true,
            Long("kill-child") => o.kill_child = Some(signals::or_kill(parser.optional_value())?),
            Long("forward-signals") => o.forward_signals = true,
            Long("init") => o.init = true,
            Long("pid-file") => o.pid_file = Some(parser.value()?.into()),
            Long("new-session") => o.new_session = true,
            Long("new-keyring") => o.new_keyring = true,
            Long("close-fds") => o.close_fds = true,
            Long("keep-fd") => o.keep_fds.push(number("descriptor", parser.value()?)? as i32),
            Long("caps") => o.caps = Some(Caps::parse(&text(parser.value()?)?)?),
            Long("no-new-privs") => o.no_new_privs = true,
            Long("seccomp") => o.seccomp = Some(Profile::parse(parser.value()?)),
            Short('S') | Long("setuid") => o.setuid = Some(number("user id", parser.value()?)?),
            Short('G') | Long("setgid") => o.setgid = Some(number("group id", parser.value()?)?),
            Long("hostname") => o.hostname = Some(parser.value()?),
            Long("propagation") => o.propagation = propagation(&text(parser.value()?)?)?,
            Short('R') | Long("root") => o.root = Some(parser.value()?.into()),
            Long("pivot-root") => o.pivot_root = Some(parser.value()?.into()),
            Short('w') | Long("wd") => o.wd = Some(parser.value()?.into()),
            Long("mount-proc") => {
                o.mount_proc = Some(parser.optional_value().unwrap_or("/proc".into()).into())
            }
            Long("mount-sys") => o.mount_sys = true,
            Long("mount-dev") => o.mount_dev = true,
            Long("fstab") => o.fstab = Some(parser.value()?.into()),
            Long("mask-paths") => o.mask_paths = true,
            Long("jail") => jail(&mut o)?,
            Short(letter) if ns::by_letter(letter).is_some() => {
                o.kinds |= ns::by_letter(letter).expect("the guard has found it").flag;
            }
            Long(word) if ns::by_word(word).is_some() => {
                o.kinds |= ns::by_word(word).expect("the guard has found it").flag;
            }
            // The first word that is no option is the program, and what follows is its own.
            Value(program) => {
                o.argv.push(program);
                o.argv.extend(parser.raw_args()?);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Request::Run(Box::new(o)))
}

/// The default level of a ship; what else is given adds to it or, like --caps, replaces a part.
fn jail(o: &mut Options) -> Result<()> {
    o.kinds |= CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWCGROUP;
    o.kill_child.get_or_insert(libc::SIGKILL);
    if o.caps.is_none() {
        o.caps = Some(Caps::parse("default")?);
    }
    o.seccomp.get_or_insert(Profile::Default);
    o.mount_proc.get_or_insert("/proc".into());
    (o.fork, o.forward_signals, o.init) = (true, true, true);
    (o.new_keyring, o.close_fds) = (true, true);
    (o.mount_sys, o.mount_dev, o.mask_paths) = (true, true, true);
    Ok(())
}

fn number(what: &str, value: OsString) -> Result<u32> {
    let word = text(value)?;
    word.parse().map_err(|_| anyhow!(Usage(format!("not a {what}: '{word}'"))))
}

fn setgroups(word: &str) -> Result<Setgroups> {
    match word {
        "allow" => Ok(Setgroups::Allow),
        "deny" => Ok(Setgroups::Deny),
        _ => Err(Usage(format!("unsupported --setgroups argument '{word}': allow or deny")).into()),
    }
}

fn propagation(word: &str) -> Result<Propagation> {
    Ok(match word {
        "private" => Propagation::Set(MsFlags::MS_PRIVATE),
        "shared" => Propagation::Set(MsFlags::MS_SHARED),
        "slave" => Propagation::Set(MsFlags::MS_SLAVE),
        "unchanged" => Propagation::Unchanged,
        _ => {
            let text = format!("unsupported propagation mode '{word}': private, shared, slave or unchanged");
            return Err(Usage(text).into());
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> Result<Options> {
        let all = ["unshare"].iter().chain(words).map(OsString::from);
        match parse(lexopt::Parser::from_iter(all))? {
            Request::Run(options) => Ok(*options),
            _ => panic!("not a run: {words:?}"),
        }
    }

    #[test]
    fn letters_and_words_name_the_same_namespaces() {
        let short = options(&["-muinpUCT"]).unwrap().kinds;
        let words = ["mount", "uts", "ipc", "net", "pid", "user", "cgroup", "time"].map(|w| format!("--{w}"));
        let long = options(&words.each_ref().map(String::as_str)).unwrap().kinds;
        assert_eq!(short, long);
        assert_eq!(short.bits().count_ones(), 8);
    }

    #[test]
    fn options_end_at_the_program() {
        let o = options(&["-m", "ls", "-f", "--fork"]).unwrap();
        assert!(!o.fork);
        assert_eq!(o.argv, ["ls", "-f", "--fork"]);
        assert_eq!(options(&["--", "-x"]).unwrap().argv, ["-x"]);
    }

    #[test]
    fn a_file_or_directory_comes_only_after_an_equals_sign() {
        let o = options(&["--mount-proc", "/x"]).unwrap();
        assert_eq!((o.mount_proc, o.argv), (Some("/proc".into()), vec!["/x".into()]));
        assert_eq!(options(&["--mount-proc=/x"]).unwrap().mount_proc, Some("/x".into()));
    }

    #[test]
    fn signals_are_names_with_or_without_sig_in_any_case() {
        for word in ["term", "SIGTERM", "sigterm", "TERM"] {
            let o = options(&[&format!("--kill-child={word}")]).unwrap();
            assert_eq!(o.kill_child, Some(libc::SIGTERM));
        }
        assert_eq!(options(&["--kill-child=15"]).unwrap_err().to_string(), "unknown signal: 15");
    }

    #[test]
    fn jail_leaves_what_was_said_before_it() {
        let o = options(&["--caps", "none", "--kill-child=TERM", "--jail"]).unwrap();
        assert_eq!((o.caps, o.kill_child), (Some(Caps::NONE), Some(libc::SIGTERM)));
        let o = options(&["--jail", "--caps", "kill"]).unwrap();
        assert_eq!(o.caps, Some(Caps(1 << 5)));
    }
}
