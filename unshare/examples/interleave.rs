//! interleave: time commands against each other on a machine that others use too (scripts/bench/start).
//!
//! Each round runs every command once, starting with another one each time and turning round every other
//! time, so that load which comes and goes meets all alike. Printed are the median and the minimum; the
//! minimum is what the command costs when nothing disturbs it.

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const HELP: &str = "\
Usage: interleave ROUNDS BASE NAME COMMAND [ARGUMENT...] [+++ NAME COMMAND...]...

Run each command ROUNDS times, interleaved; print NAME, median and minimum in
microseconds, and the ratio of both to those of the command named BASE.
";

struct Entry {
    name: String,
    command: Command,
    times: Vec<Duration>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((rounds, base, mut entries)) = parse(&arguments) else {
        eprint!("{HELP}");
        return ExitCode::from(2);
    };
    // The first round fills caches and is not counted.
    for round in 0..=rounds {
        for at in order(round, entries.len()) {
            match time(&mut entries[at].command) {
                Ok(_) if round == 0 => {}
                Ok(took) => entries[at].times.push(took),
                Err(text) => {
                    eprintln!("interleave: '{}' failed: {text}", entries[at].name);
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    print(&mut entries, &base);
    ExitCode::SUCCESS
}

fn parse(arguments: &[String]) -> Option<(usize, String, Vec<Entry>)> {
    let [rounds, base, rest @ ..] = arguments else { return None };
    let entries: Option<Vec<Entry>> = rest.split(|word| word == "+++").map(entry).collect();
    let rounds = rounds.parse().ok().filter(|n| *n > 0)?;
    Some((rounds, base.clone(), entries?))
}

fn entry(words: &[String]) -> Option<Entry> {
    let [name, program, arguments @ ..] = words else { return None };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Some(Entry { name: name.clone(), command, times: Vec::new() })
}

/// 0 1 2, then 0 2 1, 1 2 0, 1 0 2 and so on: every neighbour and every place for each.
fn order(round: usize, count: usize) -> Vec<usize> {
    let start = round / 2;
    (0..count)
        .map(|step| {
            let step = if round % 2 == 0 { step } else { count - step };
            (start + step) % count
        })
        .collect()
}

fn time(command: &mut Command) -> Result<Duration, String> {
    let start = Instant::now();
    let status = command.status().map_err(|e| e.to_string())?;
    let took = start.elapsed();
    if status.success() { Ok(took) } else { Err(status.to_string()) }
}

fn print(entries: &mut [Entry], base: &str) {
    for entry in entries.iter_mut() {
        entry.times.sort_unstable();
    }
    let figures = |entry: &Entry| {
        let micros = |time: Duration| time.as_nanos() as f64 / 1000.0;
        (micros(entry.times[entry.times.len() / 2]), micros(entry.times[0]))
    };
    let reference = entries.iter().find(|entry| entry.name == base).map(figures);
    let width = entries.iter().map(|entry| entry.name.len()).max().unwrap_or(0).max(20);
    println!("{:width$} {:>10} {:>10} {:>8} {:>8}", "", "median µs", "min µs", "median", "min");
    for entry in entries.iter() {
        let (median, min) = figures(entry);
        print!("{:width$} {median:10.0} {min:10.0}", entry.name);
        match reference {
            Some((of_median, of_min)) => println!(" {:8.2} {:8.2}", median / of_median, min / of_min),
            None => println!(),
        }
    }
}
