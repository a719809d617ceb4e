//! power: what this run may do. Without root it goes on in a user namespace in which it is root
//! (user_namespaces(7)): with the caller's subordinate ids for all users of the tree, or, where there are none,
//! with one id for all.
//!
//!   we                                     helper, outside
//!   fork ------------------------------>   wait
//!   leave into a new user namespace
//!   say so ---------------------------->   newuidmap and newgidmap, or the map of one id
//!   wait for its status   <-------------   exit
//!   become user 0 in there

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio, exit};

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{
    ForkResult, Gid, Pid, Uid, User, getegid, geteuid, getppid, pipe2, setgroups, setresgid, setresuid,
};
use unshare::caps::{self, Caps};
use unshare::fail::{self, hint};
use unshare::sys;

use crate::progress;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    Root,
    /// Root of a namespace with many ids; devices cannot be made.
    Ranges,
    /// Root of a namespace with one id: all files belong to it.
    Single,
}

impl Power {
    pub fn word(self) -> &'static str {
        match self {
            Power::Root => "root",
            Power::Ranges => "ranges",
            Power::Single => "single",
        }
    }
}

/// How the helper ends when it could map one id only.
const ONE_ID: i32 = 10;

/// Takes what power there is; before any thread, file or process is made.
pub fn take() -> Result<Power> {
    if geteuid().is_root() {
        return as_root();
    }
    let (uid, gid) = (geteuid(), getegid());
    let (gone, mut go) = {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
        (fs::File::from(read), fs::File::from(write))
    };
    let helper = match sys::fork().context("cannot fork")? {
        ForkResult::Child => {
            drop(go);
            exit(help(gone, uid, gid))
        }
        ForkResult::Parent { child } => child,
    };
    drop(gone);
    let left = unshare(CloneFlags::CLONE_NEWUSER);
    if left.is_ok() {
        let _ = go.write_all(b"x");
    }
    drop(go);
    let ended = waitpid(helper, None).context("cannot wait for the helper")?;
    left.context("cannot make a user namespace").map_err(forbidden)?;
    let power = match ended {
        WaitStatus::Exited(_, 0) => Power::Ranges,
        WaitStatus::Exited(_, ONE_ID) => Power::Single,
        _ => bail!("cannot map the ids of a user namespace"),
    };
    let (root, group) = (Uid::from_raw(0), Gid::from_raw(0));
    if power == Power::Ranges {
        setgroups(&[group]).context("cannot leave the caller's groups")?;
    }
    setresgid(group, group, group)
        .and_then(|()| setresuid(root, root, root))
        .context("cannot become user 0")?;
    if power == Power::Single {
        crate::sys::swallow_chown().context("cannot pass over changes of owners")?;
    }
    Ok(power)
}

/// Root of the machine; or, as in a container without root, of a user namespace that somebody else has made.
fn as_root() -> Result<Power> {
    // Without /proc nothing says otherwise.
    let ids = ["uid_map", "gid_map"].map(|file| {
        fs::read_to_string(format!("/proc/self/{file}")).map_or(u32::MAX.into(), |map| mapped(&map))
    });
    let power = match power_of(ids[0].min(ids[1])) {
        Power::Root if !makes_devices()? => Power::Ranges,
        power => power,
    };
    if power == Power::Single {
        progress::warn(
            "every file of the root will belong to you alone: this user namespace has too few ids",
        );
        crate::sys::swallow_chown().context("cannot pass over changes of owners")?;
    }
    Ok(power)
}

/// Devices are made in the first user namespace alone, and some containers take even its root the right to.
fn makes_devices() -> Result<bool> {
    // include/linux/proc_ns.h: PROC_USER_INIT_INO
    const FIRST: u64 = 0xefff_fffd;
    let first = fs::metadata("/proc/self/ns/user").map_or(true, |ns| ns.ino() == FIRST);
    let caps = caps::permitted(Pid::from_raw(0)).context("cannot ask for our capabilities")?;
    Ok(first && caps.0 & Caps::parse("mknod")?.0 != 0)
}

/// How many ids a map has, a block a line: first inside, first outside, count (user_namespaces(7)).
fn mapped(map: &str) -> u64 {
    map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum()
}

/// Debian's ids go up to nobody's, 65534.
fn power_of(ids: u64) -> Power {
    match ids {
        0..=65534 => Power::Single,
        _ if ids < u32::MAX.into() => Power::Ranges,
        _ => Power::Root,
    }
}

/// Which switch of the host is in the way.
fn forbidden(error: anyhow::Error) -> anyhow::Error {
    const SWITCHES: [(&str, &str); 3] = [
        ("kernel/unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
        ("user/max_user_namespaces", "0"),
    ];
    let wrong = |(file, value): &&(&str, &str)| {
        fs::read_to_string(format!("/proc/sys/{file}")).is_ok_and(|text| text.trim() == *value)
    };
    let remedy = match SWITCHES.iter().find(wrong) {
        Some((file, "0")) => format!("sudo sysctl -w {}=1000", file.replace('/', ".")),
        Some((file, _)) => format!("sudo sysctl -w {}=0", file.replace('/', ".")),
        None => "type sudo before the command".to_owned(),
    };
    hint(error, remedy)
}

/// The helper's whole life; its value is the exit status.
fn help(mut gone: fs::File, uid: Uid, gid: Gid) -> i32 {
    if !matches!(gone.read(&mut [0]), Ok(1)) {
        return 1;
    }
    let target = getppid();
    match by_ranges(target, uid, gid) {
        Ok(()) => 0,
        Err(why) => {
            progress::warn(&format!("every file of the root will belong to you alone: {}", fail::told(&why)));
            match one_id(target, uid, gid) {
                Ok(()) => ONE_ID,
                Err(_) => 1,
            }
        }
    }
}

fn by_ranges(target: Pid, uid: Uid, gid: Gid) -> Result<()> {
    let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
    for (program, file, id) in
        [("newuidmap", "/etc/subuid", uid.as_raw()), ("newgidmap", "/etc/subgid", gid.as_raw())]
    {
        let text = fs::read_to_string(file).unwrap_or_default();
        let range = subordinate(&text, name.as_deref(), uid.as_raw());
        let (start, count) = range.ok_or_else(|| anyhow!("'{file}' has no range of ids for you"))?;
        let mut command = Command::new(program);
        command.arg(target.to_string()).args(["0".to_owned(), id.to_string(), "1".to_owned()]);
        command.args(["1".to_owned(), start.to_string(), count.to_string()]);
        let done = command.stdin(Stdio::null()).stderr(Stdio::null()).status();
        let done = done.with_context(|| format!("cannot run '{program}' (apt-get install uidmap)"))?;
        if !done.success() {
            bail!("'{program}' failed");
        }
    }
    Ok(())
}

fn one_id(target: Pid, uid: Uid, gid: Gid) -> std::io::Result<()> {
    let write = |file: &str, text: String| fs::write(format!("/proc/{target}/{file}"), text);
    write("uid_map", format!("0 {uid} 1\n"))?;
    // Without that an unprivileged process may map no group.
    write("setgroups", "deny".into())?;
    write("gid_map", format!("0 {gid} 1\n"))
}

/// The first range of subid(5) that belongs to a user, by name or number: its start and length.
fn subordinate(text: &str, name: Option<&str>, uid: u32) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
        (Some(owner) == name || owner.parse() == Ok(uid)).then_some((start, count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_gives_the_power_of_its_ids() {
        for (map, power) in [
            ("         0          0 4294967295\n", Power::Root),
            ("0 1000 1\n", Power::Single),
            ("0 1000 1\n1 100000 65536\n", Power::Ranges),
        ] {
            assert_eq!(power_of(mapped(map)), power, "{map}");
        }
    }

    #[test]
    fn ranges_belong_to_names_and_numbers() {
        let text = "other:1:2\nbad\n\nme:100000:65536\n7:600000:3\n";
        assert_eq!(subordinate(text, Some("me"), 1000), Some((100_000, 65536)));
        assert_eq!(subordinate(text, None, 7), Some((600_000, 3)));
        assert_eq!(subordinate(text, Some("she"), 8), None);
    }
}
