//! amount: the values behind the words: sizes, rates, counts, processors, lists; and how they are printed.

use anyhow::{Error, Result};
use unshare::fail::{hint, usage};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Amount {
    Max,
    /// Bytes, bytes or operations a second, a count, a weight, or millionths of a processor.
    Exact(u64),
    /// Of the RAM, in thousandths of a percent.
    OfRam(u64),
    /// Processors or memory nodes: "0-3,5", checked.
    List(String),
    /// For a control file named by the user.
    Text(String),
}

pub const MILLION: u64 = 1_000_000;
/// PID_MAX_LIMIT: what pids.max takes at most.
pub const PROCS_MOST: u64 = 4_194_304;

fn bad(text: &str, what: &str) -> Error {
    usage(format!("'{text}': {what}"))
}

/// 100000000, 100M, 100MiB, 1.5G, 50%.
pub fn size(text: &str, value: &str) -> Result<Amount> {
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

/// Bytes a second.
pub fn rate(text: &str, value: &str) -> Result<Amount> {
    match size(text, value)? {
        Amount::OfRam(_) => Err(bad(text, "a rate is so many bytes a second; 10M, or max")),
        amount => Ok(amount),
    }
}

/// A whole number from `least` to `most`.
pub fn count(text: &str, value: &str, least: u64, most: u64) -> Result<Amount> {
    match value.parse::<u64>() {
        Ok(count) if (least..=most).contains(&count) && !value.starts_with('+') => Ok(Amount::Exact(count)),
        _ => Err(bad(text, &format!("not a number from {least} to {most}"))),
    }
}

/// "0-3,5": processors or memory nodes, as cpusets(7) has them under "List format".
pub fn list(text: &str, value: &str) -> Result<Amount> {
    match numbers(value) {
        Some(numbers) if !numbers.is_empty() => Ok(Amount::List(value.to_owned())),
        _ => Err(bad(text, "not a list such as 0-3,5, nor max")),
    }
}

/// The numbers of a list, in order and once each; an empty list has none.
pub fn numbers(list: &str) -> Option<Vec<i32>> {
    let mut all = Vec::new();
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| plain).map(i32::from)
    };
    for part in list.trim().split(',').filter(|_| !list.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return None;
        }
        all.extend(first..=last);
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
}

/// 1.5 or 150%.
pub fn processors(text: &str, value: &str) -> Result<Amount> {
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
pub fn decimal(text: &str) -> Option<(u128, u32)> {
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

pub fn scaled(number: u128, scale: u32) -> Option<u64> {
    u64::try_from(number / 10u128.pow(scale)).ok()
}

/// 99999744 is "95.4M"; as short as people write it.
pub fn human(bytes: u64) -> String {
    let mut text = String::new();
    for (shift, unit) in [(0, ""), (10, "K"), (20, "M"), (30, "G"), (40, "T")] {
        let tenths = (u128::from(bytes) * 10 + ((1 << shift) >> 1)) >> shift;
        text = format!("{}{unit}", with_point(tenths as u64, 1));
        if tenths < 10_240 {
            break;
        }
    }
    text
}

/// 1500000 millionths are "1.5".
pub fn human_cpu(millionths: u64) -> String {
    with_point((millionths + 5000) / 10_000, 2)
}

/// 150 with 2 places is "1.5". Floats would do it too; they make the program a tenth larger.
fn with_point(number: u64, places: usize) -> String {
    let one = 10u64.pow(places as u32);
    let text = format!("{}.{:0places$}", number / one, number % one);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_people_write_them() {
        assert_eq!(human(99_999_744), "95.4M");
        assert_eq!(human(100 << 20), "100M");
        assert_eq!(human((1 << 20) - 1), "1M");
        assert_eq!(human(512), "512");
        assert_eq!((human_cpu(1_500_000), human_cpu(2_000_000)), ("1.5".into(), "2".into()));
    }

    #[test]
    fn a_list_is_the_numbers_in_it() {
        assert_eq!(numbers("0-2,5,1"), Some(vec![0, 1, 2, 5]));
        assert_eq!(numbers("\n"), Some(vec![]));
        for text in ["1-", "-1", "2-1", "1,,2", "a", "1 2", "+1", "70000", ",", "0-1-2"] {
            assert_eq!(numbers(text), None, "{text}");
        }
    }

    #[test]
    fn any_text_is_read_or_refused_and_never_a_panic() {
        crate::fuzz::texts("0123456789.-,%KMGTkmiB maxé+eE_", |text| {
            let _ = (size(text, text), rate(text, text), count(text, text, 0, 9), processors(text, text));
            if let Ok(Amount::List(list)) = list(text, text) {
                assert!(numbers(&list).is_some_and(|n| !n.is_empty()));
            }
        });
    }
}
