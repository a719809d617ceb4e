//! show: limits, use, peaks and members of a group, a line a word; --json has the exact numbers.

use anyhow::{Result, anyhow};
use serde_json::{Map, Value, json};
use unshare::fail;

use crate::cli::{Group, Parent};
use crate::counters::{self, Cpu, Memory, Procs, Swap};
use crate::group;
use crate::layout::Layout;
use crate::words::{MILLION, human, human_cpu};

pub fn show(layout: &Layout, parent: Option<&Parent>, name: &Group, as_json: bool) -> Result<()> {
    let places = group::existing(layout, parent, name)?;
    if places.is_empty() {
        return Err(anyhow!("there is no group '{}'", name.0));
    }
    let facts = Facts {
        memory: counters::memory(&places),
        procs: counters::procs(&places),
        cpu: counters::cpu(&places),
        pids: group::all_members(&places),
    };
    if as_json {
        let dirs: Vec<_> = places.iter().map(|p| p.path.display().to_string()).collect();
        return fail::print(&format!("{:#}\n", facts.json(&name.0, &dirs)));
    }
    fail::print(&facts.text())
}

struct Facts {
    memory: Option<Memory>,
    procs: Option<Procs>,
    cpu: Option<Cpu>,
    pids: Vec<i32>,
}

impl Facts {
    /// The first field of a line is a word that cgset takes.
    fn text(&self) -> String {
        let mut text = String::new();
        if let Some(m) = &self.memory {
            let used = size(m.used);
            text += &format!(
                "mem={} used={used} peak={} oom_kills={}\n",
                max(m.limit, human),
                size(m.peak),
                m.oom_kills
            );
            if let Some(Swap { limit, used }) = m.swap {
                text += &format!("swap={} used={}\n", max(limit, human), size(used));
            }
        }
        if let Some(p) = &self.procs {
            let [used, peak, refused] = [p.used, p.peak, p.refused].map(|n| unknown(n, |n| n.to_string()));
            let limit = max(p.limit, |n| n.to_string());
            text += &format!("procs={limit} used={used} peak={peak} refused={refused}\n");
        }
        if let Some(c) = &self.cpu {
            let [used, throttled] = [c.used_usec, c.throttled_usec].map(|n| unknown(n, seconds));
            text += &format!("cpu={} used={used} throttled={throttled}\n", max(c.limit, human_cpu));
        }
        let pids: Vec<String> = self.pids.iter().map(i32::to_string).collect();
        text + &format!("pids={}\n", pids.join(","))
    }

    fn json(&self, name: &str, dirs: &[String]) -> Value {
        let mut all = Map::new();
        all.insert("group".into(), json!(name));
        all.insert("directories".into(), json!(dirs));
        if let Some(m) = &self.memory {
            let Memory { limit, used, peak, oom_kills, swap } = m;
            all.insert(
                "mem".into(),
                json!({"limit": limit, "used": used, "peak": peak, "oom_kills": oom_kills}),
            );
            if let Some(Swap { limit, used }) = swap {
                all.insert("swap".into(), json!({"limit": limit, "used": used}));
            }
        }
        if let Some(Procs { limit, used, peak, refused }) = &self.procs {
            all.insert(
                "procs".into(),
                json!({"limit": limit, "used": used, "peak": peak, "refused": refused}),
            );
        }
        if let Some(Cpu { limit, used_usec, throttled_usec }) = &self.cpu {
            let limit = limit.map(|parts| parts as f64 / MILLION as f64);
            all.insert(
                "cpu".into(),
                json!({"limit": limit, "used_usec": used_usec, "throttled_usec": throttled_usec}),
            );
        }
        all.insert("pids".into(), json!(self.pids));
        Value::Object(all)
    }
}

fn max(limit: Option<u64>, print: impl Fn(u64) -> String) -> String {
    limit.map_or("max".into(), print)
}

fn unknown(number: Option<u64>, print: impl Fn(u64) -> String) -> String {
    number.map_or("?".into(), print)
}

fn size(bytes: Option<u64>) -> String {
    unknown(bytes, human)
}

fn seconds(usec: u64) -> String {
    format!("{:.3}s", usec as f64 / 1e6)
}
