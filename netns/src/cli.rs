//! cli: what the user typed, checked as far as that goes without looking at the machine.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::Result;
use lexopt::prelude::*;
use unshare::fail::text;

use crate::store::Target;
use crate::words::{self, Statement, name, only, some, switch_name, usage, word};
use crate::{delete, link, switch, trace};

pub const HELP: &str = "\
Usage: netns COMMAND [ARGUMENT...]

Named network namespaces, and the links and switches between them.

  add NAME...               make namespaces; no change to those that live
  del NAME...               delete them; refused while processes are inside
      --wait                come back when the far ends of their links are gone
      --force               also when in use: takes the name and links away
      --if-exists           a missing name is no error
  list                      names, live or stale, and their links
      --json                as JSON
  exec TARGET [--] PROGRAM [ARGUMENT...]
                            become PROGRAM inside the namespace
  link TARGET:IFNAME SWITCH [ADDRESS/PREFIX...] [via GATEWAY]... [mtu BYTES]
       [mac MAC]            connect a namespace to a switch; no change if done
      --check MS            how long to ask whether an address is taken (200)
      --no-check            do not ask
  unlink TARGET:IFNAME      remove that link
  switch add SWITCH         make a Linux bridge; no change if done
      --address ADDRESS/PREFIX
                            the host's address on it; once for each family
      --nat                 ships reach the outside by the host's address
  switch del SWITCH         remove it and its NAT
      --if-unused           only when nothing is linked to it
  switch show [SWITCH]      switches, their addresses and ports
      --json                as JSON
  trace HOST [PORT]         the routers on the way to a TCP port (80), and
                            whether it is open
      -4, -6                by IPv4, by IPv6
      -f, --first TTL       begin at this hop (1)
      -m, --max TTL         give up after this one (30)
      -q, --queries NUMBER  probes a hop (3)
      -w, --wait SECONDS    for an answer, at most (3)
      -n, --numeric         no names of routers
      -s, --source ADDRESS  send from this address
      -p, --source-port PORT
                            send from this port; one probe at a time
      -i, --interface NAME  send by this interface
      -N, --netns TARGET    in this namespace
      --json                as JSON

TARGET is a NAME, pid:NUMBER, or a path that contains a slash.

  -h, --help                print this and exit
  -V, --version             print the version and exit
";

#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Help,
    Version,
    Make(Statement),
    Delete(delete::Options),
    List { json: bool },
    Exec { target: Target, argv: Vec<OsString> },
    Unlink(link::End),
    SwitchDelete(switch::Removal),
    SwitchShow { name: Option<String>, json: bool },
    Trace(trace::Options),
}

impl From<Statement> for Command {
    fn from(statement: Statement) -> Command {
        Command::Make(statement)
    }
}

/// The command, and whether it is one that becomes another program.
pub fn parse(mut parser: lexopt::Parser) -> (bool, Result<Command>) {
    parser.set_short_equals(false);
    let word = match parser.next() {
        Ok(Some(Value(word))) => word,
        other => return (false, other.map_err(Into::into).and_then(option_alone)),
    };
    let command = match word.to_str().unwrap_or_default() {
        "add" => words::add(&mut parser, help_or_version),
        "del" | "delete" => delete(&mut parser),
        "list" | "ls" => list(&mut parser),
        "exec" => return (true, exec(&mut parser)),
        "link" => words::link(&mut parser, help_or_version),
        "unlink" => unlink(&mut parser),
        "switch" => switch(&mut parser),
        "trace" => trace(&mut parser),
        _ => Err(usage(format!("unknown command '{}'", word.to_string_lossy()))),
    };
    (false, command)
}

fn option_alone(argument: Option<lexopt::Arg>) -> Result<Command> {
    match argument {
        None => Err(usage("no command given")),
        Some(argument) => help_or_version(argument),
    }
}

/// The options that every command has.
fn help_or_version(argument: lexopt::Arg) -> Result<Command> {
    match argument {
        Short('h') | Long("help") => Ok(Command::Help),
        Short('V') | Long("version") => Ok(Command::Version),
        other => Err(other.unexpected().into()),
    }
}

fn delete(parser: &mut lexopt::Parser) -> Result<Command> {
    let mut options = delete::Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("wait") => options.wait = true,
            Long("force") => options.force = true,
            Long("if-exists") => options.if_exists = true,
            Value(value) => options.names.push(name(value)?),
            other => return help_or_version(other),
        }
    }
    options.names = some(options.names)?;
    Ok(Command::Delete(options))
}

fn list(parser: &mut lexopt::Parser) -> Result<Command> {
    let mut json = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => json = true,
            other => return help_or_version(other),
        }
    }
    Ok(Command::List { json })
}

fn exec(parser: &mut lexopt::Parser) -> Result<Command> {
    let target = match parser.next()? {
        Some(Value(value)) => word(Target::parse(&text(value)?))?,
        Some(other) => return help_or_version(other),
        None => return Err(usage("no namespace given")),
    };
    let mut argv: Vec<OsString> = parser.raw_args()?.collect();
    if argv.first().is_some_and(|first| first == "--") {
        argv.remove(0);
    }
    if argv.is_empty() {
        return Err(usage("no program given"));
    }
    Ok(Command::Exec { target, argv })
}

fn unlink(parser: &mut lexopt::Parser) -> Result<Command> {
    let end = match parser.next()? {
        Some(Value(value)) => word(link::End::parse(&text(value)?))?,
        Some(other) => return help_or_version(other),
        None => return Err(usage("no TARGET:IFNAME given")),
    };
    match parser.next()? {
        None => Ok(Command::Unlink(end)),
        Some(other) => help_or_version(other),
    }
}

fn switch(parser: &mut lexopt::Parser) -> Result<Command> {
    let verb = match parser.next()? {
        Some(Value(verb)) => verb,
        Some(other) => return help_or_version(other),
        None => return Err(usage("switch needs add, del or show")),
    };
    match verb.to_str().unwrap_or_default() {
        "add" => words::switch_add(parser, help_or_version),
        "del" | "delete" => switch_delete(parser),
        "show" => switch_show(parser),
        _ => Err(usage(format!("switch cannot '{}'", verb.to_string_lossy()))),
    }
}

fn switch_delete(parser: &mut lexopt::Parser) -> Result<Command> {
    let (mut name, mut if_unused) = (None, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("if-unused") => if_unused = true,
            Value(value) => only(&mut name, value)?,
            other => return help_or_version(other),
        }
    }
    let name = name.ok_or_else(|| usage("no switch given"))?;
    Ok(Command::SwitchDelete(switch::Removal { name, if_unused }))
}

fn switch_show(parser: &mut lexopt::Parser) -> Result<Command> {
    let (mut name, mut json) = (None, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => json = true,
            Value(value) => only(&mut name, value)?,
            other => return help_or_version(other),
        }
    }
    Ok(Command::SwitchShow { name, json })
}

fn trace(parser: &mut lexopt::Parser) -> Result<Command> {
    let mut options = trace::Options::default();
    let mut words = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('4') => options.ipv6 = Some(false),
            Short('6') => options.ipv6 = Some(true),
            Short('f') | Long("first") => options.first = number(parser.value()?, 1, 255)?,
            Short('m') | Long("max") => options.last = number(parser.value()?, 1, 255)?,
            Short('q') | Long("queries") => options.queries = number(parser.value()?, 1, 20)?,
            Short('w') | Long("wait") => options.wait = seconds(&text(parser.value()?)?)?,
            Short('n') | Long("numeric") => options.numeric = true,
            Short('s') | Long("source") => {
                let address = text(parser.value()?)?;
                let source = address.parse().map_err(|_| usage(format!("not an address: '{address}'")))?;
                options.source = Some(source);
            }
            Short('p') | Long("source-port") => {
                options.source_port = Some(number(parser.value()?, 1, 65535)?)
            }
            Short('i') | Long("interface") => options.interface = Some(switch_name(parser.value()?)?),
            Short('N') | Long("netns") => {
                options.inside = Some(word(Target::parse(&text(parser.value()?)?))?)
            }
            Long("json") => options.json = true,
            Value(value) => words.push(value),
            other => return help_or_version(other),
        }
    }
    let mut words = words.into_iter();
    options.host = text(words.next().ok_or_else(|| usage("no host given"))?)?;
    if let Some(port) = words.next() {
        options.port = number(port, 1, 65535)?;
    }
    match (words.next(), options.source) {
        (Some(extra), _) => Err(lexopt::Error::UnexpectedArgument(extra).into()),
        _ if options.first > options.last => Err(usage("the first hop is beyond the last one")),
        (_, Some(source)) if options.ipv6.is_some_and(|ipv6| ipv6 != source.is_ipv6()) => {
            Err(usage(format!("'{source}' is of the other family")))
        }
        _ => Ok(Command::Trace(options)),
    }
}

fn number<T: TryFrom<u32>>(value: OsString, least: u32, most: u32) -> Result<T> {
    let word = text(value)?;
    let number = word.parse().ok().filter(|number| (least..=most).contains(number));
    let wrong = || usage(format!("not {least} to {most}: '{word}'"));
    T::try_from(number.ok_or_else(wrong)?).map_err(|_| wrong())
}

/// At least a millisecond, at most a minute; fractions as in "0.5".
fn seconds(word: &str) -> Result<Duration> {
    let number = word.parse::<f64>().ok().filter(|number| (0.001..=60.0).contains(number));
    number.map(Duration::from_secs_f64).ok_or_else(|| usage(format!("not 0.001 to 60 seconds: '{word}'")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use unshare::fail::Usage;

    use super::*;

    fn parsed(line: &str) -> Result<Command> {
        parse(lexopt::Parser::from_args(line.split(' ').filter(|word| !word.is_empty()))).1
    }

    fn is_usage(line: &str) -> bool {
        parsed(line).is_err_and(|e| e.is::<Usage>() || e.is::<lexopt::Error>())
    }

    #[test]
    fn a_link_is_read_in_any_order() {
        let Command::Make(Statement::Link(link)) =
            parsed("link web:eth0 --check 50 br0 10.0.0.1/24 mtu 1400 via 10.0.0.254 mac 02:00:00:00:00:01 fd00::1/64")
                .unwrap()
        else {
            panic!("not a link")
        };
        assert_eq!((link.end.label().as_str(), link.switch.as_str()), ("web:eth0", "br0"));
        assert_eq!((link.addresses.len(), link.gateways.len()), (2, 1));
        assert_eq!((link.mtu, link.mac), (Some(1400), Some([2, 0, 0, 0, 0, 1])));
        assert_eq!(link.check, Some(Duration::from_millis(50)));
    }

    #[test]
    fn what_is_malformed_is_a_usage_error() {
        for line in [
            "",
            "nothing",
            "add",
            "add -- -x",
            "add a/b",
            "add --wait x",
            "del",
            "list x",
            "link web:eth0",
            "link web br0",
            "link web:eth0 br0 10.0.0.1",
            "link web:eth0 br0 10.0.0.1/24 via",
            "link web:eth0 br0 via 10.0.0.254",
            "link web:eth0 br0 10.0.0.1/24 via 10.0.0.2 via 10.0.0.3",
            "link web:eth0 br0 10.0.0.1/24 10.0.0.1/16",
            "link web:eth0 br0 mtu 67",
            "link web:eth0 br0 fd00::1/64 mtu 1000",
            "link web:eth0 br0 --check 0",
            "link web:eth0 br0 --check x",
            "link web:eth0 0123456789abcdef",
            "unlink",
            "unlink web:eth0 more",
            "switch",
            "switch make br0",
            "switch add",
            "switch add a b",
            "switch add br0 --address 10.0.0.0/24",
            "switch add br0 --address 10.0.0.1/24 --address 10.0.1.1/24",
            "switch add br;x --nat",
            "switch show a b",
        ] {
            assert!(is_usage(line), "{line}: {:?}", parsed(line));
        }
    }

    #[test]
    fn the_programs_options_are_its_own() {
        let expected = |argv: &[&str]| Command::Exec {
            target: Target::Name("web".into()),
            argv: argv.iter().map(OsString::from).collect(),
        };
        assert_eq!(parsed("exec web ls -l --help").unwrap(), expected(&["ls", "-l", "--help"]));
        assert_eq!(parsed("exec web -- ls -- x").unwrap(), expected(&["ls", "--", "x"]));
        assert!(is_usage("exec web") && is_usage("exec web --") && is_usage("exec"));
    }

    #[test]
    fn help_is_there_for_every_command() {
        for line in ["-h", "--help", "add --help", "exec --help", "link -h", "switch --help", "switch add -h"]
        {
            assert_eq!(parsed(line).unwrap(), Command::Help, "{line}");
        }
    }
}
