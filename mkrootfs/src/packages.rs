//! packages: the index of an archive (Packages; deb822(5), Debian Policy chapter 7): one pass over 50 MB.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use memchr::memchr;

use crate::version::{self, Relation};

/// One package as the index has it; `text` is its whole stanza.
#[derive(Clone, Copy, Debug)]
pub struct Package<'a> {
    pub name: &'a str,
    pub version: &'a str,
    pub text: &'a str,
    pub essential: bool,
    pub priority: Priority,
    /// Which of the suites it comes from.
    pub suite: usize,
}

impl<'a> Package<'a> {
    pub fn field(&self, name: &str) -> Option<&'a str> {
        field(self.text, name)
    }
}

/// How much a system needs a package (Debian Policy 2.5); "extra" is an old word for optional.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    Required,
    Important,
    Standard,
    #[default]
    Optional,
}

impl Priority {
    fn parse(word: &str) -> Priority {
        match word.trim_end() {
            "required" => Priority::Required,
            "important" => Priority::Important,
            "standard" => Priority::Standard,
            _ => Priority::Optional,
        }
    }
}

/// All packages, by name and by what they provide.
#[derive(Default)]
pub struct Index<'a> {
    all: Vec<Package<'a>>,
    /// Of several versions of a name the highest.
    by_name: HashMap<&'a str, u32>,
    /// The others.
    older: HashSet<u32>,
    providers: HashMap<&'a str, Vec<(u32, Option<&'a str>)>>,
}

/// One name in a dependency with its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term<'a> {
    pub name: &'a str,
    /// After a colon: "any", or the architecture that it must be of.
    pub arch: Option<&'a str>,
    pub bound: Option<(Relation, &'a str)>,
}

impl<'a> Index<'a> {
    /// Adds the stanzas of one Packages file; of the same version in several suites the first counts.
    pub fn add(&mut self, text: &'a str, suite: usize) {
        // Room at once for what Debian's indexes have: they take 800 bytes a package.
        self.by_name.reserve(text.len() / 800);
        let bytes = text.as_bytes();
        let mut start = 0;
        while start < bytes.len() {
            let (stanza, end) = scan(text, start);
            if let Some((package, provides)) = stanza {
                self.insert(Package { suite, ..package }, provides);
            }
            start = end;
        }
    }

    fn insert(&mut self, package: Package<'a>, provides: Option<&'a str>) {
        let number = self.all.len() as u32;
        match self.by_name.entry(package.name) {
            Entry::Vacant(place) => drop(place.insert(number)),
            Entry::Occupied(mut place) => {
                let old = *place.get();
                if version::compare(self.all[old as usize].version, package.version).is_ge() {
                    return;
                }
                place.insert(number);
                self.older.insert(old);
            }
        }
        self.all.push(package);
        for term in groups(provides.unwrap_or("")).flatten() {
            let version = term.bound.map(|(_, version)| version);
            self.providers.entry(term.name).or_default().push((number, version));
        }
    }

    pub fn get(&self, name: &str) -> Option<&Package<'a>> {
        self.by_name.get(name).map(|number| &self.all[*number as usize])
    }

    /// The packages that provide `name`, with the version that they provide it in.
    pub fn providers(&self, name: &str) -> impl Iterator<Item = (&Package<'a>, Option<&'a str>)> {
        self.providers
            .get(name)
            .into_iter()
            .flatten()
            // An older version of a package may have provided what the newest does not.
            .filter(|(number, _)| !self.older.contains(number))
            .map(|(number, version)| (&self.all[*number as usize], *version))
    }

    /// The newest version of each package, in the order of the index.
    pub fn packages(&self) -> impl Iterator<Item = &Package<'a>> {
        let all = (0..).zip(&self.all);
        all.filter(|(number, _)| !self.older.contains(number)).map(|(_, package)| package)
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Up to three names that a mistyped one may have meant.
    pub fn nearest(&self, name: &str) -> Vec<&'a str> {
        let mut near: Vec<(usize, &str)> = self
            .by_name
            .keys()
            .filter(|key| key.len().abs_diff(name.len()) <= 2)
            .map(|key| (distance(key, name), *key))
            .filter(|(distance, _)| *distance <= 2)
            .collect();
        near.sort();
        near.into_iter().take(3).map(|(_, key)| key).collect()
    }
}

/// The stanza at `start` with its Provides, and where the next one begins.
fn scan(text: &str, start: usize) -> (Option<(Package<'_>, Option<&str>)>, usize) {
    let bytes = text.as_bytes();
    let (mut name, mut version, mut provides) = (None, None, None);
    let (mut essential, mut priority) = (false, Priority::Optional);
    let mut at = start;
    while at < bytes.len() {
        let end = memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |length| at + length);
        if end == at {
            break;
        }
        // Most lines are told apart by their first byte.
        if matches!(bytes[at], b'P' | b'V' | b'E') {
            let line = &text[at..end];
            if let Some(value) = line.strip_prefix("Package: ") {
                name = Some(value.trim_end());
            } else if let Some(value) = line.strip_prefix("Version: ") {
                version = Some(value.trim_end());
            } else if let Some(value) = line.strip_prefix("Provides: ") {
                provides = Some(value);
            } else if line.starts_with("Essential: yes") {
                essential = true;
            } else if let Some(value) = line.strip_prefix("Priority: ") {
                priority = Priority::parse(value);
            }
        }
        at = end + 1;
    }
    let stanza = &text[start..at.min(bytes.len())];
    let package = name.zip(version).map(|(name, version)| {
        (Package { name, version, text: stanza, essential, priority, suite: 0 }, provides)
    });
    (package, at.saturating_add(1))
}

/// The value of a field in a stanza, with its continuation lines.
pub fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    let mut at = 0;
    while at < stanza.len() {
        let end = memchr(b'\n', &stanza.as_bytes()[at..]).map_or(stanza.len(), |length| at + length);
        let line = &stanza[at..end];
        if line.len() > name.len()
            && line.as_bytes()[name.len()] == b':'
            && line.as_bytes()[..name.len()].eq_ignore_ascii_case(name.as_bytes())
        {
            let mut stop = end;
            while stanza.as_bytes().get(stop + 1).is_some_and(|c| *c == b' ' || *c == b'\t') {
                let from = stop + 1;
                stop = memchr(b'\n', &stanza.as_bytes()[from..]).map_or(stanza.len(), |length| from + length);
            }
            return Some(stanza[at + name.len() + 1..stop].trim());
        }
        at = end + 1;
    }
    None
}

/// "a (>= 1) | b, c:any [amd64]" as groups of alternatives.
pub fn groups(text: &str) -> impl Iterator<Item = Vec<Term<'_>>> {
    text.split(',')
        .map(|group| group.split('|').filter_map(term).collect::<Vec<_>>())
        .filter(|group| !group.is_empty())
}

fn term(text: &str) -> Option<Term<'_>> {
    let text = text.trim();
    let end = text.find([' ', '(', '[', '<', ':']).unwrap_or(text.len());
    let qualifier = text[end..].strip_prefix(':');
    let arch = qualifier.map(|rest| rest.split([' ', '(', '[', '<']).next().unwrap_or(""));
    let bound = text[end..].split_once('(').and_then(|(_, rest)| {
        let inner = rest.split_once(')')?.0.trim();
        let at = inner.find(|c| !"<>=".contains(c))?;
        Some((Relation::parse(&inner[..at])?, inner[at..].trim()))
    });
    (end > 0).then(|| Term { name: &text[..end], arch, bound })
}

/// How many letters must be changed, put in or taken out (Levenshtein).
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Package: a\nVersion: 1\nEssential: yes\nDescription: x\n\n\
                        Package: b\nVersion: 2\nPriority: required\nProvides: v (= 3), w\nDepends: a\n\n\
                        Package: a\nVersion: 1.1\nTag: x,\n y\n\nVersion: 4\n\nPackage: c\nVersion: 1";

    #[test]
    fn the_highest_version_of_a_name_is_taken_and_the_last_stanza_needs_no_blank_line() {
        let mut index = Index::default();
        index.add(TEXT, 0);
        assert_eq!(index.len(), 3);
        assert_eq!(index.get("a").unwrap().version, "1.1");
        assert_eq!(index.get("a").unwrap().field("tag"), Some("x,\n y"));
        assert_eq!(index.get("b").unwrap().priority, Priority::Required);
        assert!(index.get("c").is_some());
        assert_eq!(index.packages().map(|p| p.name).collect::<Vec<_>>(), ["b", "a", "c"]);
        let provided: Vec<_> = index.providers("v").map(|(p, v)| (p.name, v)).collect();
        assert_eq!(provided, [("b", Some("3"))]);
    }

    #[test]
    fn dependencies_are_groups_of_alternatives() {
        let parsed: Vec<_> = groups("a (>= 1:2~) | b:any, c(<<3) [amd64],, d <!nocheck>").collect();
        let term = |name, bound| Term { name, arch: None, bound };
        assert_eq!(
            parsed,
            [
                vec![
                    term("a", Some((Relation::LaterEqual, "1:2~"))),
                    Term { arch: Some("any"), ..term("b", None) }
                ],
                vec![term("c", Some((Relation::Earlier, "3")))],
                vec![term("d", None)],
            ]
        );
    }

    #[test]
    fn mistyped_names_have_neighbours() {
        assert_eq!(distance("nginx", "ngnix"), 2);
        assert_eq!(distance("", "abc"), 3);
    }
}
