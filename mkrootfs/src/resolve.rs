//! resolve: which packages belong into the root: Essential, required, apt, what was asked for, and all that
//! these need; then a check that nothing lacks or conflicts (Debian Policy 7).

use std::collections::HashMap;

use anyhow::{Result, bail};

use crate::packages::{Index, Package, Term, groups};
use crate::trouble::Kind;

/// What a suite needs beside the rule: where an alternative's first name would bring in more.
const SEEDS: [(&str, &str); 1] = [
    // init-system-helpers wants usrmerge | usr-is-merged; the tree is merged from the start.
    ("bookworm", "usr-is-merged"),
];

pub struct Selection<'a> {
    /// In a fixed order: base-files first, as its directories' modes are the ones that count.
    pub packages: Vec<Package<'a>>,
    /// Names that nobody asked for, which apt may remove when nothing needs them any more.
    pub automatic: Vec<&'a str>,
}

struct Resolver<'i, 'a> {
    index: &'i Index<'a>,
    selected: HashMap<&'a str, Package<'a>>,
    /// Selected, and its dependencies not yet looked at.
    queue: Vec<Package<'a>>,
    /// Choices put off until no package is certain any more: by then one may be made already.
    choices: std::collections::VecDeque<(&'a str, Vec<Term<'a>>)>,
}

pub fn select<'a>(index: &Index<'a>, codename: &str, include: &[String]) -> Result<Selection<'a>> {
    let mut resolver =
        Resolver { index, selected: HashMap::new(), queue: Vec::new(), choices: Default::default() };
    let wanted = asked(index, include)?;
    for package in index.packages().filter(|p| p.essential || p.required) {
        resolver.add(*package);
    }
    let seeds = SEEDS.iter().filter(|(suite, _)| *suite == codename).map(|(_, name)| *name);
    for package in seeds.chain(["apt"]).filter_map(|name| index.get(name)) {
        resolver.add(*package);
    }
    let base: Vec<&str> = resolver.selected.keys().copied().collect();
    for package in &wanted {
        resolver.add(*package);
    }
    resolver.close()?;
    resolver.check()?;
    let mut packages: Vec<Package> = resolver.selected.into_values().collect();
    packages.sort_by_key(|package| (package.name != "base-files", package.name));
    let manual = |name: &str| base.contains(&name) || wanted.iter().any(|p| p.name == name);
    let automatic = packages.iter().map(|p| p.name).filter(|name| !manual(name)).collect();
    Ok(Selection { packages, automatic })
}

/// The packages that were asked for; a virtual name means its first provider.
fn asked<'a>(index: &Index<'a>, include: &[String]) -> Result<Vec<Package<'a>>> {
    let mut wanted = Vec::new();
    for name in include {
        let found = index.get(name).or_else(|| index.providers(name).next().map(|(package, _)| package));
        let Some(package) = found else {
            let (text, why) =
                (format!("no package '{name}'"), format!("it is not among the index's {}", index.len()));
            let near = index.nearest(name).join(", ");
            let hint = if near.is_empty() {
                "is it in another of --components?".into()
            } else {
                format!("did you mean {near}?")
            };
            return Err(Kind::Asked.hinted(text, why, hint));
        };
        wanted.push(*package);
    }
    Ok(wanted)
}

impl<'a> Resolver<'_, 'a> {
    fn add(&mut self, package: Package<'a>) {
        if self.selected.insert(package.name, package).is_none() {
            self.queue.push(package);
        }
    }

    fn close(&mut self) -> Result<()> {
        loop {
            if let Some(package) = self.queue.pop() {
                self.look_at(package)?;
            } else if let Some((from, group)) = self.choices.pop_front() {
                if !self.satisfied(&group) {
                    let best = self.candidates(&group);
                    // A choice that fights with what is there already is the last resort.
                    let choice = best.iter().find(|p| !self.fights(p)).or(best.first()).copied();
                    let Some(package) = choice else { bail!(self.missing(from, &group)) };
                    self.add(package);
                }
            } else {
                return Ok(());
            }
        }
    }

    fn look_at(&mut self, package: Package<'a>) -> Result<()> {
        for group in needs(&package) {
            if self.satisfied(&group) {
                continue;
            }
            match self.candidates(&group)[..] {
                [] => bail!(self.missing(package.name, &group)),
                [only] => self.add(only),
                _ => self.choices.push_back((package.name, group)),
            }
        }
        Ok(())
    }

    fn satisfied(&self, group: &[Term]) -> bool {
        group.iter().any(|term| {
            self.selected.get(term.name).is_some_and(|p| fits(term, Some(p.version)))
                || self
                    .index
                    .providers(term.name)
                    .any(|(p, version)| self.selected.contains_key(p.name) && fits(term, version))
        })
    }

    /// Real packages in the order of the alternatives, then providers.
    fn candidates(&self, group: &[Term<'a>]) -> Vec<Package<'a>> {
        let real = group.iter().filter_map(|t| self.index.get(t.name).filter(|p| fits(t, Some(p.version))));
        let provided = group
            .iter()
            .flat_map(|t| self.index.providers(t.name).filter(|(_, v)| fits(t, *v)).map(|(p, _)| p));
        let mut found: Vec<Package> = Vec::new();
        for package in real.chain(provided) {
            if found.iter().all(|p| p.name != package.name) {
                found.push(*package);
            }
        }
        found
    }

    fn fights(&self, package: &Package<'a>) -> bool {
        self.selected
            .values()
            .any(|other| fight(self.index, package, other) || fight(self.index, other, package))
    }

    fn missing(&self, from: &str, group: &[Term]) -> anyhow::Error {
        let names: Vec<String> = group.iter().map(show).collect();
        Kind::Unresolvable
            .error(format!("'{from}' needs '{}', which the index does not have", names.join(" | ")))
    }

    /// All relations of all packages, once the set is complete.
    fn check(&self) -> Result<()> {
        let mut names: Vec<&str> = self.selected.keys().copied().collect();
        names.sort_unstable();
        for package in names.iter().map(|name| &self.selected[name]) {
            if let Some(group) = needs(package).find(|group| !self.satisfied(group)) {
                bail!(self.missing(package.name, &group));
            }
            let hit =
                names.iter().map(|name| &self.selected[name]).find(|other| fight(self.index, package, other));
            if let Some(other) = hit {
                let text = format!(
                    "'{} {}' conflicts with '{} {}'",
                    package.name, package.version, other.name, other.version
                );
                bail!(Kind::Unresolvable.error(text));
            }
        }
        Ok(())
    }
}

fn needs<'a>(package: &Package<'a>) -> impl Iterator<Item = Vec<Term<'a>>> {
    ["Pre-Depends", "Depends"].map(|name| package.field(name).unwrap_or("")).into_iter().flat_map(groups)
}

/// A provided name without a version fits only a term without one.
fn fits(term: &Term, version: Option<&str>) -> bool {
    match (term.bound, version) {
        (None, _) => true,
        (Some((relation, bound)), Some(version)) => relation.holds(version, bound),
        (Some(_), None) => false,
    }
}

/// Whether `package` declares that it cannot be beside `other`.
fn fight(index: &Index, package: &Package, other: &Package) -> bool {
    if package.name == other.name {
        return false;
    }
    ["Conflicts", "Breaks"].iter().filter_map(|name| package.field(name)).flat_map(groups).flatten().any(
        |term| {
            (term.name == other.name && fits(&term, Some(other.version)))
                || index.providers(term.name).any(|(p, version)| p.name == other.name && fits(&term, version))
        },
    )
}

/// Whether `package` may have files that `other` has too.
pub fn replaces(package: &Package, other: &Package) -> bool {
    let terms = groups(package.field("Replaces").unwrap_or("")).flatten();
    terms.into_iter().any(|term| term.name == other.name && fits(&term, Some(other.version)))
}

fn show(term: &Term) -> String {
    use crate::version::Relation::*;
    match term.bound {
        None => term.name.to_owned(),
        Some((relation, version)) => {
            let sign = match relation {
                Earlier => "<<",
                EarlierEqual => "<=",
                Exactly => "=",
                LaterEqual => ">=",
                Later => ">>",
            };
            format!("{} ({sign} {version})", term.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "name version field: value; field: value" a line.
    fn resolve(lines: &[&str], include: &[&str]) -> Result<String> {
        let stanza = |line: &&str| {
            let mut words = line.splitn(3, ' ');
            let (name, version) = (words.next().unwrap(), words.next().unwrap());
            let rest = words.next().unwrap_or("").replace("; ", "\n");
            format!("Package: {name}\nVersion: {version}\n{rest}\n")
        };
        let text = lines.iter().map(stanza).collect::<Vec<_>>().join("\n");
        let text = text.replace("\n\n\n", "\n\n");
        let mut index = Index::default();
        index.add(&text, 0);
        let include: Vec<String> = include.iter().map(|s| s.to_string()).collect();
        let found = select(&index, "bookworm", &include)?;
        Ok(found.packages.iter().map(|p| p.name).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn the_set_is_closed_and_base_files_comes_first() {
        let lines = [
            "a 1 Essential: yes; Depends: c (>= 1)",
            "base-files 1 Priority: required; Pre-Depends: b",
            "b 1 ",
            "c 1 ",
            "d 1 ",
            "apt 1 ",
        ];
        assert_eq!(resolve(&lines, &[]).unwrap(), "base-files a apt b c");
        assert_eq!(resolve(&lines, &["d"]).unwrap(), "base-files a apt b c d");
    }

    #[test]
    fn an_alternative_that_comes_anyway_is_enough() {
        let lines = ["a 1 Essential: yes; Depends: x | y, z", "x 1 ", "y 1 ", "z 1 Depends: y"];
        assert_eq!(resolve(&lines, &[]).unwrap(), "a y z");
        let lines =
            ["a 1 Essential: yes; Depends: usrmerge | usr-is-merged", "usrmerge 1 ", "usr-is-merged 1 "];
        assert_eq!(resolve(&lines, &[]).unwrap(), "a usr-is-merged");
    }

    #[test]
    fn virtual_names_are_provided_and_versions_count() {
        let lines =
            ["a 1 Essential: yes; Depends: v, w (>= 2)", "p 1 Provides: v, w", "q 1 Provides: w (= 2)"];
        assert_eq!(resolve(&lines, &[]).unwrap(), "a p q");
        assert_eq!(resolve(&["p 1 Provides: v"], &["v"]).unwrap(), "p");
    }

    #[test]
    fn what_cannot_be_is_said() {
        let told = |lines: &[&str], include: &[&str]| {
            let error = resolve(lines, include).unwrap_err();
            (crate::trouble::kind(&error).unwrap(), error.to_string())
        };
        let (kind, text) = told(&["a 1 Essential: yes; Depends: b (>= 2)", "b 1 "], &[]);
        assert_eq!(
            (kind, text.as_str()),
            (Kind::Unresolvable, "'a' needs 'b (>= 2)', which the index does not have")
        );
        let (kind, text) = told(&["a 1 Essential: yes", "b 1 Breaks: a (<< 2)"], &["b"]);
        assert_eq!((kind, text.as_str()), (Kind::Unresolvable, "'b 1' conflicts with 'a 1'"));
        let (kind, text) = told(&["nginx 1 "], &["ngnix"]);
        assert_eq!((kind, text.as_str()), (Kind::Asked, "no package 'ngnix'"));
    }
}
