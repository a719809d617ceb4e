//! diff: what two roots differ in, without what differs between any two of the same packages: logs, caches, the
//! machine's names, dates.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstatat};
use unshare::fail;

use crate::digest;
use crate::sys;
use crate::tree::Tree;
use crate::trouble::Kind;

/// Not looked at: what a name here begins with.
const IGNORED: [&str; 22] = [
    "etc/apt/sources.list",
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
    "run/",
    "var/cache/apt/",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/apt/extended_states",
    "var/lib/apt/lists/",
    "var/lib/dbus/machine-id",
    "var/lib/dpkg/arch",
    "var/lib/dpkg/available",
    "var/lib/dpkg/cmethopt",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/status-old",
    "var/log/alternatives.log",
    "var/log/apt/",
    "var/log/bootstrap.log",
    "var/log/dpkg.log",
];

/// Facts of an entry: what, and as text.
type Facts = Vec<(&'static str, String)>;

/// Prints a line a difference; false when there is one.
pub fn run(one: &Path, two: &Path) -> Result<bool> {
    let (a, b) = (facts(one)?, facts(two)?);
    let paths: BTreeSet<&PathBuf> = a.keys().chain(b.keys()).collect();
    let mut text = String::new();
    for path in paths {
        let shown = path.display();
        match (a.get(path), b.get(path)) {
            (Some(_), None) => text += &format!("only in {}: /{shown}\n", one.display()),
            (None, Some(_)) => text += &format!("only in {}: /{shown}\n", two.display()),
            (Some(a), Some(b)) if a != b => text += &format!("differs: /{shown}: {}\n", differences(a, b)),
            _ => {}
        }
    }
    fail::print(&text)?;
    Ok(text.is_empty())
}

fn differences(a: &Facts, b: &Facts) -> String {
    let changed = |(what, old): &(&str, String)| {
        let new = b.iter().find(|(name, _)| name == what).map_or("none", |(_, new)| new);
        (old != new).then(|| match *what {
            "content" | "attributes" => (*what).to_owned(),
            _ => format!("{what} {old}, {new}"),
        })
    };
    let mut words: Vec<String> = a.iter().filter_map(changed).collect();
    let more = b.iter().filter(|(what, _)| a.iter().all(|(name, _)| name != what));
    words.extend(more.map(|(what, new)| format!("{what} none, {new}")));
    words.join("; ")
}

fn facts(root: &Path) -> Result<BTreeMap<PathBuf, Facts>> {
    let tree = Tree::open(root).map_err(|error| Kind::Asked.because("cannot compare", error))?;
    let shipped = shipped(&tree);
    let mut found = BTreeMap::new();
    let mut todo = vec![(tree.dir(Path::new(""))?, PathBuf::new())];
    while let Some((dir, path)) = todo.pop() {
        let mut list = Dir::from_fd(dir.try_clone()?)?;
        for entry in list.iter() {
            let entry = entry.with_context(|| format!("cannot read '/{}'", path.display()))?;
            let name = std::os::unix::ffi::OsStrExt::from_bytes(entry.file_name().to_bytes());
            let name: &std::ffi::OsStr = name;
            if name == "." || name == ".." {
                continue;
            }
            let path = path.join(name);
            let read = || -> Result<(Facts, Option<OwnedFd>)> {
                let stat = fstatat(&dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                let open =
                    |flags| openat(&dir, name, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty());
                let file = match stat.st_mode & libc::S_IFMT {
                    libc::S_IFDIR => Some(open(OFlag::O_RDONLY | OFlag::O_DIRECTORY)?),
                    libc::S_IFREG => Some(open(OFlag::O_RDONLY | OFlag::O_NONBLOCK)?),
                    _ => None,
                };
                let target = || Ok(readlinkat(&dir, name)?.to_string_lossy().into_owned());
                let facts = of(&path, &stat, file.as_ref(), target, shipped.contains(&path))?;
                let is_dir = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
                Ok((facts, file.filter(|_| is_dir)))
            };
            let (facts, below) = read().with_context(|| format!("cannot look at '/{}'", path.display()))?;
            if let Some(fd) = below {
                todo.push((fd, path.clone()));
            }
            let text = path.to_string_lossy();
            if !IGNORED.iter().any(|ignored| text.starts_with(ignored)) && !text.ends_with("/partial") {
                found.insert(path, facts);
            }
        }
    }
    Ok(found)
}

fn of(
    path: &Path,
    stat: &FileStat,
    file: Option<&OwnedFd>,
    target: impl FnOnce() -> Result<String>,
    shipped: bool,
) -> Result<Facts> {
    let kind = stat.st_mode & libc::S_IFMT;
    let mut facts: Facts =
        vec![("mode", format!("{:o}", stat.st_mode)), ("owner", format!("{}:{}", stat.st_uid, stat.st_gid))];
    match kind {
        libc::S_IFDIR => {}
        libc::S_IFLNK => facts.push(("target", target()?)),
        libc::S_IFREG => {
            let mut bytes = Vec::new();
            let file = file.expect("a regular file was opened");
            File::from(file.try_clone()?).read_to_end(&mut bytes)?;
            facts.push(("content", digest::sha256(&normal(path, bytes))));
        }
        _ => facts.push(("device", stat.st_rdev.to_string())),
    }
    if kind != libc::S_IFDIR {
        facts.push(("links", stat.st_nlink.to_string()));
        if shipped {
            facts.push(("time", stat.st_mtime.to_string()));
        }
    }
    if let Some(file) = file {
        let mut found = match sys::xattrs(file.as_fd()) {
            Err(Errno::EOPNOTSUPP) => Vec::new(),
            found => found?,
        };
        found.sort();
        facts.push(("attributes", format!("{found:?}")));
    }
    Ok(facts)
}

/// Some files are lists whose order means nothing, and one has the day of its making in it.
fn normal(path: &Path, bytes: Vec<u8>) -> Vec<u8> {
    let name = path.to_string_lossy();
    let sorted = |separator: &str| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut parts: Vec<&str> = text.split(separator).collect();
        parts.sort_unstable();
        parts.join(separator).into_bytes()
    };
    match &*name {
        "etc/shells" | "var/lib/dpkg/triggers/File" => sorted("\n"),
        "var/lib/dpkg/status" => sorted("\n\n"),
        "etc/shadow" | "etc/shadow-" => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let line = |line: &str| {
                let fields: Vec<&str> = line.split(':').collect();
                let kept = fields.iter().enumerate().filter(|(at, _)| *at != 2).map(|(_, field)| *field);
                kept.collect::<Vec<_>>().join(":") + "\n"
            };
            text.lines().map(line).collect::<String>().into_bytes()
        }
        _ => bytes,
    }
}

/// The paths that packages bring, by the names that they have in a root whose /usr is merged.
fn shipped(tree: &Tree) -> HashSet<PathBuf> {
    /// Links that are there before the package that has them, or that its scripts make anew.
    const MADE: [&str; 6] =
        ["bin/sh", "usr/bin/sh", "usr/share/man/man1/sh.1.gz", "var/lock", "var/run", "."];
    let Ok(fd) = tree.dir(Path::new("var/lib/dpkg/info")) else { return HashSet::new() };
    let Ok(mut list) = Dir::from_fd(fd) else { return HashSet::new() };
    let names: Vec<String> =
        list.iter().flatten().filter_map(|entry| Some(entry.file_name().to_str().ok()?.to_owned())).collect();
    let merged = |path: &str| {
        let top = path.split('/').next().unwrap_or("");
        path.contains('/') && tree.is_link(top)
    };
    let mut found = HashSet::new();
    for name in names.iter().filter(|name| name.ends_with(".list")) {
        let text = tree.read(&format!("var/lib/dpkg/info/{name}")).unwrap_or_default();
        for line in String::from_utf8_lossy(&text).lines() {
            let path = line.trim_start_matches('/');
            if MADE.contains(&path) || (!path.contains('/') && tree.is_link(path)) {
                continue;
            }
            found.insert(if merged(path) { Path::new("usr").join(path) } else { path.into() });
        }
    }
    found
}
