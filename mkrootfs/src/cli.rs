//! cli: the command line (touches nothing).

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use lexopt::prelude::*;
use unshare::fail::{Usage, usage};

use crate::clone::By;
use crate::resolve::Variant;
use crate::target::{self, Form};

pub const HELP: &str = "\
Usage: mkrootfs [options] [bootstrap] SUITE TARGET [MIRROR...]
       mkrootfs [options] list SUITE [MIRROR...]
       mkrootfs [options] clone SOURCE TARGET
       mkrootfs [options] pack SOURCE TARGET
       mkrootfs [options] unpack ARCHIVE TARGET
       mkrootfs [options] configure DIRECTORY
       mkrootfs verify DIRECTORY
       mkrootfs diff DIRECTORY DIRECTORY
       mkrootfs [options] cache path|list|prune

Make the root directory TARGET: a minimal Debian of SUITE (bullseye, bookworm,
trixie, forky, sid), a copy of the root directory SOURCE, or what is in ARCHIVE
(tar, container image; - for standard input). TARGET may be a file that ends
with .tar, .tar.gz, .tar.zst, .tar.xz, .squashfs, .erofs or .ext4; - is a tar on
standard output.

  --variant NAME            essential, apt, minbase, buildd, important, standard
                            [minbase]
  --include LIST            more packages, names joined by commas
  --exclude LIST            packages that are left out
  --components LIST         components of the archive [main]
  --arch ARCH               architecture [the host's]
  --no-updates              without the suites of updates and security updates
  --extra-suites LIST       more suites of the same mirror
  --snapshot DATE           the archive as it was, YYYYMMDDTHHMMSSZ
  --lock FILE               the very set of packages that FILE says; it is
                            written when it is not there
  --merged-usr, --no-merged-usr
                            /bin, /sbin and /lib are links into /usr, or not
                            [as the suite has it]
  --foreign                 unpack only; 'configure' does the rest, elsewhere
  --setup-hook COMMAND      run before the packages are unpacked,
  --extract-hook COMMAND    before they are configured,
  --customize-hook COMMAND  and at the end, with the root directory as $1
  --cache DIR               keep downloads in DIR [~/.cache/slipway]
  --no-base                 neither copy nor keep a finished root in the cache
  --offline                 use the cache only
  --jobs N                  downloads at a time [8]
  --keyring FILE            keys that are trusted [the ones of the distribution]
  --release-sha256 HEX      trust exactly this InRelease (or Release) file
  --no-check-gpg            trust the mirror without a signature
  --no-check-valid-until    accept an index or a key that is past its date
  --format FORM             directory, tar, squashfs, erofs or ext4, whatever
                            the name of TARGET ends with
  --overlay, --snapshot, --reflink, --copy
                            'clone': in this way, not in the best there is
  --devices                 'unpack': make devices, too
  --json                    'list': as JSON
  --print-debs              only the names of the packages, on a line
  --older DAYS              'cache prune': what was not used for so long [30]
  --progress WHEN           auto, line, json or none [auto]
  --keep                    keep what was made when it fails
  -v, --verbose             say more
  --cache-dir, --architectures, --simulate, --dry-run
                            others: --cache, --arch, --print-debs
  -h, --help                print this help
  -V, --version             print the version
";

/// Which commands an option is for: b(ootstrap), l(ist), c(lone), p(ack), u(npack),
/// s: configure, the second stage, v(erify), d(iff), k: cache.
const USES: [(&str, &str); 34] = [
    ("variant", "bl"),
    ("include", "bl"),
    ("exclude", "bl"),
    ("components", "bl"),
    ("arch", "blu"),
    ("no-updates", "bl"),
    ("extra-suites", "bl"),
    ("snapshot", "blc"),
    ("lock", "bl"),
    ("merged-usr", "bl"),
    ("no-merged-usr", "bl"),
    ("foreign", "b"),
    ("setup-hook", "b"),
    ("extract-hook", "b"),
    ("customize-hook", "b"),
    ("cache", "blk"),
    ("no-base", "b"),
    ("offline", "bl"),
    ("jobs", "bl"),
    ("keyring", "bl"),
    ("release-sha256", "bl"),
    ("no-check-gpg", "bl"),
    ("no-check-valid-until", "bl"),
    ("format", "bcp"),
    ("overlay", "c"),
    ("reflink", "c"),
    ("copy", "c"),
    ("devices", "u"),
    ("json", "l"),
    ("print-debs", "bl"),
    ("older", "k"),
    ("progress", "bcpus"),
    ("keep", "bcu"),
    ("verbose", "bcpus"),
];

/// Words of debootstrap and mmdebstrap for what has another here.
const ALIASES: [(&str, &str); 4] = [
    ("cache-dir", "cache"),
    ("architectures", "arch"),
    ("simulate", "print-debs"),
    ("dry-run", "print-debs"),
];

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// A line that changes on a terminal, else a line a step.
    Auto,
    Line,
    /// An object a line: {"step": TEXT}, {"state": TEXT}.
    Json,
    None,
}

#[derive(Debug)]
pub struct Options {
    pub variant: Variant,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub components: Vec<String>,
    pub arch: Option<String>,
    pub updates: bool,
    pub extra_suites: Vec<String>,
    pub snapshot: Option<String>,
    pub lock: Option<PathBuf>,
    /// None: as the suite has it.
    pub merged: Option<bool>,
    pub foreign: bool,
    pub setup_hooks: Vec<String>,
    pub extract_hooks: Vec<String>,
    pub customize_hooks: Vec<String>,
    pub cache: Option<PathBuf>,
    pub base: bool,
    pub offline: bool,
    pub jobs: usize,
    pub keyring: Option<PathBuf>,
    pub release_sha256: Vec<String>,
    pub check_gpg: bool,
    pub check_valid_until: bool,
    /// None: as the name of the target says.
    pub format: Option<Form>,
    pub clone_by: By,
    pub devices: bool,
    pub json: bool,
    /// 'list' prints names only.
    pub names: bool,
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
    List { suite: String, mirrors: Vec<String>, options: Options },
    Clone { source: PathBuf, target: PathBuf, options: Options },
    Pack { source: PathBuf, target: PathBuf, options: Options },
    Unpack { source: PathBuf, target: PathBuf, options: Options },
    Configure { root: PathBuf, options: Options },
    Verify { root: PathBuf },
    Diff { one: PathBuf, two: PathBuf },
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
            Short('v') => {
                given.push("verbose");
                options.verbose = true;
            }
            Value(word) => words.push(word),
            Long(name) => {
                let name = ALIASES.iter().find(|(theirs, _)| *theirs == name).map_or(name, |(_, ours)| ours);
                let known = USES.iter().map(|(known, _)| *known).find(|known| *known == name);
                let Some(name) = known else { return Err(argument.unexpected().into()) };
                given.push(name);
                // One word for two things: a date for a bootstrap, a way to clone.
                if name == "snapshot" && words.first().is_some_and(|word| word == "clone") {
                    options.clone_by = By::Snapshot;
                    continue;
                }
                option(name, &mut parser, &mut options)?;
            }
            other => return Err(other.unexpected().into()),
        }
    }
    command(words, options, &given)
}

fn option(name: &str, parser: &mut lexopt::Parser, options: &mut Options) -> Result<()> {
    match name {
        "variant" => {
            let word = parser.value()?.string()?;
            let known = Variant::parse(&word);
            options.variant = known.ok_or_else(|| {
                let words = "essential, apt, minbase, buildd, important or standard";
                usage(format!("'--variant' takes {words}, not '{word}'"))
            })?;
        }
        "exclude" => options.exclude.extend(list(parser, "--exclude", package_name)?),
        "extra-suites" => options.extra_suites.extend(list(parser, "--extra-suites", suite_name)?),
        "lock" => options.lock = Some(path(parser.value()?)?),
        "merged-usr" => options.merged = Some(true),
        "no-merged-usr" => options.merged = Some(false),
        "foreign" => options.foreign = true,
        "setup-hook" => options.setup_hooks.push(parser.value()?.string()?),
        "extract-hook" => options.extract_hooks.push(parser.value()?.string()?),
        "customize-hook" => options.customize_hooks.push(parser.value()?.string()?),
        "format" => {
            let word = parser.value()?.string()?;
            options.format = target::parse(&word).ok_or_else(|| {
                let words = "directory, tar, squashfs, erofs or ext4";
                usage(format!("'--format' takes {words}, not '{word}'"))
            })?;
        }
        "overlay" => options.clone_by = By::Overlay,
        "reflink" => options.clone_by = By::Reflink,
        "copy" => options.clone_by = By::Copy,
        "devices" => options.devices = true,
        "json" => options.json = true,
        "print-debs" => options.names = true,
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
        variant: Variant::Minbase,
        include: Vec::new(),
        exclude: Vec::new(),
        components: vec!["main".into()],
        arch: None,
        updates: true,
        extra_suites: Vec::new(),
        snapshot: None,
        lock: None,
        merged: None,
        foreign: false,
        setup_hooks: Vec::new(),
        extract_hooks: Vec::new(),
        customize_hooks: Vec::new(),
        cache: None,
        base: true,
        offline: false,
        jobs: 8,
        keyring: None,
        release_sha256: Vec::new(),
        check_gpg: true,
        check_valid_until: true,
        format: None,
        clone_by: By::Best,
        devices: false,
        json: false,
        names: false,
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
        Some("list") => ('l', "list"),
        Some("clone") => ('c', "clone"),
        Some("pack") => ('p', "pack"),
        Some("unpack") => ('u', "unpack"),
        Some("configure") => ('s', "configure"),
        Some("verify") => ('v', "verify"),
        Some("diff") => ('d', "diff"),
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
        bail!(usage(format!("option '--{word}' is not for '{name}'")));
    }
    let mut next = |what: &str| words.next().ok_or_else(|| usage(format!("{what} is missing")));
    let command = match letter {
        'c' => Command::Clone { source: path(next("SOURCE")?)?, target: path(next("TARGET")?)?, options },
        'p' => Command::Pack { source: path(next("SOURCE")?)?, target: path(next("TARGET")?)?, options },
        'u' => Command::Unpack { source: path(next("ARCHIVE")?)?, target: path(next("TARGET")?)?, options },
        's' => Command::Configure { root: path(next("DIRECTORY")?)?, options },
        'v' => Command::Verify { root: path(next("DIRECTORY")?)? },
        'd' => Command::Diff { one: path(next("DIRECTORY")?)?, two: path(next("DIRECTORY")?)? },
        'k' => Command::Cache { action: cache_action(&next("path, list or prune")?.string()?)?, options },
        'l' => {
            let suite = suite(&next("SUITE")?.string()?)?;
            Command::List { suite, mirrors: texts(&mut words)?, options }
        }
        // As debootstrap has it: a target is named, and not touched.
        _ if options.names => {
            let suite = suite(&next("SUITE")?.string()?)?;
            next("TARGET")?;
            Command::List { suite, mirrors: texts(&mut words)?, options }
        }
        _ => {
            let suite = suite(&next("SUITE")?.string()?)?;
            let target = path(next("TARGET")?)?;
            Command::Bootstrap { suite, target, mirrors: texts(&mut words)?, options }
        }
    };
    match words.next() {
        Some(extra) => {
            bail!(usage(format!("one argument too many: '{}'", std::path::Path::new(&extra).display())))
        }
        None => Ok(command),
    }
}

fn texts(words: &mut impl Iterator<Item = OsString>) -> Result<Vec<String>> {
    words.map(|word| Ok(word.string()?)).collect()
}

fn suite(word: &str) -> Result<String> {
    if !suite_name(word) {
        bail!(usage(format!("not the name of a suite: '{word}'")));
    }
    Ok(word.to_owned())
}

fn cache_action(word: &str) -> Result<CacheAction> {
    match word {
        "path" => Ok(CacheAction::Path),
        "list" => Ok(CacheAction::List),
        "prune" => Ok(CacheAction::Prune),
        _ => bail!(usage(format!("'cache' takes path, list or prune, not '{word}'"))),
    }
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
        bail!(usage(format!("invalid value for '{option}': '{text}'")));
    }
    Ok(text)
}

fn list(parser: &mut lexopt::Parser, option: &str, valid: fn(&str) -> bool) -> Result<Vec<String>> {
    let text = parser.value()?.string()?;
    let words: Vec<String> = text.split([',', ' ']).filter(|w| !w.is_empty()).map(str::to_owned).collect();
    match words.iter().find(|word| !valid(word)) {
        Some(word) => bail!(usage(format!("invalid value for '{option}': '{word}'"))),
        None if words.is_empty() => bail!(usage(format!("'{option}' names nothing"))),
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
        bail!(usage(format!("'{option}' takes {from} to {to}, not '{text}'")));
    }
    Ok(number)
}

fn show(text: &str) -> Result<Show> {
    match text {
        "auto" => Ok(Show::Auto),
        "line" => Ok(Show::Line),
        "json" => Ok(Show::Json),
        "none" => Ok(Show::None),
        _ => bail!(usage(format!("'--progress' takes auto, line, json or none, not '{text}'"))),
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
            ("--progress fast sid /t", "'--progress' takes auto, line, json or none, not 'fast'"),
        ] {
            let error = words(text).unwrap_err();
            assert!(error.chain().any(|e| e.is::<Usage>()), "{text}");
            assert_eq!(format!("{error:#}"), told, "{text}");
        }
        assert!(words("--fast sid /t").unwrap_err().is::<lexopt::Error>());
    }
}
