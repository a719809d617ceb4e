//! common: run the real tools, each test in namespaces of its own, and never wait without a limit.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything takes on a loaded machine; a test that needs it has failed. TEST_SECONDS says otherwise
/// where the machine is emulated.
fn limit() -> Duration {
    let seconds = std::env::var("TEST_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

/// The tool under test: what cargo built; with UNDER_TEST=DIR the one in DIR; with UNDER_TEST=theirs the
/// system's own, against which a test is proven first; with UNDER_TEST=theirs:DIR another build of that one.
pub fn tool(name: &str) -> PathBuf {
    let Ok(word) = std::env::var("UNDER_TEST") else { return built().join(name) };
    match word.strip_prefix("theirs") {
        Some("") => system(name),
        Some(dir) => Path::new(dir.strip_prefix(':').expect("theirs:DIR")).join(name),
        None => Path::new(&word).join(name),
    }
}

/// True where a test asks for what the reference tool does not have.
pub fn theirs() -> bool {
    std::env::var("UNDER_TEST").is_ok_and(|word| word.starts_with("theirs"))
}

/// True where the reference tool is under test and too old for `option`.
pub fn theirs_lacks(name: &str, option: &str) -> bool {
    theirs() && !run(name, &["--help"]).out.contains(option)
}

/// The system's tool of that name, never ours.
pub fn system(name: &str) -> PathBuf {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("no system tool '{name}': apt-get install it"))
}

/// Where cargo has put the binary of the package whose test this is; its siblings lie beside it.
fn built() -> PathBuf {
    let exe = [
        option_env!("CARGO_BIN_EXE_unshare"),
        option_env!("CARGO_BIN_EXE_nsenter"),
        option_env!("CARGO_BIN_EXE_netns"),
        option_env!("CARGO_BIN_EXE_cgset"),
        option_env!("CARGO_BIN_EXE_mkrootfs"),
    ];
    let exe = exe.into_iter().flatten().next().expect("cargo names the binary of the package under test");
    Path::new(exe).parent().expect("a binary lies in a directory").to_owned()
}

/// How a command ended: its status as a shell shows it, and what it printed.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Outcome {
    /// Fails the test unless the command ended with `code`; shows all that it said.
    #[track_caller]
    pub fn ended_with(self, code: i32) -> Outcome {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Fails the test unless stderr holds `text`.
    #[track_caller]
    pub fn said(self, text: &str) -> Outcome {
        assert!(self.err.contains(text), "no {text:?} in stderr:\n{}\nstdout:\n{}", self.err, self.out);
        self
    }

    /// Fails the test unless stdout is exactly `text`.
    #[track_caller]
    pub fn printed(self, text: &str) -> Outcome {
        assert_eq!(self.out, text, "stderr:\n{}", self.err);
        self
    }
}

/// Runs a tool with arguments, stdin empty.
pub fn run(name: &str, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(tool(name));
    command.args(arguments);
    finish(command, "")
}

/// Runs `script` with sh -eu as root in namespaces of its own (mount, net, uts, ipc, pid), /run and /tmp
/// fresh; when it ends, all that it made ends with it. `$BIN` is the folder of the tools, first on PATH;
/// `$T` an empty directory.
///
/// The system's unshare on purpose: a bug in ours must not reach the host.
pub fn inside(script: &str) -> Outcome {
    inside_with(script, &[])
}

/// As `inside`, with more environment.
pub fn inside_with(script: &str, environment: &[(&str, &str)]) -> Outcome {
    let mut command = command_inside(script);
    command.envs(environment.iter().copied());
    finish(command, "")
}

/// The command that `inside` runs.
pub fn command_inside(script: &str) -> Command {
    // The source tree may lie in /tmp: then the tools are carried over, through /run.
    const ENTER: &str = "mount -t tmpfs run /run && mkdir /run/bin && mount --bind \"$BIN\" /run/bin && \
                         mount -t tmpfs tmp /tmp && mkdir -p /tmp/t \"$BIN\" && export T=/tmp/t && \
                         case $BIN in /tmp/*) mount --move /run/bin \"$BIN\" ;; *) umount /run/bin ;; esac && \
                         rmdir /run/bin && cd / && exec sh -euc \"$1\"";
    let mut command = Command::new(system("unshare"));
    command.args([
        "-m",
        "-n",
        "-u",
        "-i",
        "-p",
        "-f",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        ENTER,
        "sh",
    ]);
    command.arg(script);
    let bin = match std::env::var("UNDER_TEST").as_deref() {
        Ok("theirs") => PathBuf::from("/usr/bin"),
        _ => tool("x").with_file_name(""),
    };
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:/usr/sbin:/sbin:{path}", bin.display())).env("BIN", &bin);
    command.env_remove("TMPDIR");
    command
}

/// Runs a command to its end with `input` on stdin; kills it at the limit.
pub fn finish(mut command: Command, input: &str) -> Outcome {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let input = input.to_owned();
    thread::spawn(move || stdin.write_all(input.as_bytes()));
    let out = collect(child.stdout.take().expect("stdout is a pipe"));
    let err = collect(child.stderr.take().expect("stderr is a pipe"));
    let deadline = Instant::now() + limit();
    let status = loop {
        match child.try_wait().expect("the child is ours to wait for") {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                panic!("no end within {:?}: {command:?}", limit());
            }
            None => thread::sleep(Duration::from_millis(2)),
        }
    };
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Outcome { code, out: out.join().unwrap(), err: err.join().unwrap() }
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Asks until `condition` holds; fails the test when it does not in time.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit();
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The long options that --help, the man page and the bash completion name must be the same.
#[track_caller]
pub fn docs_agree(name: &str, page: &str) {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a member lies in the workspace");
    let read =
        |path: PathBuf| std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let help = run(name, &["--help"]).ended_with(0).out;
    assert!(help.lines().all(|line| line.len() <= 80), "--help is wider than 80 columns");
    let help = long_options(&help);
    // mdoc writes --name as "Fl Fl name" or "Fl -name".
    let man =
        read(top.join(name).join(page)).replace("Fl Fl ", "--").replace("Fl -", "--").replace("\\-", "-");
    assert_eq!(help, long_options(&man), "left: --help, right: the man page");
    let completion = read(top.join("scripts/completion").join(name));
    assert_eq!(help, long_options(&completion), "left: --help, right: the completion");
}

fn long_options(text: &str) -> std::collections::BTreeSet<String> {
    let mut found = std::collections::BTreeSet::new();
    for (at, _) in text.match_indices("--") {
        let before = text[..at].chars().next_back();
        let word: String =
            text[at + 2..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        let word = word.trim_end_matches('-');
        if word.starts_with(|c: char| c.is_ascii_lowercase())
            && before.is_none_or(|c| !c.is_alphanumeric() && c != '-')
        {
            found.insert(word.to_owned());
        }
    }
    found
}

/// A unique name for what a test must make outside its namespaces (cgroups, files). Pids repeat between pid
/// namespaces, as two runs side by side have them; so the namespace counts too.
pub fn unique(stem: &str) -> String {
    use std::os::unix::fs::MetadataExt;
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let namespace = std::fs::metadata("/proc/self/ns/pid").map_or(0, |meta| meta.ino());
    format!("t-{stem}-{namespace}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
