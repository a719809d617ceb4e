//! release: what a suite's InRelease file says, once it is known who says it (apt-secure(8)).
//!
//! The clear-signed file is taken apart here and what came out is what the verifier is given, as a message
//! and a detached signature: so the bytes that are verified are the bytes that are read, whatever stands
//! around them in the file.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};

use crate::cli::Options;
use crate::digest;
use crate::suite::Facts;
use crate::trouble::Kind;

/// How far a mirror's clock may be ahead of ours, in seconds.
const AHEAD: i64 = 3600;

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

/// Keyring files, and the package that would bring the first.
pub struct Keyrings {
    files: Vec<PathBuf>,
    package: &'static str,
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
    let keyrings = trust.keyrings.open()?;
    let (text_file, signature_file) = (scratch.join("Release"), scratch.join("Release.gpg"));
    fs::write(&text_file, &message)
        .and_then(|()| fs::write(&signature_file, signature))
        .with_context(|| format!("cannot write '{}'", text_file.display()))?;
    verify(&keyrings, &signature_file, &text_file, !options.check_valid_until)?;
    Ok(message)
}

/// Whether the user has named the file by its digest.
pub fn is_pinned(text: &[u8], options: &Options) -> bool {
    !options.release_sha256.is_empty() && options.release_sha256.contains(&digest::sha256(text))
}

/// What the user names, else what the suite's family has.
pub fn keyrings(options: &Options, facts: &Facts) -> Keyrings {
    let files = match &options.keyring {
        Some(keyring) => vec![keyring.clone()],
        None => facts.keyrings().iter().map(PathBuf::from).collect(),
    };
    Keyrings { files, package: facts.keyring_package() }
}

impl Keyrings {
    /// Those that are there, by absolute paths; one is enough.
    fn open(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut failure = None;
        for keyring in &self.files {
            match fs::File::open(keyring) {
                Ok(_) => found.push(std::path::absolute(keyring).unwrap_or_else(|_| keyring.clone())),
                Err(error) => failure = failure.or(Some((keyring, error))),
            }
        }
        match failure {
            Some((keyring, error)) if found.is_empty() => {
                let hint = format!("apt-get install {}, or name another with --keyring FILE", self.package);
                Err(Kind::Trust.hinted(
                    format!("cannot open the keyring '{}'", keyring.display()),
                    error,
                    hint,
                ))
            }
            _ => Ok(found),
        }
    }
}

fn text_of(signed: &Signed) -> Result<String> {
    if signed.text.starts_with(b"-----BEGIN PGP SIGNED MESSAGE-----") {
        return take_apart(&signed.text)
            .map(|(message, _)| message)
            .map_err(|e| Kind::Trust.because("the InRelease file is damaged", e));
    }
    String::from_utf8(signed.text.clone()).map_err(|e| Kind::Trust.because("the Release file is not text", e))
}

/// The message and the signature of a clear-signed file (RFC 9580, section 7).
pub fn take_apart(bytes: &[u8]) -> Result<(String, Vec<u8>)> {
    let text = std::str::from_utf8(bytes).context("it is not text")?;
    let rest = text
        .strip_prefix("-----BEGIN PGP SIGNED MESSAGE-----\n")
        .context("it does not begin as a signed message")?;
    let (headers, rest) = rest.split_once("\n\n").context("its head does not end")?;
    if !headers.lines().all(|line| line.starts_with("Hash: ")) {
        bail!("its head has other lines than 'Hash:'");
    }
    let (message, signature) =
        rest.split_once("\n-----BEGIN PGP SIGNATURE-----\n").context("it has no signature")?;
    if !signature.trim_end().ends_with("\n-----END PGP SIGNATURE-----")
        || signature.matches("-----").count() != 2
    {
        bail!("there is something behind its signature");
    }
    let mut lines = Vec::new();
    for line in message.split('\n') {
        let line = line.strip_prefix("- ").map_or_else(
            || {
                if line.starts_with('-') {
                    Err(anyhow!("a line begins with an unescaped dash"))
                } else {
                    Ok(line)
                }
            },
            Ok,
        )?;
        lines.push(line.trim_end_matches([' ', '\t', '\r']));
    }
    Ok((lines.join("\n"), format!("-----BEGIN PGP SIGNATURE-----\n{signature}").into_bytes()))
}

fn verify(keyrings: &[PathBuf], signature: &Path, message: &Path, old_keys: bool) -> Result<()> {
    let mut gpgv = Command::new("gpgv");
    gpgv.args(["--quiet", "--status-fd", "1", "--weak-digest", "SHA1"]);
    for keyring in keyrings {
        gpgv.arg("--keyring").arg(keyring);
    }
    match gpgv.arg("--").args([signature, message]).stdin(Stdio::null()).output() {
        Ok(output) => {
            let status = String::from_utf8_lossy(&output.stdout);
            return judge(&status, old_keys).map_err(|said| refused(keyrings, &said, &output.stderr));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context("cannot run 'gpgv'"),
    }
    let mut sqv = Command::new("sqv");
    for keyring in keyrings {
        sqv.arg("--keyring").arg(keyring);
    }
    match sqv.args([signature, message]).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(refused(keyrings, "sqv finds no valid signature", &output.stderr)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let hint = "apt-get install gpgv; or pin the file with --release-sha256 HEX; or trust the mirror \
                        with --no-check-gpg";
            Err(Kind::Trust.hinted(
                "cannot check the signature",
                "neither 'gpgv' nor 'sqv' is installed",
                hint,
            ))
        }
        Err(error) => Err(error).context("cannot run 'sqv'"),
    }
}

/// Reads gpgv's status lines: one good signature is enough, one bad is too much. An archive that is kept as it
/// was is signed with keys that have expired since: with `old_keys` they count.
fn judge(status: &str, old_keys: bool) -> Result<(), String> {
    let mut good = false;
    let mut why = Vec::new();
    for line in status.lines().filter_map(|line| line.strip_prefix("[GNUPG:] ")) {
        let mut words = line.split(' ');
        let (word, key) = (words.next().unwrap_or(""), words.next().unwrap_or("?"));
        match word {
            "BADSIG" => return Err(format!("the signature by key {key} is bad: the file was changed")),
            "GOODSIG" => good = true,
            "EXPKEYSIG" if old_keys => good = true,
            "NO_PUBKEY" => why.push(format!("key {key} is not in the keyring")),
            "EXPKEYSIG" => why.push(format!("key {key} has expired")),
            "REVKEYSIG" => why.push(format!("key {key} was revoked")),
            _ => {}
        }
    }
    match (good && status.contains("[GNUPG:] VALIDSIG "), why.is_empty()) {
        (true, _) => Ok(()),
        (false, false) => Err(why.join(", ")),
        (false, true) => Err("there is no valid signature".into()),
    }
}

fn refused(keyrings: &[PathBuf], said: &str, stderr: &[u8]) -> anyhow::Error {
    let names: Vec<String> = keyrings.iter().map(|keyring| keyring.display().to_string()).collect();
    let text = format!("cannot trust the Release file by keyring '{}'", names.join("' and '"));
    if said.contains("not in the keyring") {
        let hint = "a newer debian-archive-keyring may have the key; or name another with --keyring FILE";
        return Kind::Trust.hinted(text, said, hint);
    }
    if said.contains("has expired") {
        return Kind::Trust.hinted(
            text,
            said,
            "for an archive that is kept as it was: --no-check-valid-until",
        );
    }
    match String::from_utf8_lossy(stderr).lines().last() {
        Some(line) if !said.contains("key ") => Kind::Trust.because(text, anyhow!("{said}: {line}")),
        _ => Kind::Trust.because(text, anyhow!("{said}")),
    }
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

    const SIGNED: &str = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nSuite: x  \n- -dash\n\
                          -----BEGIN PGP SIGNATURE-----\n\nabc\n-----END PGP SIGNATURE-----\n";

    #[test]
    fn only_the_signed_part_is_taken() {
        let (message, signature) = take_apart(SIGNED.as_bytes()).unwrap();
        assert_eq!(message, "Suite: x\n-dash");
        assert!(signature.starts_with(b"-----BEGIN PGP SIGNATURE-----\n\nabc"));
    }

    #[test]
    fn anything_around_the_signed_part_is_refused() {
        for bad in [
            format!("Suite: y\n{SIGNED}"),
            format!("{SIGNED}Suite: y\n"),
            format!("{SIGNED}{SIGNED}"),
            SIGNED.replace("Hash: SHA256", "Suite: y"),
            SIGNED.replace("- -dash", "-dash"),
            SIGNED.replace("-----END", "----END"),
        ] {
            assert!(take_apart(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_good_signature_is_enough_and_one_bad_too_much() {
        let good = "[GNUPG:] GOODSIG A x\n[GNUPG:] VALIDSIG A\n";
        assert_eq!(judge(good, false), Ok(()));
        assert_eq!(judge(&format!("[GNUPG:] NO_PUBKEY B\n{good}"), false), Ok(()));
        assert!(judge(&format!("{good}[GNUPG:] BADSIG B x\n"), true).unwrap_err().contains("key B is bad"));
        assert_eq!(judge("[GNUPG:] NO_PUBKEY B\n", true), Err("key B is not in the keyring".into()));
        let old = "[GNUPG:] EXPKEYSIG B x\n[GNUPG:] VALIDSIG B\n";
        assert_eq!(judge(old, false), Err("key B has expired".into()));
        assert_eq!(judge(old, true), Ok(()));
        assert_eq!(judge("gpgv: GOODSIG VALIDSIG\n", false), Err("there is no valid signature".into()));
    }

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
