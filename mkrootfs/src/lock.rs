//! lock: a set of packages as a file, so that the same root can be made again whatever the archive has by then.
//!
//! The form is that of an index (deb822(5)): a stanza about what was asked for, then one a package with its
//! digest. Whoever can write the file decides what is installed, so no Release file is asked for.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::archive::Suite;
use crate::job::Job;
use crate::packages::{Index, field};
use crate::release::Release;
use crate::resolve::Selection;
use crate::trouble::Kind;

/// What of a package's stanza decides what is made of it.
const FIELDS: [&str; 12] = [
    "Package",
    "Version",
    "Architecture",
    "Multi-Arch",
    "Essential",
    "Priority",
    "Section",
    "Installed-Size",
    "Replaces",
    "Filename",
    "Size",
    "SHA256",
];

/// The file's text; None when there is none yet.
pub fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => text.map(Some).with_context(|| format!("cannot read the lock '{}'", path.display())),
    }
}

pub fn write(path: &Path, job: &Job, suites: &[Suite], selection: &Selection) -> Result<()> {
    let mut text = header(job);
    let names: Vec<&str> = suites.iter().map(|suite| suite.name.as_str()).collect();
    let _ = writeln!(text, "Codename: {}\nSuites: {}", suites[0].release.codename, names.join(" "));
    for package in &selection.packages {
        text += "\n";
        for (name, value) in FIELDS.iter().filter_map(|name| Some((name, package.field(name)?))) {
            let _ = writeln!(text, "{name}: {value}");
        }
        let reason = selection.reasons.get(package.name).map_or("", String::as_str);
        let _ = writeln!(text, "Suite: {}\nReason: {reason}", suites[package.suite].name);
    }
    let failed = || format!("cannot write the lock '{}'", path.display());
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", std::process::id()));
    fs::write(&aside, text).and_then(|()| fs::rename(&aside, path)).with_context(failed)
}

/// What was asked for, in words that can be compared.
fn header(job: &Job) -> String {
    let sorted = |words: &[String]| {
        let mut words = words.to_vec();
        words.sort();
        words.dedup();
        words.join(" ")
    };
    let o = &job.options;
    format!(
        "Lock: 1\nAsked: {}\nArchitecture: {}\nVariant: {}\nInclude: {}\nExclude: {}\nComponents: {}\n",
        job.suite,
        job.arch,
        o.variant.word(),
        sorted(&o.include),
        sorted(&o.exclude),
        sorted(&o.components)
    )
}

/// The suites and the set that `text` says, if it is about what is asked for now.
pub fn honour<'a>(text: &'a str, path: &Path, job: &Job) -> Result<(Vec<Suite>, Selection<'a>)> {
    let refuse = |why: String| {
        let text = format!("cannot use the lock '{}'", path.display());
        Kind::Asked.hinted(text, why, "ask for the same, or remove the file to have it written anew")
    };
    let (head, rest) = text.split_once("\n\n").ok_or_else(|| refuse("it names no package".into()))?;
    for (line, wanted) in head.lines().zip(header(job).lines()) {
        if line.trim_end() != wanted.trim_end() {
            bail!(refuse(format!("it is about '{line}', asked for is '{wanted}'")));
        }
    }
    let codename = field(head, "Codename").unwrap_or_default();
    let mut suites = Vec::new();
    for name in field(head, "Suites").unwrap_or_default().split_whitespace() {
        let source = job.sources.iter().find(|source| source.suite == name);
        let source = source.ok_or_else(|| refuse(format!("it has packages of the suite '{name}'")))?;
        let release = Release::parse(&format!("Codename: {codename}\n"));
        let mirrors = source.mirrors.clone();
        suites.push(Suite { name: name.to_owned(), mirrors, release, digest: String::new() });
    }
    let selection = selection(rest, &suites).ok_or_else(|| refuse("it is damaged".into()))?;
    Ok((suites, selection))
}

fn selection<'a>(text: &'a str, suites: &[Suite]) -> Option<Selection<'a>> {
    let mut index = Index::default();
    index.add(text, 0);
    let mut selection =
        Selection { packages: Vec::new(), automatic: Vec::new(), reasons: Default::default() };
    for package in index.packages() {
        let mut package = *package;
        let from = package.field("Suite")?;
        package.suite = suites.iter().position(|suite| suite.name == from)?;
        let reason = package.field("Reason")?;
        if reason.starts_with("needed by ") {
            selection.automatic.push(package.name);
        }
        selection.reasons.insert(package.name, reason.to_owned());
        selection.packages.push(package);
    }
    (!selection.packages.is_empty()).then_some(selection)
}
