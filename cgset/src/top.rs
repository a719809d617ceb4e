//! top: what groups use, measured over a time: a screen on a terminal, records elsewhere.

use std::collections::HashMap;
use std::io::{IsTerminal, stdout};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::unistd::{SysconfVar, sysconf};
use serde_json::{Value, json};
use unshare::fail;

use crate::amount::human;
use crate::counters;
use crate::files;
use crate::layout::Layout;
use crate::list::{Node, cut};
use crate::name::{Group, Parent};
use crate::request::Options;
use crate::sys;

/// In microseconds.
const SECOND: u128 = 1_000_000;

/// Counters at one moment.
struct Sample {
    at: Instant,
    groups: HashMap<String, Counts>,
}

struct Counts {
    procs: u64,
    memory: Option<u64>,
    cpu_usec: Option<u64>,
    moved: Option<(u64, u64)>,
}

/// Of one group, over the time between two samples.
struct Record {
    group: String,
    procs: u64,
    /// 1000 is one processor.
    cpu: Option<u64>,
    memory: Option<u64>,
    /// Bytes a second.
    read: Option<u64>,
    write: Option<u64>,
}

pub fn top(layout: &Layout, parent: &Parent, name: Option<&Group>, options: &Options) -> Result<()> {
    let live = stdout().is_terminal();
    let delay = options.delay.unwrap_or(Duration::from_secs(1));
    let most = options.iterations.unwrap_or(if live { u64::MAX } else { 1 });
    let mut before = sample(&Node::read(layout, parent, name)?);
    for round in 0..most {
        thread::sleep(delay);
        let now = sample(&Node::read(layout, parent, name)?);
        let records = compare(&before, &now);
        fail::print(&match (options.json, live) {
            (true, _) => format!("{}\n", Value::Array(records.iter().map(Record::json).collect())),
            (false, true) => screen(&records),
            (false, false) => plain(&records, round > 0),
        })?;
        before = now;
    }
    Ok(())
}

fn sample(node: &Node) -> Sample {
    let mut groups = HashMap::new();
    node.each(&mut |node| {
        let memory = counters::memory(&node.places).and_then(|memory| memory.used);
        let cpu_usec = counters::cpu_time(&node.places).or_else(|| time_of_processes(node));
        let moved = counters::moved(&node.places);
        let counts = Counts { procs: count(node), memory, cpu_usec, moved };
        groups.insert(node.name.clone(), counts);
    });
    Sample { at: Instant::now(), groups }
}

/// Processes, its own and those below; threads are not counted.
fn count(node: &Node) -> u64 {
    let mut all = 0;
    node.each(&mut |node| all += node.pids.len() as u64);
    all
}

/// v1 without cpuacct for the group: the time of those that run in it now, from fields 14 and 15 of
/// proc_pid_stat(5).
fn time_of_processes(node: &Node) -> Option<u64> {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().filter(|ticks| *ticks > 0)? as u64;
    let mut usec = 0;
    node.each(&mut |node| {
        for pid in &node.pids {
            let stat = files::read(Path::new(&format!("/proc/{pid}/stat"))).unwrap_or_default();
            let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').skip(11).take(2);
            let used: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
            usec += used * 1_000_000 / ticks;
        }
    });
    Some(usec)
}

/// The busiest first.
fn compare(before: &Sample, now: &Sample) -> Vec<Record> {
    let micros = (now.at - before.at).as_micros().max(1);
    let rate = |new: u64, old: u64, of: u128| (u128::from(new.saturating_sub(old)) * of / micros) as u64;
    let mut records = Vec::new();
    for (name, new) in &now.groups {
        let old = before.groups.get(name);
        // A counter starts with the group.
        let cpu = new.cpu_usec.map(|usec| {
            let old = old.and_then(|old| old.cpu_usec).unwrap_or(0);
            rate(usec, old, 1000)
        });
        let old = old.and_then(|old| old.moved).unwrap_or((0, 0));
        let (read, write) =
            (new.moved.map(|m| rate(m.0, old.0, SECOND)), new.moved.map(|m| rate(m.1, old.1, SECOND)));
        let (procs, memory) = (new.procs, new.memory);
        records.push(Record { group: name.clone(), procs, cpu, memory, read, write });
    }
    let busy = |record: &Record| (record.cpu, record.memory);
    records.sort_unstable_by(|a, b| busy(b).cmp(&busy(a)).then_with(|| a.group.cmp(&b.group)));
    records
}

impl Record {
    fn json(&self) -> Value {
        let cpu = self.cpu.map(|tenths| tenths as f64 / 10.0);
        json!({"group": self.group, "procs": self.procs, "cpu_percent": cpu, "mem": self.memory,
               "read_bps": self.read, "write_bps": self.write})
    }

    /// CPU, memory, read, write.
    fn columns(&self, unknown: &str) -> [String; 4] {
        let size = |bytes: Option<u64>| bytes.map_or(unknown.to_owned(), human);
        let cpu = self.cpu.map_or(unknown.to_owned(), |cpu| format!("{}.{}", cpu / 10, cpu % 10));
        [cpu, size(self.memory), size(self.read), size(self.write)]
    }
}

/// The name comes last, as it may hold spaces.
fn plain(records: &[Record], again: bool) -> String {
    let mut text = String::from(if again { "\n" } else { "" });
    for record in records {
        let [cpu, memory, read, write] = record.columns("?");
        text += &format!(
            "procs={} cpu={cpu}% mem={memory} read={read} write={write} group={}\n",
            record.procs,
            record.group.escape_debug()
        );
    }
    text
}

fn screen(records: &[Record]) -> String {
    let (rows, columns) = sys::window(stdout()).unwrap_or((24, 80));
    let width = columns.saturating_sub(46).clamp(16, 60);
    let head = format!(
        "{:width$} {:>6} {:>7} {:>9} {:>9} {:>9}",
        "GROUP", "PROCS", "%CPU", "MEMORY", "READ/s", "WRITE/s"
    );
    let mut lines = vec![cut(&head, columns)];
    for record in records.iter().take(rows.saturating_sub(2)) {
        let [cpu, memory, read, write] = record.columns("-");
        let name = cut(&record.group.escape_debug().to_string(), width);
        let line = format!("{name:width$} {:>6} {cpu:>7} {memory:>9} {read:>9} {write:>9}", record.procs);
        lines.push(cut(&line, columns));
    }
    // Home, each line cleared to its end, and what is left below of the last screen.
    format!("\x1b[H{}\x1b[K\n\x1b[J", lines.join("\x1b[K\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_over_the_time_between_and_the_busiest_comes_first() {
        let start = Instant::now();
        let counts = |cpu, moved| Counts { procs: 1, memory: Some(5), cpu_usec: cpu, moved };
        let sample = |seconds, groups: [(&str, Counts); 2]| Sample {
            at: start + Duration::from_secs(seconds),
            groups: groups.into_iter().map(|(name, counts)| (name.to_owned(), counts)).collect(),
        };
        let before = sample(0, [("a", counts(None, None)), ("b b", counts(Some(0), Some((100, 0))))]);
        let now = sample(2, [("a", counts(None, None)), ("b b", counts(Some(3_000_000), Some((2148, 0))))]);
        let want = "procs=1 cpu=150.0% mem=5 read=1K write=0 group=b b\n\
                    procs=1 cpu=?% mem=5 read=? write=? group=a\n";
        assert_eq!(plain(&compare(&before, &now), false), want);
    }
}
