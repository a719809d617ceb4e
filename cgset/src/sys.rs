//! sys: extended attributes and the size of the terminal, the calls that need `unsafe`. No thread is ever started here.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use nix::Result;
use nix::errno::Errno;

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

/// Rows and columns of a terminal (ioctl_tty(2), TIOCGWINSZ); None where `fd` is none, or has no size.
pub fn window(fd: impl AsFd) -> Option<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: an open descriptor, and a structure of the type that this request fills.
    let got = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCGWINSZ, ptr::from_mut(&mut size)) };
    let size = Errno::result(got).ok().map(|_| (size.ws_row.into(), size.ws_col.into()))?;
    (size.0 > 0 && size.1 > 0).then_some(size)
}
