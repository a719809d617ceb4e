//! trouble: the kinds of failure that have an exit status of their own.

use std::fmt;

use anyhow::{Error, anyhow};

/// What kind of failure it is; the man page's EXIT STATUS lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What was asked for does not exist or does not fit: suite, package, architecture, target.
    Asked = 2,
    Network = 3,
    Trust = 4,
    BadPackage = 5,
    Unresolvable = 6,
    /// An archive that tries to reach out of the tree.
    Hostile = 7,
}

#[derive(Debug)]
struct Trouble {
    kind: Kind,
    text: String,
    cause: Option<Error>,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Trouble {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| &**cause as _)
    }
}

impl Kind {
    /// A failure of this kind.
    pub fn error(self, text: impl Into<String>) -> Error {
        Error::new(Trouble { kind: self, text: text.into(), cause: None })
    }

    /// A failure of this kind that `cause` explains.
    pub fn because(self, text: impl Into<String>, cause: impl Into<Error>) -> Error {
        Error::new(Trouble { kind: self, text: text.into(), cause: Some(cause.into()) })
    }

    /// A failure of this kind, why, and what to do about it.
    pub fn hinted(self, text: impl Into<String>, why: impl fmt::Display, hint: impl Into<String>) -> Error {
        self.because(text, unshare::fail::hint(anyhow!("{why}"), hint))
    }
}

/// The kind that decides the exit status: the outermost one.
pub fn kind(error: &Error) -> Option<Kind> {
    error.chain().find_map(|e| e.downcast_ref::<Trouble>()).map(|trouble| trouble.kind)
}
