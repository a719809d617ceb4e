//! install: downloads and unpacks side by side; what two packages both bring is settled at the end.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use unshare::fail::hint;

use crate::archive::{self, Suite, Text};
use crate::cache::Cache;
use crate::deb::Deb;
use crate::dpkg::Installed;
use crate::fetch::{Fetcher, Wanted};
use crate::packages::Package;
use crate::progress::{Progress, size};
use crate::resolve;
use crate::tree::{self, Tree};
use crate::trouble::{self, Kind};
use crate::unpack;

/// Where packages come from, and where they go.
pub struct Installer<'e> {
    pub fetcher: &'e Fetcher,
    pub cache: &'e Cache,
    pub progress: &'e Progress,
    /// Downloads at a time.
    pub jobs: usize,
}

/// What the index says about a package's file.
pub fn wanted(suites: &[Suite], package: &Package) -> Result<Wanted> {
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
            let mirrors = suites.get(package.suite).map_or(&[][..], |suite| &suite.mirrors);
            let urls = mirrors.iter().map(|mirror| address(mirror, path)).collect();
            Ok(Wanted { urls, sha256: sha256.to_ascii_lowercase(), size, wrong: Kind::BadPackage })
        }
        _ => Err(Kind::BadPackage.error(format!("the index has no sound address of '{}'", package.name))),
    }
}

fn address(mirror: &str, path: &str) -> String {
    match mirror.starts_with("file:") {
        true => format!("{mirror}/{path}"),
        false => format!("{mirror}/{}", path.replace('%', "%25").replace('+', "%2B")),
    }
}

/// One package on its way into the tree.
struct Item<'a> {
    package: Package<'a>,
    wanted: Wanted,
}

type Done<'a> = mpsc::Sender<Result<(usize, Installed<'a>)>>;

/// The threads' common list, in the order in which its items are to be fetched.
struct Work<'w, 'a> {
    items: &'w [Item<'a>],
    order: Vec<usize>,
    next: AtomicUsize,
    stop: AtomicBool,
}

impl Installer<'_> {
    /// Every package of the list into the tree, in the order of the list as far as one can see it there.
    pub fn install<'a>(
        &self,
        packages: &[Package<'a>],
        suites: &[Suite],
        tree: &Tree,
        texts: &[Text],
    ) -> Result<Vec<Installed<'a>>> {
        let item = |package: &Package<'a>| Ok(Item { package: *package, wanted: wanted(suites, package)? });
        let items: Vec<Item> = packages.iter().map(item).collect::<Result<_>>()?;
        let here = |item: &Item| self.cache.has(&item.wanted.sha256, item.wanted.size);
        let missing: u64 = items.iter().filter(|item| !here(item)).map(|item| item.wanted.size).sum();
        let count = items.len();
        self.progress.step(&format!("{count} packages, {} to download", size(missing)));
        // The largest first, so that no thread is left with a large one at the end; what is here before what
        // is not.
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|at| (!here(&items[*at]), std::cmp::Reverse(items[*at].wanted.size)));
        let work = Work { items: &items, order, next: AtomicUsize::new(0), stop: AtomicBool::new(false) };
        let (ready, to_unpack) = mpsc::channel::<usize>();
        let to_unpack = Mutex::new(to_unpack);
        let (done, results) = mpsc::channel();
        let already = self.fetcher.received.load(Ordering::Relaxed);
        let installed = thread::scope(|scope| {
            for _ in 0..self.jobs.min(count) {
                let (ready, done, work) = (ready.clone(), done.clone(), &work);
                scope.spawn(move || self.download(work, &ready, &done));
            }
            drop(ready);
            for _ in 0..thread::available_parallelism().map_or(2, usize::from).min(8) {
                let (done, work, to_unpack) = (done.clone(), &work, &to_unpack);
                scope.spawn(move || self.unpack(work, to_unpack, &done, tree));
            }
            drop(done);
            scope.spawn(|| archive::keep_indexes(self.cache, texts));
            collect(results, count, &work.stop, |so_far| {
                let received = self.fetcher.received.load(Ordering::Relaxed) - already;
                let text = format!("unpacked {so_far} of {count}, {} of {}", size(received), size(missing));
                self.progress.state(&text);
            })
        })?;
        settle(tree, installed, &items, self.cache)
    }

    fn download(&self, work: &Work, ready: &mpsc::Sender<usize>, done: &Done) {
        while let Some(at) = work.order.get(work.next.fetch_add(1, Ordering::Relaxed)).copied() {
            if work.stop.load(Ordering::Relaxed) {
                return;
            }
            let item = &work.items[at];
            match self.fetcher.fetch(self.cache, &item.wanted) {
                Ok(()) => drop(ready.send(at)),
                Err(error) => {
                    let wrong = trouble::kind(&error) == Some(Kind::BadPackage);
                    let error = within(&format!("package '{}'", item.package.name), error);
                    let remedy =
                        "name another mirror behind this one: it is asked for what the first has not";
                    let _ = done.send(Err(if wrong { hint(error, remedy) } else { error }));
                }
            }
        }
    }

    fn unpack<'a>(
        &self,
        work: &Work<'_, 'a>,
        ready: &Mutex<mpsc::Receiver<usize>>,
        done: &Done<'a>,
        tree: &Tree,
    ) {
        loop {
            let at = match ready.lock().expect("no thread panics while it holds it").recv() {
                Ok(at) if !work.stop.load(Ordering::Relaxed) => at,
                _ => return,
            };
            let _ =
                done.send(install_one(&work.items[at], self.cache, tree).map(|installed| (at, installed)));
        }
    }
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

fn install_one<'a>(item: &Item<'a>, cache: &Cache, tree: &Tree) -> Result<Installed<'a>> {
    let name = item.package.name;
    let bytes = cache
        .read(&item.wanted.sha256)
        .with_context(|| format!("package '{name}' in the cache was damaged: try again"))?;
    let open = || -> Result<Installed<'a>> {
        let deb = Deb::parse(&bytes).map_err(|e| Kind::BadPackage.because("it is damaged", e))?;
        let unpacked = unpack::unpack(tree, &deb)?;
        Ok(Installed { package: item.package, control: deb.control, unpacked })
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
    items: &[Item],
    cache: &Cache,
) -> Result<Vec<Installed<'a>>> {
    let taken: Vec<(usize, Vec<PathBuf>)> = packages
        .iter_mut()
        .enumerate()
        .map(|(at, p)| (at, std::mem::take(&mut p.unpacked.taken)))
        .filter(|(_, paths)| !paths.is_empty())
        .collect();
    let mut again: HashMap<usize, HashSet<PathBuf>> = HashMap::new();
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
        let bytes = cache.read(&items[at].wanted.sha256).context("a package has vanished from the cache")?;
        unpack::replace(tree, &Deb::parse(&bytes)?, &only)?;
    }
    unpack::settle_directories(tree, packages.iter().map(|p| &p.unpacked))?;
    Ok(packages)
}
