//! cgset_bed: a group of the host's own trees for one test, and made-up hosts below a directory.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Outcome, finish, run, tool, unique};

/// A group name that nobody else uses; whatever a test leaves of it is removed at the end.
pub struct Group(pub String);

impl Group {
    pub fn new(stem: &str) -> Group {
        Group(unique(stem))
    }

    pub fn cgset(&self, arguments: &[&str]) -> Outcome {
        let mut all = vec![self.0.as_str()];
        all.extend(arguments);
        run("cgset", &all)
    }

    /// The directories of the group, one a tree.
    pub fn dirs(&self) -> Vec<PathBuf> {
        let mounts = fs::read_to_string("/proc/mounts").expect("proc is mounted");
        let mounts = mounts.lines().filter(|line| line.contains(" cgroup"));
        let points = mounts.filter_map(|line| line.split(' ').nth(1));
        points.map(|point| Path::new(point).join(&self.0)).filter(|dir| dir.is_dir()).collect()
    }

    /// What the first of `files` that exists in the group says.
    pub fn file(&self, files: &[&str]) -> String {
        let found = self.dirs().into_iter().flat_map(|dir| files.iter().map(move |f| dir.join(f)));
        let found =
            found.into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("none of {files:?}"));
        fs::read_to_string(found).expect("it can be read").trim().to_owned()
    }

    pub fn has(&self, file: &str) -> bool {
        self.dirs().iter().any(|dir| dir.join(file).exists())
    }

    pub fn limit(&self) -> String {
        self.file(&["memory.max", "memory.limit_in_bytes"])
    }

    pub fn pids(&self) -> Vec<String> {
        let read = |dir: PathBuf| fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        let mut pids: Vec<String> = self
            .dirs()
            .into_iter()
            .map(read)
            .flat_map(|t| t.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        pids.sort();
        pids.dedup();
        pids
    }

    /// A command that runs in the background in the group, and has begun.
    pub fn start(&self, arguments: &[&str], command: &str) -> Background {
        let mut words = vec![self.0.as_str()];
        words.extend(arguments);
        words.extend(["--", "sh", "-c", command]);
        let mut child = Command::new(tool("cgset"));
        child.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = child.spawn().expect("cgset starts");
        use std::io::{BufRead, BufReader};
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n", "the command prints 'ready' first");
        Background(child)
    }

    #[track_caller]
    pub fn gone(&self) {
        assert_eq!(self.dirs(), Vec::<PathBuf>::new(), "left behind, with {:?}", self.pids());
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.dirs().is_empty() && Instant::now() < deadline {
            for dir in self.dirs() {
                let _ = fs::write(dir.join("freezer.state"), "THAWED");
                let _ = fs::write(dir.join("cgroup.freeze"), "0");
                let below = fs::read_dir(&dir).into_iter().flatten().flatten().map(|e| e.path());
                for dir in below.filter(|path| path.is_dir()).chain([dir.clone()]) {
                    let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
                    for pid in pids.lines() {
                        let _ = Command::new("kill").args(["-KILL", pid]).stderr(Stdio::null()).status();
                    }
                    let _ = fs::remove_dir(dir);
                }
            }
        }
    }
}

pub struct Background(Child);

impl Background {
    pub fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill runs").success()
        );
    }

    /// Its status as a shell shows it. What it said is not read: the command may live on, and hold the pipe.
    pub fn end(mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let status = self.0.wait().expect("our child");
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The path of a temporary file, which is removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(stem: &str) -> Scratch {
        Scratch(std::env::temp_dir().join(unique(stem)))
    }

    /// A script that can be executed.
    pub fn script(stem: &str, text: &str) -> Scratch {
        let script = Scratch::new(stem);
        fs::write(&script, text).expect("a temporary file");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it is ours");
        script
    }

    pub fn str(&self) -> &str {
        self.0.to_str().expect("an ordinary path")
    }
}

impl AsRef<Path> for Scratch {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A made-up host below a directory of its own.
pub struct Host(pub PathBuf);

impl Host {
    pub fn new(mountinfo: &str) -> Host {
        let host = Host(std::env::temp_dir().join(unique("host")));
        host.write("proc/self/mountinfo", mountinfo);
        host.write("proc/meminfo", "MemTotal:        2048000 kB\nMemFree: 1 kB\n");
        host.write("proc/cmdline", "quiet cgroup_disable=cpuset,pids\n");
        host
    }

    pub fn v2(controllers: &str) -> Host {
        let host = Host::new("30 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        host.write("proc/self/cgroup", "0::/mine\n");
        host.write("sys/fs/cgroup/cgroup.controllers", controllers);
        host.write("sys/fs/cgroup/cgroup.subtree_control", "");
        host
    }

    pub fn write(&self, file: &str, text: &str) {
        let file = self.0.join(file);
        fs::create_dir_all(file.parent().expect("not the root")).expect("a temporary directory");
        fs::write(file, text).expect("a temporary file");
    }

    pub fn read(&self, file: &str) -> String {
        let text = fs::read_to_string(self.0.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        text.lines().next().unwrap_or("").to_owned()
    }

    pub fn cgset(&self, arguments: &[&str]) -> Outcome {
        let mut command = Command::new(tool("cgset"));
        command.args(arguments).env("CGSET_ROOT", &self.0);
        let mut outcome = finish(command, "");
        // Shown as if it were the root.
        let top = self.0.display().to_string();
        (outcome.out, outcome.err) = (outcome.out.replace(&top, ""), outcome.err.replace(&top, ""));
        outcome
    }

    /// The writes that would be done.
    pub fn plan(&self, arguments: &[&str]) -> String {
        let all = [&["--dry-run"], arguments].concat();
        let script = self.cgset(&all).ended_with(0).out;
        script.strip_prefix("#!/bin/sh\nset -e\n").expect("a script").to_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
