//! mkrootfs: make a Debian root directory: from an archive (own resolver, downloads, unpacking and dpkg data
//! base; the target's dpkg configures), or as a copy of another.

mod archive;
mod base;
mod bootstrap;
mod cache;
mod cli;
mod clone;
mod configure;
mod copy;
mod deb;
mod diff;
mod digest;
mod dpkg;
mod extract;
mod fetch;
#[cfg(test)]
mod fuzz;
mod hook;
mod host;
mod idle;
mod import;
mod inside;
mod install;
mod job;
mod keyring;
mod list;
mod lock;
mod machine_id;
mod mirror;
#[cfg(feature = "rpgp")]
mod openpgp;
mod overlay;
mod pack;
mod packages;
mod power;
mod progress;
mod prune;
mod release;
mod resolve;
mod signature;
mod staging;
mod suite;
mod supervise;
mod sys;
mod target;
mod tree;
mod trouble;
mod unpack;
mod verdict;
mod verify;
mod version;
mod xz;

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use unshare::fail::{self, Statuses};

use crate::cache::Cache;
use crate::cli::{Command, Options};
use crate::clone::By;
use crate::power::Power;
use crate::staging::Staging;
use crate::supervise::End;
use crate::target::{Form, Output};
use crate::trouble::Kind;

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
            let form = target::form(&target, options.format);
            let tidy = form != Form::Directory || pack::epoch()?.is_some();
            let job = job(suite, &mirrors, options)?;
            // Whose the cache is shows outside of a user namespace only.
            let cache = Cache::open(job.options.cache.as_deref())?;
            let private = job.options.base && base::is_private(&cache)?;
            let job = job::Job { tidy, form, private, power: power::take()?, ..job };
            let ended = stage(&target, &job.options, Content::Made(job.power), |root, scratch| {
                bootstrap::make(&job, root, scratch)
            });
            if !matches!(ended, Ok(0)) {
                base::Bases::open(&cache).sweep();
            }
            ended
        }
        Command::Clone { source, target, options } => {
            let progress = progress::Progress::new(&options);
            if options.clone_by == By::Overlay {
                return overlay::make(&source, &target, &progress).map(|()| 0);
            }
            power::take()?;
            let copy = clone::Copy::open(&source, &target)?;
            stage(&target, &options, Content::Made(Power::Root), |root, _| {
                progress.step(copy.make_by(options.clone_by, root)?);
                Ok(())
            })
        }
        Command::Pack { source, target, options } => pack(&source, &target, &options),
        Command::Unpack { source, target, options } => {
            power::take()?;
            let source = import::Source::open(&source)?;
            stage(&target, &options, Content::Made(Power::Root), |root, scratch| {
                source.unpack(root, scratch, &options)
            })
        }
        Command::Configure { root, options } => {
            power::take()?;
            second_stage(&root, &options)
        }
        Command::Verify { root } => verify::run(&root).map(|right| u8::from(!right)),
        Command::Diff { one, two } => diff::run(&one, &two).map(|same| u8::from(!same)),
        Command::List { suite, mirrors, options } => list::run(&job(suite, &mirrors, options)?).map(|()| 0),
        Command::Cache { action, options } => prune::run(action, &options).map(|()| 0),
    }
}

fn job(suite: String, mirrors: &[String], options: Options) -> Result<job::Job> {
    let wish = mirror::Wish {
        suite: &suite,
        mirrors,
        updates: options.updates,
        extra: &options.extra_suites,
        snapshot: options.snapshot.as_deref(),
    };
    let sources = mirror::sources(&wish)?;
    let arch = host::arch(options.arch.as_deref(), options.foreign || options.names)?;
    Ok(job::Job {
        suite,
        sources,
        arch,
        options,
        tidy: false,
        power: Power::Root,
        form: Form::Directory,
        private: false,
    })
}

/// What becomes the target.
enum Content<'t> {
    /// A tree that is made, with this power: without root there are files in place of devices.
    Made(Power),
    There(&'t Path),
}

/// Makes a tree beside the target; it becomes the target, as it is or packed, when it is whole, or it goes.
fn stage(
    target: &Path,
    options: &Options,
    content: Content,
    work: impl FnOnce(&Path, &Path) -> Result<()>,
) -> Result<u8> {
    let form = target::form(target, options.format);
    form.check()?;
    let to_stdout = target == Path::new("-");
    if to_stdout && std::io::stdout().is_terminal() {
        return Err(Kind::Asked.error("an archive is nothing for a terminal"));
    }
    let staging = match form {
        _ if to_stdout => Staging::make_file(&std::env::temp_dir().join("mkrootfs"))?,
        Form::Directory => Staging::make(target)?,
        _ => Staging::make_file(target)?,
    };
    let output = || if to_stdout { Output::Stdout } else { Output::File(staging.file()) };
    let root = staging.root();
    let (there, stand_ins) = match content {
        Content::There(path) => (path, false),
        Content::Made(power) => (root.as_path(), power != Power::Root),
    };
    let all = || work(&root, staging.scratch()).and_then(|()| form.make(there, stand_ins, output()));
    let end = supervise::run(|| match all() {
        Ok(()) => 0,
        Err(error) => {
            progress::Progress::new(options).clear();
            i32::from(report(&error))
        }
    });
    match end {
        Ok(End::Status(0)) if to_stdout => staging.abandon().map(|()| 0),
        Ok(End::Status(0)) if form == Form::Directory => staging.finish().map(|()| 0),
        Ok(End::Status(0)) => staging.finish_file().map(|()| 0),
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

/// Configures a root in its place: what a first stage has unpacked elsewhere.
fn second_stage(root: &Path, options: &Options) -> Result<u8> {
    let root = std::path::absolute(root)?;
    let end = supervise::run(|| match bootstrap::second_stage(&root, options) {
        Ok(()) => 0,
        Err(error) => {
            progress::Progress::new(options).clear();
            i32::from(report(&error))
        }
    })?;
    Ok(match end {
        End::Status(status) => status as u8,
        End::Signal(signal) => 128 + signal as u8,
    })
}

/// Packs a tree that is there already.
fn pack(source: &Path, target: &Path, options: &Options) -> Result<u8> {
    let form = target::form(target, options.format);
    if form == Form::Directory {
        let hint =
            "clone makes a directory; else name a file that ends with .tar, .tar.gz, .squashfs or the like";
        return Err(Kind::Asked.hinted(
            format!("cannot pack into '{}'", target.display()),
            "its name says no form",
            hint,
        ));
    }
    tree::Tree::open(source).map_err(|error| Kind::Asked.because("cannot pack", error))?;
    stage(target, options, Content::There(source), |_, _| Ok(()))
}
