//! limits: the words of --rlimit (getrlimit(2)).

use anyhow::{Result, anyhow};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};

/// The words of prlimit(1).
#[rustfmt::skip]
const NAMES: [(&str, Resource); 16] = [
    ("as",         Resource::RLIMIT_AS),
    ("core",       Resource::RLIMIT_CORE),
    ("cpu",        Resource::RLIMIT_CPU),
    ("data",       Resource::RLIMIT_DATA),
    ("fsize",      Resource::RLIMIT_FSIZE),
    ("locks",      Resource::RLIMIT_LOCKS),
    ("memlock",    Resource::RLIMIT_MEMLOCK),
    ("msgqueue",   Resource::RLIMIT_MSGQUEUE),
    ("nice",       Resource::RLIMIT_NICE),
    ("nofile",     Resource::RLIMIT_NOFILE),
    ("nproc",      Resource::RLIMIT_NPROC),
    ("rss",        Resource::RLIMIT_RSS),
    ("rtprio",     Resource::RLIMIT_RTPRIO),
    ("rttime",     Resource::RLIMIT_RTTIME),
    ("sigpending", Resource::RLIMIT_SIGPENDING),
    ("stack",      Resource::RLIMIT_STACK),
];

/// One limit, in the resource's own unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub name: &'static str,
    resource: Resource,
    soft: rlim_t,
    hard: rlim_t,
}

impl Limit {
    /// NAME=SOFT:HARD, or NAME=BOTH; a value is a number or "unlimited".
    pub fn parse(word: &str) -> Result<Limit> {
        let wrong = |why: &str| anyhow!("invalid limit '{word}': {why}");
        let (name, values) = word.split_once('=').ok_or_else(|| wrong("NAME=SOFT:HARD is expected"))?;
        let known = NAMES.iter().find(|(known, _)| *known == name);
        let (name, resource) = *known
            .ok_or_else(|| wrong(&format!("the names are {}", NAMES.map(|(name, _)| name).join(" "))))?;
        let value = |text: &str| match text {
            "unlimited" => Ok(RLIM_INFINITY),
            _ if text.starts_with('+') => Err(wrong("a value is a number or 'unlimited'")),
            _ => text.parse().map_err(|_| wrong("a value is a number or 'unlimited'")),
        };
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard) = (value(soft)?, value(hard)?);
        if soft > hard {
            return Err(wrong("the soft limit is above the hard one"));
        }
        Ok(Limit { name, resource, soft, hard })
    }

    /// Raises the hard limit while we may: in a user namespace nobody can.
    pub fn raise(&self) -> nix::Result<()> {
        let (soft, hard) = getrlimit(self.resource)?;
        if self.hard > hard { setrlimit(self.resource, soft, self.hard) } else { Ok(()) }
    }

    /// Sets both; late, so that it is the program that is limited, and not what prepares its world.
    pub fn set(&self) -> nix::Result<()> {
        setrlimit(self.resource, self.soft, self.hard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_is_both_limits() {
        let limit = |word| Limit::parse(word).map(|l| (l.resource, l.soft, l.hard));
        assert_eq!(limit("nofile=64").unwrap(), (Resource::RLIMIT_NOFILE, 64, 64));
        assert_eq!(limit("core=0:unlimited").unwrap(), (Resource::RLIMIT_CORE, 0, RLIM_INFINITY));
    }

    #[test]
    fn wrong_limits_say_why() {
        for (word, why) in [
            ("nofile", "NAME=SOFT:HARD"),
            ("files=3", "nofile"),
            ("nofile=", "number"),
            ("nofile=-1", "number"),
            ("nofile=+1", "number"),
            ("nofile=2:1", "above"),
            ("nofile=1:2:3", "number"),
        ] {
            let said = Limit::parse(word).unwrap_err().to_string();
            assert!(said.contains(why), "{word}: {said}");
        }
    }

    #[test]
    fn fuzz_limits_take_anything() {
        crate::fuzz::rounds(2000, |dice| {
            let _ = Limit::parse(&format!("nofile={}", dice.text("0123456789:unlimited=-+", 30)));
            let _ = Limit::parse(&dice.text("nofile=cor:019", 16));
        });
    }
}
