//! cgroup: join the groups of another process, on cgroup2 and on every version 1 hierarchy (cgroups(7)).

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid};
use unshare::sys;

/// The groups that the target is in and we are not, opened before anything is entered.
pub struct Groups {
    /// The file `tasks`, and its name for messages.
    procs: Vec<(File, PathBuf)>,
    /// The cgroup2 directory, into which a child can be born.
    unified: Option<(OwnedFd, File, PathBuf)>,
}

pub fn of(pid: Pid) -> Result<Groups> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let theirs = read(&format!("/proc/{pid}/cgroup"))?;
    let ours = read("/proc/self/cgroup")?;
    let mounts = read("/proc/self/mountinfo")?;
    let mut groups = Groups { procs: Vec::new(), unified: None };
    for line in theirs.lines().filter(|line| !ours.lines().any(|l| l == *line)) {
        let mut fields = line.splitn(3, ':');
        let (_, Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            bail!("not understood in /proc/{pid}/cgroup: '{line}'");
        };
        let Some(dir) = directory(&mounts, controllers, path) else {
            bail!("cannot join the cgroup '{line}': its hierarchy is not mounted here");
        };
        // On version 1 a process of one thread that writes itself to `tasks` skips the lock for which
        // cgroup.procs waits some 8 ms (kernel commit 9a3284fad42f, since 5.5).
        let procs = dir.join(if controllers.is_empty() { "cgroup.procs" } else { "tasks" });
        let file = OpenOptions::new().write(true).open(&procs);
        let file = file.with_context(|| format!("cannot open '{}'", procs.display()))?;
        if controllers.is_empty() {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let fd = open(&dir, flags, Mode::empty())
                .with_context(|| format!("cannot open '{}'", dir.display()))?;
            groups.unified = Some((fd, file, procs));
        } else {
            groups.procs.push((file, procs));
        }
    }
    Ok(groups)
}

impl Groups {
    /// fork(2) with the child inside the groups. Version 1 has no other way in than a write, by ourselves, so
    /// that the child is inside from its first moment; the parent that waits there costs next to nothing.
    pub fn fork_inside(&self) -> Result<ForkResult> {
        for (file, path) in &self.procs {
            join(file, path)?;
        }
        if let Some((dir, file, path)) = &self.unified {
            match sys::fork_into_cgroup(dir.as_fd()) {
                // Before 5.7; or as the user that we are by now we may not, but who opened the file might.
                Err(Errno::ENOSYS | Errno::EINVAL | Errno::E2BIG | Errno::EACCES | Errno::EPERM) => {
                    join(file, path)?;
                }
                forked => return forked.with_context(|| format!("cannot fork into '{}'", path.display())),
            }
        }
        sys::fork().context("fork failed")
    }

    pub fn join(&self) -> Result<()> {
        self.procs
            .iter()
            .map(|(file, path)| (file, path))
            .chain(self.unified.iter().map(|(_, file, path)| (file, path)))
            .try_for_each(|(file, path)| join(file, path))
    }
}

/// "0" is the writing process (cgroups(7)).
fn join(mut file: &File, path: &Path) -> Result<()> {
    file.write_all(b"0").with_context(|| format!("cannot join '{}'", path.display()))
}

/// Where the group `path` of the hierarchy with these controllers lies in our mounts. The path is seen from
/// the root of our cgroup namespace, as is the root of a mount (fourth field of mountinfo).
fn directory(mounts: &str, controllers: &str, path: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let mut rest = rest.split(' ');
        let (kind, _, options) = (rest.next()?, rest.next()?, rest.next()?);
        let ours = match kind {
            "cgroup2" => controllers.is_empty(),
            "cgroup" => {
                !controllers.is_empty() && controllers.split(',').all(|c| options.split(',').any(|o| o == c))
            }
            _ => false,
        };
        let below = Path::new(path).strip_prefix(root).ok()?;
        ours.then(|| Path::new(point).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 29 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
31 29 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 29 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
33 29 0:29 /part /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";

    #[test]
    fn a_group_is_found_by_the_controllers_of_its_hierarchy() {
        let at = |controllers: &str, path: &str| directory(MOUNTS, controllers, path);
        assert_eq!(at("memory", "/a"), Some("/sys/fs/cgroup/memory/a".into()));
        assert_eq!(at("cpu,cpuacct", "/a"), Some("/sys/fs/cgroup/cpu,cpuacct/a".into()));
        assert_eq!(at("name=systemd", "/"), Some("/sys/fs/cgroup/systemd".into()));
        assert_eq!(at("pids", "/a"), None);
    }

    #[test]
    fn a_mount_of_a_part_shows_that_part_only() {
        assert_eq!(directory(MOUNTS, "", "/part/a"), Some("/sys/fs/cgroup/unified/a".into()));
        assert_eq!(directory(MOUNTS, "", "/other"), None);
    }
}
