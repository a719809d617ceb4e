//! fuzz: what the parsers of other people's bytes do with damaged ones: an error, never a panic and never a
//! path outside. Quick with fixed seeds; FUZZ_ROUNDS=N for more.

use crate::deb::Deb;
use crate::packages::{Index, groups};
use crate::release::Release;
use crate::resolve::{Demand, Variant, select};
use crate::tree::inner_path;

/// Numbers that look random (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }

    /// Bytes changed, cut out, doubled or put in.
    fn damage(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..1 + self.below(8) {
            let at = self.below(bytes.len());
            match self.below(5) {
                0 if !bytes.is_empty() => bytes[at] = self.below(256) as u8,
                1 => bytes.truncate(at),
                2 => bytes.insert(at, b" \n:|,()0-/.\0\xff"[self.below(13)]),
                3 => {
                    let end = (at + self.below(64)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                _ => {
                    let end = (at + self.below(64)).min(bytes.len());
                    bytes.drain(at..end);
                }
            }
        }
        bytes
    }
}

fn rounds(mut round: impl FnMut(&mut Dice)) {
    let count = std::env::var("FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    for seed in 1..=count {
        round(&mut Dice(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15) | 1));
    }
}

const PACKAGES: &str = "Package: a\nVersion: 1:2-3\nEssential: yes\nDepends: b (>= 1) | c:any, d\nSize: 1\n\n\
                        Package: b\nVersion: 1~x\nProvides: d (= 2), e\nConflicts: c (<< 3) [amd64]\nTag: x,\n y\n\n\
                        Package: c\nPriority: required\nVersion: 9\nPre-Depends: b\n";

#[test]
fn damaged_indexes_are_read_or_refused() {
    rounds(|dice| {
        let bytes = dice.damage(PACKAGES.as_bytes());
        let text = String::from_utf8_lossy(&bytes);
        let mut index = Index::default();
        index.add(&text, 0);
        for package in index.packages() {
            let _ = groups(package.field("Depends").unwrap_or("")).count();
        }
        let include = ["b".to_owned()];
        let (codename, arch, variant) = ("bookworm", "amd64", Variant::Standard);
        let demand = Demand { codename, arch, variant, merged: true, include: &include, exclude: &[] };
        let _ = select(&index, &demand);
    });
}

#[test]
fn damaged_release_files_are_read_or_refused() {
    let sha = "a".repeat(64);
    let text = format!(
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nSuite: x\nDate: Sat, 10 Jun 2023 08:54:09 UTC\n\
         Valid-Until: Sat, 17 Jun 2023 08:54:09 UTC\nSHA256:\n {sha} 7 main/Packages.xz\n\
         -----BEGIN PGP SIGNATURE-----\n\nabc\n-----END PGP SIGNATURE-----\n"
    );
    rounds(|dice| {
        let bytes = dice.damage(text.as_bytes());
        if let Ok((message, _)) = crate::signature::take_apart(&bytes) {
            let release = Release::parse(&message);
            let _ = release.check_date(1_686_387_249, true);
        }
    });
}

#[test]
fn damaged_xz_files_are_unpacked_or_refused() {
    let packed = crate::xz::tests::three_blocks();
    rounds(|dice| {
        let bytes = dice.damage(&packed);
        let _ = crate::xz::unpack(&bytes, 171);
    });
}

fn tar(entries: &[(&str, tar::EntryType)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_size(if kind.is_file() { 4 } else { 0 });
        let body: &[u8] = if kind.is_file() { b"text" } else { b"" };
        builder.append_data(&mut header, name, body).expect("a vector takes all");
    }
    builder.into_inner().expect("a vector takes all")
}

#[test]
fn damaged_packages_are_read_or_refused() {
    let control = tar(&[("./control", tar::EntryType::Regular), ("./md5sums", tar::EntryType::Regular)]);
    let data = tar(&[("./usr/", tar::EntryType::Directory), ("./usr/x", tar::EntryType::Regular)]);
    let mut deb = b"!<arch>\n".to_vec();
    for (name, body) in [("debian-binary", b"2.0\n".to_vec()), ("control.tar", control), ("data.tar", data)] {
        deb.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 644, body.len()).bytes());
        deb.extend(&body);
        deb.extend(&b"\n"[..body.len() % 2]);
    }
    assert!(Deb::parse(&deb).is_ok());
    rounds(|dice| {
        let bytes = dice.damage(&deb);
        let Ok(deb) = Deb::parse(&bytes) else { return };
        let Ok(data) = deb.data() else { return };
        let mut archive = tar::Archive::new(data);
        for entry in archive.entries().into_iter().flatten().map_while(Result::ok) {
            if let Some(path) = inner_path(&entry.path_bytes()) {
                assert!(
                    path.components().all(|part| matches!(part, std::path::Component::Normal(_))),
                    "{path:?}"
                );
            }
        }
    });
}
