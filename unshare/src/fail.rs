//! fail: how every tool ends: one line on stderr, a hint where there is a remedy, a documented status.

use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;

use anyhow::{Error, Result};
use nix::errno::Errno;

use crate::exec::ExecError;

/// A malformed command line: has a status of its own in netns, cgset and mkrootfs.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

pub fn usage(text: impl Into<String>) -> Error {
    Usage(text.into()).into()
}

/// A word of the command line that must be text: what is not UTF-8 is misuse.
pub fn text(word: OsString) -> Result<String> {
    word.into_string().map_err(|odd| Usage(format!("not valid text: '{}'", odd.to_string_lossy())).into())
}

/// An error with a remedy, printed as a second line.
#[derive(Debug)]
struct Hinted {
    error: Error,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)
    }
}

impl std::error::Error for Hinted {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// `error` with the line "hint: …" below it: say what to type.
pub fn hint(error: Error, hint: impl Into<String>) -> Error {
    Error::new(Hinted { error, hint: hint.into() })
}

/// The cause of type `T`, be it below a hint.
pub fn find<T: std::error::Error + 'static>(error: &Error) -> Option<&T> {
    error.chain().find_map(|cause| match cause.downcast_ref::<Hinted>() {
        Some(hinted) => find(&hinted.error),
        None => cause.downcast_ref(),
    })
}

/// Where nix has other words than strerror(3) of glibc, for what the calls of our tools end with.
#[rustfmt::skip]
const STRERROR: [(Errno, &str); 14] = [
    (Errno::EIO,       "Input/output error"),
    (Errno::EBADF,     "Bad file descriptor"),
    (Errno::EAGAIN,    "Resource temporarily unavailable"),
    (Errno::ENOMEM,    "Cannot allocate memory"),
    (Errno::EXDEV,     "Invalid cross-device link"),
    (Errno::ENFILE,    "Too many open files in system"),
    (Errno::ENOTTY,    "Inappropriate ioctl for device"),
    (Errno::ERANGE,    "Numerical result out of range"),
    (Errno::ELOOP,     "Too many levels of symbolic links"),
    (Errno::ENODATA,   "No data available"),
    (Errno::EOVERFLOW, "Value too large for defined data type"),
    (Errno::ENOLCK,    "No locks available"),
    (Errno::EOPNOTSUPP, "Operation not supported"),
    (Errno::EDQUOT,    "Disk quota exceeded"),
];

/// One cause in the words of strerror(3), which scripts look for: "Operation not permitted", whoever tells it.
fn words(cause: &(dyn std::error::Error + 'static)) -> String {
    if let Some(hinted) = cause.downcast_ref::<Hinted>() {
        return words(hinted.error.as_ref());
    }
    let system = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
    match cause.downcast_ref::<Errno>().copied().or(system.map(Errno::from_raw)) {
        Some(errno) if errno != Errno::UnknownErrno => {
            let known = STRERROR.iter().find(|(known, _)| *known == errno);
            known.map_or(errno.desc(), |(_, words)| words).to_owned()
        }
        _ => cause.to_string(),
    }
}

/// An error with all its causes, as `report` prints it.
pub fn told(error: &Error) -> String {
    error.chain().map(words).collect::<Vec<_>>().join(": ")
}

/// The statuses that differ between tools; 126 and 127 are the same in all.
pub struct Statuses {
    pub usage: u8,
    pub failure: u8,
}

/// Prints what went wrong and gives the status to end with.
pub fn report(tool: &str, error: &Error, statuses: &Statuses) -> u8 {
    // All at once, so that two tools that fail at the same time do not mix their words.
    let mut text = format!("{tool}: {}\n", told(error));
    let usage = find::<Usage>(error).is_some() || find::<lexopt::Error>(error).is_some();
    if usage {
        text += &format!("Try '{tool} --help' for more information.\n");
    }
    for hinted in error.chain().filter_map(|e| e.downcast_ref::<Hinted>()) {
        text += &format!("hint: {}\n", hinted.hint);
    }
    tell(&text);
    match find::<ExecError>(error) {
        Some(failed) => failed.status(),
        None if usage => statuses.usage,
        None => statuses.failure,
    }
}

/// What is no failure, as a line on stderr: "TOOL: text".
pub fn say(tool: &str, text: &str) {
    tell(&format!("{tool}: {text}\n"));
}

/// On stderr in one write, where eprintln makes one of each part and ends the process where nobody reads. A
/// closed stderr leaves the status as the only message.
pub fn tell(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
}

/// The tail of every main.
pub fn end(tool: &str, statuses: &Statuses, result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(tool, &error, statuses).into(),
    }
}

/// Prints a result to stdout; a full disk is a failure, a closed pipe is not our concern (SIGPIPE).
pub fn print(text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| Error::new(e).context("cannot write to standard output"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_errors_have_the_words_of_strerror() {
        let missing = || std::io::Error::from_raw_os_error(libc::ENOENT);
        for error in
            [Error::new(missing()), Error::new(Errno::ENOENT), hint(Error::new(missing()), "make it")]
        {
            assert_eq!(words(error.as_ref()), "No such file or directory");
        }
    }

    /// All that open, mount, clone, setns, read, write, ioctl and their like are documented to end with.
    #[test]
    #[cfg(target_env = "gnu")]
    fn the_words_are_those_of_glibc() {
        use Errno::*;
        for errno in [
            EPERM,
            ENOENT,
            ESRCH,
            EINTR,
            EIO,
            ENXIO,
            E2BIG,
            ENOEXEC,
            EBADF,
            ECHILD,
            EAGAIN,
            ENOMEM,
            EACCES,
            EFAULT,
            ENOTBLK,
            EBUSY,
            EEXIST,
            EXDEV,
            ENODEV,
            ENOTDIR,
            EISDIR,
            EINVAL,
            ENFILE,
            EMFILE,
            ENOTTY,
            ETXTBSY,
            EFBIG,
            ENOSPC,
            ESPIPE,
            EROFS,
            EMLINK,
            EPIPE,
            ERANGE,
            ENAMETOOLONG,
            ENOLCK,
            ENOSYS,
            ENOTEMPTY,
            ELOOP,
            ENODATA,
            EOVERFLOW,
            EOPNOTSUPP,
            EADDRINUSE,
            ENOTCONN,
            ETIMEDOUT,
            ECONNREFUSED,
            ESTALE,
            EDQUOT,
            EUSERS,
        ] {
            let glibc = std::io::Error::from_raw_os_error(errno as i32).to_string();
            let glibc = glibc.split(" (os error").next().unwrap().to_owned();
            assert_eq!(words(Error::new(errno).as_ref()), glibc, "{errno:?}");
        }
    }

    #[test]
    fn a_hint_changes_no_status() {
        let usage = || Error::new(Usage("wrong".into()));
        let plain = anyhow::anyhow!("failed");
        let statuses = Statuses { usage: 2, failure: 125 };
        assert_eq!(report("x", &usage(), &statuses), 2);
        assert_eq!(report("x", &hint(usage(), "right").context("above"), &statuses), 2);
        assert_eq!(report("x", &hint(plain, "better"), &statuses), 125);
    }
}
