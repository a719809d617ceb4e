//! limits: from words to control files; here lie the rules between v1 and v2.

use anyhow::{Error, Result, anyhow, bail};
use unshare::fail::hint;

use crate::amount::{Amount, MILLION};
use crate::check::Check;
use crate::device;
use crate::files;
use crate::group::Place;
use crate::layout::Layout;
use crate::step::Step;
use crate::words::{Knob, Word};

/// What all rules look at.
pub struct Rules<'a> {
    pub layout: &'a Layout,
    pub place: &'a Place,
    /// Those that are written in the place's tree.
    pub words: Vec<&'a Word>,
    pub force: bool,
    /// A command will run in the group, and cgset stands by.
    pub runs: bool,
}

impl Rules<'_> {
    /// The writes, in an order that the kernel takes.
    pub fn steps(&self) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        if self.place.hierarchy.v2 {
            self.memory_v2(&mut steps)?
        } else {
            self.memory_v1(&mut steps)?
        }
        for word in &self.words {
            match word.knob {
                Knob::Mem | Knob::Swap | Knob::Swappiness => {}
                Knob::High => steps.push(self.size(word, "memory.high")?),
                Knob::Low => steps.push(self.size(word, "memory.low")?),
                Knob::Min => steps.push(self.size(word, "memory.min")?),
                Knob::OomGroup => steps.extend(self.oom_group(word)?),
                Knob::Procs => steps.push(self.exact(word, "pids.max", number(&word.amount, "max"))),
                Knob::Cpu => steps.push(self.processors(word)),
                Knob::Weight => steps.push(self.weight(word)),
                Knob::IoWeight => steps.extend(self.io_weight(word)),
                Knob::Cpus => steps.extend(self.cpuset(word, "cpuset.cpus")?),
                Knob::Mems => steps.extend(self.cpuset(word, "cpuset.mems")?),
                Knob::Read | Knob::Write | Knob::Riops | Knob::Wiops => steps.push(self.device(word)?),
                Knob::File => steps.push(self.file(word)?),
            }
        }
        Ok(steps)
    }

    fn word(&self, knob: Knob) -> Option<&Word> {
        self.words.iter().copied().find(|word| word.knob == knob)
    }

    fn v2(&self) -> bool {
        self.place.hierarchy.v2
    }

    fn write(&self, word: &Word, file: &str, value: String, check: Check) -> Step {
        Step::Write { file: self.place.path.join(file), value, check, optional: word.optional }
    }

    fn exact(&self, word: &Word, file: &str, value: String) -> Step {
        self.write(word, file, value.clone(), Check::Word(value))
    }

    fn size(&self, word: &Word, file: &str) -> Result<Step> {
        let bytes = self.bytes(&word.amount)?;
        Ok(self.bytes_step(word, file, bytes))
    }

    fn bytes_step(&self, word: &Word, file: &str, bytes: Option<u64>) -> Step {
        let none = if self.v2() { "max" } else { "-1" };
        let value = bytes.map_or(none.to_owned(), |bytes| bytes.to_string());
        self.write(word, file, value, Check::Bytes(bytes))
    }

    fn bytes(&self, amount: &Amount) -> Result<Option<u64>> {
        Ok(match amount {
            Amount::Exact(bytes) => Some(*bytes),
            Amount::OfRam(part) => {
                Some((u128::from(self.layout.ram()?) * u128::from(*part) / 100_000) as u64)
            }
            _ => None,
        })
    }

    fn memory_v2(&self, steps: &mut Vec<Step>) -> Result<()> {
        // Swap first: a lower mem= pushes out what a lower swap= would then find there.
        if let Some(swap) = self.word(Knob::Swap) {
            steps.push(self.size(swap, "memory.swap.max")?);
        }
        steps.extend(self.swappiness_v2()?);
        if let Some(mem) = self.word(Knob::Mem) {
            let limit = self.bytes(&mem.amount)?;
            if let (Some(bytes), false) = (limit, self.force || !self.place.path.is_dir()) {
                steps.push(Step::MakeRoom { dir: self.place.path.clone(), bytes });
            }
            steps.push(self.bytes_step(mem, "memory.max", limit));
        }
        Ok(())
    }

    /// v2 has no swappiness for a group. 0 means "kill rather than swap", and for that there is a limit.
    fn swappiness_v2(&self) -> Result<Option<Step>> {
        let Some(word) = self.word(Knob::Swappiness) else { return Ok(None) };
        let swap = self.word(Knob::Swap).map(|swap| &swap.amount);
        match (&word.amount, swap) {
            (Amount::Exact(0), None) => Ok(Some(self.bytes_step(word, "memory.swap.max", Some(0)))),
            (Amount::Exact(0), Some(Amount::Exact(0))) => Ok(None),
            (Amount::Exact(0), Some(_)) => bail!("swappiness=0 and swap= contradict each other on cgroup v2"),
            _ if word.optional => Ok(None),
            _ => {
                let error = anyhow!("cgroup v2 has no swappiness for a group but 0, which means swap=0");
                Err(hint(error, "swap=SIZE limits the swap; swappiness=…? skips the word on v2"))
            }
        }
    }

    /// v1 counts memory and swap in one limit (memsw), never below that of memory alone: swap = memsw - limit,
    /// and of two changes the one comes first after which this still holds (memory.rst, "Memory+Swap").
    fn memory_v1(&self, steps: &mut Vec<Step>) -> Result<()> {
        const LIMIT: &str = "memory.limit_in_bytes";
        const MEMSW: &str = "memory.memsw.limit_in_bytes";
        if let Some(word) = self.word(Knob::Swappiness) {
            steps.push(self.exact(word, "memory.swappiness", number(&word.amount, "")));
        }
        let (mem, swap) = (self.word(Knob::Mem), self.word(Knob::Swap));
        let Some(either) = mem.or(swap) else { return Ok(()) };
        let wish = |word: Option<&Word>| word.map(|word| self.bytes(&word.amount)).transpose();
        let (mem_wish, swap_wish) = (wish(mem)?, wish(swap)?);
        let read = |file: &str| files::limit(&files::read(&self.place.path.join(file)).unwrap_or_default());
        let (old_limit, old_memsw) = (read(LIMIT), read(MEMSW));
        let counts_swap = self.place.hierarchy.mount.join(MEMSW).exists();
        if !counts_swap && swap.is_some_and(|word| !word.optional) {
            let error = anyhow!("swap= cannot be set: this kernel does not count swap (no '{MEMSW}')");
            return Err(hint(error, "boot with swapaccount=1, or write swap=…? to do without"));
        }
        let limit = mem_wish.unwrap_or(old_limit);
        let memsw = match (swap_wish, limit) {
            (Some(Some(_)), None) if counts_swap => return Err(no_limit_to_add_to()),
            (Some(Some(swap)), Some(limit)) => Some(limit.saturating_add(swap)),
            (Some(_), _) | (None, None) => None,
            // Only mem= was said: what was left for swap stays.
            (None, Some(limit)) => old_memsw.map(|old| old - old_limit.unwrap_or(old).min(old) + limit),
        };
        let set_limit = mem.map(|word| self.bytes_step(word, LIMIT, limit));
        let set_memsw = (counts_swap && memsw != old_memsw)
            .then(|| self.bytes_step(swap.unwrap_or(either), MEMSW, memsw));
        let above = |new: Option<u64>, old: Option<u64>| new.unwrap_or(u64::MAX) > old.unwrap_or(u64::MAX);
        let pair = if above(limit, old_memsw) { [set_memsw, set_limit] } else { [set_limit, set_memsw] };
        steps.extend(pair.into_iter().flatten());
        Ok(())
    }

    /// v1 cannot kill a group as a unit; cgset does it where it stands by (see run::guard_as_unit).
    fn oom_group(&self, word: &Word) -> Result<Option<Step>> {
        if self.v2() {
            return Ok(Some(self.exact(word, "memory.oom.group", number(&word.amount, ""))));
        }
        if self.runs || word.optional || word.amount == Amount::Exact(0) {
            return Ok(None);
        }
        let error = anyhow!("on cgroup v1 oomgroup=1 works only while cgset runs a command in the group");
        Err(hint(error, "cgset --wait-oom GROUP || cgset --kill GROUP"))
    }

    /// The period stays as it is, so that one write does it and no moment has half of both.
    fn processors(&self, word: &Word) -> Step {
        let file = if self.v2() { "cpu.max" } else { "cpu.cfs_quota_us" };
        let Amount::Exact(parts) = word.amount else {
            return self.exact(word, file, if self.v2() { "max" } else { "-1" }.into());
        };
        let period_file = if self.v2() { file } else { "cpu.cfs_period_us" };
        let text = files::read(&self.place.path.join(period_file)).unwrap_or_default();
        let period = text.split_whitespace().last().and_then(|word| word.parse().ok()).unwrap_or(100_000);
        self.exact(word, file, (u128::from(parts) * period / u128::from(MILLION)).to_string())
    }

    /// Words are v2 weights; 100 is 1024 shares, and the ratio between groups stays (systemd's rule turned round).
    fn weight(&self, word: &Word) -> Step {
        match word.amount {
            Amount::Exact(weight) if !self.v2() => {
                self.exact(word, "cpu.shares", (weight * 1024 / 100).max(2).to_string())
            }
            _ => self.exact(word, "cpu.weight", number(&word.amount, "")),
        }
    }

    /// Who keeps weights of disks depends on the kernel and on the scheduler of each disk, so all that are there
    /// are told. Usual are 100 of 10000 (io.cost), 100 of 1000 (BFQ), 500 of 1000 (CFQ, before Linux 5.0).
    fn io_weight(&self, word: &Word) -> Vec<Step> {
        let Amount::Exact(weight) = word.amount else { return Vec::new() };
        let bfq = weight.min(1000);
        let files = match self.v2() {
            true => [("io.weight", format!("default {weight}")), ("io.bfq.weight", format!("default {bfq}"))],
            false => {
                let cfq = (weight * 5).clamp(10, 1000);
                [("blkio.bfq.weight", bfq.to_string()), ("blkio.weight", cfq.to_string())]
            }
        };
        let paths = files.iter().map(|(name, _)| self.place.path.join(name)).collect();
        let need = (!word.optional).then_some(Step::NeedOne(paths));
        let write = |(name, value): (&str, String)| Step::Write {
            file: self.place.path.join(name),
            check: Check::Text(value.clone()),
            value,
            optional: true,
        };
        need.into_iter().chain(files.into_iter().map(write)).collect()
    }

    /// "max" is all that the group above has: on v2 an empty list says so, on v1 a copy of its list does.
    fn cpuset(&self, word: &Word, file: &str) -> Result<Option<Step>> {
        let value = match &word.amount {
            Amount::List(list) => list.clone(),
            _ if self.v2() => String::new(),
            // A new group has just been given it: Step::Inherit.
            _ if !self.place.path.is_dir() => return Ok(None),
            _ => {
                let above = self.place.path.parent().unwrap_or(&self.place.path).join(file);
                files::read_or_say(&above)?.trim().to_owned()
            }
        };
        Ok(Some(self.write(word, file, value.clone(), Check::List(value))))
    }

    fn device(&self, word: &Word) -> Result<Step> {
        let (key, v1_file) = match word.knob {
            Knob::Read => ("rbps", "blkio.throttle.read_bps_device"),
            Knob::Write => ("wbps", "blkio.throttle.write_bps_device"),
            Knob::Riops => ("riops", "blkio.throttle.read_iops_device"),
            _ => ("wiops", "blkio.throttle.write_iops_device"),
        };
        let disk = device::disk(self.layout, &word.object)?;
        let (file, key, none) = if self.v2() { ("io.max", key, "max") } else { (v1_file, "", "0") };
        let value = number(&word.amount, none);
        let text = if key.is_empty() { format!("{disk} {value}") } else { format!("{disk} {key}={value}") };
        Ok(self.write(word, file, text, Check::Device { disk, key, value, none }))
    }

    /// As the user wrote it, for files that have no word.
    fn file(&self, word: &Word) -> Result<Step> {
        let Amount::Text(value) = &word.amount else { bail!("'{}' has no value", word.object) };
        let file = self.place.path.join(&word.object);
        let check = if self.force { Check::Any } else { Check::Text(value.clone()) };
        Ok(Step::Write { file, value: value.clone(), check, optional: word.optional })
    }
}

fn number(amount: &Amount, none: &str) -> String {
    match amount {
        Amount::Exact(number) => number.to_string(),
        _ => none.to_owned(),
    }
}

fn no_limit_to_add_to() -> Error {
    let error = anyhow!("swap= needs a limit of mem= on a v1 host, which counts both in one");
    hint(error, "give both: mem=100M swap=50M")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Hierarchy;

    #[test]
    fn memsw_and_limit_are_written_in_an_order_that_the_kernel_takes() {
        let dir = std::env::temp_dir().join(format!("cgset-plan-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("g")).unwrap();
        std::fs::write(dir.join("memory.memsw.limit_in_bytes"), "").unwrap();
        let hierarchy = Hierarchy {
            v2: false,
            mount: dir.clone(),
            shown: "/".into(),
            controllers: vec!["memory".into()],
        };
        let place = Place { hierarchy: hierarchy.clone(), path: dir.join("g") };
        let layout = Layout::of(vec![hierarchy]);
        let none = "9223372036854771712".to_string();
        let steps = |old: [Option<u64>; 2], mem, swap| {
            let old = old.map(|v| v.map_or(none.clone(), |v| v.to_string()));
            std::fs::write(dir.join("g/memory.limit_in_bytes"), &old[0]).unwrap();
            std::fs::write(dir.join("g/memory.memsw.limit_in_bytes"), &old[1]).unwrap();
            let word = |knob, wish: Option<Option<u64>>| {
                let amount = wish?.map_or(Amount::Max, Amount::Exact);
                Some(Word { knob, object: String::new(), amount, optional: false })
            };
            let words = [word(Knob::Mem, mem), word(Knob::Swap, swap)];
            let words = words.iter().flatten().collect();
            let rules = Rules { layout: &layout, place: &place, words, force: false, runs: false };
            let steps = rules.steps()?;
            let show = |step: Step| match step {
                Step::Write { file, value, .. } if file.ends_with("memory.limit_in_bytes") => {
                    format!("limit {value}")
                }
                Step::Write { value, .. } => format!("memsw {value}"),
                other => panic!("{other:?}"),
            };
            Ok::<_, Error>(steps.into_iter().map(show).collect::<Vec<_>>().join(", "))
        };
        const M: u64 = 1000;
        // From none at all, lowering, raising beyond the old sum, and raising within it.
        assert_eq!(steps([None, None], Some(Some(M)), Some(Some(0))).unwrap(), "limit 1000, memsw 1000");
        assert_eq!(
            steps([Some(5 * M), Some(6 * M)], Some(Some(M)), Some(Some(M))).unwrap(),
            "limit 1000, memsw 2000"
        );
        assert_eq!(
            steps([Some(M), Some(2 * M)], Some(Some(3 * M)), Some(Some(M))).unwrap(),
            "memsw 4000, limit 3000"
        );
        assert_eq!(
            steps([Some(M), Some(9 * M)], Some(Some(3 * M)), Some(Some(M))).unwrap(),
            "limit 3000, memsw 4000"
        );
        // mem= alone leaves swap as it was; lifting the limit lifts the sum.
        assert_eq!(steps([Some(M), Some(3 * M)], Some(Some(4 * M)), None).unwrap(), "memsw 6000, limit 4000");
        assert_eq!(steps([Some(M), None], Some(Some(4 * M)), None).unwrap(), "limit 4000");
        assert_eq!(steps([Some(M), Some(M)], Some(None), None).unwrap(), "memsw -1, limit -1");
        assert_eq!(steps([Some(M), Some(M)], None, Some(None)).unwrap(), "memsw -1");
        assert!(steps([None, None], None, Some(Some(M))).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
