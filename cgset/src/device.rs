//! device: the whole disk that a word means: "8:0", /dev/sda1, sda, or any directory on it.
//!
//! Limits of input and output are kept for whole disks: the kernel refuses a partition (ENODEV).

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::sys::stat::{major, minor};
use unshare::fail::hint;

use crate::files;
use crate::layout::Layout;

/// Its number, as control files have it: "8:0".
pub fn disk(layout: &Layout, name: &str) -> Result<String> {
    let number = match is_number(name) {
        true => name.to_owned(),
        false => number(name)?,
    };
    let dir = layout.host("/sys/dev/block").join(&number);
    if !dir.exists() {
        let error = anyhow!("'{name}' is on no block device ({number})");
        return Err(hint(
            error,
            "a file system of many devices or of none: name the disk itself, as lsblk lists them",
        ));
    }
    if !dir.join("partition").exists() {
        return Ok(number);
    }
    let whole =
        dir.canonicalize().with_context(|| format!("cannot read '{}'", dir.display()))?.join("../dev");
    Ok(files::read_or_say(&whole)?.trim().to_owned())
}

fn is_number(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    name.split_once(':').is_some_and(|(major, minor)| digits(major) && digits(minor))
}

/// Of a device file itself, else of the device below a file or directory.
fn number(name: &str) -> Result<String> {
    let path = if name.contains('/') { PathBuf::from(name) } else { Path::new("/dev").join(name) };
    let meta = fs::metadata(&path).with_context(|| format!("cannot find the device '{}'", path.display()))?;
    let device = if meta.file_type().is_block_device() { meta.rdev() } else { meta.dev() };
    Ok(format!("{}:{}", major(device), minor(device)))
}
