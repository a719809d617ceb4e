//! fuzz: a generator loop for the parsers: fixed seeds and quick; with FUZZ_SECONDS=N, N seconds of new ones.

use std::time::{Duration, Instant};

/// Numbers that look random (xorshift).
pub struct Dice(u64);

impl Dice {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// A word of at most `longest` characters out of `letters`.
    pub fn text(&mut self, letters: &str, longest: u64) -> String {
        let letters: Vec<char> = letters.chars().collect();
        (0..self.below(longest + 1)).map(|_| letters[self.below(letters.len() as u64) as usize]).collect()
    }
}

/// Runs `round` with a new seed each time; a panic names the seed.
pub fn rounds(quick: u64, mut round: impl FnMut(&mut Dice)) {
    let seconds: Option<u64> = std::env::var("FUZZ_SECONDS").ok().and_then(|n| n.parse().ok());
    let end = seconds.map(|n| Instant::now() + Duration::from_secs(n));
    let mut seed = 1;
    while end.map_or(seed <= quick, |end| Instant::now() < end) {
        struct Name(u64);
        impl Drop for Name {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    eprintln!("the seed was {}", self.0);
                }
            }
        }
        let _name = Name(seed);
        round(&mut Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
        seed += 1;
    }
}
