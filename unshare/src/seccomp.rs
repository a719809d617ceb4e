//! seccomp: which system calls a program may make at all (seccomp(2), BPF as in linux/filter.h).

mod rules;

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Error, Result, bail};
use libc::sock_filter;
use nix::errno::Errno;

use crate::caps::Caps;
use crate::{fail, sys};
use rules::Arch;

/// What --seccomp asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Our own table of rules.
    Default,
    /// The same for programs of x86 with 32 bits, too.
    I386,
    None,
    /// Compiled rules: records of struct sock_filter, as libseccomp exports and bwrap takes them.
    File(PathBuf),
}

impl Profile {
    /// "default", "i386", "none" or the name of a file.
    pub fn parse(word: OsString) -> Profile {
        match word.to_str() {
            Some("default") => Profile::Default,
            Some("i386") => Profile::I386,
            Some("none") => Profile::None,
            _ => Profile::File(word.into()),
        }
    }

    /// The filter for a process that keeps the capabilities `keep`; a file is read now.
    pub fn filter(&self, keep: Caps) -> Result<Option<Filter>> {
        match (self, Arch::HERE) {
            (Profile::None, _) => Ok(None),
            (Profile::Default, Some(arch)) => Ok(Some(Filter(rules::compile(&[arch], keep)))),
            (Profile::I386, Some(Arch::X86_64)) => {
                Ok(Some(Filter(rules::compile(&[Arch::X86_64, Arch::I386], keep))))
            }
            (Profile::Default | Profile::I386, _) => {
                let error = Error::msg("there is no such seccomp profile for this architecture");
                Err(fail::hint(error, "add --seccomp none, or --seccomp FILE"))
            }
            (Profile::File(path), _) => {
                let decoded = fs::read(path).map_err(Error::new).and_then(|bytes| decode(&bytes));
                decoded
                    .map(Some)
                    .with_context(|| format!("cannot read the seccomp filter '{}'", path.display()))
            }
        }
    }
}

/// A program for the kernel's BPF machine.
#[derive(Debug)]
pub struct Filter(Vec<sock_filter>);

impl Filter {
    /// Binds this process, and all that it will become or start, for ever. Needs CAP_SYS_ADMIN in the user
    /// namespace; without it, the kernel's other condition is met: no_new_privs is set.
    pub fn load(&self) -> Result<()> {
        let mut done = sys::seccomp_filter(&self.0);
        if done == Err(Errno::EACCES) {
            sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).context("cannot set no_new_privs")?;
            done = sys::seccomp_filter(&self.0);
        }
        match done.map_err(Error::new).context("cannot load the seccomp filter") {
            // What we compile the kernel takes, unless it was built without the whole; a file may hold nonsense.
            Err(error) if done == Err(Errno::EINVAL) => Err(fail::hint(
                error,
                "the filter is not valid, or this kernel has no seccomp: --seccomp none",
            )),
            done => done,
        }
    }
}

fn decode(bytes: &[u8]) -> Result<Filter> {
    let (records, most) = (bytes.chunks_exact(8), libc::BPF_MAXINSNS as usize);
    if !records.remainder().is_empty() || !(1..=most).contains(&records.len()) {
        bail!("not a compiled filter: 1 to {most} records of 8 bytes");
    }
    let record = |b: &[u8]| sock_filter {
        code: u16::from_ne_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
    };
    Ok(Filter(records.map(record).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_names_a_profile_or_a_file() {
        assert_eq!(Profile::parse("default".into()), Profile::Default);
        assert_eq!(Profile::parse("i386".into()), Profile::I386);
        assert_eq!(Profile::parse("none".into()), Profile::None);
        assert_eq!(Profile::parse("./none".into()), Profile::File("./none".into()));
        assert!(Profile::None.filter(Caps::NONE).unwrap().is_none());
    }

    #[test]
    fn a_file_is_whole_records_and_not_too_many() {
        assert!(decode(&[]).is_err() && decode(&[0; 7]).is_err() && decode(&[0; 4097 * 8]).is_err());
        assert_eq!(decode(&[0; 4096 * 8]).unwrap().0.len(), 4096);
        let one = decode(&[6, 0, 1, 2, 0, 0, 0xff, 0x7f]).unwrap().0[0];
        assert_eq!((one.code, one.jt, one.jf, one.k.to_ne_bytes()), (6, 1, 2, [0, 0, 0xff, 0x7f]));
    }
}
