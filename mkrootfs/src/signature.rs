//! signature: what a Release file is signed with, and who says that the signature is good: gpgv, else sqv, else (feature
//! rpgp) we ourselves.
//!
//! A clear-signed file is taken apart here and what came out is what the verifier is given, as a message and a
//! detached signature: so the bytes that are verified are the bytes that are read, whatever stands around them in
//! the file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use crate::trouble::Kind;
use crate::verdict::Verdict;

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

/// A text and its signature in files, for programs that read files.
struct Files {
    text: PathBuf,
    signature: PathBuf,
}

/// The message is what a key of the keyrings has signed. An archive that is kept as it was is signed with keys that
/// have expired since: with `old_keys` they count.
pub fn verify(
    keyrings: &[PathBuf],
    message: &str,
    signature: &[u8],
    scratch: &Path,
    old_keys: bool,
) -> Result<()> {
    let files = Files { text: scratch.join("Release"), signature: scratch.join("Release.gpg") };
    fs::write(&files.text, message)
        .and_then(|()| fs::write(&files.signature, signature))
        .with_context(|| format!("cannot write '{}'", files.text.display()))?;
    let mut said = by_gpgv(keyrings, &files, old_keys)?;
    if said.is_none() {
        said = by_sqv(keyrings, &files, signature)?;
    }
    if said.is_none() {
        said = by_ourselves(keyrings, message, signature, old_keys)?;
    }
    match said {
        Some(Ok(())) => Ok(()),
        Some(Err(said)) => Err(refused(keyrings, &said)),
        None => {
            let hint = "apt-get install gpgv; or pin the file with --release-sha256 HEX; or trust the mirror \
                        with --no-check-gpg";
            Err(Kind::Trust.hinted(
                "cannot check the signature",
                "neither 'gpgv' nor 'sqv' is installed",
                hint,
            ))
        }
    }
}

/// What a program said; None where it is not installed.
fn output(command: &mut Command, keyrings: &[PathBuf], files: &Files) -> Result<Option<Output>> {
    for keyring in keyrings {
        command.arg("--keyring").arg(keyring);
    }
    match command.arg("--").args([&files.signature, &files.text]).stdin(Stdio::null()).output() {
        Ok(output) => Ok(Some(output)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(error).with_context(|| format!("cannot run '{}'", command.get_program().to_string_lossy()))
        }
    }
}

/// Why it is no good, if it is not.
type Judgement = Result<(), String>;

fn by_gpgv(keyrings: &[PathBuf], files: &Files, old_keys: bool) -> Result<Option<Judgement>> {
    let mut gpgv = Command::new("gpgv");
    gpgv.args(["--quiet", "--status-fd", "1", "--weak-digest", "SHA1"]);
    let Some(output) = output(&mut gpgv, keyrings, files)? else { return Ok(None) };
    let verdicts = verdicts(&String::from_utf8_lossy(&output.stdout));
    let said = judge(&verdicts, old_keys);
    Ok(Some(said.map_err(|said| if verdicts.is_empty() { last_line(&said, &output) } else { said })))
}

/// It reads one block of a file: each is asked about, until one is good.
fn by_sqv(keyrings: &[PathBuf], files: &Files, signature: &[u8]) -> Result<Option<Judgement>> {
    let mut said = Err("there is no signature".into());
    for block in blocks(signature) {
        fs::write(&files.signature, block)
            .with_context(|| format!("cannot write '{}'", files.signature.display()))?;
        let Some(output) = output(&mut Command::new("sqv"), keyrings, files)? else { return Ok(None) };
        if output.status.success() {
            return Ok(Some(Ok(())));
        }
        said = Err(last_line("sqv finds no valid signature", &output));
    }
    Ok(Some(said))
}

/// Armored signatures that stand one behind the other; all else is one block.
fn blocks(signature: &[u8]) -> Vec<&[u8]> {
    let mut bounds: Vec<usize> = memchr::memmem::find_iter(signature, b"-----BEGIN ").collect();
    if bounds.len() < 2 {
        return vec![signature];
    }
    bounds.push(signature.len());
    bounds.windows(2).map(|bound| &signature[bound[0]..bound[1]]).collect()
}

#[cfg(feature = "rpgp")]
fn by_ourselves(
    keyrings: &[PathBuf],
    message: &str,
    signature: &[u8],
    old_keys: bool,
) -> Result<Option<Judgement>> {
    let verdicts = crate::openpgp::verdicts(keyrings, message.as_bytes(), signature);
    let verdicts = verdicts.map_err(|error| Kind::Trust.because("cannot check the signature", error))?;
    Ok(Some(judge(&verdicts, old_keys)))
}

#[cfg(not(feature = "rpgp"))]
fn by_ourselves(_: &[PathBuf], _: &str, _: &[u8], _: bool) -> Result<Option<Judgement>> {
    Ok(None)
}

fn last_line(said: &str, output: &Output) -> String {
    match String::from_utf8_lossy(&output.stderr).lines().last() {
        Some(line) => format!("{said}: {line}"),
        None => said.to_owned(),
    }
}

/// gpgv's status lines (GnuPG, doc/DETAILS). A signature that is right has GOODSIG, and VALIDSIG besides.
fn verdicts(status: &str) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let mut waiting = None;
    for line in status.lines().filter_map(|line| line.strip_prefix("[GNUPG:] ")) {
        let words: Vec<&str> = line.split(' ').collect();
        let key = || words.get(1).copied().unwrap_or("?").to_owned();
        match words[0] {
            "GOODSIG" => waiting = Some(Verdict::Good),
            "EXPKEYSIG" => waiting = Some(Verdict::Expired(key())),
            "VALIDSIG" => verdicts.extend(waiting.take()),
            "BADSIG" => verdicts.push(Verdict::Bad(key())),
            "NO_PUBKEY" => verdicts.push(Verdict::Unknown(key())),
            "REVKEYSIG" => verdicts.push(Verdict::Revoked(key())),
            "ERRSIG" => {
                verdicts.extend(words.get(3).and_then(|id| weak(id)).map(|n| Verdict::Weak(key(), n)))
            }
            _ => {}
        }
    }
    verdicts
}

/// The digests that can be forged, by their numbers (RFC 9580, section 9.5).
fn weak(number: &str) -> Option<&'static str> {
    match number {
        "1" => Some("MD5"),
        "2" => Some("SHA1"),
        "3" => Some("RIPEMD160"),
        _ => None,
    }
}

/// One good signature is enough, one bad is too much.
fn judge(verdicts: &[Verdict], old_keys: bool) -> Judgement {
    let mut good = false;
    let mut why = Vec::new();
    for verdict in verdicts {
        match verdict {
            Verdict::Bad(key) => {
                return Err(format!("the signature by key {key} is bad: the file was changed"));
            }
            Verdict::Good => good = true,
            Verdict::Expired(_) if old_keys => good = true,
            Verdict::Unknown(key) => why.push(format!("key {key} is not in the keyring")),
            Verdict::Expired(key) => why.push(format!("key {key} has expired")),
            Verdict::Revoked(key) => why.push(format!("key {key} was revoked")),
            Verdict::Weak(key, digest) => {
                why.push(format!("key {key} has signed by {digest}, which can be forged"))
            }
        }
    }
    match (good, why.is_empty()) {
        (true, _) => Ok(()),
        (false, false) => Err(why.join(", ")),
        (false, true) => Err("there is no valid signature".into()),
    }
}

fn refused(keyrings: &[PathBuf], said: &str) -> anyhow::Error {
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
    Kind::Trust.because(text, anyhow!("{said}"))
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
        let judged = |status: &str, old_keys| judge(&verdicts(status), old_keys);
        let good = "[GNUPG:] GOODSIG A x\n[GNUPG:] VALIDSIG A\n";
        assert_eq!(judged(good, false), Ok(()));
        assert_eq!(judged(&format!("[GNUPG:] NO_PUBKEY B\n{good}"), false), Ok(()));
        assert!(judged(&format!("{good}[GNUPG:] BADSIG B x\n"), true).unwrap_err().contains("key B is bad"));
        assert_eq!(judged("[GNUPG:] NO_PUBKEY B\n", true), Err("key B is not in the keyring".into()));
        let old = "[GNUPG:] EXPKEYSIG B x\n[GNUPG:] VALIDSIG B\n";
        assert_eq!(judged(old, false), Err("key B has expired".into()));
        assert_eq!(judged(old, true), Ok(()));
        assert_eq!(judged("gpgv: GOODSIG VALIDSIG\n", false), Err("there is no valid signature".into()));
        assert_eq!(judged("[GNUPG:] GOODSIG A x\n", false), Err("there is no valid signature".into()));
        let weak = "[GNUPG:] ERRSIG A 1 2 01 1700000000 5 A\n";
        assert_eq!(judged(weak, true), Err("key A has signed by SHA1, which can be forged".into()));
    }
}
