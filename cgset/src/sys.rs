//! sys: clone3(2) into a cgroup and extended attributes, the calls that need `unsafe`. No thread is ever
//! started here.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::{mem, ptr};

use nix::Result;
use nix::errno::Errno;
use nix::unistd::{ForkResult, Pid};

/// clone3(2) as fork(2), the child born in the v2 group whose directory is `group` (CLONE_INTO_CGROUP).
pub fn clone_into(group: BorrowedFd<'_>) -> Result<ForkResult> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // SAFETY: clone_args is plain numbers, for which zeroes mean "not used".
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = CLONE_INTO_CGROUP;
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = group.as_raw_fd() as u64;
    // SAFETY: without CLONE_VM and without a stack the child is a copy on a copy of our stack, as after fork;
    // there is one thread, so no lock is held by anyone. What libc's fork would do besides (handlers of
    // pthread_atfork, the thread's own number) nobody here uses: the child writes, sets its mask and execs.
    let got = unsafe { libc::syscall(libc::SYS_clone3, &args, mem::size_of::<libc::clone_args>()) };
    Ok(match Errno::result(got)? {
        0 => ForkResult::Child,
        child => ForkResult::Parent { child: Pid::from_raw(child as i32) },
    })
}

fn strings(path: &Path, name: &str) -> Result<(CString, CString)> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    Ok((path, CString::new(name).map_err(|_| Errno::EINVAL)?))
}

/// lsetxattr(2).
pub fn set_xattr(path: &Path, name: &str, value: &str) -> Result<()> {
    let (path, name) = strings(path, name)?;
    // SAFETY: two C strings that live over the call; the value is read for its own length.
    let got = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(got).map(drop)
}

/// lgetxattr(2) of a short text.
pub fn get_xattr(path: &Path, name: &str) -> Result<String> {
    let (path, name) = strings(path, name)?;
    let mut value = [0u8; 128];
    // SAFETY: two C strings that live over the call; at most the buffer's own length is written.
    let got = unsafe {
        libc::lgetxattr(path.as_ptr(), name.as_ptr(), ptr::from_mut(&mut value).cast(), value.len())
    };
    let length = Errno::result(got)? as usize;
    Ok(String::from_utf8_lossy(&value[..length]).into_owned())
}

/// lremovexattr(2).
pub fn remove_xattr(path: &Path, name: &str) -> Result<()> {
    let (path, name) = strings(path, name)?;
    // SAFETY: two C strings that live over the call.
    Errno::result(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) }).map(drop)
}
