//! file: the statements of a file, and what they cannot say together whatever the machine is like.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Error, Result, anyhow, bail};

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
    /// An error of this line.
    pub fn at(&self, error: Error) -> Error {
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
