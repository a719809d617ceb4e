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
    /// These, and those that will be selected whatever is chosen.
    certain: HashMap<&'a str, Package<'a>>,
    /// By name what they cannot be beside, and whose word that is.
    enemies: HashMap<&'a str, Vec<(&'a str, Term<'a>)>>,
    /// Selected for themselves.
    roots: Vec<Package<'a>>,
}

/// A package whose dependencies are being looked at.
struct Open<'a> {
    package: Package<'a>,
    groups: VecDeque<Vec<Term<'a>>>,
    choices: VecDeque<Vec<Term<'a>>>,
}

impl<'a> Open<'a> {
    fn new(package: Package<'a>) -> Open<'a> {
        Open { package, groups: needs(&package).collect(), choices: VecDeque::new() }
    }
}

pub fn select<'a>(index: &Index<'a>, demand: &Demand) -> Result<Selection<'a>> {
    let mut resolver = Resolver::new(index, demand.arch, demand.exclude);
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
    let mut resolver = Resolver::new(index, arch, &[]);
    for package in index.packages().filter(|p| p.field("Status") == Some("install ok installed")) {
        resolver.add(*package, Reason::Asked);
    }
    resolver.check()
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

impl<'i, 'a> Resolver<'i, 'a> {
    fn new(index: &'i Index<'a>, arch: &'i str, exclude: &'i [String]) -> Self {
        let (selected, certain, enemies) = (HashMap::new(), HashMap::new(), HashMap::new());
        Resolver { index, arch, exclude, selected, certain, enemies, roots: Vec::new() }
    }

    fn add(&mut self, package: Package<'a>, reason: Reason<'a>) {
        if !self.selected.contains_key(package.name) {
            self.select(package, reason);
            self.roots.push(package);
        }
    }

    fn select(&mut self, package: Package<'a>, reason: Reason<'a>) {
        self.selected.insert(package.name, (package, reason));
        self.expect(package);
    }

    /// False when it was certain already.
    fn expect(&mut self, package: Package<'a>) -> bool {
        if self.certain.insert(package.name, package).is_some() {
            return false;
        }
        for term in conflicts(&package).filter(|term| ours(self.arch, term)) {
            self.enemies.entry(term.name).or_default().push((package.name, term));
        }
        true
    }

    /// What the selected packages need without a choice: no choice may fight with it.
    fn foresee(&mut self) {
        let mut open = self.roots.clone();
        while let Some(package) = open.pop() {
            for group in needs(&package) {
                if let [only] = self.candidates(&group)[..] {
                    if self.expect(only) {
                        open.push(only);
                    }
                }
            }
        }
    }

    fn excluded(&self, name: &str) -> bool {
        self.exclude.iter().any(|word| word == name)
    }

    /// All that the selected packages need, as apt finds it: one after the other, each to its end.
    fn close(&mut self) -> Result<()> {
        self.foresee();
        for package in std::mem::take(&mut self.roots) {
            // Not by recursion: an index may have a chain as long as it likes.
            let mut open = vec![Open::new(package)];
            while let Some(last) = open.last_mut() {
                let by = last.package.name;
                match self.next(last)? {
                    Some(needed) => {
                        self.select(needed, Reason::NeededBy(by));
                        open.push(Open::new(needed));
                    }
                    None => drop(open.pop()),
                }
            }
        }
        Ok(())
    }

    /// The next package that one needs. What leaves no choice comes first: by then a choice may be made already.
    fn next(&self, open: &mut Open<'a>) -> Result<Option<Package<'a>>> {
        while let Some(group) = open.groups.pop_front() {
            if self.satisfied(&group) {
                continue;
            }
            match self.candidates(&group)[..] {
                [] => bail!(self.missing(open.package.name, &group)),
                [only] => return Ok(Some(only)),
                _ => open.choices.push_back(group),
            }
        }
        while let Some(group) = open.choices.pop_front() {
            if !self.satisfied(&group) {
                let candidates = self.candidates(&group);
                // A choice that fights with what is certain is the last resort.
                return Ok(candidates.iter().find(|p| !self.fights(p)).or(candidates.first()).copied());
            }
        }
        Ok(None)
    }

    fn satisfied(&self, group: &[Term]) -> bool {
        group.iter().filter(|term| ours(self.arch, term)).any(|term| {
            self.selected.get(term.name).is_some_and(|(p, _)| fits(term, Some(p.version)))
                || self
                    .index
                    .providers(term.name)
                    .any(|(p, version)| self.selected.contains_key(p.name) && fits(term, version))
        })
    }

    /// Real packages in the order of the alternatives, then providers.
    fn candidates(&self, group: &[Term<'a>]) -> Vec<Package<'a>> {
        let ours = || group.iter().filter(|term| ours(self.arch, term));
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
        let hostile = |name: &str, version: Option<&str>| {
            let words = self.enemies.get(name).into_iter().flatten();
            words.filter(|(owner, _)| *owner != package.name).any(|(_, term)| fits(term, version))
        };
        let provided = groups(package.field("Provides").unwrap_or("")).flatten();
        self.victim(package).is_some()
            || hostile(package.name, Some(package.version))
            || provided.into_iter().any(|term| hostile(term.name, term.bound.map(|(_, version)| version)))
    }

    /// What of the certain packages it says that it cannot be beside.
    fn victim(&self, package: &Package<'a>) -> Option<&Package<'a>> {
        let named = |term: &Term| self.certain.get(term.name).filter(|p| fits(term, Some(p.version)));
        let providing = |term: &Term| {
            let mut providers = self.index.providers(term.name).filter(|(_, version)| fits(term, *version));
            providers.find_map(|(p, _)| self.certain.get(p.name).filter(|p| p.name != package.name))
        };
        conflicts(package)
            .filter(|term| ours(self.arch, term))
            .find_map(|term| named(&term).filter(|p| p.name != package.name).or_else(|| providing(&term)))
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

    /// All relations of all packages, once the set is complete.
    fn check(&self) -> Result<()> {
        let mut names: Vec<&str> = self.selected.keys().copied().collect();
        names.sort_unstable();
        for package in names.iter().map(|name| &self.selected[name].0) {
            if let Some(group) = needs(package).find(|group| !self.satisfied(group)) {
                bail!(self.missing(package.name, &group));
            }
            if let Some(other) = self.victim(package) {
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

/// Other architectures' packages are not installed here.
fn ours(arch: &str, term: &Term) -> bool {
    term.arch.is_none_or(|of| of == "any" || of == "native" || of == arch)
}

fn conflicts<'a>(package: &Package<'a>) -> impl Iterator<Item = Term<'a>> + use<'a> {
    ["Conflicts", "Breaks"]
        .map(|name| package.field(name).unwrap_or(""))
        .into_iter()
        .flat_map(groups)
        .flatten()
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
        // Each dependency to its end: what a later one brings is not known yet, but for what fights with it.
        let lines =
            ["a 1 Essential: yes; Depends: b, c", "b 1 Depends: x | y", "c 1 Depends: y", "x 1 ", "y 1 "];
        assert_eq!(resolve(&lines, &[]).unwrap(), "a b c x y");
        let lines = [&lines[..4], &["y 1 Conflicts: x"]].concat();
        assert_eq!(resolve(&lines, &[]).unwrap(), "a b c y");
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
