//! bootstrap: the story of a new root, from the mirror's index to configured packages.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::archive::{Access, Suite};
use crate::base::{self, Base, Bases};
use crate::cache::Cache;
use crate::cli::Options;
use crate::configure;
use crate::dpkg::{self, Installed};
use crate::fetch::Fetcher;
use crate::install::Installer;
use crate::mirror::Source;
use crate::packages::Index;
use crate::progress::{Progress, size};
use crate::resolve::{self, Selection};
use crate::suite;
use crate::tree::{self, Tree};

/// What is asked for, checked.
pub struct Job {
    pub suite: String,
    pub sources: Vec<Source>,
    pub arch: String,
    pub options: Options,
}

const POLICY: &[u8] = b"#!/bin/sh\nexit 101\n";

pub fn make(job: &Job, root: &Path, scratch: &Path) -> Result<()> {
    let started = Instant::now();
    let progress = Progress::new(&job.options);
    let cache = Cache::open(job.options.cache.as_deref())?;
    let https = job.sources.iter().flat_map(|source| &source.mirrors).any(|url| url.starts_with("https:"));
    let fetcher = Fetcher::new(https, job.options.jobs, job.options.offline)?;
    progress.step(&format!("{} ({}) from {}", job.suite, job.arch, job.sources[0].mirrors[0]));
    let access = Access { job, fetcher: &fetcher, cache: &cache, scratch };
    let suites = access.suites()?;
    progress.detail(&format!("the Release files are right, {:.1?}", started.elapsed()));
    let bases = if job.options.base { Bases::open(&cache)? } else { None };
    let request = request_key(job, &suites);
    if let Some(base) = bases.as_ref().and_then(|bases| bases.asked_before(&request)) {
        return from_base(&base, root, &progress, started);
    }
    let texts = access.indexes(&suites)?;
    let mut index = Index::default();
    texts.iter().for_each(|text| index.add(&text.text, text.suite));
    progress.detail(&format!("{} packages in the index, {:.1?}", index.len(), started.elapsed()));
    let selection = resolve::select(&index, &suites[0].release.codename, &job.options.include)?;
    let key = set_key(job, &suites, &selection);
    if let Some((bases, base)) = bases.as_ref().and_then(|bases| Some((bases, bases.find(&key)?))) {
        bases.remember(&request, &key)?;
        return from_base(&base, root, &progress, started);
    }
    check_space(&selection, root)?;
    crate::sys::umask(0o022);
    let tree = Tree::open(root)?;
    let merged = suite::facts(&suites[0].release.codename).merged;
    tree::lay_out(&tree, &job.arch, merged)?;
    let installer =
        Installer { fetcher: &fetcher, cache: &cache, progress: &progress, jobs: job.options.jobs };
    let packages = installer.install(&selection.packages, &suites, &tree, &texts)?;
    progress.detail(&format!("unpacked, {:.1?}", started.elapsed()));
    dpkg::write(&tree, &packages)?;
    write_files(job, &suites, &tree, &selection, &packages)?;
    configure::configure(root, &packages, &progress)?;
    progress.detail(&format!("configured, {:.1?}", started.elapsed()));
    clean(&tree)?;
    verify(&tree, packages.len())?;
    if let Some(bases) = &bases {
        // The next run will be slower without; this one is done.
        match bases.keep(&key, root) {
            Ok(true) => bases.remember(&request, &key)?,
            Ok(false) => progress.detail("it has secrets of its own: no base is kept"),
            Err(error) => progress.detail(&format!("no base is kept: {error:#}")),
        }
    }
    nix::unistd::syncfs(tree.fd()).context("cannot write the tree to the disk")?;
    progress.step(&format!("{} packages in {:.1?}", packages.len(), started.elapsed()));
    Ok(())
}

fn from_base(base: &Base, root: &Path, progress: &Progress, started: Instant) -> Result<()> {
    base.copy_to(root)?;
    progress.step(&format!("a copy of the same set in the cache, in {:.1?}", started.elapsed()));
    Ok(())
}

/// All that can be known before an index is read.
fn request_key(job: &Job, suites: &[Suite]) -> String {
    let mut lines = choices(job, suites);
    let mut include = job.options.include.clone();
    include.sort();
    lines.extend(include);
    lines.extend(suites.iter().map(|suite| suite.digest.clone()));
    base::key(lines.iter().map(String::as_str))
}

/// The very packages, and what is made beside them.
fn set_key(job: &Job, suites: &[Suite], selection: &Selection) -> String {
    let mut lines = choices(job, suites);
    let one = |p: &crate::packages::Package| {
        format!("{}={}={}", p.name, p.version, p.field("SHA256").unwrap_or_default())
    };
    lines.extend(selection.packages.iter().map(one));
    lines.push(selection.automatic.join(" "));
    base::key(lines.iter().map(String::as_str))
}

fn choices(job: &Job, suites: &[Suite]) -> Vec<String> {
    let epoch = std::env::var("SOURCE_DATE_EPOCH").unwrap_or_default();
    vec![env!("CARGO_PKG_VERSION").into(), job.arch.clone(), epoch, sources_list(job, suites)]
}

/// apt's list of where the packages came from, so that updates come from there too.
fn sources_list(job: &Job, suites: &[Suite]) -> String {
    let components = job.options.components.join(" ");
    let line = |suite: &Suite| format!("deb {} {} {components}\n", suite.mirrors[0], suite.name);
    suites.iter().map(line).collect()
}

/// Before anything is downloaded: will it fit?
fn check_space(selection: &Selection, root: &Path) -> Result<()> {
    const RESERVE: u64 = 32 << 20;
    let installed: u64 =
        selection.packages.iter().filter_map(|p| p.field("Installed-Size")?.parse::<u64>().ok()).sum();
    let need = installed * 1024 + RESERVE;
    let disk = nix::sys::statvfs::statvfs(root).context("cannot ask for the free space")?;
    let free = disk.blocks_available() as u64 * disk.fragment_size() as u64;
    if free < need {
        let text =
            format!("not enough space for '{}': {} needed, {} free", root.display(), size(need), size(free));
        bail!(text);
    }
    Ok(())
}

/// What belongs to no package.
fn write_files(
    job: &Job,
    suites: &[Suite],
    tree: &Tree,
    selection: &Selection,
    packages: &[Installed],
) -> Result<()> {
    if suite::facts(&suites[0].release.codename).merged {
        tree::prune(tree, &job.arch)?;
    }
    tree::make_devices(tree)?;
    tree.make_dir("etc/apt")?;
    tree.write("etc/apt/sources.list", sources_list(job, suites).as_bytes(), 0o644)?;
    let marks = dpkg::automatic_marks(&selection.automatic, packages, &job.arch);
    if !marks.is_empty() {
        tree.make_dir("var/lib/apt")?;
        tree.write("var/lib/apt/extended_states", marks.as_bytes(), 0o644)?;
    }
    tree.write("etc/fstab", b"# UNCONFIGURED FSTAB FOR BASE SYSTEM\n", 0o644)?;
    tree.make_dir("usr/sbin")?;
    tree.write("usr/sbin/policy-rc.d", POLICY, 0o755)
}

fn clean(tree: &Tree) -> Result<()> {
    if tree.read("usr/sbin/policy-rc.d").as_deref() == Some(POLICY) {
        tree.remove("usr/sbin/policy-rc.d")?;
    }
    Ok(())
}

/// The last word: dpkg's own data base says that all is installed.
fn verify(tree: &Tree, count: usize) -> Result<()> {
    let status = tree.read("var/lib/dpkg/status").context("cannot read '/var/lib/dpkg/status'")?;
    let status = String::from_utf8_lossy(&status);
    let installed = status.lines().filter(|line| *line == "Status: install ok installed").count();
    if installed != count {
        bail!("only {installed} of {count} packages are configured");
    }
    Ok(())
}
