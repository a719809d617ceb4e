//! dpkg: its data base, written as dpkg would after unpacking everything (dpkg(1), deb-triggers(5)).

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use std::os::fd::AsFd;

use crate::packages::{Package, field};
use crate::tree::{Tree, write_at};
use crate::unpack::Unpacked;

pub const ADMIN: &str = "/var/lib/dpkg";

/// A package whose files are in the tree.
pub struct Installed<'a> {
    pub package: Package<'a>,
    /// Its control archive by file name.
    pub control: BTreeMap<String, Vec<u8>>,
    pub unpacked: Unpacked,
}

impl Installed<'_> {
    pub fn text(&self, name: &str) -> &str {
        self.control.get(name).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("")
    }

    /// How dpkg names it in files: with its architecture if several may be installed side by side.
    pub fn file_name(&self) -> String {
        let arch = field(self.text("control"), "Architecture").unwrap_or("all");
        match field(self.text("control"), "Multi-Arch") {
            Some("same") => format!("{}:{arch}", self.package.name),
            _ => self.package.name.to_owned(),
        }
    }
}

const SCRIPTS: [&str; 5] = ["preinst", "postinst", "prerm", "postrm", "config"];

pub fn write(tree: &Tree, packages: &[Installed]) -> Result<()> {
    let info = tree.make_dir("var/lib/dpkg/info")?;
    let file = |name: &str, bytes: &[u8], mode| {
        write_at(info.as_fd(), name.as_ref(), bytes, mode)
            .with_context(|| format!("cannot write '/var/lib/dpkg/info/{name}'"))
    };
    file("format", b"1\n", 0o644)?;
    let mut status = String::new();
    let mut triggers = BTreeMap::new();
    for package in packages {
        let stem = package.file_name();
        file(&format!("{stem}.list"), &package.unpacked.list, 0o644)?;
        for (name, bytes) in package.control.iter().filter(|(name, _)| *name != "control") {
            let mode = if SCRIPTS.contains(&name.as_str()) { 0o755 } else { 0o644 };
            file(&format!("{stem}.{name}"), bytes, mode)?;
        }
        status += &stanza(package);
        interests(package.text("triggers"), &stem, &mut triggers);
    }
    tree.write("var/lib/dpkg/status", status.as_bytes(), 0o644)?;
    for (name, text) in triggers {
        tree.write(&format!("var/lib/dpkg/triggers/{name}"), text.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// The control file with the status, and with what the archive, not the package, decides.
fn stanza(package: &Installed) -> String {
    let control = package.text("control");
    let mut text = format!("Package: {}\nStatus: install ok unpacked\n", package.package.name);
    for name in ["Priority", "Section"] {
        if let Some(value) = package.package.field(name).or_else(|| field(control, name)) {
            let _ = writeln!(text, "{name}: {value}");
        }
    }
    let mut skip = false;
    for line in control.lines().filter(|line| !line.trim().is_empty()) {
        if !line.starts_with([' ', '\t']) {
            let key = line.split(':').next().unwrap_or("");
            skip = ["Package", "Status", "Priority", "Section", "Conffiles"]
                .iter()
                .any(|k| k.eq_ignore_ascii_case(key));
        }
        if !skip {
            let _ = writeln!(text, "{line}");
        }
    }
    let known = &package.unpacked.conffiles;
    let conffiles: Vec<_> =
        package.text("conffiles").lines().filter_map(|l| known.get_key_value(l.trim())).collect();
    if !conffiles.is_empty() {
        text += "Conffiles:\n";
    }
    for (path, md5) in conffiles {
        let _ = writeln!(text, " {path} {md5}");
    }
    text + "\n"
}

/// Who waits for which trigger: a file a name, and one for all paths.
fn interests(text: &str, package: &str, triggers: &mut BTreeMap<String, String>) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(word), Some(name)) = (words.next(), words.next()) else { continue };
        let suffix = match word {
            "interest" | "interest-await" => "",
            "interest-noawait" => "/noawait",
            _ => continue,
        };
        if name.starts_with('/') {
            let _ = writeln!(triggers.entry("File".into()).or_default(), "{name} {package}{suffix}");
        } else if !name.contains('/') && !name.starts_with('.') {
            let _ = writeln!(triggers.entry(name.into()).or_default(), "{package}{suffix}");
        }
    }
}

/// apt's list of packages that nobody asked for (/var/lib/apt/extended_states).
pub fn automatic_marks(names: &[&str], packages: &[Installed], native: &str) -> String {
    let marked = packages.iter().filter(|p| names.contains(&p.package.name));
    marked.fold(String::new(), |mut text, p| {
        // Packages of architecture "all" belong to the native one.
        let _ = write!(text, "Package: {}\nArchitecture: {native}\nAuto-Installed: 1\n\n", p.package.name);
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed() -> Installed<'static> {
        let text = "Package: a\nVersion: 1\nPriority: required\nSection: base\n";
        let mut index = crate::packages::Index::default();
        index.add(text, 0);
        let control = "Package: a\nPriority: extra\nVersion: 1\nArchitecture: amd64\nMulti-Arch: same\n\
                       Description: x\n more\n";
        let mut unpacked = Unpacked::default();
        unpacked.conffiles.insert("/etc/a".into(), "0123".into());
        Installed {
            package: *index.get("a").unwrap(),
            control: [("control", control), ("conffiles", "/etc/b\n/etc/a\n")]
                .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
                .into(),
            unpacked,
        }
    }

    #[test]
    fn a_stanza_has_the_archives_priority_and_the_conffiles() {
        assert_eq!(
            stanza(&installed()),
            "Package: a\nStatus: install ok unpacked\nPriority: required\nSection: base\nVersion: 1\n\
             Architecture: amd64\nMulti-Arch: same\nDescription: x\n more\nConffiles:\n /etc/a 0123\n\n"
        );
        assert_eq!(installed().file_name(), "a:amd64");
    }

    #[test]
    fn triggers_go_to_a_file_each_and_paths_to_one() {
        let mut triggers = BTreeMap::new();
        let text = "interest-noawait ldconfig\ninterest /usr/share/x\nactivate y\n# z\ninterest ../w\n";
        interests(text, "a", &mut triggers);
        let expected = [("File", "/usr/share/x a\n"), ("ldconfig", "a/noawait\n")];
        assert_eq!(triggers, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }
}
