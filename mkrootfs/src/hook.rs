//! hook: commands of the user's between the steps, on the host, with the new root as argument; the words and
//! what they mean are mmdebstrap's.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::progress::Progress;

/// Runs each command in turn, and stops at the first that fails.
pub fn run(kind: &str, commands: &[String], root: &Path, progress: &Progress) -> Result<()> {
    for command in commands {
        progress.clear();
        progress.detail(&format!("{kind}: {command}"));
        one(command, root).with_context(|| format!("the {kind} '{command}' failed"))?;
    }
    Ok(())
}

/// A program's name is run as it is, anything else by a shell, which has the root as $1.
fn one(text: &str, root: &Path) -> Result<()> {
    let program = Path::new(text);
    let executable =
        std::fs::metadata(program).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let mut command = if executable {
        Command::new(program)
    } else {
        let mut shell = Command::new("sh");
        shell.args(["-c", text, "exec"]);
        shell
    };
    // What hooks print is no result of ours: a root may go to standard output.
    let out = std::io::stderr();
    let _ = std::io::stdout().flush();
    let output = std::os::fd::AsFd::as_fd(&out).try_clone_to_owned()?;
    let status = command.arg(root).stdin(Stdio::null()).stdout(output).status().context("cannot run it")?;
    match status.success() {
        true => Ok(()),
        false => bail!("{status}"),
    }
}
