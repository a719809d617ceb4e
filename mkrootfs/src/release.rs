//! release: what a suite's InRelease file says, once it is known who says it (apt-secure(8)).

use std::collections::HashMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::cli::Options;
use crate::digest;
use crate::keyring::Keyrings;
use crate::signature::{self, take_apart};
use crate::trouble::Kind;
use crate::verdict::AHEAD;

const NOT_VALID: &str = "cannot use the Release file";

/// The parts of a Release file that are used here.
#[derive(Debug)]
pub struct Release {
    pub codename: String,
    fields: HashMap<String, String>,
    /// By path: SHA-256 and size.
    files: HashMap<String, (String, u64)>,
}

/// What a mirror has: InRelease, or Release with the signature beside it.
pub struct Signed {
    pub text: Vec<u8>,
    /// A detached signature; None for a clear-signed text or when there is none.
    pub signature: Option<Vec<u8>>,
}

/// What a signature is checked with.
pub struct Trust {
    pub keyrings: Keyrings,
    /// With digests given, this file must have one of them; others may be signed instead.
    pub must_be_pinned: bool,
}

/// The text of a suite's Release file, after all that the options ask for was checked.
pub fn verified(signed: &Signed, options: &Options, trust: &Trust, scratch: &Path) -> Result<String> {
    if is_pinned(&signed.text, options) {
        return text_of(signed);
    }
    if trust.must_be_pinned && !options.release_sha256.is_empty() {
        let (got, pinned) = (digest::sha256(&signed.text), options.release_sha256.join(" or "));
        bail!(Kind::Trust.error(format!("the mirror's Release file has SHA-256 {got}, not {pinned}")));
    }
    if !options.check_gpg {
        return text_of(signed);
    }
    let (message, signature) = match &signed.signature {
        Some(signature) => {
            (String::from_utf8(signed.text.clone()).context("Release is not text")?, signature.clone())
        }
        None => take_apart(&signed.text)
            .map_err(|e| Kind::Trust.because("the InRelease file is not signed as it should be", e))?,
    };
    let keyrings = trust.keyrings.open(scratch)?;
    signature::verify(&keyrings, &message, &signature, scratch, !options.check_valid_until)?;
    Ok(message)
}

/// Whether the user has named the file by its digest.
pub fn is_pinned(text: &[u8], options: &Options) -> bool {
    !options.release_sha256.is_empty() && options.release_sha256.contains(&digest::sha256(text))
}

fn text_of(signed: &Signed) -> Result<String> {
    if signed.text.starts_with(b"-----BEGIN PGP SIGNED MESSAGE-----") {
        return take_apart(&signed.text)
            .map(|(message, _)| message)
            .map_err(|e| Kind::Trust.because("the InRelease file is damaged", e));
    }
    String::from_utf8(signed.text.clone()).map_err(|e| Kind::Trust.because("the Release file is not text", e))
}

impl Release {
    pub fn parse(text: &str) -> Release {
        let mut fields = HashMap::new();
        let mut files = HashMap::new();
        let mut section = "";
        for line in text.lines() {
            if let Some(entry) = line.strip_prefix(' ') {
                files.extend(checksum(entry).filter(|_| section == "SHA256"));
            } else if let Some((key, value)) = line.split_once(':') {
                section = key;
                fields.insert(key.to_owned(), value.trim().to_owned());
            }
        }
        let codename = fields.get("Codename").or_else(|| fields.get("Suite")).cloned().unwrap_or_default();
        Release { codename, fields, files }
    }

    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    pub fn file(&self, path: &str) -> Option<&(String, u64)> {
        self.files.get(path)
    }

    pub fn by_hash(&self) -> bool {
        self.field("Acquire-By-Hash") == "yes"
    }

    /// It is the suite that was asked for, of its time, with what is wanted in it.
    pub fn check(&self, suite: &str, arch: &str, options: &Options) -> Result<()> {
        // The security updates of buster and older call themselves by the suite's name alone.
        let known = suite.strip_suffix("/updates").unwrap_or(suite);
        if [suite, known].iter().all(|name| *name != self.field("Suite") && *name != self.field("Codename")) {
            let (name, code) = (self.field("Suite"), self.field("Codename"));
            bail!(
                Kind::Trust.error(format!("asked for suite '{suite}', the mirror sent '{name}' ('{code}')"))
            );
        }
        // A file that was pinned by its digest is wanted as it is, however old.
        self.check_date(now(), options.check_valid_until && options.release_sha256.is_empty())?;
        let has = |field: &str, word: &str| {
            self.field(field).split_whitespace().any(|w| w.rsplit('/').next() == Some(word))
        };
        if !has("Architectures", arch) {
            let text = format!(
                "suite '{suite}' has no architecture '{arch}': it has {}",
                self.field("Architectures")
            );
            bail!(Kind::Asked.error(text));
        }
        if let Some(missing) = options.components.iter().find(|component| !has("Components", component)) {
            let text =
                format!("suite '{suite}' has no component '{missing}': it has {}", self.field("Components"));
            bail!(Kind::Asked.error(text));
        }
        Ok(())
    }

    pub fn check_date(&self, now: i64, check_valid_until: bool) -> Result<()> {
        let seconds = |field: &str| -> Result<Option<i64>> {
            match self.field(field) {
                "" => Ok(None),
                text => parse_date(text).map(Some).ok_or_else(|| {
                    Kind::Trust.error(format!("the Release file's {field} is not a date: '{text}'"))
                }),
            }
        };
        if seconds("Date")?.is_some_and(|date| date > now + AHEAD) {
            let why = format!("it is of {}, and now is {}", self.field("Date"), format_date(now));
            bail!(Kind::Trust.hinted(NOT_VALID, why, "is this machine's clock right?"));
        }
        if check_valid_until && seconds("Valid-Until")?.is_some_and(|until| until < now) {
            let why =
                format!("it was valid until {}, and now is {}", self.field("Valid-Until"), format_date(now));
            bail!(Kind::Trust.hinted(
                NOT_VALID,
                why,
                "for a mirror that is frozen on purpose: --no-check-valid-until"
            ));
        }
        Ok(())
    }
}

/// "SHA256 size path" as the path and the other two.
fn checksum(entry: &str) -> Option<(String, (String, u64))> {
    let mut words = entry.split_whitespace();
    let (sha, size, path) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    // The digest becomes a file name in the cache.
    let sound = sha.len() == 64 && sha.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
    sound.then(|| (path.to_owned(), (sha.to_owned(), size)))
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// "Sat, 10 Jun 2023 08:54:09 UTC" (RFC 5322; archives write UTC only) in seconds since 1970.
fn parse_date(text: &str) -> Option<i64> {
    let words: Vec<&str> = text.split_once(", ")?.1.split_whitespace().collect();
    let [day, month, year, time, "UTC" | "GMT" | "+0000" | "Z"] = words[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let clock: Vec<i64> = time.split(':').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let [hour, minute, second] = clock[..] else { return None };
    Some(days(year.parse().ok()?, month, day.parse().ok()?) * 86400 + hour * 3600 + minute * 60 + second)
}

/// Days since 1970-01-01 of a date in the Gregorian calendar; the year is made to begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn format_date(seconds: i64) -> String {
    let (day, clock) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    let mut year = 1970 + day / 366;
    while days(year + 1, 1, 1) <= day {
        year += 1;
    }
    let month = (1..=12).rev().find(|month| days(year, *month, 1) <= day).unwrap_or(1);
    let name = MONTHS[month as usize - 1];
    let of_month = day - days(year, month, 1) + 1;
    format!("{of_month} {name} {year} {:02}:{:02}:{:02} UTC", clock / 3600, clock / 60 % 60, clock % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_and_written() {
        assert_eq!(parse_date("Thu, 01 Jan 1970 00:00:00 UTC"), Some(0));
        assert_eq!(parse_date("Sat, 10 Jun 2023 08:54:09 UTC"), Some(1_686_387_249));
        assert_eq!(parse_date("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        assert_eq!(parse_date("10 Jun 2023"), None);
        assert_eq!(format_date(1_709_251_199), "29 Feb 2024 23:59:59 UTC");
        assert_eq!(format_date(1_686_387_249), "10 Jun 2023 08:54:09 UTC");
    }

    #[test]
    fn a_release_is_valid_between_its_dates() {
        let text =
            "Suite: s\nDate: Sat, 10 Jun 2023 00:00:00 UTC\nValid-Until: Sat, 17 Jun 2023 00:00:00 UTC\n";
        let release = Release::parse(text);
        let date = parse_date("Sat, 10 Jun 2023 00:00:00 UTC").unwrap();
        assert!(release.check_date(date + 5, true).is_ok());
        assert!(release.check_date(date - 2 * AHEAD, true).is_err());
        assert!(release.check_date(date + 8 * 86400, true).is_err());
        assert!(release.check_date(date + 8 * 86400, false).is_ok());
    }

    #[test]
    fn files_are_found_under_sha256_only() {
        let sha = "a".repeat(64);
        let text = format!("MD5Sum:\n {} 5 main/x\nSHA256:\n {sha} 7 main/Packages.xz\n", "b".repeat(32));
        let release = Release::parse(&text);
        assert_eq!(release.file("main/Packages.xz"), Some(&(sha, 7)));
        assert_eq!(release.file("main/x"), None);
    }
}
