//! netns: named network namespaces, and the links, switches and addresses that make them a network.

mod address;
mod apply;
mod cli;
mod delete;
mod exec;
mod link;
mod list;
mod machine;
mod nat;
mod netlink;
mod plug;
mod probe;
mod publish;
mod rate;
mod rtnl;
mod show;
mod signals;
mod store;
mod switch;
mod sys;
mod trace;
mod uplink;
mod wire;
mod words;

use std::process::ExitCode;

use anyhow::Result;
use unshare::fail::{Statuses, print, report};

use crate::cli::Command;

fn main() -> ExitCode {
    let (program_follows, command) = cli::parse(lexopt::Parser::from_env());
    // Where a program follows, its own status must be told from ours.
    let statuses = if program_follows {
        Statuses { usage: 125, failure: 125 }
    } else {
        Statuses { usage: 2, failure: 1 }
    };
    match command.and_then(run) {
        Ok(status) => status,
        Err(error) => report("netns", &error, &statuses).into(),
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Trace(options) => return trace::trace(&options).map(ExitCode::from),
        Command::Help => print(cli::HELP),
        Command::Version => print(concat!("netns (slipway) ", env!("CARGO_PKG_VERSION"), "\n")),
        Command::Make { statement, dry_run } => apply::one(statement, dry_run),
        Command::Apply { file, mode } => return apply::file(&file, mode).map(ExitCode::from),
        Command::Delete(options) => delete::delete(&options),
        Command::List { json } => list::list(json),
        Command::Exec { target, argv } => exec::exec(&target, &argv),
        Command::Unlink { ends, dry_run } => link::unlink(&ends, dry_run),
        Command::NatOff { switch, dry_run } => switch::nat_off(&switch, dry_run),
        Command::Unpublish { port, dry_run } => publish::unpublish(&port, dry_run),
        Command::SwitchDelete(removal) => switch::delete(&removal),
        Command::SwitchShow { name, json } => switch::show(name.as_deref(), json),
    }
    .map(|()| ExitCode::SUCCESS)
}
