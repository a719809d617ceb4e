//! bootstrap: the story of a new root, from the mirror's index to configured packages.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Error, Result, bail};
use unshare::fail;

use crate::archive::{self, Access, Suite, Text};
use crate::base::{self, Base, Bases, Draft};
use crate::cache::Cache;
use crate::cli::Options;
use crate::configure;
use crate::dpkg::{self, Installed};
use crate::fetch::Fetcher;
use crate::hook;
use crate::host;
use crate::install::Installer;
use crate::job::Job;
use crate::keyring;
use crate::lock;
use crate::machine_id;
use crate::packages::Index;
use crate::power::Power;
use crate::progress::{Progress, size};
use crate::resolve::{self, Demand, Selection};
use crate::suite;
use crate::target::Form;
use crate::tree::{self, Tree};
use crate::trouble::Kind;
use crate::verify;

const POLICY: &[u8] = b"#!/bin/sh\nexit 101\n";

pub fn make(job: &Job, root: &Path, scratch: &Path) -> Result<()> {
    let started = Instant::now();
    let progress = Progress::new(&job.options);
    let cache = Cache::open(job.options.cache.as_deref())?;
    let fetcher = fetcher(job)?;
    let disk = File::open(root).with_context(|| format!("cannot open '{}'", root.display()))?;
    let site = Site { job, root, cache: &cache, fetcher: &fetcher, progress: &progress, started, disk };
    if let Some((text, path)) = read_lock(job)? {
        let (suites, selection) = lock::honour(&text, path, job)?;
        let done = site.make(&suites, &selection, &[])?;
        return site.finish(done, None);
    }
    progress.step(&format!("{} ({}) from {}", job.suite, job.arch, job.sources[0].mirrors[0]));
    let by_signature = job.options.check_gpg && job.options.release_sha256.is_empty();
    if by_signature && keyring::keyrings(&job.options, &suite::facts(&job.suite)).are_built_in() {
        progress.step("keyring: built in (the host has none)");
    }
    let access = Access { job, fetcher: &fetcher, cache: &cache, scratch };
    let mut suites = access.suites()?;
    progress.detail(&format!("the Release files are right, {:.1?}", started.elapsed()));
    let mut request = request_key(job, &suites);
    // A lock that is to be written needs the set itself.
    let bases = site.bases().filter(|_| job.options.lock.is_none());
    if let Some(base) = bases.and_then(|bases| bases.asked_before(&request)) {
        let done = site.copy(base)?;
        return site.finish(done, None);
    }
    let texts = access.indexes(&mut suites)?;
    request = request_key(job, &suites);
    let index = index(&texts);
    progress.detail(&format!("{} packages in the index, {:.1?}", index.len(), started.elapsed()));
    let selection = select(job, &index, &suites)?;
    // Its room is wanted for what is unpacked.
    drop(index);
    let done = site.make(&suites, &selection, &texts)?;
    site.finish(done, Some(&request))?;
    match &job.options.lock {
        Some(path) => lock::write(path, job, &suites, &selection),
        None => Ok(()),
    }
}

/// The set that would be installed.
pub fn with_selection(job: &Job, scratch: &Path, show: impl FnOnce(&Selection) -> Result<()>) -> Result<()> {
    if let Some((text, path)) = read_lock(job)? {
        return show(&lock::honour(&text, path, job)?.1);
    }
    let cache = Cache::open(job.options.cache.as_deref())?;
    let fetcher = fetcher(job)?;
    let access = Access { job, fetcher: &fetcher, cache: &cache, scratch };
    let mut suites = access.suites()?;
    let texts = access.indexes(&mut suites)?;
    let index = index(&texts);
    let selection = select(job, &index, &suites)?;
    archive::keep_indexes(&cache, &texts);
    show(&selection)
}

fn read_lock(job: &Job) -> Result<Option<(String, &Path)>> {
    let Some(path) = &job.options.lock else { return Ok(None) };
    Ok(lock::read(path)?.map(|text| (text, path.as_path())))
}

fn fetcher(job: &Job) -> Result<Fetcher> {
    let https = job.sources.iter().flat_map(|source| &source.mirrors).any(|url| url.starts_with("https:"));
    Fetcher::new(https, job.options.jobs, job.options.offline)
}

fn index(texts: &[Text]) -> Index<'_> {
    let mut index = Index::default();
    texts.iter().for_each(|text| index.add(&text.text, text.suite));
    index
}

fn select<'a>(job: &Job, index: &Index<'a>, suites: &[Suite]) -> Result<Selection<'a>> {
    let demand = Demand {
        codename: &suites[0].release.codename,
        arch: &job.arch,
        variant: job.options.variant,
        merged: merged(job, suites),
        include: &job.options.include,
        exclude: &job.options.exclude,
    };
    resolve::select(index, &demand)
}

fn merged(job: &Job, suites: &[Suite]) -> bool {
    job.options.merged.unwrap_or_else(|| suite::facts(&suites[0].release.codename).merged)
}

/// Where a root is made, and with what.
struct Site<'s> {
    job: &'s Job,
    root: &'s Path,
    cache: &'s Cache,
    fetcher: &'s Fetcher,
    progress: &'s Progress,
    started: Instant,
    /// The root, opened before anything is written: such a descriptor learns of every error of the disk since then
    /// (syncfs(2)).
    disk: File,
}

/// A root that lacks the last touches.
struct Done {
    what: String,
    base: Kept,
}

/// The base that has the same in it.
enum Kept {
    No,
    Before(Base),
    Now(Draft),
}

impl Site<'_> {
    /// What a hook does to a tree is not known: such a root is neither a base nor made from one.
    fn bases(&self) -> Option<Bases> {
        let options = &self.job.options;
        let hooks = [&options.setup_hooks, &options.extract_hooks, &options.customize_hooks];
        let can = self.job.private && !options.foreign && hooks.iter().all(|list| list.is_empty());
        can.then(|| Bases::open(self.cache))
    }

    fn copy(&self, base: Base) -> Result<Done> {
        base.copy_to(self.root)?;
        Ok(Done { what: "a copy of the same set in the cache".into(), base: Kept::Before(base) })
    }

    fn tell(&self, what: &str) {
        self.progress.detail(&format!("{what}, {:.1?}", self.started.elapsed()));
    }

    /// The set as a root: a copy of a base, or made from packages.
    fn make(&self, suites: &[Suite], selection: &Selection, texts: &[Text]) -> Result<Done> {
        let (bases, key) = (self.bases(), set_key(self.job, suites, selection));
        if let Some(base) = bases.as_ref().and_then(|bases| bases.find(&key)) {
            return self.copy(base);
        }
        check_space(selection, self.root)?;
        if !self.job.options.foreign {
            configure::check(self.root)?;
        }
        self.install(suites, selection, texts)?;
        let base = bases.map_or(Ok(Kept::No), |bases| self.draft(&bases, &key)).unwrap_or_else(|error| {
            self.no_base(&error);
            Kept::No
        });
        Ok(Done { what: format!("{} packages", selection.packages.len()), base })
    }

    fn draft(&self, bases: &Bases, key: &str) -> Result<Kept> {
        if let Some(draft) = bases.draft(key, self.root)? {
            return Ok(Kept::Now(draft));
        }
        self.progress.detail("it has secrets of its own: no base is kept");
        Ok(Kept::No)
    }

    /// The next run is slower without; this one is done.
    fn no_base(&self, error: &Error) {
        self.progress.detail(&format!("no base is kept: {}", fail::told(error)));
    }

    /// The last touches; then the disk is waited for, for the root and its base at once. From then on the base
    /// answers `request`.
    fn finish(&self, done: Done, request: Option<&str>) -> Result<()> {
        let (job, tree) = (self.job, Tree::open(self.root)?);
        if job.tidy {
            tidy(&tree)?;
        }
        if job.power != Power::Root && !matches!(job.form, Form::Tar(_)) {
            // A file that stands for a device would take what is meant for nowhere.
            tree::NODES.iter().try_for_each(|(path, ..)| tree.remove(path))?;
        }
        // What is packed is waited for as the file that it becomes.
        let waits = job.form == Form::Directory;
        if waits {
            self.sync()?;
        }
        let kept = match done.base {
            Kept::No => Ok(()),
            Kept::Before(base) => base.remember(request),
            Kept::Now(draft) => draft.keep(waits.then_some(&self.disk), request),
        };
        kept.unwrap_or_else(|error| self.no_base(&error));
        self.progress.step(&format!("{} in {:.1?}", done.what, self.started.elapsed()));
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        nix::unistd::syncfs(&self.disk).context("cannot write the tree to the disk")
    }

    fn install(&self, suites: &[Suite], selection: &Selection, texts: &[Text]) -> Result<()> {
        let (job, options) = (self.job, &self.job.options);
        let _mask = crate::sys::Umask::set(0o022);
        let tree = Tree::open(self.root)?;
        tree::lay_out(&tree, &job.arch, merged(job, suites))?;
        hook::run("setup-hook", &options.setup_hooks, self.root, self.progress)?;
        let (fetcher, cache, progress) = (self.fetcher, self.cache, self.progress);
        let installer = Installer { fetcher, cache, progress, jobs: options.jobs };
        let packages = installer.install(&selection.packages, suites, &tree, texts)?;
        self.tell("unpacked");
        dpkg::write(&tree, &packages)?;
        write_files(job, suites, &tree, selection, &packages)?;
        hook::run("extract-hook", &options.extract_hooks, self.root, self.progress)?;
        if options.foreign {
            self.progress.step("unpacked; the second stage is: mkrootfs configure");
            return Ok(());
        }
        // What is unpacked goes to the disk while the scripts run: the wait at the end is for their files only.
        let meanwhile = || if job.form == Form::Directory { self.sync() } else { Ok(()) };
        configure::configure(self.root, &packages, job.power == Power::Root, self.progress, meanwhile)?;
        self.tell("configured");
        clean(&tree)?;
        verify_all(&tree, packages.len())?;
        hook::run("customize-hook", &options.customize_hooks, self.root, self.progress)
    }
}

/// All that can be known before an index is read.
fn request_key(job: &Job, suites: &[Suite]) -> String {
    let mut lines = choices(job, suites);
    let mut include = job.options.include.clone();
    include.sort();
    lines.extend(include);
    lines.push(format!("without {}", job.options.exclude.join(" ")));
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
    let shape = format!("{} {} {}", job.options.variant.word(), merged(job, suites), job.power.word());
    vec![env!("CARGO_PKG_VERSION").into(), job.arch.clone(), shape, epoch, sources_list(job, suites)]
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
    if merged(job, suites) {
        tree::prune(tree, &job.arch)?;
    }
    tree::make_devices(tree, job.power == Power::Root)?;
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

/// Logs, copies of what was before, caches with times in them, and the machine's name for itself.
fn tidy(tree: &Tree) -> Result<()> {
    const FILES: [&str; 9] = [
        "var/log/dpkg.log",
        "var/log/alternatives.log",
        "var/log/bootstrap.log",
        "var/log/apt/history.log",
        "var/log/apt/term.log",
        "var/cache/ldconfig/aux-cache",
        "var/lib/dpkg/status-old",
        "var/cache/debconf/config.dat-old",
        "var/cache/debconf/templates.dat-old",
    ];
    for file in FILES.iter().filter(|file| tree.read(file).is_some()) {
        tree.remove(file)?;
    }
    machine_id::forget(tree)
}

/// What --foreign has left out, on a machine that can run it.
pub fn second_stage(root: &Path, options: &Options) -> Result<()> {
    let started = Instant::now();
    let progress = Progress::new(options);
    let tree = Tree::open(root).map_err(|error| Kind::Asked.because("cannot configure", error))?;
    let status = verify::status(&tree)?;
    host::arch(verify::architecture(&status), false)?;
    configure::check(root)?;
    let waiting = verify::unpacked(&tree, &status)?;
    let mut index = Index::default();
    index.add(&status, 0);
    let packages: Vec<Installed> = waiting
        .into_iter()
        .filter_map(|(name, control)| {
            let package = *index.get(&name)?;
            Some(Installed { package, control, unpacked: Default::default() })
        })
        .collect();
    let count = packages.len();
    // Where there are none, the host's are mounted for the scripts, and need places.
    let devices = tree.is_device("dev/null");
    if !devices {
        tree.make_dir("dev")?;
        tree::NODES.iter().try_for_each(|(path, mode, _)| tree.write(path, b"", *mode))?;
    }
    configure::configure(root, &packages, devices, &progress, || Ok(()))?;
    if !devices {
        tree::NODES.iter().try_for_each(|(path, ..)| tree.remove(path))?;
    }
    clean(&tree)?;
    verify_all(&tree, index.len())?;
    nix::unistd::syncfs(tree.fd()).context("cannot write the tree to the disk")?;
    progress.step(&format!("{count} packages configured in {:.1?}", started.elapsed()));
    Ok(())
}

/// The last word: dpkg's own data base says that all is installed.
fn verify_all(tree: &Tree, count: usize) -> Result<()> {
    let status = tree.read("var/lib/dpkg/status").context("cannot read '/var/lib/dpkg/status'")?;
    let status = String::from_utf8_lossy(&status);
    let installed = status.lines().filter(|line| *line == "Status: install ok installed").count();
    if installed != count {
        bail!("only {installed} of {count} packages are configured");
    }
    Ok(())
}
