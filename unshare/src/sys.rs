//! sys: the calls that need `unsafe`, each use argued. No tool here starts a thread before it forks.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::{mem, ptr};

use nix::Result;
use nix::errno::Errno;
use nix::sys::signal::{SigAction, SigSet, Signal};
use nix::sys::wait::WaitPidFlag;
use nix::unistd::{ForkResult, Pid};

/// fork(2).
pub fn fork() -> Result<ForkResult> {
    // SAFETY: after fork in a threaded process only async-signal-safe calls are allowed; there is one
    // thread, so the child may do all that the parent may.
    unsafe { nix::unistd::fork() }
}

/// sigaction(2) for dispositions without a handler function.
pub fn sigaction(signal: Signal, action: &SigAction) -> Result<()> {
    // SAFETY: the danger of sigaction is what a handler does; callers pass SigDfl or SigIgn only.
    unsafe { nix::sys::signal::sigaction(signal, action) }.map(drop)
}

/// kill(2) by number, so that real-time signals can be passed on too.
pub fn kill(pid: Pid, signal: i32) -> Result<()> {
    // SAFETY: no memory is involved.
    Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop)
}

pub struct SignalInfo {
    pub signal: i32,
    /// Sent by the kernel, as a terminal does, and not by a process.
    pub from_kernel: bool,
}

/// sigwaitinfo(2); None when a signal that is not in the set came between.
pub fn sigwaitinfo(set: &SigSet) -> Result<Option<SignalInfo>> {
    // SAFETY: siginfo_t is plain data, for which zeroes are valid, and the call fills it in.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    // SAFETY: both pointers live over the call.
    let got = unsafe { libc::sigwaitinfo(set.as_ref(), &mut info) };
    match Errno::result(got) {
        Ok(signal) => Ok(Some(SignalInfo { signal, from_kernel: info.si_code == libc::SI_KERNEL })),
        Err(Errno::EINTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// How a process ended; by number, as nix has no name for real-time signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Status(i32),
    Signal(i32),
}

/// What waitpid(2) tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    Nothing,
    Stopped(Pid),
    Ended(Pid, End),
}

/// waitpid(2).
pub fn wait(pid: Pid, flags: WaitPidFlag) -> Result<Waited> {
    let mut status = 0;
    // SAFETY: the pointer lives over the call.
    let got = Errno::result(unsafe { libc::waitpid(pid.as_raw(), &mut status, flags.bits()) })?;
    let pid = Pid::from_raw(got);
    Ok(match () {
        () if got == 0 => Waited::Nothing,
        () if libc::WIFEXITED(status) => Waited::Ended(pid, End::Status(libc::WEXITSTATUS(status))),
        () if libc::WIFSIGNALED(status) => Waited::Ended(pid, End::Signal(libc::WTERMSIG(status))),
        () if libc::WIFSTOPPED(status) => Waited::Stopped(pid),
        () => Waited::Nothing,
    })
}

/// A set of signals by number. Written by hand: musl's functions pass over signal 34, the first real-time
/// signal of programs that use glibc; numbers that do not exist are left out.
pub fn sigset(signals: &[i32]) -> SigSet {
    let bits = signals.iter().filter(|n| (1..=64).contains(*n)).fold(0_u64, |bits, n| bits | (1 << (n - 1)));
    let mut set = *SigSet::empty().as_ref();
    // SAFETY: in glibc and musl a set is longer than 64 bits and begins with the kernel's, a bit each signal;
    // the calls that take it hand those on.
    unsafe {
        (&raw mut set).cast::<u64>().write(bits);
        SigSet::from_sigset_t_unchecked(set)
    }
}

/// Every signal; SigSet::all() lacks those that the C library keeps for itself, 34 among them in musl.
pub fn all_signals() -> SigSet {
    sigset(&(1..=64).collect::<Vec<_>>())
}

/// What is in a set, real-time signals too, which nix's own iterator passes over.
pub fn numbers_in(set: &SigSet) -> Vec<i32> {
    // SAFETY: as in `sigset`.
    let bits = unsafe { (&raw const *set.as_ref()).cast::<u64>().read() };
    (1..=64).filter(|n| bits & (1 << (n - 1)) != 0).collect()
}

/// The signals of both sets.
pub fn union(one: &SigSet, other: &SigSet) -> SigSet {
    sigset(&[numbers_in(one), numbers_in(other)].concat())
}

/// Gives a signal its default disposition; by number, see `End`.
pub fn default_action(signal: i32) -> Result<()> {
    // SAFETY: SIG_DFL runs no handler of ours.
    match unsafe { libc::signal(signal, libc::SIG_DFL) } {
        libc::SIG_ERR => Err(Errno::last()),
        _ => Ok(()),
    }
}

/// sigaction(2), asking only: whether the caller had this signal ignored.
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: sigaction is plain data, for which zeroes are valid (no handler).
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: a null pointer for the new action changes nothing; the old one is filled in.
    let done = unsafe { libc::sigaction(signal, ptr::null(), &mut action) };
    done == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// The real-time signals: the first and the last as the programs of a glibc system count them, whose RTMIN+2
/// we are asked for. (By musl's own count the first is 35.)
pub fn real_time_signals() -> (i32, i32) {
    (34, 64)
}

/// prctl(2) with one argument.
pub fn prctl(option: libc::c_int, argument: libc::c_ulong) -> Result<libc::c_int> {
    prctl2(option, argument, 0)
}

/// prctl(2) with two arguments.
pub fn prctl2(option: libc::c_int, first: libc::c_ulong, second: libc::c_ulong) -> Result<libc::c_int> {
    // SAFETY: the options used here take numbers, no pointers; the unused arguments must be 0.
    Errno::result(unsafe { libc::prctl(option, first, second, 0 as libc::c_ulong, 0 as libc::c_ulong) })
}

/// Closes the descriptors from `first` to `last`: close_range(2), or one by one before Linux 5.9.
pub fn close_range(first: u32, last: u32) {
    // SAFETY: called before this process has opened anything of its own above 2.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0 {
        return;
    }
    // All are read before one is closed: the listing itself needs one.
    let listed: Vec<i32> = std::fs::read_dir("/proc/self/fd").map_or_else(
        |_| (0..1 << 16).collect(),
        |fds| fds.flatten().filter_map(|fd| fd.file_name().to_str()?.parse().ok()).collect(),
    );
    for fd in listed.into_iter().filter(|fd| (first..=last).contains(&(*fd as u32))) {
        close(fd);
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct CapData {
    pub effective: u32,
    pub permitted: u32,
    pub inheritable: u32,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

/// _LINUX_CAPABILITY_VERSION_3: 64 bits in two records.
const CAP_VERSION_3: u32 = 0x2008_0522;

/// capget(2) of this process.
pub fn capget() -> Result<[CapData; 2]> {
    capget_of(Pid::from_raw(0))
}

/// capget(2) of any process.
pub fn capget_of(pid: Pid) -> Result<[CapData; 2]> {
    let header = CapHeader { version: CAP_VERSION_3, pid: pid.as_raw() };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 writes exactly two records.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &header, data.as_mut_ptr()) })?;
    Ok(data)
}

/// capset(2) of this process.
pub fn capset(data: &[CapData; 2]) -> Result<()> {
    let header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    // SAFETY: version 3 reads exactly two records.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) }).map(drop)
}

/// pidfd_open(2).
pub fn pidfd_open(pid: Pid) -> Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// setns(2) by a process descriptor and a mask of kinds (since Linux 5.8), or by a namespace file.
pub fn setns(fd: BorrowedFd<'_>, kinds: nix::sched::CloneFlags) -> Result<()> {
    // SAFETY: no memory is involved; a borrowed descriptor is open.
    Errno::result(unsafe { libc::setns(fd.as_raw_fd(), kinds.bits()) }).map(drop)
}

/// keyctl(2) KEYCTL_JOIN_SESSION_KEYRING with a new anonymous keyring.
pub fn new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring; nothing is read.
    let got =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<libc::c_char>()) };
    Errno::result(got).map(drop)
}

/// access(2), for paths made here: false when nothing is there, an error when that cannot be told.
pub fn exists(path: &str) -> Result<bool> {
    let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
    // SAFETY: a C string that lives over the call.
    match Errno::result(unsafe { libc::access(path.as_ptr(), libc::F_OK) }) {
        Err(Errno::ENOENT) => Ok(false),
        done => done.map(|_| true),
    }
}

/// open_tree(2): a detached copy of the mounts at `fd` and below.
pub fn open_tree_clone(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    open_tree(fd, AT_RECURSIVE)
}

/// open_tree(2): a detached copy of the mount at `fd` alone.
pub fn open_tree_clone_one(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    open_tree(fd, 0)
}

fn open_tree(fd: BorrowedFd<'_>, recursive: libc::c_uint) -> Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | recursive;
    // SAFETY: an empty C string and a descriptor that is open.
    let got = unsafe { libc::syscall(libc::SYS_open_tree, fd.as_raw_fd(), c"".as_ptr(), flags) };
    let fd = Errno::result(got)? as i32;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// move_mount(2): attaches what `from` stands for on `to`.
pub fn move_mount(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    const F_EMPTY_PATH: libc::c_uint = 0x4;
    const T_EMPTY_PATH: libc::c_uint = 0x40;
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    let empty = c"".as_ptr();
    // SAFETY: empty C strings and descriptors that are open.
    let got =
        unsafe { libc::syscall(libc::SYS_move_mount, from, empty, to, empty, F_EMPTY_PATH | T_EMPTY_PATH) };
    Errno::result(got).map(drop)
}

/// mount_setattr(2) on a mount and all below it: adds the attributes MOUNT_ATTR_*.
pub fn mount_setattr_all(fd: BorrowedFd<'_>, set: u64) -> Result<()> {
    mount_setattr(fd, &MountAttr { set, clear: 0, propagation: 0, userns_fd: 0 })
}

/// mount_setattr(2): as above, and no mount event comes in or goes out any more.
pub fn mount_setattr_private(fd: BorrowedFd<'_>, set: u64) -> Result<()> {
    mount_setattr(fd, &MountAttr { set, clear: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 })
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

fn mount_setattr(fd: BorrowedFd<'_>, attributes: &MountAttr) -> Result<()> {
    let (flags, size) = (AT_EMPTY_PATH | AT_RECURSIVE, mem::size_of::<MountAttr>());
    let (fd, empty) = (fd.as_raw_fd(), c"".as_ptr());
    // SAFETY: the structure has the layout and size that the call is told (linux/mount.h).
    let got = unsafe { libc::syscall(libc::SYS_mount_setattr, fd, empty, flags, attributes, size) };
    Errno::result(got).map(drop)
}

const AT_EMPTY_PATH: libc::c_uint = libc::AT_EMPTY_PATH as libc::c_uint;
const AT_RECURSIVE: libc::c_uint = 0x8000;

/// close(2) of an inherited descriptor, known by its number only.
pub fn close(fd: i32) {
    // SAFETY: the caller has been told by the user that this number is inherited; nothing here owns it.
    unsafe { libc::close(fd) };
}

/// fork(2), with the child born inside a cgroup2 group (clone3(2) CLONE_INTO_CGROUP, Linux 5.7): entering
/// one afterwards waits for an RCU grace period, some 10 ms.
pub fn fork_into_cgroup(group: BorrowedFd<'_>) -> Result<ForkResult> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // struct clone_args of linux/sched.h, as eleven numbers.
    let mut args = [0u64; 11];
    args[0] = CLONE_INTO_CGROUP;
    args[4] = libc::SIGCHLD as u64;
    args[10] = group.as_raw_fd() as u64;
    // SAFETY: no stack is given, so this is fork(2): the child runs on a copy of this one. The C library
    // keeps the parent's thread id in the child, where therefore nothing may call raise(3) before exec.
    match Errno::result(unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), mem::size_of_val(&args)) })? {
        0 => Ok(ForkResult::Child),
        pid => Ok(ForkResult::Parent { child: Pid::from_raw(pid as i32) }),
    }
}

/// Writes over the command line that others see of this process (proc(5), /proc/PID/cmdline).
pub fn replace_command_line(name: &[u8]) {
    unsafe extern "C" {
        static mut environ: *const *mut libc::c_char;
    }
    let count = std::env::args_os().len();
    // SAFETY: at the start a process has on its stack the count of the arguments, pointers to them, a null, and
    // those to the environment (System V ABI, "Process Initialization"); environ is the C library's pointer to the
    // last, as nothing here changes the environment. What is found is checked: count and null must be there. The
    // strings are ours to write to (C11, 5.1.2.2.1), lie one after the other, and std has only copies of them.
    unsafe {
        let argv = environ.sub(count + 1);
        if !(*argv.add(count)).is_null() || *argv.sub(1).cast::<usize>() != count {
            return;
        }
        let mut name = name.iter();
        for at in 0..count {
            for byte in 0..libc::strlen(*argv.add(at)) {
                *(*argv.add(at)).add(byte) = name.next().map_or(0, |byte| *byte as libc::c_char);
            }
        }
    }
}

/// setpriority(2) of this process.
pub fn set_nice(value: i32) -> Result<()> {
    // SAFETY: no memory is involved.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS as _, 0, value) }).map(drop)
}

/// fork(2) whose child is the first of new namespaces (clone(2)), if any are named: kernels before 3.8 have no
/// other way to a new pid namespace. Without those of the C library it takes one call, not seven.
pub fn fork_into(kinds: nix::sched::CloneFlags) -> Result<ForkResult> {
    let flags = libc::c_long::from(kinds.bits() | libc::SIGCHLD);
    let none = 0 as libc::c_long;
    // SAFETY: no stack is given, so this is fork(2): the child runs on a copy of this one. The C library
    // keeps the parent's thread id in the child, where therefore nothing may call raise(3) before exec.
    match Errno::result(unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) })? {
        0 => Ok(ForkResult::Child),
        pid => Ok(ForkResult::Parent { child: Pid::from_raw(pid as i32) }),
    }
}

/// Brings the loopback interface of this network namespace up (netdevice(7)).
pub fn loopback_up() -> Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: ifreq is plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is what SIOCSIFFLAGS reads: a name that ends with a zero, and flags.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) }).map(drop)
}

/// prctl(2) PR_SET_SECCOMP: a filter for this process and all that comes of it. (Not seccomp(2), of 3.17: this
/// is there since 3.5.)
pub fn seccomp_filter(program: &[libc::sock_filter]) -> Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let mode = libc::SECCOMP_MODE_FILTER as libc::c_ulong;
    // SAFETY: `fprog` describes `program` exactly, which the kernel copies, and writes nowhere.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &fprog) }).map(drop)
}

/// What Rust's start-up changes before main, so that `as_inherited` can give it back: which of the descriptors
/// 0 to 2 were closed (it opens /dev/null there), and in bit 3 whether SIGPIPE was ignored (it always is then).
static INHERITED: AtomicU8 = AtomicU8::new(0);
const SIGPIPE_IGNORED: u8 = 1 << 3;

/// Called by the C library before main.
#[used]
// SAFETY: the section is a table of functions of this type, which run when the C library is ready.
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    let mut fds = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: sigaction is plain data, for which zeroes are valid.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: all pointers live over the calls, and a null action changes nothing.
    unsafe {
        libc::poll(fds.as_mut_ptr(), 3, 0);
        libc::sigaction(libc::SIGPIPE, ptr::null(), &mut action);
    }
    let closed =
        fds.iter().filter(|fd| fd.revents & libc::POLLNVAL != 0).fold(0, |bits, fd| bits | (1 << fd.fd));
    let ignored = if action.sa_sigaction == libc::SIG_IGN { SIGPIPE_IGNORED } else { 0 };
    INHERITED.store(closed | ignored, Ordering::Relaxed);
}

/// Lets the program have what we have got: closed descriptors closed, SIGPIPE ignored if it was.
pub fn as_inherited(command: &mut Command) {
    if INHERITED.load(Ordering::Relaxed) == 0 {
        return; // Command gives SIGPIPE its default disposition by itself
    }
    // SAFETY: what runs between fork and exec must be async-signal-safe: it is a few system calls.
    unsafe {
        command.pre_exec(|| {
            give_back();
            Ok(())
        });
    }
}

/// The same for the next exec of this process.
pub fn give_back() {
    let was = INHERITED.load(Ordering::Relaxed);
    for fd in (0..3).filter(|fd| was & (1 << fd) != 0) {
        // SAFETY: nobody but std has opened this number, and exec comes next.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    let disposition = if was & SIGPIPE_IGNORED != 0 { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: neither runs a handler of ours.
    unsafe { libc::signal(libc::SIGPIPE, disposition) };
}
