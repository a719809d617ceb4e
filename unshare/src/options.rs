//! options: long options as getopt_long(3) takes them: abbreviated, and refused in its words.
//!
//! lexopt reads the words; this adds what it leaves to its caller. There are two tiers of names: what the tool
//! of this name in util-linux has, and what is ours. An abbreviation that is unique there means the same here,
//! whatever we add: a script that says --fo must not break because we have one more option.

use std::ffi::OsString;

use anyhow::Result;
pub use lexopt::Arg;

use crate::fail::Usage;

/// The long options of a tool: "fork" takes no argument, "wd=" needs one, "mount[=]" may have one.
pub struct Names {
    pub standard: &'static [&'static str],
    pub ours: &'static [&'static str],
}

impl Names {
    /// What a word without its dashes means: one entry of the table, several, or none.
    fn find(&self, word: &str) -> Vec<&'static str> {
        let all = || self.standard.iter().chain(self.ours).copied();
        if let Some(exact) = all().find(|entry| bare(entry) == word) {
            return vec![exact];
        }
        let begin = |entry: &&'static str| bare(entry).starts_with(word);
        let standard: Vec<_> = self.standard.iter().copied().filter(begin).collect();
        match standard.len() {
            1 => standard,
            _ => all().filter(begin).collect(),
        }
    }

    /// All of them, without the marks.
    pub fn all(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.standard.iter().chain(self.ours).map(|entry| bare(entry))
    }
}

fn bare(entry: &'static str) -> &'static str {
    entry.trim_end_matches(['[', '=', ']'])
}

/// A lexopt::Parser that gives long options by their full names, and only those of the table.
pub struct Parser {
    words: lexopt::Parser,
    names: &'static Names,
    /// What to say when the option that came last has no argument.
    missing: String,
}

impl Parser {
    pub fn new(mut words: lexopt::Parser, names: &'static Names) -> Parser {
        words.set_short_equals(false); // "-w=/x" names the directory "=/x"
        Parser { words, names, missing: String::new() }
    }

    /// The next option, or the first word that is none.
    #[expect(clippy::should_implement_trait, reason = "it borrows nothing, but can fail")]
    pub fn next(&mut self) -> Result<Option<Arg<'static>>> {
        match self.words.next()? {
            None => Ok(None),
            Some(Arg::Value(word)) => Ok(Some(Arg::Value(word))),
            Some(Arg::Short(letter)) => {
                self.missing = format!("option requires an argument -- '{letter}'");
                Ok(Some(Arg::Short(letter)))
            }
            Some(Arg::Long(word)) => {
                let word = word.to_owned();
                Ok(Some(Arg::Long(self.long(&word)?)))
            }
        }
    }

    fn long(&mut self, word: &str) -> Result<&'static str> {
        let found = self.names.find(word);
        let [entry] = found[..] else {
            // getopt shows the argument with the word.
            let value = self.words.optional_value();
            let value = value.map(|v| format!("={}", v.to_string_lossy())).unwrap_or_default();
            let names: String = found.iter().map(|entry| format!(" '--{}'", bare(entry))).collect();
            return Err(Usage(match names.as_str() {
                "" => format!("unrecognized option '--{word}{value}'"),
                _ => format!("option '--{word}{value}' is ambiguous; possibilities:{names}"),
            })
            .into());
        };
        let name = bare(entry);
        if entry == name && self.words.optional_value().is_some() {
            return Err(Usage(format!("option '--{name}' doesn't allow an argument")).into());
        }
        self.missing = format!("option '--{name}' requires an argument");
        Ok(name)
    }

    /// The argument of the option that came last: attached to it, or else the next word.
    pub fn value(&mut self) -> Result<OsString> {
        self.words.value().map_err(|_| Usage(self.missing.clone()).into())
    }

    /// The argument that is attached to the option that came last, if there is one.
    pub fn optional_value(&mut self) -> Option<OsString> {
        self.words.optional_value()
    }

    /// All words that are left, whatever they look like: the program's own.
    pub fn rest(&mut self) -> Result<Vec<OsString>> {
        Ok(self.words.raw_args()?.collect())
    }
}

/// What to say of an option that no arm of the tool's match takes.
pub fn unexpected(option: Arg<'_>) -> anyhow::Error {
    Usage(match option {
        Arg::Short(letter) => format!("invalid option -- '{letter}'"),
        Arg::Long(word) => format!("unrecognized option '--{word}'"),
        Arg::Value(word) => format!("unexpected argument '{}'", word.to_string_lossy()),
    })
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names = Names {
        standard: &["help", "fork", "forward", "map-user=", "map-users=", "wd=", "mount[=]"],
        ours: &["wait", "map-all", "forest"],
    };

    /// The name and the argument of the first word.
    fn first(word: &str) -> std::result::Result<(String, Option<OsString>), String> {
        let mut parser = Parser::new(lexopt::Parser::from_args([word]), &NAMES);
        match parser.next().map_err(|e| e.to_string())? {
            Some(Arg::Long(name)) => {
                let entry = NAMES.find(name)[0];
                let value = match entry.strip_prefix(name) {
                    Some("=") => Some(parser.value().map_err(|e| e.to_string())?),
                    _ => parser.optional_value(),
                };
                Ok((name.to_owned(), value))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_abbreviation_is_enough_where_it_is_unique() {
        let name = |word| first(word).unwrap().0;
        assert_eq!(
            (name("--h"), name("--fore"), name("--mo=/x")),
            ("help".into(), "forest".into(), "mount".into())
        );
    }

    #[test]
    fn what_is_unique_among_the_standard_names_stays_so() {
        assert_eq!(first("--w=/x").unwrap(), ("wd".into(), Some("/x".into())));
        assert_eq!(first("--wa").unwrap().0, "wait");
    }

    #[test]
    fn an_exact_name_wins_over_longer_ones() {
        assert_eq!(first("--map-user=1").unwrap(), ("map-user".into(), Some("1".into())));
    }

    #[test]
    fn refusals_have_the_words_of_getopt() {
        for (word, said) in [
            ("--fo", "option '--fo' is ambiguous; possibilities: '--fork' '--forward' '--forest'"),
            ("--map-us=1", "option '--map-us=1' is ambiguous; possibilities: '--map-user' '--map-users'"),
            ("--x=1", "unrecognized option '--x=1'"),
            ("--fork=1", "option '--fork' doesn't allow an argument"),
            ("--help=1", "option '--help' doesn't allow an argument"),
            ("--w", "option '--wd' requires an argument"),
        ] {
            assert_eq!(first(word).unwrap_err(), said, "{word}");
        }
        assert_eq!(unexpected(Arg::Short('x')).to_string(), "invalid option -- 'x'");
        let mut parser = Parser::new(lexopt::Parser::from_args(["-w"]), &NAMES);
        assert_eq!(parser.next().unwrap(), Some(Arg::Short('w')));
        assert_eq!(parser.value().unwrap_err().to_string(), "option requires an argument -- 'w'");
    }
}
