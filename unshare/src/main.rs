//! unshare: run a program in new namespaces (unshare(2)), in a world prepared for it.
//!
//! parse -> plan -> act: cli.rs reads the words, plan.rs knows every rule between them and gives the list of
//! steps, act.rs does one after the other and says which one failed.

mod act;
mod binfmt;
mod cli;
mod dev;
#[cfg(test)]
mod fuzz;
mod gate;
mod help;
mod hints;
mod ids;
mod init;
mod lookup;
mod mounts;
mod onto;
mod outside;
mod pidfile;
mod plan;
mod root;

use std::process::ExitCode;

use anyhow::Result;
use unshare::fail::{Statuses, end, print};

fn main() -> ExitCode {
    end("unshare", &Statuses { usage: 1, failure: 1 }, run())
}

fn run() -> Result<()> {
    match cli::parse(lexopt::Parser::from_env())? {
        cli::Request::Help => print(help::HELP),
        cli::Request::Version => print(concat!("unshare from slipway ", env!("CARGO_PKG_VERSION"), "\n")),
        cli::Request::Run(options) => act::run(plan::plan(*options)?),
    }
}
