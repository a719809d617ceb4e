//! report: what a run has used, for scripts: key=value or JSON, read before the group is removed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use unshare::child::{self, shell_status};

use crate::counters;
use crate::group::Place;

/// How the command ended.
pub struct End {
    pub status: child::End,
    pub wall: Duration,
    pub kills: u64,
}

/// Opened before anything is made, so that a run is not done in vain.
pub struct Report {
    file: File,
    path: PathBuf,
    json: bool,
    /// The file is one of our own standard streams: what the command has written there stays.
    shared: bool,
}

impl Report {
    pub fn open(path: &PathBuf, json: bool) -> Result<Report> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.with_context(|| format!("cannot open '{}' for the report", path.display()))?;
        let stream = stream_of(&file);
        let shared = stream.is_some();
        Ok(Report { file: stream.unwrap_or(file), path: path.clone(), json, shared })
    }

    pub fn write(mut self, places: &[Place], group: &str, end: &End) -> Result<()> {
        let facts = facts(places, group, end);
        let text = match self.json {
            true => format!("{:#}\n", Value::Object(facts.into_iter().collect::<Map<_, _>>())),
            false => facts.iter().map(|(key, value)| format!("{key}={}\n", plain(value))).collect(),
        };
        if !self.shared {
            // A pipe has nothing to cut.
            let _ = self.file.set_len(0);
        }
        self.file
            .write_all(text.as_bytes())
            .with_context(|| format!("cannot write the report to '{}'", self.path.display()))
    }
}

/// Standard output or error where that is the same file, as by the name /dev/stdout: opened anew it would be
/// written from its beginning on.
fn stream_of(file: &File) -> Option<File> {
    let wanted = file.metadata().ok()?;
    let (out, error) = (io::stdout(), io::stderr());
    [out.as_fd(), error.as_fd()].into_iter().find_map(|stream| {
        let stream = File::from(stream.try_clone_to_owned().ok()?);
        let found = stream.metadata().ok()?;
        ((found.dev(), found.ino()) == (wanted.dev(), wanted.ino())).then_some(stream)
    })
}

/// "?" where the kernel does not keep the number.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "?".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn facts(places: &[Place], group: &str, end: &End) -> Vec<(String, Value)> {
    let memory = counters::memory(places);
    let cpu = counters::cpu(places);
    let signal = match end.status {
        child::End::Signal(signal) => signal,
        _ => 0,
    };
    let all = [
        ("group", json!(group)),
        ("status", json!(shell_status(end.status))),
        ("signal", json!(signal)),
        ("oom_kills", json!(end.kills)),
        ("peak", json!(memory.as_ref().and_then(|m| m.peak))),
        ("limit", json!(memory.as_ref().and_then(|m| m.limit))),
        ("procs_peak", json!(counters::procs(places).and_then(|p| p.peak))),
        ("cpu_usec", json!(counters::cpu_time(places))),
        ("throttled_usec", json!(cpu.and_then(|c| c.throttled_usec))),
        ("wall_usec", json!(u64::try_from(end.wall.as_micros()).unwrap_or(u64::MAX))),
    ];
    all.map(|(key, value)| (key.to_owned(), value)).into()
}
