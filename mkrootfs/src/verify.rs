//! verify: dpkg's data base against the files of a root; the lines are those of dpkg -V (dpkg(1)).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstatat};
use unshare::fail;
use unshare::rooted;

use crate::digest;
use crate::packages::{Index, field};
use crate::resolve;
use crate::tree::Tree;
use crate::trouble::Kind;

const ADMIN: &str = "var/lib/dpkg";

/// Prints what is wrong; false when anything is.
pub fn run(dir: &Path) -> Result<bool> {
    let tree = Tree::open(dir).map_err(|error| Kind::Asked.because("cannot verify", error))?;
    let found = problems(&tree)?;
    fail::print(&found.iter().map(|line| format!("{line}\n")).collect::<String>())?;
    Ok(found.is_empty())
}

fn problems(tree: &Tree) -> Result<Vec<String>> {
    let status = tree.read(&format!("{ADMIN}/status"));
    let status = status.ok_or_else(|| Kind::Asked.error(format!("there is no '/{ADMIN}/status'")))?;
    let status = String::from_utf8_lossy(&status).into_owned();
    let mut index = Index::default();
    index.add(&status, 0);
    let mut found = Vec::new();
    for package in index.packages() {
        let state = package.field("Status").unwrap_or("");
        if state != "install ok installed" {
            found.push(format!("{}: {state}", package.name));
        }
    }
    let native = index.get("dpkg").and_then(|dpkg| dpkg.field("Architecture")).unwrap_or("");
    if let Err(error) = resolve::check_installed(&index, native) {
        found.push(error.to_string());
    }
    let conffiles = conffiles(&index);
    let diverted = diversions(tree);
    for name in info_files(tree)? {
        let Some(text) = tree.read(&format!("{ADMIN}/info/{name}")) else { continue };
        let text = String::from_utf8_lossy(&text);
        let (stem, end) = name.rsplit_once('.').unwrap_or((&name, ""));
        let package = stem.split(':').next().unwrap_or(stem);
        // Where a file of this package really lies.
        let place = |path: &str| match diverted.get(path) {
            Some((to, by)) if by != package => to.clone(),
            _ => path.to_owned(),
        };
        match end {
            "list" => missing(tree, text.lines().map(&place), &conffiles, &mut found),
            "md5sums" => {
                // A file that another package has replaced is in that one's list, and no longer in this.
                let list = tree.read(&format!("{ADMIN}/info/{stem}.list")).unwrap_or_default();
                let list = String::from_utf8_lossy(&list);
                let own: HashSet<&str> = list.lines().collect();
                let sums = text.lines().filter_map(|line| line.split_once("  "));
                let sums = sums.filter(|(_, path)| own.contains(format!("/{path}").as_str()));
                // Of a configuration file dpkg's own sum counts.
                let sums = sums.filter(|(_, path)| !conffiles.contains_key(&format!("/{path}")));
                let sums = sums.map(|(sum, path)| (place(&format!("/{path}")), sum.to_owned()));
                changed(tree, sums, ' ', &mut found)?;
            }
            _ => {}
        }
    }
    changed(tree, conffiles.iter().map(|(path, sum)| (path.clone(), sum.clone())), 'c', &mut found)?;
    found.sort_by(|a, b| a.get(12..).cmp(&b.get(12..)));
    found.dedup();
    Ok(found)
}

/// Configuration files with the sums that they had when their packages came.
fn conffiles(index: &Index) -> HashMap<String, String> {
    let mut found = HashMap::new();
    for package in index.packages() {
        for line in package.field("Conffiles").unwrap_or("").lines() {
            let mut words = line.split_whitespace();
            // A third word: "obsolete", "remove-on-upgrade".
            if let (Some(path), Some(sum), None) = (words.next(), words.next(), words.next()) {
                found.insert(path.to_owned(), sum.to_owned());
            }
        }
    }
    found
}

/// By path: where the file was moved, and the package that has its own there instead (dpkg-divert(1)).
fn diversions(tree: &Tree) -> HashMap<String, (String, String)> {
    let text = tree.read(&format!("{ADMIN}/diversions")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let triples = lines.chunks_exact(3);
    triples.map(|t| (t[0].to_owned(), (t[1].to_owned(), t[2].to_owned()))).collect()
}

fn info_files(tree: &Tree) -> Result<Vec<String>> {
    let dir = tree.dir(Path::new(ADMIN).join("info").as_path());
    let mut list = nix::dir::Dir::from_fd(dir.with_context(|| format!("cannot open '/{ADMIN}/info'"))?)?;
    let mut names = Vec::new();
    for entry in list.iter() {
        names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

fn missing(
    tree: &Tree,
    paths: impl Iterator<Item = String>,
    conffiles: &HashMap<String, String>,
    found: &mut Vec<String>,
) {
    let mut gone = HashSet::new();
    for path in paths.filter(|path| path != "/.") {
        let at = Path::new(&path);
        let dir = tree.dir(at.parent().unwrap_or(Path::new("")).strip_prefix("/").unwrap_or(Path::new("")));
        let there = dir.is_ok_and(|dir| {
            at.file_name()
                .is_some_and(|name| fstatat(dir.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok())
        });
        if !there && gone.insert(path.clone()) {
            let mark = if conffiles.contains_key(&path) { 'c' } else { ' ' };
            found.push(format!("missing   {mark} {path}"));
        }
    }
}

fn changed(
    tree: &Tree,
    sums: impl Iterator<Item = (String, String)>,
    mark: char,
    found: &mut Vec<String>,
) -> Result<()> {
    for (path, sum) in sums {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        let Ok(fd) = rooted::open(tree.fd(), Path::new(&path), flags, Mode::empty()) else { continue };
        let now = md5(File::from(fd)).with_context(|| format!("cannot read '{path}'"))?;
        if now != sum {
            found.push(format!("??5?????? {mark} {path}"));
        }
    }
    Ok(())
}

fn md5(mut file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    if file.metadata()?.is_file() {
        file.read_to_end(&mut bytes)?;
    }
    Ok(digest::md5(&bytes))
}

/// Control files of a package by name.
type Control = BTreeMap<String, Vec<u8>>;

/// The packages of a root that were unpacked and not configured yet, from dpkg's data base.
pub fn unpacked(tree: &Tree, status: &str) -> Result<Vec<(String, Control)>> {
    let names = info_files(tree)?;
    let mut index = Index::default();
    index.add(status, 0);
    let waiting = index.packages().filter(|p| p.field("Status") == Some("install ok unpacked"));
    let control = |name: &str| {
        let of = |file: &&String| {
            let stem = file.rsplit_once('.').map_or("", |(stem, _)| stem);
            stem == name || stem.split_once(':').is_some_and(|(stem, _)| stem == name)
        };
        let files = names.iter().filter(of).filter_map(|file| {
            let end = file.rsplit_once('.')?.1;
            (end != "list").then_some((end.to_owned(), tree.read(&format!("{ADMIN}/info/{file}"))?))
        });
        files.collect::<Control>()
    };
    Ok(waiting
        .map(|package| {
            let mut files = control(package.name);
            let text: String = package
                .text
                .lines()
                .filter(|line| !line.starts_with("Status:"))
                .map(|l| format!("{l}\n"))
                .collect();
            files.insert("control".into(), text.into_bytes());
            (package.name.to_owned(), files)
        })
        .collect())
}

/// The whole text of dpkg's status file.
pub fn status(tree: &Tree) -> Result<String> {
    let text = tree.read(&format!("{ADMIN}/status"));
    let text = text.ok_or_else(|| Kind::Asked.error(format!("there is no '/{ADMIN}/status'")))?;
    String::from_utf8(text).map_err(|e| Kind::Asked.because(format!("'/{ADMIN}/status' is not text"), e))
}

/// The architecture that dpkg itself is of there.
pub fn architecture(status: &str) -> Option<&str> {
    let stanza = status.split("\n\n").find(|stanza| field(stanza, "Package") == Some("dpkg"))?;
    field(stanza, "Architecture")
}
