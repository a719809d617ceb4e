//! add: names get a namespace: a new one, or with `attach` one that has come about otherwise.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, unshare};

use crate::machine::{Machine, Undo};
use crate::manner::Manner;
use crate::store::{self, Target, quoted};
use crate::sys;

/// Makes a namespace for each name that has none yet, its loopback device on; tells the machine which.
pub fn add(machine: &mut Machine, names: &[&str]) -> Result<()> {
    let _lock = store::begin()?;
    for name in names {
        if store::take_name(name)? {
            machine.did(Undo::Name((*name).to_owned()));
            // Complete before it has a name: what is killed here leaves an empty file at most.
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            sys::loopback_up().context("cannot switch 'lo' on")?;
            store::mount_on_name(store::OWN, name)?;
        }
        machine.signals.check()?;
    }
    Ok(())
}

/// Names the namespace of a process, or what a path leads to. No change where the name stands for that namespace already.
pub fn attach(name: &str, target: &Target, manner: Manner) -> Result<()> {
    let failed = || format!("cannot attach '{name}'");
    let namespace = target.open().with_context(failed)?;
    let inode = store::inode(&namespace).with_context(failed)?;
    match store::inode_of(name) {
        Some(known) if known == inode => return manner.tell(&[], &[]),
        Some(_) => return Err(anyhow!("it is the name of another namespace")).with_context(failed),
        None => {}
    }
    if !manner.dry_run {
        let mut machine = Machine::open()?;
        mount(&mut machine, name, &namespace).with_context(failed)?;
        machine.keep();
    }
    manner.tell(&[format!("attach {} {}", quoted(name), quoted(&target.label()))], &[])
}

fn mount(machine: &mut Machine, name: &str, namespace: &OwnedFd) -> Result<()> {
    let _lock = store::begin()?;
    if !store::take_name(name)? {
        bail!("it is the name of another namespace");
    }
    machine.did(Undo::Name(name.to_owned()));
    store::mount_on_name(&format!("/proc/self/fd/{}", namespace.as_raw_fd()), name)
}
