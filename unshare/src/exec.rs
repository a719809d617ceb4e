//! exec: become the program; 126 and 127 as env(1) and chroot(1) have them.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::Error;
use nix::unistd::getuid;

use crate::{passwd, sys};

#[derive(Debug)]
pub struct ExecError {
    program: OsString,
    error: io::Error,
}

impl ExecError {
    pub fn new(program: OsString, error: io::Error) -> ExecError {
        ExecError { program, error }
    }

    /// 127: there is no such program; 126: there is, and it cannot be run.
    pub fn status(&self) -> u8 {
        if self.error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
    }
}

impl fmt::Display for ExecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to execute {}", Path::new(&self.program).display())
    }
}

impl std::error::Error for ExecError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// An environment in place of the caller's.
pub type Environment = Vec<(OsString, OsString)>;

/// Becomes `argv`, or the user's login shell when it is empty; comes back only with the reason why not.
pub fn exec(argv: &[OsString]) -> Error {
    exec_in(argv, None)
}

/// As `exec`, with an environment that also says where to look (PATH) and which shell is meant.
///
/// Not execvp(3): Rust starts with SIGPIPE ignored, and Command and as_inherited() give back what was.
pub fn exec_in(argv: &[OsString], environment: Option<Environment>) -> Error {
    let mut command;
    let program = match argv.split_first() {
        Some((program, arguments)) => {
            command = Command::new(program);
            command.args(arguments);
            program.clone()
        }
        None => {
            let shell = match &environment {
                None => std::env::var_os("SHELL"),
                Some(pairs) => {
                    pairs.iter().rfind(|(name, _)| name == "SHELL").map(|(_, value)| value.clone())
                }
            };
            let shell = shell.filter(|s| !s.is_empty()).unwrap_or_else(login_shell);
            command = Command::new(&shell);
            command.arg0(login_name(&shell));
            shell
        }
    };
    if let Some(pairs) = environment {
        command.env_clear().envs(pairs);
    }
    sys::as_inherited(&mut command);
    Error::new(ExecError { error: command.exec(), program })
}

/// The shell of the user we are by now, in the root that we are in.
fn login_shell() -> OsString {
    passwd::shell_of(getuid().as_raw()).unwrap_or_else(|| "/bin/sh".into()).into()
}

/// A leading dash in its own name tells a shell that it is a login shell.
fn login_name(shell: &OsString) -> OsString {
    let mut name = OsString::from("-");
    name.push(Path::new(shell).file_name().unwrap_or(shell));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_shell_is_named_with_a_dash() {
        assert_eq!(login_name(&"/bin/bash".into()), "-bash");
    }

    #[test]
    fn not_found_is_127_and_not_runnable_is_126() {
        let status = |program: &str| {
            let error = exec(&[program.into()]);
            error.downcast_ref::<ExecError>().expect("exec fails with an ExecError").status()
        };
        assert_eq!((status("/no/such/program"), status("/etc/passwd"), status("/")), (127, 126, 126));
    }
}
