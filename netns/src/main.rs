//! netns: named network namespaces, and the links, switches and addresses that make them a network.

mod add;
mod address;
mod announce;
mod apply;
mod chains;
mod cli;
mod compare;
mod delete;
mod exec;
mod file;
mod filters;
#[cfg(test)]
mod fuzz;
mod link;
mod list;
mod machine;
mod manner;
mod mark;
mod monitor;
mod nat;
mod netlink;
mod nft;
mod ovs;
mod ovsdb;
mod pids;
mod plan;
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
mod tunnel;
mod unlink;
mod unpublish;
mod uplink;
mod wire;
mod words;

use std::process::ExitCode;

use anyhow::Result;
use unshare::fail::{print, report};

use crate::cli::Command;

fn main() -> ExitCode {
    let (statuses, command) = cli::parse(lexopt::Parser::from_env());
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
        Command::Make { statement, manner } => apply::one(statement, manner),
        Command::Apply { file, manner } => apply::file(&file, manner),
        Command::Diff { file, json } => return apply::diff(&file, json).map(ExitCode::from),
        Command::Attach { name, target, manner } => add::attach(&name, &target, manner),
        Command::Delete(options) => delete::delete(&options),
        Command::List { json } => list::list(json),
        Command::Pids { target, json } => pids::pids(&target, json),
        Command::Identify { pid, json } => pids::identify(pid, json),
        Command::Show(form) => show::show(form),
        Command::Monitor { json } => monitor::monitor(json),
        Command::Exec { target, argv } => exec::exec(&target, &argv),
        Command::Unlink { ends, manner } => unlink::unlink(&ends, manner),
        Command::NatOff { switch, manner } => switch::nat_off(&switch, manner),
        Command::Unpublish { port, manner } => unpublish::unpublish(&port, manner),
        Command::TunnelDelete { switch, name, manner } => tunnel::delete(&switch, &name, manner),
        Command::SwitchDelete(removal) => switch::delete(&removal),
        Command::SwitchShow { name, json } => switch::show(name.as_deref(), json),
    }
    .map(|()| ExitCode::SUCCESS)
}
