//! cli: the words of the command line as plain data; nothing here looks at the world.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use nix::mount::MsFlags;
use nix::sys::signal::SigSet;
use unshare::caps::Caps;
use unshare::fail::{hint, text};
use unshare::limits::Limit;
use unshare::ns::{self, Kind};
use unshare::options::{Arg::*, Parser, unexpected};
use unshare::seccomp::Profile;
use unshare::signals;

use crate::help::NAMES;
use crate::ids::{self, Block, Single};

pub enum Request {
    Help,
    Version,
    Run(Box<Options>),
}

#[derive(Debug, Default)]
pub struct Options {
    /// The namespaces that are named; with a file: to be kept there.
    pub kinds: Vec<(&'static Kind, Option<PathBuf>)>,

    pub map_user: Option<Single>,
    pub map_group: Option<Single>,
    pub map_users: Vec<Block>,
    pub map_groups: Vec<Block>,
    pub owner: Option<(u32, u32)>,
    pub setgroups: Option<Setgroups>,
    pub keep_caps: bool,

    pub fork: bool,
    pub kill_child: Option<i32>,
    pub forward_signals: Option<SigSet>,
    pub init: bool,
    pub pid_file: Option<PathBuf>,
    pub new_session: bool,
    pub new_keyring: bool,
    pub close_fds: bool,
    pub keep_fds: Vec<i32>,
    pub rlimits: Vec<Limit>,
    pub nice: Option<i32>,
    pub caps: Option<Caps>,
    pub no_new_privs: bool,
    pub seccomp: Option<Profile>,
    pub setuid: Option<u32>,
    pub setgid: Option<u32>,
    /// Names of variables; None: all that there are.
    pub environment: Option<Vec<OsString>>,

    pub hostname: Option<OsString>,
    pub loopback: bool,
    pub monotonic: Option<i64>,
    pub boottime: Option<i64>,
    pub propagation: Propagation,
    pub root: Option<PathBuf>,
    pub pivot_root: Option<PathBuf>,
    pub wd: Option<PathBuf>,
    pub mount_proc: Option<PathBuf>,
    /// Some(None): in /proc/sys/fs.
    pub mount_binfmt: Option<Option<PathBuf>>,
    pub load_interp: Option<OsString>,
    pub mount_sys: bool,
    pub mount_dev: bool,
    pub fstab: Option<PathBuf>,
    pub mask_paths: bool,
    /// Stands for more than its parts: what was named beside it is stronger.
    pub jail: bool,

    pub argv: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setgroups {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    Default,
    Set(MsFlags),
    Unchanged,
}

pub fn parse(words: lexopt::Parser) -> Result<Request> {
    let mut parser = Parser::new(words, &NAMES);
    let mut o = Options::default();
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Request::Help),
            Short('V') | Long("version") => return Ok(Request::Version),
            // The first word that is no option is the program, and what follows is its own.
            Value(program) => {
                o.argv.push(program);
                o.argv.extend(parser.rest()?);
            }
            Short(letter) if ns::by_letter(letter).is_some() => {
                o.kinds.push((ns::by_letter(letter).expect("the guard has found it"), None));
            }
            Long(word) if ns::by_word(word).is_some() => {
                let kind = ns::by_word(word).expect("the guard has found it");
                o.kinds.push((kind, parser.optional_value().map(PathBuf::from)));
            }
            other => {
                let taken = ids(&mut o, &other, &mut parser)?
                    || process(&mut o, &other, &mut parser)?
                    || world(&mut o, &other, &mut parser)?;
                if !taken {
                    return Err(unexpected(other));
                }
            }
        }
    }
    Ok(Request::Run(Box::new(o)))
}

/// What maps ids. False: none of these.
fn ids(o: &mut Options, arg: &lexopt::Arg<'_>, parser: &mut Parser) -> Result<bool> {
    match arg {
        Short('r') | Long("map-root-user") => {
            (o.map_user, o.map_group) = (Some(Single::Number(0)), Some(Single::Number(0)));
        }
        Short('c') | Long("map-current-user") => {
            (o.map_user, o.map_group) = (Some(Single::Current), Some(Single::Current));
        }
        Long("map-user") => o.map_user = Some(ids::parse_single("uid", &text(parser.value()?)?)?),
        Long("map-group") => o.map_group = Some(ids::parse_single("gid", &text(parser.value()?)?)?),
        Long("map-users") => o.map_users.push(ids::parse_block(&text(parser.value()?)?)?),
        Long("map-groups") => o.map_groups.push(ids::parse_block(&text(parser.value()?)?)?),
        Long("map-auto") => {
            o.map_users.push(Block::Auto);
            o.map_groups.push(Block::Auto);
        }
        Long("map-subids") => {
            o.map_users.push(Block::Subids);
            o.map_groups.push(Block::Subids);
        }
        Long("owner") => o.owner = Some(owner(&text(parser.value()?)?)?),
        Long("setgroups") => o.setgroups = Some(setgroups(&text(parser.value()?)?)?),
        Long("keep-caps") => o.keep_caps = true,
        _ => return Ok(false),
    }
    Ok(true)
}

/// What concerns the process. False: none of these.
fn process(o: &mut Options, arg: &lexopt::Arg<'_>, parser: &mut Parser) -> Result<bool> {
    match arg {
        Short('f') | Long("fork") => o.fork = true,
        Long("kill-child") => o.kill_child = Some(signals::or_kill(parser.optional_value())?),
        Long("forward-signals") => {
            o.forward_signals = Some(signals::to_forward(parser.optional_value())?);
        }
        Long("init") => o.init = true,
        Long("pid-file") => o.pid_file = Some(parser.value()?.into()),
        Long("new-session") => o.new_session = true,
        Long("new-keyring") => o.new_keyring = true,
        Long("close-fds") => o.close_fds = true,
        Long("keep-fd") => o.keep_fds.push(number::<u16>("descriptor", parser.value()?)?.into()),
        Long("rlimit") => o.rlimits.push(Limit::parse(&text(parser.value()?)?)?),
        Long("nice") => o.nice = Some(nice(parser.value()?)?),
        Long("caps") => o.caps = Some(Caps::parse(&text(parser.value()?)?)?),
        Long("no-new-privs") => o.no_new_privs = true,
        Long("seccomp") => o.seccomp = Some(Profile::parse(parser.value()?)),
        Short('S') | Long("setuid") => o.setuid = Some(number("uid", parser.value()?)?),
        Short('G') | Long("setgid") => o.setgid = Some(number("gid", parser.value()?)?),
        Long("clear-env") => {
            o.environment.get_or_insert_default();
        }
        Long("whitelist-env") => {
            let list = parser.value()?;
            let names = list.as_bytes().split(|b| *b == b',').filter(|name| !name.is_empty());
            let kept = o.environment.get_or_insert_default();
            kept.extend(names.map(|name| OsStr::from_bytes(name).to_owned()));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// What the program will see around it. False: none of these.
fn world(o: &mut Options, arg: &lexopt::Arg<'_>, parser: &mut Parser) -> Result<bool> {
    match arg {
        Long("hostname") => o.hostname = Some(parser.value()?),
        Long("loopback") => o.loopback = true,
        Long("monotonic") => o.monotonic = Some(number("monotonic offset", parser.value()?)?),
        Long("boottime") => o.boottime = Some(number("boottime offset", parser.value()?)?),
        Long("propagation") => o.propagation = propagation(&text(parser.value()?)?)?,
        Short('R') | Long("root") => o.root = Some(parser.value()?.into()),
        Long("pivot-root") => o.pivot_root = Some(parser.value()?.into()),
        Short('w') | Long("wd") => o.wd = Some(parser.value()?.into()),
        Long("mount-proc") => {
            o.mount_proc = Some(parser.optional_value().unwrap_or("/proc".into()).into());
        }
        Long("mount-binfmt") => o.mount_binfmt = Some(parser.optional_value().map(PathBuf::from)),
        Short('l') | Long("load-interp") => {
            o.load_interp = Some(parser.value()?);
            o.mount_binfmt.get_or_insert_default();
        }
        Long("mount-sys") => o.mount_sys = true,
        Long("mount-dev") => o.mount_dev = true,
        Long("fstab") => o.fstab = Some(parser.value()?.into()),
        Long("mask-paths") => o.mask_paths = true,
        Long("jail") => o.jail = true,
        _ => return Ok(false),
    }
    Ok(true)
}

fn number<N: std::str::FromStr>(what: &str, value: OsString) -> Result<N> {
    let word = text(value)?;
    // strtol(3), which util-linux asks, passes over blanks before.
    word.trim_start().parse().map_err(|_| anyhow!("failed to parse {what}: '{word}'"))
}

fn nice(value: OsString) -> Result<i32> {
    match number("nice value", value)? {
        value @ -20..=19 => Ok(value),
        value => bail!("failed to parse nice value: '{value}': -20 to 19"),
    }
}

fn owner(word: &str) -> Result<(u32, u32)> {
    let ids = || {
        let (uid, gid) = word.split_once(':')?;
        Some((uid.parse().ok()?, gid.parse().ok()?))
    };
    ids().ok_or_else(|| hint(anyhow!("failed to parse owner: '{word}'"), "UID:GID, two numbers"))
}

fn setgroups(word: &str) -> Result<Setgroups> {
    match word {
        "allow" => Ok(Setgroups::Allow),
        "deny" => Ok(Setgroups::Deny),
        _ => Err(hint(anyhow!("unsupported --setgroups argument '{word}'"), "allow or deny")),
    }
}

fn propagation(word: &str) -> Result<Propagation> {
    Ok(match word {
        "private" => Propagation::Set(MsFlags::MS_PRIVATE),
        "shared" => Propagation::Set(MsFlags::MS_SHARED),
        "slave" => Propagation::Set(MsFlags::MS_SLAVE),
        "unchanged" => Propagation::Unchanged,
        _ => {
            let error = anyhow!("unsupported propagation mode: {word}");
            return Err(hint(error, "private, shared, slave or unchanged"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::help::HELP;

    fn options(words: &[&str]) -> Result<Options> {
        let all = ["unshare"].iter().chain(words).map(OsString::from);
        match parse(lexopt::Parser::from_iter(all))? {
            Request::Run(options) => Ok(*options),
            _ => panic!("not a run: {words:?}"),
        }
    }

    #[test]
    fn every_name_of_the_table_is_taken_and_in_the_help() {
        for name in NAMES.all() {
            assert!(HELP.contains(&format!("--{name}")), "--{name} is not in --help");
            let said = match parse(lexopt::Parser::from_args([format!("--{name}")])) {
                Ok(_) => continue,
                Err(error) => error.to_string(),
            };
            assert_eq!(said, format!("option '--{name}' requires an argument"));
        }
        for word in HELP.split_whitespace().filter_map(|word| word.strip_prefix("--")) {
            let name = word.split(|c: char| !c.is_ascii_lowercase() && c != '-').next().unwrap_or_default();
            assert!(NAMES.all().any(|known| known == name), "--{name} is not in the table");
        }
    }

    #[test]
    fn letters_and_words_name_the_same_namespaces() {
        let kinds = |words: &[&str]| {
            options(words).unwrap().kinds.iter().map(|(kind, _)| kind.word).collect::<Vec<_>>()
        };
        let words = ["mount", "uts", "ipc", "net", "pid", "user", "cgroup", "time"].map(|w| format!("--{w}"));
        assert_eq!(kinds(&["-muinpUCT"]), kinds(&words.each_ref().map(String::as_str)));
        assert_eq!(kinds(&["-muinpUCT"]).len(), 8);
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
        let o = options(&["--net=/a", "--uts"]).unwrap();
        let files: Vec<_> = o.kinds.into_iter().map(|(kind, file)| (kind.word, file)).collect();
        assert_eq!(files, [("net", Some("/a".into())), ("uts", None)]);
        // A letter takes none: the rest are letters again.
        assert_eq!(options(&["-n/x"]).unwrap_err().to_string(), "invalid option -- '/'");
    }

    #[test]
    fn the_last_map_of_the_own_id_wins() {
        assert_eq!(options(&["-r", "-c"]).unwrap().map_user, Some(Single::Current));
        let o = options(&["-c", "--map-user", "5"]).unwrap();
        assert_eq!((o.map_user, o.map_group), (Some(Single::Number(5)), Some(Single::Current)));
    }

    #[test]
    fn values_are_refused_with_the_word_that_is_wrong() {
        for (words, said) in [
            (&["--kill-child=15"][..], "unknown signal: 15"),
            (&["-S", "www"], "failed to parse uid: 'www'"),
            (&["-G", "-1"], "failed to parse gid: '-1'"),
            (&["--monotonic", "x"], "failed to parse monotonic offset: 'x'"),
            (&["--map-users", "1:2"], "invalid mapping '1:2'"),
            (&["--owner", "5"], "failed to parse owner: '5'"),
            (&["--nice", "20"], "failed to parse nice value: '20': -20 to 19"),
            (&["--nice=x"], "failed to parse nice value: 'x'"),
        ] {
            assert_eq!(options(words).unwrap_err().to_string(), said);
        }
        assert_eq!(options(&["--boottime", "-5"]).unwrap().boottime, Some(-5));
    }

    #[test]
    fn kept_variables_add_up() {
        let o = options(&["--whitelist-env", "A,B", "--whitelist-env", "C"]).unwrap();
        assert_eq!(o.environment.unwrap(), ["A", "B", "C"]);
        assert_eq!(options(&["--clear-env"]).unwrap().environment, Some(vec![]));
        assert_eq!(options(&[]).unwrap().environment, None);
    }

    #[test]
    fn fuzz_the_command_line_takes_anything() {
        let names: Vec<_> = NAMES.all().collect();
        crate::fuzz::rounds(3000, |dice| {
            let words: Vec<String> = (0..dice.below(6))
                .map(|_| match dice.below(4) {
                    0 => format!("--{}", names[dice.below(names.len() as u64) as usize]),
                    1 => format!("--{}={}", dice.text("abcdefghimnopstuw-", 9), dice.text("a0:,=/é", 6)),
                    2 => format!("-{}", dice.text("fhVmuinpCTUrRwSGcl=/x", 6)),
                    _ => dice.text("-abc0:1,= /", 8),
                })
                .collect();
            let _ = parse(lexopt::Parser::from_args(words));
        });
    }
}
