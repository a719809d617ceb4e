//! signals: by name, as kill(1) has them, real-time ones too (signal(7)).

use std::ffi::OsString;
use std::str::FromStr;

use anyhow::{Result, anyhow};
use nix::sys::signal::{SigSet, Signal};

use crate::fail::text;
use crate::sys;

/// The number of a signal: any case, with or without SIG, RTMIN+n and RTMAX-n; numbers are refused, as in
/// util-linux.
pub fn parse(word: &str) -> Result<i32> {
    let upper = word.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let name = match name {
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        "POLL" => "IO",
        name => name,
    };
    let found = match name.strip_prefix("RT") {
        Some(rest) => real_time(rest),
        None => Signal::from_str(&format!("SIG{name}")).ok().map(|signal| signal as i32),
    };
    found.ok_or_else(|| anyhow!("unknown signal: {word}"))
}

fn real_time(rest: &str) -> Option<i32> {
    let (first, last) = sys::real_time_signals();
    let offset = |digits: &str| match digits {
        "" => Some(0),
        _ => digits.parse::<i32>().ok(),
    };
    let signal = if let Some(digits) = rest.strip_prefix("MIN") {
        first.checked_add(offset(digits)?)?
    } else {
        last.checked_add(offset(rest.strip_prefix("MAX")?)?)?
    };
    (first..=last).contains(&signal).then_some(signal)
}

/// --kill-child[=SIGNAL]
pub fn or_kill(value: Option<OsString>) -> Result<i32> {
    value.map_or(Ok(Signal::SIGKILL as i32), |word| parse(&text(word)?))
}

/// --forward-signals[=LIST]: names joined by commas, or "all"; TERM and INT without a list.
pub fn to_forward(list: Option<OsString>) -> Result<SigSet> {
    let Some(list) = list else { return Ok(sys::sigset(&[Signal::SIGTERM as i32, Signal::SIGINT as i32])) };
    let list = text(list)?;
    if list == "all" {
        return Ok(all());
    }
    let mut signals = Vec::new();
    for word in list.split(',') {
        let signal = parse(word)?;
        if !all_numbers().any(|one| one == signal) {
            return Err(anyhow!("signal {word} cannot be passed on"));
        }
        signals.push(signal);
    }
    Ok(sys::sigset(&signals))
}

fn all() -> SigSet {
    sys::sigset(&all_numbers().collect::<Vec<_>>())
}

/// Not those that nobody can hold back, that a process causes in itself, that a terminal stops jobs with
/// (they would stop the child alone), or that tell us of the child.
fn all_numbers() -> impl Iterator<Item = i32> {
    use Signal::*;
    const OWN: [Signal; 14] = [
        SIGKILL, SIGSTOP, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP, SIGTSTP, SIGTTIN,
        SIGTTOU, SIGCONT, SIGCHLD,
    ];
    let (first, last) = sys::real_time_signals();
    Signal::iterator().filter(|signal| !OWN.contains(signal)).map(|signal| signal as i32).chain(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_in_any_case_with_and_without_sig() {
        for word in ["term", "SIGTERM", "sigterm", "TERM", "SigTerm"] {
            assert_eq!(parse(word).unwrap(), 15, "{word}");
        }
        assert_eq!(or_kill(None).unwrap(), 9);
        assert_eq!((parse("CLD").unwrap(), parse("SIGIOT").unwrap()), (17, 6)); // the old names
    }

    #[test]
    fn real_time_signals_count_from_both_ends() {
        let (first, last) = sys::real_time_signals();
        for (word, number) in
            [("RTMIN", first), ("sigrtmin+2", first + 2), ("RTMAX", last), ("rtmax-3", last - 3)]
        {
            assert_eq!(parse(word).unwrap(), number, "{word}");
        }
    }

    #[test]
    fn what_is_no_name_is_named() {
        for word in
            ["15", "", "SIG", "RT", "RTMIN+99", "RTMAX+1", "RTMIN-1", "RTMINx", "SIGSIGTERM", "TERM ", "FLY"]
        {
            assert_eq!(parse(word).unwrap_err().to_string(), format!("unknown signal: {word}"));
        }
    }

    #[test]
    fn without_a_list_term_and_int_are_passed_on() {
        let set = to_forward(None).unwrap();
        assert!(
            set.contains(Signal::SIGTERM) && set.contains(Signal::SIGINT) && !set.contains(Signal::SIGHUP)
        );
        let set = to_forward(Some("hup,WINCH".into())).unwrap();
        assert!(
            set.contains(Signal::SIGHUP) && set.contains(Signal::SIGWINCH) && !set.contains(Signal::SIGTERM)
        );
        let set = to_forward(Some("all".into())).unwrap();
        assert!(
            set.contains(Signal::SIGUSR2) && !set.contains(Signal::SIGCHLD) && !set.contains(Signal::SIGTSTP)
        );
        for bad in ["KILL", "CHLD", "hup,,int", ""] {
            assert!(to_forward(Some(bad.into())).is_err(), "{bad}");
        }
    }

    #[test]
    fn fuzz_names_take_anything() {
        crate::fuzz::rounds(2000, |dice| {
            let word = dice.text("sigSIGRTMINMAX+-0123456789kilTERM,\u{df}\u{130}", 14);
            if let Ok(number) = parse(&word) {
                assert!((1..=64).contains(&number), "{word}");
            }
            let _ = to_forward(Some(word.into()));
        });
    }
}
