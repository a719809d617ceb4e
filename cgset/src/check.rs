//! check: what a control file must read after a write, and what to write to have the old value again.

use nix::unistd::{SysconfVar, sysconf};

use crate::amount::{Amount, numbers, size};
use crate::files;

/// What reading back must give: the kernel takes some wrong values without a word.
#[derive(Debug, PartialEq, Eq)]
pub enum Check {
    /// Rounded down to pages; None is no limit.
    Bytes(Option<u64>),
    /// The first word.
    Word(String),
    /// The same processors or memory nodes.
    List(String),
    /// One value of one device: "8:0 rbps=1 wbps=max" on v2, where it has a key; "8:0 1" on v1. A device
    /// without limits has no line.
    Device {
        disk: String,
        key: &'static str,
        value: String,
        none: &'static str,
    },
    /// What the user wrote, word by word.
    Text(String),
    Any,
}

impl Check {
    /// True where `text`, the file now, has what was written.
    pub fn holds(&self, text: &str) -> bool {
        match self {
            Check::Word(word) => files::first(text) == word,
            Check::Bytes(None) => files::limit(text).is_none() && !text.trim().is_empty(),
            Check::Bytes(Some(want)) => files::limit(text).is_some_and(|got| rounded(got, *want)),
            Check::List(want) => numbers(text) == numbers(want),
            Check::Device { disk, key, value, none } => {
                device_value(text, disk, key).unwrap_or(none) == value
            }
            Check::Text(want) => kept(text, want),
            Check::Any => true,
        }
    }

    /// The lines to write.
    pub fn way_back(&self, old: &str) -> Vec<String> {
        match self {
            Check::Device { disk, key, none, .. } => {
                let value = device_value(old, disk, key).unwrap_or(none);
                let equals = if key.is_empty() { "" } else { "=" };
                vec![format!("{disk} {key}{equals}{value}")]
            }
            Check::Text(want) => text_back(old, want),
            _ => vec![rewritable(old.lines().next().unwrap_or(""))],
        }
    }
}

/// The kernel rounds down to whole pages.
fn rounded(got: u64, want: u64) -> bool {
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as u64;
    got <= want && want - got < page
}

/// "max" in "8:0 rbps=max wbps=4096", "4096" in "8:0 4096".
fn device_value<'a>(text: &'a str, disk: &str, key: &str) -> Option<&'a str> {
    let mut words = line_of(text, disk)?.split_whitespace().skip(1);
    if key.is_empty() {
        return words.next();
    }
    words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

fn line_of<'a>(text: &'a str, first: &str) -> Option<&'a str> {
    text.lines().find(|line| files::first(line) == first)
}

/// True where each word that was written is there, in the line of the first of them or anywhere; a size may
/// have become bytes, "+memory" is "memory" when read.
fn kept(text: &str, want: &str) -> bool {
    let of_key = line_of(text, files::first(want)).filter(|_| want.split_whitespace().count() > 1);
    let found: Vec<&str> = of_key.unwrap_or(text).split_whitespace().collect();
    want.split_whitespace().all(|word| {
        let list =
            || numbers(word).is_some_and(|list| found.iter().any(|f| numbers(f).as_ref() == Some(&list)));
        match word.strip_prefix('-') {
            Some(gone) if !gone.bytes().all(|b| b.is_ascii_digit()) => !found.contains(&gone),
            _ => found.iter().any(|f| same(f, word)) || list(),
        }
    })
}

fn same(found: &str, word: &str) -> bool {
    let word = word.strip_prefix('+').unwrap_or(word);
    let unlimited =
        |text: &str| text == "max" || text == "-1" || text.parse().is_ok_and(|n: u64| n >= 1 << 62);
    if found == word || (unlimited(found) && unlimited(word)) {
        return true;
    }
    match (found.parse::<u64>(), size(word, word)) {
        (Ok(got), Ok(Amount::Exact(want))) => rounded(got, want),
        _ => false,
    }
}

/// A file with a line for each device or key is put back by that line; "+memory" by "-memory".
fn text_back(old: &str, want: &str) -> Vec<String> {
    let flags = |word: &str| {
        let (sign, name) = word.split_at_checked(1)?;
        let was = old.split_whitespace().any(|o| o == name);
        match sign {
            "+" if !was => Some(format!("-{name}")),
            "-" if was => Some(format!("+{name}")),
            _ => None,
        }
    };
    let first = files::first(want);
    if first.starts_with('+') || (first.starts_with('-') && first != "-1") {
        return want.split_whitespace().filter_map(flags).collect();
    }
    let is_device =
        first.split_once(':').is_some_and(|(a, b)| a.parse::<u32>().is_ok() && b.parse::<u32>().is_ok());
    match line_of(old, first) {
        Some(line) => vec![rewritable(line)],
        None if is_device => {
            let lifted =
                |word: &str| word.split_once('=').map_or("0".into(), |(key, _)| format!("{key}=max"));
            let rest: Vec<String> = want.split_whitespace().skip(1).map(lifted).collect();
            vec![format!("{first} {}", rest.join(" "))]
        }
        None => vec![rewritable(old.lines().next().unwrap_or(""))],
    }
}

/// What v1 shows for "no limit" it takes as a number only on the same page size; "-1" it takes always.
fn rewritable(old: &str) -> String {
    match old.parse::<u64>() {
        Ok(number) if number >= 1 << 62 => "-1".into(),
        _ => old.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(check: &Check, text: &str) -> bool {
        check.holds(text)
    }

    #[test]
    fn rounding_down_to_a_page_is_as_asked_and_nothing_else() {
        let want = |bytes| Check::Bytes(Some(bytes));
        assert!(holds(&want(100_000_000), "99999744"));
        assert!(holds(&want(4096), "4096"));
        assert!(!holds(&want(100_000_000), "100003840"));
        assert!(!holds(&want(100_000_000), "1"));
        assert!(!holds(&want(100_000_000), "max"));
        assert!(holds(&Check::Bytes(None), "max") && holds(&Check::Bytes(None), "9223372036854771712"));
        assert!(!holds(&Check::Bytes(None), "4096") && !holds(&Check::Bytes(None), ""));
        assert!(holds(&Check::Word("max".into()), "max 100000") && !holds(&Check::Word("5".into()), "50"));
        assert!(holds(&Check::List("0,1".into()), "0-1\n") && !holds(&Check::List("0,1".into()), "0\n"));
    }

    #[test]
    fn a_device_is_one_line_of_many() {
        let check =
            |key, value: &str, none| Check::Device { disk: "8:0".into(), key, value: value.into(), none };
        let text = "8:16 rbps=1 wbps=max\n8:0 rbps=4096 wbps=max riops=max wiops=max\n";
        let v2 = check("rbps", "4096", "max");
        assert!(holds(&v2, text) && !holds(&v2, "8:0 rbps=1\n") && !holds(&v2, ""));
        assert_eq!(v2.way_back(text), ["8:0 rbps=4096"]);
        assert_eq!(v2.way_back(""), ["8:0 rbps=max"]);
        let v1 = check("", "4096", "0");
        assert!(holds(&v1, "8:0 4096\n") && holds(&check("", "0", "0"), ""));
        assert_eq!((v1.way_back("8:0 7\n"), v1.way_back("")), (vec!["8:0 7".into()], vec!["8:0 0".into()]));
    }

    #[test]
    fn a_users_own_text_must_be_there_word_by_word() {
        let text = |want: &str| Check::Text(want.into());
        assert!(holds(&text("50000 100000"), "50000 100000\n"));
        assert!(holds(&text("10M"), "10485760\n") && !holds(&text("10M"), "1\n"));
        assert!(holds(&text("254:0 wbps=max"), "254:0 rbps=5 wbps=max\n"));
        // What some kernels make of 254:0 1M, and of an ignored limit.
        assert!(!holds(&text("254:0 1M"), "254:0 1\n"));
        assert!(!holds(&text("5"), "9223372036854771712\n"));
        assert!(holds(&text("max"), "9223372036854771712\n") && holds(&text("-1"), "max\n"));
        assert!(holds(&text("+pids -io"), "memory pids\n") && !holds(&text("-io"), "io\n"));
        assert!(holds(&text("0,1"), "0-1\n"));
        assert_eq!(text("+pids -io").way_back("io memory\n"), ["-pids", "+io"]);
        assert_eq!(text("8:0 wbps=5").way_back("8:16 wbps=1\n"), ["8:0 wbps=max"]);
        assert_eq!(text("8:0 5").way_back("8:0 7\n"), ["8:0 7"]);
        assert_eq!(text("5").way_back("9223372036854771712\n"), ["-1"]);
    }

    #[test]
    fn any_file_of_a_strange_kernel_is_compared_without_a_panic() {
        let pieces = [
            "8:0",
            " ",
            "\n",
            "max",
            "-1",
            "+io",
            "-",
            "é",
            "0-1",
            "5",
            "rbps=",
            "99999999999999999999",
            "=",
        ];
        crate::fuzz::mixed(&pieces, 12, |text| {
            let check = Check::Text(text.into());
            let _ = (check.holds(text), check.way_back(text));
            let (disk, value) = ("8:0".into(), "5".into());
            let check = Check::Device { disk, key: "rbps", value, none: "max" };
            let _ = (check.holds(text), check.way_back(text), files::limit(text));
            let _ = (files::keyed(text, "max"), files::first(text));
        });
    }
}
