//! list: the tree of groups, and what runs in each; all trees of a v1 host are shown as one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use unshare::fail;

use crate::files;
use crate::group::{self, Place};
use crate::layout::Layout;
use crate::name::{Group, Parent};
use crate::sys;

/// A group and those below it.
pub struct Node {
    /// Its whole name, from the place where the listing starts; that itself is "/" or what the user typed.
    pub name: String,
    pub places: Vec<Place>,
    pub pids: Vec<i32>,
    pub below: Vec<Node>,
}

impl Node {
    pub fn read(layout: &Layout, parent: &Parent, name: Option<&Group>) -> Result<Node> {
        let places = match name {
            Some(name) => group::found(layout, parent, name)?,
            None => tops(layout, parent)?,
        };
        let mut node = Node::of(name.map_or("/".into(), |name| name.0.clone()), places);
        // At the top of each tree stand all who have no group in that one; they are told where they have.
        let mut placed = BTreeSet::new();
        node.below.iter().for_each(|below| below.all_pids(&mut placed));
        node.pids.retain(|pid| *pid == 0 || !placed.contains(pid));
        Ok(node)
    }

    fn of(name: String, places: Vec<Place>) -> Node {
        let mut names: BTreeMap<String, Vec<Place>> = BTreeMap::new();
        for place in &places {
            let entries = fs::read_dir(&place.path).into_iter().flatten().flatten();
            for dir in entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
                let below = Place { hierarchy: place.hierarchy.clone(), path: dir.path() };
                names.entry(dir.file_name().to_string_lossy().into_owned()).or_default().push(below);
            }
        }
        let mut pids: Vec<i32> = places.iter().flat_map(|place| group::members(&place.path)).collect();
        pids.sort_unstable();
        pids.dedup();
        let prefix = if name == "/" { String::new() } else { format!("{name}/") };
        let below =
            names.into_iter().map(|(part, places)| Node::of(format!("{prefix}{part}"), places)).collect();
        Node { name, places, pids, below }
    }

    fn all_pids(&self, all: &mut BTreeSet<i32>) {
        all.extend(&self.pids);
        self.below.iter().for_each(|below| below.all_pids(all));
    }

    /// Itself, and all below it.
    pub fn each<'a>(&'a self, call: &mut impl FnMut(&'a Node)) {
        call(self);
        self.below.iter().for_each(|below| below.each(call));
    }

    fn json(&self) -> Value {
        let pids = self.pids.iter().filter(|pid| !is_of_kernel(**pid));
        let pids: Vec<Value> = pids.map(|pid| json!({"pid": pid, "command": command(*pid)})).collect();
        let below: Vec<Value> = self.below.iter().map(Node::json).collect();
        json!({"group": self.name, "pids": pids, "groups": below})
    }
}

fn tops(layout: &Layout, parent: &Parent) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    for hierarchy in &layout.hierarchies {
        let below = match parent {
            Parent::Usual | Parent::Root => String::new().into(),
            Parent::Own => layout.own(hierarchy)?,
            Parent::Group(group) => group.0.clone().into(),
        };
        let path = hierarchy.mount.join(below);
        if path.is_dir() {
            places.push(Place { hierarchy: hierarchy.clone(), path });
        }
    }
    Ok(places)
}

pub fn list(layout: &Layout, parent: &Parent, name: Option<&Group>, as_json: bool) -> Result<()> {
    let node = Node::read(layout, parent, name)?;
    if as_json {
        return fail::print(&format!("{:#}\n", node.json()));
    }
    let mut text = format!("{}\n", node.name.escape_debug());
    let width = sys::window(std::io::stdout()).map_or(usize::MAX, |(_, columns)| columns.max(20));
    draw(&node, "", &Pen::of_locale(), width, &mut text);
    fail::print(&text)
}

/// The lines of the tree.
struct Pen {
    branch: &'static str,
    last: &'static str,
    past: &'static str,
}

impl Pen {
    fn of_locale() -> Pen {
        let value = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale =
            value("LC_ALL").or_else(|| value("LC_CTYPE")).or_else(|| value("LANG")).unwrap_or_default();
        match locale.to_ascii_lowercase().replace('-', "").contains("utf8") {
            true => Pen { branch: "├─", last: "└─", past: "│ " },
            false => Pen { branch: "|-", last: "`-", past: "| " },
        }
    }
}

fn draw(node: &Node, before: &str, pen: &Pen, width: usize, text: &mut String) {
    let pids: Vec<i32> = node.pids.iter().copied().filter(|pid| !is_of_kernel(*pid)).collect();
    let count = pids.len() + node.below.len();
    let digits = pids.iter().map(|pid| pid.to_string().len()).max().unwrap_or(0);
    for (at, pid) in pids.iter().enumerate() {
        let line = format!("{before}{}{pid:>digits$} {}", pen_for(at, count, pen), command(*pid));
        *text += &cut(&line, width);
        *text += "\n";
    }
    for (at, below) in node.below.iter().enumerate() {
        let is_last = pids.len() + at + 1 == count;
        let part = below.name.rsplit('/').next().unwrap_or(&below.name);
        *text += &format!("{before}{}{}\n", pen_for(pids.len() + at, count, pen), part.escape_debug());
        let deeper = format!("{before}{}", if is_last { "  " } else { pen.past });
        draw(below, &deeper, pen, width, text);
    }
}

fn pen_for(at: usize, count: usize, pen: &Pen) -> &'static str {
    if at + 1 == count { pen.last } else { pen.branch }
}

pub fn cut(line: &str, width: usize) -> String {
    line.chars().take(width).collect()
}

/// PF_KTHREAD among the flags, field 9 of proc_pid_stat(5).
fn is_of_kernel(pid: i32) -> bool {
    const PF_KTHREAD: u64 = 0x0020_0000;
    let stat = files::read(Path::new(&format!("/proc/{pid}/stat"))).unwrap_or_default();
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & PF_KTHREAD != 0)
}

/// What it was called with. A process chooses that freely: nothing of it may reach a terminal as it is.
fn command(pid: i32) -> String {
    if pid == 0 {
        return "(of another pid namespace)".into();
    }
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> =
        bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let line = words.join(" ").trim_end().to_owned();
    if line.is_empty() {
        let name = files::read(Path::new(&format!("/proc/{pid}/comm"))).unwrap_or_default();
        return format!("[{}]", plain(name.trim_end()));
    }
    plain(&line)
}

fn plain(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_each_level_closes_it() {
        let leaf = |name: &str| Node { name: name.into(), places: vec![], pids: vec![], below: vec![] };
        let farm = Node { below: vec![leaf("farm/a"), leaf("farm/b")], ..leaf("farm") };
        let top = Node { below: vec![farm, leaf("w\u{1b}eb")], ..leaf("/") };
        let mut text = String::new();
        draw(&top, "", &Pen { branch: "|-", last: "`-", past: "| " }, 80, &mut text);
        assert_eq!(text, "|-farm\n| |-a\n| `-b\n`-w\\u{1b}eb\n");
    }

    #[test]
    fn nothing_of_a_name_reaches_the_terminal_as_it_is() {
        assert_eq!(plain("a\u{1b}[2Jb\nc é"), "a\\u{1b}[2Jb\\nc é");
    }
}
