//! monitor: tells when names and links come and go.
//!
//! An event of the directory only says that something happens. We hold a lock on the directory until a name
//! is whole, so that is waited for; ip-netns(8) does not, so a name that is not whole is looked at again for a
//! while. What happened and was undone meanwhile is not told.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::json;
use unshare::fail::print;

use crate::mark::belongs_to;
use crate::netlink::Socket;
use crate::rtnl::{self, Link};
use crate::signals::{Signals, Wake};
use crate::store;

/// What there is: of names the inode, of links the outer end's index.
type Names = BTreeMap<String, u64>;
type Links = BTreeMap<u32, String>;

/// At 20 ms each: a second.
const LOOKS: u32 = 50;

/// A line for each change, until a signal ends it.
pub fn monitor(as_json: bool) -> Result<()> {
    store::make_directory()?;
    let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).context("cannot watch")?;
    let changes = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE;
    watch.add_watch(store::DIR, changes).with_context(|| format!("cannot watch '{}'", store::DIR))?;
    // Watched first, then looked at: nothing falls in between.
    let mut listener = Socket::listen_to_links()?;
    let mut socket = Socket::open()?;
    let ((mut names, all), mut links) = (store::whole_names()?, whole_links(&mut socket)?);
    // Last: who sees this descriptor knows that from now on all is told.
    let signals = Signals::block()?;
    // How often a name that is not whole is still looked at.
    let mut looks = if all { 0 } else { LOOKS };
    loop {
        let pause = if looks > 0 { Duration::from_millis(20) } else { Duration::from_secs(3600) };
        let woken =
            matches!(signals.wait(&[watch.as_fd(), listener.as_fd()], Instant::now() + pause)?, Wake::Ready);
        match watch.read_events() {
            Ok(_) => looks = LOOKS,
            Err(Errno::EAGAIN) if woken || looks == 0 => {}
            Err(Errno::EAGAIN) => looks -= 1,
            Err(errno) => return Err(errno).context("cannot watch"),
        }
        if looks > 0 {
            // One look for both: a name that becomes whole between two would never be told.
            let (now, all) = store::whole_names()?;
            tell_names(&names, &now, as_json)?;
            names = now;
            if all {
                looks = 0;
            }
        }
        if listener.drain()? {
            let now = whole_links(&mut socket)?;
            tell_links(&links, &now, as_json)?;
            links = now;
        }
    }
}

fn whole_links(socket: &mut Socket) -> Result<Links> {
    let label = |link: &Link| belongs_to(link).map(|(ship, ifname)| (link.index, format!("{ship}:{ifname}")));
    let mut links = Links::new();
    links.extend(rtnl::all_links(socket)?.iter().filter_map(label));
    Ok(links)
}

/// A name whose namespace is another went and came.
fn tell_names(before: &Names, now: &Names, as_json: bool) -> Result<()> {
    for (name, _) in before.iter().filter(|(name, inode)| now.get(*name) != Some(inode)) {
        tell("del", name, as_json)?;
    }
    for (name, _) in now.iter().filter(|(name, inode)| before.get(*name) != Some(inode)) {
        tell("add", name, as_json)?;
    }
    Ok(())
}

fn tell_links(before: &Links, now: &Links, as_json: bool) -> Result<()> {
    for (_, label) in before.iter().filter(|(index, label)| now.get(index) != Some(label)) {
        tell("unlink", label, as_json)?;
    }
    for (_, label) in now.iter().filter(|(index, label)| before.get(index) != Some(label)) {
        tell("link", label, as_json)?;
    }
    Ok(())
}

fn tell(event: &str, what: &str, as_json: bool) -> Result<()> {
    print(&match as_json {
        true => format!("{}\n", json!({"event": event, "what": what})),
        false => format!("{event} {}\n", store::quoted(what)),
    })
}
