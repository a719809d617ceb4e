//! sys: the calls of nsenter alone that need `unsafe`, each use argued.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::Result;
use nix::errno::Errno;
use nix::pty::Winsize;
use nix::sys::signal::SigSet;

/// The standard streams. SAFETY: Rust's start-up opens /dev/null where one is closed, and nothing here closes
/// them, so they are open as long as we run.
pub const STREAMS: [BorrowedFd<'static>; 3] =
    [unsafe { BorrowedFd::borrow_raw(0) }, unsafe { BorrowedFd::borrow_raw(1) }, unsafe {
        BorrowedFd::borrow_raw(2)
    }];
pub const STDIN: BorrowedFd<'static> = STREAMS[0];
pub const STDOUT: BorrowedFd<'static> = STREAMS[1];

/// sigismember(3), for real-time signals too.
pub fn is_member(set: &SigSet, signal: i32) -> bool {
    // SAFETY: the set is a valid one, and the call refuses numbers that are no signals.
    unsafe { libc::sigismember(set.as_ref(), signal) == 1 }
}

/// Ready for use: a new pseudo terminal is locked (ptmx(4)).
pub fn unlock_pty(master: BorrowedFd<'_>) -> Result<()> {
    let locked: libc::c_int = 0;
    // SAFETY: the request reads one int, which lives over the call.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &locked) }).map(drop)
}

/// The number of a pseudo terminal: N of /dev/pts/N.
pub fn pty_number(master: BorrowedFd<'_>) -> Result<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: the request writes one unsigned int, which lives over the call.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &mut number) })?;
    Ok(number)
}

/// The other end of a pseudo terminal, without a path (TIOCGPTPEER, Linux 4.13).
pub fn pty_peer(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the request takes flags by value.
    let fd = Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes the terminal on standard input the controlling one of this session.
pub fn take_terminal() -> Result<()> {
    // SAFETY: the request takes a number; 0: nothing is taken from another session.
    Errno::result(unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) }).map(drop)
}

pub fn window_size(terminal: BorrowedFd<'_>) -> Result<Winsize> {
    let mut size = Winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request writes one winsize, which lives over the call.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &mut size) })?;
    Ok(size)
}

pub fn set_window_size(terminal: BorrowedFd<'_>, size: &Winsize) -> Result<()> {
    // SAFETY: the request reads one winsize, which lives over the call.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, size) }).map(drop)
}

/// pidfd_getfd(2): a copy of another process's descriptor.
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, number: i32) -> Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) })?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// SIOCGSKNS (linux/sockios.h): the network namespace of a socket.
pub fn net_of_socket(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    namespace_by_ioctl(socket, 0x894c)
}

/// NS_GET_USERNS (linux/nsfs.h): of a user namespace, its parent.
pub fn parent_of_user_namespace(child: BorrowedFd<'_>) -> Result<OwnedFd> {
    namespace_by_ioctl(child, 0xb701)
}

fn namespace_by_ioctl(fd: BorrowedFd<'_>, request: u32) -> Result<OwnedFd> {
    // SAFETY: both requests take no argument.
    let fd = Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl) })?;
    // SAFETY: both give back a new descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A namespace by its number: open_by_handle_at(2) with a handle of nsfs, whose kind is learnt from that of
/// the namespace `nsfs`.
pub fn open_namespace(nsfs: BorrowedFd<'_>, id: u64) -> Result<OwnedFd> {
    /// struct file_handle with struct nsfs_file_handle (linux/nsfs.h): number, type, inode.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        id: [u8; 8],
        rest: [u8; 8],
    }
    const AT_HANDLE_FID: i32 = 0x200;
    let mut handle = Handle { bytes: 16, kind: 0, id: [0; 8], rest: [0; 8] };
    let mut mount = 0i32;
    let (fd, empty, flags) = (nsfs.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH | AT_HANDLE_FID);
    // SAFETY: the call writes at most the 16 bytes that it is told of behind the two numbers, and one int.
    let got = unsafe {
        libc::syscall(libc::SYS_name_to_handle_at, fd, empty, &raw mut handle, &raw mut mount, flags)
    };
    Errno::result(got)?;
    handle.id = id.to_ne_bytes();
    handle.rest = [0; 8];
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: the call reads the handle, which has the layout and size that it says.
    let got = unsafe { libc::syscall(libc::SYS_open_by_handle_at, fd, &raw const handle, flags) };
    let fd = Errno::result(got)? as i32;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The version of the kernel, as far as it counts: uname(2), "6.1.0-18-amd64" is (6, 1).
pub fn kernel_version() -> (u32, u32) {
    // SAFETY: utsname is plain text, for which zeroes are valid.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: the call fills in the structure, which lives over it.
    unsafe { libc::uname(&mut name) };
    let mut numbers = name.release.split(|c| !(*c as u8).is_ascii_digit()).map(|digits| {
        digits.iter().fold(0u32, |n, c| n.saturating_mul(10).saturating_add(u32::from(*c as u8 - b'0')))
    });
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_has_a_version() {
        assert!(super::kernel_version() > (3, 0));
    }
}
