//! layout: which controller lives where, from /proc/self/mountinfo and cgroup.controllers alone.
//!
//! /proc/cgroups is not asked: it calls controllers enabled that v1 cannot mount (6.12), and later kernels
//! leave out controllers that v2 has (7.2).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Error, Result, anyhow};
use nix::unistd::geteuid;
use unshare::fail::hint;

use crate::files;
use crate::name::{Group, Parent};
use crate::words::Word;

/// One tree of groups: the v2 tree, or a v1 mount with its controllers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub v2: bool,
    /// Where it is mounted ($CGSET_ROOT in front).
    pub mount: PathBuf,
    /// Which part of the tree the mount shows, as mountinfo has it.
    pub shown: String,
    pub controllers: Vec<String>,
}

impl Hierarchy {
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    /// True where `word` is a file of this tree. Those of cgroup itself are in every one; v2 has most.
    pub fn takes(&self, word: &Word) -> bool {
        match word.controller(self.v2) {
            Some("cgroup") => self.v2,
            Some(controller) => self.has(controller),
            None => false,
        }
    }
}

/// Where --leaf puts the processes of our own group, so that groups can be made beside them.
pub const LEAF: &str = "cgset.leaf";

pub struct Layout {
    /// $CGSET_ROOT: the root of a made-up host for tests, else "/".
    root: PathBuf,
    pub hierarchies: Vec<Hierarchy>,
    /// We are not root, and the group that we run in is ours: root or systemd has given it away.
    given: bool,
}

impl Layout {
    /// A host with at least one tree.
    pub fn some() -> Result<Layout> {
        let layout = Layout::read()?;
        if layout.hierarchies.is_empty() { Err(none_mounted()) } else { Ok(layout) }
    }

    /// A host that may have none.
    pub fn read() -> Result<Layout> {
        let root = std::env::var_os("CGSET_ROOT").filter(|root| !root.is_empty());
        let root = root.map_or(PathBuf::from("/"), PathBuf::from);
        let file = root.join("proc/self/mountinfo");
        let mountinfo = files::read_long(&file).map_err(|errno| files::cannot("read", &file, errno))?;
        let mut hierarchies = parse(&mountinfo, &root);
        for v2 in hierarchies.iter_mut().filter(|h| h.v2) {
            let list = files::read_or_say(&v2.mount.join("cgroup.controllers"))?;
            v2.controllers = list.split_whitespace().map(str::to_owned).collect();
        }
        // A v1 tree without controllers is somebody's book-keeping (name=systemd).
        hierarchies.retain(|h| h.v2 || !h.controllers.is_empty());
        let mut layout = Layout { root, hierarchies, given: false };
        layout.given = !geteuid().is_root() && layout.own_is_ours();
        Ok(layout)
    }

    fn own_is_ours(&self) -> bool {
        let own = self.tracker().and_then(|tracker| Some(tracker.mount.join(self.own(tracker).ok()?)));
        own.and_then(|dir| fs::metadata(dir).ok()).is_some_and(|meta| meta.uid() == geteuid().as_raw())
    }

    #[cfg(test)]
    pub fn of(hierarchies: Vec<Hierarchy>) -> Layout {
        Layout { root: "/".into(), hierarchies, given: false }
    }

    /// The tree in which `controller` can be used.
    pub fn home(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.has(controller))
    }

    /// The tree in which a word is written.
    pub fn home_of(&self, word: &Word) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.takes(word))
    }

    /// `path`, as it is on this host or on the made-up one.
    pub fn host(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// systemd manages the trees here (sd_booted(3)).
    pub fn systemd(&self) -> bool {
        self.host("/run/systemd/system").is_dir()
    }

    /// The tree that holds every group, whatever its limits: by it members are found and killed. The v1
    /// freezer can hold a forking group still; it is preferred to a v2 tree beside it, as entering v2 from
    /// outside (nsenter) waits for all processors and entering v1 need not.
    pub fn tracker(&self) -> Option<&Hierarchy> {
        let v2 = self.hierarchies.iter().find(|h| h.v2);
        self.home("freezer").or(v2).or(self.hierarchies.first())
    }

    /// The path of `group` in `hierarchy`, below its mount.
    pub fn place(&self, hierarchy: &Hierarchy, parent: &Parent, group: &Group) -> Result<PathBuf> {
        Ok(match parent {
            Parent::Group(parent) => Path::new(&parent.0).join(&group.0),
            _ if self.below_own(parent) => self.own(hierarchy)?.join(&group.0),
            _ => PathBuf::from(&group.0),
        })
    }

    /// True where groups below `parent` are made in the group that cgset runs in.
    pub fn below_own(&self, parent: &Parent) -> bool {
        *parent == Parent::Own || (*parent == Parent::Usual && self.given)
    }

    /// The group that this process stands in; where it was moved to a leaf, the one above that.
    pub fn own(&self, hierarchy: &Hierarchy) -> Result<PathBuf> {
        let mut own = self.standing(hierarchy, "self")?;
        if own.ends_with(LEAF) {
            own.pop();
        }
        Ok(own)
    }

    /// Where process `pid` stands in `hierarchy`, below its mount.
    pub fn standing(&self, hierarchy: &Hierarchy, pid: &str) -> Result<PathBuf> {
        let file = self.root.join("proc").join(pid).join("cgroup");
        let text = files::read_or_say(&file)?;
        standing(&text, hierarchy).ok_or_else(|| {
            anyhow!("'{}' shows no place below '{}'", file.display(), hierarchy.mount.display())
        })
    }

    /// The file by which a process comes back to where it stands now; None where that is not known.
    pub fn way_back(&self, hierarchy: &Hierarchy, pid: i32) -> Option<PathBuf> {
        let below = self.standing(hierarchy, &pid.to_string()).ok()?;
        Some(hierarchy.mount.join(below).join("cgroup.procs"))
    }

    pub fn ram(&self) -> Result<u64> {
        let file = self.root.join("proc/meminfo");
        let text = files::read_or_say(&file)?;
        let kib =
            text.lines().find_map(|line| files::first(line.strip_prefix("MemTotal:")?).parse::<u64>().ok());
        kib.map(|kib| kib << 10).ok_or_else(|| anyhow!("no MemTotal in '{}'", file.display()))
    }

    /// Why a controller is nowhere: best told, as it is otherwise searched for long.
    pub fn why_missing(&self, controller: &str) -> Option<String> {
        let cmdline = files::read(&self.root.join("proc/cmdline")).unwrap_or_default();
        let disabled = |word: &str| {
            word.strip_prefix("cgroup_disable=").is_some_and(|list| list.split(',').any(|c| c == controller))
        };
        let word = cmdline.split_whitespace().find(|word| disabled(word))?;
        Some(format!("it was switched off at boot ({word})"))
    }
}

pub fn none_mounted() -> Error {
    hint(anyhow!("no cgroup file system is mounted here"), "mount -t cgroup2 cgroup2 /sys/fs/cgroup")
}

/// A line of /proc/PID/cgroup is "ID:controllers:path"; v2 has ID 0 and no controllers.
fn standing(text: &str, hierarchy: &Hierarchy) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let same = match hierarchy.v2 {
            true => id == "0" && controllers.is_empty(),
            false => controllers.split(',').any(|c| hierarchy.has(c)),
        };
        same.then_some(path)
    })?;
    let below = path.strip_prefix(hierarchy.shown.trim_end_matches('/'))?;
    if below.split('/').any(|part| part == "..") {
        return None; // outside of our cgroup namespace
    }
    Some(PathBuf::from(below.trim_start_matches('/')))
}

struct Mount<'a> {
    id: &'a str,
    parent: &'a str,
    device: &'a str,
    shown: &'a str,
    point: String,
    kind: &'a str,
    options: &'a str,
}

/// proc_pid_mountinfo(5): "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw".
fn mount(line: &str) -> Option<Mount<'_>> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let (id, parent, device) = (left.next()?, left.next()?, left.next()?);
    let (shown, point) = (left.next()?, unescape(left.next()?));
    let mut right = right.split(' ');
    let (kind, _source, options) = (right.next()?, right.next()?, right.next()?);
    Some(Mount { id, parent, device, shown, point, kind, options })
}

/// Space, tab, newline and backslash are written as octal numbers.
fn unescape(text: &str) -> String {
    let mut plain = text.to_owned();
    for (octal, sign) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        plain = plain.replace(octal, sign);
    }
    plain
}

/// Known to the kernel as controllers; the other options of a v1 mount are none (rw, name=…, xattr, clone_children).
const CONTROLLERS: [&str; 14] = [
    "memory",
    "pids",
    "cpu",
    "cpuacct",
    "cpuset",
    "freezer",
    "devices",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
    "misc",
];

fn parse(mountinfo: &str, root: &Path) -> Vec<Hierarchy> {
    let mounts: Vec<Mount<'_>> = mountinfo.lines().filter_map(mount).collect();
    let mut found: Vec<(&str, Hierarchy)> = Vec::new();
    for m in mounts.iter().filter(|m| m.kind == "cgroup" || m.kind == "cgroup2") {
        if hidden(m, &mounts) {
            continue;
        }
        let v2 = m.kind == "cgroup2";
        let controllers = m.options.split(',').filter(|word| !v2 && CONTROLLERS.contains(word));
        let hierarchy = Hierarchy {
            v2,
            mount: root.join(m.point.trim_start_matches('/')),
            shown: m.shown.to_owned(),
            controllers: controllers.map(str::to_owned).collect(),
        };
        // The same tree mounted twice: the mount that shows all of it is the better one.
        match found.iter_mut().find(|(device, _)| *device == m.device) {
            Some((_, other)) if other.shown != "/" && m.shown == "/" => *other = hierarchy,
            Some(_) => {}
            None => found.push((m.device, hierarchy)),
        }
    }
    found.into_iter().map(|(_, hierarchy)| hierarchy).collect()
}

/// True where another mount lies over this one, or over one that it hangs from.
fn hidden(m: &Mount<'_>, all: &[Mount<'_>]) -> bool {
    if all.iter().any(|o| o.parent == m.id && o.id != m.id && o.point == m.point) {
        return true;
    }
    let mut lower = m;
    for _ in all {
        let beside = |o: &&Mount<'_>| o.parent == lower.parent && o.id != lower.id && o.id != o.parent;
        if all.iter().filter(beside).any(|o| Path::new(&lower.point).starts_with(&o.point)) {
            return true;
        }
        match all.iter().find(|o| o.id == lower.parent && o.id != lower.id) {
            Some(parent) => lower = parent,
            None => break,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
23 1 0:1 / / rw - ext4 /dev/x rw
30 23 0:22 / /sys rw - sysfs sysfs rw
31 30 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw,nsdelegate
";

    fn points(text: &str) -> Vec<(bool, String, String)> {
        let show = |h: Hierarchy| (h.v2, h.mount.display().to_string(), h.controllers.join(","));
        parse(text, Path::new("/")).into_iter().map(show).collect()
    }

    #[test]
    fn a_hybrid_host_is_read_from_its_mounts() {
        let want = [
            (false, "/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct"),
            (false, "/sys/fs/cgroup/memory", "memory"),
            (false, "/sys/fs/cgroup/systemd", ""),
            (true, "/sys/fs/cgroup/uni fied", ""),
        ];
        assert_eq!(points(HYBRID), want.map(|(v2, mount, list)| (v2, mount.into(), list.into())));
    }

    #[test]
    fn a_mount_under_another_is_not_seen() {
        let over = format!("{HYBRID}50 32 0:50 / /sys/fs/cgroup/cpu,cpuacct rw - tmpfs t rw\n");
        assert_eq!(points(&over).len(), 3);
        let over = format!(
            "{HYBRID}50 31 0:50 / /sys/fs/cgroup rw - tmpfs t rw\n51 50 0:51 / /sys/fs/cgroup rw - cgroup2 c rw\n"
        );
        assert_eq!(points(&over), [(true, "/sys/fs/cgroup".into(), String::new())]);
    }

    #[test]
    fn a_tree_mounted_twice_counts_once_and_whole() {
        let twice = "60 1 0:9 /docker/1 /a rw - cgroup2 c rw\n61 1 0:9 / /b rw - cgroup2 c rw\n";
        assert_eq!(points(twice), [(true, "/b".into(), String::new())]);
    }

    #[test]
    fn strange_mounts_are_read_without_a_panic() {
        let pieces: Vec<&str> =
            HYBRID.split_inclusive([' ', ',', '\n']).chain(["\\040", "- ", "cgroup2 ", "é "]).collect();
        crate::fuzz::mixed(&pieces, 60, |text| {
            let all = parse(text, Path::new("/r"));
            assert!(all.iter().all(|h| h.mount.starts_with("/r")), "{text}");
            for hierarchy in &all {
                let _ = standing(text, hierarchy);
            }
        });
    }

    #[test]
    fn a_process_stands_where_proc_says() {
        let h = |v2, list: &[&str], shown: &str| Hierarchy {
            v2,
            mount: "/m".into(),
            shown: shown.into(),
            controllers: list.iter().map(|c| c.to_string()).collect(),
        };
        let text = "4:memory:/a/b\n2:cpu,cpuacct:/\n0::/x\n";
        assert_eq!(standing(text, &h(false, &["memory"], "/")), Some("a/b".into()));
        assert_eq!(standing(text, &h(false, &["memory"], "/a")), Some("b".into()));
        assert_eq!(standing(text, &h(false, &["cpuacct", "cpu"], "/")), Some("".into()));
        assert_eq!(standing(text, &h(true, &["memory"], "/")), Some("x".into()));
        assert_eq!(standing("0::/../../g\n", &h(true, &[], "/")), None);
    }
}
