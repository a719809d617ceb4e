//! counters: limits, use and peaks of a group, under the same names whatever the tree.

use std::path::{Path, PathBuf};

use crate::files;
use crate::group::{self, Place};
use crate::plan::parse_limit;
use crate::words::MILLION;

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
        parse_limit(&self.text(file)?)
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
            .map(|limit| Swap { limit: parse_limit(&limit), used: dir.number("memory.swap.current") });
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
        limit: parse_limit(&both).map(|both| both.saturating_sub(limit.unwrap_or(both))),
        used: dir.keyed("memory.stat", "total_swap").or_else(|| dir.keyed("memory.stat", "swap")),
    });
    let peak = dir.number("memory.max_usage_in_bytes");
    Some(Memory { limit, used, peak, oom_kills: oom_kills(places), swap })
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
            used_usec: dir.keyed("cpu.stat", "usage_usec"),
            throttled_usec: dir.keyed("cpu.stat", "throttled_usec"),
        });
    }
    let (_, dir) = home(places, "cpu", "cpu.cfs_quota_us")?;
    Some(Cpu {
        limit: share(dir.number("cpu.cfs_quota_us"), dir.number("cpu.cfs_period_us")),
        // Only where cpuacct is mounted together with cpu.
        used_usec: dir.number("cpuacct.usage").map(|nsec| nsec / 1000),
        throttled_usec: dir.keyed("cpu.stat", "throttled_time").map(|nsec| nsec / 1000),
    })
}

fn share(quota: Option<u64>, period: Option<u64>) -> Option<u64> {
    quota?.checked_mul(MILLION)?.checked_div(period?)
}
