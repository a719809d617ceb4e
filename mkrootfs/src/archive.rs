//! archive: the suites of a bootstrap as their mirrors have them: verified Release files and their indexes.

use std::io::Read;
use std::path::Path;
use std::thread;

use anyhow::{Context, Error, Result, bail};
use unshare::fail;

use crate::cache::Cache;
use crate::deb;
use crate::digest;
use crate::fetch::{Fetcher, Wanted};
use crate::job::Job;
use crate::keyring;
use crate::mirror::Source;
use crate::progress;
use crate::release::{self, Release, Signed};
use crate::suite;
use crate::trouble::{self, Kind};
use crate::xz;

/// A suite with its verified Release file.
pub struct Suite {
    pub name: String,
    /// The mirror that has sent the Release file is the first: it has what belongs to it.
    pub mirrors: Vec<String>,
    pub release: Release,
    /// SHA-256 of the verified text.
    pub digest: String,
}

/// An index, and where to keep it if it was unpacked just now.
pub struct Text {
    pub text: String,
    /// Which of the suites it belongs to.
    pub suite: usize,
    keep: Option<String>,
}

pub struct Access<'a> {
    pub job: &'a Job,
    pub fetcher: &'a Fetcher,
    pub cache: &'a Cache,
    /// A directory for files that a program is to read.
    pub scratch: &'a Path,
}

/// What one mirror said about one suite.
enum Found {
    Release(Release, String),
    /// It does not have the suite.
    Nothing(anyhow::Error),
}

impl Access<'_> {
    /// The suites that there are; those that are not are named.
    pub fn suites(&self) -> Result<Vec<Suite>> {
        let suites = self.ask_all()?;
        let sources = self.job.sources.iter().map(|source| source.suite.as_str());
        let without: Vec<&str> =
            sources.filter(|name| suites.iter().all(|suite| suite.name != *name)).collect();
        if !without.is_empty() {
            progress::warn(&format!(
                "made without '{}': the mirror does not have it",
                without.join("' and '")
            ));
        }
        Ok(suites)
    }

    /// All at once: each is a question or two to a server that may be far away.
    fn ask_all(&self) -> Result<Vec<Suite>> {
        let sources = self.job.sources.iter().enumerate();
        let answers: Vec<Result<Option<Suite>>> = thread::scope(|scope| {
            let asked: Vec<_> = sources.map(|(at, s)| scope.spawn(move || self.suite(at, s))).collect();
            asked.into_iter().map(|thread| thread.join().expect("no thread of ours panics")).collect()
        });
        answers.into_iter().filter_map(Result::transpose).collect()
    }

    /// The first mirror whose Release file can be used; None when no mirror has a suite that may be missing.
    fn suite(&self, at: usize, source: &Source) -> Result<Option<Suite>> {
        let (mut failure, mut nothing) = (None, None);
        for (tried, mirror) in source.mirrors.iter().enumerate() {
            match self.ask(mirror, at, source) {
                Ok(Found::Release(release, digest)) => {
                    let mut mirrors = source.mirrors.clone();
                    mirrors[..=tried].rotate_right(1);
                    return Ok(Some(Suite { name: source.suite.clone(), mirrors, release, digest }));
                }
                Ok(Found::Nothing(error)) => nothing = nothing.or(Some(error)),
                Err(error) => {
                    if tried + 1 < source.mirrors.len() {
                        progress::warn(&format!("the next mirror is tried: {}", fail::told(&error)));
                    }
                    failure = failure.or(Some(error));
                }
            }
        }
        match (failure, nothing) {
            (Some(error), _) => Err(error),
            (None, Some(_)) if source.optional => Ok(None),
            (None, error) => Err(error.expect("each mirror has left a reason")),
        }
    }

    fn ask(&self, mirror: &str, at: usize, source: &Source) -> Result<Found> {
        let options = &self.job.options;
        let base = format!("{mirror}/dists/{}", source.suite);
        let signed = if options.offline && !mirror.starts_with("file:") {
            self.remembered(&base)
        } else {
            self.fetch_release(&base, at == 0)?
        };
        let Some(signed) = signed else { return Ok(Found::Nothing(self.no_suite(source, &base))) };
        let scratch = self.scratch.join(format!("release-{at}"));
        std::fs::create_dir_all(&scratch).with_context(|| format!("cannot make '{}'", scratch.display()))?;
        let trust = release::Trust {
            keyrings: keyring::keyrings(options, &suite::facts(&self.job.suite)),
            // A digest is one of the suite that was asked for; the others may have one too.
            must_be_pinned: at == 0,
        };
        let text = release::verified(&signed, options, &trust, &scratch)?;
        let release = Release::parse(&text);
        release.check(&source.suite, &self.job.arch, options)?;
        if !options.offline {
            self.cache.put_release(&format!("{base}/InRelease"), &signed.text)?;
            if let Some(signature) = &signed.signature {
                self.cache.put_release(&format!("{base}/Release.gpg"), signature)?;
            }
        }
        Ok(Found::Release(release, digest::sha256(text.as_bytes())))
    }

    fn no_suite(&self, source: &Source, base: &str) -> anyhow::Error {
        if self.job.options.offline && !base.starts_with("file:") {
            let text = format!("'{base}/InRelease' is not in the cache, and --offline was given");
            return Kind::Network.error(text);
        }
        let text = format!("no suite '{}' on this mirror", source.suite);
        let why = format!("there is no '{base}/InRelease'");
        let hint = match suite::nearest(&source.suite) {
            Some(name) => format!("did you mean {name}?"),
            None if source.suite != self.job.suite => {
                "to make it without the corrections: --no-updates".into()
            }
            None if suite::facts(&source.suite).old_keys => {
                "name a mirror: http://archive.debian.org/debian".into()
            }
            None => {
                "suites are bullseye, bookworm, trixie, forky and sid, as far as the mirror has them".into()
            }
        };
        Kind::Asked.hinted(text, why, hint)
    }

    fn remembered(&self, base: &str) -> Option<Signed> {
        let text = self.cache.read_release(&format!("{base}/InRelease"))?;
        Some(Signed { text, signature: self.cache.read_release(&format!("{base}/Release.gpg")) })
    }

    /// InRelease, else Release with Release.gpg beside it.
    fn fetch_release(&self, base: &str, must_be_pinned: bool) -> Result<Option<Signed>> {
        if let Some(text) = self.fetcher.small(&format!("{base}/InRelease"))? {
            return Ok(Some(Signed { text, signature: None }));
        }
        let Some(text) = self.fetcher.small(&format!("{base}/Release"))? else { return Ok(None) };
        let signature = self.fetcher.small(&format!("{base}/Release.gpg"))?;
        let options = &self.job.options;
        let by_digest =
            release::is_pinned(&text, options) || (must_be_pinned && !options.release_sha256.is_empty());
        if signature.is_none() && options.check_gpg && !by_digest {
            let hint = "pin it with --release-sha256 HEX, or trust the mirror with --no-check-gpg";
            bail!(Kind::Trust.hinted(format!("cannot trust '{base}/Release'"), "it is not signed", hint));
        }
        Ok(Some(Signed { text, signature }))
    }

    /// The indexes of all components of all suites, in this order. A mirror that was updated since it was asked
    /// for the Release files is asked for them again.
    pub fn indexes(&self, suites: &mut Vec<Suite>) -> Result<Vec<Text>> {
        match self.indexes_of(suites) {
            Err(error) if trouble::kind(&error) == Some(Kind::Trust) => {
                let Ok(again) = self.ask_all() else { return Err(error) };
                if again.iter().map(|suite| &suite.digest).eq(suites.iter().map(|suite| &suite.digest)) {
                    return Err(error);
                }
                *suites = again;
                self.indexes_of(suites)
            }
            result => result,
        }
    }

    fn indexes_of(&self, suites: &[Suite]) -> Result<Vec<Text>> {
        let components = &self.job.options.components;
        let all = suites.iter().enumerate().flat_map(|(at, s)| components.iter().map(move |c| (at, s, c)));
        thread::scope(|scope| {
            let fetched: Vec<_> = all
                .map(|(at, suite, component)| {
                    let path = format!("{component}/binary-{}/Packages", self.job.arch);
                    scope.spawn(move || self.index(at, suite, &path))
                })
                .collect();
            fetched.into_iter().map(|thread| thread.join().expect("no thread of ours panics")).collect()
        })
    }

    /// The unpacked index from the cache, as the signed Release has its digest too; else a packed one.
    fn index(&self, at: usize, suite: &Suite, path: &str) -> Result<Text> {
        let text = |bytes: Vec<u8>, keep| {
            let text = String::from_utf8(bytes)
                .map_err(|e| Kind::BadPackage.because(format!("'{path}' is not text"), e));
            text.map(|text| Text { text, suite: at, keep })
        };
        let unpacked = suite.release.file(path);
        if let Some(bytes) = unpacked.and_then(|(sha, _)| self.cache.read(sha)) {
            return text(bytes, None);
        }
        let mut last = None;
        // The second is a third larger, and unpacked in a third of the time.
        let forms = if self.fetcher.is_near() { [".gz", ".xz", ""] } else { [".xz", ".gz", ""] };
        for form in forms.map(|end| format!("{path}{end}")) {
            let Some((sha, length)) = suite.release.file(&form) else { continue };
            let wanted = Wanted {
                urls: addresses(suite, &form, sha),
                sha256: sha.clone(),
                size: *length,
                wrong: Kind::Trust,
            };
            match self.fetcher.fetch(self.cache, &wanted) {
                Ok(()) => {
                    let packed = self.cache.read(sha);
                    let packed = packed.with_context(|| format!("'{form}' has vanished from the cache"))?;
                    let bytes = unpack(&form, &packed, unpacked.map(|(_, size)| *size))?;
                    let keep = unpacked.map(|(sha, _)| sha.clone()).filter(|_| !form.ends_with("Packages"));
                    return text(bytes, keep);
                }
                Err(error) => last = last.or_else(|| Some(stale(error, at, &suite.name))),
            }
        }
        Err(last.unwrap_or_else(|| Kind::Asked.error(format!("the Release file names no '{path}'"))))
    }
}

/// Said of an index that does not belong to its Release file.
fn stale(error: Error, at: usize, suite: &str) -> Error {
    if trouble::kind(&error) != Some(Kind::Trust) {
        return error;
    }
    let text = format!("the mirror's Release file and index of '{suite}' do not belong together");
    let hint = "try again in an hour, or name another mirror";
    let without = if at > 0 { "; or leave this suite out: --no-updates" } else { "" };
    Kind::Trust.hinted(text, fail::told(&error), format!("{hint}{without}"))
}

/// By its digest a file is the right one even while the mirror is being updated.
fn addresses(suite: &Suite, path: &str, sha256: &str) -> Vec<String> {
    let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
    let of = |mirror: &String| {
        let base = format!("{mirror}/dists/{}", suite.name);
        let hashed = suite.release.by_hash().then(|| format!("{base}/{dir}/by-hash/SHA256/{sha256}"));
        hashed.into_iter().chain([format!("{base}/{path}")])
    };
    suite.mirrors.iter().flat_map(of).collect()
}

/// `size` is what the Release file says of it, if it does: room for just that much keeps the memory small.
fn unpack(name: &str, packed: &[u8], size: Option<u64>) -> Result<Vec<u8>> {
    let damaged = |error: anyhow::Error| Kind::BadPackage.because(format!("'{name}' is damaged"), error);
    let side_by_side = size.filter(|_| name.ends_with(".xz")).and_then(|size| xz::unpack(packed, size));
    if let Some(bytes) = side_by_side {
        return bytes.map_err(damaged);
    }
    let file = name.rsplit('/').next().filter(|file| file.contains('.')).unwrap_or("Packages.tar");
    let known = size.map(|size| size as usize).filter(|size| size / 100 <= packed.len());
    let mut bytes = Vec::with_capacity(known.unwrap_or(packed.len() * 6));
    deb::unpacker(file, packed)?.read_to_end(&mut bytes).map_err(|error| damaged(error.into()))?;
    Ok(bytes)
}

/// The next run reads 50 MB instead of unpacking 9.
pub fn keep_indexes(cache: &Cache, texts: &[Text]) {
    for text in texts {
        if let Some(sha) = text.keep.as_ref().filter(|sha| digest::sha256(text.text.as_bytes()) == **sha) {
            // A cache that is full costs the next run time, not this one its success.
            let _ = cache.put(sha, text.text.as_bytes());
        }
    }
}
