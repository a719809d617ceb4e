//! words: mem= swap= procs= cpu= and their values; one language for v1 and v2.

use anyhow::{Error, Result};
use unshare::fail::hint;

use crate::cli::usage;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knob {
    Mem,
    Swap,
    Procs,
    Cpu,
}

impl Knob {
    /// The word, and the controller that it needs.
    pub const TABLE: [(Knob, &'static str, &'static str); 4] = [
        (Knob::Mem, "mem", "memory"),
        (Knob::Swap, "swap", "memory"),
        (Knob::Procs, "procs", "pids"),
        (Knob::Cpu, "cpu", "cpu"),
    ];

    pub fn word(self) -> &'static str {
        self.row().1
    }

    pub fn controller(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> &'static (Knob, &'static str, &'static str) {
        Knob::TABLE.iter().find(|row| row.0 == self).expect("every knob has a row")
    }
}

/// Bytes, a count, or millionths of a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    Max,
    Exact(u64),
    /// Of the RAM, in thousandths of a percent.
    OfRam(u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    pub knob: Knob,
    pub amount: Amount,
    /// Skip it where the host has no such knob.
    pub optional: bool,
}

/// Below this no program starts; a slip of the finger ("mem=100") more likely than a wish.
const TOO_SMALL: u64 = 64 << 10;
/// PID_MAX_LIMIT: what pids.max takes at most.
const PROCS_MOST: u64 = 4_194_304;
pub const MILLION: u64 = 1_000_000;

pub fn parse_all(words: &[String], force: bool) -> Result<Vec<Word>> {
    let mut all: Vec<Word> = Vec::new();
    for text in words {
        let word = parse(text, force)?;
        if all.iter().any(|other| other.knob == word.knob) {
            return Err(usage(format!("'{}=' is given twice", word.knob.word())));
        }
        all.push(word);
    }
    Ok(all)
}

fn parse(text: &str, force: bool) -> Result<Word> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(hint(usage(format!("'{text}' is not a word=value")), "a command comes after '--'"));
    };
    let Some(&(knob, ..)) = Knob::TABLE.iter().find(|row| row.1 == name) else {
        return Err(hint(usage(format!("unknown word '{name}'")), "the words are mem= swap= procs= cpu="));
    };
    let (value, optional) = match value.strip_suffix('?') {
        Some(value) => (value, true),
        None => (value, false),
    };
    if value.is_empty() {
        // The kernel takes an empty write to memory.max as 0: all in the group would die.
        let error = usage(format!("'{text}' has no value"));
        return Err(hint(error, format!("an unset variable? {name}=max lifts the limit")));
    }
    let amount = match (value, knob) {
        ("max" | "none" | "-1", _) => Amount::Max,
        (_, Knob::Mem | Knob::Swap) => size(text, value)?,
        (_, Knob::Procs) => count(text, value)?,
        (_, Knob::Cpu) => processors(text, value)?,
    };
    if !force {
        refuse_deadly(text, knob, amount)?;
    }
    Ok(Word { knob, amount, optional })
}

fn refuse_deadly(text: &str, knob: Knob, amount: Amount) -> Result<()> {
    let deadly = match (knob, amount) {
        (Knob::Mem, Amount::Exact(bytes)) => bytes < TOO_SMALL,
        (Knob::Mem, Amount::OfRam(part)) => part == 0,
        (Knob::Procs, Amount::Exact(count)) => count == 0,
        _ => false,
    };
    if deadly {
        let error = usage(format!("'{text}' is a limit that nothing can live with"));
        return Err(hint(
            error,
            "if it is meant: --force; sizes without a unit are bytes, mem=100M are mebibytes",
        ));
    }
    Ok(())
}

fn bad(text: &str, what: &str) -> Error {
    usage(format!("'{text}': {what}"))
}

/// 100000000, 100M, 100MiB, 1.5G, 50%.
fn size(text: &str, value: &str) -> Result<Amount> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == '%');
    let unit = &value[digits.len()..];
    let Some((number, scale)) = decimal(digits) else {
        return Err(bad(text, "not a size; 100M, 1.5G, 50%, a number of bytes, or max"));
    };
    if unit == "%" {
        return Ok(Amount::OfRam(scaled(number * 1000, scale).ok_or_else(|| bad(text, "too large"))?));
    }
    let power = match unit {
        "" if scale == 0 => 0,
        "" => return Err(bad(text, "a fraction of a byte")),
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        "T" | "t" | "TiB" => 40,
        _ => return Err(wrong_unit(text, digits, unit)),
    };
    let bytes = scaled(number << power, scale).filter(|bytes| *bytes < i64::MAX as u64);
    Ok(Amount::Exact(bytes.ok_or_else(|| bad(text, "more than any machine has"))?))
}

/// MB is 10^6 to some and 2^20 to others; the kernel knows neither, systemd refuses it too.
fn wrong_unit(text: &str, digits: &str, unit: &str) -> Error {
    let error = bad(text, &format!("'{unit}' is not a unit of size"));
    match unit.to_ascii_uppercase().as_str() {
        "KB" | "MB" | "GB" | "TB" => {
            let letter = &unit[..1].to_ascii_uppercase();
            hint(
                error,
                format!(
                    "write {digits}{letter} or {digits}{letter}iB (powers of 1024), or the bytes in full"
                ),
            )
        }
        _ => hint(error, "the units are K M G T, or KiB MiB GiB TiB, all powers of 1024"),
    }
}

fn count(text: &str, value: &str) -> Result<Amount> {
    match value.parse::<u64>() {
        Ok(count) if count <= PROCS_MOST && !value.starts_with('+') => Ok(Amount::Exact(count)),
        _ => Err(bad(text, "not a number from 1 to 4194304, nor max")),
    }
}

/// 1.5 or 150%.
fn processors(text: &str, value: &str) -> Result<Amount> {
    let (digits, divisor) = match value.strip_suffix('%') {
        Some(percent) => (percent, 100),
        None => (value, 1),
    };
    let parts =
        decimal(digits).and_then(|(number, scale)| scaled(number * u128::from(MILLION) / divisor, scale));
    match parts {
        // The kernel's least is 1 ms in a period of 100 ms.
        Some(parts) if (MILLION / 100..MILLION * 100_000).contains(&parts) => Ok(Amount::Exact(parts)),
        Some(_) => Err(bad(text, "out of range: from 0.01 processors up")),
        None => Err(bad(text, "not a number of processors; 1.5, 150%, or max")),
    }
}

/// "1.50" is (150, 2); exact, unlike a float.
fn decimal(text: &str) -> Option<(u128, u32)> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || (part.is_empty() && text.contains('.')) || !all_digits(whole) || !all_digits(part)
    {
        return None;
    }
    if whole.len() + part.len() > 20 {
        return None;
    }
    Some((format!("{whole}{part}").parse().ok()?, part.len() as u32))
}

fn scaled(number: u128, scale: u32) -> Option<u64> {
    u64::try_from(number / 10u128.pow(scale)).ok()
}

/// 99999744 is "95.4M"; as short as people write it.
pub fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "";
    for next in ["K", "M", "G", "T"] {
        // 1023.95 would print as 1024.0 of the smaller unit.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    let text = format!("{value:.1}");
    format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// 1500000 millionths are "1.5".
pub fn human_cpu(millionths: u64) -> String {
    let text = format!("{:.2}", millionths as f64 / MILLION as f64);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(text: &str) -> Result<Amount> {
        parse(text, false).map(|word| word.amount)
    }

    #[test]
    fn sizes_are_exact() {
        for (text, bytes) in [
            ("mem=100000000", 100_000_000),
            ("mem=100M", 100 << 20),
            ("mem=100MiB", 100 << 20),
            ("mem=100m", 100 << 20),
            ("mem=1.5G", 3 << 29),
            ("mem=2T", 2 << 40),
            ("mem=64K", 64 << 10),
            ("swap=0", 0),
        ] {
            assert_eq!(amount(text).unwrap(), Amount::Exact(bytes), "{text}");
        }
        assert_eq!(amount("mem=12.5%").unwrap(), Amount::OfRam(12_500));
        for text in ["mem=max", "mem=none", "mem=-1", "procs=-1", "cpu=max", "swap=none"] {
            assert_eq!(amount(text).unwrap(), Amount::Max, "{text}");
        }
    }

    #[test]
    fn processors_are_millionths() {
        assert_eq!(amount("cpu=1.5").unwrap(), Amount::Exact(1_500_000));
        assert_eq!(amount("cpu=150%").unwrap(), Amount::Exact(1_500_000));
        assert_eq!(amount("cpu=0.01").unwrap(), Amount::Exact(10_000));
        assert_eq!(amount("procs=50").unwrap(), Amount::Exact(50));
    }

    #[test]
    fn what_the_kernel_would_take_wrongly_is_refused() {
        for text in [
            "mem=",
            "mem=?",
            "mem=100MB",
            "mem=1.5",
            "mem=100 M",
            "mem=0x1000",
            "mem=123",
            "mem=0",
            "mem=1..5G",
            "mem=-5",
            "mem=.5G",
            "mem=1.G",
            "mem=9999999T",
            "mem=M",
            "mem=0%",
            "procs=0",
            "procs=1K",
            "procs=4194305",
            "procs=1.5",
            "procs=+5",
            "cpu=0",
            "cpu=0.001",
            "cpu=1.5M",
            "cpu=-2",
            "memory=1M",
            "mem",
            "swap=5MB",
        ] {
            assert!(amount(text).is_err(), "{text}");
        }
        assert_eq!(parse("mem=123", true).unwrap().amount, Amount::Exact(123));
    }

    #[test]
    fn a_question_mark_makes_a_word_optional() {
        let word = parse("swap=0?", false).unwrap();
        assert_eq!((word.knob, word.amount, word.optional), (Knob::Swap, Amount::Exact(0), true));
    }

    #[test]
    fn a_word_given_twice_is_a_mistake() {
        assert!(parse_all(&["mem=1M".into(), "mem=2M".into()], false).is_err());
    }

    #[test]
    fn numbers_print_as_people_write_them() {
        assert_eq!(human(99_999_744), "95.4M");
        assert_eq!(human(100 << 20), "100M");
        assert_eq!(human((1 << 20) - 1), "1M");
        assert_eq!(human(512), "512");
        assert_eq!((human_cpu(1_500_000), human_cpu(2_000_000)), ("1.5".into(), "2".into()));
    }
}
