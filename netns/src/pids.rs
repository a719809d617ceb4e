//! pids: which processes are in a namespace, and which names the namespace of a process has.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, anyhow};
use serde_json::json;
use unshare::fail::print;

use crate::store::{self, Target};

/// A process a line.
pub fn pids(target: &Target, as_json: bool) -> Result<()> {
    let inode = store::inode(&target.open()?)?;
    let pids = store::processes_in(inode)?;
    print(&match as_json {
        true => format!("{}\n", json!({"target": target.label(), "inode": inode, "pids": pids})),
        false => pids.iter().map(|pid| format!("{pid}\n")).collect(),
    })
}

/// A name a line; none for a namespace without a name.
pub fn identify(pid: Option<i32>, as_json: bool) -> Result<()> {
    let word = pid.map_or("self".to_owned(), |pid| pid.to_string());
    let file = format!("/proc/{word}/ns/net");
    let inode = match fs::metadata(&file) {
        Ok(meta) => meta.ino(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(anyhow!("no such process: '{word}'"));
        }
        Err(error) => return Err(error).with_context(|| format!("cannot look at '{file}'")),
    };
    let names: Vec<String> = store::entries()?
        .into_iter()
        .filter(|entry| entry.inode == Some(inode))
        .map(|entry| entry.name)
        .collect();
    print(&match as_json {
        true => format!("{}\n", json!({"pid": pid, "inode": inode, "names": names})),
        false => names.iter().map(|name| format!("{name}\n")).collect(),
    })
}
