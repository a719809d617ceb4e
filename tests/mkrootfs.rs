//! The real mkrootfs binary against small archives that the tests make, served from a directory or over HTTP on
//! loopback. The fake "dpkg" package is the host's own dpkg with its libraries, so that the configuring is real.

mod common;
mod mkrootfs_equal;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{Outcome, docs_agree, eventually, finish, run, system, tool, unique};
use mkrootfs_equal::{facts, frozen};

// ---- a place and an archive for each test ----

/// A directory of the test's own, removed at its end.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("mkrootfs"));
        fs::create_dir_all(&dir).unwrap();
        Place(dir)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What lies in it, for "nothing is left".
    fn names(&self, dir: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.at(dir))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn sh(script: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("sh");
    command.args(["-euc", script, "sh"]).args(arguments);
    finish(command, "").ended_with(0).out
}

struct Archive {
    place: Place,
    packages: String,
    /// Of what is added next.
    version: &'static str,
}

/// One file of a package.
type Entry<'a> = (&'a str, &'a str, u32);

impl Archive {
    /// What every bootstrap needs: dpkg, a shell, base-files and apt.
    fn new() -> Archive {
        let mut archive = Archive { place: Place::new(), packages: String::new(), version: "1" };
        fs::create_dir_all(archive.place.at("mirror/pool")).unwrap();
        fs::create_dir_all(archive.place.at("out")).unwrap();
        archive.dpkg();
        let files = [("etc/base.conf", "plain\n", 0o644), ("usr/share/doc/base", "x\n", 0o644)];
        archive.add(
            "base-files",
            "Priority: required\nPre-Depends: dpkg",
            &files,
            &[("conffiles", "/etc/base.conf\n")],
        );
        archive.add("apt", "Depends: libapt | none", &[], &[]);
        archive.add(
            "libapt",
            "Multi-Arch: same",
            &[("usr/lib/libapt", "x", 0o644)],
            &[("triggers", "interest-noawait lib\n")],
        );
        archive
    }

    fn add(&mut self, name: &str, fields: &str, files: &[Entry], control: &[(&str, &str)]) {
        let tree = self.place.at(&format!("{name}-tree"));
        for (path, text, mode) in files {
            let path = tree.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        for (file, text) in control {
            fs::write(tree.join("DEBIAN").join(file), text).unwrap();
            let mode = if file.contains("inst") { 0o755 } else { 0o644 };
            fs::set_permissions(tree.join("DEBIAN").join(file), fs::Permissions::from_mode(mode)).unwrap();
        }
        self.build(&tree, name, fields);
    }

    /// The package with the host's dpkg: it is made once for all tests that run side by side, and lies in the
    /// target directory for those to come.
    fn dpkg(&mut self) {
        let stamp = fs::metadata(system("dpkg")).unwrap().mtime();
        let kept =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mkrootfs-dpkg-{stamp}-{}", HOST_DPKG.len()));
        let (deb, index) = (kept.with_extension("deb"), kept.with_extension("index"));
        let lock = fs::File::create(kept.with_extension("lock")).unwrap();
        let _lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
        if !index.exists() {
            let tree = self.place.at("dpkg-tree");
            sh(HOST_DPKG, &[tree.to_str().unwrap()]);
            fs::create_dir(tree.join("proc")).unwrap();
            self.build(&tree, "dpkg", "Essential: yes");
            fs::copy(self.deb("dpkg"), &deb).unwrap();
            fs::write(&index, std::mem::take(&mut self.packages)).unwrap();
        }
        let _ = fs::remove_file(self.deb("dpkg"));
        fs::copy(&deb, self.deb("dpkg")).unwrap();
        self.packages += &fs::read_to_string(&index).unwrap();
    }

    fn build(&mut self, tree: &Path, name: &str, fields: &str) {
        let fields = if fields.is_empty() { String::new() } else { format!("{fields}\n") };
        let control = format!(
            "Package: {name}\nVersion: {}\nArchitecture: amd64\nMaintainer: t <t@example.org>\n{fields}\
             Installed-Size: 1000\nDescription: test\n",
            self.version
        );
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        fs::write(tree.join("DEBIAN/control"), &control).unwrap();
        // dpkg --audit misses the sums where there are none.
        let sums = "cd \"$1\"; find . -path ./DEBIAN -prune -o -type f -printf '%P\\0' | xargs -0r md5sum > DEBIAN/md5sums";
        sh(sums, &[tree.to_str().unwrap()]);
        let deb = self.deb(name);
        sh(
            "dpkg-deb --root-owner-group -Zgzip -z1 -b \"$1\" \"$2\" >/dev/null",
            &[tree.to_str().unwrap(), deb.to_str().unwrap()],
        );
        self.index(name, &control);
    }

    fn index(&mut self, name: &str, control: &str) {
        let deb = self.deb(name);
        let (size, sha) = (fs::metadata(&deb).unwrap().len(), sha256(&deb));
        let file = deb.file_name().unwrap().to_str().unwrap();
        self.packages += &format!("{control}Filename: pool/{file}\nSize: {size}\nSHA256: {sha}\n\n");
    }

    fn deb(&self, name: &str) -> PathBuf {
        let version = if self.version == "1" { String::new() } else { format!("-{}", self.version) };
        self.place.at(&format!("mirror/pool/{name}{version}.deb"))
    }

    fn suite(&self) -> PathBuf {
        self.place.at("mirror/dists/bookworm")
    }

    /// Writes the index and the Release file; gives the latter's SHA-256.
    fn publish(&self, dates: &str) -> String {
        self.publish_as("bookworm", &format!("Suite: stable\n{dates}"), &self.packages)
    }

    fn publish_as(&self, suite: &str, fields: &str, packages: &str) -> String {
        let top = self.place.at("mirror/dists").join(suite);
        let dir = top.join("main/binary-amd64");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("Packages"), packages).unwrap();
        sh("cd \"$1\"; rm -f Packages.gz; gzip -1nk Packages; rm Packages", &[dir.to_str().unwrap()]);
        let packed = dir.join("Packages.gz");
        let (size, sha) = (fs::metadata(&packed).unwrap().len(), sha256(&packed));
        let text = format!(
            "Codename: {suite}\n{fields}Architectures: amd64\nComponents: main\n\
             SHA256:\n {sha} {size} main/binary-amd64/Packages.gz\n"
        );
        fs::write(top.join("Release"), text).unwrap();
        sha256(&top.join("Release"))
    }

    fn url(&self) -> String {
        format!("file://{}", self.place.at("mirror").display())
    }

    fn command(&self, options: &[&str], mirror: &str) -> Command {
        let mut command = Command::new(tool("mkrootfs"));
        command
            .args(["--progress=none", "--arch=amd64", "--cache"])
            .arg(self.place.at("cache"))
            .args(options);
        command.arg("bookworm").arg(self.place.at("out/root")).arg(mirror);
        command
    }

    /// Runs the tool on it, trusting what is published now.
    fn run(&self, options: &[&str]) -> Outcome {
        self.run_from(&self.url(), options)
    }

    fn run_from(&self, mirror: &str, options: &[&str]) -> Outcome {
        let pin = self.publish("");
        finish(self.command(&[&["--release-sha256", &pin], options].concat(), mirror), "")
    }

    #[track_caller]
    fn nothing_is_left(&self) {
        assert!(self.place.names("out").is_empty(), "left: {:?}", self.place.names("out"));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.place.0.to_str().unwrap()), "a mount is left");
    }
}

/// The host's dpkg, sh and what dpkg insists on, with their libraries.
const HOST_DPKG: &str = r#"
for program in dpkg dpkg-query dpkg-deb dpkg-split dpkg-divert sh rm tar diff ldconfig start-stop-daemon cat stat chown; do
    file=$(PATH=/usr/sbin:/usr/bin:/sbin:/bin command -v $program)
    real=$(readlink -f "$file")
    for each in $real $(ldd "$real" | grep -o '/[^ ]*'); do
        mkdir -p "$1/usr/bin" "$1/usr${each%/*}"
        case $each in
        "$real") cp -L "$each" "$1/usr/bin/$program" ;;
        /usr/*) mkdir -p "$1${each%/*}"; cp -L "$each" "$1$each" ;;
        *) cp -L "$each" "$1/usr$each" ;;
        esac
    done
done
"#;

fn sha256(path: &Path) -> String {
    sh("sha256sum < \"$1\"", &[path.to_str().unwrap()])[..64].to_owned()
}

// ---- a server whose faults can be chosen ----

/// What goes wrong with the next request of a path.
#[derive(Clone, Copy)]
enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// No answer at all.
    Hang,
    Gone,
    /// Another file's text.
    Instead(&'static str),
    /// As of a mirror that is far away: the last byte comes much later.
    Late,
}

struct Server {
    url: String,
    /// Every request: its path and where it begins.
    log: Arc<Mutex<Vec<(String, u64)>>>,
    faults: Arc<Mutex<HashMap<String, Fault>>>,
}

impl Server {
    fn new(root: PathBuf) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (log, faults) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(HashMap::new())));
        let server = Server { url, log: Arc::clone(&log), faults: Arc::clone(&faults) };
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (root, log, faults) = (root.clone(), Arc::clone(&log), Arc::clone(&faults));
                thread::spawn(move || answer(stream, &root, &log, &faults));
            }
        });
        server
    }

    fn fault(&self, path: &str, fault: Fault) {
        self.faults.lock().unwrap().insert(path.to_owned(), fault);
    }

    fn asked(&self, path: &str) -> Vec<u64> {
        self.log.lock().unwrap().iter().filter(|(p, _)| p == path).map(|(_, from)| *from).collect()
    }
}

fn answer(
    mut stream: TcpStream,
    root: &Path,
    log: &Mutex<Vec<(String, u64)>>,
    faults: &Mutex<HashMap<String, Fault>>,
) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(path) = lines.next().and_then(|line| Some(line.split(' ').nth(1)?.to_owned())) else { return };
    let mut from = 0;
    for line in lines.take_while(|line| !line.is_empty()) {
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().unwrap();
        }
    }
    log.lock().unwrap().push((path.clone(), from));
    let fault = faults.lock().unwrap().remove(&path);
    let body = match fault {
        Some(Fault::Gone) => None,
        Some(Fault::Instead(text)) => Some(text.into()),
        _ => fs::read(root.join(&path[1..])).ok(),
    };
    let mut send = |head: &str, body: &[u8]| {
        let _ = stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes());
        let _ = stream.write_all(body);
    };
    match (body, fault) {
        (_, Some(Fault::Hang)) => drop(stream.read(&mut [0])),
        (None, _) => send("404 Not Found\r\nContent-Length: 0", b""),
        (Some(body), _) if from as usize >= body.len() && from > 0 => {
            send("416 Range\r\nContent-Length: 0", b"")
        }
        (Some(body), Some(Fault::Cut(after))) => {
            send(&format!("200 OK\r\nContent-Length: {}", body.len()), &body[..after])
        }
        (Some(body), Some(Fault::Late)) => {
            let (first, last) = body.split_at(body.len() - 1);
            send(&format!("200 OK\r\nContent-Length: {}", body.len()), first);
            thread::sleep(Duration::from_secs(1));
            let _ = stream.write_all(last);
        }
        (Some(body), _) if from > 0 => {
            let rest = &body[from as usize..];
            let head = format!(
                "206 Part\r\nContent-Range: bytes {from}-{}/{}\r\nContent-Length: {}",
                body.len() - 1,
                body.len(),
                rest.len()
            );
            send(&head, rest);
        }
        (Some(body), _) => send(&format!("200 OK\r\nContent-Length: {}", body.len()), &body),
    }
}

// ---- the command line ----

#[test]
fn help_man_page_and_completion_agree() {
    docs_agree("mkrootfs", "mkrootfs.8");
}

#[test]
fn misuse_is_status_2() {
    run("mkrootfs", &[]).ended_with(2).said("mkrootfs: SUITE and TARGET are missing");
    run("mkrootfs", &["--fast"]).ended_with(2).said("--fast");
    run("mkrootfs", &["sid", "/nowhere/t", "ftp://example.org"])
        .ended_with(2)
        .said("hint: it begins with http://");
    run("mkrootfs", &["--arch=s390x", "sid", "/nowhere/t"])
        .ended_with(2)
        .said("hint: apt-get install qemu-user-static");
}

// ---- the good case ----

#[test]
#[ignore = "needs root: tests/run"]
fn a_root_is_made_configured_and_whole() {
    let mut archive = Archive::new();
    archive.add("hello", "Depends: common | other", &[("usr/bin/hello", "#!/bin/sh\necho hello\n", 0o4755)],
        &[("postinst", "#!/bin/sh\nset -e\nid=$(cat /proc/self/stat); echo \"$1 $$\" > /etc/hello\n/usr/sbin/policy-rc.d && exit 9\n[ -c /proc/1/root/null ]\n[ ! -e /proc/1/root/etc ]\n")]);
    archive.add(
        "common",
        "",
        &[],
        &[(
            "preinst",
            "#!/bin/sh\ntest -f /var/lib/dpkg/tmp.ci/control && echo $DPKG_MAINTSCRIPT_PACKAGE > /etc/pre\n",
        )],
    );
    archive.run(&["--include=hello"]).ended_with(0);
    assert_eq!(archive.place.names("out"), ["root"]);
    let read = |path: &str| fs::read_to_string(archive.place.at("out/root").join(path)).unwrap();
    let status = read("var/lib/dpkg/status");
    assert_eq!(status.matches("Status: install ok installed\n").count(), 6, "{status}");
    let md5 = sh("printf 'plain\\n' | md5sum", &[]);
    assert!(status.contains(&format!("Conffiles:\n /etc/base.conf {}\n", &md5[..32])), "{status}");
    assert!(read("etc/hello").starts_with("configure "));
    assert_eq!(read("etc/pre"), "common\n");
    assert_eq!(
        read("var/lib/dpkg/info/base-files.list"),
        "/.\n/etc\n/etc/base.conf\n/usr\n/usr/share\n/usr/share/doc\n/usr/share/doc/base\n"
    );
    assert_eq!(read("var/lib/dpkg/triggers/lib"), "libapt:amd64/noawait\n");
    assert_eq!(read("etc/apt/sources.list"), format!("deb {} bookworm main\n", archive.url()));
    assert_eq!(
        read("var/lib/apt/extended_states"),
        "Package: common\nArchitecture: amd64\nAuto-Installed: 1\n\n\
         Package: libapt\nArchitecture: amd64\nAuto-Installed: 1\n\n"
    );
    let root = archive.place.at("out/root");
    assert!(!root.join("usr/sbin/policy-rc.d").exists() && !root.join("var/lib/dpkg/tmp.ci").exists());
    assert_eq!(fs::read_link(root.join("bin")).unwrap(), Path::new("usr/bin"));
    assert_eq!(fs::metadata(root.join("usr/bin/hello")).unwrap().mode() & 0o7777, 0o4755);
    assert_eq!(fs::metadata(root.join("dev/null")).unwrap().rdev(), 0x103);
    let mut audit = Command::new("chroot");
    audit.arg(&root).args(["dpkg", "--audit"]);
    finish(audit, "").ended_with(0).printed("");
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_second_run_needs_no_network() {
    let archive = Archive::new();
    let server = Server::new(archive.place.at("mirror"));
    archive.run_from(&server.url, &["--offline"]).ended_with(3).said("--offline was given");
    archive.run_from(&server.url, &[]).ended_with(0);
    fs::remove_dir_all(archive.place.at("out/root")).unwrap();
    let before = server.log.lock().unwrap().len();
    archive.run_from(&server.url, &["--offline"]).ended_with(0);
    assert_eq!(server.log.lock().unwrap().len(), before);
}

#[test]
#[ignore = "needs root: tests/run"]
fn two_runs_at_once_share_a_cache() {
    let archive = Archive::new();
    let server = Server::new(archive.place.at("mirror"));
    let pin = archive.publish("");
    let start = |name: &str| {
        let mut command = Command::new(tool("mkrootfs"));
        command.args(["--progress=none", "--release-sha256", &pin, "--cache"]).arg(archive.place.at("cache"));
        command.arg("bookworm").arg(archive.place.at("out").join(name)).arg(&server.url);
        command.spawn().unwrap()
    };
    let runs = [start("a"), start("b")];
    for mut run in runs {
        assert!(run.wait().unwrap().success());
    }
    assert_eq!(archive.place.names("out"), ["a", "b"]);
    assert_eq!(server.asked("/pool/dpkg.deb"), [0]);
}

// ---- several suites, several mirrors ----

#[test]
#[ignore = "needs root: tests/run"]
fn corrections_are_part_of_a_suite() {
    let mut archive = Archive::new();
    let (pin, base) = (archive.publish(""), std::mem::take(&mut archive.packages));
    archive.version = "2";
    archive.add("libapt", "", &[("usr/lib/libapt", "y", 0o644)], &[]);
    let security = archive.publish_as("bookworm-security", "Suite: stable-security\n", &archive.packages);
    archive.packages = base;
    let root = archive.place.at("out/root");
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let run = |options: &[&str]| {
        let pins = ["--release-sha256", &pin, "--release-sha256", &security];
        finish(archive.command(&[options, &pins].concat(), &archive.url()), "")
    };
    let said = run(&[]).ended_with(0);
    assert_eq!(said.err, "mkrootfs: warning: made without 'bookworm-updates': the mirror does not have it\n");
    assert_eq!(read("usr/lib/libapt"), "y");
    let url = archive.url();
    assert_eq!(
        read("etc/apt/sources.list"),
        format!("deb {url} bookworm main\ndeb {url} bookworm-security main\n")
    );
    fs::remove_dir_all(&root).unwrap();
    assert_eq!(run(&["--no-updates"]).ended_with(0).err, "");
    assert_eq!(read("usr/lib/libapt"), "x");
    fs::remove_dir_all(&root).unwrap();
    // Corrections that nobody has signed are no corrections.
    let one = ["--release-sha256", &pin];
    finish(archive.command(&one, &archive.url()), "").ended_with(4).said("bookworm-security/Release");
    archive.nothing_is_left();
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_next_mirror_is_asked_for_what_the_first_has_not_or_has_wrong() {
    let archive = Archive::new();
    let pin = archive.publish("");
    let copy = archive.place.at("other");
    sh("cp -a \"$1\" \"$2\"", &[archive.place.at("mirror").to_str().unwrap(), copy.to_str().unwrap()]);
    let (first, second) = (Server::new(archive.place.at("mirror")), Server::new(copy));
    let options = ["--release-sha256", &pin, "--no-updates", "--no-base"];
    let run = |urls: &[&str]| {
        let mut command = archive.command(&options, urls[0]);
        command.args(&urls[1..]);
        finish(command, "")
    };
    // One package is changed, one is gone.
    fs::write(archive.deb("libapt"), "wrong").unwrap();
    fs::remove_file(archive.deb("apt")).unwrap();
    run(&[&first.url, &second.url]).ended_with(0);
    for name in ["libapt", "apt"] {
        assert_eq!(second.asked(&format!("/pool/{name}.deb")), [0], "{name}");
    }
    assert_eq!(second.asked("/pool/dpkg.deb"), []);
    let root = archive.place.at("out/root");
    fs::remove_dir_all(&root).unwrap();
    // A server that is not there, and one that has another Release file.
    let closed = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    run(&[&closed, &second.url]).ended_with(0).said("the next mirror is tried: ");
    fs::remove_dir_all(&root).unwrap();
    fs::write(archive.suite().join("Release"), "Codename: bookworm\n").unwrap();
    run(&[&first.url, &second.url]).ended_with(0).said("has SHA-256");
    let sources = fs::read_to_string(root.join("etc/apt/sources.list")).unwrap();
    assert_eq!(sources, format!("deb {} bookworm main\n", second.url));
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_snapshot_is_addressed_by_its_date_and_need_not_be_valid_now() {
    let archive = Archive::new();
    archive.publish("Date: Sat, 01 Jan 2022 00:00:00 UTC\nValid-Until: Sat, 08 Jan 2022 00:00:00 UTC\n");
    fs::create_dir_all(archive.place.at("snap/debian")).unwrap();
    fs::rename(archive.place.at("mirror"), archive.place.at("snap/debian/20220102T030405Z")).unwrap();
    let url = format!("file://{}", archive.place.at("snap").display());
    let options = ["--no-check-gpg", "--no-updates", "--snapshot", "20220102T030405Z"];
    finish(archive.command(&options, &url), "").ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn without_merged_usr_there_are_no_links() {
    let archive = Archive::new();
    archive.publish_as("stretch", "Suite: old\n", &archive.packages);
    let root = archive.place.at("out/root");
    let mut command = Command::new(tool("mkrootfs"));
    command
        .args(["--no-check-gpg", "--no-updates", "--arch=amd64", "--cache"])
        .arg(archive.place.at("cache"));
    command.arg("stretch").arg(&root).arg(archive.url());
    // The host's programs want /lib64 and the like, which is no link here: dpkg does not start.
    finish(command, "").ended_with(1).said("cannot configure the packages");
    let tree = archive.place.at("own-tree");
    sh(HOST_DPKG, &[tree.to_str().unwrap()]);
    sh(
        "cd \"$1\"; for d in lib lib64; do [ ! -e usr/$d ] || cp -a usr/$d .; done; mkdir bin proc; cp -a usr/bin/sh bin",
        &[tree.to_str().unwrap()],
    );
    let mut archive = archive;
    archive.packages = archive
        .packages
        .split("Package: base-files")
        .nth(1)
        .map(|rest| format!("Package: base-files{rest}"))
        .unwrap();
    archive.build(&tree, "dpkg", "Essential: yes");
    archive.publish_as("stretch", "Suite: old\n", &archive.packages);
    let mut command = Command::new(tool("mkrootfs"));
    command
        .args(["--no-check-gpg", "--no-updates", "--arch=amd64", "--cache"])
        .arg(archive.place.at("cache"));
    command.arg("stretch").arg(&root).arg(archive.url());
    finish(command, "").ended_with(0);
    assert!(fs::symlink_metadata(root.join("lib")).unwrap().is_dir());
    assert!(!root.join("sbin").exists());
}

// ---- the set ----

/// mkrootfs list, of an archive.
fn list(archive: &Archive, options: &[&str]) -> Outcome {
    let mut command = Command::new(tool("mkrootfs"));
    command.args(["list", "--no-updates", "--arch=amd64", "--cache"]).arg(archive.place.at("cache"));
    finish(
        {
            command.args(options).arg("bookworm").arg(archive.url());
            command
        },
        "",
    )
}

#[test]
fn a_list_tells_what_would_be_installed_and_why() {
    let mut archive = Archive::new();
    archive.add("hello", "Depends: common", &[], &[]);
    archive.add("common", "", &[], &[]);
    let pin = archive.publish("");
    let pinned = |options: &[&str]| list(&archive, &[&["--release-sha256", &pin], options].concat());
    let out = pinned(&["--include=hello"]).ended_with(0).out;
    let fields: Vec<Vec<&str>> = out.lines().map(|line| line.split('\t').collect()).collect();
    let why: Vec<(&str, &str)> = fields.iter().map(|fields| (fields[0], fields[4])).collect();
    let expected = [
        ("base-files", "variant"),
        ("apt", "variant"),
        ("common", "needed by hello"),
        ("dpkg", "essential"),
        ("hello", "asked"),
        ("libapt", "needed by apt"),
    ];
    assert_eq!(why, expected);
    assert_eq!((fields[1][1], fields[1][3]), ("1", sha256(&archive.deb("apt")).as_str()));
    assert_eq!(fields[1][2], fs::metadata(archive.deb("apt")).unwrap().len().to_string());
    pinned(&["--variant=essential", "--print-debs"]).ended_with(0).printed("dpkg\n");
    pinned(&["--exclude=libapt"]).ended_with(6).said("'apt' needs 'libapt | none', which is excluded");
    let json: String = pinned(&["--variant=essential", "--json"]).ended_with(0).out;
    assert!(json.contains("\"name\": \"dpkg\"") && json.contains("\"reason\": \"essential\""), "{json}");
    // debootstrap's form names a target, which is not touched.
    let options = ["--print-debs", "--release-sha256", &pin, "--no-updates"];
    finish(archive.command(&options, &archive.url()), "")
        .ended_with(0)
        .printed("base-files apt dpkg libapt\n");
    archive.nothing_is_left();
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_lock_makes_the_same_set_again() {
    let mut archive = Archive::new();
    let lock = archive.place.at("lock");
    let locked = ["--no-updates", "--no-base", "--lock", lock.to_str().unwrap()];
    let root = archive.place.at("out/root");
    let status = || fs::read_to_string(root.join("var/lib/dpkg/status")).unwrap();
    archive.run(&locked).ended_with(0);
    let first = status();
    fs::remove_dir_all(&root).unwrap();
    // A root that is copied from a base writes the same lock.
    for name in ["one", "two"] {
        let file = archive.place.at(name);
        archive.run(&["--no-updates", "--lock", file.to_str().unwrap()]).ended_with(0);
        assert_eq!(fs::read_to_string(&file).unwrap(), fs::read_to_string(&lock).unwrap());
        fs::remove_dir_all(&root).unwrap();
    }
    // The archive goes on; its Release file is not even asked for.
    archive.version = "2";
    archive.add("libapt", "", &[], &[]);
    archive.publish("");
    fs::remove_file(archive.suite().join("Release")).unwrap();
    finish(archive.command(&locked, &archive.url()), "").ended_with(0);
    assert_eq!(status(), first);
    fs::remove_dir_all(&root).unwrap();
    let more = [&locked[..], &["--include=hello"]].concat();
    finish(archive.command(&more, &archive.url()), "").ended_with(2).said("asked for is 'Include: hello'");
    // A digest in the lock that the archive's file has not.
    let text = fs::read_to_string(&lock).unwrap().replace("SHA256: ", "SHA256: 0000");
    fs::write(&lock, text.lines().map(|line| format!("{line:.72}\n")).collect::<String>()).unwrap();
    finish(archive.command(&locked, &archive.url()), "").ended_with(5).said("the index says");
    fs::write(&lock, "Lock: 1\n").unwrap();
    finish(archive.command(&locked, &archive.url()), "").ended_with(2).said("cannot use the lock");
    archive.nothing_is_left();
}

#[test]
#[ignore = "needs root: tests/run"]
fn hooks_run_at_their_times_with_the_root() {
    let archive = Archive::new();
    let root = archive.place.at("out/root");
    let hooks = [
        "--no-updates",
        "--setup-hook=test -d \"$1/usr\"; test ! -e \"$1/etc\"; echo early > \"$1/early\"",
        "--extract-hook=grep -q 'ok unpacked' \"$1/var/lib/dpkg/status\" && cp \"$1/early\" \"$1/middle\"",
        "--customize-hook=grep -q 'ok installed' \"$1/var/lib/dpkg/status\" && cp \"$1/middle\" \"$1/late\"; echo said",
    ];
    archive.run(&hooks).ended_with(0).said("said\n").printed("");
    assert_eq!(fs::read_to_string(root.join("late")).unwrap(), "early\n");
    assert!(archive.place.names("cache/base").is_empty());
    fs::remove_dir_all(&root).unwrap();
    let said = archive.run(&["--no-updates", "--extract-hook=exit 3"]).ended_with(1);
    said.said("the extract-hook 'exit 3' failed: exit status: 3");
    archive.nothing_is_left();
}

// ---- the base cache ----

#[test]
#[ignore = "needs root: tests/run"]
fn the_second_root_of_a_set_is_a_copy() {
    let mut archive = Archive::new();
    let script = "#!/bin/sh\n: > /ran-$$\n\
        for file in etc/machine-id var/lib/dbus/machine-id; do echo 0123456789abcdef0123456789abcdef > /$file; done\n";
    let files = [("etc/secret", "known", 0o600), ("var/lib/dbus/x", "", 0o644)];
    archive.add("ident", "", &files, &[("postinst", script)]);
    let root = archive.place.at("out/root");
    let id = || {
        let [own, dbus] =
            ["etc", "var/lib/dbus"].map(|dir| fs::read_to_string(root.join(dir).join("machine-id")));
        assert_eq!(own.as_ref().unwrap(), &dbus.unwrap());
        own.unwrap()
    };
    let run = |archive: &Archive, options: &[&str], copied: bool| {
        let _ = fs::remove_dir_all(&root);
        let said = archive.run(&[options, &["--progress=line", "--no-updates", "--include=ident"]].concat());
        let said = said.ended_with(0).err;
        assert_eq!(said.contains("a copy of the same set"), copied, "{said}");
    };
    run(&archive, &[], false);
    let (first, first_id) = (facts(&root), id());
    run(&archive, &[], true);
    assert_eq!(first, facts(&root));
    assert_ne!(first_id, id());
    run(&archive, &["--no-base"], false);
    // The archive changes, the set does not.
    archive.add("unrelated", "", &[], &[]);
    run(&archive, &[], true);
    // The set changes: one package is newer.
    archive.version = "2";
    archive.add("libapt", "", &[], &[]);
    run(&archive, &[], false);
    run(&archive, &[], true);
    let status = fs::read_to_string(root.join("var/lib/dpkg/status")).unwrap();
    let stanza = status.split("\n\n").find(|stanza| stanza.contains("Package: libapt\n")).unwrap();
    assert!(stanza.contains("\nVersion: 2\n"), "{stanza}");
}

#[test]
#[ignore = "needs root: tests/run"]
fn half_a_base_of_a_killed_run_goes_with_the_next_and_that_of_a_living_one_stays() {
    let archive = Archive::new();
    let [left, held] =
        ["k.partial-1-1", "k.partial-1-2"].map(|name| archive.place.at("cache/base").join(name));
    [&left, &held].iter().for_each(|dir| fs::create_dir_all(dir.join("usr")).unwrap());
    let holder =
        nix::fcntl::Flock::lock(fs::File::open(&held).unwrap(), nix::fcntl::FlockArg::LockShared).unwrap();
    archive.run(&["--no-updates"]).ended_with(0);
    assert!(!left.exists() && held.exists(), "{:?}", archive.place.names("cache/base"));
    drop(holder);
    // Killed while it copies: by the parent, which lives.
    fs::remove_dir_all(archive.place.at("cache")).unwrap();
    fs::remove_dir_all(archive.place.at("out/root")).unwrap();
    let pin = archive.publish("");
    let run = archive.command(&["--no-updates", "--release-sha256", &pin], &archive.url());
    let mut killed = Command::new(system("strace"));
    killed.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=copy_file_range:signal=KILL"]);
    killed.arg(run.get_program()).args(run.get_args());
    finish(killed, "").ended_with(1).said("the work was killed by SIGKILL");
    assert_eq!(archive.place.names("cache/base"), [""; 0]);
    archive.nothing_is_left();
}

/// The writing begins beside the scripts; the base and the root are waited for at once; a clone is not waited for, as
/// cp does not.
#[test]
#[ignore = "needs root: tests/run"]
fn the_disk_is_waited_for_once() {
    let archive = Archive::new();
    let pin = archive.publish("");
    let (log, root) = (archive.place.at("calls"), archive.place.at("out/root"));
    let waits = |command: &Command| {
        let mut traced = Command::new(system("strace"));
        traced.args(["-f", "-qq", "-e", "trace=syncfs", "-o"]).arg(&log);
        traced.arg(command.get_program()).args(command.get_args());
        finish(traced, "").ended_with(0);
        fs::read_to_string(&log).unwrap().matches("syncfs(").count()
    };
    let options = ["--no-updates", "--release-sha256", &pin];
    let without = [&options[..], &["--no-base"]].concat();
    for (options, syncs) in [(&options[..], 2), (&options, 1), (&without, 2)] {
        let _ = fs::remove_dir_all(&root);
        assert_eq!(waits(&archive.command(options, &archive.url())), syncs, "{options:?}");
    }
    let mut clone = Command::new(tool("mkrootfs"));
    clone.arg("clone").arg(&root).arg(archive.place.at("out/clone"));
    assert_eq!(waits(&clone), 0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn progress_is_json_when_asked_for() {
    let archive = Archive::new();
    let said = archive.run(&["--no-updates", "--progress=json"]).ended_with(0).err;
    assert!(said.lines().all(|line| line.starts_with("{\"st") && line.ends_with("\"}")), "{said}");
    assert!(
        said.contains("{\"step\":\"4 packages, ") && said.contains("{\"state\":\"unpacked 4 of 4"),
        "{said}"
    );
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_root_with_secrets_of_its_own_is_no_base() {
    let mut archive = Archive::new();
    let script = "#!/bin/sh\numask 077; echo $$ > /etc/host_key\n";
    archive.add("keys", "", &[], &[("postinst", script)]);
    archive.run(&["--include=keys", "--no-updates"]).ended_with(0);
    assert!(archive.place.names("cache/base").is_empty());
    assert!(archive.place.names("cache/request").is_empty());
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_cache_that_others_can_write_to_keeps_no_base() {
    let archive = Archive::new();
    fs::create_dir(archive.place.at("cache")).unwrap();
    fs::set_permissions(archive.place.at("cache"), fs::Permissions::from_mode(0o777)).unwrap();
    archive.run(&["--no-updates"]).ended_with(0);
    assert!(archive.place.names("cache/base").is_empty());
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_cache_is_listed_and_pruned() {
    let archive = Archive::new();
    let cache = archive.place.at("cache");
    let cached = |words: &[&str]| {
        let mut command = Command::new(tool("mkrootfs"));
        command.arg("cache").args(words).arg("--cache").arg(&cache);
        finish(command, "").ended_with(0).out
    };
    assert_eq!(cached(&["path"]), format!("{}\n", cache.display()));
    archive.run(&["--no-updates"]).ended_with(0);
    let lines = cached(&["list"]);
    let count = |kind: &str| lines.lines().filter(|line| line.starts_with(&format!("{kind}\t"))).count();
    assert_eq!((count("base"), count("file"), count("partial"), count("release")), (1, 5, 0, 1), "{lines}");
    assert_eq!(cached(&["prune"]), "0 removed, 0 B\n");
    sh("touch -d '40 days ago' \"$1\"/base/*.used \"$1\"/sha256/*/*", &[cache.to_str().unwrap()]);
    fs::remove_dir_all(archive.place.at("out/root")).unwrap();
    // What is used is young again.
    archive.run(&["--no-updates"]).ended_with(0);
    assert!(cached(&["prune", "--older=20"]).starts_with("5 removed, "));
    assert_eq!(archive.place.names("cache/base").len(), 2);
    assert!(cached(&["prune", "--older=0"]).starts_with("2 removed, "));
    assert!(archive.place.names("cache/base").is_empty() && archive.place.names("cache/request").is_empty());
    fs::remove_dir_all(archive.place.at("out/root")).unwrap();
    archive.run(&["--no-updates"]).ended_with(0);
}

// ---- trust ----

/// A key of the test's own; its keyring in `k.gpg`, the Release file signed with it.
fn sign(archive: &Archive) {
    const SCRIPT: &str = "cd \"$1\"; umask 077; rm -rf gpg; mkdir gpg; export GNUPGHOME=$PWD/gpg; \
        gpg -q --batch --passphrase '' --quick-gen-key t ed25519 sign never 2>/dev/null; \
        gpg -q --export > k.gpg; gpg -q --batch --yes --clearsign -o \"$2/InRelease\" \"$2/Release\"; \
        gpgconf --kill gpg-agent; rm -rf gpg";
    let _ = system("gpg");
    // The agent's socket needs a short path.
    let dir = format!("/tmp/{}", unique("gpg"));
    fs::create_dir(&dir).unwrap();
    sh(SCRIPT, &[&dir, archive.suite().to_str().unwrap()]);
    fs::copy(format!("{dir}/k.gpg"), archive.place.at("k.gpg")).unwrap();
    fs::remove_dir_all(dir).unwrap();
}

#[test]
#[ignore = "needs root: tests/run"]
fn only_what_a_trusted_key_has_signed_is_used() {
    let archive = Archive::new();
    archive.publish("");
    sign(&archive);
    let keyring = archive.place.at("k.gpg");
    let with = |keyring: &str| finish(archive.command(&["--keyring", keyring], &archive.url()), "");
    with(keyring.to_str().unwrap()).ended_with(0);
    fs::remove_dir_all(archive.place.at("out/root")).unwrap();
    with("/nowhere/k.gpg").ended_with(4).said("hint: apt-get install debian-archive-keyring");
    let signed = fs::read_to_string(archive.suite().join("InRelease")).unwrap();
    for (what, text) in [
        ("is bad", signed.replace("Suite: stable", "Suite: stablx")),
        ("not signed as it should be", format!("Suite: bookworm\n{signed}")),
        ("not signed as it should be", format!("{signed}Suite: bookworm\n")),
    ] {
        fs::write(archive.suite().join("InRelease"), text).unwrap();
        with(keyring.to_str().unwrap()).ended_with(4).said(what);
    }
    fs::write(archive.suite().join("InRelease"), signed).unwrap();
    fs::rename(&keyring, archive.place.at("old.gpg")).unwrap();
    fs::remove_dir_all(archive.place.at("cache")).unwrap();
    let original = fs::read(archive.suite().join("InRelease")).unwrap();
    sign(&archive);
    fs::write(archive.suite().join("InRelease"), original).unwrap();
    with(keyring.to_str().unwrap()).ended_with(4).said("is not in the keyring");
    archive.nothing_is_left();
}

/// Makes keys and, with each, files NAME.clear and NAME.apart (a detached signature) of the file "Release"; all but one
/// of the keys go into "k.gpg".
const SIGNERS: &str = r#"cd "$1"; umask 077; mkdir gpg; export GNUPGHOME=$PWD/gpg
    g() { gpg -q --batch --yes --no-tty --pinentry-mode loopback --passphrase '' "$@" 2>gpg.log || { cat gpg.log >&2; exit 1; }; }
    new() { g --quick-gen-key "$@"; }
    print() { gpg --with-colons --list-keys "$1" | awk -F: '$1 == "fpr" { print $10; exit }'; }
    signed() { name=$1; shift; g "$@" -o "$name.clear" --clearsign Release; g "$@" -o "$name.apart" -a -b Release; }
    past='--faked-system-time 20200101T000000!'
    new good ed25519 sign never; g $past --quick-gen-key long rsa2048 sign never; new revoked ed25519 sign never
    new stranger ed25519 sign never; g $past --quick-gen-key expired ed25519 sign 30d
    new below ed25519 cert never; g --quick-add-key "$(print below)" ed25519 sign never
    for key in good long revoked stranger below; do signed $key -u $key; done
    signed expired $past -u expired; signed two -u good -u stranger
    signed sha1 -u long --digest-algo SHA1
    signed past $past --default-sig-expire 1d -u long
    signed early $past --ignore-time-conflict --ignore-valid-from -u good
    cat stranger.apart good.apart >blocks.apart
    sed '/^:/s/^.//' gpg/openpgp-revocs.d/$(print revoked).rev >cert; g --import cert
    g -o k.gpg --export good long revoked expired below
    gpgconf --kill gpg-agent; rm -rf gpg"#;

/// The same table for each program that checks signatures, and with the feature rpgp for ours.
#[test]
#[ignore = "needs root: tests/run"]
fn every_verifier_judges_alike() {
    const GOOD: &str = "";
    const TABLE: [(&str, &str); 12] = [
        ("good", GOOD),
        ("long", GOOD),
        ("below", GOOD),
        ("two", GOOD),
        ("blocks", GOOD),
        ("expired", " has expired"),
        ("revoked", " was revoked"),
        ("stranger", " is not in the keyring"),
        ("sha1", " has signed by SHA1, which can be forged"),
        ("past", "there is no valid signature"),
        ("early", "there is no valid signature"),
        ("none", "the InRelease file is not signed as it should be"),
    ];
    let archive = Archive::new();
    archive.publish_as("bookworm", "Description: blanks  \n- a dash: \t\n", &archive.packages);
    // The agent's socket needs a short path.
    let made = Place(format!("/tmp/{}", unique("gpg")).into());
    fs::create_dir(&made.0).unwrap();
    fs::copy(archive.suite().join("Release"), made.at("Release")).unwrap();
    sh(SIGNERS, &[made.0.to_str().unwrap()]);
    fs::write(made.at("none.clear"), "Suite: bookworm\n").unwrap();
    let (clear, apart) = (archive.suite().join("InRelease"), archive.suite().join("Release.gpg"));
    let mut paths = ["gpgv", "sqv"].map(|name| archive.place.at(name)).to_vec();
    for path in &paths {
        let name = path.file_name().unwrap();
        fs::create_dir(path).unwrap();
        symlink(system(name.to_str().unwrap()), path.join(name)).unwrap();
    }
    if cfg!(feature = "rpgp") {
        paths.push("/nowhere".into());
    }
    for path in &paths {
        let list = |more: &[&str]| {
            let mut command = Command::new(tool("mkrootfs"));
            command.env("PATH", path).arg("--cache").arg(archive.place.at("cache")).arg("--keyring");
            command.arg(made.at("k.gpg")).args(["--no-updates", "--arch=amd64"]).args(more);
            command.args(["list", "bookworm"]).arg(archive.url());
            finish(command, "")
        };
        let sqv = path.ends_with("sqv");
        let judged = |told: &str| match told {
            GOOD => list(&[]).ended_with(0),
            // It has words of its own, and asks whether the key was good on the day of the signature.
            " has expired" if sqv => list(&[]).ended_with(0),
            _ if sqv => list(&[]).ended_with(4),
            _ => list(&[]).ended_with(4).said(told),
        };
        for (name, told) in TABLE {
            for (kind, file) in [("clear", &clear), ("apart", &apart)] {
                let from = made.at(&format!("{name}.{kind}"));
                if from.exists() {
                    eprintln!("{name} {kind} by {}", path.display());
                    let _ = (fs::remove_file(&clear), fs::remove_file(&apart));
                    fs::copy(from, file).unwrap();
                    judged(told);
                }
            }
        }
        let text = fs::read_to_string(made.at("good.clear")).unwrap();
        fs::write(&clear, text.replace("blanks", "blank")).unwrap();
        judged(" is bad: the file was changed");
        fs::copy(made.at("expired.clear"), &clear).unwrap();
        list(&["--no-check-valid-until"]).ended_with(0);
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn without_a_verifier_three_ways_are_named() {
    let archive = Archive::new();
    archive.publish("");
    sign(&archive);
    let mut command =
        archive.command(&["--keyring", archive.place.at("k.gpg").to_str().unwrap()], &archive.url());
    command.env("PATH", "/nowhere");
    if cfg!(feature = "rpgp") {
        finish(command, "").ended_with(0);
        return;
    }
    let said = finish(command, "").ended_with(4).err;
    for way in ["apt-get install gpgv", "--release-sha256", "--no-check-gpg"] {
        assert!(said.contains(way), "{said}");
    }
}

/// No dpkg, no apt, no tar, no name server: busybox for looking, gpgv for trust. There is no keyring either: Debian's
/// archive is known by the keys that are built in, and no other is.
#[test]
#[ignore = "needs root: tests/run, and the network once"]
fn in_a_root_of_busybox_and_gpgv_it_needs_nothing_more() {
    let archive = Archive::new();
    archive.publish("");
    sign(&archive);
    const SCRIPT: &str = "place=$1 debian=$2 bare=$1/bare; shift 2
        mkdir -p \"$bare/bin\" \"$bare/proc\" \"$bare/dev\" \"$bare/root\" \"$bare/debian\" \"$bare/tmp\"
        for file; do cp \"$file\" \"$bare/bin\"; for library in $(ldd \"$file\" 2>/dev/null | grep -o '/[^ ]*'); do
            mkdir -p \"$bare${library%/*}\"; cp -L \"$library\" \"$bare$library\"; done; done
        mknod \"$bare/dev/null\" c 1 3; cp -r \"$place/mirror\" \"$place/k.gpg\" \"$bare\"
        mount -t proc proc \"$bare/proc\"; mount --bind \"$debian\" \"$bare/debian\"
        inside() { chroot \"$bare\" /bin/busybox env -i PATH=/bin /bin/mkrootfs --arch=amd64 --no-updates \"$@\"; }
        inside --no-check-valid-until list bookworm file:///debian | grep -c '^dpkg\t'
        inside bookworm /new file:///mirror 2>&1 || echo \"status $?\"
        inside --progress=none --keyring=/k.gpg bookworm /new file:///mirror
        chroot \"$bare/new\" dpkg --audit; chroot \"$bare\" /bin/busybox ls -A /new/etc/apt /root";
    let mut command = Command::new(system("unshare"));
    command.args(["-m", "-p", "-f", "--kill-child", "sh", "-euc", SCRIPT, "sh"]).arg(&archive.place.0);
    command.arg(frozen("bookworm")).args([system("busybox"), system("gpgv"), tool("mkrootfs")]);
    let said = finish(command, "").ended_with(0).out;
    let refused =
        "keyring: built in (the host has none)\nmkrootfs: cannot trust the Release file by keyring ";
    assert!(said.starts_with("1\n") && said.contains(refused), "{said}");
    assert!(said.contains(" is not in the keyring\n") && said.contains("\nstatus 4\n"), "{said}");
    assert!(said.ends_with("\n/new/etc/apt:\nsources.list\n\n/root:\n"), "{said}");
}

#[test]
#[ignore = "needs root: tests/run"]
fn what_is_unsigned_or_changed_is_refused() {
    let archive = Archive::new();
    archive.publish("");
    finish(archive.command(&[], &archive.url()), "").ended_with(4).said("it is not signed");
    let wrong = "0".repeat(64);
    finish(archive.command(&["--release-sha256", &wrong], &archive.url()), "").ended_with(4).said(&wrong);
    let pin = archive.publish("");
    let index = archive.suite().join("main/binary-amd64/Packages.gz");
    let mut bytes = fs::read(&index).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&index, bytes).unwrap();
    finish(archive.command(&["--release-sha256", &pin], &archive.url()), "")
        .ended_with(4)
        .said("the Release file says");
    archive.nothing_is_left();
}

/// A mirror that is updated just then is asked again; one whose files do not fit each other is told.
/// A server whose authority is known by SSL_CERT_FILE alone.
#[test]
#[ignore = "needs root: tests/run"]
fn a_mirror_may_speak_tls_and_must_be_who_it_says() {
    const SERVER: &str = "cd \"$1\"; openssl req -x509 -newkey rsa:2048 -nodes -keyout ../key -out ../cert -days 2 \
        -subj /CN=localhost -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE 2>/dev/null; \
        exec openssl s_server -WWW -cert ../cert -key ../key -accept 127.0.0.1:0 2>&1";
    let archive = Archive::new();
    let pin = archive.publish("");
    fs::rename(archive.suite().join("Release"), archive.suite().join("InRelease")).unwrap();
    let mut server = Command::new("sh");
    server.args(["-euc", SERVER, "sh"]).arg(archive.place.at("mirror"));
    let mut server = server.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(server.stdout.take().unwrap()).lines().map_while(Result::ok);
    let port =
        said.find_map(|line| Some(line.strip_prefix("ACCEPT ")?.rsplit(':').next()?.to_owned())).unwrap();
    let list = |authorities: &Path| {
        let mut command = Command::new(tool("mkrootfs"));
        command.args(["list", "--no-updates", "--arch=amd64", "--release-sha256", &pin, "bookworm"]);
        command.arg(format!("https://localhost:{port}")).arg("--cache").arg(archive.place.at("cache"));
        command.env("SSL_CERT_FILE", authorities);
        finish(command, "")
    };
    let refused = list(Path::new("/etc/ssl/certs/ca-certificates.crt")).ended_with(3);
    refused.said("certificate is not to be trusted").said("hint: SSL_CERT_FILE=FILE");
    list(&archive.place.at("cert")).ended_with(0);
    server.kill().and_then(|()| server.wait()).unwrap();
}

/// The Release file is large here, so that a busy machine does not take the server for a far one.
#[test]
#[ignore = "needs root: tests/run"]
fn from_near_by_the_index_is_fetched_in_the_form_that_is_unpacked_soonest() {
    let archive = Archive::new();
    let server = Server::new(archive.place.at("mirror"));
    archive.publish_as("bookworm", &format!("Pad: {}\n", "x".repeat(8 << 20)), &archive.packages);
    let script = "cd \"$1\"; gunzip -c Packages.gz | xz > Packages.xz; \
        set -- $(sha256sum Packages.xz) $(stat -c %s Packages.xz); echo \" $1 $3 main/binary-amd64/$2\" >> ../../Release";
    let dir = archive.suite().join("main/binary-amd64");
    sh(script, &[dir.to_str().unwrap()]);
    let pin = sha256(&archive.suite().join("Release"));
    let forms = || {
        let _ = fs::remove_dir_all(archive.place.at("cache"));
        let mut command = Command::new(tool("mkrootfs"));
        command.args([
            "list",
            "--no-updates",
            "--arch=amd64",
            "--release-sha256",
            &pin,
            "bookworm",
            &server.url,
        ]);
        command.arg("--cache").arg(archive.place.at("cache"));
        let before = server.log.lock().unwrap().len();
        finish(command, "").ended_with(0);
        let log = server.log.lock().unwrap();
        let asked = log[before..].iter().filter_map(|(path, _)| path.rsplit_once("/Packages"));
        asked.map(|(_, form)| form.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(forms(), [".gz"]);
    server.fault("/dists/bookworm/Release", Fault::Late);
    assert_eq!(forms(), [".xz"]);
    // What is not there in one form is fetched in the other.
    server.fault("/dists/bookworm/main/binary-amd64/Packages.gz", Fault::Gone);
    assert_eq!(forms(), [".gz", ".xz"]);
}

#[test]
#[ignore = "needs root: tests/run"]
fn an_index_of_another_day_is_looked_for_again_or_told() {
    let archive = Archive::new();
    let server = Server::new(archive.place.at("mirror"));
    let run =
        |options: &[&str]| finish(archive.command(&[&["--no-check-gpg"], options].concat(), &server.url), "");
    let (new, old) = (archive.packages.clone(), archive.packages.replace("Description: test\n", ""));
    archive.publish_as("bookworm", "", &old);
    let release = fs::read_to_string(archive.suite().join("Release")).unwrap();
    let index = fs::read(archive.suite().join("main/binary-amd64/Packages.gz")).unwrap();
    archive.publish_as("bookworm", "", &new);
    server.fault("/dists/bookworm/Release", Fault::Instead(release.leak()));
    run(&["--no-updates"]).ended_with(0);
    fs::remove_dir_all(archive.place.at("out/root")).unwrap();
    fs::remove_dir_all(archive.place.at("cache")).unwrap();
    archive.publish_as("bookworm-security", "", &new.replace("test", "of security"));
    fs::write(archive.place.at("mirror/dists/bookworm-security/main/binary-amd64/Packages.gz"), index)
        .unwrap();
    let said = run(&[]).ended_with(4).said("index of 'bookworm-security' do not belong together");
    said.said(" bytes, the Release file says ").said("--no-updates");
    archive.nothing_is_left();
}

#[test]
#[ignore = "needs root: tests/run"]
fn an_index_past_its_date_is_refused_with_both_dates() {
    let archive = Archive::new();
    archive.publish("Date: Sat, 01 Jan 2022 00:00:00 UTC\nValid-Until: Sat, 08 Jan 2022 00:00:00 UTC\n");
    let run = |options: &[&str]| finish(archive.command(options, &archive.url()), "");
    let said = run(&["--no-check-gpg"]).ended_with(4).said("Sat, 08 Jan 2022 00:00:00 UTC, and now is ");
    said.said("--no-check-valid-until");
    archive.nothing_is_left();
    run(&["--no-check-gpg", "--no-check-valid-until"]).ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn another_suite_than_asked_for_is_refused() {
    let archive = Archive::new();
    archive.publish("");
    fs::rename(archive.suite(), archive.place.at("mirror/dists/trixie")).unwrap();
    let mut command = Command::new(tool("mkrootfs"));
    command.args(["--no-check-gpg", "--cache"]).arg(archive.place.at("cache"));
    command.arg("trixie").arg(archive.place.at("out/root")).arg(archive.url());
    finish(command, "").ended_with(4).said("asked for suite 'trixie'");
}

// ---- what is not there ----

#[test]
#[ignore = "needs root: tests/run"]
fn an_unknown_suite_is_status_2_and_no_server_is_3() {
    let archive = Archive::new();
    let server = Server::new(archive.place.at("mirror"));
    finish(archive.command(&[], &server.url), "").ended_with(2).said("no suite 'bookworm' on this mirror");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    finish(archive.command(&[], &format!("http://{closed}")), "").ended_with(3).said("Connection refused");
    let mut command = archive.command(&[], "http://example.org/debian");
    command.env("http_proxy", format!("http://me:secret@{closed}"));
    let said = finish(command, "").ended_with(3).said(&format!("by way of the proxy '{closed}': ")).err;
    assert!(!said.contains("secret"), "{said}");
    archive.nothing_is_left();
}

#[test]
#[ignore = "needs root: tests/run"]
fn packages_that_are_unknown_or_unresolvable_are_found_before_any_download() {
    let mut archive = Archive::new();
    archive.add("lacking", "Depends: libapt (>= 2)", &[], &[]);
    archive.add("fighting", "Conflicts: apt", &[], &[]);
    let server = Server::new(archive.place.at("mirror"));
    let run = |name: &str| archive.run_from(&server.url, &["--include", name]);
    run("libapd").ended_with(2).said("no package 'libapd'").said("hint: did you mean libapt?");
    run("lacking").ended_with(6).said("'lacking' needs 'libapt (>= 2)'");
    run("fighting").ended_with(6).said("'fighting 1' conflicts with 'apt 1'");
    assert_eq!(server.asked("/pool/dpkg.deb"), []);
    archive.nothing_is_left();
}

// ---- bad packages ----

#[test]
#[ignore = "needs root: tests/run"]
fn a_download_that_breaks_off_is_resumed() {
    let archive = Archive::new();
    let server = Server::new(archive.place.at("mirror"));
    server.fault("/pool/dpkg.deb", Fault::Cut(100_000));
    archive.run_from(&server.url, &[]).ended_with(0);
    assert_eq!(server.asked("/pool/dpkg.deb"), [0, 100_000]);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_package_that_is_changed_short_or_gone_is_status_5_and_the_others_stay_cached() {
    let archive = Archive::new();
    let server = Server::new(archive.place.at("mirror"));
    let whole = fs::read(archive.deb("libapt")).unwrap();
    let mut changed = whole.clone();
    changed[200] ^= 1;
    let pin = archive.publish("");
    let run = || finish(archive.command(&["--release-sha256", &pin], &server.url), "");
    for (bytes, told) in [(&changed[..], "has SHA-256 "), (&whole[..100], "has 100 bytes, the index says ")] {
        fs::write(archive.deb("libapt"), bytes).unwrap();
        run().ended_with(5).said("package 'libapt'").said(told);
    }
    server.fault("/pool/libapt.deb", Fault::Gone);
    run().ended_with(5).said("404").said("hint: name another mirror behind this one");
    archive.nothing_is_left();
    fs::write(archive.deb("libapt"), whole).unwrap();
    run().ended_with(0);
    assert_eq!(server.asked("/pool/dpkg.deb"), [0]);
}

/// An ar archive with a tree of the given entries: path, type, link.
fn hostile(entries: &[(&str, u8, &str)]) -> Vec<u8> {
    let mut control = Vec::new();
    tar_entry(
        &mut control,
        "./control",
        b'0',
        "",
        b"Package: hostile\nVersion: 1\nArchitecture: amd64\nMaintainer: t\nDescription: t\n",
    );
    let mut data = Vec::new();
    for (path, kind, link) in entries {
        tar_entry(&mut data, path, *kind, link, if *kind == b'0' { b"planted" } else { b"" });
    }
    let mut deb = b"!<arch>\n".to_vec();
    for (name, mut body) in
        [("debian-binary", b"2.0\n".to_vec()), ("control.tar", control), ("data.tar", data)]
    {
        if name != "debian-binary" {
            body.extend([0; 1024]);
        }
        deb.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100644, body.len()).bytes());
        deb.extend(body);
    }
    deb
}

fn tar_entry(out: &mut Vec<u8>, path: &str, kind: u8, link: &str, body: &[u8]) {
    let mut head = [0; 512];
    let mut put = |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, path);
    put(100, "0000755\x000000000\x000000000\0");
    put(124, &format!("{:011o}\0{:011o}\0        ", body.len(), 0));
    put(156, std::str::from_utf8(&[kind]).unwrap());
    put(157, link);
    put(257, "ustar\x0000");
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend(head);
    out.extend(body);
    out.resize(out.len().next_multiple_of(512), 0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn hostile_packages_reach_nothing_outside_the_tree() {
    let mut archive = Archive::new();
    let outside = archive.place.at("outside");
    fs::create_dir(&outside).unwrap();
    let out = outside.to_str().unwrap().to_owned();
    let control = "Package: hostile\nVersion: 1\nArchitecture: amd64\nInstalled-Size: 1\n";
    let refused: [&[(&str, u8, &str)]; 4] = [
        &[("./../../../outside/x", b'0', "")],
        &[("/etc/x", b'0', "")],
        &[("./x", b'1', "../../../outside/y")],
        &[("./dev/sda", b'3', "")],
    ];
    let base = archive.packages.clone();
    for entries in refused {
        fs::write(archive.deb("hostile"), hostile(entries)).unwrap();
        archive.packages = base.clone();
        archive.index("hostile", control);
        archive.run(&["--include=hostile"]).ended_with(5).said("package 'hostile'");
        archive.nothing_is_left();
    }
    // A walk through a link ends inside the tree, as it does for the programs that live there.
    let there = format!(".{out}");
    let walk: [(&str, u8, &str); 4] = [
        (&there, b'5', ""),
        ("./door", b'2', &out),
        ("./door/x", b'0', ""),
        ("./var/lib/dpkg/info", b'2', &out),
    ];
    fs::write(archive.deb("hostile"), hostile(&walk)).unwrap();
    archive.packages = base;
    archive.index("hostile", control);
    archive.run(&["--include=hostile"]).ended_with(0);
    assert!(fs::read_dir(&outside).unwrap().next().is_none(), "something got out");
    assert!(archive.place.at(&format!("out/root{out}/x")).exists());
}

#[test]
#[ignore = "needs root: tests/run"]
fn two_packages_with_one_file_need_replaces() {
    let mut archive = Archive::new();
    archive.add("one", "", &[("etc/same", "one", 0o644)], &[]);
    archive.add("two", "Replaces: one", &[("etc/same", "two", 0o644)], &[]);
    archive.add("three", "", &[("etc/same", "three", 0o644)], &[]);
    archive.run(&["--include=one,two"]).ended_with(0);
    let root = archive.place.at("out/root");
    assert_eq!(fs::read_to_string(root.join("etc/same")).unwrap(), "two");
    assert!(!fs::read_to_string(root.join("var/lib/dpkg/info/one.list")).unwrap().contains("/etc/same"));
    run("mkrootfs", &["verify", root.to_str().unwrap()]).ended_with(0).printed("");
    fs::remove_dir_all(&root).unwrap();
    archive.run(&["--include=one,three"]).ended_with(5).said("both bring '/etc/same'");
    archive.nothing_is_left();
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_failing_script_is_shown_and_keep_keeps_the_tree() {
    let mut archive = Archive::new();
    archive.add("broken", "", &[], &[("postinst", "#!/bin/sh\necho the reason\nexit 3\n")]);
    archive
        .run(&["--include=broken"])
        .ended_with(1)
        .said("| the reason\n")
        .said("cannot configure the packages");
    archive.nothing_is_left();
    archive.run(&["--include=broken", "--keep"]).ended_with(1).said("hint: what was made is kept in");
    let kept = archive.place.names("out");
    assert!(kept.len() == 1 && kept[0].starts_with("root.failed-"), "{kept:?}");
}

// ---- the target and the disk ----

#[test]
#[ignore = "needs root: tests/run"]
fn a_target_is_new_or_empty() {
    let archive = Archive::new();
    let root = archive.place.at("out/root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("mine"), "").unwrap();
    archive.run(&[]).ended_with(2).said("the directory is not empty");
    assert_eq!(archive.place.names("out/root"), ["mine"]);
    fs::remove_file(root.join("mine")).unwrap();
    archive.run(&[]).ended_with(0);
    fs::remove_dir_all(&root).unwrap();
    symlink("/nowhere", &root).unwrap();
    archive.run(&[]).ended_with(2).said("something that is not a directory");
    fs::remove_file(&root).unwrap();
    // Somebody else is faster.
    let pin = archive.publish("");
    let hook = "mkdir \"$1/../../root\"; : > \"$1/../../root/theirs\"";
    let run = archive.command(&["--release-sha256", &pin, "--customize-hook", hook], &archive.url());
    finish(run, "").ended_with(1).said("cannot rename the finished tree");
    assert_eq!(
        (archive.place.names("out"), archive.place.names("out/root")),
        (vec!["root".into()], vec!["theirs".into()])
    );
    fs::remove_dir_all(&root).unwrap();
    // A link to a directory stands for it.
    fs::create_dir(archive.place.at("elsewhere")).unwrap();
    symlink("../elsewhere", &root).unwrap();
    archive.run(&[]).ended_with(0);
    assert!(root.is_symlink() && archive.place.at("elsewhere/etc").exists());
    fs::remove_file(&root).unwrap();
    fs::remove_dir(archive.place.at("out")).unwrap();
    // What is missing above it is made, and goes again when nothing comes of it.
    archive.run(&["--include=no-such"]).ended_with(2);
    assert!(!archive.place.at("out").exists());
    archive.run(&[]).ended_with(0);
    let file = archive.place.at("no/root.tar");
    mkrootfs(&["pack"], &[&root, &file]).ended_with(2).said("there is no directory");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_full_disk_is_foreseen_or_named_and_leaves_nothing() {
    let mut archive = Archive::new();
    let zeros = "0".repeat(60 << 20);
    archive.add("liar", "", &[("usr/big", &zeros, 0o644)], &[]);
    let pin = archive.publish("");
    let on = |megabytes: &str| {
        let run = archive.command(&["--include=liar", "--release-sha256", &pin], &archive.url());
        let mut command = Command::new(system("unshare"));
        let script =
            "mount -t tmpfs -o size=$1m full \"$2\"; shift 2; \"$@\" || code=$?; ls -A \"$OUT\"; exit $code";
        command.args(["-m", "sh", "-uc", script, "sh", megabytes]).arg(archive.place.at("out"));
        command.arg(run.get_program()).args(run.get_args()).env("OUT", archive.place.at("out"));
        finish(command, "")
    };
    on("20").ended_with(1).said("not enough space").printed("");
    // Packages are unpacked side by side: whichever file met the end of the disk is named.
    on("50").ended_with(1).said("No space left on device").said("cannot unpack '/").printed("");
}

/// The tree of a mount point is that of a new directory, but for its own name.
#[test]
#[ignore = "needs root: tests/run"]
fn a_mount_point_is_filled() {
    let archive = Archive::new();
    let pin = archive.publish("");
    let run = archive.command(&["--no-updates", "--no-base", "--release-sha256", &pin], &archive.url());
    let within = |script: &str| {
        let mounted = "mount -t tmpfs new \"$OUT/root\"; ";
        let mut command = Command::new(system("unshare"));
        command.args(["-m", "sh", "-uc", &format!("{mounted}{script}"), "sh"]);
        command.arg(run.get_program()).args(run.get_args()).env("OUT", archive.place.at("out"));
        finish(command, "")
    };
    archive.run(&["--no-updates", "--no-base"]).ended_with(0);
    fs::rename(archive.place.at("out/root"), archive.place.at("plain")).unwrap();
    fs::create_dir(archive.place.at("out/root")).unwrap();
    let same = "\"$@\" && ls -A \"$OUT/root\" | tr '\\n' ' '; rmdir \"$OUT/root/lost+found\"; \
        \"$1\" diff \"$OUT/../plain\" \"$OUT/root\"; stat -c ' %a %u' \"$OUT/root\"";
    let lost = within(&format!("mkdir -m 700 \"$OUT/root/lost+found\"; {same}")).ended_with(0);
    lost.printed("bin dev etc lib lib64 lost+found proc sbin usr var  755 0\n");
    // Killed between two of the names; the next run takes away what was moved.
    let half =
        "strace -qq -o /dev/null -e inject=renameat:signal=KILL:when=4 \"$@\"; ls -A \"$OUT/root\" | wc -l; ";
    let again = within(&format!("{half} mkdir \"$OUT/root/lost+found\"; {same}")).ended_with(0);
    again.printed("4\nbin dev etc lib lib64 lost+found proc sbin usr var  755 0\n");
    let subvolume = "truncate -s 200M \"$OUT/../disk\"; mkfs.btrfs -q \"$OUT/../disk\" >&2; umount \"$OUT/root\"; \
        mount -o loop \"$OUT/../disk\" \"$OUT\"; btrfs subvolume create \"$OUT/root\" >&2; \"$@\" && ls -A \"$OUT/root\" | wc -l";
    within(subvolume).ended_with(0).printed("9\n");
    let taken = within("echo x > \"$OUT/root/file\"; \"$@\"; echo $?; ls -A \"$OUT/root\"");
    taken.said("the directory is not empty: it has 'file'").printed("2\nfile\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn where_programs_must_not_run_that_is_foreseen_and_where_devices_must_not_they_are_the_hosts() {
    let mut archive = Archive::new();
    archive.add("null", "", &[], &[("postinst", "#!/bin/sh\nset -e\ncat /dev/null > /dev/zero\n")]);
    let server = Server::new(archive.place.at("mirror"));
    let pin = archive.publish("");
    let on = |flags: &str, more: &[&str]| {
        let options =
            [&["--no-updates", "--no-base", "--include=null", "--release-sha256", &pin], more].concat();
        let run = archive.command(&options, &server.url);
        let mut command = Command::new(system("unshare"));
        let script = "mount -t tmpfs -o \"$1\" new \"$2\"; shift 2; exec \"$@\"";
        command.args(["-m", "sh", "-uc", script, "sh", flags]).arg(archive.place.at("out"));
        command.arg(run.get_program()).args(run.get_args());
        finish(command, "")
    };
    let refused = on("noexec", &[]).ended_with(2).said("its file system is mounted noexec");
    refused.said("hint: mount -o remount,exec; or --foreign");
    assert_eq!(server.asked("/pool/null.deb"), [0; 0]);
    on("noexec", &["--foreign"]).ended_with(0);
    on("nodev", &[]).ended_with(0);
}

/// What a disk says only when it is written to must not be lost between the two times that it is waited for.
#[test]
#[ignore = "needs root: tests/run"]
fn a_disk_that_fails_while_the_scripts_run_is_no_success() {
    let mut archive = Archive::new();
    archive.add("big", "", &[("usr/big", &"0".repeat(60 << 20), 0o644)], &[]);
    let pin = archive.publish("");
    // A file system that has promised more than there is.
    let script = "mount -t tmpfs -o size=30m thin \"$PLACE/thin\"; truncate -s 1G \"$PLACE/thin/disk\"; \
        mke2fs -q -t ext4 -O ^has_journal \"$PLACE/thin/disk\"; \
        mount -o loop,errors=continue \"$PLACE/thin/disk\" \"$PLACE/out\"; \
        \"$@\" || code=$?; ls -A \"$PLACE/out\"; exit $code";
    let run = archive.command(&["--include=big", "--release-sha256", &pin], &archive.url());
    let mut command = Command::new(system("unshare"));
    command.args(["-m", "sh", "-uc", script, "sh"]).arg(run.get_program()).args(run.get_args());
    fs::create_dir(archive.place.at("thin")).unwrap();
    command.env("PLACE", &archive.place.0);
    let ended = finish(command, "").ended_with(1);
    ended.said("cannot write the tree to the disk: Input/output error").printed("lost+found\n");
    assert!(archive.place.names("cache/base").is_empty());
}

// ---- signals ----

/// A run that stops itself while a script of the package "slow" is at work.
fn stopped_in_a_script(archive: &Archive) -> Child {
    let pin = archive.publish("");
    let mut command = archive.command(&["--include=slow", "--release-sha256", &pin], &archive.url());
    let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let ready = archive.place.at(&format!("out/root.partial-{}/root/ready", child.id()));
    eventually("the script runs", || ready.exists());
    child
}

fn slow() -> Archive {
    let mut archive = Archive::new();
    archive.add("slow", "", &[], &[("postinst", "#!/bin/sh\necho > /ready\nkill -STOP $$\n")]);
    archive
}

fn kill(child: &Child, signal: &str) {
    sh("kill -s \"$1\" \"$2\"", &[signal, &child.id().to_string()]);
}

#[test]
#[ignore = "needs root: tests/run"]
fn signals_end_it_and_remove_all() {
    let archive = slow();
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let mut child = stopped_in_a_script(&archive);
        kill(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code));
        archive.nothing_is_left();
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_signal_ends_a_download_that_hangs() {
    let archive = Archive::new();
    let server = Server::new(archive.place.at("mirror"));
    let pin = archive.publish("");
    server.fault("/pool/dpkg.deb", Fault::Hang);
    let mut child = archive.command(&["--release-sha256", &pin], &server.url).spawn().unwrap();
    eventually("the download hangs", || !server.asked("/pool/dpkg.deb").is_empty());
    kill(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    archive.nothing_is_left();
}

#[test]
#[ignore = "needs root: tests/run"]
fn after_sigkill_no_process_and_no_mount_is_left_and_the_next_run_cleans_up() {
    let archive = slow();
    let mut child = stopped_in_a_script(&archive);
    kill(&child, "KILL");
    child.wait().unwrap();
    let stale = archive.place.at(&format!("out/root.partial-{}", child.id()));
    assert!(stale.exists());
    let inside = stale.join("root");
    eventually("its processes are gone", || {
        let roots = fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|p| fs::read_link(p.path().join("root")).ok());
        roots.into_iter().all(|root| !root.starts_with(&inside))
    });
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(stale.to_str().unwrap()));
    // One of the same name that somebody works in stays.
    let mut other = stopped_in_a_script(&archive);
    assert!(!stale.exists());
    archive.run(&[]).ended_with(0);
    assert_eq!(archive.place.names("out"), ["root".to_owned(), format!("root.partial-{}", other.id())]);
    kill(&other, "TERM");
    assert_eq!(other.wait().unwrap().code(), Some(143));
}

// ---- clone ----

/// Everything of a tree that a copy must have too, a line an entry.
const LISTING: &str = "cd \"$1\"; find . -mindepth 1 -printf '%P %y %m %U:%G %T@ %n %l\\n' | sort; \
    find . -type f -exec sha256sum {} + | sort -k2; getfattr -dhR -m - . 2>/dev/null || true; \
    find . \\( -type c -o -type b \\) -exec stat -c '%n %t:%T' {} +";

#[test]
#[ignore = "needs root: tests/run"]
fn a_clone_has_everything_of_its_source() {
    let place = Place::new();
    let source = place.at("source");
    sh(
        "mkdir -p \"$1/dir/deep\"; cd \"$1\"; echo text > dir/file; ln dir/file dir/deep/hard; ln -s /etc/passwd link; \
         ln link link2; mknod null c 1 3; mkfifo pipe; cp /bin/true suid; chown 1:2 suid; chmod 6755 suid; chmod 1777 dir; \
         chown -h 3:4 link; touch -d 2001-02-03T04:05:06.789 dir/file; : > empty; mkdir -m 0 closed; \
         touch -hd 2002-02-03 link dir; truncate -s 1M sparse",
        &[source.to_str().unwrap()],
    );
    let copy = place.at("copy");
    let clone =
        |from: &Path, to: &Path| run("mkrootfs", &["clone", from.to_str().unwrap(), to.to_str().unwrap()]);
    clone(&source, &copy).ended_with(0);
    let list = |dir: &Path| sh(LISTING, &[dir.to_str().unwrap()]);
    assert_eq!(list(&source), list(&copy));
    assert_eq!(place.names(""), ["copy", "source"]);
    assert_eq!(fs::metadata(copy.join("dir/file")).unwrap().nlink(), 2);
    clone(&source, &copy).ended_with(2).said("the directory is not empty");
    clone(&source, &source.join("inner")).ended_with(2).said("the copy would lie in it");
    clone(&place.at("none"), &place.at("x")).ended_with(2).said("No such file or directory");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_clone_does_not_go_into_mounts_or_through_links() {
    let place = Place::new();
    sh(
        "mkdir -p \"$1/source/mnt\" \"$1/outside\"; echo x > \"$1/outside/secret\"; ln -s ../outside \"$1/source/door\"",
        &[place.0.to_str().unwrap()],
    );
    let mut command = Command::new(system("unshare"));
    let script = "mount -t tmpfs m \"$1/source/mnt\"; echo x > \"$1/source/mnt/file\"; \"$2\" clone \"$1/source\" \"$1/copy\"";
    command.args(["-m", "sh", "-euc", script, "sh"]).arg(&place.0).arg(tool("mkrootfs"));
    finish(command, "").ended_with(0);
    assert_eq!(place.names("copy"), ["door", "mnt"]);
    assert!(place.names("copy/mnt").is_empty());
    assert!(fs::symlink_metadata(place.at("copy/door")).unwrap().is_symlink());
}

#[test]
#[ignore = "needs root: tests/run"]
fn extended_attributes_are_cloned() {
    let place = Place::new();
    let source = place.at("source");
    sh(
        "mkdir \"$1\"; cp /bin/true \"$1/ping\"; setcap cap_net_raw+ep \"$1/ping\"",
        &[source.to_str().unwrap()],
    );
    run("mkrootfs", &["clone", source.to_str().unwrap(), place.at("copy").to_str().unwrap()]).ended_with(0);
    assert!(sh("getcap \"$1\"", &[place.at("copy/ping").to_str().unwrap()]).contains("cap_net_raw=ep"));
}

/// Runs a script in a mount namespace of its own; $1 is the place, $2 the tool.
fn with_mounts(place: &Place, script: &str) -> Outcome {
    let mut command = Command::new(system("unshare"));
    command.args(["-m", "sh", "-euc", script, "sh"]).arg(&place.0).arg(tool("mkrootfs"));
    finish(command, "")
}

#[test]
#[ignore = "needs root: tests/run"]
fn an_overlay_leaves_the_source_alone() {
    let place = Place::new();
    sh(
        "mkdir -m 751 \"$1/a,b:c\"; echo old > \"$1/a,b:c/file\"; chown 5:6 \"$1/a,b:c\"",
        &[place.0.to_str().unwrap()],
    );
    let script = "cd \"$1\"; \"$2\" clone --overlay a,b:c new; echo new > new/file; cat a,b:c/file new/file; \
                  stat -c '%a %u:%g' new; ! \"$2\" clone --overlay a,b:c new; umount new; ls -A new; \
                  ! \"$2\" clone --overlay a,b:c new";
    let said = with_mounts(&place, script).ended_with(0).said("'").said("of an earlier overlay");
    said.said("an overlay; what changes lies in").printed("old\nnew\n751 5:6\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_clone_is_made_in_the_best_way_or_in_the_one_that_was_asked_for() {
    let place = Place::new();
    let script = "cd \"$1\"; truncate -s 200M disk; mkfs.btrfs -q disk >/dev/null; mkdir fs; mount -o loop disk fs; cd fs; \
        btrfs -q subvolume create source || btrfs subvolume create source >&2; echo text > source/file; dd if=/dev/zero of=source/big bs=1M count=4 2>&1; \
        for how in '' --snapshot --reflink --copy; do \
            \"$2\" clone $how source \"to$how\" 2>&1; cat \"to$how/file\"; stat -c %i \"to$how\"; echo more >> \"to$how/file\"; \
        done; cat source/file; ls -A; mkdir plain; ! \"$2\" clone --snapshot plain x; ! \"$2\" clone --reflink source ../x; ls .. | grep -c x";
    let out = with_mounts(&place, script);
    let text = out
        .out
        .lines()
        .filter(|line| !line.contains("records") && !line.contains("bytes"))
        .collect::<Vec<_>>()
        .join("\n");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..3], ["mkrootfs: a snapshot", "text", "256"], "{text} {}", out.err);
    assert_eq!(lines[3..6], ["mkrootfs: a snapshot", "text", "256"], "{text}");
    assert_eq!(lines[6..8], ["mkrootfs: a copy that shares its blocks", "text"], "{text}");
    assert_eq!(lines[9..11], ["mkrootfs: a copy", "text"], "{text}");
    assert_eq!(
        lines[12..],
        ["text", "source", "to", "to--copy", "to--reflink", "to--snapshot", "0"],
        "{text}"
    );
    assert!(
        out.err.contains("it is no subvolume of btrfs") && out.err.contains("cannot share its blocks"),
        "{}",
        out.err
    );
}

// ---- looking at roots ----

#[test]
#[ignore = "needs root: tests/run"]
fn verify_says_what_dpkg_says() {
    let mut archive = Archive::new();
    archive.add("doc", "", &[("usr/share/doc/a", "a", 0o644), ("usr/share/doc/b", "b", 0o644)], &[]);
    archive.run(&["--include=doc", "--no-updates"]).ended_with(0);
    let root = archive.place.at("out/root");
    mkrootfs(&["verify"], &[&root]).ended_with(0).printed("");
    let broken = "cd \"$1\"; echo other > usr/share/doc/a; rm usr/share/doc/b; echo mine > etc/base.conf";
    sh(broken, &[root.to_str().unwrap()]);
    let lines = "??5?????? c /etc/base.conf\n??5??????   /usr/share/doc/a\nmissing     /usr/share/doc/b\n";
    mkrootfs(&["verify"], &[&root]).ended_with(1).printed(lines);
    let theirs = "chroot \"$1\" dpkg -V | sort -k 2";
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    // dpkg of 1.21 checks sums only; the states of the same lines are the same.
    assert_eq!(sorted(&sh(theirs, &[root.to_str().unwrap()])), sorted(lines));
    sh(
        "sed -i '/^Package: libapt$/,/^$/d' \"$1\"/var/lib/dpkg/status; \
         sed -i '/^Package: doc$/,/^$/s/ok installed/ok half-installed/' \"$1\"/var/lib/dpkg/status",
        &[root.to_str().unwrap()],
    );
    let said = mkrootfs(&["verify"], &[&root]).ended_with(1).out;
    assert!(said.contains("doc: install ok half-installed\n"), "{said}");
    assert!(said.contains("'apt' needs 'libapt | none'"), "{said}");
    mkrootfs(&["verify"], &[&archive.place.at("out")])
        .ended_with(2)
        .said("there is no '/var/lib/dpkg/status'");
}

#[test]
#[ignore = "needs root: tests/run"]
fn diff_tells_each_difference_and_no_more() {
    let place = Place::new();
    let (one, two) = (rich_tree(&place), place.at("two"));
    mkrootfs(&["clone"], &[&one, &two]).ended_with(0);
    sh(
        "mkdir -p \"$1\"/var/log; echo today > \"$1\"/var/log/dpkg.log; mkdir -p \"$2\"/var/log",
        &[one.to_str().unwrap(), two.to_str().unwrap()],
    );
    let diff = || mkrootfs(&["diff"], &[&one, &two]);
    diff().ended_with(0).printed("");
    sh(
        "cd \"$1\"; echo more >> dir/file; chmod 600 suid; ln -sf /else link; rm pipe; : > new; chown 7 dir; \
         setfattr -n user.k -v x dir/deep",
        &[two.to_str().unwrap()],
    );
    let (a, b) = (one.display(), two.display());
    diff().ended_with(1).printed(&format!(
        "differs: /dir: owner 0:0, 7:0\ndiffers: /dir/deep: attributes\ndiffers: /dir/deep/hard: content\n\
         differs: /dir/file: content\ndiffers: /link: owner 3:4, 0:0; target /etc/passwd, /else\n\
         only in {b}: /new\nonly in {a}: /pipe\ndiffers: /suid: mode 106755, 100600\n"
    ));
    mkrootfs(&["diff"], &[&one, &place.at("none")]).ended_with(2).said("No such file");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_foreign_root_is_configured_later() {
    let mut archive = Archive::new();
    archive.add("pre", "", &[], &[("preinst", "#!/bin/sh\necho $1 $DPKG_MAINTSCRIPT_PACKAGE > /etc/pre\n")]);
    let root = archive.place.at("out/root");
    archive.run(&["--include=pre", "--no-updates", "--foreign"]).ended_with(0);
    let status = || fs::read_to_string(root.join("var/lib/dpkg/status")).unwrap();
    assert_eq!(status().matches("install ok unpacked").count(), 5);
    assert!(!root.join("etc/pre").exists() && root.join("usr/sbin/policy-rc.d").exists());
    mkrootfs(&["configure"], &[&root]).ended_with(0);
    assert_eq!(status().matches("install ok installed").count(), 5);
    assert_eq!(fs::read_to_string(root.join("etc/pre")).unwrap(), "install pre\n");
    assert!(!root.join("usr/sbin/policy-rc.d").exists());
    // Once more: nothing is left to do.
    mkrootfs(&["configure", "--progress=line"], &[&root]).ended_with(0).said("0 packages configured");
    let foreign = status().replace("Architecture: amd64", "Architecture: s390x");
    fs::write(root.join("var/lib/dpkg/status"), foreign).unwrap();
    mkrootfs(&["configure"], &[&root]).ended_with(2).said("cannot run programs of 's390x'");
}

// ---- pack and unpack ----

/// mkrootfs with words and paths.
fn mkrootfs(words: &[&str], paths: &[&Path]) -> Outcome {
    let mut command = Command::new(tool("mkrootfs"));
    command.args(words).args(paths);
    finish(command, "")
}

/// A tree with one of everything.
fn rich_tree(place: &Place) -> PathBuf {
    let tree = place.at("tree");
    let long = "n".repeat(120);
    sh(
        "mkdir -p \"$1/dir/deep\"; cd \"$1\"; echo text > dir/file; ln dir/file dir/deep/hard; ln -s /etc/passwd link; \
         mknod null c 1 3; mkfifo pipe; cp /bin/true suid; chown 1:2 suid; chmod 6755 suid; chmod 1777 dir; \
         chown -h 3:4 link; mkdir -m 0 closed; echo x > \"$2\"; ln -s \"$2\" \"${2}2\"; setfattr -n user.k -v w dir/deep; \
         cp /bin/true ping; setcap cap_net_raw+ep ping; echo y > $(printf 'caf\\303\\251'); \
         find . -exec touch -hd 2001-02-03T04:05:06 {} +",
        &[tree.to_str().unwrap(), &long],
    );
    tree
}

fn listing(dir: &Path) -> String {
    sh(LISTING, &[dir.to_str().unwrap()])
}

#[test]
#[ignore = "needs root: tests/run"]
fn what_is_packed_is_unpacked_the_same_by_us_and_by_tar() {
    let place = Place::new();
    let tree = rich_tree(&place);
    let expected = listing(&tree);
    for name in ["a.tar", "a.tar.gz", "a.tar.zst", "a.tar.xz"] {
        let (file, ours, theirs) = (place.at(name), place.at("ours"), place.at("theirs"));
        mkrootfs(&["pack"], &[&tree, &file]).ended_with(0);
        mkrootfs(&["unpack", "--devices"], &[&file, &ours]).ended_with(0);
        assert_eq!(expected, listing(&ours), "{name}");
        fs::create_dir(&theirs).unwrap();
        sh(
            "tar -xpf \"$1\" -C \"$2\" --xattrs --xattrs-include='*' --same-owner",
            &[file.to_str().unwrap(), theirs.to_str().unwrap()],
        );
        assert_eq!(expected, listing(&theirs), "{name}");
        fs::remove_dir_all(&ours).unwrap();
        fs::remove_dir_all(&theirs).unwrap();
    }
    // What tar packs, on standard input, with holes.
    let script = "truncate -s 8M \"$1/sparse\"; echo end >> \"$1/sparse\"; touch -d 2001-02-03T04:05:06 \"$1/sparse\" \"$1\"; \
                  tar -cSf - -C \"$1\" --format=gnu . | \"$2\" unpack - \"$3\" --devices";
    let paths = [&tree, &tool("mkrootfs"), &place.at("ours")].map(|path| path.to_str().unwrap().to_owned());
    sh(script, &paths.each_ref().map(String::as_str));
    let without = |text: String| -> String {
        // That form has no place for extended attributes.
        text.lines()
            .filter(|l| !l.contains("user.k") && !l.contains("security.") && !l.starts_with("# file"))
            .collect()
    };
    assert_eq!(without(listing(&tree)), without(listing(&place.at("ours"))));
    assert!(fs::metadata(place.at("ours/sparse")).unwrap().blocks() < 1000);
}

#[test]
#[ignore = "needs root: tests/run"]
fn devices_are_made_when_asked_for_only() {
    let place = Place::new();
    let (tree, file) = (rich_tree(&place), place.at("a.tar"));
    mkrootfs(&["pack"], &[&tree, &file]).ended_with(0);
    mkrootfs(&["unpack"], &[&file, &place.at("b")]).ended_with(0).said("1 devices are left out: --devices");
    assert!(!place.at("b/null").exists() && place.at("b/link").is_symlink());
}

#[test]
#[ignore = "needs root: tests/run"]
fn archives_cannot_write_outside_and_damage_is_told() {
    let place = Place::new();
    let outside = place.at("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::create_dir(place.at("out")).unwrap();
    let out = outside.to_str().unwrap();
    let attack = |entries: &[(&str, u8, &str)]| {
        let mut bytes = Vec::new();
        for (path, kind, link) in entries {
            tar_entry(&mut bytes, path, *kind, link, if *kind == b'0' { b"planted" } else { b"" });
        }
        bytes.extend([0; 1024]);
        fs::write(place.at("evil.tar"), bytes).unwrap();
        mkrootfs(&["unpack"], &[&place.at("evil.tar"), &place.at("out/root")])
    };
    for entries in [
        &[("../outside/x", b'0', "")][..],
        &[("/etc/x", b'0', "")],
        &[("a/../../outside/x", b'0', "")],
        &[("x", b'1', "../../outside/y")],
        &[("..", b'5', "")],
    ] {
        attack(entries).ended_with(7).said("leads out of the tree");
        assert!(place.names("out").is_empty());
    }
    // A walk through links ends inside the tree.
    let inside = &out[1..];
    attack(&[
        (inside, b'5', ""),
        ("door", b'2', out),
        ("door/x", b'0', ""),
        ("up", b'2', "../../../../outside"),
        ("up/x", b'0', ""),
        ("door", b'0', ""),
        ("hard", b'1', "up/x"),
    ]);
    assert!(place.names("outside").is_empty(), "something got out");
    let _ = fs::remove_dir_all(place.at("out/root"));
    let whole = fs::read(place.at("evil.tar")).unwrap();
    fs::write(place.at("evil.tar"), &whole[..700]).unwrap();
    let unpack = || mkrootfs(&["unpack"], &[&place.at("evil.tar"), &place.at("out/root")]);
    fs::write(place.at("evil.tar"), "no archive").unwrap();
    unpack().ended_with(5);
    fs::write(place.at("evil.tar"), "").unwrap();
    unpack().ended_with(5).said("is empty");
    mkrootfs(&["unpack"], &[&place.at("none"), &place.at("out/root")]).ended_with(2);
    assert!(place.names("out").is_empty());
}

/// Two layers; the second hides a file and a whole directory of the first.
const IMAGE: &str = r#"
cd "$1"; mkdir -p one/etc one/dir two/dir image/blobs/sha256
echo first > one/etc/keep; echo gone > one/etc/gone; echo old > one/dir/old
echo second > two/dir/new; : > two/dir/.wh..wh..opq; mkdir two/etc; : > two/etc/.wh.gone
blob() { sum=$(sha256sum < "$1"); sum=${sum%% *}; size=$(stat -c %s "$1"); mv "$1" "image/blobs/sha256/$sum"; }
tar -cf - -C one . | gzip -n > layer; blob layer; one=$sum onesize=$size
tar -cf layer -C two .; blob layer; two=$sum twosize=$size
printf '{"schemaVersion":2,"layers":[{"digest":"sha256:%s","size":%s},{"digest":"sha256:%s","size":%s}]}'     "$one" "$onesize" "$two" "$twosize" > manifest; blob manifest
printf '{"manifests":[{"digest":"sha256:%s","size":%s,"platform":{"os":"linux","architecture":"amd64"}}]}' "$sum" "$size" > image/index.json
echo '{"imageLayoutVersion":"1.0.0"}' > image/oci-layout
tar -cf oci.tar -C image .; (cd image && tar -cf ../oci2.tar blobs index.json oci-layout)
mkdir docker; cp "image/blobs/sha256/$one" docker/one.tar; cp "image/blobs/sha256/$two" docker/two.tar
echo '[{"Layers":["one.tar","two.tar"]}]' > docker/manifest.json
(cd docker && tar -cf ../docker.tar manifest.json one.tar two.tar)
"#;

#[test]
#[ignore = "needs root: tests/run"]
fn images_of_containers_are_laid_over_each_other() {
    let place = Place::new();
    sh(IMAGE, &[place.0.to_str().unwrap()]);
    for name in ["image", "oci2.tar", "docker", "docker.tar"] {
        let root = place.at("root");
        mkrootfs(&["unpack", "--arch=amd64"], &[&place.at(name), &root]).ended_with(0);
        let found = sh("cd \"$1\"; find . -type f | sort; cat etc/keep dir/new", &[root.to_str().unwrap()]);
        assert_eq!(found, "./dir/new\n./etc/keep\nfirst\nsecond\n", "{name}");
        fs::remove_dir_all(root).unwrap();
    }
    let unpack = |arch: &str| mkrootfs(&["unpack", arch], &[&place.at("image"), &place.at("root")]);
    unpack("--arch=arm64").ended_with(2).said("the image has nothing for 'arm64'");
    sh("for f in \"$1\"/image/blobs/sha256/*; do echo x >> \"$f\"; done", &[place.0.to_str().unwrap()]);
    unpack("--arch=amd64").ended_with(5).said("has SHA-256");
    mkrootfs(&["unpack"], &[&place.at("one"), &place.at("root")])
        .ended_with(2)
        .said("no image of a container");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_packed_root_is_the_same_each_time() {
    let mut archive = Archive::new();
    archive.add(
        "hello",
        "",
        &[("usr/bin/hello", "x", 0o755), ("var/log/x", "", 0o644), ("var/lib/dbus/x", "", 0o644)],
        &[("postinst", "#!/bin/sh\necho log > /var/log/dpkg.log\ncat /proc/sys/kernel/random/uuid > /var/lib/dbus/machine-id\n")],
    );
    let pin = archive.publish("");
    let pack = |target: &str, options: &[&str]| {
        let target = archive.place.at(target);
        let mut command = Command::new(tool("mkrootfs"));
        command.args([
            "--progress=none",
            "--arch=amd64",
            "--no-updates",
            "--release-sha256",
            &pin,
            "--include=hello",
        ]);
        command.args(options).arg("--cache").arg(archive.place.at("cache"));
        command.arg("bookworm").arg(&target).arg(archive.url()).env("SOURCE_DATE_EPOCH", "1700000000");
        finish(command, "").ended_with(0).printed("");
        target
    };
    let first = sha256(&pack("a.tar", &["--no-base", "--jobs=1"]));
    assert_eq!(first, sha256(&pack("b.tar", &["--jobs=8"])), "other threads");
    assert_eq!(first, sha256(&pack("c.tar", &[])), "from a base");
    for file in ["a.tar", "b.tar", "c.tar"] {
        let mode = fs::metadata(archive.place.at(file)).unwrap().mode();
        assert_eq!(mode & 0o022, 0, "{file} may be written by anybody: {mode:o}");
    }
    let dir = pack("root", &[]);
    mkrootfs(&["pack"], &[&dir, &archive.place.at("d.tar")]).ended_with(0);
    let mut command = Command::new(tool("mkrootfs"));
    command.arg("pack").arg(&dir).arg(archive.place.at("d.tar")).env("SOURCE_DATE_EPOCH", "1700000000");
    finish(command, "").ended_with(0);
    assert_eq!(first, sha256(&archive.place.at("d.tar")), "by way of a directory");
    let names = sh("tar -tf \"$1\"", &[archive.place.at("a.tar").to_str().unwrap()]);
    assert!(names.contains("./usr/bin/hello\n") && !names.contains("dpkg.log"), "{names}");
    // On standard output, which nothing else may touch.
    let script = "\"$@\" > \"$OUT\"";
    let mut command = Command::new("sh");
    command.args(["-euc", script, "sh"]).arg(tool("mkrootfs"));
    command.args(["--arch=amd64", "--no-updates", "--release-sha256", &pin, "--include=hello", "--cache"]);
    command.arg(archive.place.at("cache")).args(["bookworm", "-"]).arg(archive.url());
    command
        .env("OUT", archive.place.at("e.tar"))
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .env("TMPDIR", archive.place.at("out"));
    finish(command, "").ended_with(0);
    assert_eq!(first, sha256(&archive.place.at("e.tar")));
    archive.nothing_is_left();
}

#[test]
#[ignore = "needs root: tests/run"]
fn images_of_file_systems_are_made_by_their_programs() {
    let place = Place::new();
    let tree = rich_tree(&place);
    fs::remove_dir(tree.join("closed")).unwrap();
    let read = |name: &str, script: &str| {
        let file = place.at(name);
        mkrootfs(&["pack"], &[&tree, &file]).ended_with(0);
        sh(script, &[file.to_str().unwrap()])
    };
    assert_eq!(read("a.ext4", "debugfs -R 'cat dir/file' \"$1\" 2>/dev/null"), "text\n");
    assert_eq!(read("a.squashfs", "unsquashfs -cat \"$1\" dir/file"), "text\n");
    assert_eq!(read("a.erofs", "dump.erofs --path=/dir/file \"$1\" | grep -c 'Size: 5 '"), "1\n");
    let mut command = Command::new(tool("mkrootfs"));
    command.arg("pack").arg(&tree).arg(place.at("b.squashfs"));
    // Where the program is not installed it is named before any work. (Its usual places are hidden.)
    let mut hidden = Command::new(system("unshare"));
    hidden.args(["-m", "sh", "-euc", "mount --bind /dev/null \"$(command -v mksquashfs)\"; \"$@\"", "sh"]);
    hidden.arg(command.get_program()).args(command.get_args());
    finish(hidden, "").ended_with(2).said("hint: apt-get install squashfs-tools");
    assert!(!place.at("b.squashfs").exists());
    mkrootfs(&["pack"], &[&tree, &place.at("dir")]).ended_with(2).said("its name says no form");
}

// ---- without root ----

/// Runs as the user "daemon", who owns `out` and `cache`; with or without ids of its own in /etc/subuid.
fn as_daemon(archive: &Archive, subids: &str, options: &[&str], target: &str) -> Outcome {
    let pin = archive.publish("");
    let place = archive.place.0.to_str().unwrap();
    const SCRIPT: &str = "echo \"$SUBIDS\" > \"$PLACE/subids\"; for f in subuid subgid; do [ -e /etc/$f ] || : > /etc/$f; \
        mount --bind \"$PLACE/subids\" /etc/$f; done; mkdir -p \"$PLACE/cache\"; \
        chown daemon: \"$PLACE/cache\" \"$PLACE/out\"; mount -t tmpfs tmp /tmp; cp \"$1\" /tmp/mkrootfs; shift; \
        mkdir /tmp/place; mount --bind \"$PLACE\" /tmp/place; cd /tmp/place; \
        exec setpriv --reuid=daemon --regid=daemon --init-groups /tmp/mkrootfs \"$@\"";
    let mut command = Command::new(system("unshare"));
    command.args(["-m", "sh", "-euc", SCRIPT, "sh"]).arg(tool("mkrootfs"));
    command.args([
        "--no-updates",
        "--arch=amd64",
        "--progress=none",
        "--release-sha256",
        &pin,
        "--cache=cache",
    ]);
    command.args(options).args(["bookworm", target, "file:///tmp/place/mirror"]);
    command.env("SUBIDS", subids).env("PLACE", place).env("HOME", "/nonexistent");
    finish(command, "")
}

#[test]
#[ignore = "needs root: tests/run"]
fn without_root_the_bytes_are_the_same() {
    let mut archive = Archive::new();
    let script =
        "#!/bin/sh\nset -e\nchown 42:43 /etc/base.conf\ncat /dev/null > /etc/made\necho x > /dev/null\n";
    archive.add("owner", "Depends: base-files", &[], &[("postinst", script)]);
    let options = ["--include=owner", "--no-base"];
    let daemon = sh("id -u daemon", &[]);
    as_daemon(&archive, "daemon:100000:65536", &options, "out/user.tar").ended_with(0);
    let pin = archive.publish("");
    let mut command = Command::new(tool("mkrootfs"));
    command.args([
        "--no-updates",
        "--arch=amd64",
        "--progress=none",
        "--release-sha256",
        &pin,
        "--cache=cache",
    ]);
    command.args(options).args(["bookworm", "out/root.tar", "file:///tmp/place/mirror"]);
    // The same address of the mirror, as it is written into the root.
    let mut same = Command::new(system("unshare"));
    let enter = "mount -t tmpfs tmp /tmp; mkdir /tmp/place; mount --bind \"$PLACE\" /tmp/place; cd /tmp/place; exec \"$@\"";
    same.args(["-m", "sh", "-euc", enter, "sh"]).arg(command.get_program()).args(command.get_args());
    finish(
        {
            same.env("PLACE", &archive.place.0);
            same
        },
        "",
    )
    .ended_with(0);
    let list = |name: &str| {
        let file = archive.place.at(name);
        sh(
            "tar -tvf \"$1\" --numeric-owner | sed -E 's/[0-9]{4}-[0-9-]+ [0-9:]+//'",
            &[file.to_str().unwrap()],
        )
    };
    let (user, root) = (list("out/user.tar"), list("out/root.tar"));
    assert_eq!(user, root);
    assert!(user.contains("42/43") && user.contains("crw-rw-rw- 0/0 "), "{user}");
    assert_eq!(fs::metadata(archive.place.at("out/user.tar")).unwrap().uid().to_string(), daemon.trim());
    // As a directory: owned by the ids that are outside.
    as_daemon(&archive, "daemon:100000:65536", &options, "out/dir").ended_with(0);
    let conf = fs::metadata(archive.place.at("out/dir/etc/base.conf")).unwrap();
    assert_eq!((conf.uid(), conf.gid()), (100_041, 100_042));
    assert!(!archive.place.at("out/dir/dev/null").exists());
    assert!(archive.place.at("out/dir/dev/fd").is_symlink());
}

#[test]
#[ignore = "needs root: tests/run"]
fn without_ids_of_ones_own_all_files_are_the_callers_and_that_is_said() {
    let mut archive = Archive::new();
    archive.add(
        "owner",
        "",
        &[],
        &[("postinst", "#!/bin/sh\nset -e\n: > /etc/made; chown 42:43 /etc/made\n")],
    );
    let daemon: u32 = sh("id -u daemon", &[]).trim().parse().unwrap();
    let said = as_daemon(&archive, "other:100000:65536", &["--include=owner"], "out/dir").ended_with(0);
    said.said("warning: every file of the root will belong to you alone: '/etc/subuid' has no range of ids");
    assert_eq!(fs::metadata(archive.place.at("out/dir/etc/made")).unwrap().uid(), daemon);
    assert_eq!(archive.place.names("out"), ["dir"]);
}

/// As in a container without root, where the caller is user 0 already.
#[test]
#[ignore = "needs root: tests/run"]
fn root_of_a_user_namespace_is_not_root() {
    let mut archive = Archive::new();
    let script = "#!/bin/sh\nset -e\n: > /etc/made; chown 42:43 /etc/made; cat /dev/null\n";
    archive.add("owner", "", &[], &[("postinst", script)]);
    let pin = archive.publish("");
    let command =
        archive.command(&["--release-sha256", &pin, "--no-updates", "--include=owner"], &archive.url());
    let mut inside = Command::new(system("unshare"));
    inside.arg("-r").arg(command.get_program()).args(command.get_args());
    let warning =
        "warning: every file of the root will belong to you alone: this user namespace has too few ids";
    finish(inside, "").ended_with(0).said(warning);
    let made = fs::metadata(archive.place.at("out/root/etc/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (0, 0));
    assert!(!archive.place.at("out/root/dev/null").exists());
}

/// The first with all ids, each as itself, as systemd's PrivateUsers=full does it; the second as in podman's containers.
#[test]
#[ignore = "needs root: tests/run"]
fn root_that_can_make_no_devices_makes_a_root_without() {
    let archive = Archive::new();
    let pin = archive.publish("");
    let all =
        ["--user", "--map-users=0:0:4294967295", "--map-groups=0:0:4294967295", "--setuid=0", "--setgid=0"];
    for arguments in [&all[..], &["--caps=default,sys_admin,dac_read_search,sys_resource,ipc_lock,sys_nice"]]
    {
        let _ = fs::remove_dir_all(archive.place.at("out/root"));
        let command = archive.command(&["--release-sha256", &pin, "--no-updates"], &archive.url());
        let mut inside = Command::new(tool("unshare"));
        inside.args(arguments).arg(command.get_program()).args(command.get_args());
        finish(inside, "").ended_with(0);
        assert!(archive.place.at("out/root/etc/base.conf").exists());
        assert!(!archive.place.at("out/root/dev/null").exists());
    }
}
