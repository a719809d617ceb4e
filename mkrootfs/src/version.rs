//! version: the order of Debian versions (deb-version(7)).

use std::cmp::Ordering;

/// How a dependency bounds a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Earlier,
    EarlierEqual,
    Exactly,
    LaterEqual,
    Later,
}

impl Relation {
    /// "<" and ">" are old spellings of "<=" and ">=" (deb-control(5)).
    pub fn parse(text: &str) -> Option<Relation> {
        Some(match text {
            "<<" => Relation::Earlier,
            "<=" | "<" => Relation::EarlierEqual,
            "=" => Relation::Exactly,
            ">=" | ">" => Relation::LaterEqual,
            ">>" => Relation::Later,
            _ => return None,
        })
    }

    pub fn holds(self, have: &str, bound: &str) -> bool {
        let order = compare(have, bound);
        match self {
            Relation::Earlier => order.is_lt(),
            Relation::EarlierEqual => order.is_le(),
            Relation::Exactly => order.is_eq(),
            Relation::LaterEqual => order.is_ge(),
            Relation::Later => order.is_gt(),
        }
    }
}

/// Epoch, then upstream version, then revision.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (split(a), split(b));
    a.0.cmp(&b.0).then_with(|| part(a.1, b.1)).then_with(|| part(a.2, b.2))
}

fn split(version: &str) -> (u32, &[u8], &[u8]) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch.parse().unwrap_or(0), upstream.as_bytes(), revision.as_bytes())
}

/// By turns a stretch without digits, in which '~' sorts before the end and letters before the rest, and a
/// number.
fn part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    loop {
        let (text_a, text_b) = (take(&mut a, |c| !c.is_ascii_digit()), take(&mut b, |c| !c.is_ascii_digit()));
        let longest = text_a.len().max(text_b.len());
        let order =
            (0..longest).map(|i| weight(text_a.get(i)).cmp(&weight(text_b.get(i)))).find(|o| o.is_ne());
        if let Some(order) = order {
            return order;
        }
        let order = number(take(&mut a, u8::is_ascii_digit), take(&mut b, u8::is_ascii_digit));
        if order.is_ne() || (a.is_empty() && b.is_empty()) {
            return order;
        }
    }
}

fn take<'a>(text: &mut &'a [u8], belongs: impl Fn(&u8) -> bool) -> &'a [u8] {
    let end = text.iter().position(|c| !belongs(c)).unwrap_or(text.len());
    let (head, tail) = text.split_at(end);
    *text = tail;
    head
}

fn weight(c: Option<&u8>) -> i32 {
    match c {
        Some(b'~') => -1,
        None => 0,
        Some(c) if c.is_ascii_alphabetic() => i32::from(*c),
        Some(c) => i32::from(*c) + 256,
    }
}

/// Of any length: without leading zeros the longer number is the greater.
fn number(a: &[u8], b: &[u8]) -> Ordering {
    let strip = |n: &[u8]| n.iter().skip_while(|c| **c == b'0').copied().collect::<Vec<u8>>();
    let (a, b) = (strip(a), strip(b));
    a.len().cmp(&b.len()).then_with(|| a.cmp(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_debian_order() {
        let rising = [
            "1.0~~",
            "1.0~~a",
            "1.0~",
            "1.0~rc1",
            "1.0",
            "1.0-0.1",
            "1.0-1",
            "1.0-1+b1",
            "1.0-1+deb12u1",
            "1.0-1.1",
            "1.0a",
            "1.0+dfsg",
            "1.0.1",
            "1.2",
            "1.10",
            "1.099",
            "1.100-1",
            "2",
            "1:0.1",
            "2:0",
        ];
        for pair in rising.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
        for (a, b) in [("1.0", "0:1.0"), ("1.00", "1.0"), ("1.0-0", "1.0"), ("1.002", "1.2")] {
            assert_eq!(compare(a, b), Ordering::Equal, "{a} {b}");
        }
        let long = "1.99999999999999999999999999999999";
        assert_eq!(compare(long, "1.100000000000000000000000000000000"), Ordering::Less);
    }

    #[test]
    fn relations_hold_as_spelled() {
        for (have, relation, bound, holds) in [
            ("1", "<<", "2", true),
            ("2", "<<", "2", false),
            ("2", "<=", "2", true),
            ("2", "=", "2", true),
            ("2", ">=", "3", false),
            ("3", ">>", "2", true),
        ] {
            assert_eq!(
                Relation::parse(relation).unwrap().holds(have, bound),
                holds,
                "{have} {relation} {bound}"
            );
        }
        assert_eq!(Relation::parse("=="), None);
    }
}
