//! show: limits, use, peaks and members of a group, a line a word; --json has the exact numbers.

use anyhow::Result;
use serde_json::{Map, Value, json};
use unshare::fail;

use crate::amount::{MILLION, human, human_cpu};
use crate::counters::{self, Cpu, Memory, Procs, Swap};
use crate::files;
use crate::freeze;
use crate::group::{self, Place};
use crate::name::Group;

pub fn show(places: &[Place], name: &Group, as_json: bool) -> Result<()> {
    let facts = Facts {
        memory: counters::memory(places),
        procs: counters::procs(places),
        cpu: counters::cpu(places),
        lesser: lesser(places),
        pids: group::all_members(places),
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
    lesser: Vec<Setting>,
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
        for Setting { word, text: value, .. } in &self.lesser {
            text += &format!("{word}={value}\n");
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
        if let Some(Cpu { limit, weight, used_usec, throttled_usec }) = &self.cpu {
            let limit = limit.map(|parts| parts as f64 / MILLION as f64);
            all.insert(
                "cpu".into(),
                json!({"limit": limit, "weight": weight, "used_usec": used_usec, "throttled_usec": throttled_usec}),
            );
        }
        for Setting { word, exact, .. } in &self.lesser {
            match exact {
                // A word for each device: a list.
                Value::Object(_) => match all.entry(*word).or_insert_with(|| json!([])) {
                    Value::Array(list) => list.push(exact.clone()),
                    other => *other = exact.clone(),
                },
                exact => drop(all.insert((*word).into(), exact.clone())),
            }
        }
        all.insert("pids".into(), json!(self.pids));
        Value::Object(all)
    }
}

/// A word that differs from what a new group has.
struct Setting {
    word: &'static str,
    text: String,
    exact: Value,
}

fn lesser(places: &[Place]) -> Vec<Setting> {
    let mut all: Vec<Setting> = Vec::new();
    let setting = |controller, file| counters::setting(places, controller, file);
    for (word, file, usual) in
        [("high", "memory.high", "max"), ("low", "memory.low", "0"), ("min", "memory.min", "0")]
    {
        let Some(text) = setting("memory", file).filter(|text| text != usual) else { continue };
        let bytes = files::limit(&text);
        all.push(Setting { word, text: bytes.map_or(text, human), exact: json!(bytes) });
    }
    let weight = counters::cpu(places).and_then(|c| c.weight).map(|weight| weight.to_string());
    for (word, text, usual) in [
        ("swappiness", setting("memory", "memory.swappiness"), "60"),
        ("oomgroup", setting("memory", "memory.oom.group"), "0"),
        ("weight", weight, "100"),
        ("ioweight", counters::io_weight(places), "100"),
        ("cpus", setting("cpuset", "cpuset.cpus"), ""),
        ("mems", setting("cpuset", "cpuset.mems"), ""),
        ("frozen", freeze::frozen(places).then(|| "1".into()), ""),
    ] {
        let Some(text) = text.filter(|text| text != usual) else { continue };
        let number = text.parse::<u64>().ok().filter(|_| !matches!(word, "cpus" | "mems"));
        let exact = number.map_or(json!(text), |number| json!(number));
        all.push(Setting { word, text, exact });
    }
    for (word, device, limit) in counters::devices(places) {
        let short = if word.ends_with("iops") { limit.to_string() } else { human(limit) };
        let exact = json!({"device": device, "limit": limit});
        all.push(Setting { word, text: format!("{device}:{short}"), exact });
    }
    all
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
    format!("{}.{:03}s", usec / MILLION, usec / 1000 % 1000)
}
