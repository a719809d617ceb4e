//! cli: the command line (touches nothing).

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use lexopt::prelude::*;
use unshare::fail::Usage;

pub const HELP: &str = "\
Usage: mkrootfs [options] SUITE TARGET [MIRROR]
       mkrootfs [options] clone SOURCE TARGET

Make the root directory TARGET: a minimal Debian of SUITE (bullseye, bookworm,
trixie, forky, sid), or a copy of the root directory SOURCE.

  --include LIST            more packages, names joined by commas
  --components LIST         components of the archive [main]
  --arch ARCH               architecture [the host's]
  --cache DIR               keep downloads in DIR [~/.cache/slipway]
  --offline                 use the cache only
  --jobs N                  downloads at a time [8]
  --keyring FILE            keys that are trusted
                            [/usr/share/keyrings/debian-archive-keyring.gpg]
  --release-sha256 HEX      trust exactly this InRelease (or Release) file
  --no-check-gpg            trust the mirror without a signature
  --no-check-valid-until    accept an index that is past its date
  --progress WHEN           auto, line or none [auto]
  --keep                    keep what was made when it fails
  -v, --verbose             say more
  -h, --help                print this help
  -V, --version             print the version
";

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// A line that changes on a terminal, else a line a step.
    Auto,
    Line,
    None,
}

#[derive(Debug)]
pub struct Options {
    pub include: Vec<String>,
    pub components: Vec<String>,
    pub arch: Option<String>,
    pub cache: Option<PathBuf>,
    pub offline: bool,
    pub jobs: usize,
    pub keyring: Option<PathBuf>,
    pub release_sha256: Option<String>,
    pub check_gpg: bool,
    pub check_valid_until: bool,
    pub progress: Show,
    pub keep: bool,
    pub verbose: bool,
}

#[derive(Debug)]
pub enum Command {
    Help,
    Version,
    Bootstrap { suite: String, target: PathBuf, mirror: Option<String>, options: Options },
    Clone { source: PathBuf, target: PathBuf, options: Options },
}

pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command> {
    let mut parser = lexopt::Parser::from_args(arguments);
    parser.set_short_equals(false);
    let mut options = defaults();
    let mut words: Vec<OsString> = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("include") => options.include.extend(list(&mut parser, "--include", package_name)?),
            Long("components") => options.components = list(&mut parser, "--components", component)?,
            Long("arch") => options.arch = Some(checked(&mut parser, "--arch", package_name)?),
            Long("cache") => options.cache = Some(parser.value()?.into()),
            Long("offline") => options.offline = true,
            Long("jobs") => options.jobs = jobs(&parser.value()?.string()?)?,
            Long("keyring") => options.keyring = Some(parser.value()?.into()),
            Long("release-sha256") => {
                let text = checked(&mut parser, "--release-sha256", digest)?;
                options.release_sha256 = Some(text.to_ascii_lowercase());
            }
            Long("no-check-gpg") => options.check_gpg = false,
            Long("no-check-valid-until") => options.check_valid_until = false,
            Long("progress") => options.progress = show(&parser.value()?.string()?)?,
            Long("keep") => options.keep = true,
            Short('v') | Long("verbose") => options.verbose = true,
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            Value(word) => words.push(word),
            other => return Err(other.unexpected().into()),
        }
    }
    command(words, options)
}

fn defaults() -> Options {
    Options {
        include: Vec::new(),
        components: vec!["main".into()],
        arch: None,
        cache: None,
        offline: false,
        jobs: 8,
        keyring: None,
        release_sha256: None,
        check_gpg: true,
        check_valid_until: true,
        progress: Show::Auto,
        keep: false,
        verbose: false,
    }
}

fn command(words: Vec<OsString>, options: Options) -> Result<Command> {
    let mut words = words.into_iter();
    let first = words.next().ok_or_else(|| usage("SUITE and TARGET are missing"))?;
    let clone = first == "clone";
    let second =
        words.next().ok_or_else(|| usage(if clone { "SOURCE is missing" } else { "TARGET is missing" }))?;
    let third = words.next();
    if let Some(extra) = words.next() {
        bail!(usage(&format!("one argument too many: '{}'", std::path::Path::new(&extra).display())));
    }
    if clone {
        let target = third.ok_or_else(|| usage("TARGET is missing"))?;
        return Ok(Command::Clone { source: path(second)?, target: path(target)?, options });
    }
    let suite = first.string()?;
    if !suite_name(&suite) {
        bail!(usage(&format!("not the name of a suite: '{suite}'")));
    }
    let mirror = third.map(|word| word.string().map_err(anyhow::Error::from)).transpose()?;
    Ok(Command::Bootstrap { suite, target: path(second)?, mirror, options })
}

fn usage(text: &str) -> anyhow::Error {
    anyhow::Error::new(Usage(text.to_owned()))
}

fn path(word: OsString) -> Result<PathBuf> {
    if word.is_empty() {
        bail!(usage("a directory's name is empty"));
    }
    Ok(word.into())
}

fn checked(parser: &mut lexopt::Parser, option: &str, valid: fn(&str) -> bool) -> Result<String> {
    let text = parser.value()?.string()?;
    if !valid(&text) {
        bail!(usage(&format!("invalid value for '{option}': '{text}'")));
    }
    Ok(text)
}

fn list(parser: &mut lexopt::Parser, option: &str, valid: fn(&str) -> bool) -> Result<Vec<String>> {
    let text = parser.value()?.string()?;
    let words: Vec<String> = text.split([',', ' ']).filter(|w| !w.is_empty()).map(str::to_owned).collect();
    match words.iter().find(|word| !valid(word)) {
        Some(word) => bail!(usage(&format!("invalid value for '{option}': '{word}'"))),
        None if words.is_empty() => bail!(usage(&format!("'{option}' names nothing"))),
        None => Ok(words),
    }
}

/// Debian Policy 5.6.1, and the names of architectures.
fn package_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
}

/// A component becomes part of a URL and of a file name in the cache.
fn component(word: &str) -> bool {
    suite_name(word)
}

fn suite_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphanumeric())
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c))
}

fn digest(word: &str) -> bool {
    word.len() == 64 && word.chars().all(|c| c.is_ascii_hexdigit())
}

fn jobs(text: &str) -> Result<usize> {
    let number: usize =
        text.parse().with_context(|| Usage(format!("invalid value for '--jobs': '{text}'")))?;
    if !(1..=64).contains(&number) {
        bail!(usage(&format!("'--jobs' takes 1 to 64, not '{text}'")));
    }
    Ok(number)
}

fn show(text: &str) -> Result<Show> {
    match text {
        "auto" => Ok(Show::Auto),
        "line" => Ok(Show::Line),
        "none" => Ok(Show::None),
        _ => bail!(usage(&format!("'--progress' takes auto, line or none, not '{text}'"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Command> {
        parse(text.split_whitespace().map(OsString::from))
    }

    #[test]
    fn options_may_stand_anywhere() {
        let Command::Bootstrap { suite, target, mirror, options } =
            words("--include a,b trixie /t --offline http://example.org/debian --include=c").unwrap()
        else {
            panic!("not a bootstrap")
        };
        assert_eq!((suite.as_str(), target.to_str().unwrap()), ("trixie", "/t"));
        assert_eq!(mirror.as_deref(), Some("http://example.org/debian"));
        assert_eq!((options.include.join(" ").as_str(), options.offline), ("a b c", true));
    }

    #[test]
    fn what_is_malformed_is_named() {
        for (text, told) in [
            ("", "SUITE and TARGET are missing"),
            ("sid", "TARGET is missing"),
            ("clone a", "TARGET is missing"),
            ("sid /t m x", "one argument too many: 'x'"),
            ("../sid /t", "not the name of a suite: '../sid'"),
            ("--include A sid /t", "invalid value for '--include': 'A'"),
            ("--include , sid /t", "'--include' names nothing"),
            ("--components ../x sid /t", "invalid value for '--components': '../x'"),
            ("--jobs 0 sid /t", "'--jobs' takes 1 to 64, not '0'"),
            ("--release-sha256 12 sid /t", "invalid value for '--release-sha256': '12'"),
            ("--progress fast sid /t", "'--progress' takes auto, line or none, not 'fast'"),
        ] {
            let error = words(text).unwrap_err();
            assert!(error.chain().any(|e| e.is::<Usage>()), "{text}");
            assert_eq!(format!("{error:#}"), told, "{text}");
        }
        assert!(words("--fast sid /t").unwrap_err().is::<lexopt::Error>());
    }
}
