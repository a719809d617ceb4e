//! cli: the command line as data; touches nothing.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::Result;
use lexopt::Arg::{Long, Short, Value};
use lexopt::Parser;
use unshare::fail::{text, usage};

use crate::amount;
use crate::name::{Parent, group, parent};
use crate::request::{Action, Options, Request, Verb};
use crate::words;

const HELP: &str = "\
Usage: cgset [options] GROUP [WORD=VALUE...] [--pid N]... [-- COMMAND...]
       cgset --show|--wait-oom|--list|--top [options] [GROUP]
       cgset --freeze|--thaw|--kill|--remove GROUP...

Make a control group, set limits in it, and run a command inside.

Words (max, none or -1 lifts a limit; a ? at the end: skip if not offered here):
  mem=100M            memory: bytes, K M G T (powers of 1024), 1.5G, 50% of RAM
  swap=0              swap on top of mem: same values
  swappiness=0        how readily to swap, 0 to 200; on v2 only 0
  high= low= min=     v2: slow down above; protect up to: same values
  oomgroup=1          a kill for memory ends all in the group
  procs=200           processes and threads
  cpu=1.5             processor time: 1.5 or 150% is one and a half processors
  weight=100          share of processor time, 1 to 10000
  ioweight=100        share of the disks: likewise
  cpus=0-1 mems=0     which processors and memory nodes
  read=DISK:10M       bytes a second from a disk: /dev/sda, 8:0, or a directory
  write=  riops=  wiops=      likewise: bytes written, operations
  FILE=VALUE          a control file by its own name, such as cpu.max.burst

Options:
  -p, --pid N         move process N into the group; - takes them from stdin
  -k, --keep          leave the group when COMMAND has ended
      --parent GROUP  put the group below this one, which must exist;
                        . is the group that cgset runs in, / the root
      --leaf          with --parent . on v2: move what runs there aside first
      --scope         run in a new scope of systemd's, delegated to cgset
      --own UID[:GID] give the group to a user, who may make groups below it
      --report FILE   write what the run has used: key=value, --json: JSON
      --oom-exit N    end with N if the kernel killed for memory
  -f, --force         allow limits that nothing can live with
      --dry-run       print what would be done, as a shell script
  -v, --verbose       say what is done

  -s, --show          print limits, use, peaks and members
      --list          print the tree of groups and what runs in them
      --top           print what groups use, again and again on a terminal
  -n, --iterations N    how many times
  -d, --delay SECONDS   how long to measure each time (1)
      --wait-oom      wait for a kill for memory (status 3, or --oom-exit),
                        or until nobody is in the group (0)
      --freeze        hold all that runs in the groups
      --thaw          let it go on
      --kill          kill all that runs in the groups
  -r, --remove        kill all that runs in the groups and remove them
  -j, --json          with --show, --list, --top and --report: as JSON
  -h, --help          show this help
  -V, --version       show the version
";

pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Action> {
    let mut parser = Parser::from_args(args);
    parser.set_short_equals(false);
    let mut line = Line::default();
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
            Some(Short(letter)) => line.short(letter, &mut parser)?,
            Some(Long(name)) => {
                let name = name.to_owned();
                line.long(&name, &mut parser)?;
            }
        }
    }
    let plain = plain.into_iter().map(text).collect::<Result<Vec<_>>>()?;
    action(line, &plain, argv)
}

/// What the options say.
#[derive(Default)]
struct Line {
    verb: Option<Verb>,
    options: Options,
}

impl Line {
    fn short(&mut self, letter: char, parser: &mut Parser) -> Result<()> {
        let long = match letter {
            's' => "show",
            'r' => "remove",
            'j' => "json",
            'k' => "keep",
            'f' => "force",
            'v' => "verbose",
            'p' => "pid",
            'n' => "iterations",
            'd' => "delay",
            other => return Err(Short(other).unexpected().into()),
        };
        self.long(long, parser)
    }

    fn long(&mut self, name: &str, parser: &mut Parser) -> Result<()> {
        if let Some(verb) = Verb::named(name) {
            return self.verb(verb);
        }
        let options = &mut self.options;
        match name {
            "json" => options.json = true,
            "keep" => options.keep = true,
            "force" => options.force = true,
            "dry-run" => options.dry_run = true,
            "verbose" => options.verbose = true,
            "leaf" => options.leaf = true,
            "scope" => options.scope = true,
            "own" => options.own = Some(text(parser.value()?)?),
            "report" => options.report = Some(parser.value()?.into()),
            "oom-exit" => options.oom_exit = Some(status(&text(parser.value()?)?)?),
            "iterations" => options.iterations = Some(iterations(&text(parser.value()?)?)?),
            "delay" => options.delay = Some(delay(&text(parser.value()?)?)?),
            "parent" => options.parent = parent(&text(parser.value()?)?)?,
            "pid" => match text(parser.value()?)?.as_str() {
                "-" => options.pids_from_stdin = true,
                word => options.pids.push(pid(word)?),
            },
            other => return Err(Long(other).unexpected().into()),
        }
        Ok(())
    }

    fn verb(&mut self, verb: Verb) -> Result<()> {
        match self.verb.replace(verb) {
            Some(other) if other != verb => {
                Err(usage(format!("{} and {} do not go together", other.name(), verb.name())))
            }
            _ => Ok(()),
        }
    }
}

/// What is given and belongs to a command, or to setting at least.
fn of_setting(options: &Options) -> Option<&'static str> {
    let given = [
        (options.keep, "--keep"),
        (options.force, "--force"),
        (options.leaf, "--leaf"),
        (options.scope, "--scope"),
        (options.own.is_some(), "--own"),
        (options.report.is_some(), "--report"),
        (options.pids_from_stdin || !options.pids.is_empty(), "--pid"),
    ];
    given.iter().find(|(given, _)| *given).map(|(_, name)| *name)
}

fn action(line: Line, plain: &[String], argv: Option<Vec<OsString>>) -> Result<Action> {
    if argv.as_ref().is_some_and(Vec::is_empty) {
        return Err(usage("no command after '--'"));
    }
    match line.verb {
        Some(verb) => act_on_groups(verb, line.options, plain, argv.is_some()),
        None => set(line.options, plain, argv.unwrap_or_default()),
    }
}

fn act_on_groups(verb: Verb, options: Options, plain: &[String], runs: bool) -> Result<Action> {
    use Verb::*;
    let name = verb.name();
    if runs {
        return Err(usage(format!("{name} takes no command")));
    }
    let others = [
        (options.json && !matches!(verb, Show | List | Top), "--json"),
        (options.oom_exit.is_some() && verb != WaitOom, "--oom-exit"),
        (options.iterations.is_some() && verb != Top, "--iterations"),
        (options.delay.is_some() && verb != Top, "--delay"),
        (options.dry_run && verb != Remove, "--dry-run"),
        (options.verbose && verb != Remove, "--verbose"),
    ];
    let other = others.iter().find(|(given, _)| *given).map(|(_, name)| *name);
    if let Some(other) = of_setting(&options).or(other) {
        return Err(usage(format!("{other} does not belong to {name}")));
    }
    if !verb.takes(plain.len()) {
        return Err(usage(match (plain.first(), plain.get(1)) {
            (None, _) => "no group given".into(),
            (_, extra) => {
                format!("{name} takes one group, and then came '{}'", extra.map_or("", |word| word))
            }
        }));
    }
    let groups = plain.iter().map(|name| group(name)).collect::<Result<_>>()?;
    Ok(Action::Do { verb, groups, options })
}

fn set(mut options: Options, plain: &[String], argv: Vec<OsString>) -> Result<Action> {
    let Some((first, rest)) = plain.split_first() else { return Err(usage("no group given")) };
    let group = group(first)?;
    let of_command = [
        (options.keep, "--keep belongs to a command: without one the group stays anyway"),
        (options.scope, "--scope belongs to a command: a scope ends with what runs in it"),
        (options.report.is_some(), "--report belongs to a command"),
        (options.oom_exit.is_some(), "--oom-exit belongs to a command or to --wait-oom"),
    ];
    let of_others = [
        (options.json && options.report.is_none(), "--json belongs to --show, --list, --top or --report"),
        (options.iterations.is_some(), "--iterations belongs to --top"),
        (options.delay.is_some(), "--delay belongs to --top"),
        (
            options.leaf && !matches!(options.parent, Parent::Own | Parent::Usual),
            "--leaf belongs to --parent .",
        ),
    ];
    let of_command = of_command.iter().filter(|_| argv.is_empty());
    if let Some((_, text)) = of_command.chain(&of_others).find(|(given, _)| *given) {
        return Err(usage(*text));
    }
    // In the scope, cgset is called once more, with these before all.
    let inside = options.leaf && options.parent == Parent::Own;
    options.scope &= !inside;
    if options.scope && (options.leaf || options.parent != Parent::Usual) {
        return Err(usage("--scope puts the group below a scope: no --parent, no --leaf"));
    }
    let words = words::parse_all(rest, options.force)?;
    Ok(Action::Set(Request { group, words, argv, options }))
}

fn pid(word: &str) -> Result<i32> {
    match word.parse() {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(usage(format!("'{word}' is not a process number"))),
    }
}

fn status(word: &str) -> Result<u8> {
    word.parse().map_err(|_| usage(format!("'{word}' is not an exit status from 0 to 255")))
}

fn iterations(word: &str) -> Result<u64> {
    match word.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(usage(format!("'{word}' is not a number of times"))),
    }
}

/// Whole seconds or a decimal fraction, a hundredth at least.
fn delay(word: &str) -> Result<Duration> {
    let micros = amount::decimal(word).and_then(|(number, scale)| amount::scaled(number * 1_000_000, scale));
    match micros {
        Some(micros @ 10_000..=86_400_000_000) => Ok(Duration::from_micros(micros)),
        _ => Err(usage(format!("'{word}' is not a time from 0.01 to 86400 seconds"))),
    }
}

/// The numbers that --pid - has found on standard input.
pub fn pids(text: &str) -> Result<Vec<i32>> {
    text.split_whitespace().map(pid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Action> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_command_keeps_its_own_options() {
        let Ok(Action::Set(request)) = read("web mem=1M -v -- ls --show -- x") else { panic!("not parsed") };
        assert_eq!((request.group.0.as_str(), request.options.verbose), ("web", true));
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
            "--show",
            "--list a b",
            "--freeze",
            "--kill web mem=1M",
            "--freeze --kill web",
            "--kill --json web",
            "--kill web --own 5",
            "--top -d 0",
            "--top -n 0",
            "web -d 1",
            "web --scope",
            "web --report f",
            "web --oom-exit 3",
            "web --oom-exit 256 -- ls",
            "web --parent / --leaf",
            "web --parent x --leaf",
            "web --parent . --scope -- ls",
            "web --leaf --scope -- ls",
            "web ls",
            "web --nonsense",
            "mem=1M",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
