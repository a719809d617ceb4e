//! attach: gives a namespace that has come about otherwise a name, as ip-netns(8) does.

use anyhow::{Context, Result, anyhow};

use crate::machine::Machine;
use crate::manner::Manner;
use crate::store::{self, Target, quoted};

/// No change where the name stands for that namespace already.
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
        store::attach(&mut machine, name, &namespace).with_context(failed)?;
        machine.keep();
    }
    manner.tell(&[format!("attach {} {}", quoted(name), quoted(&target.label()))], &[])
}
