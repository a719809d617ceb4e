//! seal: run from a copy of ourselves that nobody can write to (memfd_create(2), CVE-2019-5736).
//!
//! Who is in the pid namespace that we enter, and holds CAP_SYS_PTRACE, can open the binary of a process that has
//! not become its program yet, and write to it later. Without that capability our being undumpable stops him. Who
//! has all capabilities that we have is in no jail. Between the two is the jail that may debug.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_name;
use nix::unistd::{Pid, fexecve};
use unshare::caps::{self, Caps};

/// Comes back at once where it is not needed, and in the copy.
pub fn against(target: Pid) -> Result<()> {
    // Where that cannot be told it is done: no harm in it.
    if !is_needed(target).unwrap_or(true) {
        return Ok(());
    }
    let ourselves = File::open("/proc/self/exe").context("cannot open /proc/self/exe")?;
    match fcntl(&ourselves, FcntlArg::F_GET_SEALS) {
        Ok(seals) if seals & SealFlag::F_SEAL_WRITE.bits() != 0 => {
            return set_name(c"nsenter").context("cannot set the process's name"); // that of the file until now
        }
        _ => {}
    }
    run_copy(ourselves).context("cannot run from a sealed copy")
}

fn is_needed(target: Pid) -> Result<bool> {
    let ours = caps::permitted(Pid::from_raw(0))?;
    // Quickly asked, and nobody's bounding set holds less.
    if holds_all(caps::permitted(target)?, ours) {
        return Ok(false);
    }
    let theirs = bounding_set(target)?;
    Ok(may_debug(theirs) && !holds_all(theirs, ours))
}

fn bounding_set(target: Pid) -> Result<Caps> {
    let path = format!("/proc/{target}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(caps::of_status(&status).context(path)?.0)
}

fn may_debug(theirs: Caps) -> bool {
    theirs.0 & (1 << 19) != 0
}

/// Theirs is no jail when they may do all that we may; no boundary is crossed then.
fn holds_all(theirs: Caps, ours: Caps) -> bool {
    ours.0 & !theirs.0 == 0
}

fn run_copy(mut ourselves: File) -> Result<()> {
    const EXEC: MFdFlags = MFdFlags::from_bits_retain(0x10); // MFD_EXEC, Linux 6.3
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let copy = match memfd_create("nsenter", flags | EXEC) {
        Err(Errno::EINVAL) => memfd_create("nsenter", flags),
        made => made,
    };
    let mut copy = match copy {
        Err(Errno::ENOSYS) => return Ok(()), // before 3.17 there is no such thing
        made => File::from(made?),
    };
    io::copy(&mut ourselves, &mut copy)?;
    fcntl(
        &copy,
        FcntlArg::F_ADD_SEALS(
            SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE,
        ),
    )?;
    let words: Vec<CString> =
        std::env::args_os().map(|word| CString::new(word.as_bytes())).collect::<Result<_, _>>()?;
    let environment: Vec<CString> = std::env::vars_os()
        .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect::<Result<_, _>>()?;
    unshare::sys::give_back();
    fexecve(&copy, &words, &environment)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jail_has_less_than_we() {
        let jail = |theirs, ours| may_debug(Caps(theirs)) && !holds_all(Caps(theirs), Caps(ours));
        assert!(!jail(0x1ff_ffff_ffff, 0x1ff_ffff_ffff) && !jail(0xa004_05fb, 0x1ff_ffff_ffff));
        assert!(jail(0xa00c_05fb, 0x1ff_ffff_ffff) && !jail(0xa00c_05fb, 0xa00c_05fb));
    }
}
