//! lookup: from what was asked about ids to what is written, and by whom: the one place that reads
//! /etc/passwd, /etc/subuid and the caller's own map.

use std::fs;

use anyhow::{Context, Result, anyhow};
use nix::unistd::{getegid, geteuid};
use unshare::passwd::{self, GROUPS, USERS};

use crate::cli::Setgroups;
use crate::ids::{self, Block, Range, Single};
use crate::outside::{Tasks, Writes};
use crate::plan::Ids;

/// Users or groups: where their names are, and their subordinate ids.
struct Side {
    what: &'static str,
    names: &'static str,
    subordinate: &'static str,
    map: &'static str,
    own: u32,
}

/// What this process writes about itself, and what the process outside does.
///
/// Everybody may map the own id alone (user_namespaces(7)); more takes the right to it in the caller's
/// namespace. Who has given up the own user id for that of an owner may not write at all.
pub fn resolve(asked: &Ids) -> Result<(Writes, Tasks)> {
    if *asked == Ids::default() {
        return Ok(Default::default());
    }
    let owned = asked.owner.is_some();
    let (user, users) = users().lines(asked.user.as_ref(), &asked.users, owned)?;
    let (group, groups) = groups().lines(asked.group.as_ref(), &asked.groups, owned)?;
    let mut writes = Writes::new();
    match asked.setgroups {
        Some(Setgroups::Allow) => writes.push(("setgroups", "allow".into())),
        Some(Setgroups::Deny) => writes.push(("setgroups", "deny".into())),
        None if group.is_some() => writes.push(("setgroups", "deny".into())),
        None => {}
    }
    writes.extend(user.map(|line| ("uid_map", line)));
    writes.extend(group.map(|line| ("gid_map", line)));
    let clock = |(clock, seconds): &(i32, i64)| ("timens_offsets", format!("{clock} {seconds} 0"));
    writes.extend(asked.clocks.iter().map(clock));
    let mut tasks = Tasks { users, groups, ..Tasks::default() };
    if owned {
        tasks.writes = std::mem::take(&mut writes);
    }
    Ok((writes, tasks))
}

fn users() -> Side {
    Side {
        what: "uid",
        names: USERS,
        subordinate: "/etc/subuid",
        map: "/proc/self/uid_map",
        own: geteuid().as_raw(),
    }
}

fn groups() -> Side {
    Side {
        what: "gid",
        names: GROUPS,
        subordinate: "/etc/subgid",
        map: "/proc/self/gid_map",
        own: getegid().as_raw(),
    }
}

impl Side {
    /// The line that this process may write itself, or all that the process outside must.
    fn lines(
        &self,
        single: Option<&Single>,
        blocks: &[Block],
        owned: bool,
    ) -> Result<(Option<String>, Vec<Range>)> {
        let (single, blocks) = (self.single(single)?, self.blocks(blocks)?);
        let lines = ids::around(single, &blocks);
        Ok(match blocks.is_empty() && !owned {
            true => (single.map(|_| ids::text(&lines)), Vec::new()),
            false => (None, lines),
        })
    }

    /// The inner and the outer id of a single map.
    fn single(&self, asked: Option<&Single>) -> Result<Option<(u32, u32)>> {
        let Some(asked) = asked else { return Ok(None) };
        let inner = match asked {
            Single::Number(id) => *id,
            Single::Current => self.own,
            Single::Name(name) => passwd::id_of(self.names, name)
                .with_context(|| format!("failed to parse {} '{name}': not in {}", self.what, self.names))?,
        };
        Ok(Some((inner, self.own)))
    }

    fn blocks(&self, asked: &[Block]) -> Result<Vec<Range>> {
        let mut ranges: Vec<Range> = Vec::new();
        for block in asked {
            let more = match block {
                Block::Ranges(more) => more.clone(),
                Block::Auto => vec![self.subordinate()?],
                Block::Subids => {
                    let range = self.subordinate()?;
                    vec![Range { inner: range.outer, anywhere: false, ..range }]
                }
                Block::All => ids::all_of(
                    &fs::read_to_string(self.map)
                        .with_context(|| format!("could not open '{}'", self.map))?,
                ),
            };
            // The same asked for twice, as by --map-auto --map-users auto, is asked for once.
            ranges.extend(more.into_iter().filter(|range| !ranges.contains(range)).collect::<Vec<_>>());
        }
        Ok(ranges)
    }

    /// The first block of the caller, who is a user also where it is about groups.
    fn subordinate(&self) -> Result<Range> {
        let uid = geteuid().as_raw();
        let name = passwd::name_of(uid);
        let file =
            fs::read(self.subordinate).with_context(|| format!("could not open '{}'", self.subordinate))?;
        let found = ids::subordinate(&String::from_utf8_lossy(&file), name.as_deref(), uid)?;
        found.ok_or_else(|| {
            let who = name.unwrap_or_else(|| uid.to_string());
            let error = anyhow!("no line matching user \"{who}\" in {}", self.subordinate);
            unshare::fail::hint(error, format!("usermod --add-sub{}s 100000-165535 {who}", self.what))
        })
    }
}
