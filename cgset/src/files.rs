//! files: control files, one open, one write or read each; errors keep their number.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Error, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd;

/// The whole of a control file. Its lines are short: one that ends a short block ends the file, and nobody has to
/// ask for more.
pub fn read(path: &Path) -> nix::Result<String> {
    read_until(path, |bytes| bytes.len() < 2048 && bytes.ends_with(b"\n"))
}

/// The whole of a file whose lines may be long, of which a block holds whole ones only (mountinfo).
pub fn read_long(path: &Path) -> nix::Result<String> {
    read_until(path, |_| false)
}

fn read_until(path: &Path, is_all: impl Fn(&[u8]) -> bool) -> nix::Result<String> {
    let fd = open_file(path, OFlag::O_RDONLY)?;
    let mut bytes = Vec::new();
    let mut block = [0; 4096];
    loop {
        match unistd::read(fd.as_fd(), &mut block)? {
            0 => break,
            got => bytes.extend_from_slice(&block[..got]),
        }
        if is_all(&bytes) {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub fn open_file(path: &Path, mode: OFlag) -> nix::Result<OwnedFd> {
    open(path, mode | OFlag::O_CLOEXEC, Mode::empty())
}

/// One write, as the kernel wants it: a value in two pieces would be two values.
pub fn write(path: &Path, value: &str) -> nix::Result<()> {
    write_fd(open_file(path, OFlag::O_WRONLY)?.as_fd(), value)
}

pub fn write_fd(fd: BorrowedFd<'_>, value: &str) -> nix::Result<()> {
    let line = format!("{value}\n");
    match unistd::write(fd, line.as_bytes())? {
        all if all == line.len() => Ok(()),
        _ => Err(Errno::EIO),
    }
}

pub fn rmdir(dir: &Path) -> nix::Result<()> {
    std::fs::remove_dir(dir).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

/// The first word of the first line.
pub fn first(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or("")
}

/// A limit as the kernel writes it. v1 has no word for "none" but the largest number of pages.
pub fn limit(text: &str) -> Option<u64> {
    first(text).parse().ok().filter(|bytes| *bytes < 1 << 62)
}

/// The number behind `key` in a file of "key number" lines; the set of keys grows with the kernel.
pub fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

pub fn cannot(what: &str, path: &Path, errno: Errno) -> Error {
    Error::new(errno).context(format!("cannot {what} '{}'", path.display()))
}

pub fn read_or_say(path: &Path) -> Result<String> {
    read(path).map_err(|errno| cannot("read", path, errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_whole_words() {
        let text = "oom 3\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(
            (keyed(text, "oom"), keyed(text, "oom_kill"), keyed(text, "kill")),
            (Some(3), Some(1), None)
        );
    }

    #[test]
    fn no_limit_is_written_in_two_ways() {
        assert_eq!(limit("9223372036854771712\n"), None);
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("4096\n"), Some(4096));
    }
}
