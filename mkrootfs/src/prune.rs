//! prune: what lies in the cache, and what of it goes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use unshare::fail;

use crate::base;
use crate::cache::Cache;
use crate::cli::{CacheAction, Options};
use crate::progress::size;
use crate::staging;

/// A thing in the cache that is kept or goes as a whole.
struct Item {
    kind: &'static str,
    path: PathBuf,
    bytes: u64,
    /// Since it was used last.
    age: Duration,
}

pub fn run(action: CacheAction, options: &Options) -> Result<()> {
    let cache = Cache::open(options.cache.as_deref())?;
    match action {
        CacheAction::Path => fail::print(&format!("{}\n", cache.dir().display())),
        CacheAction::List => fail::print(&list(&cache)?),
        CacheAction::Prune => prune(&cache, Duration::from_secs(options.older * 86400)),
    }
}

/// A line an item: kind, bytes, days since it was used, path.
fn list(cache: &Cache) -> Result<String> {
    let line = |item: &Item| {
        format!("{}\t{}\t{}\t{}\n", item.kind, item.bytes, item.age.as_secs() / 86400, item.path.display())
    };
    Ok(items(cache)?.iter().map(line).collect())
}

fn prune(cache: &Cache, older: Duration) -> Result<()> {
    let (mut count, mut bytes) = (0, 0);
    for item in items(cache)?.iter().filter(|item| item.age >= older) {
        if remove(item)? {
            count += 1;
            bytes += item.bytes;
        }
    }
    // Requests whose answer is gone.
    for link in entries(&cache.dir().join("request"))? {
        if fs::metadata(&link).is_err() {
            ignore_missing(fs::remove_file(&link)).with_context(|| cannot_remove(&link))?;
        }
    }
    fail::print(&format!("{count} removed, {}\n", size(bytes)))
}

/// False for what somebody works with at this moment.
fn remove(item: &Item) -> Result<bool> {
    match item.kind {
        "base" => {
            let Ok(Some(_lock)) = base::is_free(&item.path) else { return Ok(false) };
            // Out of the way first: half a base must not be found.
            let aside = item.path.with_extension(format!("partial-{}", std::process::id()));
            fs::rename(&item.path, &aside).with_context(|| cannot_remove(&item.path))?;
            ignore_missing(fs::remove_file(used_mark(&item.path)))
                .with_context(|| cannot_remove(&item.path))?;
            staging::remove_tree(&aside).map(|()| true)
        }
        "partial" => {
            let Ok(Some(_lock)) = base::is_free(&item.path) else { return Ok(false) };
            ignore_missing(fs::remove_file(&item.path))
                .with_context(|| cannot_remove(&item.path))
                .map(|()| true)
        }
        // Who reads it now has it open; who comes later downloads it.
        _ => ignore_missing(fs::remove_file(&item.path))
            .with_context(|| cannot_remove(&item.path))
            .map(|()| true),
    }
}

fn items(cache: &Cache) -> Result<Vec<Item>> {
    let dir = cache.dir();
    let mut items = Vec::new();
    for path in
        entries(&dir.join("base"))?.into_iter().filter(|path| path.extension().is_none_or(|e| e != "used"))
    {
        let used = if used_mark(&path).exists() { used_mark(&path) } else { path.clone() };
        items.push(Item { kind: "base", bytes: tree_size(&path)?, age: age(&used), path });
    }
    let folders = entries(&dir.join("sha256"))?;
    let files = folders.iter().map(|folder| entries(folder)).collect::<Result<Vec<_>>>()?.concat();
    for (kind, paths) in [
        ("file", files),
        ("partial", entries(&dir.join("partial"))?),
        ("release", entries(&dir.join("release"))?),
    ] {
        for path in paths {
            let bytes = fs::metadata(&path).map_or(0, |data| data.len());
            items.push(Item { kind, bytes, age: age(&path), path });
        }
    }
    Ok(items)
}

fn used_mark(base: &Path) -> PathBuf {
    base.with_extension("used")
}

fn age(path: &Path) -> Duration {
    let used = fs::symlink_metadata(path).and_then(|data| data.modified());
    used.ok().and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default()
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        list => {
            let list = list.with_context(|| format!("cannot read '{}'", dir.display()))?;
            let mut paths: Vec<PathBuf> = list.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            Ok(paths)
        }
    }
}

/// What the files take; a directory that vanishes meanwhile counts as nothing.
fn tree_size(top: &Path) -> Result<u64> {
    let mut todo = vec![top.to_owned()];
    let mut bytes = 0;
    while let Some(dir) = todo.pop() {
        for path in entries(&dir)? {
            match fs::symlink_metadata(&path) {
                Ok(data) if data.is_dir() => todo.push(path),
                Ok(data) if data.is_file() => bytes += data.len(),
                _ => {}
            }
        }
    }
    Ok(bytes)
}

fn ignore_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn cannot_remove(path: &Path) -> String {
    format!("cannot remove '{}'", path.display())
}
