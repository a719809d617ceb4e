//! fuzz: made-up texts for the parsers; $FUZZ_SECONDS makes a run of it longer than the usual half second.

use std::time::{Duration, Instant};

/// Calls `check` with texts made of the signs in `signs`.
pub fn texts(signs: &str, check: impl FnMut(&str)) {
    let signs: Vec<String> = signs.chars().map(String::from).collect();
    let pieces: Vec<&str> = signs.iter().map(String::as_str).collect();
    mixed(&pieces, 24, check);
}

/// Calls `check` with up to `most` of `pieces` in a row, over and over.
pub fn mixed(pieces: &[&str], most: u64, mut check: impl FnMut(&str)) {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse::<u64>().ok());
    let time = seconds.map_or(Duration::from_millis(100), Duration::from_secs);
    let (start, mut seed) = (Instant::now(), seed());
    println!("seed {seed}");
    while start.elapsed() < time {
        let mut text = String::new();
        for _ in 0..next(&mut seed) % (most + 1) {
            text += pieces[(next(&mut seed) % pieces.len() as u64) as usize];
        }
        check(&text);
    }
}

fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |since| since.as_nanos() as u64) | 1
}

/// Marsaglia's xorshift.
fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed >> 8
}
