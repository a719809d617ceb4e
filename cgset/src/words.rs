//! words: the limits by name, one language for v1 and v2, and the file names that go beside it.

use anyhow::Result;
use unshare::fail::{hint, usage};

use crate::amount::{self, Amount, PROCS_MOST};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knob {
    Mem,
    Swap,
    Swappiness,
    High,
    Low,
    Min,
    OomGroup,
    Procs,
    Cpu,
    Weight,
    IoWeight,
    Cpus,
    Mems,
    Read,
    Write,
    Riops,
    Wiops,
    /// A control file named by the user.
    File,
}

pub struct Row {
    pub knob: Knob,
    pub word: &'static str,
    /// The controllers that it needs; "" where that version has no such limit.
    pub v1: &'static str,
    pub v2: &'static str,
}

impl Knob {
    pub const TABLE: [Row; 17] = [
        row(Knob::Mem, "mem", "memory", "memory"),
        row(Knob::Swap, "swap", "memory", "memory"),
        row(Knob::Swappiness, "swappiness", "memory", "memory"),
        row(Knob::High, "high", "", "memory"),
        row(Knob::Low, "low", "", "memory"),
        row(Knob::Min, "min", "", "memory"),
        row(Knob::OomGroup, "oomgroup", "memory", "memory"),
        row(Knob::Procs, "procs", "pids", "pids"),
        row(Knob::Cpu, "cpu", "cpu", "cpu"),
        row(Knob::Weight, "weight", "cpu", "cpu"),
        row(Knob::IoWeight, "ioweight", "blkio", "io"),
        row(Knob::Cpus, "cpus", "cpuset", "cpuset"),
        row(Knob::Mems, "mems", "cpuset", "cpuset"),
        row(Knob::Read, "read", "blkio", "io"),
        row(Knob::Write, "write", "blkio", "io"),
        row(Knob::Riops, "riops", "blkio", "io"),
        row(Knob::Wiops, "wiops", "blkio", "io"),
    ];

    pub fn row(self) -> Option<&'static Row> {
        Knob::TABLE.iter().find(|row| row.knob == self)
    }

    fn of_device(self) -> bool {
        matches!(self, Knob::Read | Knob::Write | Knob::Riops | Knob::Wiops)
    }
}

const fn row(knob: Knob, word: &'static str, v1: &'static str, v2: &'static str) -> Row {
    Row { knob, word, v1, v2 }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    pub knob: Knob,
    /// The device, or the control file; else empty.
    pub object: String,
    pub amount: Amount,
    /// Skip it where the host has no such knob.
    pub optional: bool,
}

impl Word {
    /// As it is called on the command line.
    pub fn name(&self) -> &str {
        self.knob.row().map_or(&self.object, |row| row.word)
    }

    /// The controller that it needs in a tree of that version; None where there is no such limit.
    pub fn controller(&self, v2: bool) -> Option<&str> {
        let name = match self.knob.row() {
            Some(row) if v2 => row.v2,
            Some(row) => row.v1,
            None => self.object.split('.').next().unwrap_or(""),
        };
        Some(name).filter(|name| !name.is_empty())
    }
}

/// Below this no program starts; a slip of the finger ("mem=100") more likely than a wish.
const TOO_SMALL: u64 = 64 << 10;
/// Bytes a second, below which nothing moves.
const TOO_SLOW: u64 = 4 << 10;

pub fn parse_all(words: &[String], force: bool) -> Result<Vec<Word>> {
    let mut all: Vec<Word> = Vec::new();
    for text in words {
        let word = parse(text, force)?;
        if all.iter().any(|other| other.knob == word.knob && other.object == word.object) {
            return Err(usage(format!("'{}=' is given twice", word.name())));
        }
        all.push(word);
    }
    Ok(all)
}

pub fn parse(text: &str, force: bool) -> Result<Word> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(hint(usage(format!("'{text}' is not a word=value")), "a command comes after '--'"));
    };
    let knob = match Knob::TABLE.iter().find(|row| row.word == name) {
        Some(row) => row.knob,
        None if name.contains('.') => Knob::File,
        None => {
            let all: Vec<String> = Knob::TABLE.iter().map(|row| format!("{}=", row.word)).collect();
            let hinted = format!("the words are {} and FILE=, a control file's name", all.join(" "));
            return Err(hint(usage(format!("unknown word '{name}'")), hinted));
        }
    };
    let (value, optional) = match value.strip_suffix('?') {
        Some(value) => (value, true),
        None => (value, false),
    };
    let (object, value) = object(text, knob, name, value)?;
    if value.trim().is_empty() {
        // The kernel takes an empty write to memory.max as 0: all in the group would die.
        let error = usage(format!("'{text}' has no value"));
        return Err(hint(error, format!("an unset variable? {name}=max lifts the limit")));
    }
    let amount = match (value, knob) {
        (_, Knob::File) => Amount::Text(value.to_owned()),
        ("max" | "none" | "-1", knob) if knob.takes_max() => Amount::Max,
        (_, knob) => read_amount(text, value, knob)?,
    };
    if !force {
        refuse_deadly(text, &object, knob, &amount)?;
    }
    Ok(Word { knob, object, amount, optional })
}

impl Knob {
    fn takes_max(self) -> bool {
        !matches!(self, Knob::Swappiness | Knob::OomGroup | Knob::Weight | Knob::IoWeight)
    }
}

fn read_amount(text: &str, value: &str, knob: Knob) -> Result<Amount> {
    use Knob::*;
    match knob {
        Mem | Swap | High | Low | Min => amount::size(text, value),
        Procs => amount::count(text, value, 0, PROCS_MOST),
        Swappiness => amount::count(text, value, 0, 200),
        OomGroup => amount::count(text, value, 0, 1),
        Weight | IoWeight => amount::count(text, value, 1, 10_000),
        Riops | Wiops => amount::count(text, value, 1, u64::from(u32::MAX)),
        Read | Write => amount::rate(text, value),
        Cpu => amount::processors(text, value),
        Cpus | Mems => amount::list(text, value),
        File => Ok(Amount::Text(value.to_owned())),
    }
}

/// "8:0:10M" is device 8:0 and 10M; of a file, its name is the object.
fn object<'a>(text: &str, knob: Knob, name: &str, value: &'a str) -> Result<(String, &'a str)> {
    if knob == Knob::File {
        check_file(text, name)?;
        return Ok((name.to_owned(), value));
    }
    if !knob.of_device() {
        return Ok((String::new(), value));
    }
    match value.rsplit_once(':') {
        Some((device, value)) if !device.is_empty() => Ok((device.to_owned(), value)),
        _ => {
            let error = usage(format!("'{text}' names no device"));
            Err(hint(
                error,
                format!("{name}=/dev/sda:10M, or {name}=/srv:10M: the disk that holds that directory"),
            ))
        }
    }
}

/// A bare name of a control file, and none by which processes are moved or killed.
fn check_file(text: &str, name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !name.chars().all(plain) || name.starts_with('.') || name.contains("..") {
        return Err(usage(format!("'{}': not the name of a control file", text.escape_debug())));
    }
    let verb = match name {
        "cgroup.procs" | "cgroup.threads" => "--pid N moves a process in",
        "cgroup.kill" => "--kill ends all that runs in a group",
        "cgroup.freeze" | "freezer.state" => "--freeze and --thaw do it, and wait until it is done",
        _ => return Ok(()),
    };
    Err(hint(usage(format!("'{name}' is no limit")), verb))
}

fn refuse_deadly(text: &str, object: &str, knob: Knob, amount: &Amount) -> Result<()> {
    use Knob::*;
    let deadly = match (knob, amount) {
        (Mem | High, Amount::Exact(bytes)) => *bytes < TOO_SMALL,
        (Read | Write, Amount::Exact(rate)) => *rate < TOO_SLOW,
        (Mem | High, Amount::OfRam(part)) => *part == 0,
        (Procs, Amount::Exact(count)) => *count == 0,
        (File, Amount::Text(value)) => match object {
            "memory.max" | "memory.high" | "memory.limit_in_bytes" => {
                // Bytes, or hexadecimal ones, which the kernel takes as well.
                let hex = value.strip_prefix("0x").map(|hex| u64::from_str_radix(hex, 16));
                hex.unwrap_or_else(|| value.parse()).is_ok_and(|bytes| bytes < TOO_SMALL)
            }
            "pids.max" => value == "0",
            _ => false,
        },
        _ => false,
    };
    if deadly {
        let error = usage(format!("'{text}' is a limit that nothing can live with"));
        return Err(match knob {
            Procs => hint(error, "if it is meant: --force; nobody inside could fork"),
            _ => {
                hint(error, "if it is meant: --force; sizes without a unit are bytes, mem=100M are mebibytes")
            }
        });
    }
    Ok(())
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
            ("high=1.5G", 3 << 29),
            ("low=2T", 2 << 40),
            ("mem=64K", 64 << 10),
            ("swap=0", 0),
            ("min=0", 0),
            ("swappiness=200", 200),
            ("weight=10000", 10_000),
            ("oomgroup=1", 1),
        ] {
            assert_eq!(amount(text).unwrap(), Amount::Exact(bytes), "{text}");
        }
        assert_eq!(amount("mem=12.5%").unwrap(), Amount::OfRam(12_500));
        for text in
            ["mem=max", "mem=none", "mem=-1", "procs=-1", "cpu=max", "swap=none", "cpus=max", "read=8:0:max"]
        {
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
    fn a_device_stands_before_its_rate() {
        let read = |text| parse(text, false).map(|w| (w.knob, w.object, w.amount)).unwrap();
        assert_eq!(read("read=8:0:10M"), (Knob::Read, "8:0".into(), Amount::Exact(10 << 20)));
        assert_eq!(read("wiops=/srv:500"), (Knob::Wiops, "/srv".into(), Amount::Exact(500)));
        let two = ["read=/a:1M".to_owned(), "read=/b:1M".to_owned()];
        assert_eq!(parse_all(&two, false).unwrap().len(), 2);
        assert!(parse_all(&[two[0].clone(), "read=/a:2M".into()], false).is_err());
    }

    #[test]
    fn a_name_with_a_dot_is_a_control_file() {
        let word = parse("cpu.max=50000 100000", false).unwrap();
        assert_eq!((word.name(), word.controller(true)), ("cpu.max", Some("cpu")));
        assert_eq!(word.amount, Amount::Text("50000 100000".into()));
        for text in [
            "memory.max=",
            "memory.max=0",
            "memory.max=0x10",
            "memory.limit_in_bytes=123",
            "pids.max=0",
            "../memory.max=5",
            "a/b.c=1",
            ".x=1",
            "a..b=1",
            "cgroup.procs=1",
            "cgroup.kill=1",
            "x\n.y=1",
        ] {
            assert!(parse(text, false).is_err(), "{text}");
        }
        assert!(parse("memory.max=0", true).is_ok());
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
            "high=5",
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
            "swappiness=201",
            "swappiness=max",
            "oomgroup=2",
            "weight=0",
            "weight=10001",
            "weight=max",
            "ioweight=0",
            "ioweight=max",
            "cpus=",
            "cpus=3-1",
            "cpus=0,",
            "mems=a",
            "read=10M",
            "read=:10M",
            "read=/dev/sda:",
            "read=/dev/sda:1",
            "read=8:0:1MB",
            "write=8:0:50%",
            "riops=8:0:0",
            "wiops=8:0:1K",
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
    fn any_line_is_read_or_refused_and_never_a_panic() {
        let names = Knob::TABLE.iter().map(|row| row.word);
        let pieces: Vec<&str> =
            names.chain(["=", "=", ":", "8:0:", "max", "?", "1", "0", ".", "%", "M", "é", "/"]).collect();
        crate::fuzz::mixed(&pieces, 6, |text| {
            let _ = parse(text, false);
        });
    }
}
