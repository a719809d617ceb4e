//! counters: limits, use and peaks of a group, under the same names whatever the tree.

use std::path::{Path, PathBuf};

use crate::amount::{MILLION, human};
use crate::files;
use crate::group::{self, Place};

pub struct Memory {
    /// None: no limit.
    pub limit: Option<u64>,
    pub used: Option<u64>,
    /// None: a kernel that does not keep it (v2 before 5.19).
    pub peak: Option<u64>,
    pub oom_kills: u64,
    /// None where swap is not counted.
    pub swap: Option<Swap>,
}

pub struct Swap {
    pub limit: Option<u64>,
    pub used: Option<u64>,
}

pub struct Procs {
    pub limit: Option<u64>,
    pub used: Option<u64>,
    pub peak: Option<u64>,
    /// How often a fork failed at the limit.
    pub refused: Option<u64>,
}

pub struct Cpu {
    /// In millionths of a processor.
    pub limit: Option<u64>,
    /// 1 to 10000, 100 is the usual; None where it is idle.
    pub weight: Option<u64>,
    pub used_usec: Option<u64>,
    pub throttled_usec: Option<u64>,
}

/// Reads the files of one directory.
struct Dir<'a>(&'a Path);

impl Dir<'_> {
    fn text(&self, file: &str) -> Option<String> {
        files::read(&self.0.join(file)).ok()
    }

    fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.trim().parse().ok()
    }

    fn limit(&self, file: &str) -> Option<u64> {
        files::limit(&self.text(file)?)
    }

    fn keyed(&self, file: &str, key: &str) -> Option<u64> {
        files::keyed(&self.text(file)?, key)
    }
}

/// The directory in which `controller` works for the group; on v2 it must have been handed down.
fn home<'a>(places: &'a [Place], controller: &str, file: &str) -> Option<(&'a Place, Dir<'a>)> {
    let place = places.iter().find(|p| p.hierarchy.has(controller) && p.path.join(file).exists())?;
    Some((place, Dir(&place.path)))
}

pub fn memory(places: &[Place]) -> Option<Memory> {
    if let Some((_, dir)) = home(places, "memory", "memory.max") {
        let swap = dir
            .text("memory.swap.max")
            .map(|limit| Swap { limit: files::limit(&limit), used: dir.number("memory.swap.current") });
        return Some(Memory {
            limit: dir.limit("memory.max"),
            used: dir.number("memory.current"),
            peak: dir.number("memory.peak"),
            oom_kills: oom_kills(places),
            swap,
        });
    }
    let (_, dir) = home(places, "memory", "memory.limit_in_bytes")?;
    let limit = dir.limit("memory.limit_in_bytes");
    let used = dir.number("memory.usage_in_bytes");
    let swap = dir.text("memory.memsw.limit_in_bytes").map(|both| Swap {
        limit: files::limit(&both).map(|both| both.saturating_sub(limit.unwrap_or(both))),
        used: dir.keyed("memory.stat", "total_swap").or_else(|| dir.keyed("memory.stat", "swap")),
    });
    let peak = dir.number("memory.max_usage_in_bytes");
    Some(Memory { limit, used, peak, oom_kills: oom_kills(places), swap })
}

/// True where kills for memory are counted.
pub fn counts_kills(place: &Place) -> bool {
    let file = if place.hierarchy.v2 { "memory.events" } else { "memory.oom_control" };
    place.hierarchy.has("memory") && place.path.join(file).exists()
}

/// How many processes the kernel has killed for this group's memory. The count of limits hit ("oom", failcnt)
/// says nothing: a lowered limit counts thousands for one kill.
pub fn oom_kills(places: &[Place]) -> u64 {
    let Some(place) = places.iter().find(|p| p.hierarchy.has("memory")) else { return 0 };
    if place.hierarchy.v2 {
        return Dir(&place.path).keyed("memory.events", "oom_kill").unwrap_or(0);
    }
    // v1 counts where the victim stood, so the groups below count too.
    let kills = |dir: PathBuf| Dir(&dir).keyed("memory.oom_control", "oom_kill");
    group::tree(&place.path).into_iter().filter_map(kills).sum()
}

/// "out of memory: limit 95.4M, peak 95.4M, 1 process killed"
pub fn kills_line(places: &[Place], kills: u64) -> String {
    let memory = memory(places);
    let limit = memory.as_ref().and_then(|m| m.limit).map_or("max".into(), human);
    let peak = memory.and_then(|m| m.peak).map_or("unknown".into(), human);
    let what = if kills == 1 { "process" } else { "processes" };
    format!("out of memory: limit {limit}, peak {peak}, {kills} {what} killed")
}

pub fn procs(places: &[Place]) -> Option<Procs> {
    let (_, dir) = home(places, "pids", "pids.max")?;
    Some(Procs {
        limit: dir.limit("pids.max"),
        used: dir.number("pids.current"),
        peak: dir.number("pids.peak"),
        refused: dir.keyed("pids.events", "max"),
    })
}

pub fn cpu(places: &[Place]) -> Option<Cpu> {
    if let Some((_, dir)) = home(places, "cpu", "cpu.max") {
        let text = dir.text("cpu.max")?;
        let (quota, period) = text.trim().split_once(' ')?;
        return Some(Cpu {
            limit: share(quota.parse().ok(), period.parse().ok()),
            weight: dir.number("cpu.weight"),
            used_usec: cpu_time(places),
            throttled_usec: dir.keyed("cpu.stat", "throttled_usec"),
        });
    }
    let (_, dir) = home(places, "cpu", "cpu.cfs_quota_us")?;
    Some(Cpu {
        limit: share(dir.number("cpu.cfs_quota_us"), dir.number("cpu.cfs_period_us")),
        // Rounded up, as 1 is the least of both.
        weight: dir.number("cpu.shares").map(|shares| shares.saturating_mul(100).div_ceil(1024)),
        used_usec: cpu_time(places),
        throttled_usec: dir.keyed("cpu.stat", "throttled_time").map(|nsec| nsec / 1000),
    })
}

/// Processor time used, in microseconds. v2 counts it in every group; v1 in a tree of its own, cpuacct, most
/// often mounted together with cpu.
pub fn cpu_time(places: &[Place]) -> Option<u64> {
    let v2 = places.iter().find(|p| p.hierarchy.v2);
    let v1 = places.iter().find(|p| p.hierarchy.has("cpuacct"));
    v1.and_then(|p| Dir(&p.path).number("cpuacct.usage"))
        .map(|nsec| nsec / 1000)
        .or_else(|| Dir(&v2?.path).keyed("cpu.stat", "usage_usec"))
}

fn share(quota: Option<u64>, period: Option<u64>) -> Option<u64> {
    quota?.checked_mul(MILLION)?.checked_div(period?)
}

/// What a file of one number or word says, None where it is not there: for the lesser limits.
pub fn setting(places: &[Place], controller: &str, file: &str) -> Option<String> {
    let (_, dir) = home(places, controller, file)?;
    Some(dir.text(file)?.trim().to_owned())
}

/// The weight for disks, where it is kept: "default 100", lines of devices below it; v1 has the number alone.
pub fn io_weight(places: &[Place]) -> Option<String> {
    let kept = [("io", "io.weight"), ("io", "io.bfq.weight"), ("blkio", "blkio.bfq.weight")];
    let text = kept.iter().find_map(|(controller, file)| setting(places, controller, file))?;
    Some(files::first(text.trim_start_matches("default ")).to_owned())
}

/// The limits of devices: the word, the device, and the limit a second.
pub fn devices(places: &[Place]) -> Vec<(&'static str, String, u64)> {
    let mut all = Vec::new();
    if let Some(text) = setting(places, "io", "io.max") {
        for (word, key) in [("read", "rbps"), ("write", "wbps"), ("riops", "riops"), ("wiops", "wiops")] {
            let value = |line: &str| {
                let (disk, rest) = line.split_once(' ')?;
                let value = rest.split_whitespace().find_map(|w| w.strip_prefix(key)?.strip_prefix('='))?;
                Some((word, disk.to_owned(), value.parse().ok()?))
            };
            all.extend(text.lines().filter_map(value));
        }
        return all;
    }
    for (word, file) in
        [("read", "read_bps"), ("write", "write_bps"), ("riops", "read_iops"), ("wiops", "write_iops")]
    {
        let text = setting(places, "blkio", &format!("blkio.throttle.{file}_device")).unwrap_or_default();
        let value = |line: &str| {
            let (disk, value) = line.split_once(' ')?;
            Some((word, disk.to_owned(), value.trim().parse().ok()?))
        };
        all.extend(text.lines().filter_map(value));
    }
    all
}

/// Bytes read from and written to devices by the group and those below.
pub fn moved(places: &[Place]) -> Option<(u64, u64)> {
    if let Some(text) = setting(places, "io", "io.stat") {
        let sum = |key: &str| {
            let words = text.split_whitespace().filter_map(|w| w.strip_prefix(key)?.strip_prefix('='));
            words.filter_map(|n| n.parse::<u64>().ok()).fold(0, u64::saturating_add)
        };
        return Some((sum("rbytes"), sum("wbytes")));
    }
    let text = setting(places, "blkio", "blkio.throttle.io_service_bytes_recursive")?;
    let sum = |kind: &str| {
        let numbers = text.lines().filter_map(|line| line.split_once(kind)?.1.trim().parse::<u64>().ok());
        numbers.fold(0, u64::saturating_add)
    };
    Some((sum(" Read "), sum(" Write ")))
}
