//! unpublish: takes published ports away, when that is asked for and when what they lead to goes: a rule that
//! stayed would lead to whoever has the address next.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, anyhow};
use nix::fcntl::Flock;
use unshare::fail::say;

use crate::chains;
use crate::machine::{lock_host, need_capabilities};
use crate::manner::Manner;
use crate::nft::{Nft, Ruleset, TABLE};
use crate::publish::{self, Entry, Port, localnet_of};

pub fn unpublish(port: &Port, manner: Manner) -> Result<()> {
    let failed = || format!("cannot unpublish '{port}'");
    need_capabilities(false).with_context(failed)?;
    Nft::need().with_context(failed)?;
    let found = Withdrawal::plan(|entry| entry.spec.port == *port).with_context(failed)?;
    let withdrawal = found.ok_or_else(|| anyhow!("it is not published")).with_context(failed)?;
    let words = withdrawal.words();
    if !manner.dry_run {
        withdrawal.act().with_context(failed)?;
    }
    manner.tell(&words, &[])
}

/// Publications that are to go. Nobody else changes any as long as it is there.
pub struct Withdrawal {
    nft: Nft,
    present: Ruleset,
    /// One for each of them and each family.
    going: Vec<Entry>,
    _lock: Flock<OwnedFd>,
}

impl Withdrawal {
    /// None where none is unwanted.
    pub fn plan(unwanted: impl Fn(&Entry) -> bool) -> Result<Option<Withdrawal>> {
        if !is_any_published() {
            return Ok(None);
        }
        let lock = lock_host()?;
        let Some(nft) = Nft::find() else { return Ok(None) };
        let present = nft.ruleset()?;
        let mut going = present.publications();
        going.retain(unwanted);
        Ok((!going.is_empty()).then_some(Withdrawal { nft, present, going, _lock: lock }))
    }

    pub fn words(&self) -> Vec<String> {
        statements(&self.going)
    }

    /// First what the rules needed: where this is killed in between, the rules are what the next one finds.
    pub fn act(self) -> Result<()> {
        let goes = |entry: &Entry| self.going.iter().any(|gone| gone.spec == entry.spec);
        let mut left = self.present.publications();
        left.retain(|entry| !goes(entry));
        let mut deserted: Vec<String> = Vec::new();
        for Entry { switch, spec, .. } in &self.going {
            let ship = spec.target.label();
            if left.iter().all(|other| other.spec.target.label() != ship) {
                deserted.push(ship);
            }
            if left.iter().all(|other| other.switch != *switch) {
                close_localnet(switch)?;
            }
        }
        publish::stop_hairpin(&deserted)?;
        self.nft.remove(&self.present, &[], goes).map(drop)
    }

    /// For those who have asked for something else.
    pub fn act_and_say(self) -> Result<()> {
        let words = self.words();
        self.act()?;
        words.iter().for_each(|statement| say_goes(statement));
        Ok(())
    }
}

/// What takes these away, each once.
pub fn statements(entries: &[Entry]) -> Vec<String> {
    let mut words = Vec::new();
    for entry in entries {
        let udp = if entry.spec.port.udp { " udp" } else { "" };
        let statement = format!("unpublish {}{udp}", entry.spec.port);
        if !words.contains(&statement) {
            words.push(statement);
        }
    }
    words
}

pub fn say_goes(statement: &str) {
    say("netns", &format!("note: with it goes what was published: {statement}"));
}

/// Nothing leads from the host's 127.0.0.1 to the switch any more.
fn close_localnet(switch: &str) -> Result<()> {
    let path = localnet_of(switch);
    match fs::write(&path, "0") {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot write '0' to '{path}'"))
        }
        _ => Ok(()),
    }
}

/// Asked of the kernel, which is a hundred times faster than nft. Who may not ask it can have published nothing.
fn is_any_published() -> bool {
    let ours = |chain: &chains::Chain| chain.table == TABLE && chain.name == publish::CHAINS[0];
    chains::all().is_ok_and(|chains| chains.iter().any(ours))
}
