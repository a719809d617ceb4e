//! fetch: files over HTTP, HTTPS or from a directory (RFC 9110): kept alive, resumed, tried again, and not
//! believed before size and SHA-256 fit.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};
use unshare::fail::{hint, told};
use ureq::Agent;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use crate::cache::{Cache, Claim};
use crate::digest::Running;
use crate::trouble::Kind;

/// Where distributions keep the certificates that the administrator trusts.
const CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// Tries without any progress before giving up; one that brought bytes does not count.
const TRIES: u32 = 3;

/// A file whose size and digest are known.
pub struct Wanted {
    /// Tried in this order.
    pub urls: Vec<String>,
    pub sha256: String,
    pub size: u64,
    /// What kind of failure wrong bytes are.
    pub wrong: Kind,
}

impl Wanted {
    /// Who says what it must be.
    fn by(&self) -> &'static str {
        if self.wrong == Kind::Trust { "the Release file" } else { "the index" }
    }
}

pub struct Fetcher {
    agent: Agent,
    offline: bool,
    /// Bytes that came over the network so far, for the progress line.
    pub received: AtomicU64,
    /// Bytes a second of the small file that came last.
    rate: AtomicU64,
}

/// Asks for a host's addresses once: a server that ends each connection would make it a question a file, and
/// a name server that drops one in a hundred would cost seconds.
#[derive(Debug, Default)]
struct Resolved {
    resolver: DefaultResolver,
    known: Mutex<HashMap<String, Vec<SocketAddr>>>,
}

impl Resolver for Resolved {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let key = format!("{:?} {:?}", uri.scheme(), uri.authority());
        // Held while asking: the others want the same answer.
        let mut known = self.known.lock().expect("no thread panics while it holds it");
        if let Some(addresses) = known.get(&key) {
            let mut found = self.empty();
            addresses.iter().for_each(|address| found.push(*address));
            return Ok(found);
        }
        let found = self.resolver.resolve(uri, config, timeout)?;
        known.insert(key, found.iter().copied().collect());
        Ok(found)
    }
}

/// What came of one request.
enum Answer {
    Bytes(Content),
    NotThere(String),
    /// The file there ends before the offset asked for.
    TooShort,
}

/// A file from an offset on.
struct Content {
    from: u64,
    /// The size of the whole, as far as the server says it.
    total: Option<u64>,
    body: Box<dyn Read>,
}

/// Why a try failed: what another try may mend, and what not.
enum Failure {
    Passing(Error),
    Lasting(Error),
    Missing(String),
}

impl Fetcher {
    pub fn new(https: bool, jobs: usize, offline: bool) -> Result<Fetcher> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("mkrootfs/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .max_idle_connections(jobs)
            .max_idle_connections_per_host(jobs);
        // A mirror may send us on from http to https.
        match tls() {
            Ok(tls) => config = config.tls_config(tls),
            Err(error) if https => return Err(error),
            Err(_) => config = config.tls_config(trusting(&[])),
        }
        Ok(Fetcher {
            agent: Agent::with_parts(config.build(), DefaultConnector::default(), Resolved::default()),
            offline,
            received: AtomicU64::new(0),
            rate: AtomicU64::new(0),
        })
    }

    /// A small file that no digest is known of; None when the server says that it is not there.
    pub fn small(&self, url: &str) -> Result<Option<Vec<u8>>> {
        const LIMIT: u64 = 32 << 20;
        let mut last = None;
        for attempt in 0..TRIES {
            pause(attempt);
            match self.ask(url, 0) {
                Ok(Answer::Bytes(Content { body, .. })) => {
                    let (mut bytes, begun) = (Vec::new(), Instant::now());
                    match body.take(LIMIT).read_to_end(&mut bytes) {
                        Ok(_) => {
                            self.measure(bytes.len(), begun.elapsed());
                            return Ok(Some(bytes));
                        }
                        Err(error) => last = Some(Error::new(error)),
                    }
                }
                Ok(_) | Err(Failure::Missing(_)) => return Ok(None),
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing(error)) => last = Some(error),
            }
        }
        let cause = last.expect("each try that did not return has left its reason");
        Err(Kind::Network.because(format!("cannot fetch '{url}'"), cause))
    }

    /// What fits into TCP's first window (RFC 6928) comes with the answer's head, and says nothing of the way.
    fn measure(&self, bytes: usize, time: Duration) {
        const WINDOW: usize = 16 << 10;
        if bytes > WINDOW {
            self.rate.store((bytes as f64 / time.as_secs_f64()) as u64, Ordering::Relaxed);
        }
    }

    /// Whether a megabyte more is fetched sooner than it is unpacked from a tighter form. A far mirror never seems
    /// so, as TCP begins slowly: there the smaller file is right.
    pub fn is_near(&self) -> bool {
        const FAST: u64 = 20_000_000;
        self.rate.load(Ordering::Relaxed) > FAST
    }

    /// Makes sure that the cache has the file.
    pub fn fetch(&self, cache: &Cache, wanted: &Wanted) -> Result<()> {
        let Some(claim) = cache.claim(&wanted.sha256, wanted.size)? else { return Ok(()) };
        let mut reasons = Vec::new();
        for url in &wanted.urls {
            match self.from(url, &claim, wanted) {
                Ok(()) => return claim.keep(),
                Err(Failure::Passing(error)) => {
                    reasons.push(Kind::Network.because(format!("cannot fetch '{url}'"), error))
                }
                Err(Failure::Lasting(error)) => reasons.push(error),
                Err(Failure::Missing(said)) => {
                    reasons.push(wanted.wrong.error(format!("cannot fetch '{url}': {said}")))
                }
            }
        }
        // Of several addresses for one thing the last is the plain one, which people know.
        Err(reasons.pop().unwrap_or_else(|| anyhow!("no address for '{}'", wanted.sha256)))
    }

    /// Tries one address until the file is whole, no byte comes any more, or it is the wrong file twice.
    fn from(&self, url: &str, claim: &Claim, wanted: &Wanted) -> Result<(), Failure> {
        let (mut fruitless, mut wrong) = (0, 0);
        loop {
            pause(fruitless);
            let before = length(&claim.file);
            match self.once(url, &claim.file, wanted) {
                Ok(()) => return Ok(()),
                Err(Failure::Lasting(error)) if wrong == 1 => return Err(Failure::Lasting(error)),
                // What is wrong may be what an earlier run left: once more, from the start.
                Err(Failure::Lasting(_)) => wrong += 1,
                Err(Failure::Passing(error)) => {
                    fruitless = if length(&claim.file) > before { 0 } else { fruitless + 1 };
                    if fruitless == TRIES {
                        return Err(Failure::Passing(error));
                    }
                }
                Err(missing) => return Err(missing),
            }
        }
    }

    fn once(&self, url: &str, mut file: &File, wanted: &Wanted) -> Result<(), Failure> {
        let (mut have, mut running) = hash_so_far(file, wanted.size).map_err(disk)?;
        if have < wanted.size {
            let Content { from, total, mut body } = match self.ask(url, have)? {
                Answer::Bytes(content) => content,
                Answer::NotThere(said) => return Err(Failure::Missing(said)),
                Answer::TooShort => {
                    file.set_len(0).map_err(disk)?;
                    let text =
                        format!("'{url}' ends after {have} bytes, {} says {}", wanted.by(), wanted.size);
                    return Err(Failure::Lasting(wanted.wrong.error(text)));
                }
            };
            if let Some(total) = total.filter(|total| *total != wanted.size) {
                file.set_len(0).map_err(disk)?;
                let text = format!("'{url}' has {total} bytes, {} says {}", wanted.by(), wanted.size);
                return Err(Failure::Lasting(wanted.wrong.error(text)));
            }
            if from != have {
                file.set_len(0).and_then(|()| file.rewind()).map_err(disk)?;
                (have, running) = (0, Running::default());
            }
            self.receive(&mut body, file, &mut running, &mut have, wanted.size)?;
        }
        let got = running.end();
        if have == wanted.size && got == wanted.sha256 {
            return Ok(());
        }
        file.set_len(0).map_err(disk)?;
        let text = if have > wanted.size {
            format!("'{url}' is longer than the {} bytes that {} says", wanted.size, wanted.by())
        } else {
            format!("'{url}' has SHA-256 {got}, {} says {}", wanted.by(), wanted.sha256)
        };
        Err(Failure::Lasting(wanted.wrong.error(text)))
    }

    fn receive(
        &self,
        body: &mut dyn Read,
        mut file: &File,
        running: &mut Running,
        have: &mut u64,
        size: u64,
    ) -> Result<(), Failure> {
        let mut buffer = vec![0; 64 << 10];
        while *have <= size {
            let count = match body.read(&mut buffer) {
                Ok(0) if *have < size => {
                    return Err(Failure::Passing(anyhow!("it ended after {have} of {size} bytes")));
                }
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::Passing(error.into())),
            };
            file.write_all(&buffer[..count]).map_err(disk)?;
            running.update(&buffer[..count]);
            *have += count as u64;
            self.received.fetch_add(count as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn ask(&self, url: &str, from: u64) -> Result<Answer, Failure> {
        if let Some(path) = url.strip_prefix("file://") {
            return of_file(path, from);
        }
        if self.offline {
            let error = Kind::Network.error(format!("'{url}' is not in the cache, and --offline was given"));
            return Err(Failure::Lasting(error));
        }
        let mut request = self.agent.get(url);
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let response = request.call().map_err(|error| Failure::Passing(self.reason(url, error)))?;
        let status = response.status();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let length = header("content-length").and_then(|value| value.parse().ok());
        let range = header("content-range").and_then(range);
        let content = |from, total| {
            Ok(Answer::Bytes(Content { from, total, body: Box::new(response.into_body().into_reader()) }))
        };
        match (status.as_u16(), range) {
            (200, _) => content(0, length),
            (206, Some((start, total))) if start == from => content(from, total),
            (416, _) => Ok(Answer::TooShort),
            (408 | 429 | 500.., _) => Err(Failure::Passing(anyhow!("the server said '{status}'"))),
            _ => Ok(Answer::NotThere(format!("the server said '{status}'"))),
        }
    }
}

impl Fetcher {
    /// Behind a proxy it is the proxy that does not answer; its name, without the password that may be in it.
    fn reason(&self, url: &str, error: ureq::Error) -> Error {
        let cause = reason(error);
        let Ok(uri) = url.parse::<Uri>() else { return cause };
        match self.agent.config().proxy().filter(|proxy| !proxy.is_no_proxy(&uri)) {
            Some(proxy) => cause.context(format!("by way of the proxy '{}:{}'", proxy.host(), proxy.port())),
            None => cause,
        }
    }
}

fn of_file(path: &str, from: u64) -> Result<Answer, Failure> {
    let open = || -> io::Result<Answer> {
        let mut file = File::open(path)?;
        let total = file.metadata()?.len();
        if from > 0 && total <= from {
            return Ok(Answer::TooShort);
        }
        file.seek(SeekFrom::Start(from))?;
        Ok(Answer::Bytes(Content { from, total: Some(total), body: Box::new(file) }))
    };
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Answer::NotThere(told(&error.into()))),
        Err(error) => Err(Failure::Lasting(Kind::Network.because(format!("cannot read '{path}'"), error))),
        Ok(answer) => Ok(answer),
    }
}

/// "bytes 100-199/200" begins at 100 of 200; a star stands for a size that the server does not know.
fn range(header: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = header.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()))
}

/// Hashes what an earlier try has left; more than the whole is worth nothing.
fn hash_so_far(mut file: &File, size: u64) -> io::Result<(u64, Running)> {
    let mut running = Running::default();
    if file.metadata()?.len() > size {
        file.set_len(0)?;
    }
    file.rewind()?;
    let mut buffer = vec![0; 64 << 10];
    let mut have = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((have, running)),
            count => {
                running.update(&buffer[..count]);
                have += count as u64;
            }
        }
    }
}

fn length(file: &File) -> u64 {
    file.metadata().map_or(0, |data| data.len())
}

fn disk(error: io::Error) -> Failure {
    // Not the network's fault, and no other address will help: but the cache may be on another disk.
    Failure::Lasting(Error::new(error).context("cannot write to the cache"))
}

fn reason(error: ureq::Error) -> Error {
    match error {
        ureq::Error::Io(error) => match error.get_ref().and_then(|cause| cause.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(why)) => hint(
                anyhow!("the server's certificate is not to be trusted: {why}"),
                "SSL_CERT_FILE=FILE names the authorities that are; the usual ones: apt-get install ca-certificates",
            ),
            _ => Error::new(error),
        },
        ureq::Error::HostNotFound => anyhow!("the host's name has no address"),
        ureq::Error::ConnectionFailed => anyhow!("no address of the host answers"),
        other => Error::new(other),
    }
}

fn pause(failures: u32) {
    if failures > 0 {
        thread::sleep(Duration::from_millis(150 << (2 * failures.min(4))));
    }
}

/// TLS with the host's own certificates, so that a private mirror's authority counts too.
fn tls() -> Result<TlsConfig> {
    let named = std::env::var_os("SSL_CERT_FILE").map(std::path::PathBuf::from);
    let files = named.into_iter().chain(CERTIFICATES.iter().map(Into::into));
    let Some((path, text)) =
        files.into_iter().find_map(|path| Some((path.clone(), std::fs::read(path).ok()?)))
    else {
        let hint = "apt-get install ca-certificates, or name the mirror by http://";
        return Err(Kind::Trust.hinted(
            "cannot check an https mirror",
            "no certificates are installed",
            hint,
        ));
    };
    let mut certificates = Vec::new();
    for item in parse_pem(&text) {
        match item.with_context(|| format!("cannot read certificates from '{}'", path.display()))? {
            PemItem::Certificate(certificate) => certificates.push(certificate),
            _ => continue,
        }
    }
    Ok(trusting(&certificates))
}

fn trusting(certificates: &[Certificate<'static>]) -> TlsConfig {
    TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(certificates))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_tells_where_it_begins() {
        assert_eq!(range("bytes 100-199/200"), Some((100, Some(200))));
        assert_eq!(range("bytes 100-199/*"), Some((100, None)));
        assert_eq!(range("bytes */200"), None);
        assert_eq!(range("lines 1-2/3"), None);
    }
}
