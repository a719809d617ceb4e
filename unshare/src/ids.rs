//! ids: what --map-user, --map-users and their like mean, as lines of uid_map and gid_map (user_namespaces(7)).
//!
//! Nothing here touches the world: files come in as text.

use anyhow::{Result, anyhow, bail};

/// `count` ids from `outer` on, outside, are those from `inner` on, inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub inner: u32,
    pub outer: u32,
    pub count: u32,
    /// Whatever inner ids are free, from 0 on: an id taken by the single map costs none.
    pub anywhere: bool,
}

/// An argument of --map-users or --map-groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    Ranges(Vec<Range>),
    /// The first block of subordinate ids, from 0 on.
    Auto,
    /// The same, by their own numbers.
    Subids,
    /// All that there are, by their own numbers.
    All,
}

/// What the caller's own id becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Single {
    Number(u32),
    Name(String),
    Current,
}

/// The word of --map-user or --map-group.
pub fn parse_single(what: &str, word: &str) -> Result<Single> {
    if !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit()) {
        return match word.parse() {
            Ok(number) if number != u32::MAX => Ok(Single::Number(number)),
            _ => bail!("failed to parse {what} '{word}'"),
        };
    }
    Ok(Single::Name(word.to_owned()))
}

/// `inner:outer:count`, several of them joined by commas; the form of util-linux 2.38, `outer,inner,count`;
/// or a word. A line as the kernel has it, `inner outer count`, is the first form with blanks.
pub fn parse_block(word: &str) -> Result<Block> {
    match word {
        "auto" => return Ok(Block::Auto),
        "subids" => return Ok(Block::Subids),
        "all" => return Ok(Block::All),
        _ => {}
    }
    let wrong = || anyhow!("invalid mapping '{word}'");
    if !word.contains([':', ' ']) {
        let [outer, inner, count] = three(word.split(',')).ok_or_else(wrong)?;
        return Ok(Block::Ranges(vec![Range { inner, outer, count, anywhere: false }]));
    }
    let range = |part: &str| {
        let [inner, outer, count] = if part.contains(':') {
            three(part.split(':'))?
        } else {
            three(part.split(' ').filter(|field| !field.is_empty()))?
        };
        Some(Range { inner, outer, count, anywhere: false })
    };
    word.split(',').map(range).collect::<Option<_>>().map(Block::Ranges).ok_or_else(wrong)
}

fn three<'a>(mut fields: impl Iterator<Item = &'a str>) -> Option<[u32; 3]> {
    let mut next = || fields.next().filter(|f| f.bytes().all(|b| b.is_ascii_digit()))?.parse().ok();
    let numbers = [next()?, next()?, next()?];
    fields.next().is_none().then_some(numbers)
}

/// The lines of a map: the single one first, and the ranges around it. An id of it that lies in a range, on
/// either side, is skipped there; what is left is matched in order.
pub fn around(single: Option<(u32, u32)>, ranges: &[Range]) -> Vec<Range> {
    let one = single.map(|(inner, outer)| Range { inner, outer, count: 1, anywhere: false });
    let mut lines: Vec<Range> = one.into_iter().collect();
    for range in ranges {
        split(single, range, &mut lines);
    }
    lines
}

fn split(single: Option<(u32, u32)>, range: &Range, lines: &mut Vec<Range>) {
    let hole = |at: u64, id: Option<u32>| id.map(u64::from).filter(|id| *id >= at).unwrap_or(u64::MAX);
    let (taken_inner, taken_outer) = (single.map(|s| s.0), single.map(|s| s.1));
    let (mut inner, mut outer) = (u64::from(range.inner), u64::from(range.outer));
    let outer_end = outer + u64::from(range.count);
    let inner_end = if range.anywhere { u64::MAX } else { inner + u64::from(range.count) };
    loop {
        inner += u64::from(hole(inner, taken_inner) == inner);
        outer += u64::from(hole(outer, taken_outer) == outer);
        let inner_run = inner_end.min(hole(inner, taken_inner)).saturating_sub(inner);
        let outer_run = outer_end.min(hole(outer, taken_outer)).saturating_sub(outer);
        let count = inner_run.min(outer_run);
        let (Ok(first_inner), Ok(first_outer), Ok(length)) =
            (u32::try_from(inner), u32::try_from(outer), u32::try_from(count))
        else {
            return; // beyond the last id there is
        };
        if length == 0 {
            return;
        }
        lines.push(Range { inner: first_inner, outer: first_outer, count: length, anywhere: false });
        (inner, outer) = (inner + count, outer + count);
    }
}

/// What is written to uid_map or gid_map.
pub fn text(lines: &[Range]) -> String {
    lines.iter().map(|r| format!("{} {} {}\n", r.inner, r.outer, r.count)).collect()
}

/// The first block in the text of /etc/subuid or /etc/subgid that belongs to a user, by name or number.
pub fn subordinate(file: &str, name: Option<&str>, uid: u32) -> Result<Option<Range>> {
    for line in file.lines() {
        let mut fields = line.split(':');
        let (Some(owner), Some(start), Some(count)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        // A name never stands for a number: "other" is not user 0.
        if Some(owner) != name && owner.parse() != Ok(uid) {
            continue;
        }
        let number =
            |field: &str| field.trim().parse().map_err(|_| anyhow!("failed to parse subid map: '{field}'"));
        return Ok(Some(Range { inner: 0, outer: number(start)?, count: number(count)?, anywhere: true }));
    }
    Ok(None)
}

/// The ids that the text of uid_map or gid_map says there are, each as itself.
pub fn all_of(map: &str) -> Vec<Range> {
    let line = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let first = fields.next()?.parse().ok()?;
        let count = fields.nth(1)?.parse().ok()?;
        Some(Range { inner: first, outer: first, count, anywhere: false })
    };
    map.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(block: &str) -> String {
        match parse_block(block).unwrap() {
            Block::Ranges(ranges) => text(&ranges),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_forms_of_a_range_mean_the_same() {
        for word in ["0:100000:1000", "100000,0,1000", "0 100000 1000"] {
            assert_eq!(lines(word), "0 100000 1000\n", "{word}");
        }
        for word in ["0:100000:1000,1000:1:1", "0 100000 1000,1000 1 1", "0:100000:1000,1000 1 1"] {
            assert_eq!(lines(word), "0 100000 1000\n1000 1 1\n", "{word}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused_whole() {
        for word in [
            "",
            "1",
            "1:2",
            "1:2:3:4",
            "1:2:x",
            "1,2",
            "1,2,3,4",
            "a:b:c",
            "-1:2:3",
            "1:2:4294967296",
            "1:2:3,",
        ] {
            assert_eq!(parse_block(word).unwrap_err().to_string(), format!("invalid mapping '{word}'"));
        }
    }

    #[test]
    fn a_single_id_is_a_number_or_a_name() {
        assert_eq!(parse_single("uid", "7").unwrap(), Single::Number(7));
        assert_eq!(parse_single("uid", "www-data").unwrap(), Single::Name("www-data".into()));
        assert!(parse_single("uid", "4294967295").is_err() && parse_single("uid", "4294967296").is_err());
    }

    #[test]
    fn ranges_lie_around_the_single_id() {
        let range = |inner, outer, count, anywhere| [Range { inner, outer, count, anywhere }];
        let map = |single, ranges: &[Range]| text(&around(single, ranges));
        // --map-auto loses nothing (util-linux#4457).
        assert_eq!(map(Some((0, 1000)), &range(0, 100_000, 2000, true)), "0 1000 1\n1 100000 2000\n");
        assert_eq!(
            map(Some((1000, 1000)), &range(0, 100_000, 2000, true)),
            "1000 1000 1\n0 100000 1000\n1001 101000 1000\n"
        );
        assert_eq!(map(None, &range(0, 100_000, 2000, true)), "0 100000 2000\n");
        // An explicit range has so many inner ids, and one of them is taken.
        assert_eq!(map(Some((0, 0)), &range(0, 100_000, 10, false)), "0 0 1\n1 100000 9\n");
        // Beside is not inside: here util-linux loses one.
        assert_eq!(map(Some((5, 0)), &range(0, 100_000, 5, false)), "5 0 1\n0 100000 5\n");
        assert_eq!(map(Some((2, 7)), &range(0, 5, 5, false)), "2 7 1\n0 5 2\n3 8 2\n");
        assert_eq!(map(Some((0, 7)), &range(10, 5, 5, false)), "0 7 1\n10 5 2\n12 8 2\n");
    }

    #[test]
    fn the_owner_of_a_block_is_never_guessed() {
        let file = "other:1:2\nshort:5\n\nroot:500000:2000\n7:600000:3\n";
        let first = |name, uid| subordinate(file, name, uid).unwrap().map(|r| (r.outer, r.count));
        assert_eq!(first(Some("root"), 0), Some((500_000, 2000)));
        assert_eq!(first(None, 7), Some((600_000, 3)));
        assert_eq!(first(Some("nobody"), 65534), None);
        assert!(subordinate("root:x:1\n", Some("root"), 0).is_err());
    }

    #[test]
    fn all_is_every_id_as_itself() {
        assert_eq!(text(&all_of("         0     100000         10\n  20 5 3\n")), "0 0 10\n20 20 3\n");
    }

    /// Against a plain walk over every id: no id is given twice, the pairs are the same.
    #[test]
    fn fuzz_around_against_one_by_one() {
        crate::fuzz::rounds(3000, |dice| {
            let mut small = || dice.below(24) as u32;
            let (single, range) = ((small(), small()), (small(), small(), small()));
            let anywhere = dice.below(2) == 0;
            let range = Range { inner: range.0, outer: range.1, count: range.2, anywhere };
            let inner_end = if anywhere { range.inner + range.count + 1 } else { range.inner + range.count };
            let inner = (range.inner..inner_end).filter(|id| *id != single.0);
            let outer = (range.outer..range.outer + range.count).filter(|id| *id != single.1);
            let expected: Vec<_> = inner.zip(outer).collect();
            let got: Vec<_> = around(Some(single), &[range])[1..]
                .iter()
                .flat_map(|r| (0..r.count).map(|n| (r.inner + n, r.outer + n)))
                .collect();
            assert_eq!(got, expected, "{single:?} {range:?}");
        });
    }

    #[test]
    fn fuzz_parsers_take_anything() {
        crate::fuzz::rounds(3000, |dice| {
            let word = dice.text("0123456789:, \n\tabcROOT-+x4294967295é", 24);
            if let Ok(Block::Ranges(ranges)) = parse_block(&word) {
                around(Some((dice.below(1 << 32) as u32, dice.below(1 << 32) as u32)), &ranges);
            }
            let _ = parse_single("uid", &word);
            let _ = subordinate(&word, Some("a"), 1);
            all_of(&word);
        });
    }
}
