//! step: what a plan is made of: changes, in order, each with what its undo and its check need.

use std::fmt;
use std::path::PathBuf;

use crate::check::Check;
use crate::group::Place;

/// One change, with what its undo needs.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    MakeDir(PathBuf),
    /// The new directory lives as long as this cgset: say so on it.
    Mark {
        dir: PathBuf,
        /// It stands above the group, and others may use it meanwhile.
        level: bool,
    },
    /// v1 cpuset: nobody may enter before these are filled.
    Inherit(PathBuf),
    /// Hand a v2 controller down from this level.
    Enable {
        level: PathBuf,
        controller: String,
    },
    /// Refuse a limit below what is in use; v1 does, v2 would kill.
    MakeRoom {
        dir: PathBuf,
        bytes: u64,
    },
    /// One of these files must be there, of which each is written if it is.
    NeedOne(Vec<PathBuf>),
    Write {
        file: PathBuf,
        value: String,
        check: Check,
        optional: bool,
    },
    /// v1: who is in the group already is not yet in a tree that it did not use before.
    Gather {
        from: Vec<PathBuf>,
        into: Place,
    },
    Own {
        dir: PathBuf,
        files: Vec<String>,
        ids: Ids,
    },
    Move {
        pid: i32,
        file: PathBuf,
        back: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    pub user: u32,
    /// None: as it is.
    pub group: Option<u32>,
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group {
            Some(group) => write!(f, "{}:{group}", self.user),
            None => write!(f, "{}", self.user),
        }
    }
}

/// The whole of it.
pub struct Plan {
    pub steps: Vec<Step>,
    /// Where the command goes, the tracker's first.
    pub places: Vec<Place>,
    /// The group does not exist yet.
    pub fresh: bool,
    /// v1, and a kill for memory is to end all that runs inside.
    pub as_unit: bool,
    /// What the user should know beforehand.
    pub notes: Vec<String>,
}
