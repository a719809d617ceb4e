//! bootstrap: the story of a new root, from the mirror's index to configured packages.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail};

use crate::cache::Cache;
use crate::cli::Options;
use crate::configure;
use crate::deb::{self, Deb};
use crate::digest;
use crate::dpkg::{self, Installed};
use crate::fetch::{Fetcher, Wanted};
use crate::packages::{Index, Package};
use crate::progress::{Progress, size};
use crate::release::{self, Release, Signed};
use crate::resolve::{self, Selection};
use crate::tree::{self, Tree};
use crate::trouble::Kind;
use crate::unpack;

/// What is asked for, checked.
pub struct Job {
    pub suite: String,
    pub mirror: String,
    pub arch: String,
    pub options: Options,
}

const POLICY: &[u8] = b"#!/bin/sh\nexit 101\n";

pub fn make(job: &Job, root: &Path, scratch: &Path) -> Result<()> {
    let started = Instant::now();
    let progress = Progress::new(&job.options);
    let cache = Cache::open(job.options.cache.as_deref())?;
    let fetcher = Fetcher::new(&job.mirror, job.options.jobs, job.options.offline)?;
    progress.step(&format!("{} ({}) from {}", job.suite, job.arch, job.mirror));
    let release = fetch_release(job, &fetcher, &cache, scratch)?;
    progress.detail(&format!("the Release file is right, {:.1?}", started.elapsed()));
    let texts = fetch_indexes(job, &release, &fetcher, &cache)?;
    let mut index = Index::default();
    texts.iter().for_each(|text| index.add(&text.0));
    progress.detail(&format!("{} packages in the index, {:.1?}", index.len(), started.elapsed()));
    let selection = resolve::select(&index, &release.codename, &job.options.include)?;
    check_space(&selection, root)?;
    sys_umask();
    let tree = Tree::open(root)?;
    tree::lay_out(&tree, &job.arch)?;
    let packages = install(job, &selection, &tree, &fetcher, &cache, &texts, &progress)?;
    progress.detail(&format!("unpacked, {:.1?}", started.elapsed()));
    dpkg::write(&tree, &packages)?;
    write_files(job, &tree, &selection, &packages)?;
    configure::configure(root, &packages, &progress)?;
    progress.detail(&format!("configured, {:.1?}", started.elapsed()));
    clean(&tree)?;
    verify(&tree, packages.len())?;
    nix::unistd::syncfs(tree.fd()).context("cannot write the tree to the disk")?;
    progress.step(&format!("{} packages in {:.1?}", packages.len(), started.elapsed()));
    Ok(())
}

fn sys_umask() {
    crate::sys::umask(0o022);
}

fn fetch_release(job: &Job, fetcher: &Fetcher, cache: &Cache, scratch: &Path) -> Result<Release> {
    let base = format!("{}/dists/{}", job.mirror, job.suite);
    let url = format!("{base}/InRelease");
    let signed = if job.options.offline && !job.mirror.starts_with("file:") {
        let text = cache.read_release(&url);
        let text = text.ok_or_else(|| {
            Kind::Network.error(format!("'{url}' is not in the cache, and --offline was given"))
        })?;
        Signed { text, signature: cache.read_release(&format!("{base}/Release.gpg")) }
    } else {
        ask_release(job, fetcher, &base)?
    };
    let text = release::verified(&signed, &job.options, scratch)?;
    let release = Release::parse(&text);
    release.check(&job.suite, &job.arch, &job.options)?;
    if !job.options.offline {
        cache.put_release(&url, &signed.text)?;
        if let Some(signature) = &signed.signature {
            cache.put_release(&format!("{base}/Release.gpg"), signature)?;
        }
    }
    Ok(release)
}

/// InRelease, else Release with Release.gpg beside it.
fn ask_release(job: &Job, fetcher: &Fetcher, base: &str) -> Result<Signed> {
    if let Some(text) = fetcher.small(&format!("{base}/InRelease"))? {
        return Ok(Signed { text, signature: None });
    }
    let Some(text) = fetcher.small(&format!("{base}/Release"))? else {
        let (text, why) =
            (format!("no suite '{}' on this mirror", job.suite), format!("there is no '{base}/InRelease'"));
        let hint = "suites are bullseye, bookworm, trixie, forky and sid, as far as the mirror has them";
        return Err(Kind::Asked.hinted(text, why, hint));
    };
    let signature = fetcher.small(&format!("{base}/Release.gpg"))?;
    if signature.is_none() && job.options.check_gpg && job.options.release_sha256.is_none() {
        let hint = "pin it with --release-sha256 HEX, or trust the mirror with --no-check-gpg";
        return Err(Kind::Trust.hinted(format!("cannot trust '{base}/Release'"), "it is not signed", hint));
    }
    Ok(Signed { text, signature })
}

/// An index, and where to keep it if it was unpacked just now.
struct Text(String, Option<String>);

fn fetch_indexes(job: &Job, release: &Release, fetcher: &Fetcher, cache: &Cache) -> Result<Vec<Text>> {
    job.options
        .components
        .iter()
        .map(|component| {
            let path = format!("{component}/binary-{}/Packages", job.arch);
            fetch_index(job, release, fetcher, cache, &path)
        })
        .collect()
}

/// The unpacked index from the cache, as the signed Release has its digest too; else the smallest packed one.
fn fetch_index(job: &Job, release: &Release, fetcher: &Fetcher, cache: &Cache, path: &str) -> Result<Text> {
    let text = |bytes: Vec<u8>, keep| {
        let text = String::from_utf8(bytes)
            .map_err(|e| Kind::BadPackage.because(format!("'{path}' is not text"), e));
        text.map(|text| Text(text, keep))
    };
    if let Some(bytes) = release.file(path).and_then(|(sha, _)| cache.read(sha)) {
        return text(bytes, None);
    }
    let forms = [".xz", ".gz", ""].map(|end| format!("{path}{end}"));
    let base = format!("{}/dists/{}", job.mirror, job.suite);
    let mut last = None;
    for form in &forms {
        let Some((sha, length)) = release.file(form) else { continue };
        let plain = format!("{base}/{form}");
        let hashed = form.rsplit_once('/').map(|(dir, _)| format!("{base}/{dir}/by-hash/SHA256/{sha}"));
        let urls = hashed.filter(|_| release.by_hash()).into_iter().chain([plain]).collect();
        let wanted = Wanted { urls, sha256: sha.clone(), size: *length, wrong: Kind::Trust };
        match fetcher.fetch(cache, &wanted) {
            Ok(()) => {
                let packed =
                    cache.read(sha).with_context(|| format!("'{form}' has vanished from the cache"))?;
                let name =
                    form.rsplit('/').next().filter(|name| name.contains('.')).unwrap_or("Packages.tar");
                let bytes = read_all(deb::unpacker(name, &packed)?, form)?;
                let keep =
                    release.file(path).map(|(sha, _)| sha.clone()).filter(|_| !form.ends_with("Packages"));
                return text(bytes, keep);
            }
            Err(error) => last = last.or(Some(error)),
        }
    }
    Err(last.unwrap_or_else(|| Kind::Asked.error(format!("the Release file names no '{path}'"))))
}

fn read_all(mut reader: impl std::io::Read, name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(64 << 20);
    reader
        .read_to_end(&mut bytes)
        .map_err(|e| Kind::BadPackage.because(format!("'{name}' is damaged"), e))?;
    Ok(bytes)
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

fn wanted(job: &Job, package: &Package) -> Result<Wanted> {
    let get = |name: &str| {
        package
            .field(name)
            .ok_or_else(|| Kind::BadPackage.error(format!("the index has no {name} of '{}'", package.name)))
    };
    let (path, sha256) = (get("Filename")?, get("SHA256")?);
    let length = get("Size")?.parse().ok();
    let sound = sha256.len() == 64
        && sha256.bytes().all(|c| c.is_ascii_hexdigit())
        && tree::inner_path(path.as_bytes()).is_some();
    match length {
        Some(size) if sound => {
            let urls = vec![format!("{}/{}", job.mirror, path.replace('%', "%25").replace('+', "%2B"))];
            let urls =
                if job.mirror.starts_with("file:") { vec![format!("{}/{path}", job.mirror)] } else { urls };
            Ok(Wanted { urls, sha256: sha256.to_ascii_lowercase(), size, wrong: Kind::BadPackage })
        }
        _ => Err(Kind::BadPackage.error(format!("the index has no sound address of '{}'", package.name))),
    }
}

/// Downloads and unpacks side by side: what has come is unpacked while the rest is on its way.
fn install<'a>(
    job: &Job,
    selection: &Selection<'a>,
    tree: &Tree,
    fetcher: &Fetcher,
    cache: &Cache,
    texts: &[Text],
    progress: &Progress,
) -> Result<Vec<Installed<'a>>> {
    let wanted: Vec<Wanted> =
        selection.packages.iter().map(|package| wanted(job, package)).collect::<Result<_>>()?;
    let count = wanted.len();
    let missing: u64 = wanted.iter().filter(|w| !cache.has(&w.sha256, w.size)).map(|w| w.size).sum();
    progress.step(&format!("{count} packages, {} to download", size(missing)));
    // The largest first, so that no thread is left with a large one at the end; what is here before what is not.
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|at| {
        (!cache.has(&wanted[*at].sha256, wanted[*at].size), std::cmp::Reverse(wanted[*at].size))
    });
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (ready, to_unpack) = mpsc::channel::<usize>();
    let to_unpack = Mutex::new(to_unpack);
    let (done, results) = mpsc::channel::<Result<(usize, Installed<'a>)>>();
    let already = fetcher.received.load(Ordering::Relaxed);
    thread::scope(|scope| {
        for _ in 0..job.options.jobs.min(count) {
            let (ready, done) = (ready.clone(), done.clone());
            let (next, stop, order, wanted) = (&next, &stop, &order, &wanted);
            scope.spawn(move || {
                while let Some(at) = order.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    match fetcher.fetch(cache, &wanted[at]) {
                        Ok(()) => drop(ready.send(at)),
                        Err(error) => {
                            let name = selection.packages[at].name;
                            let _ = done.send(Err(within(&format!("package '{name}'"), error)));
                        }
                    }
                }
            });
        }
        drop(ready);
        let threads = thread::available_parallelism().map_or(2, usize::from).min(8);
        for _ in 0..threads {
            let (done, stop, to_unpack, wanted) = (done.clone(), &stop, &to_unpack, &wanted);
            scope.spawn(move || {
                loop {
                    let at = match to_unpack.lock().expect("no thread panics while it holds it").recv() {
                        Ok(at) if !stop.load(Ordering::Relaxed) => at,
                        _ => return,
                    };
                    let result = install_one(&selection.packages[at], &wanted[at], cache, tree);
                    let _ = done.send(result.map(|installed| (at, installed)));
                }
            });
        }
        drop(done);
        scope.spawn(|| keep_indexes(cache, texts));
        collect(results, count, &stop, |so_far| {
            let received = fetcher.received.load(Ordering::Relaxed) - already;
            progress.state(&format!("unpacked {so_far} of {count}, {} of {}", size(received), size(missing)));
        })
    })
    .and_then(|packages| settle(tree, packages, &wanted, cache))
}

/// Gathers the results in the packages' order; the first failure stops the rest.
fn collect<'a>(
    results: mpsc::Receiver<Result<(usize, Installed<'a>)>>,
    count: usize,
    stop: &AtomicBool,
    mut tell: impl FnMut(usize),
) -> Result<Vec<Installed<'a>>> {
    let mut installed: Vec<Option<Installed>> = (0..count).map(|_| None).collect();
    let (mut so_far, mut failure) = (0, None);
    loop {
        match results.recv_timeout(Duration::from_millis(100)) {
            Ok(Ok((at, package))) => {
                installed[at] = Some(package);
                so_far += 1;
            }
            Ok(Err(error)) => {
                // The others end their file: it stays in the cache.
                stop.store(true, Ordering::Relaxed);
                failure = failure.or(Some(error));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        tell(so_far);
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(installed.into_iter().flatten().collect()),
    }
}

fn install_one<'a>(
    package: &Package<'a>,
    wanted: &Wanted,
    cache: &Cache,
    tree: &Tree,
) -> Result<Installed<'a>> {
    let name = package.name;
    let bytes = cache
        .read(&wanted.sha256)
        .with_context(|| format!("package '{name}' in the cache was damaged: try again"))?;
    let open = || -> Result<Installed<'a>> {
        let deb = Deb::parse(&bytes).map_err(|e| Kind::BadPackage.because("it is damaged", e))?;
        let unpacked = unpack::unpack(tree, &deb)?;
        Ok(Installed { package: *package, control: deb.control, unpacked })
    };
    open().map_err(|error| within(&format!("package '{name}'"), error))
}

/// Says where an error belongs and leaves its kind, which decides the exit status, as it is.
fn within(place: &str, error: Error) -> Error {
    error.context(place.to_owned())
}

/// What two packages both bring, then the directories.
fn settle<'a>(
    tree: &Tree,
    mut packages: Vec<Installed<'a>>,
    wanted: &[Wanted],
    cache: &Cache,
) -> Result<Vec<Installed<'a>>> {
    let taken: Vec<(usize, Vec<std::path::PathBuf>)> = packages
        .iter_mut()
        .enumerate()
        .map(|(at, p)| (at, std::mem::take(&mut p.unpacked.taken)))
        .filter(|(_, paths)| !paths.is_empty())
        .collect();
    let mut again: HashMap<usize, HashSet<std::path::PathBuf>> = HashMap::new();
    for (late, path) in
        taken.into_iter().flat_map(|(at, paths)| paths.into_iter().map(move |path| (at, path)))
    {
        let line = format!("/{}\n", path.display());
        let has =
            |p: &Installed| p.unpacked.list.split_inclusive(|c| *c == b'\n').any(|l| l == line.as_bytes());
        let early = (0..packages.len()).find(|at| *at != late && has(&packages[*at]));
        let early = early.with_context(|| {
            format!("package '{}' has '{}' twice", packages[late].package.name, line.trim())
        })?;
        let replaces = |a: usize, b: usize| resolve::replaces(&packages[a].package, &packages[b].package);
        let loser = match (replaces(late, early), replaces(early, late)) {
            (true, _) => {
                again.entry(late).or_default().insert(path);
                early
            }
            (false, true) => late,
            (false, false) => {
                let (one, two) = (packages[early].package.name, packages[late].package.name);
                bail!(
                    Kind::BadPackage
                        .error(format!("packages '{one}' and '{two}' both bring '{}'", line.trim()))
                );
            }
        };
        let unpacked = &mut packages[loser].unpacked;
        unpacked.list = unpacked
            .list
            .split_inclusive(|c| *c == b'\n')
            .filter(|l| *l != line.as_bytes())
            .flatten()
            .copied()
            .collect();
    }
    for (at, only) in again {
        let bytes = cache.read(&wanted[at].sha256).context("a package has vanished from the cache")?;
        unpack::replace(tree, &Deb::parse(&bytes)?, &only)?;
    }
    unpack::settle_directories(tree, packages.iter().map(|p| &p.unpacked))?;
    Ok(packages)
}

/// The next run reads 50 MB instead of unpacking 9.
fn keep_indexes(cache: &Cache, texts: &[Text]) {
    for Text(text, keep) in texts {
        if let Some(sha) = keep.as_ref().filter(|sha| digest::sha256(text.as_bytes()) == **sha) {
            // A cache that is full costs the next run time, not this one its success.
            let _ = cache.put(sha, text.as_bytes());
        }
    }
}

/// What belongs to no package.
fn write_files(job: &Job, tree: &Tree, selection: &Selection, packages: &[Installed]) -> Result<()> {
    tree::prune(tree, &job.arch)?;
    tree::make_devices(tree)?;
    tree.make_dir("etc/apt")?;
    let source = format!("deb {} {} {}\n", job.mirror, job.suite, job.options.components.join(" "));
    tree.write("etc/apt/sources.list", source.as_bytes(), 0o644)?;
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
