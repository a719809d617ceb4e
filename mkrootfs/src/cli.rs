//! cli: the command line (touches nothing).

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use lexopt::prelude::*;
use unshare::fail::Usage;

pub const HELP: &str = "\
Usage: mkrootfs [options] [bootstrap] SUITE TARGET [MIRROR...]
       mkrootfs [options] clone SOURCE TARGET
       mkrootfs [options] cache path|list|prune

Make the root directory TARGET: a minimal Debian of SUITE (bullseye, bookworm,
trixie, forky, sid), or a copy of the root directory SOURCE.

  --include LIST            more packages, names joined by commas
  --components LIST         components of the archive [main]
  --arch ARCH               architecture [the host's]
  --no-updates              without the suites of updates and security updates
  --snapshot DATE           the archive as it was, YYYYMMDDTHHMMSSZ
  --cache DIR               keep downloads in DIR [~/.cache/slipway]
  --no-base                 neither copy nor keep a finished root in the cache
  --offline                 use the cache only
  --jobs N                  downloads at a time [8]
  --keyring FILE            keys that are trusted [the ones of the distribution]
  --release-sha256 HEX      trust exactly this InRelease (or Release) file
  --no-check-gpg            trust the mirror without a signature
  --no-check-valid-until    accept an index or a key that is past its date
  --older DAYS              'cache prune': what was not used for so long [30]
  --progress WHEN           auto, line or none [auto]
  --keep                    keep what was made when it fails
  -v, --verbose             say more
  -h, --help                print this help
  -V, --version             print the version
";

/// Which commands an option is for: b(ootstrap), c(lone), k: cache.
const USES: [(&str, &str); 17] = [
    ("include", "b"),
    ("components", "b"),
    ("arch", "b"),
    ("no-updates", "b"),
    ("snapshot", "b"),
    ("cache", "bk"),
    ("no-base", "b"),
    ("offline", "b"),
    ("jobs", "b"),
    ("keyring", "b"),
    ("release-sha256", "b"),
    ("no-check-gpg", "b"),
    ("no-check-valid-until", "b"),
    ("older", "k"),
    ("progress", "bc"),
    ("keep", "bc"),
    ("verbose", "bc"),
];

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
    pub updates: bool,
    pub snapshot: Option<String>,
    pub cache: Option<PathBuf>,
    pub base: bool,
    pub offline: bool,
    pub jobs: usize,
    pub keyring: Option<PathBuf>,
    pub release_sha256: Vec<String>,
    pub check_gpg: bool,
    pub check_valid_until: bool,
    pub older: u64,
    pub progress: Show,
    pub keep: bool,
    pub verbose: bool,
}

#[derive(Debug)]
pub enum Command {
    Help,
    Version,
    Bootstrap { suite: String, target: PathBuf, mirrors: Vec<String>, options: Options },
    Clone { source: PathBuf, target: PathBuf, options: Options },
    Cache { action: CacheAction, options: Options },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheAction {
    Path,
    List,
    Prune,
}

pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command> {
    let mut parser = lexopt::Parser::from_args(arguments);
    parser.set_short_equals(false);
    let mut options = defaults();
    let mut words: Vec<OsString> = Vec::new();
    let mut given: Vec<&str> = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            Short('v') => options.verbose = true,
            Value(word) => words.push(word),
            Long(name) => {
                let known = USES.iter().map(|(known, _)| *known).find(|known| *known == name);
                let Some(name) = known else { return Err(argument.unexpected().into()) };
                given.push(name);
                option(name, &mut parser, &mut options)?;
            }
            other => return Err(other.unexpected().into()),
        }
    }
    command(words, options, &given)
}

fn option(name: &str, parser: &mut lexopt::Parser, options: &mut Options) -> Result<()> {
    match name {
        "include" => options.include.extend(list(parser, "--include", package_name)?),
        "components" => options.components = list(parser, "--components", component)?,
        "arch" => options.arch = Some(checked(parser, "--arch", package_name)?),
        "no-updates" => options.updates = false,
        "snapshot" => {
            options.snapshot = Some(checked(parser, "--snapshot", timestamp)?);
            // It was valid then.
            options.check_valid_until = false;
        }
        "cache" => options.cache = Some(parser.value()?.into()),
        "no-base" => options.base = false,
        "offline" => options.offline = true,
        "jobs" => options.jobs = number(parser, "--jobs", 1..=64)? as usize,
        "keyring" => options.keyring = Some(parser.value()?.into()),
        "release-sha256" => {
            options.release_sha256.push(checked(parser, "--release-sha256", digest)?.to_ascii_lowercase());
        }
        "no-check-gpg" => options.check_gpg = false,
        "no-check-valid-until" => options.check_valid_until = false,
        "older" => options.older = number(parser, "--older", 0..=36500)?,
        "progress" => options.progress = show(&parser.value()?.string()?)?,
        "keep" => options.keep = true,
        "verbose" => options.verbose = true,
        _ => unreachable!("every option of the table is listed here"),
    }
    Ok(())
}

fn defaults() -> Options {
    Options {
        include: Vec::new(),
        components: vec!["main".into()],
        arch: None,
        updates: true,
        snapshot: None,
        cache: None,
        base: true,
        offline: false,
        jobs: 8,
        keyring: None,
        release_sha256: Vec::new(),
        check_gpg: true,
        check_valid_until: true,
        older: 30,
        progress: Show::Auto,
        keep: false,
        verbose: false,
    }
}

fn command(words: Vec<OsString>, options: Options, given: &[&str]) -> Result<Command> {
    let mut words = words.into_iter().peekable();
    let first = words.peek().ok_or_else(|| usage("SUITE and TARGET are missing"))?;
    let (letter, name) = match first.to_str() {
        Some("clone") => ('c', "clone"),
        Some("cache") => ('k', "cache"),
        Some("bootstrap") => ('b', "bootstrap"),
        _ => ('b', ""),
    };
    if !name.is_empty() {
        words.next();
    }
    let stranger =
        given.iter().find(|word| USES.iter().any(|(n, uses)| n == *word && !uses.contains(letter)));
    if let Some(word) = stranger {
        let name = if name.is_empty() { "bootstrap" } else { name };
        bail!(usage(&format!("option '--{word}' is not for '{name}'")));
    }
    let mut next = |what: &str| words.next().ok_or_else(|| usage(&format!("{what} is missing")));
    let command = match letter {
        'c' => Command::Clone { source: path(next("SOURCE")?)?, target: path(next("TARGET")?)?, options },
        'k' => Command::Cache { action: cache_action(&next("path, list or prune")?.string()?)?, options },
        _ => {
            let suite = suite(&next("SUITE")?.string()?)?;
            let target = path(next("TARGET")?)?;
            let mirrors = words.by_ref().map(|word| Ok(word.string()?)).collect::<Result<_>>()?;
            Command::Bootstrap { suite, target, mirrors, options }
        }
    };
    match words.next() {
        Some(extra) => {
            bail!(usage(&format!("one argument too many: '{}'", std::path::Path::new(&extra).display())))
        }
        None => Ok(command),
    }
}

fn suite(word: &str) -> Result<String> {
    if !suite_name(word) {
        bail!(usage(&format!("not the name of a suite: '{word}'")));
    }
    Ok(word.to_owned())
}

fn cache_action(word: &str) -> Result<CacheAction> {
    match word {
        "path" => Ok(CacheAction::Path),
        "list" => Ok(CacheAction::List),
        "prune" => Ok(CacheAction::Prune),
        _ => bail!(usage(&format!("'cache' takes path, list or prune, not '{word}'"))),
    }
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

/// As snapshot archives name their states: 20250520T000000Z.
fn timestamp(word: &str) -> bool {
    let shape = |(at, c): (usize, char)| match at {
        8 => c == 'T',
        15 => c == 'Z',
        _ => c.is_ascii_digit(),
    };
    word.len() == 16 && word.chars().enumerate().all(shape)
}

fn number(parser: &mut lexopt::Parser, option: &str, range: RangeInclusive<u64>) -> Result<u64> {
    let text = parser.value()?.string()?;
    let number: u64 =
        text.parse().with_context(|| Usage(format!("invalid value for '{option}': '{text}'")))?;
    if !range.contains(&number) {
        let (from, to) = (range.start(), range.end());
        bail!(usage(&format!("'{option}' takes {from} to {to}, not '{text}'")));
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
        let Command::Bootstrap { suite, target, mirrors, options } =
            words("--include a,b trixie /t --offline http://example.org/debian --include=c").unwrap()
        else {
            panic!("not a bootstrap")
        };
        assert_eq!((suite.as_str(), target.to_str().unwrap()), ("trixie", "/t"));
        assert_eq!(mirrors, ["http://example.org/debian"]);
        assert_eq!((options.include.join(" ").as_str(), options.offline), ("a b c", true));
    }

    #[test]
    fn what_is_malformed_is_named() {
        for (text, told) in [
            ("", "SUITE and TARGET are missing"),
            ("sid", "TARGET is missing"),
            ("clone a", "TARGET is missing"),
            ("clone a b x", "one argument too many: 'x'"),
            ("bootstrap sid", "TARGET is missing"),
            ("cache", "path, list or prune is missing"),
            ("cache burn", "'cache' takes path, list or prune, not 'burn'"),
            ("clone a b --include x", "option '--include' is not for 'clone'"),
            ("sid /t --older 3", "option '--older' is not for 'bootstrap'"),
            ("--snapshot 2025 sid /t", "invalid value for '--snapshot': '2025'"),
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
