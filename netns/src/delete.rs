//! delete: names go at once, namespaces when the kernel gets to it; --wait is for those who reuse a name.
//!
//! The kernel takes a namespace down about 30 ms after its last user (net/core/net_namespace.c,
//! cleanup_net); until then the outer ends of its links are there and a new link cannot have their names.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};
use nix::errno::Errno;
use unshare::fail::{hint, say};

use crate::manner::Manner;
use crate::mark::belongs_to;
use crate::netlink::{Socket, errno};
use crate::publish::Entry;
use crate::rtnl::{self, Link};
use crate::signals::Signals;
use crate::store::{self, Removal};
use crate::unpublish::Withdrawal;
use crate::{ovs, plug};

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub names: Vec<String>,
    pub wait: bool,
    pub force: bool,
    pub if_exists: bool,
    /// Every name that there is.
    pub all: bool,
    pub manner: Manner,
}

/// What the names to be deleted stand for.
#[derive(Default)]
struct Doomed {
    /// Links whose other end is in a namespace that will end, by index.
    outer: BTreeMap<u32, String>,
    /// Names whose namespace lives on, and in whom.
    in_use: Vec<(String, Vec<i32>)>,
    inodes: Vec<(u64, Vec<u32>)>,
    /// Names whose namespace will end, unless it has another name.
    names: Vec<(String, u64)>,
}

impl Doomed {
    /// One that lives: it ends, or it is in use, and then goes by force only.
    fn take(
        &mut self,
        name: &str,
        namespace: OwnedFd,
        force: bool,
        socket: Option<&mut Socket>,
        links: &[Link],
    ) -> Result<()> {
        let inode = store::inode(&namespace).with_context(|| format!("cannot delete '{name}'"))?;
        let pids = store::processes_in(inode)?;
        if !pids.is_empty() && !force {
            let error = anyhow!("cannot delete '{name}': {} in it", count(&pids));
            return Err(hint(error, "end them first, or take the name and the links away with --force"));
        }
        if !pids.is_empty() {
            self.in_use.push((name.to_owned(), pids));
            return Ok(());
        }
        self.names.push((name.to_owned(), inode));
        let Some(socket) = socket else { return Ok(()) };
        if let Some(id) = rtnl::namespace_id(socket, namespace.as_fd())? {
            let ends = links.iter().filter(|link| link.peer_ns == Some(id));
            self.outer.extend(ends.clone().map(|link| (link.index, link.name.clone())));
            self.inodes.push((inode, ends.map(|link| link.index).collect()));
        }
        Ok(())
    }
}

pub fn delete(options: &Options) -> Result<()> {
    let signals = Signals::block()?;
    // Both before the names go: afterwards nothing says which links were theirs.
    let mut listener = options.wait.then(Socket::listen_to_links).transpose()?;
    let mut socket = (options.wait || options.force).then(Socket::open).transpose()?;
    let links = socket.as_mut().map(rtnl::all_links).transpose()?.unwrap_or_default();
    let mut doomed = Doomed::default();
    let names = match options.all {
        true => store::entries()?.into_iter().map(|entry| entry.name).collect(),
        false => options.names.clone(),
    };
    let check = |name: &str, namespace| doomed.take(name, namespace, options.force, socket.as_mut(), &links);
    // One of all that somebody else deletes at the same time is not missed.
    let removal = Removal::plan(&names, check, options.if_exists || options.all)?;
    let leads_there = |entry: &Entry| removal.names.contains(&&*entry.spec.target.label());
    let withdrawal = Withdrawal::plan(leads_there)?;
    let mut changes: Vec<String> =
        removal.names.iter().map(|name| format!("del {}", store::quoted(name))).collect();
    changes.extend(withdrawal.iter().flat_map(Withdrawal::words));
    if options.manner.dry_run {
        return options.manner.tell(&changes, &[]);
    }
    signals.check()?;
    withdrawal.map_or(Ok(()), Withdrawal::act_and_say)?;
    // While the names are there: killed afterwards, the next one would not know whose ports they were.
    close_ports(&doomed, &removal.names)?;
    removal.act()?;
    for (name, pids) in &doomed.in_use {
        cut(socket.as_mut().expect("opened for --force"), &links, name)?;
        let inside = count(pids);
        let note = format!("note: the namespace of '{name}' lives on without name and links: {inside} in it");
        say("netns", &note);
    }
    if let Some(listener) = &mut listener {
        wait_until_gone(listener, doomed, &signals)?;
    }
    options.manner.tell(&changes, &[])
}

/// A bridge of Linux forgets a port with its device; Open vSwitch does not.
fn close_ports(doomed: &Doomed, going: &[&str]) -> Result<()> {
    if !ovs::is_here() {
        return Ok(());
    }
    let mut others = store::entries()?;
    others.retain(|entry| !going.contains(&&*entry.name));
    let ends = |inode: u64| others.iter().all(|entry| entry.inode != Some(inode));
    let ended = doomed.names.iter().filter(|(_, inode)| ends(*inode)).map(|(name, _)| name.as_str());
    let cut = doomed.in_use.iter().map(|(name, _)| name.as_str());
    plug::forget(&ended.chain(cut).collect::<Vec<_>>());
    Ok(())
}

/// "process 7" or "processes 7 8".
fn count(pids: &[i32]) -> String {
    let list: Vec<String> = pids.iter().map(i32::to_string).collect();
    let word = if pids.len() == 1 { "process" } else { "processes" };
    format!("{word} {}", list.join(" "))
}

/// Removes the outer ends of a ship whose namespace stays: its name may be used again.
fn cut(socket: &mut Socket, links: &[Link], name: &str) -> Result<()> {
    let ends = links.iter().filter(|link| belongs_to(link).is_some_and(|(ship, _)| ship == name));
    match socket.tell(ends.map(|link| rtnl::delete_link(&link.name)).collect()) {
        Err(error) if errno(&error) == Some(Errno::ENODEV) => Ok(()),
        done => done,
    }
}

fn wait_until_gone(listener: &mut Socket, mut doomed: Doomed, signals: &Signals) -> Result<()> {
    spare_other_names(&mut doomed)?;
    let mut deadline = Instant::now() + PATIENCE;
    let mut looked = false;
    while !doomed.outer.is_empty() {
        let before = doomed.outer.len();
        let heard = listener.notified(deadline, signals, |kind, payload| {
            if let Some(index) = rtnl::gone(kind, payload) {
                doomed.outer.remove(&index);
            }
        });
        match heard {
            Ok(true) => {}
            Ok(false) if looked => return Err(still_there(&doomed)),
            Err(error) if !overrun(&error) => return Err(error),
            // What was told and not heard, if it was.
            Ok(false) | Err(_) => {
                let left = rtnl::all_links(&mut Socket::open()?)?;
                doomed.outer.retain(|index, _| left.iter().any(|link| link.index == *index));
                looked = Instant::now() > deadline;
            }
        }
        // Hundreds on a busy machine take their time: as long as something happens, all is well.
        if doomed.outer.len() < before {
            (deadline, looked) = (Instant::now() + PATIENCE, false);
        }
    }
    Ok(())
}

fn still_there(doomed: &Doomed) -> Error {
    let mut names = doomed.outer.values();
    let first = names.next().map_or("", String::as_str);
    let more = match names.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let error = anyhow!("the names are gone, but after {PATIENCE:?} there is still '{first}'{more}");
    hint(error, "an open descriptor or a mount holds the namespace")
}

/// More notifications came than the socket has room for: some are lost.
fn overrun(error: &Error) -> bool {
    error.downcast_ref::<Errno>() == Some(&Errno::ENOBUFS)
}

/// A namespace with a second name does not end with the first.
fn spare_other_names(doomed: &mut Doomed) -> Result<()> {
    for entry in store::entries()? {
        for (inode, ends) in &doomed.inodes {
            if entry.inode == Some(*inode) {
                say("netns", &format!("note: the namespace lives on as '{}'", entry.name));
                doomed.outer.retain(|index, _| !ends.contains(index));
            }
        }
    }
    Ok(())
}
