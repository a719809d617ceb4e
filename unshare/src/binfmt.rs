//! binfmt: interpreters for foreign binaries that are known in this user namespace alone (binfmt_misc, Linux 6.7).

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::mount::mount;
use nix::sys::stat::Mode;
use unshare::rooted;

use crate::hints;
use crate::onto::{KERNEL, by_fd};

/// Mounts it on `dir` and registers an interpreter.
///
/// This is done before the root changes: with the flag F the kernel opens the interpreter now, outside, and
/// without it keeps the path for later; so both are right.
pub fn make(root: BorrowedFd<'_>, dir: &Path, interpreter: Option<&OsStr>) -> Result<()> {
    let on = || -> Result<()> {
        let place = rooted::open_path(root, dir)?;
        Ok(mount(Some("binfmt_misc"), by_fd(&place).as_str(), Some("binfmt_misc"), KERNEL, None::<&str>)?)
    };
    on().with_context(|| format!("mount {} failed", dir.display())).map_err(hints::on_binfmt)?;
    let Some(interpreter) = interpreter else { return Ok(()) };
    let file = dir.join("register");
    let register = rooted::open(root, &file, OFlag::O_WRONLY, Mode::empty())
        .with_context(|| format!("cannot open {}", file.display()))
        .map_err(hints::on_binfmt)?;
    // One write is one registration.
    let written = nix::unistd::write(&register, interpreter.as_bytes());
    written.map(drop).with_context(|| format!("write failed {}", file.display()))
}
