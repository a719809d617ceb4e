//! sys: the calls that need `unsafe`, each use argued. This tool has one thread.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::Result;
use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, socket};

/// setsockopt(2): switches an option of a netlink socket on.
pub fn netlink_option(fd: BorrowedFd<'_>, option: libc::c_int) -> Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads an int of the size that it is told, which lives over the call.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            mem::size_of_val(&on) as libc::socklen_t,
        )
    };
    Errno::result(done).map(drop)
}

/// bind(2) of a packet(7) socket: from now on it gets what arrives on this interface of this ethertype.
pub fn bind_packet(fd: BorrowedFd<'_>, ifindex: u32, ethertype: u16) -> Result<()> {
    // SAFETY: sockaddr_ll is plain data, for which zeroes are valid.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = ifindex as i32;
    let length = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: the kernel reads as many bytes as the structure has.
    Errno::result(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) }).map(drop)
}

/// Switches the loopback device of the current network namespace on: netdevice(7), the shortest way.
pub fn loopback_up() -> Result<()> {
    let fd = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: ifreq is plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, of which it uses the name and the flags set above.
    Errno::result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) })
        .map(drop)
}

/// sigpending(2).
pub fn pending() -> Result<SigSet> {
    // SAFETY: sigset_t is plain data, for which zeroes are valid.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: the call fills one set in.
    Errno::result(unsafe { libc::sigpending(&mut set) })?;
    // SAFETY: the set comes from the kernel and thus holds valid signals only.
    Ok(unsafe { SigSet::from_sigset_t_unchecked(set) })
}

/// pidfd_send_signal(2) with signal 0: whether the process has not been reaped.
pub fn pidfd_alive(pidfd: BorrowedFd<'_>) -> bool {
    // SAFETY: signal 0 sends nothing; a null pointer stands for no siginfo.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            0,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    done == 0 || Errno::last() != Errno::ESRCH
}

/// getrandom(2), for few bytes: never short, never interrupted.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: the kernel writes at most the N bytes of the array.
    let got = unsafe { libc::syscall(libc::SYS_getrandom, bytes.as_mut_ptr(), N, 0) };
    Errno::result(got).map(|_| bytes)
}

/// getnameinfo(3): the host name of an address; None where there is none.
pub fn name_of(address: IpAddr) -> Option<String> {
    let address = SockaddrStorage::from(SocketAddr::new(address, 0));
    let mut name = [0u8; 1025]; // NI_MAXHOST of glibc, the larger one
    // SAFETY: the address is a whole sockaddr of the length given; the library writes no more than the length of
    // `name`, with a zero at the end; null and 0 stand for a service name that is not wanted.
    let failed = unsafe {
        libc::getnameinfo(
            address.as_ptr(),
            address.len(),
            name.as_mut_ptr().cast(),
            name.len() as libc::socklen_t,
            std::ptr::null_mut(),
            0,
            libc::NI_NAMEREQD,
        )
    };
    if failed != 0 {
        return None;
    }
    CStr::from_bytes_until_nul(&name).ok()?.to_str().ok().map(str::to_owned)
}

/// Has the kernel finish the checksums of what an interface sends, in the network namespace that `fd` was
/// opened in (ethtool -K NAME tx off): Open vSwitch's own datapath takes packets as they are.
pub fn checksum_in_software(fd: BorrowedFd<'_>, name: &str) -> Result<()> {
    const SIOCETHTOOL: u32 = 0x8946; // linux/sockios.h
    const ETHTOOL_STXCSUM: u32 = 0x17; // linux/ethtool.h
    let mut value = [ETHTOOL_STXCSUM, 0]; // struct ethtool_value
    // SAFETY: ifreq is plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: SIOCETHTOOL reads the name, which ends with a zero, and through ifru_data the two words of
    // `value`, which live over the call.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) }).map(drop)
}
