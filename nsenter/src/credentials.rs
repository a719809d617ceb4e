//! credentials: limits, ids and capabilities, as the program will have them (credentials(7), capabilities(7)).

use anyhow::{Context, Error, Result};
use nix::errno::Errno;
use nix::sys::stat::fstat;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use unshare::{caps, fail, sys};

use crate::cli::Id;
use crate::target::Target;

/// Hard limits go up before anything is entered: in a user namespace nobody may raise them.
pub fn raise(target: &Target) -> Result<()> {
    target
        .rlimits
        .iter()
        .try_for_each(|limit| limit.raise().with_context(|| format!("cannot set the limit '{}'", limit.name)))
}

/// Limits, ids and capabilities: as the program will have them.
pub fn reduce(target: &Target, groups_dropped: bool) -> Result<()> {
    let (keep, no_new_privs) = target.caps.unzip();
    for limit in &target.rlimits {
        limit.set().with_context(|| format!("cannot set the limit '{}'", limit.name))?;
    }
    keep.map_or(Ok(()), caps::drop_bounding)?;
    // The kernel wants CAP_SYS_ADMIN for it, or no_new_privs: then it goes last.
    if let (Some(filter), false) = (&target.seccomp, no_new_privs == Some(true)) {
        filter.load().context("cannot restrict the system calls")?;
    }
    set_ids(target, groups_dropped)?;
    if let Some(keep) = keep {
        caps::limit(keep).context("cannot reduce the capabilities")?;
    }
    if target.keep_caps || target.ambient {
        caps::make_ambient()?;
    }
    if no_new_privs == Some(true) {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).context("cannot set no_new_privs")?;
    }
    Ok(())
}

fn set_ids(target: &Target, groups_dropped: bool) -> Result<()> {
    let owner = target.followed.as_ref().map(fstat).transpose().context("can not get process stat")?;
    let number = |id: Option<Id>, followed: Option<u32>| match id {
        Some(Id::Number(number)) => Some(number),
        Some(Id::Follow) => followed,
        None => None,
    };
    if let Some(gid) = number(target.setgid, owner.map(|stat| stat.st_gid)) {
        match setgroups(&[]) {
            Err(errno) if !groups_dropped => {
                return Err(fail::hint(Error::new(errno), "add --preserve-credentials"))
                    .context("setgroups failed");
            }
            _ => {}
        }
        setgid(Gid::from_raw(gid)).context("setgid() failed").map_err(hint_on_ids)?;
    }
    let uid = number(target.setuid, owner.map(|stat| stat.st_uid));
    let Some(uid) = uid.map(Uid::from_raw) else { return Ok(()) };
    let done = match target.keep_caps || target.ambient {
        true => caps::setuid_keeping(uid),
        false => setuid(uid).map_err(Error::new),
    };
    done.context("setuid() failed").map_err(hint_on_ids)
}

fn hint_on_ids(error: Error) -> Error {
    match fail::find(&error) {
        Some(Errno::EINVAL) => {
            fail::hint(error, "the user namespace does not have this id: see /proc/PID/uid_map and gid_map")
        }
        _ => error,
    }
}
