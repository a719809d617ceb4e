//! rate: how many bits a second pass, by the token bucket of tc-tbf(8) on both ends of a link: what leaves
//! the outer end goes to the ship, what leaves the inner one comes from it. A ship that has CAP_NET_ADMIN
//! over its own network can take the second away.

use std::fmt;

use anyhow::{Result, bail};
use nix::errno::Errno;

use crate::netlink::{Attributes, Message, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Socket, errno, u32_at};

// linux/rtnetlink.h, linux/pkt_sched.h
const RTM_NEWQDISC: u16 = 36;
const RTM_GETQDISC: u16 = 38;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TC_LINKLAYER_ETHERNET: u8 = 1;

const UNITS: [(&str, u64); 4] = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000), ("bit", 1)];

/// Bits a second, as tc(8) counts them: a kilobit is 1000 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(u64);

impl Rate {
    pub fn parse(word: &str) -> Result<Rate> {
        let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = UNITS.iter().find(|(unit, _)| *unit == &word[digits.len()..]);
        let number = digits.parse::<u64>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
        match (number, unit) {
            (Some(number), Some((_, unit))) => match number.checked_mul(*unit) {
                // Below, one packet would take seconds; above, there is nothing to be limited.
                Some(bits) if (8_000..=1_000_000_000_000).contains(&bits) && bits % 8 == 0 => Ok(Rate(bits)),
                _ => bail!("rate '{word}' is not 8kbit to 1000gbit"),
            },
            _ => bail!("rate '{word}' is not a number with bit, kbit, mbit or gbit behind it"),
        }
    }

    fn bytes(self) -> u64 {
        self.0 / 8
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, size) = UNITS.iter().find(|(_, size)| self.0 % size == 0).expect("one divides all");
        write!(f, "{}{unit}", self.0 / size)
    }
}

/// struct tcmsg.
fn tcmsg(index: u32, parent: u32) -> [u8; 20] {
    let mut fixed = [0; 20];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[12..16].copy_from_slice(&parent.to_ne_bytes());
    fixed
}

/// A bucket of 5 ms, but one large segment at least, and a queue of 50 ms behind it.
pub fn limit(index: u32, rate: Rate) -> Message {
    let burst = (rate.bytes() / 200).max(64 * 1024).min(u64::from(u32::MAX)) as u32;
    let queue = (rate.bytes() / 20 + u64::from(burst)).min(u64::from(u32::MAX)) as u32;
    // Before 3.16 the kernel reads the bucket from here, in units of 64 ns.
    let ticks = (u64::from(burst) * 1_000_000_000 / rate.bytes() / 64).min(u64::from(u32::MAX)) as u32;
    let mut parameters = vec![0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    parameters.extend((rate.bytes().min(u64::from(u32::MAX)) as u32).to_ne_bytes());
    parameters.extend([0; 12]); // no peak rate
    parameters.extend(queue.to_ne_bytes());
    parameters.extend(ticks.to_ne_bytes());
    parameters.extend([0; 4]);
    Message::new(
        format!("limit to {rate}"),
        RTM_NEWQDISC,
        NLM_F_CREATE | NLM_F_EXCL,
        &tcmsg(index, TC_H_ROOT),
    )
    .put_str(TCA_KIND, "tbf")
    .nest(TCA_OPTIONS, |message| {
        let message = message.put(TCA_TBF_PARMS, &parameters).put_u32(TCA_TBF_BURST, burst);
        if rate.bytes() > u64::from(u32::MAX) {
            message.put(TCA_TBF_RATE64, &rate.bytes().to_ne_bytes())
        } else {
            message
        }
    })
}

/// The limit of an interface, if it has one.
pub fn of(socket: &mut Socket, index: u32) -> Result<Option<Rate>> {
    let mut rate = None;
    let message = Message::new("list the queues", RTM_GETQDISC, NLM_F_DUMP, &tcmsg(index, 0));
    socket.dump(message, |payload| {
        if u32_at(payload, 4) == Some(index) {
            rate = rate.or_else(|| parse(payload.get(20..)?));
        }
    })?;
    Ok(rate)
}

pub fn parse(attributes: &[u8]) -> Option<Rate> {
    let find = |wanted| Attributes(attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if find(TCA_KIND)? != b"tbf\0" {
        return None;
    }
    let options = find(TCA_OPTIONS)?;
    let option = |wanted| Attributes(options).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let wide = option(TCA_TBF_RATE64).and_then(|value| value.try_into().ok().map(u64::from_ne_bytes));
    let bytes = wide.or_else(|| u32_at(option(TCA_TBF_PARMS)?, 8).map(u64::from))?;
    bytes.checked_mul(8).map(Rate)
}

/// A kernel without the token bucket says so with the number for a missing file.
pub fn explain(error: anyhow::Error) -> anyhow::Error {
    match errno(&error) {
        Some(Errno::ENOENT) => error.context("this kernel has no token bucket (sch_tbf)"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_tc_reads_them_and_written_back() {
        for word in ["80mbit", "8kbit", "1gbit", "1500kbit", "9600bit", "1000gbit"] {
            assert_eq!(Rate::parse(word).unwrap().to_string(), word);
        }
        assert_eq!(Rate::parse("1000kbit").unwrap().to_string(), "1mbit");
        for bad in [
            "",
            "mbit",
            "80",
            "80mb",
            "80Mbit",
            "-1mbit",
            "+1mbit",
            "1.5mbit",
            "7kbit",
            "1001gbit",
            "99999999999999999999gbit",
        ] {
            assert!(Rate::parse(bad).is_err(), "{bad}");
        }
    }
}
