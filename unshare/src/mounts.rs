//! mounts: make the world that the program will see: propagation, root, proc, sys, dev, fstab, masks.
//!
//! The tree that becomes the root may be hostile. So every place inside it is found by `rooted`, which no
//! link leads out of, and mounted on by descriptor; all this while the caller's own tree is still there to
//! take bind mounts from. Only then the root changes (CVE-2021-30465 is what happens otherwise).

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, fstat, makedev};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::fchdir;
use unshare::fstab::{self, Bind, Line};
use unshare::{fail, rooted, sys};

use crate::onto::{KERNEL, bind_on, by_fd, is_missing, kind_of, mount_on};
use crate::plan::{Root, World};
use crate::{binfmt, dev, hints, root};

/// What tells about the host or reaches the machine: hidden. The list that OCI runtimes mask.
const HIDDEN: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];

/// What programs want to read but nobody in a ship may write.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

pub fn make(world: &World, table: &[Line]) -> Result<()> {
    if let Some(mode) = world.propagation {
        mount(None::<&str>, "/", None::<&str>, mode | MsFlags::MS_REC, None::<&str>)
            .context("cannot change root filesystem propagation")
            .map_err(hints::on_propagation)?;
    }
    if !world.mounts && world.root == Root::Same {
        return Ok(());
    }
    let root = root::open_dir(&world.root)?;
    fill(world, table, &root).map_err(hints::without_proc)?;
    root::change(&world.root, &root)
}

fn fill(world: &World, table: &[Line], root: &OwnedFd) -> Result<()> {
    if let Some(dir) = &world.mount_proc {
        mount_proc(world, root.as_fd(), &in_root(world, dir)?)?;
    }
    if let Some(dir) = &world.mount_binfmt {
        binfmt::make(root.as_fd(), &in_root(world, dir)?, world.load_interp.as_deref())?;
    }
    if world.mount_sys {
        mount_sys(root.as_fd()).context("mount /sys failed")?;
    }
    if world.mount_dev {
        dev::make(root.as_fd(), world.bind_devices).context("cannot make a private /dev")?;
    }
    for line in table {
        match mount_line(root.as_fd(), line) {
            Err(e) if line.nofail && fail::find(&e) == Some(&Errno::ENOENT) => {}
            done => done.with_context(|| format!("cannot mount {}", line.named()))?,
        }
    }
    if world.mask_paths {
        mask(root.as_fd())?;
    }
    Ok(())
}

/// A place without a slash before it is sought from where the program will be, as util-linux does.
fn in_root(world: &World, dir: &Path) -> Result<PathBuf> {
    let dir = world.wd.as_deref().unwrap_or(Path::new("")).join(dir);
    match &world.root {
        Root::Same => std::path::absolute(&dir).with_context(|| format!("mount '{}' failed", dir.display())),
        _ => Ok(Path::new("/").join(dir)),
    }
}

/// As unshare(1): the place is made private first, so that the new proc does not spread to the caller's
/// namespace when --propagation keeps the mounts shared.
fn mount_proc(world: &World, root: BorrowedFd<'_>, dir: &Path) -> Result<()> {
    // A tree that becomes the root may come without; elsewhere a missing place is a slip of the pen.
    let place = match &world.root {
        Root::Pivot(_) => rooted::make_dirs(root, dir),
        _ => rooted::open_path(root, dir),
    };
    let place = place.with_context(|| format!("mount {} failed", dir.display()))?;
    match mount_proc_at(world, &by_fd(&place), dir) {
        // There is no /proc yet: then the only way to a descriptor is to stand there.
        Err(e) if fail::find(&e) == Some(&Errno::ENOENT) => {
            let before = open(".", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
            fchdir(&place).with_context(|| format!("mount {} failed", dir.display()))?;
            mount_proc_at(world, ".", dir)?;
            fchdir(&before).context("cannot return to the working directory")
        }
        done => done,
    }
}

fn mount_proc_at(world: &World, place: &str, dir: &Path) -> Result<()> {
    if world.propagation != Some(MsFlags::MS_PRIVATE) {
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        match mount(None::<&str>, place, None::<&str>, private, None::<&str>) {
            Ok(()) | Err(Errno::EINVAL) => {} // EINVAL: not a mount point, so nothing to change
            Err(errno) => {
                let what = format!("cannot change {} filesystem propagation", dir.display());
                return Err(errno).context(what);
            }
        }
    }
    mount(Some("proc"), place, Some("proc"), KERNEL, None::<&str>)
        .with_context(|| format!("mount {} failed", dir.display()))
        .map_err(hints::on_proc)
}

/// Where the sysfs of this very network namespace is there already the kernel says EBUSY: then a part of that
/// one, without what is mounted below. Where the network namespace belongs to another user namespace it says
/// EPERM: then the caller's, with all below it, as nobody may look under mounts of others.
fn mount_sys(root: BorrowedFd<'_>) -> Result<()> {
    let (dir, flags) = (Path::new("/sys"), KERNEL | MsFlags::MS_RDONLY);
    let done = mount_on(root, dir, "sysfs", flags, "");
    let errno = done.as_ref().err().and_then(|e| e.downcast_ref().copied());
    let place = match errno {
        Some(Errno::EBUSY | Errno::EPERM) => rooted::open_path(root, dir)?,
        _ => return done,
    };
    if errno == Some(Errno::EBUSY) {
        bind_on(&place, &place, MsFlags::MS_BIND)?;
        return remount(&rooted::open_path(root, dir)?, flags);
    }
    let callers = open("/sys", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    bind_on(&callers, &place, MsFlags::MS_BIND | MsFlags::MS_REC)?;
    restrict_tree(root, dir, flags).context("cannot make the caller's read-only")?;
    // A new sysfs shows no groups either.
    mount_on(root, Path::new("/sys/fs/cgroup"), "tmpfs", flags, "size=0")
}

fn mount_line(root: BorrowedFd<'_>, line: &Line) -> Result<()> {
    let Some(bind) = line.bind else {
        let place = line.place(root, true)?;
        let (source, kind) = (Some(line.source.as_os_str()), Some(line.kind.as_os_str()));
        mount(source, by_fd(&place).as_str(), kind, line.flags, Some(line.data.as_os_str()))?;
        return propagate(root, line);
    };
    let source = open(line.source.as_os_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .with_context(|| format!("cannot open '{}'", line.source.to_string_lossy()))?;
    let is_dir = kind_of(&source)? == SFlag::S_IFDIR;
    let place = line.place(root, is_dir)?;
    let how = match bind {
        Bind::One => MsFlags::MS_BIND,
        Bind::Recursive => MsFlags::MS_BIND | MsFlags::MS_REC,
    };
    bind_on(&source, &place, how)?;
    if !line.flags.is_empty() {
        // The first call ignores them (mount(2)).
        restrict(root, line, bind).context("cannot set the options")?;
    }
    propagate(root, line)
}

fn propagate(root: BorrowedFd<'_>, line: &Line) -> Result<()> {
    let Some(mode) = line.propagation else { return Ok(()) };
    let mounted = rooted::open_path(root, &line.target)?;
    mount(None::<&str>, by_fd(&mounted).as_str(), None::<&str>, mode, None::<&str>)
        .context("cannot set the propagation")
}

/// Adds the line's flags to its mount; to all below it too when it came recursively.
fn restrict(root: BorrowedFd<'_>, line: &Line, bind: Bind) -> Result<()> {
    match bind {
        Bind::One => remount(&rooted::open_path(root, &line.target)?, line.flags),
        Bind::Recursive => restrict_tree(root, &line.target, line.flags),
    }
}

/// Adds flags to the mount at `dir` and all below it: mount_setattr(2), before Linux 5.12 one by one.
fn restrict_tree(root: BorrowedFd<'_>, dir: &Path, flags: MsFlags) -> Result<()> {
    let top = rooted::open_path(root, dir)?;
    match sys::mount_setattr_all(top.as_fd(), fstab::attributes(flags)) {
        Err(errno) if is_missing(errno) => {}
        done => return Ok(done?),
    }
    let path = |fd: BorrowedFd<'_>| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let (base, top) = (path(root)?, path(top.as_fd())?);
    let mounts = fs::read("/proc/self/mountinfo")?;
    let points = mounts.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4));
    for point in points.map(fstab::unescape).map(PathBuf::from).filter(|point| point.starts_with(&top)) {
        match rooted::open_path(root, point.strip_prefix(&base)?) {
            Ok(mounted) => remount(&mounted, flags)?,
            Err(Errno::ENOENT) => {} // another mount lies over it, and nobody can come there
            Err(errno) => return Err(errno).with_context(|| format!("cannot open '{}'", point.display())),
        }
    }
    Ok(())
}

/// Adds flags to one mount. This call sets them all, so those that it has are named again: the kernel refuses
/// to take nosuid and the like away in a user namespace, and nobody wants that elsewhere.
fn remount(mounted: &OwnedFd, flags: MsFlags) -> Result<()> {
    // The numbers of ST_RDONLY to ST_NODIRATIME are those of MS_RDONLY to MS_NODIRATIME (statvfs(3)).
    let had = MsFlags::from_bits_truncate(fstatvfs(mounted)?.flags().bits())
        & (KERNEL | MsFlags::MS_RDONLY | MsFlags::MS_NOATIME | MsFlags::MS_NODIRATIME);
    let how = had | flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
    Ok(mount(None::<&str>, by_fd(mounted).as_str(), None::<&str>, how, None::<&str>)?)
}

fn mask(root: BorrowedFd<'_>) -> Result<()> {
    // The host's own /dev/null, and really that: a link planted in the ship must not be bound over proc
    // (CVE-2025-31133).
    let null = open("/dev/null", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .context("cannot open '/dev/null'")?;
    if fstat(&null).context("cannot look at '/dev/null'")?.st_rdev != makedev(1, 3) {
        bail!("'/dev/null' is not the null device");
    }
    let mut empty = None;
    for path in HIDDEN.iter().map(Path::new) {
        hide(root, path, &null, &mut empty).with_context(|| format!("cannot hide '{}'", path.display()))?;
    }
    for path in READ_ONLY.iter().map(Path::new) {
        protect(root, path).with_context(|| format!("cannot protect '{}'", path.display()))?;
    }
    Ok(())
}

/// A file under the null device, a directory under an empty one, which the first makes for all.
fn hide(root: BorrowedFd<'_>, path: &Path, null: &OwnedFd, empty: &mut Option<OwnedFd>) -> Result<()> {
    let place = match rooted::open_path(root, path) {
        Err(Errno::ENOENT | Errno::EACCES | Errno::ENOTDIR) => return Ok(()),
        found => found?,
    };
    if kind_of(&place)? != SFlag::S_IFDIR {
        return bind_on(null, &place, MsFlags::MS_BIND);
    }
    if let Some(empty) = empty {
        return bind_on(empty, &place, MsFlags::MS_BIND);
    }
    let flags = KERNEL | MsFlags::MS_RDONLY;
    mount(Some("none"), by_fd(&place).as_str(), Some("tmpfs"), flags, Some("size=0"))?;
    *empty = rooted::open_path(root, path).ok();
    Ok(())
}

/// Read-only: a copy of the mount, by the older way the same in place.
fn protect(root: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let place = match rooted::open_path(root, path) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        found => found?,
    };
    let flags = KERNEL | MsFlags::MS_RDONLY;
    let copy = || -> nix::Result<()> {
        let copy = sys::open_tree_clone_one(place.as_fd())?;
        sys::mount_setattr_all(copy.as_fd(), fstab::attributes(flags))?;
        sys::move_mount(copy.as_fd(), place.as_fd())
    };
    match copy() {
        Err(errno) if is_missing(errno) => {}
        done => return Ok(done?),
    }
    bind_on(&place, &place, MsFlags::MS_BIND)?;
    remount(&rooted::open_path(root, path)?, flags)
}
