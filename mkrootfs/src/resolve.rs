//! resolve: which packages belong into the root: those of its variant, what was asked for, and all that these
//! need; then a check that nothing lacks or conflicts (Debian Policy 7).

use std::collections::{HashMap, VecDeque};
use std::fmt;

use anyhow::{Result, bail};

use crate::packages::{Index, Package, Priority, Term, groups};
use crate::trouble::Kind;

/// What a suite needs beside the rule: where an alternative's first name would bring in more.
const SEEDS: [(&str, &str); 1] = [
    // init-system-helpers wants usrmerge | usr-is-merged; the tree is merged from the start.
    ("bookworm", "usr-is-merged"),
];

/// Which packages a root begins with; the words are those of debootstrap and mmdebstrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Essential,
    Apt,
    Minbase,
    Buildd,
    Important,
    Standard,
}

impl Variant {
    pub fn parse(word: &str) -> Option<Variant> {
        Some(match word {
            "essential" => Variant::Essential,
            "apt" => Variant::Apt,
            "minbase" | "required" => Variant::Minbase,
            "buildd" => Variant::Buildd,
            // debootstrap calls what it does without the option "-".
            "important" | "debootstrap" | "-" => Variant::Important,
            "standard" => Variant::Standard,
            _ => return None,
        })
    }

    pub fn word(self) -> &'static str {
        match self {
            Variant::Essential => "essential",
            Variant::Apt => "apt",
            Variant::Minbase => "minbase",
            Variant::Buildd => "buildd",
            Variant::Important => "important",
            Variant::Standard => "standard",
        }
    }

    fn has(self, package: &Package) -> bool {
        let lowest = match self {
            Variant::Essential | Variant::Apt => None,
            Variant::Minbase | Variant::Buildd => Some(Priority::Required),
            Variant::Important => Some(Priority::Important),
            Variant::Standard => Some(Priority::Standard),
        };
        package.essential || lowest.is_some_and(|lowest| package.priority <= lowest)
    }

    /// Names that belong to it whatever their priority.
    fn names(self) -> &'static [&'static str] {
        match self {
            Variant::Essential => &[],
            Variant::Buildd => &["apt", "build-essential"],
            _ => &["apt"],
        }
    }
}

/// What the set is made from.
pub struct Demand<'d> {
    pub codename: &'d str,
    pub arch: &'d str,
    pub variant: Variant,
    pub merged: bool,
    pub include: &'d [String],
    pub exclude: &'d [String],
}

/// Why a package is in the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason<'a> {
    Essential,
    Variant,
    Asked,
    NeededBy(&'a str),
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Essential => f.write_str("essential"),
            Reason::Variant => f.write_str("variant"),
            Reason::Asked => f.write_str("asked"),
            Reason::NeededBy(name) => write!(f, "needed by {name}"),
        }
    }
}

pub struct Selection<'a> {
    /// In a fixed order: base-files first, as its directories' modes are the ones that count.
    pub packages: Vec<Package<'a>>,
    /// Names that nobody asked for, which apt may remove when nothing needs them any more.
    pub automatic: Vec<&'a str>,
    pub reasons: HashMap<&'a str, String>,
}

struct Resolver<'i, 'a> {
    index: &'i Index<'a>,
    arch: &'i str,
    exclude: &'i [String],
    selected: HashMap<&'a str, (Package<'a>, Reason<'a>)>,
    /// Selected, and its dependencies not yet looked at.
    queue: Vec<Package<'a>>,
    /// Choices put off until no package is certain any more: by then one may be made already.
    choices: VecDeque<(&'a str, Vec<Term<'a>>)>,
}

pub fn select<'a>(index: &Index<'a>, demand: &Demand) -> Result<Selection<'a>> {
    let mut resolver = Resolver {
        index,
        arch: demand.arch,
        exclude: demand.exclude,
        selected: HashMap::new(),
        queue: Vec::new(),
        choices: VecDeque::new(),
    };
    let wanted = asked(index, demand.include)?;
    let kept = |name: &str| !demand.exclude.iter().any(|word| word == name);
    if let Some(package) = wanted.iter().find(|package| !kept(package.name)) {
        bail!(Kind::Asked.error(format!("'{}' is asked for and excluded", package.name)));
    }
    for package in index.packages().filter(|p| demand.variant.has(p) && kept(p.name)) {
        let reason = if package.essential { Reason::Essential } else { Reason::Variant };
        resolver.add(*package, reason);
    }
    let seeds = SEEDS.iter().filter(|(suite, _)| *suite == demand.codename && demand.merged);
    let names = seeds.map(|(_, name)| *name).chain(demand.variant.names().iter().copied());
    for package in names.filter(|name| kept(name)).filter_map(|name| index.get(name)) {
        resolver.add(*package, Reason::Variant);
    }
    for package in &wanted {
        resolver.add(*package, Reason::Asked);
    }
    resolver.close()?;
    resolver.check()?;
    let mut chosen: Vec<(Package, Reason)> = resolver.selected.into_values().collect();
    chosen.sort_by_key(|(package, _)| (package.name != "base-files", package.name));
    let needed = |reason: &Reason| matches!(reason, Reason::NeededBy(_));
    Ok(Selection {
        automatic: chosen.iter().filter(|(_, reason)| needed(reason)).map(|(p, _)| p.name).collect(),
        reasons: chosen.iter().map(|(package, reason)| (package.name, reason.to_string())).collect(),
        packages: chosen.into_iter().map(|(package, _)| package).collect(),
    })
}

/// Whether all that is installed has what it needs and nothing that it fights with.
pub fn check_installed(index: &Index, arch: &str) -> Result<()> {
    let installed = index.packages().filter(|p| p.field("Status") == Some("install ok installed"));
    let selected = installed.map(|package| (package.name, (*package, Reason::Asked))).collect();
    let (queue, choices) = (Vec::new(), VecDeque::new());
    Resolver { index, arch, exclude: &[], selected, queue, choices }.check()
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
    /// Who asks for a package that is there already makes it one that was asked for.
    fn add(&mut self, package: Package<'a>, reason: Reason<'a>) {
        match self.selected.get_mut(package.name) {
            Some((_, old)) if reason == Reason::Asked && matches!(old, Reason::NeededBy(_)) => *old = reason,
            Some(_) => {}
            None => {
                self.selected.insert(package.name, (package, reason));
                self.queue.push(package);
            }
        }
    }

    fn excluded(&self, name: &str) -> bool {
        self.exclude.iter().any(|word| word == name)
    }

    /// Other architectures' packages are not installed here.
    fn ours(&self, term: &Term) -> bool {
        term.arch.is_none_or(|arch| arch == "any" || arch == "native" || arch == self.arch)
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
                    self.add(package, Reason::NeededBy(from));
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
                [only] => self.add(only, Reason::NeededBy(package.name)),
                _ => self.choices.push_back((package.name, group)),
            }
        }
        Ok(())
    }

    fn satisfied(&self, group: &[Term]) -> bool {
        group.iter().filter(|term| self.ours(term)).any(|term| {
            self.selected.get(term.name).is_some_and(|(p, _)| fits(term, Some(p.version)))
                || self
                    .index
                    .providers(term.name)
                    .any(|(p, version)| self.selected.contains_key(p.name) && fits(term, version))
        })
    }

    /// Real packages in the order of the alternatives, then providers.
    fn candidates(&self, group: &[Term<'a>]) -> Vec<Package<'a>> {
        let ours = || group.iter().filter(|term| self.ours(term));
        let real = ours().filter_map(|t| self.index.get(t.name).filter(|p| fits(t, Some(p.version))));
        let provided =
            ours().flat_map(|t| self.index.providers(t.name).filter(|(_, v)| fits(t, *v)).map(|(p, _)| p));
        let mut found: Vec<Package> = Vec::new();
        for package in real.chain(provided) {
            if !self.excluded(package.name) && found.iter().all(|p| p.name != package.name) {
                found.push(*package);
            }
        }
        found
    }

    fn fights(&self, package: &Package<'a>) -> bool {
        self.selected.values().any(|(other, _)| self.fight(package, other) || self.fight(other, package))
    }

    fn missing(&self, from: &str, group: &[Term]) -> anyhow::Error {
        let names: Vec<String> = group.iter().map(show).collect();
        let why = if group.iter().any(|term| self.excluded(term.name)) {
            "which is excluded"
        } else {
            "which the index does not have"
        };
        Kind::Unresolvable.error(format!("'{from}' needs '{}', {why}", names.join(" | ")))
    }

    /// Whether `package` declares that it cannot be beside `other`.
    fn fight(&self, package: &Package, other: &Package) -> bool {
        if package.name == other.name {
            return false;
        }
        let hits = |term: &Term| {
            let mut providers = self.index.providers(term.name);
            (term.name == other.name && fits(term, Some(other.version)))
                || providers.any(|(p, version)| p.name == other.name && fits(term, version))
        };
        let fields = ["Conflicts", "Breaks"].iter().filter_map(|name| package.field(name));
        fields.flat_map(groups).flatten().any(|term| self.ours(&term) && hits(&term))
    }

    /// All relations of all packages, once the set is complete.
    fn check(&self) -> Result<()> {
        let mut names: Vec<&str> = self.selected.keys().copied().collect();
        names.sort_unstable();
        for package in names.iter().map(|name| &self.selected[name].0) {
            if let Some(group) = needs(package).find(|group| !self.satisfied(group)) {
                bail!(self.missing(package.name, &group));
            }
            let hit =
                names.iter().map(|name| &self.selected[name].0).find(|other| self.fight(package, other));
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

/// Whether `package` may have files that `other` has too.
pub fn replaces(package: &Package, other: &Package) -> bool {
    let terms = groups(package.field("Replaces").unwrap_or("")).flatten();
    terms.into_iter().any(|term| term.name == other.name && fits(&term, Some(other.version)))
}

fn show(term: &Term) -> String {
    use crate::version::Relation::*;
    let name = term.arch.map_or(term.name.to_owned(), |arch| format!("{}:{arch}", term.name));
    match term.bound {
        None => name,
        Some((relation, version)) => {
            let sign = match relation {
                Earlier => "<<",
                EarlierEqual => "<=",
                Exactly => "=",
                LaterEqual => ">=",
                Later => ">>",
            };
            format!("{name} ({sign} {version})")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "name version field: value; field: value" a line.
    fn resolve_as(lines: &[&str], demand: &Demand) -> Result<String> {
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
        let found = select(&index, demand)?;
        let show = |p: &Package| match found.reasons[p.name].strip_prefix("needed by ") {
            Some(by) => format!("{}<{by}", p.name),
            None => p.name.to_owned(),
        };
        Ok(found.packages.iter().map(show).collect::<Vec<_>>().join(" "))
    }

    fn demand<'d>(include: &'d [String], exclude: &'d [String]) -> Demand<'d> {
        Demand {
            codename: "bookworm",
            arch: "amd64",
            variant: Variant::Minbase,
            merged: true,
            include,
            exclude,
        }
    }

    fn resolve(lines: &[&str], include: &[&str]) -> Result<String> {
        let include: Vec<String> = include.iter().map(|s| s.to_string()).collect();
        let found = resolve_as(lines, &demand(&include, &[]))?;
        Ok(found.split(' ').map(|word| word.split('<').next().unwrap()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn each_variant_has_its_packages_and_each_package_its_reason() {
        let lines = [
            "e 1 Essential: yes; Depends: l",
            "l 1 ",
            "r 1 Priority: required",
            "i 1 Priority: important",
            "s 1 Priority: standard",
            "apt 1 Depends: l",
            "build-essential 1 Depends: gcc",
            "gcc 1 ",
        ];
        for (variant, set) in [
            (Variant::Essential, "e l<e"),
            (Variant::Apt, "apt e l<e"),
            (Variant::Minbase, "apt e l<e r"),
            (Variant::Important, "apt e i l<e r"),
            (Variant::Standard, "apt e i l<e r s"),
            (Variant::Buildd, "apt build-essential e gcc<build-essential l<e r"),
        ] {
            let found = resolve_as(&lines, &Demand { variant, ..demand(&[], &[]) }).unwrap();
            assert_eq!(found.replace("l<apt", "l<e"), set);
            assert_eq!(Variant::parse(variant.word()), Some(variant));
        }
        let exclude = ["i".to_owned(), "apt".to_owned()];
        let found = Demand { variant: Variant::Important, ..demand(&[], &exclude) };
        assert_eq!(resolve_as(&lines, &found).unwrap(), "e l<e r");
        let exclude = ["l".to_owned()];
        let error = resolve_as(&lines, &demand(&[], &exclude)).unwrap_err();
        assert!(error.to_string().ends_with("needs 'l', which is excluded"), "{error}");
    }

    #[test]
    fn other_architectures_do_not_count() {
        let lines = ["a 1 Essential: yes; Depends: x:i386 | y:any", "x 1 ", "y 1 "];
        assert_eq!(resolve(&lines, &[]).unwrap(), "a y");
        let error = resolve(&["a 1 Essential: yes; Depends: x:i386", "x 1 "], &[]).unwrap_err();
        assert_eq!(error.to_string(), "'a' needs 'x:i386', which the index does not have");
        let lines = ["a 1 Essential: yes; Conflicts: x:i386", "x 1 Essential: yes"];
        assert_eq!(resolve(&lines, &[]).unwrap(), "a x");
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
