//! Equality with debootstrap, from a frozen mirror: the same tree, a system that works, and proof that a difference
//! would be found.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{system, tool};
use crate::{Place, sh};

const FREEZE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/freeze");

#[test]
#[ignore = "needs root: tests/run, and the network once"]
fn bullseye_equals_debootstraps() {
    equals_debootstraps("bullseye");
}

#[test]
#[ignore = "needs root: tests/run, and the network once"]
fn bookworm_equals_debootstraps() {
    equals_debootstraps("bookworm");
}

#[test]
#[ignore = "needs root: tests/run, and the network once"]
fn trixie_equals_debootstraps() {
    equals_debootstraps("trixie");
}

/// What apt would install without recommended packages, name by name and version by version. apt's answers stay in
/// the cache with the mirror.
#[test]
#[ignore = "needs root: tests/run, and the network once"]
fn twenty_sets_are_those_of_apt() {
    const SETS: [&str; 20] = [
        "apache2 php",
        "bind9",
        "build-essential",
        "cups",
        "default-jre-headless",
        "default-mta",
        "docker.io",
        "dovecot-imapd exim4",
        "git vim",
        "gnome-core",
        "libreoffice-writer",
        "mariadb-server",
        "network-manager",
        "nginx-light",
        "openssh-server",
        "openvswitch-switch",
        "postgresql samba",
        "python3 locales",
        "ruby rails",
        "systemd-sysv",
    ];
    let place = Place::new();
    let mirror = frozen("bookworm");
    let url = format!("file://{}", mirror.display());
    let ours = |set: &str| {
        let mut command = patiently(tool("mkrootfs"));
        command.args(["--no-updates", "--no-check-valid-until", "--cache"]).arg(place.at("cache"));
        if !set.is_empty() {
            command.args(["--include", &set.replace(' ', ",")]);
        }
        let list = said_by(command.args(["list", "bookworm", &url]));
        let mut found: Vec<String> =
            list.lines().map(|line| line.split('\t').take(2).collect::<Vec<_>>().join(" ")).collect();
        found.sort();
        found
    };
    let base: Vec<String> = ours("").iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    let kept = mirror.join(format!("apt-{:016x}", hash(include_bytes!("mkrootfs_equal.rs"))));
    let theirs = fs::read_to_string(&kept).unwrap_or_else(|_| {
        let answers = apts(&place, &url, &base.join(" "), &SETS);
        keep(&kept, &answers);
        answers
    });
    let mut largest = 0;
    for (set, line) in SETS.iter().zip(theirs.lines()) {
        let theirs: Vec<&str> = line.split(',').filter(|word| !word.is_empty()).collect();
        assert_eq!(ours(set), theirs, "{set}");
        largest = largest.max(theirs.len());
    }
    assert_eq!(theirs.lines().count(), SETS.len());
    assert!(largest > 500, "the largest set has {largest}");
}

/// A line a set: "name version", sorted, joined by commas.
fn apts(place: &Place, url: &str, base: &str, sets: &[&str]) -> String {
    const SCRIPT: &str = "cd \"$1\"; mkdir -p lists/partial cache/archives/partial etc; : >status; : >none
        echo \"deb $2 bookworm main\" >list; base=$3; shift 3
        cat >conf <<END
Dir::Etc { SourceList \"$PWD/list\"; SourceParts \"$PWD/etc\"; Main \"$PWD/none\"; Parts \"$PWD/etc\"; Preferences \"$PWD/none\"; PreferencesParts \"$PWD/etc\"; };
Dir::State { Lists \"$PWD/lists\"; Status \"$PWD/status\"; Extended_States \"$PWD/ext\"; };
Dir::Cache \"$PWD/cache\"; APT::Install-Recommends \"false\"; APT::Sandbox::User \"root\";
Acquire::Check-Valid-Until \"false\"; Acquire::Languages \"none\";
END
        # Read first, it keeps apt from this machine's own configuration.
        export APT_CONFIG=$PWD/conf
        apt-get -qq update
        for set; do apt-get -qq -s install $base $set | sed -n 's/^Inst \\([^ ]*\\) (\\([^ ]*\\) .*/\\1 \\2/p' | LC_ALL=C sort | tr '\\n' ,; echo; done";
    let dir = place.at("apt");
    fs::create_dir(&dir).unwrap();
    let mut command = patiently(system("sh"));
    said_by(command.args(["-euc", SCRIPT, "sh"]).arg(dir).args([url, base]).args(sets))
}

fn equals_debootstraps(suite: &str) {
    let place = Place::new();
    let (mirror, root) = (frozen(suite), place.at("root"));
    let url = format!("file://{}", mirror.display());
    let calls = place.at("calls");
    let mut command = patiently(system("strace"));
    command.args(["-f", "-qq", "--seccomp-bpf", "-e", "trace=execve", "-o"]).arg(&calls);
    command.arg(tool("mkrootfs"));
    command.args(["--progress=none", "--no-updates", "--no-base", "--no-check-valid-until", "--cache"]);
    command.arg(place.at("cache")).arg(suite).arg(&root).arg(&url);
    said_by(&mut command);
    // A hundred more would be calls for upgrades only.
    let calls = fs::read_to_string(calls).unwrap();
    let started = calls.matches("execve(").count();
    assert!(started < 350, "{started} programs were started");
    // As libc6 does after telling an init, where it believes that there is one.
    assert!(!calls.contains("[\"sleep\""));
    let (theirs, ours) = (debootstraps(suite, &place, &mirror), facts(&root));
    let differ = differ(&theirs, &ours);
    let shown: Vec<_> = differ.iter().map(|name| (name, theirs.get(*name), ours.get(*name))).collect();
    assert!(differ.is_empty(), "{suite}, theirs and ours: {shown:#?}");
    assert!(ours.len() > 5000, "compared too little");
    it_works(&root, &mirror);
    differences_are_found(&root);
}

/// These take seconds; on a machine that does much else they take as long as they do.
fn patiently(program: PathBuf) -> Command {
    let mut command = Command::new("timeout");
    command.arg("400").arg(program).stdin(Stdio::null());
    command
}

/// Two checks may do so at once.
fn keep(path: &Path, text: &str) {
    let aside = path.with_extension(std::process::id().to_string());
    fs::write(&aside, text).and_then(|()| fs::rename(&aside, path)).unwrap();
}

#[track_caller]
fn said_by(command: &mut Command) -> String {
    let ended = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{command:?}:\n{out}\n{err}");
    out.into_owned()
}

fn differ<'f>(one: &'f BTreeMap<String, String>, two: &'f BTreeMap<String, String>) -> Vec<&'f str> {
    let all: BTreeSet<&String> = one.keys().chain(two.keys()).collect();
    all.into_iter().filter(|name| one.get(*name) != two.get(*name)).map(String::as_str).collect()
}

/// The mirror is made once, and stays in the cache for later runs.
pub fn frozen(suite: &str) -> PathBuf {
    let cache = std::env::var_os("SLIPWAY_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").expect("a test knows its home");
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        base.unwrap_or_else(|| Path::new(&home).join(".cache")).join("slipway")
    });
    let dir = cache.join("frozen");
    let script = "mkdir -p \"$1\"; exec 9>\"$1/$2.lock\"; flock 9; [ -d \"$1/$2\" ] || \"$3\" \"$4\" \"$2\" \"$1/$2\" libyaml-0-2 9>&-";
    let mut command = patiently(system("sh"));
    command.args(["-euc", script, "sh"]).arg(&dir).arg(suite).arg(FREEZE).arg(tool("mkrootfs"));
    said_by(&mut command);
    dir.join(suite)
}

/// What debootstrap makes of it, as this file sees it; that is kept beside the mirror, as it takes five times as long as ours.
fn debootstraps(suite: &str, place: &Place, mirror: &Path) -> BTreeMap<String, String> {
    let version = sh("dpkg-query -W -f '${Version}' debootstrap", &[]);
    let key = format!("{version}-{:016x}", hash(include_bytes!("mkrootfs_equal.rs")));
    let kept = mirror.join(format!("debootstrap-{key}"));
    if let Ok(text) = fs::read_to_string(&kept) {
        let pair = |line: &str| line.split_once('\t').map(|(name, fact)| (name.to_owned(), fact.to_owned()));
        return text.lines().filter_map(pair).collect();
    }
    let root = place.at("theirs");
    let mut command = patiently(system("debootstrap"));
    command.args(["--variant=minbase", suite]).arg(&root).arg(format!("file://{}", mirror.display()));
    said_by(&mut command);
    let found = facts(&root);
    keep(&kept, &found.iter().map(|(name, fact)| format!("{name}\t{fact}\n")).collect::<String>());
    found
}

/// Its own tools find no fault, and a library that is installed later reaches the linker's cache by a trigger.
fn it_works(root: &Path, mirror: &Path) {
    const SCRIPT: &str = "mkdir -p \"$1$2\"; mount --bind \"$2\" \"$1$2\"; mount -t proc proc \"$1/proc\"; \
        exec chroot \"$1\" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 sh -euc \"$3\"";
    const INSIDE: &str = "dpkg --audit; dpkg -V; apt-get -qq check
        quiet='-qq -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root'
        apt-get $quiet update
        apt-get $quiet install libyaml-0-2 | grep -o 'Processing triggers for libc-bin'
        ldconfig -p | grep -o libyaml-0.so.2 | head -n 1
        apt-get $quiet remove libyaml-0-2 >/dev/null; dpkg --audit; dpkg-query -W -f '${Status}\n' | grep -v '^install ok installed$' || :";
    let mut command = patiently(system("unshare"));
    command
        .args(["-m", "-p", "-f", "--kill-child", "sh", "-euc", SCRIPT, "sh"])
        .arg(root)
        .arg(mirror)
        .arg(INSIDE);
    assert_eq!(said_by(&mut command), "Processing triggers for libc-bin\nlibyaml-0.so.2\n");
}

/// What would have been wrong without notice: each is a difference, and nothing else is.
fn differences_are_found(root: &Path) {
    let before = facts(root);
    let at = |name: &str| root.join(name);
    let mode = |name: &str, mode| fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    fs::remove_file(at("var/lib/dpkg/triggers/ldconfig")).unwrap();
    let status = fs::read_to_string(at("var/lib/dpkg/status")).unwrap();
    fs::write(at("var/lib/dpkg/status"), status.replacen("Conffiles:", "Config:", 1)).unwrap();
    mode("var/lib/dpkg/info/base-files.list", 0o666);
    mode("usr/bin/env", 0o700);
    fs::write(at("usr/share/more"), "").unwrap();
    let after = facts(root);
    let expected = [
        "usr/bin/env",
        "usr/share/more",
        "var/lib/dpkg/info/base-files.list",
        "var/lib/dpkg/status",
        "var/lib/dpkg/triggers/ldconfig",
    ];
    assert_eq!(differ(&before, &after), expected);
}

/// Every entry of a root with all that makes it what it is; what differs from run to run is left out.
pub fn facts(root: &Path) -> BTreeMap<String, String> {
    const IGNORED: [&str; 20] = [
        "var/cache/apt/",
        "var/lib/apt/lists/",
        "var/lib/apt/extended_states",
        "var/cache/ldconfig/aux-cache",
        "var/log/dpkg.log",
        "var/log/bootstrap.log",
        "var/log/alternatives.log",
        "var/log/apt/",
        "var/lib/dpkg/available",
        "var/lib/dpkg/cmethopt",
        "var/lib/dpkg/arch",
        "var/lib/dpkg/lock",
        "run/",
        "etc/apt/sources.list",
        "etc/resolv.conf",
        "etc/hostname",
        "etc/machine-id",
        "var/lib/dbus/machine-id",
        "var/cache/debconf/config.dat-old",
        "var/cache/debconf/templates.dat-old",
    ];
    let shipped = shipped(root);
    let mut facts = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let (path, data) = (entry.path(), entry.path().symlink_metadata().unwrap());
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if data.is_dir() {
                todo.push(path.clone());
            }
            let old = name.starts_with("var/lib/dpkg/") && name.ends_with("-old");
            if old || IGNORED.iter().any(|ignored| name.starts_with(ignored)) || name.ends_with("/partial") {
                continue;
            }
            let fact = format!(
                "mode {:o} owner {}:{} links {} device {} time {} {}",
                data.mode(),
                data.uid(),
                data.gid(),
                if data.is_dir() { 0 } else { data.nlink() },
                data.rdev(),
                if !data.is_dir() && shipped.contains(&name) { data.mtime() } else { 0 },
                content(&name, &path, &data)
            );
            facts.insert(name, fact);
        }
    }
    facts
}

/// The paths that packages bring, below /usr where that is where they end.
fn shipped(root: &Path) -> HashSet<String> {
    let lists = fs::read_dir(root.join("var/lib/dpkg/info")).unwrap().map(|entry| entry.unwrap().path());
    let lists = lists.filter(|path| path.extension().is_some_and(|end| end == "list"));
    let text: String = lists.map(|path| fs::read_to_string(path).unwrap()).collect();
    let merged = |path: &str| ["bin/", "sbin/", "lib/", "lib64/"].iter().any(|top| path.starts_with(top));
    // Links that are there before the package that has them, or that its scripts make anew.
    const MADE: [&str; 9] = [
        "var/run",
        "var/lock",
        "bin",
        "sbin",
        "lib",
        "lib64",
        "bin/sh",
        "usr/bin/sh",
        "usr/share/man/man1/sh.1.gz",
    ];
    let paths = text.lines().map(|line| line[1..].to_owned()).filter(|path| !MADE.contains(&path.as_str()));
    paths.map(|path| if merged(&path) { format!("usr/{path}") } else { path }).collect()
}

fn content(name: &str, path: &Path, data: &fs::Metadata) -> String {
    if data.is_symlink() {
        return fs::read_link(path).unwrap().display().to_string();
    }
    if !data.is_file() {
        return String::new();
    }
    let text = fs::read(path).unwrap();
    let sorted = |sep: &str| {
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut parts: Vec<&str> = text.split(sep).collect();
        parts.sort();
        parts.join(sep)
    };
    let text = match name {
        "etc/shells" | "var/lib/dpkg/triggers/File" => sorted("\n").into_bytes(),
        "var/lib/dpkg/status" => sorted("\n\n").into_bytes(),
        // The third field is the day on which it was made.
        _ if name.starts_with("etc/shadow") => {
            let line = |line: &str| {
                line.split(':').enumerate().filter(|(i, _)| *i != 2).map(|(_, f)| format!("{f}:")).collect()
            };
            String::from_utf8_lossy(&text).lines().map(line).collect::<Vec<String>>().join("\n").into_bytes()
        }
        _ => text,
    };
    format!("bytes {} hash {:016x}", text.len(), hash(&text))
}

/// FNV-1a: the same in all builds, as some of these are kept.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
