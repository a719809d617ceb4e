//! mirror: where packages come from: what the user says, else what the host's apt uses, else Debian's own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::trouble::Kind;

/// Debian's public name for "a mirror near you".
const PUBLIC: &str = "http://deb.debian.org/debian";

/// Suites that the host's apt entry may name to be Debian itself and not a third party.
const SUITES: [&str; 13] = [
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "sid",
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
    "duke",
    "experimental",
];

/// The checked base address, without a slash at its end.
pub fn choose(asked: Option<&str>) -> Result<String> {
    let mirror = match asked {
        Some(url) => url.to_owned(),
        None => of_host(Path::new("/etc/apt")).unwrap_or_else(|| PUBLIC.to_owned()),
    };
    check(&mirror)?;
    Ok(mirror.trim_end_matches('/').to_owned())
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

/// The first mirror of Debian that the host's apt is configured with (sources.list(5)).
fn of_host(apt: &Path) -> Option<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(apt.join("sources.list.d"))
        .map(|dir| dir.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    files.insert(0, apt.join("sources.list"));
    files.iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        match file.extension()?.to_str()? {
            "list" => text.lines().find_map(of_line),
            "sources" => text.split("\n\n").find_map(of_stanza),
            _ => None,
        }
    })
}

fn of_line(line: &str) -> Option<String> {
    let line = line.split('#').next()?.trim().strip_prefix("deb")?;
    let line = line.strip_prefix(char::is_whitespace)?.trim_start();
    let line = match line.strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => line,
    };
    let mut words = line.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    debian(uri, &[suite], &words.collect::<Vec<_>>())
}

/// A stanza of the deb822 form.
fn of_stanza(text: &str) -> Option<String> {
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
    field("URIs").into_iter().find_map(|uri| debian(uri, &suites, &components))
}

fn debian(uri: &str, suites: &[&str], components: &[&str]) -> Option<String> {
    let ours = suites.iter().any(|suite| SUITES.contains(suite)) && components.contains(&"main");
    let named = uri.trim_end_matches('/').ends_with("/debian");
    (ours && named && check(uri).is_ok()).then(|| uri.to_owned())
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
            assert_eq!(of_line(line), url, "{line}");
        }
        for line in [
            "# deb http://example.org/debian bookworm main",
            "deb-src http://example.org/debian bookworm main",
            "deb http://example.org/debian bookworm-security main",
            "deb http://example.org/linux/debian bookworm stable",
            "deb http://example.org/ubuntu noble main",
            "deb cdrom:[x]/debian bookworm main",
        ] {
            assert_eq!(of_line(line), None, "{line}");
        }
    }

    #[test]
    fn stanzas_are_read() {
        let text = "Types: deb deb-src\n# note\nURIs: http://example.org/debian/\nSuites: sid\n experimental\n\
                    Components: main\nSigned-By: /k.gpg\n";
        assert_eq!(of_stanza(text).as_deref(), Some("http://example.org/debian/"));
        assert_eq!(of_stanza(&format!("{text}Enabled: no\n")), None);
        assert_eq!(of_stanza(&text.replace("deb deb-src", "deb-src")), None);
    }

    #[test]
    fn addresses_are_checked() {
        assert_eq!(choose(Some("http://example.org/debian/")).unwrap(), "http://example.org/debian");
        assert!(choose(Some("file:///srv/mirror")).is_ok());
        for bad in ["", "example.org", "ftp://example.org", "http://", "http://a b", "http://a\ndeb x"] {
            assert!(choose(Some(bad)).is_err(), "{bad}");
        }
    }
}
