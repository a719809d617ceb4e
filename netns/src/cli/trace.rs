//! trace: its options, which are those of tcptraceroute(1) where that has them.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::Result;
use lexopt::prelude::*;
use unshare::fail::{text, usage};

use super::{Command, help_or_version};
use crate::store::Target;
use crate::trace;
use crate::words::{switch_name, word};

pub fn trace(parser: &mut lexopt::Parser) -> Result<Command> {
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
    let (whole, fraction) = word.split_once('.').unwrap_or((word, "0"));
    let digits = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
    // Three digits of them count.
    let parsed = whole.parse().ok().zip(format!("{fraction:0<3.3}").parse().ok());
    parsed
        .filter(|_| digits(whole) && digits(fraction))
        .map(|(seconds, ms): (u64, u64)| {
            Duration::from_millis(seconds.saturating_mul(1000).saturating_add(ms))
        })
        .filter(|wait| (1..=60_000).contains(&wait.as_millis()))
        .ok_or_else(|| usage(format!("not 0.001 to 60 seconds: '{word}'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_fractions() {
        let ms = |word: &str| seconds(word).ok().map(|wait| wait.as_millis());
        assert_eq!(
            [ms("3"), ms("0.5"), ms("1.0019"), ms("60.0")],
            [Some(3000), Some(500), Some(1001), Some(60_000)]
        );
        for bad in ["0", "0.0009", "60.001", "-1", "+1", "1e1", ".", ".5", "", "x", "99999999999999999999"] {
            assert_eq!(ms(bad), None, "{bad}");
        }
    }
}
