//! sys: the calls that need `unsafe`, each use argued.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::Result;
use nix::errno::Errno;

/// The process's umask(2), until this ends: files that are not the tree's are the user's, with his mask.
pub struct Umask(libc::mode_t);

impl Umask {
    #[must_use]
    pub fn set(mask: u32) -> Umask {
        // SAFETY: umask(2) takes a number and cannot fail.
        Umask(unsafe { libc::umask(mask) })
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { libc::umask(self.0) };
    }
}

/// Makes all calls that wait for the disk succeed at once, in this process and all that it becomes or starts
/// (seccomp(2)). What they are to protect from, a power cut, the renaming at the end protects from too.
pub fn swallow_sync() -> Result<()> {
    swallow(&[
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_sync,
        libc::SYS_syncfs,
        libc::SYS_msync,
        libc::SYS_sync_file_range,
    ])
}

/// Makes all changes of owners succeed without being done: for a user namespace that has one id only.
pub fn swallow_chown() -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    const OLD: &[libc::c_long] = &[libc::SYS_chown, libc::SYS_lchown];
    #[cfg(not(target_arch = "x86_64"))]
    const OLD: &[libc::c_long] = &[];
    swallow(&[OLD, &[libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_setgroups]].concat())
}

fn swallow(calls: &[libc::c_long]) -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    const ARCH: u32 = 0xc000_003e; // AUDIT_ARCH_X86_64
    #[cfg(target_arch = "aarch64")]
    const ARCH: u32 = 0xc000_00b7; // AUDIT_ARCH_AARCH64
    #[cfg(target_arch = "riscv64")]
    const ARCH: u32 = 0xc000_00f3; // AUDIT_ARCH_RISCV64
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
    return Ok(drop(calls));
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
    unshare::sys::seccomp_filter(&swallowing(ARCH, calls))
}

/// Loads the architecture, lets foreign ones pass, and answers 0 to the calls of the list.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
fn swallowing(arch: u32, calls: &[libc::c_long]) -> Vec<libc::sock_filter> {
    let op = |code: u32, jt: usize, jf: usize, k: u32| libc::sock_filter {
        code: code as u16,
        jt: jt as u8,
        jf: jf as u8,
        k,
    };
    let (load, equal, answer) = (
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_RET | libc::BPF_K,
    );
    // struct seccomp_data: int nr; __u32 arch; …
    let mut program = vec![op(load, 0, 0, 4), op(equal, 0, calls.len() + 1, arch), op(load, 0, 0, 0)];
    for (at, call) in calls.iter().enumerate() {
        program.push(op(equal, calls.len() - at, 0, *call as u32));
    }
    program.push(op(answer, 0, 0, libc::SECCOMP_RET_ALLOW));
    program.push(op(answer, 0, 0, libc::SECCOMP_RET_ERRNO));
    program
}

/// ioctl(2) FICLONE: the same blocks under both files.
pub fn clone_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    const FICLONE: libc::c_ulong = 0x4004_9409;
    // SAFETY: the argument is a number, both descriptors are open.
    Errno::result(unsafe { libc::ioctl(to.as_raw_fd(), FICLONE as _, from.as_raw_fd()) }).map(drop)
}

/// ioctl(2) BTRFS_IOC_SNAP_CREATE_V2: a writable snapshot of an open subvolume, as `name` in `parent`.
pub fn btrfs_snapshot(source: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    const SNAP_CREATE_V2: libc::c_ulong = 0x5000_9417;
    // struct btrfs_ioctl_vol_args_v2 of linux/btrfs.h.
    #[repr(C)]
    struct Arguments {
        fd: i64,
        transid: u64,
        flags: u64,
        unused: [u64; 4],
        name: [u8; 4040],
    }
    let mut arguments = Arguments {
        fd: i64::from(source.as_raw_fd()),
        transid: 0,
        flags: 0,
        unused: [0; 4],
        name: [0; 4040],
    };
    // The last byte stays 0, as it ends the name.
    let place = arguments.name.get_mut(..name.len()).filter(|place| place.len() < 4040);
    place.ok_or(Errno::ENAMETOOLONG)?.copy_from_slice(name);
    // SAFETY: the kernel reads and writes the 4096 bytes that the structure has, while it lives.
    let done = unsafe { libc::ioctl(parent.as_raw_fd(), SNAP_CREATE_V2 as _, &raw mut arguments) };
    Errno::result(done).map(drop)
}

/// The extended attributes of an open file or directory.
pub fn xattrs(fd: BorrowedFd<'_>) -> Result<Vec<(CString, Vec<u8>)>> {
    let fd = fd.as_raw_fd();
    // SAFETY: the kernel writes at most the given number of bytes into the buffer.
    let names = fill(|buffer, size| unsafe { libc::flistxattr(fd, buffer.cast(), size) })?;
    let mut found = Vec::new();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let name = CStr::from_bytes_with_nul(name).map_err(|_| Errno::EINVAL)?;
        // SAFETY: as above.
        let value = fill(|buffer, size| unsafe { libc::fgetxattr(fd, name.as_ptr(), buffer.cast(), size) });
        found.push((name.to_owned(), value?));
    }
    Ok(found)
}

/// Asks for the size, then for the bytes, again if they grew in between.
fn fill(call: impl Fn(*mut u8, usize) -> isize) -> Result<Vec<u8>> {
    loop {
        let size = Errno::result(call(std::ptr::null_mut(), 0))? as usize;
        if size == 0 {
            return Ok(Vec::new());
        }
        let mut buffer = vec![0; size];
        match Errno::result(call(buffer.as_mut_ptr(), size)) {
            Ok(got) => {
                buffer.truncate(got as usize);
                return Ok(buffer);
            }
            Err(Errno::ERANGE) => {}
            Err(errno) => return Err(errno),
        }
    }
}

pub fn set_xattr(fd: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> Result<()> {
    let fd = fd.as_raw_fd();
    // SAFETY: the pointers live over the call, the length is that of the slice.
    let done = unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(done).map(drop)
}

/// Removes an extended attribute; that there is none is well.
pub fn remove_xattr(fd: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let fd = fd.as_raw_fd();
    // SAFETY: the pointers live over the call.
    match Errno::result(unsafe { libc::fremovexattr(fd, name.as_ptr()) }) {
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(()),
        done => done.map(drop),
    }
}

/// The id of the mount on which an open file lies: statx(2), or /proc before Linux 5.8. What tells whether
/// something is mounted on it: the device does not, on an overlay a file has another than its directory.
pub fn mount_id(fd: BorrowedFd<'_>) -> Result<u64> {
    const STATX_MNT_ID: u64 = 0x1000; // linux/stat.h; the answer lies at byte 144 of struct statx
    let mut answer = [0_u64; 32];
    // SAFETY: the path is a C string, and struct statx has 256 bytes, which is what the kernel writes.
    let got = unsafe {
        libc::syscall(
            libc::SYS_statx,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            STATX_MNT_ID,
            answer.as_mut_ptr(),
        )
    };
    // The first four bytes say what of the rest is filled in.
    let filled = u32::from_ne_bytes(answer[0].to_ne_bytes()[..4].try_into().expect("four bytes"));
    if got == 0 && u64::from(filled) & STATX_MNT_ID != 0 {
        return Ok(answer[18]);
    }
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()));
    let id = info.ok().and_then(|info| {
        info.lines().find_map(|line| line.strip_prefix("mnt_id:")).and_then(|id| id.trim().parse().ok())
    });
    id.ok_or(Errno::ENOSYS)
}
