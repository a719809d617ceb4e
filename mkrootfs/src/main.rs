//! mkrootfs: make a Debian root directory: from an archive (own resolver, downloads, unpacking and dpkg data
//! base; the target's dpkg configures), or as a copy of another.

mod archive;
mod base;
mod bootstrap;
mod cache;
mod cli;
mod clone;
mod configure;
mod deb;
mod digest;
mod dpkg;
mod fetch;
mod hook;
mod host;
mod install;
mod list;
mod lock;
mod mirror;
mod packages;
mod progress;
mod prune;
mod release;
mod resolve;
mod staging;
mod suite;
mod supervise;
mod sys;
mod tree;
mod trouble;
mod unpack;
mod version;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use unshare::fail::{self, Statuses};

use crate::cli::{Command, Options};
use crate::staging::Staging;
use crate::supervise::End;

pub const STATUSES: Statuses = Statuses { usage: 2, failure: 1 };

fn main() -> ExitCode {
    match cli::parse(std::env::args_os().skip(1)).and_then(run) {
        Ok(code) => code.into(),
        Err(error) => report(&error).into(),
    }
}

/// A kind of trouble has a status of its own (man page, EXIT STATUS).
fn report(error: &anyhow::Error) -> u8 {
    let failure = trouble::kind(error).map_or(STATUSES.failure, |kind| kind as u8);
    fail::report("mkrootfs", error, &Statuses { failure, ..STATUSES })
}

fn run(command: Command) -> Result<u8> {
    match command {
        Command::Help => fail::print(cli::HELP).map(|()| 0),
        Command::Version => fail::print(concat!("mkrootfs ", env!("CARGO_PKG_VERSION"), "\n")).map(|()| 0),
        Command::Bootstrap { suite, target, mirrors, options } => {
            let job = job(suite, &mirrors, options)?;
            host::need_root()?;
            stage(&target, &job.options, |root, scratch| bootstrap::make(&job, root, scratch))
        }
        Command::Clone { source, target, options } => {
            host::need_root()?;
            let copy = clone::Copy::open(&source, &target)?;
            stage(&target, &options, |root, _| copy.make(root))
        }
        Command::List { suite, mirrors, options } => list::run(&job(suite, &mirrors, options)?).map(|()| 0),
        Command::Cache { action, options } => prune::run(action, &options).map(|()| 0),
    }
}

fn job(suite: String, mirrors: &[String], options: Options) -> Result<bootstrap::Job> {
    let wish = mirror::Wish {
        suite: &suite,
        mirrors,
        updates: options.updates,
        extra: &options.extra_suites,
        snapshot: options.snapshot.as_deref(),
    };
    let sources = mirror::sources(&wish)?;
    let arch = host::arch(options.arch.as_deref())?;
    Ok(bootstrap::Job { suite, sources, arch, options })
}

/// Makes the tree beside the target; it becomes the target when it is whole, or it goes.
fn stage(target: &Path, options: &Options, work: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<u8> {
    let staging = Staging::make(target)?;
    let end = supervise::run(|| match work(&staging.root(), staging.scratch()) {
        Ok(()) => 0,
        Err(error) => {
            progress::Progress::new(options).clear();
            i32::from(report(&error))
        }
    });
    match end {
        Ok(End::Status(0)) => staging.finish().map(|()| 0),
        Ok(End::Signal(signal)) => staging.abandon().map(|()| 128 + signal as u8),
        Ok(End::Status(status)) if options.keep => {
            let kept = staging.keep()?;
            eprintln!("hint: what was made is kept in '{}'", kept.display());
            Ok(status as u8)
        }
        Ok(End::Status(status)) => staging.abandon().map(|()| status as u8),
        Err(error) => {
            staging.abandon()?;
            Err(error)
        }
    }
}
