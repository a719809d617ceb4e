//! manner: how a command that changes something goes about it, and what it says afterwards.

use anyhow::Result;
use serde_json::json;
use unshare::fail::print;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Say what was done, or would be, as JSON.
    pub json: bool,
}

impl Manner {
    /// Whether anybody wants to know `changes`.
    pub fn tells(self) -> bool {
        self.dry_run || self.json
    }

    /// `changes` are statements, or words for what has no statement; `addresses` those that were found free.
    pub fn tell(self, changes: &[String], addresses: &[String]) -> Result<()> {
        if self.json {
            let record = json!({"dry_run": self.dry_run, "changes": changes, "addresses": addresses});
            return print(&format!("{record}\n"));
        }
        let lines = if self.dry_run { changes } else { addresses };
        print(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())
    }
}
