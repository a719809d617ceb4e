//! seal: run from a copy of ourselves that nobody can write to (memfd_create(2), CVE-2019-5736).
//!
//! Who is in the pid namespace that we enter, and holds CAP_SYS_PTRACE, can open the binary of a process that has
//! not become its program yet, and write to it later. Without that capability our being undumpable stops him. With
//! all capabilities there is nothing to protect: the machine is his. Between the two is the jail that may debug.

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
    // A target that is gone, or that we may not look at, is told of by what opens it.
    let Ok(status) = fs::read_to_string(format!("/proc/{target}/status")) else { return Ok(()) };
    let (bounding, _) = caps::of_status(&status)?;
    if !is_a_jail_that_may_debug(bounding) {
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

fn is_a_jail_that_may_debug(bounding: Caps) -> bool {
    const SYS_PTRACE: u64 = 1 << 19;
    let all = bounding.0 & bounding.0.wrapping_add(1) == 0; // ones up to the last capability of the kernel
    bounding.0 & SYS_PTRACE != 0 && !all
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
    fexecve(&copy, &words, &environment)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_for_those_who_may_debug_but_not_do_all() {
        let jail = |bounding| is_a_jail_that_may_debug(Caps(bounding));
        assert!(!jail(0x1ff_ffff_ffff) && !jail(0x3f_ffff_ffff) && !jail(0xa004_05fb) && !jail(0));
        assert!(jail(0xa00c_05fb) && jail(0x1ff_ffff_fffe));
    }
}
