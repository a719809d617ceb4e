//! deb: the parts of a binary package (deb(5), ar(5)): control files and the compressed tree.

use std::collections::BTreeMap;
use std::io::{self, Read};

use anyhow::{Context, Result, anyhow, bail};
use lzma_rust2::XzReader;

use crate::xz;

/// Control members are small; one that is not is meant to fill the memory.
const CONTROL_LIMIT: u64 = 64 << 20;

pub struct Deb<'a> {
    /// Files of control.tar by name.
    pub control: BTreeMap<String, Vec<u8>>,
    data: (&'a str, &'a [u8]),
}

impl<'a> Deb<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Deb<'a>> {
        let members = members(bytes)?;
        let find = |stem: &str| members.iter().find(|(name, _)| name.starts_with(stem)).copied();
        if find("debian-binary").is_none_or(|(_, version)| !version.starts_with(b"2.")) {
            bail!("it is not a Debian package of format 2");
        }
        let (name, packed) = find("control.tar").context("it has no control.tar")?;
        let control = control(unpacker(name, packed)?).context("its control.tar is damaged")?;
        Ok(Deb { control, data: find("data.tar").context("it has no data.tar")? })
    }

    /// The tree as a tar stream.
    pub fn data(&self) -> Result<Box<dyn Read + 'a>> {
        unpacker(self.data.0, self.data.1)
    }

    /// A control file as text; "" when there is none.
    pub fn text(&self, name: &str) -> &str {
        self.control.get(name).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("")
    }
}

/// The members of an ar archive by name.
fn members(bytes: &[u8]) -> Result<Vec<(&str, &[u8])>> {
    let mut rest = bytes.strip_prefix(b"!<arch>\n").context("it is not an ar archive")?;
    let mut found = Vec::new();
    while rest.len() >= 60 {
        let (head, body) = rest.split_at(60);
        let head = std::str::from_utf8(head)
            .ok()
            .filter(|h| h.ends_with("`\n"))
            .context("an ar header is damaged")?;
        let name = head.get(..16).context("an ar header is damaged")?;
        let size = head.get(48..58).and_then(|size| size.trim().parse::<usize>().ok());
        let size = size.context("an ar header has no size")?;
        let data = body.get(..size).context("an ar member is cut off")?;
        found.push((name.trim_end().trim_end_matches('/'), data));
        // Members begin at even offsets.
        rest = body.get(size + size % 2..).unwrap_or(&[]);
    }
    Ok(found)
}

/// By the end of a file's name the reader of what is packed in it. The caller knows that the bytes are the right ones.
pub fn unpacker<'a>(name: &str, packed: &'a [u8]) -> Result<Box<dyn Read + 'a>> {
    Ok(match name.rsplit('.').next() {
        Some("xz") => match xz::reader(packed) {
            Some(reader) => Box::new(reader),
            None => Box::new(XzReader::new(packed, true)),
        },
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(packed)),
        Some("zst") => Box::new(
            ruzstd::decoding::StreamingDecoder::new(packed)
                .map_err(|e| anyhow!("it is not zstd data: {e}"))?,
        ),
        Some("tar") => Box::new(packed),
        _ => bail!("'{name}' is compressed in a way that is not known here"),
    })
}

fn control(reader: impl Read) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut archive = tar::Archive::new(reader.take(CONTROL_LIMIT));
    let mut files = BTreeMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        // The name becomes part of a file name in dpkg's data base.
        if name.is_empty()
            || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            || name.starts_with('.')
        {
            return Err(io::Error::other(format!("unexpected file '{name}'")));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        files.insert(name, bytes);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ar(parts: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = b"!<arch>\n".to_vec();
        for (name, data) in parts {
            out.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 644, data.len()).bytes());
            out.extend(*data);
            out.extend(&b"\n"[..data.len() % 2]);
        }
        out
    }

    #[test]
    fn members_are_found_at_even_offsets() {
        let bytes = ar(&[("a", b"odd"), ("b/", b"even")]);
        assert_eq!(members(&bytes).unwrap(), [("a", &b"odd"[..]), ("b", b"even")]);
    }

    #[test]
    fn damage_is_an_error_and_not_a_panic() {
        let whole = ar(&[("debian-binary", b"2.0\n"), ("control.tar", b""), ("data.tar", b"xx")]);
        assert!(Deb::parse(&whole).is_ok());
        for end in 0..whole.len() {
            assert!(Deb::parse(&whole[..end]).is_err(), "cut at {end}");
        }
        assert!(Deb::parse(&ar(&[("debian-binary", b"3.0\n")])).is_err());
        assert!(unpacker("x.lz", b"").is_err());
    }
}
