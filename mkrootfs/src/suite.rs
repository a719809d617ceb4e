//! suite: what is known of suites by their names, as no mirror can be asked for it before it is trusted: whose
//! keys sign them, which suites belong beside them, whether their /usr is merged. A name that is not here is
//! taken for a new one of Debian.

use crate::packages::distance;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Debian,
    Ubuntu,
}

/// How the suite of security updates is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    None,
    /// "buster/updates".
    Slash,
    /// "bookworm-security".
    Dash,
}

#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub name: &'static str,
    pub family: Family,
    pub security: Security,
    /// /bin, /sbin and /lib are links into /usr: what debootstrap does for a new root.
    pub merged: bool,
    /// Its keys have left the usual keyring for the one of removed keys.
    pub old_keys: bool,
}

const fn debian(name: &'static str, security: Security, merged: bool, old_keys: bool) -> Facts {
    Facts { name, family: Family::Debian, security, merged, old_keys }
}

const fn ubuntu(name: &'static str, merged: bool) -> Facts {
    Facts { name, family: Family::Ubuntu, security: Security::Dash, merged, old_keys: false }
}

const SUITES: [Facts; 25] = [
    debian("wheezy", Security::Slash, false, true),
    debian("jessie", Security::Slash, false, true),
    debian("stretch", Security::Slash, false, true),
    debian("buster", Security::Slash, true, true),
    debian("bullseye", Security::Dash, true, false),
    debian("bookworm", Security::Dash, true, false),
    debian("trixie", Security::Dash, true, false),
    debian("oldoldstable", Security::Dash, true, false),
    debian("oldstable", Security::Dash, true, false),
    debian("stable", Security::Dash, true, false),
    debian("forky", Security::None, true, false),
    debian("duke", Security::None, true, false),
    debian("testing", Security::None, true, false),
    debian("sid", Security::None, true, false),
    debian("unstable", Security::None, true, false),
    debian("experimental", Security::None, true, false),
    ubuntu("trusty", false),
    ubuntu("xenial", false),
    ubuntu("bionic", false),
    ubuntu("focal", true),
    ubuntu("jammy", true),
    ubuntu("noble", true),
    ubuntu("plucky", true),
    ubuntu("questing", true),
    ubuntu("resolute", true),
];

pub fn facts(suite: &str) -> Facts {
    SUITES.iter().find(|facts| facts.name == suite).copied().unwrap_or(debian(
        "",
        Security::None,
        true,
        false,
    ))
}

impl Facts {
    /// The suites of corrections that belong to `suite`: after the release, and for security.
    pub fn beside(&self, suite: &str) -> Option<[String; 2]> {
        match self.security {
            Security::None => None,
            Security::Slash => Some([format!("{suite}-updates"), format!("{suite}/updates")]),
            Security::Dash => Some([format!("{suite}-updates"), format!("{suite}-security")]),
        }
    }

    /// The keyrings in /usr/share/keyrings whose keys are trusted when the user names none.
    pub fn keyrings(&self) -> &'static [&'static str] {
        match (self.family, self.old_keys) {
            (Family::Debian, false) => &["debian-archive-keyring"],
            (Family::Debian, true) => &["debian-archive-keyring", "debian-archive-removed-keys"],
            (Family::Ubuntu, _) => &["ubuntu-archive-keyring"],
        }
    }

    /// The package that brings them.
    pub fn keyring_package(&self) -> &'static str {
        match self.family {
            Family::Debian => "debian-archive-keyring",
            Family::Ubuntu => "ubuntu-keyring",
        }
    }
}

pub fn is_debian(suite: &str) -> bool {
    SUITES.iter().any(|facts| facts.name == suite && facts.family == Family::Debian)
}

/// What a mistyped name may have meant.
pub fn nearest(suite: &str) -> Option<&'static str> {
    let near = SUITES.iter().map(|facts| (distance(facts.name, suite), facts.name)).min()?;
    (1..=2).contains(&near.0).then_some(near.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_names_of_security_suites() {
        let beside = |suite: &str| facts(suite).beside(suite).map(|[_, security]| security);
        assert_eq!(beside("buster").as_deref(), Some("buster/updates"));
        assert_eq!(beside("bookworm").as_deref(), Some("bookworm-security"));
        assert_eq!(beside("noble").as_deref(), Some("noble-security"));
        assert_eq!(beside("sid"), None);
        assert_eq!(beside("unheard-of"), None);
    }

    #[test]
    fn mistyped_suites_have_a_neighbour() {
        assert_eq!(nearest("bokworm"), Some("bookworm"));
        assert_eq!(nearest("bookworm"), None);
        assert_eq!(nearest("windows"), None);
    }
}
