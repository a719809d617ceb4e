//! wire: makes links, one or hundreds, in one process and without a fork.
//!
//!   outside, one message each  the pair: outer end up and on the switch, inner end born in the namespace
//!   inside, one batch each     lo up, inner end up
//!   probe, all at once         does anybody answer for the addresses?
//!   inside, one batch each     addresses, default routes, rate; the neighbours are told
//!   outside, one message each  the outer end's alias "netns:TARGET:IFNAME": from here on the link is whole

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use unshare::fail::hint;

use crate::address::{Cidr, Mac, format_mac};
use crate::announce::announce;
use crate::compare::Leftover;
use crate::link::{LinkSpec, Onto};
use crate::machine::{Machine, Undo};
use crate::netlink::{Message, Socket, errno};
use crate::plug::{self, Plug};
use crate::probe::{self, Question, Taken};
use crate::rate;
use crate::rtnl::{self, Link, Pair, Shared};

/// How long a namespace may take from its last user to the kernel's taking it down: a socket that was open
/// in it is let go a little after its process.
const LAST_BREATH: Duration = Duration::from_secs(2);
/// Messages that one datagram carries: a signal waits no longer than that, and the answers find room.
const BATCH: usize = 16;
/// How many addresses are asked for at once to find a free one.
const CANDIDATES: usize = 256;

/// A link to be made.
pub struct Job<'a> {
    /// Its line in a file.
    pub number: Option<usize>,
    pub spec: &'a LinkSpec,
    pub plug: &'a Plug,
    pub space: usize,
    pub leftover: Option<Leftover>,
    /// Nobody can have an address on the switch but links of this very command.
    pub alone: bool,
}

impl Job<'_> {
    fn failed(&self) -> String {
        let line = self.number.map_or(String::new(), |number| format!("line {number}: "));
        format!("{line}cannot link '{}'", self.spec.end.label())
    }
}

/// From nothing to whole links; gives back the free addresses that were found. What fails is undone by the
/// machine.
pub fn make(machine: &mut Machine, jobs: &[Job<'_>]) -> Result<Vec<Cidr>> {
    for job in jobs {
        clear(machine, job).with_context(|| job.failed())?;
    }
    let ports: Vec<(&Plug, &LinkSpec)> = jobs.iter().map(|job| (job.plug, job.spec)).collect();
    let about = || match jobs {
        [job] => job.failed(),
        _ => "cannot plug the links in".to_owned(),
    };
    plug::close_stale(machine, &ports).with_context(about)?;
    for some in jobs.chunks(BATCH) {
        machine.signals.check()?;
        bear(machine, some)?;
    }
    plug::attach(machine, &ports).with_context(about)?;
    let inner: Vec<Link> = jobs
        .iter()
        .map(|job| switch_on(machine, job).with_context(|| job.failed()))
        .collect::<Result<_>>()?;
    machine.signals.check()?;
    plug::wait_until_open(machine, &ports).with_context(about)?;
    check(machine, jobs, &inner)?;
    let mut chosen = Vec::new();
    for (job, inner) in jobs.iter().zip(&inner) {
        let free = match job.spec.next_free {
            true => free_addresses(machine, job, inner).with_context(|| job.failed())?,
            false => Vec::new(),
        };
        settle(machine, job, inner, &free).with_context(|| job.failed())?;
        chosen.extend(free);
    }
    machine.signals.check()?;
    for some in jobs.chunks(BATCH) {
        let with_outer = some.iter().filter(|job| matches!(job.spec.onto, Onto::Switch(_)));
        machine.outside.tell(with_outer.map(|job| plug::mark(job.spec)).collect())?;
    }
    Ok(chosen)
}

/// Removes what a killed link or an earlier ship of the name has left.
fn clear(machine: &mut Machine, job: &Job<'_>) -> Result<()> {
    let done = match &job.leftover {
        None => return Ok(()),
        Some(Leftover::Inner) => {
            machine.inside(job.space).tell(vec![rtnl::delete_link(&job.spec.end.ifname)])
        }
        Some(Leftover::Outer { link, elsewhere }) => {
            if let Some(id) = elsewhere {
                outlive(machine, job, link, *id)?;
            }
            plug::pull(machine, std::slice::from_ref(link))?;
            machine.outside.tell(vec![rtnl::delete_link(&link.name)])
        }
    };
    match done {
        Err(error) if errno(&error) == Some(Errno::ENODEV) => Ok(()), // was on its way out
        done => done,
    }
}

/// The outer end leads to another namespace: one of this name from before, which the kernel is about to take
/// down, or one that somebody lives in; then we keep off.
fn outlive(machine: &mut Machine, job: &Job<'_>, outer: &Link, id: i32) -> Result<()> {
    let mut listener = Socket::listen_to_links()?;
    let deadline = Instant::now() + LAST_BREATH;
    let mut gone = false;
    while !gone && rtnl::namespace_lives(&mut machine.outside, id) {
        let heard = listener.notified(deadline, &machine.signals, |kind, payload| {
            gone |= rtnl::gone(kind, payload) == Some(outer.index);
        })?;
        if !heard {
            let error = anyhow!("'{}' leads to another namespace that still lives", outer.name);
            return Err(hint(error, format!("netns unlink '{}' cuts it", job.spec.end.label())));
        }
    }
    Ok(())
}

/// The devices themselves.
fn bear(machine: &mut Machine, jobs: &[Job<'_>]) -> Result<()> {
    let outer: Vec<String> = jobs.iter().map(|job| job.spec.end.outer()).collect();
    let messages: Vec<Message> =
        jobs.iter().zip(&outer).map(|(job, outer)| birth(machine, job, outer)).collect();
    let mut result = Ok(());
    for ((job, outer), answer) in jobs.iter().zip(outer).zip(machine.outside.batch(messages)?) {
        match answer.result {
            Ok(()) => machine.did(match job.spec.onto {
                Onto::Switch(_) => Undo::Device(outer),
                Onto::Nic(..) => Undo::Inside(job.space, vec![rtnl::delete_link(&job.spec.end.ifname)]),
            }),
            Err(error) => {
                let name = &job.spec.end.ifname;
                let error = match errno(&error) {
                    Some(Errno::EEXIST) => anyhow!("the namespace has an interface '{name}' already"),
                    _ => error,
                };
                result = result.and(Err(error).with_context(|| job.failed()));
            }
        }
    }
    result
}

fn birth(machine: &Machine, job: &Job<'_>, outer: &str) -> Message {
    let LinkSpec { end, onto, mac, mtu, .. } = job.spec;
    let what = format!("make '{}' in the namespace", end.ifname);
    let namespace = machine.spaces[job.space].fd();
    match onto {
        Onto::Switch(_) => rtnl::new_pair(&Pair {
            what,
            outer,
            master: job.plug.master(),
            inner: &end.ifname,
            namespace,
            mac: *mac,
            mtu: mtu.or(job.plug.mtu()),
        }),
        Onto::Nic(kind, _) => rtnl::new_shared(&Shared {
            what,
            kind,
            lower: job.plug.nic().unwrap_or_default(),
            inner: &end.ifname,
            namespace,
            mac: *mac,
            mtu: *mtu,
        }),
    }
}

/// The inner end, as it is then.
fn switch_on(machine: &mut Machine, job: &Job<'_>) -> Result<Link> {
    let ifname = &job.spec.end.ifname;
    let inside = machine.inside(job.space);
    let mut on = inside.batch(vec![
        rtnl::set_up("lo"),
        rtnl::set_up_inside(ifname, job.spec.promisc),
        rtnl::get_link(ifname),
    ])?;
    let inner = on.pop().and_then(|answer| answer.payload).and_then(|payload| Link::parse(&payload));
    on.into_iter().try_for_each(|answer| answer.result)?;
    inner.with_context(|| format!("cannot find '{ifname}' in the namespace"))
}

/// Nobody may have one of the addresses.
fn check(machine: &mut Machine, jobs: &[Job<'_>], inner: &[Link]) -> Result<()> {
    let mut questions = Vec::new();
    let mut window = Duration::ZERO;
    for (at, (job, inner)) in jobs.iter().zip(inner).enumerate() {
        let Some(check) = job.spec.check.filter(|_| !job.alone && !job.spec.addresses.is_empty()) else {
            continue;
        };
        let addresses = job.spec.addresses.iter().map(|cidr| cidr.address).collect();
        machine.enter(job.space)?;
        questions.push((at, Question::open(inner.index, mac_of(inner)?, addresses)?));
        window = window.max(check);
    }
    if !questions.is_empty() {
        machine.go_home()?;
    }
    let (of, questions): (Vec<usize>, Vec<Question>) = questions.into_iter().unzip();
    if let Some((at, taken)) = probe::first(&questions, window, &machine.signals)? {
        let job = &jobs[of[at]];
        return Err(refused(&taken, job.spec)).with_context(|| job.failed());
    }
    Ok(())
}

fn mac_of(link: &Link) -> Result<Mac> {
    Mac::try_from(&link.mac[..]).context("the new interface has no MAC address")
}

fn refused(taken: &Taken, spec: &LinkSpec) -> anyhow::Error {
    let (by, onto) = (format_mac(&taken.by), spec.onto.name());
    let error = anyhow!("address '{}' is taken by '{by}' on '{onto}'", taken.address);
    hint(error, "choose another address (netns switch show lists the ports)")
}

/// The lowest free address of each of the switch's networks, found by asking for many at once. Given at
/// once, before the next link looks for its own.
fn free_addresses(machine: &mut Machine, job: &Job<'_>, inner: &Link) -> Result<Vec<Cidr>> {
    let name = job.spec.onto.name();
    let switch =
        rtnl::find_link(&mut machine.outside, name)?.with_context(|| format!("no switch '{name}'"))?;
    let networks = rtnl::addresses(&mut machine.outside, switch.index)?;
    if networks.is_empty() {
        let error = anyhow!("'{name}' has no address, so its network is not known");
        return Err(hint(error, format!("netns switch add '{name}' --address 10.0.0.254/24")));
    }
    let window = job.spec.check.unwrap_or(Duration::from_millis(100));
    let mut chosen = Vec::new();
    for network in networks {
        let mut candidates = network.hosts().filter(|host| !job.spec.gateways.contains(host));
        let address = loop {
            let some: Vec<IpAddr> = candidates.by_ref().take(CANDIDATES).collect();
            if some.is_empty() {
                bail!("no address of '{}' is free on '{name}'", network.subnet());
            }
            machine.enter(job.space)?;
            let question = Question::open(inner.index, mac_of(inner)?, some.clone())?;
            machine.go_home()?;
            let taken = probe::all(&question, window, &machine.signals)?;
            if let Some(free) = some.into_iter().find(|host| !taken.contains(host)) {
                break free;
            }
        };
        let cidr = Cidr { address, prefix: network.prefix };
        machine.inside(job.space).tell(vec![rtnl::new_address(inner.index, &cidr)])?;
        chosen.push(cidr);
    }
    Ok(chosen)
}

/// Addresses but for the `chosen`, which are given already; routes and limits.
fn settle(machine: &mut Machine, job: &Job<'_>, inner: &Link, chosen: &[Cidr]) -> Result<()> {
    let LinkSpec { end, onto, addresses, gateways, rate, .. } = job.spec;
    let mut batch: Vec<_> = addresses.iter().map(|cidr| rtnl::new_address(inner.index, cidr)).collect();
    batch.extend(gateways.iter().map(|gateway| rtnl::new_default_route(inner.index, *gateway)));
    let shared = matches!(onto, Onto::Nic(..));
    if shared {
        batch.push(rtnl::set_alias(&end.ifname, &end.alias()));
    }
    machine.inside(job.space).tell(batch)?;
    // On a new switch nobody has talked to anybody.
    if !job.alone {
        let addresses: Vec<IpAddr> = addresses.iter().chain(chosen).map(|cidr| cidr.address).collect();
        announce(machine, job.space, inner, &addresses)?;
    }
    let Some(rate) = *rate else { return Ok(()) };
    machine.inside(job.space).tell(vec![rate::limit(inner.index, rate)]).map_err(rate::explain)?;
    match inner.peer.filter(|_| !shared) {
        Some(outer) => machine.outside.tell(vec![rate::limit(outer, rate)]).map_err(rate::explain),
        None => Ok(()),
    }
}
