//! xz: what is packed in blocks, each of which stands by itself (The .xz File Format 1.2.1): a large index, which
//! Debian's archive packs by 24 MiB, by several threads; a package, which is one block, without the sums in the file.
//! They would take a sixth of the time, and say nothing: the caller has checked the SHA-256 of the whole. A file that
//! is not of this kind is left to the common way.

use std::io::{self, Read};
use std::sync::Mutex;
use std::{thread, vec};

use anyhow::{Context, Result, bail};
use lzma_rust2::Lzma2Reader;

/// One block's packed data, without its header.
#[derive(Debug, PartialEq, Eq)]
struct Block<'p> {
    packed: &'p [u8],
    dictionary: u32,
    size: usize,
}

impl<'p> Block<'p> {
    fn reader(&self) -> Lzma2Reader<&'p [u8]> {
        Lzma2Reader::new(self.packed, self.dictionary, None)
    }
}

/// One block after the other.
struct Blocks<'p> {
    waiting: vec::IntoIter<Block<'p>>,
    /// The one that is read, and how many bytes are to come.
    open: Option<(Lzma2Reader<&'p [u8]>, usize)>,
}

/// What is packed, if it is in blocks.
pub fn reader(packed: &[u8]) -> Option<impl Read + '_> {
    Some(Blocks { waiting: blocks(packed)?.into_iter(), open: None })
}

impl Read for Blocks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() {
            if let Some((reader, left)) = &mut self.open {
                let count = reader.read(buffer)?;
                *left =
                    left.checked_sub(count).filter(|left| count > 0 || *left == 0).ok_or_else(wrong_size)?;
                if count > 0 {
                    return Ok(count);
                }
            }
            let Some(next) = self.waiting.next() else { break };
            self.open = Some((next.reader(), next.size));
        }
        Ok(0)
    }
}

fn wrong_size() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a block is not as long as its index says")
}

/// What is packed, if it is in several blocks, `size` bytes long in all.
pub fn unpack(packed: &[u8], size: u64) -> Option<Result<Vec<u8>>> {
    let blocks = blocks(packed).filter(|blocks| blocks.len() > 1)?;
    let sum = blocks.iter().try_fold(0_usize, |sum, block| sum.checked_add(block.size))?;
    // More than that is no index, and would take the memory at once.
    let likely = sum as u64 == size && sum / 100 <= packed.len();
    likely.then(|| side_by_side(&blocks, sum))
}

fn side_by_side(blocks: &[Block], size: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    let (mut rest, mut parts) = (&mut bytes[..], Vec::new());
    for block in blocks {
        let (part, more) = rest.split_at_mut(block.size);
        parts.push((block, part));
        rest = more;
    }
    let (count, parts) = (parts.len(), Mutex::new(parts.into_iter()));
    let next = || parts.lock().expect("no thread panics while it holds it").next();
    let work = || -> Result<()> {
        while let Some((block, part)) = next() {
            let mut reader = block.reader();
            reader.read_exact(part).context("a block is damaged")?;
            if reader.read(&mut [0]).context("a block is damaged")? != 0 {
                bail!(wrong_size());
            }
        }
        Ok(())
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(count);
    thread::scope(|scope| {
        // Where no more threads are allowed, this one does it all.
        let others: Vec<_> =
            (1..threads).filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
        let done = work();
        others.into_iter().fold(done, |done, other| done.and(other.join().expect("no thread of ours panics")))
    })?;
    Ok(bytes)
}

/// The blocks of the only stream of a file (sections 2 and 4); None where anything is unusual.
fn blocks(packed: &[u8]) -> Option<Vec<Block<'_>>> {
    const HEADER: usize = 12;
    let flags = packed.strip_prefix(b"\xfd7zXZ\0")?.get(..2)?;
    let check = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64][usize::from(flags[1] & 15)];
    let footer = packed.get(packed.len().checked_sub(HEADER)?..)?;
    if footer[8..] != [flags, &b"YZ"[..]].concat() {
        return None;
    }
    let index_size =
        (u32::from_le_bytes(footer[4..8].try_into().ok()?) as usize).checked_add(1)?.checked_mul(4)?;
    let index_at = (packed.len() - HEADER).checked_sub(index_size)?;
    let mut index = packed.get(index_at..)?.strip_prefix(&[0])?;
    let mut at = HEADER;
    let mut found = Vec::new();
    for _ in 0..number(&mut index)? {
        let (length, size) = (number(&mut index)?, number(&mut index)?);
        let end = at.checked_add(length).filter(|end| *end <= index_at)?;
        found.push(block(packed.get(at..end.checked_sub(check)?)?, size)?);
        at = end.next_multiple_of(4);
    }
    (at == index_at).then_some(found)
}

/// A block that is packed by LZMA2 alone (section 3).
fn block(bytes: &[u8], size: usize) -> Option<Block<'_>> {
    let (header, packed) = bytes.split_at_checked((usize::from(*bytes.first()?) + 1) * 4)?;
    let mut fields = header.get(2..)?;
    for present in [0x40, 0x80] {
        if header[1] & present != 0 {
            number(&mut fields)?;
        }
    }
    // One filter, of this number, with one byte that says how large its dictionary is (5.3.1): up to 64 MiB, as
    // each thread has one.
    match fields {
        [0x21, 1, bits @ 0..=28, ..] if header[1] & 0x3f == 0 => {
            let dictionary = (2 | u32::from(bits & 1)) << (bits / 2 + 11);
            Some(Block { packed, dictionary, size })
        }
        _ => None,
    }
}

/// A number in groups of seven bits, the lowest first (section 1.2).
fn number(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0_usize;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= usize::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// seq 1 60 | xz --block-size=64
    pub fn three_blocks() -> Vec<u8> {
        const HEX: &str = "\
            fd377a585a000004e6d6b4460200210116000000742fe5a3e0003f00345d001882828f224ef8a655f7f099a5250d9045\
            915a51b49bcaacdc0532ec85529fb1486defdce84bb961bae09c537f98c8a953857ee900e4c175f6319fa17a02002101\
            16000000742fe5a3e0003f002f5d001a82828b5c76fec7613765b84e2bf56df1df3791a95fde39ee44dbc6024e38aadd\
            36f582390097e49a31711e125a000000405e2ef1c5f1ea930200210116000000742fe5a3e0002a00235d00050defe9c8\
            59886b6c8620d6727b4c40a2b46141eac1cbae54c39649d5fb085c5b20000000feed3f210cd99704000350404b403f2b\
            ca145ac8b1c467fb020000000004595a";
        let digits: Vec<u8> = HEX.bytes().map(|c| char::from(c).to_digit(16).unwrap() as u8).collect();
        digits.chunks(2).map(|pair| (pair[0] << 4) | pair[1]).collect()
    }

    #[test]
    fn blocks_are_unpacked_side_by_side() {
        let text: String = (1..=60).map(|n| format!("{n}\n")).collect();
        let packed = three_blocks();
        let found = blocks(&packed).unwrap();
        assert_eq!(
            found.iter().map(|b| (b.size, b.dictionary)).collect::<Vec<_>>(),
            [(64, 8 << 20), (64, 8 << 20), (43, 8 << 20)]
        );
        assert_eq!(unpack(&packed, 171).unwrap().unwrap(), text.as_bytes());
        assert!(unpack(&packed, 170).is_none());
        assert!(unpack(&packed[..packed.len() - 4], 171).is_none());
        assert_eq!(io::read_to_string(reader(&packed).unwrap()).unwrap(), text);
        // 64 bytes, says the index of the first block.
        for said in [63, 65] {
            let mut wrong = packed.clone();
            let at = wrong.windows(4).rposition(|bytes| bytes == [0x50, 0x40, 0x4b, 0x40]).unwrap() + 1;
            wrong[at] = said;
            assert!(io::read_to_string(reader(&wrong).unwrap()).is_err(), "{said}");
        }
        let mut damaged = packed.clone();
        damaged[60] ^= 1;
        assert_ne!(unpack(&damaged, 171).unwrap().unwrap_or_default(), text.as_bytes());
    }
}
