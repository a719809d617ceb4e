//! nsenter: run a program in namespaces that exist (setns(2), /proc/PID/ns).
//!
//! parse -> open -> carry -> enter: cli.rs reads the words, target.rs opens all that is needed while the caller's
//! world is still ours, carry.rs mounts, enter.rs goes in and becomes the program.

mod carry;
mod cgroup;
mod cli;
mod credentials;
mod enter;
#[cfg(test)]
#[path = "../../unshare/src/fuzz.rs"]
mod fuzz;
mod join;
mod namespaces;
mod pty;
mod relay;
mod seal;
mod sys;
mod target;
mod terminal;

use std::process::ExitCode;

use anyhow::Result;
use unshare::fail::{Statuses, end, print};

fn main() -> ExitCode {
    end("nsenter", &Statuses { usage: 1, failure: 1 }, run())
}

fn run() -> Result<()> {
    match cli::parse(lexopt::Parser::from_env())? {
        cli::Request::Help => print(cli::HELP),
        cli::Request::Version => print(concat!("nsenter from slipway ", env!("CARGO_PKG_VERSION"), "\n")),
        cli::Request::Run(options) => {
            if options.close_fds {
                unshare::child::close_inherited(&[]);
            }
            let mut target = target::open(*options)?;
            carry::deliver(&target.loads, &target.namespaces, target.tree.as_ref())?;
            if !target.loads.is_empty() && target.argv.is_empty() {
                return Ok(()); // the mounts were all
            }
            (target.loads, target.tree) = (Vec::new(), None);
            match target.pty.take() {
                Some(pty) => enter::run(pty::split(target, pty)?),
                None => enter::run(target),
            }
        }
    }
}
