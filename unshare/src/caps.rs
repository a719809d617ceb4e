//! caps: capability sets by name (capabilities(7)).

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;

use crate::sys::{self, CapData};

/// By number, as in linux/capability.h.
#[rustfmt::skip]
const NAMES: [&str; 41] = [
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
];

/// What a service in a container needs: the set that podman gives, and audit_write for logins.
pub const DEFAULT: &str = "chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,\
sys_chroot,setfcap,audit_write";

/// A set of capabilities, a bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps(pub u64);

impl Caps {
    pub const ALL: Caps = Caps(u64::MAX);
    pub const NONE: Caps = Caps(0);

    /// "all", "none", "default" or names, with or without CAP_, joined by commas.
    pub fn parse(list: &str) -> Result<Caps> {
        let mut bits = 0;
        for word in list.split(',') {
            bits |= match word.to_ascii_lowercase().as_str() {
                "all" => Caps::ALL.0,
                "none" => 0,
                "default" => Caps::parse(DEFAULT)?.0,
                name => 1 << number(name).ok_or_else(|| anyhow!("unknown capability: '{word}'"))?,
            };
        }
        Ok(Caps(bits))
    }

    fn has(self, number: usize) -> bool {
        (self.0 >> number) & 1 == 1
    }
}

fn number(name: &str) -> Option<usize> {
    let name = name.strip_prefix("cap_").unwrap_or(name);
    NAMES.iter().position(|known| *known == name)
}

/// The bounding set of a process, and whether it has no_new_privs, from /proc/PID/status.
pub fn of_status(status: &str) -> Result<(Caps, bool)> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let bounding = field("CapBnd:").context("no CapBnd line")?;
    let bounding = u64::from_str_radix(bounding, 16).context("the CapBnd line is not a number")?;
    Ok((Caps(bounding), field("NoNewPrivs:") == Some("1")))
}

/// Reduces this process, and all that it will become, to `keep`.
///
/// The bounding set goes first: dropping from it needs CAP_SETPCAP, which the second step may take away.
pub fn reduce(keep: Caps) -> Result<()> {
    drop_bounding(keep)?;
    limit(keep)
}

/// Takes all but `keep` out of the bounding set: no exec can bring it back.
pub fn drop_bounding(keep: Caps) -> Result<()> {
    for number in (0..64).filter(|n| !keep.has(*n)) {
        let known = || sys::prctl(libc::PR_CAPBSET_READ, number as libc::c_ulong) != Err(Errno::EINVAL);
        match sys::prctl(libc::PR_CAPBSET_DROP, number as libc::c_ulong) {
            Ok(_) => {}
            Err(Errno::EINVAL) if !known() => break, // this kernel has no more
            Err(errno) => {
                let what = format!("cannot drop '{}' from the bounding set", name_of(number));
                return Err(errno).context(what);
            }
        }
    }
    Ok(())
}

/// Takes all but `keep` out of the sets that this process has now; needs no privilege.
pub fn limit(keep: Caps) -> Result<()> {
    match sys::prctl2(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0) {
        Ok(_) | Err(Errno::EINVAL) => {} // before 4.3 there is no ambient set to clear
        Err(errno) => return Err(errno).context("cannot clear the ambient capabilities"),
    }
    let mut data = sys::capget().context("cannot read the capabilities")?;
    for (half, record) in data.iter_mut().enumerate() {
        let mask = (keep.0 >> (32 * half)) as u32;
        *record = CapData {
            effective: record.effective & mask,
            permitted: record.permitted & mask,
            inheritable: 0,
        };
    }
    sys::capset(&data).context("cannot set the capabilities")
}

/// Makes what is permitted now inheritable and ambient: a program without file capabilities has it too.
pub fn make_ambient() -> Result<()> {
    let mut data = sys::capget().context("cannot read the capabilities")?;
    for record in &mut data {
        record.inheritable = record.permitted;
    }
    sys::capset(&data).context("cannot set the capabilities")?;
    let permitted = permitted_in(&data);
    for number in (0..64).filter(|number| permitted.has(*number)) {
        sys::prctl2(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
            number as libc::c_ulong,
        )
        .with_context(|| format!("cannot make '{}' ambient", name_of(number)))?;
    }
    Ok(())
}

/// What a process may make effective now; 0 for this one.
pub fn permitted(pid: nix::unistd::Pid) -> nix::Result<Caps> {
    sys::capget_of(pid).map(|data| permitted_in(&data))
}

fn permitted_in(data: &[CapData; 2]) -> Caps {
    Caps(u64::from(data[0].permitted) | (u64::from(data[1].permitted) << 32))
}

/// Sets the user id without losing the capabilities; limit() and make_ambient() come next.
pub fn setuid_keeping(uid: nix::unistd::Uid) -> Result<()> {
    sys::prctl(libc::PR_SET_KEEPCAPS, 1).context("cannot keep the capabilities")?;
    nix::unistd::setuid(uid)?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 0).map(drop).context("cannot keep the capabilities")
}

fn name_of(number: usize) -> String {
    NAMES.get(number).map_or_else(|| number.to_string(), |name| format!("cap_{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_with_and_without_prefix_in_any_case() {
        assert_eq!(Caps::parse("chown,CAP_KILL").unwrap(), Caps(1 | (1 << 5)));
        assert_eq!(Caps::parse("none").unwrap(), Caps::NONE);
        assert_eq!(Caps::parse("none,net_raw").unwrap(), Caps(1 << 13));
    }

    #[test]
    fn an_unknown_name_is_named() {
        assert_eq!(Caps::parse("chown,fly").unwrap_err().to_string(), "unknown capability: 'fly'");
    }

    #[test]
    fn the_default_set_holds_neither_ptrace_nor_admin() {
        let set = Caps::parse("default").unwrap();
        assert!(!set.has(19) && !set.has(21) && !set.has(12) && set.has(0));
    }

    #[test]
    fn status_gives_bounding_set_and_no_new_privs() {
        let status = "CapBnd:\t00000000a80425fb\nNoNewPrivs:\t1\n";
        assert_eq!(of_status(status).unwrap(), (Caps(0xa804_25fb), true));
    }

    #[test]
    fn fuzz_lists_take_anything() {
        crate::fuzz::rounds(3000, |dice| {
            let _ = Caps::parse(&dice.text("cap_sysadminet,CHOWN \u{e9}", 24));
            let names: Vec<_> = (0..dice.below(5)).map(|_| NAMES[dice.below(41) as usize]).collect();
            if let Ok(set) = Caps::parse(&names.join(",")) {
                assert!((0..64).all(|n| set.has(n) == names.contains(&NAMES.get(n).copied().unwrap_or("-"))));
            }
            let _ = of_status(&dice.text("CapBnd:\t0af\nNoNewPrivs1 ", 40));
        });
    }
}
