//! fstab: the lines of fstab(5) whose targets lie inside the new root.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow, bail};
use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sys::stat::Mode;

use crate::fail::{self, Usage};
use crate::rooted;

/// One line, ready for mount(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub source: OsString,
    pub target: PathBuf,
    pub kind: OsString,
    pub bind: Option<Bind>,
    /// For a bind mount what the second call adds; else the flags of the one call.
    pub flags: MsFlags,
    pub propagation: Option<MsFlags>,
    /// What the file system itself understands.
    pub data: OsString,
    /// x-mount.mkdir[=MODE]: make the target when it is missing, its directories with this mode.
    pub mkdir: Option<Mode>,
    /// A missing source or target is no failure.
    pub nofail: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    One,
    Recursive,
}

#[rustfmt::skip]
const FLAGS: [(&str, MsFlags); 10] = [
    ("ro",          MsFlags::MS_RDONLY),
    ("nosuid",      MsFlags::MS_NOSUID),
    ("nodev",       MsFlags::MS_NODEV),
    ("noexec",      MsFlags::MS_NOEXEC),
    ("noatime",     MsFlags::MS_NOATIME),
    ("nodiratime",  MsFlags::MS_NODIRATIME),
    ("relatime",    MsFlags::MS_RELATIME),
    ("strictatime", MsFlags::MS_STRICTATIME),
    ("sync",        MsFlags::MS_SYNCHRONOUS),
    ("dirsync",     MsFlags::MS_DIRSYNC),
];

/// Words that take a flag back.
#[rustfmt::skip]
const CLEARS: [(&str, MsFlags); 6] = [
    ("rw",    MsFlags::MS_RDONLY),
    ("suid",  MsFlags::MS_NOSUID),
    ("dev",   MsFlags::MS_NODEV),
    ("exec",  MsFlags::MS_NOEXEC),
    ("atime", MsFlags::MS_NOATIME),
    ("async", MsFlags::MS_SYNCHRONOUS),
];

#[rustfmt::skip]
const PROPAGATIONS: [(&str, MsFlags); 8] = [
    ("private",     MsFlags::MS_PRIVATE),
    ("rprivate",    MsFlags::MS_PRIVATE.union(MsFlags::MS_REC)),
    ("slave",       MsFlags::MS_SLAVE),
    ("rslave",      MsFlags::MS_SLAVE.union(MsFlags::MS_REC)),
    ("shared",      MsFlags::MS_SHARED),
    ("rshared",     MsFlags::MS_SHARED.union(MsFlags::MS_REC)),
    ("unbindable",  MsFlags::MS_UNBINDABLE),
    ("runbindable", MsFlags::MS_UNBINDABLE.union(MsFlags::MS_REC)),
];

/// Words for mount(8) and the boot that mean nothing to one mount(2).
const IGNORED: [&str; 8] = ["defaults", "auto", "noauto", "user", "nouser", "users", "_netdev", "owner"];

pub fn read(file: &Path) -> Result<Vec<Line>> {
    let text = fs::read(file).with_context(|| format!("cannot read '{}'", file.display()))?;
    text.split(|b| *b == b'\n')
        .enumerate()
        .filter_map(|(at, line)| {
            parse(line).with_context(|| format!("'{}' line {}", file.display(), at + 1)).transpose()
        })
        .collect()
}

impl Line {
    /// "'/data'", with the device where it is one: what an error is about.
    pub fn named(&self) -> String {
        let target = self.target.display();
        match self.bind.is_none() && self.source.as_encoded_bytes().starts_with(b"/") {
            true => format!("'{}' on '{target}'", self.source.to_string_lossy()),
            false => format!("'{target}'"),
        }
    }

    /// Where to mount, inside `root`; made when the line asks for it.
    pub fn place(&self, root: BorrowedFd<'_>, directory: bool) -> Result<OwnedFd> {
        let found = match (self.mkdir, directory) {
            (None, _) => rooted::open_path(root, &self.target),
            (Some(mode), true) => rooted::make_dirs_with(root, &self.target, mode),
            (Some(mode), false) => rooted::make_file(root, &self.target, mode),
        };
        found.map_err(|errno| match errno {
            Errno::ENOENT => fail::hint(Error::new(errno), "add the option x-mount.mkdir to make it"),
            _ => Error::new(errno),
        })
    }

    /// Its flags for mount_setattr(2).
    pub fn attributes(&self) -> u64 {
        attributes(self.flags)
    }
}

/// Flags as mount_setattr(2) has them (MOUNT_ATTR_*, linux/mount.h).
pub fn attributes(flags: MsFlags) -> u64 {
    const ATTRIBUTES: [(MsFlags, u64); 6] = [
        (MsFlags::MS_RDONLY, 1),
        (MsFlags::MS_NOSUID, 2),
        (MsFlags::MS_NODEV, 4),
        (MsFlags::MS_NOEXEC, 8),
        (MsFlags::MS_NOATIME, 0x10),
        (MsFlags::MS_NODIRATIME, 0x80),
    ];
    ATTRIBUTES.iter().filter(|(flag, _)| flags.contains(*flag)).fold(0, |set, (_, bit)| set | bit)
}

/// One line; None for an empty one, a comment, and swap.
pub fn parse(line: &[u8]) -> Result<Option<Line>> {
    let mut fields = line.split(|b| b.is_ascii_whitespace()).filter(|f| !f.is_empty()).map(unescape);
    let Some(source) = fields.next().filter(|f| !f.as_bytes().starts_with(b"#")) else { return Ok(None) };
    let (Some(target), Some(kind)) = (fields.next(), fields.next()) else {
        bail!(Usage("a line has at least: source, target, type".into()));
    };
    let options = fields.next().unwrap_or_default();
    if kind == "swap" {
        return Ok(None);
    }
    make(source, target.into(), kind, &options).map(Some)
}

/// The line that SOURCE:TARGET[:OPTIONS] stands for: a recursive bind mount. A colon of a name is written \:
pub fn bind(word: &OsStr) -> Result<Line> {
    let mut fields = vec![Vec::new()];
    let mut bytes = word.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b':' => fields.push(Vec::new()),
            b'\\' if bytes.peek() == Some(&b':') => {
                fields.last_mut().expect("never empty").extend(bytes.next())
            }
            _ => fields.last_mut().expect("never empty").push(byte),
        }
    }
    let mut fields = fields.into_iter().map(OsString::from_vec);
    let (source, target, options) = (fields.next(), fields.next(), fields.next().unwrap_or_default());
    let (Some(source), Some(target), None) = (source.filter(|s| !s.is_empty()), target, fields.next()) else {
        bail!(Usage(format!("not SOURCE:TARGET[:OPTIONS]: '{}'", word.to_string_lossy())));
    };
    let mut options_of_bind = OsString::from("rbind,");
    options_of_bind.push(options);
    make(source, target.into(), "none".into(), &options_of_bind)
}

fn make(source: OsString, target: PathBuf, kind: OsString, options: &OsStr) -> Result<Line> {
    if !target.is_absolute() {
        bail!(Usage(format!("the target '{}' does not begin with a slash", target.display())));
    }
    let mut line = Line {
        source,
        target,
        kind,
        bind: None,
        flags: MsFlags::empty(),
        propagation: None,
        data: OsString::new(),
        mkdir: None,
        nofail: false,
    };
    for word in options.as_bytes().split(|b| *b == b',').filter(|w| !w.is_empty()) {
        option(&mut line, OsStr::from_bytes(word))?;
    }
    if line.bind.is_some() && !line.data.is_empty() {
        let word = line.data.to_string_lossy();
        bail!(Usage(format!("a bind mount takes no option '{word}'")));
    }
    Ok(line)
}

fn option(line: &mut Line, word: &OsStr) -> Result<()> {
    let find =
        |table: &[(&str, MsFlags)]| table.iter().find(|(name, _)| word == *name).map(|(_, flag)| *flag);
    if let Some(flag) = find(&FLAGS) {
        line.flags |= flag;
    } else if let Some(flag) = find(&CLEARS) {
        line.flags -= flag;
    } else if let Some(mode) = find(&PROPAGATIONS) {
        line.propagation = Some(mode);
    } else if word == "bind" {
        line.bind = Some(Bind::One);
    } else if word == "rbind" {
        line.bind = Some(Bind::Recursive);
    } else if word == "nofail" {
        line.nofail = true;
    } else if word == "x-mount.mkdir" {
        line.mkdir = Some(rooted::USUAL);
    } else if let Some(mode) = word.as_bytes().strip_prefix(b"x-mount.mkdir=") {
        line.mkdir = Some(octal(mode)?);
    } else if word == "loop" || word == "remount" {
        let word = word.to_string_lossy();
        return Err(anyhow!(Usage(format!("the option '{word}' needs mount(8): mount it before"))));
    } else if !IGNORED.iter().any(|w| word == *w) && !word.as_bytes().starts_with(b"x-") {
        if !line.data.is_empty() {
            line.data.push(",");
        }
        line.data.push(word);
    }
    Ok(())
}

fn octal(word: &[u8]) -> Result<Mode> {
    let text = String::from_utf8_lossy(word);
    let mode = u32::from_str_radix(&text, 8).ok().and_then(Mode::from_bits);
    mode.ok_or_else(|| anyhow!(Usage(format!("x-mount.mkdir={text}: not a mode, such as 0755"))))
}

/// fstab(5): a space is \040, a tab \011, a newline \012, a backslash \134.
pub fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|d| byte == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match octal {
            Some(digits) => {
                out.push(digits.iter().fold(0u8, |n, b| n.wrapping_mul(8).wrapping_add(b - b'0')));
                rest = &after[3..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Line {
        parse(text.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn a_bind_mount_keeps_its_flags_for_the_second_call() {
        let line = one("/data /srv none bind,ro,nosuid 0 0");
        assert_eq!(line.bind, Some(Bind::One));
        assert_eq!(line.flags, MsFlags::MS_RDONLY | MsFlags::MS_NOSUID);
    }

    #[test]
    fn the_last_word_wins() {
        assert_eq!(one("a /b tmpfs ro,rw").flags, MsFlags::empty());
    }

    #[test]
    fn what_the_kernel_does_not_know_goes_to_the_file_system() {
        let line = one("tmpfs /run tmpfs nosuid,size=10m,mode=755,x-mount.mkdir,x-other=1,defaults");
        assert_eq!((line.data, line.mkdir), ("size=10m,mode=755".into(), Some(rooted::USUAL)));
        assert_eq!(one("a /b none bind,x-mount.mkdir=0700").mkdir, Some(Mode::S_IRWXU));
    }

    #[test]
    fn a_bind_is_written_with_colons() {
        let line = bind("/a:/b:ro".as_ref()).unwrap();
        assert_eq!((line.source, line.target), ("/a".into(), "/b".into()));
        assert_eq!((line.bind, line.flags), (Some(Bind::Recursive), MsFlags::MS_RDONLY));
        let line = bind(r"/a\:1:/b\:2".as_ref()).unwrap();
        assert_eq!((line.source, line.target), ("/a:1".into(), "/b:2".into()));
        for (word, why) in [
            ("/a", "SOURCE"),
            (":/b", "SOURCE"),
            ("/a:b", "slash"),
            ("/a:/b:ro:x", "SOURCE"),
            ("/a:/b:size=1", "no option"),
        ] {
            assert!(bind(word.as_ref()).unwrap_err().to_string().contains(why), "{word}");
        }
    }

    #[test]
    fn spaces_are_written_in_octal() {
        let line = one(r"/my\040dir /a\134b none bind");
        assert_eq!((line.source, line.target), ("/my dir".into(), r"/a\b".into()));
    }

    #[test]
    fn comments_empty_lines_and_swap_are_passed_over() {
        for text in ["", "   ", "# /a /b none bind", "UUID=1 none swap sw 0 0"] {
            assert_eq!(parse(text.as_bytes()).unwrap(), None, "{text:?}");
        }
    }

    #[test]
    fn bad_lines_say_why() {
        for (text, why) in [
            ("/a", "at least"),
            ("/a b none bind", "slash"),
            ("/a /b none bind,size=1", "no option 'size=1'"),
            ("/a /b ext4 loop", "mount(8)"),
            ("/a /b none bind,x-mount.mkdir=rwx", "not a mode"),
            ("/a /b none bind,x-mount.mkdir=", "not a mode"),
        ] {
            assert!(parse(text.as_bytes()).unwrap_err().to_string().contains(why), "{text}");
        }
    }

    #[test]
    fn fuzz_lines_take_anything() {
        crate::fuzz::rounds(3000, |dice| {
            let line = dice.text("/a \t\\0479#,=bindrotmpfsx-mount.mkdirnofailloop\u{e9}", 60);
            if let Ok(Some(line)) = parse(line.as_bytes()) {
                assert!(line.target.is_absolute() && (line.bind.is_none() || line.data.is_empty()));
            }
            let words =
                ["ro", "rw", "bind", "rbind", "size=1", "x-mount.mkdir", "nofail", "rslave", "dev", ""];
            let options: Vec<_> = (0..dice.below(5)).map(|_| words[dice.below(10) as usize]).collect();
            if let Ok(Some(line)) = parse(format!("/a /b none {}", options.join(",")).as_bytes()) {
                let last = options.iter().rfind(|word| ["ro", "rw"].contains(word));
                assert_eq!(line.flags.contains(MsFlags::MS_RDONLY), last == Some(&"ro"));
            }
        });
    }
}
