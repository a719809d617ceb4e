//! cli: what the user typed, checked as far as that goes without looking at the machine.

#[cfg(test)]
mod tests;
mod trace;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use lexopt::prelude::*;
use unshare::fail::{Statuses, text, usage};

use crate::manner::Manner;
use crate::publish::Port;
use crate::show::Form;
use crate::store::Target;
use crate::words::{self, Read, Statement, name, only, some, switch_name, word};
use crate::{delete, link, switch};

pub const HELP: &str = "\
Usage: netns COMMAND [ARGUMENT...]

Named network namespaces, and the links and switches between them.

  add NAME...               make namespaces; no change to those that live
  attach NAME PID|TARGET    give the namespace of a process a name
  del NAME...               delete them, and what is published for them; refused
                            while processes are inside
      --all                 all that there are
      --wait                come back when the far ends of their links are gone
      --force               also when in use: takes the name and links away
      --if-exists           a missing name is no error
  list                      names, live or stale, and their links
  pids TARGET               the processes inside
  identify [PID]            the names of its namespace; of one's own
  show                      all there is, with what is inside
      --plan                the statements that make it anew, for apply
      --dot                 a drawing for dot(1)
  monitor                   tell when names and links come and go
  exec TARGET [--] PROGRAM [ARGUMENT...]
                            become PROGRAM inside the namespace
  link TARGET:IFNAME SWITCH [ADDRESS/PREFIX...] [via GATEWAY]... [mtu BYTES]
       [mac MAC] [tag VLAN] [trunk VLAN,...] [rate 80mbit] [promisc]
                            connect a namespace to a switch; no change if done
      --check MS            how long to ask whether an address is taken (200)
      --no-check            do not ask
      --next-free           the lowest address that nobody has; it is printed
  unlink TARGET:IFNAME...   remove those links
  switch add SWITCH         make a Linux bridge; no change if done
      --ovs                 one of Open vSwitch
      --datapath netdev|system
                            who switches for it: ovs-vswitchd or the kernel
      --address ADDRESS/PREFIX
                            the host's address on it; once for each family
      --nat                 ships reach the outside by the host's address
      --mtu BYTES           the largest packet, for its links too
      --uplink NIC          a card of the host becomes a port; its addresses and
                            routes move to the switch, and back when it goes
  switch del SWITCH         remove it, its NAT and what is published on it
      --if-unused           only when nothing is linked to it
  switch show [SWITCH]      switches, their addresses and ports
  tunnel add SWITCH NAME vxlan|geneve|gre remote ADDRESS [key NUMBER]
                            join it with a switch on another host (both --ovs)
  tunnel del SWITCH NAME    cut that
  nat on|off SWITCH         ships reach the outside by the host's address
  publish [ADDRESS:]PORT TARGET:PORT [udp]
                            a port of the host leads to a ship
  unpublish [ADDRESS:]PORT [udp]
  apply FILE                make what the file says, all or nothing: a line
                            each of add, switch add, tunnel add, link, nat on,
                            publish
  diff FILE                 what apply would do (+), what differs (!), what is
                            there and not in the file (-)
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

TARGET is a NAME, pid:NUMBER, or a path that contains a slash. SWITCH may be
macvlan:NIC or macvtap:NIC for link. FILE may be - for standard input.

  --json                    with any but exec: print JSON
  -n, --dry-run             with any that changes something: only say what
  -h, --help                print this and exit
  -V, --version             print the version and exit
";

#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Help,
    Version,
    Make { statement: Statement, manner: Manner },
    Apply { file: PathBuf, manner: Manner },
    Diff { file: PathBuf, json: bool },
    Attach { name: String, target: Target, manner: Manner },
    Delete(delete::Options),
    List { json: bool },
    Pids { target: Target, json: bool },
    Identify { pid: Option<i32>, json: bool },
    Show(Form),
    Monitor { json: bool },
    Exec { target: Target, argv: Vec<OsString> },
    Unlink { ends: Vec<link::End>, manner: Manner },
    NatOff { switch: String, manner: Manner },
    Unpublish { port: Port, manner: Manner },
    TunnelDelete { switch: String, name: String, manner: Manner },
    SwitchDelete(switch::Removal),
    SwitchShow { name: Option<String>, json: bool },
    Trace(crate::trace::Options),
}

/// The command, and the statuses of its failures.
pub fn parse(mut parser: lexopt::Parser) -> (Statuses, Result<Command>) {
    let plain = Statuses { usage: 2, failure: 1 };
    parser.set_short_equals(false);
    let word = match parser.next() {
        Ok(Some(Value(word))) => word,
        other => return (plain, other.map_err(Into::into).and_then(option_alone)),
    };
    let command = match word.to_str().unwrap_or_default() {
        "add" => make(&mut parser, |parser, extra| words::add(parser, extra)),
        "apply" => apply(&mut parser),
        "attach" => attach(&mut parser),
        // As of diff(1), 1 says that there is a difference.
        "diff" => return (Statuses { usage: 2, failure: 2 }, diff(&mut parser)),
        "del" | "delete" => delete(&mut parser),
        "list" | "ls" => list(&mut parser),
        "pids" => pids(&mut parser),
        "identify" => identify(&mut parser),
        "show" => show(&mut parser),
        "monitor" => monitor(&mut parser),
        // Where a program follows, its own status must be told from ours.
        "exec" => return (Statuses { usage: 125, failure: 125 }, exec(&mut parser)),
        "link" => make(&mut parser, |parser, extra| words::link(parser, extra)),
        "unlink" => unlink(&mut parser),
        "switch" => switch(&mut parser),
        "tunnel" => tunnel(&mut parser),
        "nat" => nat(&mut parser),
        "publish" => make(&mut parser, |parser, extra| words::publish(parser, extra)),
        "unpublish" => unpublish(&mut parser),
        "trace" => trace::trace(&mut parser),
        _ => Err(usage(format!("unknown command '{}'", word.to_string_lossy()))),
    };
    (plain, command)
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
            Long("all") => options.all = true,
            Value(value) => options.names.push(name(value)?),
            other => {
                if let Some(instead) = how(&mut options.manner, other)? {
                    return Ok(instead);
                }
            }
        }
    }
    if !options.all {
        options.names = some(options.names)?;
    } else if !options.names.is_empty() {
        return Err(usage("--all leaves no name to be given"));
    }
    Ok(Command::Delete(options))
}

fn attach(parser: &mut lexopt::Parser) -> Result<Command> {
    with_words(parser, |words, manner| {
        let Ok([to, process]) = <[OsString; 2]>::try_from(words) else {
            return Err(usage("attach needs a name and a process"));
        };
        Ok(Command::Attach { name: name(to)?, target: process_or_target(&text(process)?)?, manner })
    })
}

/// Where only a process is meant, its number alone is enough.
fn process_or_target(given: &str) -> Result<Target> {
    let number = !given.is_empty() && given.bytes().all(|b| b.is_ascii_digit());
    word(Target::parse(&if number { format!("pid:{given}") } else { given.to_owned() }))
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

fn pids(parser: &mut lexopt::Parser) -> Result<Command> {
    let (mut target, mut json) = (None, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => json = true,
            Value(value) if target.is_none() => target = Some(word(Target::parse(&text(value)?))?),
            other => return help_or_version(other),
        }
    }
    let target = target.ok_or_else(|| usage("no namespace given"))?;
    Ok(Command::Pids { target, json })
}

fn identify(parser: &mut lexopt::Parser) -> Result<Command> {
    let (mut pid, mut json) = (None, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => json = true,
            Value(value) if pid.is_none() => {
                let number = text(value)?;
                let number = number.strip_prefix("pid:").unwrap_or(&number);
                pid =
                    Some(word(Target::parse(&format!("pid:{number}")).map(|_| number.parse().unwrap_or(0)))?);
            }
            other => return help_or_version(other),
        }
    }
    Ok(Command::Identify { pid, json })
}

fn show(parser: &mut lexopt::Parser) -> Result<Command> {
    let mut form = Form::Lines;
    while let Some(argument) = parser.next()? {
        let asked = match argument {
            Long("json") => Form::Json,
            Long("plan") => Form::Plan,
            Long("dot") => Form::Dot,
            other => return help_or_version(other),
        };
        if form != Form::Lines && form != asked {
            return Err(usage("--json, --plan and --dot exclude each other"));
        }
        form = asked;
    }
    Ok(Command::Show(form))
}

fn monitor(parser: &mut lexopt::Parser) -> Result<Command> {
    match list(parser)? {
        Command::List { json } => Ok(Command::Monitor { json }),
        other => Ok(other),
    }
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

/// A statement of the command line, with -n.
fn make(
    parser: &mut lexopt::Parser,
    read: impl FnOnce(
        &mut lexopt::Parser,
        &mut dyn FnMut(lexopt::Arg<'_>) -> Result<Option<Command>>,
    ) -> Result<Read<Command>>,
) -> Result<Command> {
    let mut manner = Manner::default();
    let mut extra = |argument: lexopt::Arg<'_>| how(&mut manner, argument);
    match read(parser, &mut extra)? {
        Read::Continue(statement) => Ok(Command::Make { statement, manner }),
        Read::Break(command) => Ok(command),
    }
}

/// The options of every command that changes something; a command where they ask for another.
fn how(manner: &mut Manner, argument: lexopt::Arg<'_>) -> Result<Option<Command>> {
    match argument {
        Short('n') | Long("dry-run") => manner.dry_run = true,
        Long("json") => manner.json = true,
        other => return help_or_version(other).map(Some),
    }
    Ok(None)
}

fn apply(parser: &mut lexopt::Parser) -> Result<Command> {
    with_words(parser, |words, manner| Ok(Command::Apply { file: only_file(words)?, manner }))
}

fn diff(parser: &mut lexopt::Parser) -> Result<Command> {
    let (mut words, mut json) = (Vec::new(), false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => json = true,
            Value(value) => words.push(value),
            other => return help_or_version(other),
        }
    }
    Ok(Command::Diff { file: only_file(words)?, json })
}

fn only_file(words: Vec<OsString>) -> Result<PathBuf> {
    let mut words = words.into_iter();
    match (words.next(), words.next()) {
        (Some(file), None) => Ok(file.into()),
        (None, _) => Err(usage("no file given; '-' is standard input")),
        (_, Some(extra)) => Err(lexopt::Error::UnexpectedArgument(extra).into()),
    }
}

/// A command that changes something, made of its words and of how it is to go about it.
fn with_words(
    parser: &mut lexopt::Parser,
    command: impl FnOnce(Vec<OsString>, Manner) -> Result<Command>,
) -> Result<Command> {
    let (mut words, mut manner) = (Vec::new(), Manner::default());
    while let Some(argument) = parser.next()? {
        match argument {
            Value(value) => words.push(value),
            other => {
                if let Some(instead) = how(&mut manner, other)? {
                    return Ok(instead);
                }
            }
        }
    }
    command(words, manner)
}

fn unlink(parser: &mut lexopt::Parser) -> Result<Command> {
    with_words(parser, |words, manner| {
        if words.is_empty() {
            return Err(usage("no TARGET:IFNAME given"));
        }
        let ends = words.into_iter().map(|end| word(link::End::parse(&text(end)?))).collect::<Result<_>>()?;
        Ok(Command::Unlink { ends, manner })
    })
}

/// The word that says what is to be done with a switch, a tunnel or NAT; a command where --help stands there.
fn verb(parser: &mut lexopt::Parser, none: &str) -> Result<std::result::Result<String, Command>> {
    match parser.next()? {
        Some(Value(verb)) => Ok(Ok(verb.to_string_lossy().into_owned())),
        Some(other) => help_or_version(other).map(Err),
        None => Err(usage(none)),
    }
}

fn nat(parser: &mut lexopt::Parser) -> Result<Command> {
    let verb = match verb(parser, "nat needs on or off")? {
        Ok(verb) => verb,
        Err(command) => return Ok(command),
    };
    match verb.as_str() {
        "on" => make(parser, |parser, extra| words::nat_on(parser, extra)),
        "off" => with_words(parser, |words, manner| match <[OsString; 1]>::try_from(words) {
            Ok([name]) => Ok(Command::NatOff { switch: switch_name(name)?, manner }),
            Err(_) => Err(usage("nat off needs one switch")),
        }),
        _ => Err(usage(format!("nat is neither on nor off: '{verb}'"))),
    }
}

fn tunnel(parser: &mut lexopt::Parser) -> Result<Command> {
    let verb = match verb(parser, "tunnel needs add or del")? {
        Ok(verb) => verb,
        Err(command) => return Ok(command),
    };
    match verb.as_str() {
        "add" => make(parser, |parser, extra| words::tunnel_add(parser, extra)),
        "del" | "delete" => with_words(parser, |words, manner| match <[OsString; 2]>::try_from(words) {
            Ok([switch, name]) => {
                let (switch, name) = (switch_name(switch)?, switch_name(name)?);
                Ok(Command::TunnelDelete { switch, name, manner })
            }
            Err(_) => Err(usage("tunnel del needs SWITCH and NAME")),
        }),
        _ => Err(usage(format!("tunnel cannot '{verb}'"))),
    }
}

fn unpublish(parser: &mut lexopt::Parser) -> Result<Command> {
    with_words(parser, |words, manner| {
        let words = words.into_iter().map(text).collect::<Result<Vec<_>>>()?;
        let (port, udp) = match &words[..] {
            [port] => (port, false),
            [port, protocol] => (port, words::udp(protocol)?),
            _ => return Err(usage("unpublish needs [ADDRESS:]PORT")),
        };
        Ok(Command::Unpublish { port: word(Port::parse(port, udp))?, manner })
    })
}

fn switch(parser: &mut lexopt::Parser) -> Result<Command> {
    let verb = match verb(parser, "switch needs add, del or show")? {
        Ok(verb) => verb,
        Err(command) => return Ok(command),
    };
    match verb.as_str() {
        "add" => make(parser, |parser, extra| words::switch_add(parser, extra)),
        "del" | "delete" => switch_delete(parser),
        "show" => switch_show(parser),
        _ => Err(usage(format!("switch cannot '{verb}'"))),
    }
}

fn switch_delete(parser: &mut lexopt::Parser) -> Result<Command> {
    let (mut name, mut if_unused, mut manner) = (None, false, Manner::default());
    while let Some(argument) = parser.next()? {
        match argument {
            Long("if-unused") => if_unused = true,
            Value(value) => only(&mut name, value)?,
            other => {
                if let Some(instead) = how(&mut manner, other)? {
                    return Ok(instead);
                }
            }
        }
    }
    let name = name.ok_or_else(|| usage("no switch given"))?;
    Ok(Command::SwitchDelete(switch::Removal { name, if_unused, manner }))
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
