//! mirror: where packages come from: what the user says, else what the host's apt uses, else Debian's own; and
//! which suites there belong together.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::suite::{self, Facts, Family};
use crate::trouble::Kind;

/// Debian's public name for "a mirror near you", and Ubuntu's.
const PUBLIC: &str = "http://deb.debian.org/debian";
const UBUNTU: &str = "http://archive.ubuntu.com/ubuntu";

/// Where every state of Debian's archives is kept.
const SNAPSHOTS: &str = "http://snapshot.debian.org/archive";

/// A suite and the mirrors that are asked for it, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub suite: String,
    pub mirrors: Vec<String>,
    /// The user named the mirror, and it may be one without this suite of corrections.
    pub optional: bool,
}

/// What the user says about where to get things.
pub struct Wish<'a> {
    pub suite: &'a str,
    pub mirrors: &'a [String],
    pub updates: bool,
    /// Suites of the same mirrors that the user wants too.
    pub extra: &'a [String],
    pub snapshot: Option<&'a str>,
}

/// The suite that was asked for, then those of its corrections.
pub fn sources(wish: &Wish) -> Result<Vec<Source>> {
    wish.mirrors.iter().try_for_each(|mirror| check(mirror))?;
    let trimmed: Vec<String> = wish.mirrors.iter().map(|m| m.trim_end_matches('/').to_owned()).collect();
    let facts = suite::facts(wish.suite);
    let (main, security) = match wish.snapshot {
        Some(date) => snapshots(&trimmed, date),
        None => mirrors(trimmed, &facts, Path::new("/etc/apt")),
    };
    let source = |suite: &str, mirrors: &[String], optional| Source {
        suite: suite.to_owned(),
        mirrors: mirrors.to_vec(),
        optional,
    };
    let mut sources = vec![source(wish.suite, &main, false)];
    if let Some([updates, fixes]) = facts.beside(wish.suite).filter(|_| wish.updates) {
        let optional = !wish.mirrors.is_empty() || wish.snapshot.is_some();
        sources.push(source(&updates, &main, optional));
        sources.push(source(&fixes, &security, optional));
    }
    sources.extend(wish.extra.iter().map(|suite| source(suite, &main, false)));
    Ok(sources)
}

/// The mirrors of the archive and of its security updates: Debian keeps these in an archive of their own.
fn mirrors(asked: Vec<String>, facts: &Facts, apt: &Path) -> (Vec<String>, Vec<String>) {
    let beside = |mirrors: &[String]| mirrors.iter().map(|mirror| security_of(mirror)).collect();
    if !asked.is_empty() {
        let security = beside(&asked);
        return (asked, security);
    }
    if facts.family == Family::Ubuntu {
        return (vec![UBUNTU.to_owned()], vec![UBUNTU.to_owned()]);
    }
    let main = vec![of_host(apt, debian).unwrap_or_else(|| PUBLIC.to_owned())];
    let security = of_host(apt, debian_security).map_or_else(|| beside(&main), |url| vec![url]);
    (main, security)
}

fn security_of(mirror: &str) -> String {
    match mirror.strip_suffix("/debian") {
        Some(_) => format!("{mirror}-security"),
        None => mirror.to_owned(),
    }
}

fn snapshots(bases: &[String], date: &str) -> (Vec<String>, Vec<String>) {
    let default = [SNAPSHOTS.to_owned()];
    let bases = if bases.is_empty() { &default } else { bases };
    let of = |archive: &str| bases.iter().map(|base| format!("{base}/{archive}/{date}")).collect();
    (of("debian"), of("debian-security"))
}

fn check(mirror: &str) -> Result<()> {
    let rest = ["http://", "https://"].iter().find_map(|scheme| mirror.strip_prefix(scheme));
    let fits =
        rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')) || mirror.starts_with("file:///");
    // The address becomes a line of sources.list, where a blank would begin the next word.
    if !fits || mirror.contains(|c: char| c.is_whitespace() || c.is_control()) {
        let text = format!("cannot use the mirror '{mirror}'");
        return Err(Kind::Asked.hinted(
            text,
            "not an address",
            "it begins with http://, https:// or file:///",
        ));
    }
    Ok(())
}

/// What makes an entry of apt's one that is looked for: its address, suites and components.
type Fits = fn(&str, &[&str], &[&str]) -> bool;

/// The first mirror of a kind that the host's apt is configured with (sources.list(5)).
fn of_host(apt: &Path, fits: Fits) -> Option<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(apt.join("sources.list.d"))
        .map(|dir| dir.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    files.insert(0, apt.join("sources.list"));
    files.iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        match file.extension()?.to_str()? {
            "list" => text.lines().find_map(|line| of_line(line, fits)),
            "sources" => text.split("\n\n").find_map(|stanza| of_stanza(stanza, fits)),
            _ => None,
        }
        .map(|uri| uri.trim_end_matches('/').to_owned())
    })
}

fn of_line(line: &str, fits: Fits) -> Option<String> {
    let line = line.split('#').next()?.trim().strip_prefix("deb")?;
    let line = line.strip_prefix(char::is_whitespace)?.trim_start();
    let line = match line.strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => line,
    };
    let mut words = line.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    (check(uri).is_ok() && fits(uri, &[suite], &words.collect::<Vec<_>>())).then(|| uri.to_owned())
}

/// A stanza of the deb822 form.
fn of_stanza(text: &str, fits: Fits) -> Option<String> {
    let field = |name: &str| -> Vec<&str> {
        let mut inside = false;
        let mut words = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if line.starts_with([' ', '\t']) {
                words.extend(line.split_whitespace().filter(|_| inside));
            } else if let Some((key, value)) = line.split_once(':') {
                inside = key.eq_ignore_ascii_case(name);
                words.extend(value.split_whitespace().filter(|_| inside));
            }
        }
        words
    };
    if !field("Types").contains(&"deb") || field("Enabled").first() == Some(&"no") {
        return None;
    }
    let (suites, components) = (field("Suites"), field("Components"));
    let uris = field("URIs");
    uris.into_iter().find(|uri| check(uri).is_ok() && fits(uri, &suites, &components)).map(str::to_owned)
}

/// A third party's archive has suites of other names, or lies in another place.
fn debian(uri: &str, suites: &[&str], components: &[&str]) -> bool {
    suites.iter().any(|suite| suite::is_debian(suite))
        && components.contains(&"main")
        && uri.trim_end_matches('/').ends_with("/debian")
}

fn debian_security(uri: &str, suites: &[&str], components: &[&str]) -> bool {
    let stem = |suite: &&str| {
        suite
            .strip_suffix("-security")
            .or_else(|| suite.strip_suffix("/updates"))
            .is_some_and(suite::is_debian)
    };
    suites.iter().any(stem)
        && components.iter().any(|component| component.ends_with("main"))
        && uri.contains("debian-security")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_entries_are_read() {
        let url = Some("http://example.org/debian".to_owned());
        for line in [
            "deb http://example.org/debian bookworm main",
            "deb [arch=amd64 signed-by=/k.gpg] http://example.org/debian bookworm main non-free # own",
        ] {
            assert_eq!(of_line(line, debian), url, "{line}");
        }
        for line in [
            "# deb http://example.org/debian bookworm main",
            "deb-src http://example.org/debian bookworm main",
            "deb http://example.org/debian bookworm-security main",
            "deb http://example.org/linux/debian bookworm stable",
            "deb http://example.org/ubuntu noble main",
            "deb cdrom:[x]/debian bookworm main",
        ] {
            assert_eq!(of_line(line, debian), None, "{line}");
        }
    }

    #[test]
    fn stanzas_are_read() {
        let text = "Types: deb deb-src\n# note\nURIs: http://example.org/debian/\nSuites: sid\n experimental\n\
                    Components: main\nSigned-By: /k.gpg\n";
        assert_eq!(of_stanza(text, debian).as_deref(), Some("http://example.org/debian/"));
        assert_eq!(of_stanza(&format!("{text}Enabled: no\n"), debian), None);
        assert_eq!(of_stanza(&text.replace("deb deb-src", "deb-src"), debian), None);
    }

    #[test]
    fn addresses_are_checked() {
        assert!(check("file:///srv/mirror").is_ok());
        for bad in ["", "example.org", "ftp://example.org", "http://", "http://a b", "http://a\ndeb x"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    fn listed(suite: &str, mirrors: &[&str], updates: bool, snapshot: Option<&str>) -> String {
        let mirrors: Vec<String> = mirrors.iter().map(|mirror| mirror.to_string()).collect();
        let wish = Wish { suite, mirrors: &mirrors, updates, extra: &[], snapshot };
        let show = |source: &Source| {
            format!("{}{} {}", if source.optional { "?" } else { "" }, source.suite, source.mirrors.join(" "))
        };
        sources(&wish).unwrap().iter().map(show).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn corrections_lie_beside_the_suite() {
        assert_eq!(
            listed("bookworm", &["http://a/debian/", "http://b/x"], true, None),
            "bookworm http://a/debian http://b/x, ?bookworm-updates http://a/debian http://b/x, \
             ?bookworm-security http://a/debian-security http://b/x"
        );
        assert_eq!(listed("bookworm", &["http://a/debian"], false, None), "bookworm http://a/debian");
        assert_eq!(listed("sid", &["http://a/debian"], true, None), "sid http://a/debian");
        assert_eq!(
            listed("buster", &[], true, Some("20240101T000000Z")),
            "buster http://snapshot.debian.org/archive/debian/20240101T000000Z, \
             ?buster-updates http://snapshot.debian.org/archive/debian/20240101T000000Z, \
             ?buster/updates http://snapshot.debian.org/archive/debian-security/20240101T000000Z"
        );
    }

    #[test]
    fn the_hosts_own_security_mirror_is_found() {
        let line = "deb http://example.org/debian-security bookworm-security main";
        assert_eq!(of_line(line, debian_security).as_deref(), Some("http://example.org/debian-security"));
        assert_eq!(of_line("deb http://example.org/debian bookworm main", debian_security), None);
    }
}
