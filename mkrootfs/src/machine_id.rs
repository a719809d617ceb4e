//! machine_id: what a machine knows itself by (machine-id(5)), which no two may share. D-Bus has a copy of its own,
//! where no link stands for it (dbus-uuidgen(1)).

use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result};

use crate::digest;
use crate::tree::Tree;

const OWN: &str = "etc/machine-id";
const DBUS: &str = "var/lib/dbus/machine-id";

/// A new one, the same in all its files, for the copy of a root that has one.
pub fn renew(tree: &Tree) -> Result<()> {
    let is_set =
        |path: &str| tree.is_file(path) && tree.read(path).is_some_and(|id| id.trim_ascii().len() == 32);
    let id = random()?;
    [(OWN, 0o444), (DBUS, 0o644)]
        .iter()
        .filter(|(path, _)| is_set(path))
        .try_for_each(|(path, mode)| tree.write(path, format!("{id}\n").as_bytes(), *mode))
}

/// None in a root that many machines are made from: each makes its own when it starts.
pub fn forget(tree: &Tree) -> Result<()> {
    if tree.is_file(OWN) {
        tree.write(OWN, b"", 0o444)?;
    }
    if tree.is_file(DBUS) { tree.remove(DBUS) } else { Ok(()) }
}

/// As systemd makes them: a random UUID (RFC 9562, version 4).
fn random() -> Result<String> {
    let mut bytes = [0; 16];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.context("cannot read '/dev/urandom'")?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(digest::hex(&bytes))
}
