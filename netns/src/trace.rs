//! trace: the way to a TCP port, router by router, as tcptraceroute does it, but without a raw socket.
//!
//! Each probe is an ordinary connect(2) with a small TTL. The router where that runs out says so by ICMP, and
//! the kernel keeps its address for us on the socket's error queue (IP_RECVERR in ip(7); for a socket that
//! is connecting since Linux 5.9, before that the hop is known to be there but not who it is). Firewalls
//! that swallow the UDP and ICMP of the classical traceroute let this pass, as it looks like any client.

mod names;
mod reply;
mod report;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use serde_json::{Value, json};
use unshare::fail::{print, say, tell};

use crate::store::Target;
use names::Names;
use reply::{Reply, What};

/// So many hops are asked at once. More would be faster, but those beyond the destination all reach it.
const HOPS_AT_ONCE: usize = 3;
/// When this hop or one further on has answered, a silent probe gets at least so long, and this many times
/// as long as that answer took.
const NEAR: (Duration, u32) = (Duration::from_millis(200), 10);

#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    pub host: String,
    pub port: u16,
    /// None for what the resolver prefers.
    pub ipv6: Option<bool>,
    pub first: u8,
    pub last: u8,
    pub queries: u8,
    pub wait: Duration,
    pub numeric: bool,
    pub source: Option<IpAddr>,
    pub source_port: Option<u16>,
    pub interface: Option<String>,
    pub inside: Option<Target>,
    pub json: bool,
}

impl Default for Options {
    /// As tcptraceroute has it.
    fn default() -> Options {
        Options {
            host: String::new(),
            port: 80,
            ipv6: None,
            first: 1,
            last: 30,
            queries: 3,
            wait: Duration::from_secs(3),
            numeric: false,
            source: None,
            source_port: None,
            interface: None,
            inside: None,
            json: false,
        }
    }
}

/// How the destination took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Closed,
    /// Nobody answered for it, or a router said that it may not or cannot be reached.
    Unreached,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Closed => "closed",
            State::Unreached => "unreached",
        }
    }

    /// The status to end with; 1 and 2 are failures of ours.
    fn status(self) -> u8 {
        match self {
            State::Open => 0,
            State::Closed => 3,
            State::Unreached => 4,
        }
    }
}

/// One hop: a slot for each query. None is for silence.
type Hop = Vec<Option<Reply>>;

struct Probe {
    ttl: u8,
    query: usize,
    socket: OwnedFd,
    sent: Instant,
}

/// Prints the way; the status says how the destination took it.
pub fn trace(options: &Options) -> Result<u8> {
    let failed = || format!("cannot trace the way to '{}'", options.host);
    let address = resolve(options).with_context(failed)?;
    let names = if options.numeric { Names::none() } else { Names::ask_from_here() };
    if let Some(target) = &options.inside {
        let namespace = target.open()?;
        unshare::sys::setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter '{}'", target.label()))?;
    }
    if !options.json {
        let Options { port, last, .. } = options;
        tell(&format!(
            "Tracing the way to {} on TCP port {port}, {last} hops max\n",
            shown(options, address)
        ));
    }
    let mut tracing = Tracing::new(options, address, names);
    tracing.run().with_context(failed)?;
    let state = tracing.state();
    if options.json {
        print(&format!("{}\n", tracing.json(state)))?;
    } else if state == State::Unreached {
        say("netns", &format!("'{}' was not reached", options.host));
    }
    Ok(state.status())
}

fn shown(options: &Options, address: IpAddr) -> String {
    match options.host.parse::<IpAddr>() {
        Ok(_) => address.to_string(),
        Err(_) => format!("{} ({address})", options.host),
    }
}

fn resolve(options: &Options) -> Result<IpAddr> {
    let found = (options.host.as_str(), options.port).to_socket_addrs()?;
    let wanted = options.ipv6.or(options.source.map(|source| source.is_ipv6()));
    let fits = |address: &SocketAddr| wanted.is_none_or(|ipv6| address.is_ipv6() == ipv6);
    match found.into_iter().find(fits) {
        Some(address) => Ok(address.ip()),
        None => bail!("it has no {} address", if wanted == Some(true) { "IPv6" } else { "IPv4" }),
    }
}

struct Tracing<'a> {
    options: &'a Options,
    address: IpAddr,
    hops: Vec<Hop>,
    /// The hop that ended it, as soon as one has; what lies beyond does not count.
    end: u8,
    in_flight: Vec<Probe>,
    printed: usize,
    names: Names,
}

impl<'a> Tracing<'a> {
    fn new(options: &'a Options, address: IpAddr, names: Names) -> Tracing<'a> {
        Tracing {
            options,
            address,
            hops: Vec::new(),
            end: options.last,
            in_flight: Vec::new(),
            printed: 0,
            names,
        }
    }

    fn run(&mut self) -> Result<()> {
        let queries = usize::from(self.options.queries);
        // Two connections cannot have the same four numbers: then one after the other.
        let at_once = if self.options.source_port.is_some() { 1 } else { HOPS_AT_ONCE * queries };
        let ttls = self.options.first..=self.options.last;
        let mut jobs = ttls.flat_map(|ttl| (0..queries).map(move |query| (ttl, query))).peekable();
        loop {
            while self.in_flight.len() < at_once {
                let Some((ttl, query)) = jobs.next_if(|(ttl, _)| *ttl <= self.end) else { break };
                self.launch(ttl, query)?;
            }
            self.report()?;
            if self.in_flight.is_empty() && self.names.awaited().is_none() {
                return Ok(());
            }
            self.wait()?;
        }
    }

    fn launch(&mut self, ttl: u8, query: usize) -> Result<()> {
        if self.hop(ttl).is_none() {
            self.hops.push(Vec::new());
        }
        let socket = self.socket(ttl)?;
        let sent = Instant::now();
        let target = SockaddrStorage::from(SocketAddr::new(self.address, self.options.port));
        match connect(socket.as_raw_fd(), &target) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            // The refusal of a neighbour can be back before the call is.
            Err(Errno::ECONNREFUSED | Errno::EHOSTUNREACH) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.in_flight.push(Probe { ttl, query, socket, sent });
        Ok(())
    }

    fn hop(&mut self, ttl: u8) -> Option<&mut Hop> {
        self.hops.get_mut(usize::from(ttl - self.options.first))
    }

    fn socket(&self, ttl: u8) -> Result<OwnedFd> {
        let Options { source, source_port, interface, .. } = self.options;
        let ipv6 = self.address.is_ipv6();
        let family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(family, SockType::Stream, flags, None).context("cannot open a socket")?;
        let prepare = || -> nix::Result<()> {
            // Reset what was opened: the server shall not wait for a client that is not one.
            setsockopt(&socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
            if ipv6 {
                setsockopt(&socket, sockopt::Ipv6Ttl, &i32::from(ttl))?;
                setsockopt(&socket, sockopt::Ipv6RecvErr, &true)
            } else {
                setsockopt(&socket, sockopt::Ipv4Ttl, &i32::from(ttl))?;
                setsockopt(&socket, sockopt::Ipv4RecvErr, &true)
            }
        };
        prepare().context("cannot set the time to live")?;
        if let Some(name) = interface {
            setsockopt(&socket, sockopt::BindToDevice, &name.into())
                .with_context(|| format!("cannot send by '{name}'"))?;
        }
        if source.is_some() || source_port.is_some() {
            let any = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { IpAddr::from(Ipv4Addr::UNSPECIFIED) };
            let from = SocketAddr::new(source.unwrap_or(any), source_port.unwrap_or(0));
            setsockopt(&socket, sockopt::ReuseAddr, &true).context("cannot reuse the address")?;
            bind(socket.as_raw_fd(), &SockaddrStorage::from(from))
                .with_context(|| format!("cannot send from '{from}'"))?;
        }
        Ok(socket)
    }

    /// Until a probe is answered, a name is found or the time of one is over.
    fn wait(&mut self) -> Result<()> {
        let now = Instant::now();
        let name = self.names.awaited();
        let deadlines = self.in_flight.iter().map(|probe| self.deadline(probe));
        let first = deadlines.chain(name.map(|(_, deadline)| deadline)).min().unwrap_or(now);
        let left = first.saturating_duration_since(now).as_millis() as u64 + 1;
        let mut polled: Vec<PollFd> = self
            .in_flight
            .iter()
            .map(|probe| PollFd::new(probe.socket.as_fd(), PollFlags::POLLOUT))
            .collect();
        polled.extend(name.map(|(fd, _)| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("cannot wait"),
        }
        let now = Instant::now();
        let ready: Vec<bool> = polled.iter().map(|fd| fd.any() == Some(true)).collect();
        for (probe, ready) in std::mem::take(&mut self.in_flight).into_iter().zip(ready) {
            if ready {
                let time = now.saturating_duration_since(probe.sent);
                let reply = reply::read(&probe.socket, time, self.address)?;
                self.note(&probe, reply);
            } else if now >= self.deadline(&probe) {
                self.note(&probe, None);
            } else {
                self.in_flight.push(probe);
            }
        }
        let end = self.end;
        self.in_flight.retain(|probe| probe.ttl <= end);
        self.names.update();
        Ok(())
    }

    fn deadline(&self, probe: &Probe) -> Instant {
        let this = usize::from(probe.ttl - self.options.first);
        let answers = self.hops.get(this..).unwrap_or(&[]).iter().flatten().flatten();
        let near = answers.map(|reply| (reply.time * NEAR.1).max(NEAR.0)).max();
        probe.sent + near.map_or(self.options.wait, |near| near.min(self.options.wait))
    }

    fn note(&mut self, probe: &Probe, reply: Option<Reply>) {
        if let Some(reply) = &reply {
            if reply.what != What::Passing {
                self.end = self.end.min(probe.ttl);
            }
            reply.from.into_iter().for_each(|address| self.names.want(address));
        }
        let Some(hop) = self.hop(probe.ttl) else { return };
        hop.resize(hop.len().max(probe.query + 1), None);
        hop[probe.query] = reply;
    }

    /// The hops up to the one that ended it.
    fn way(&self) -> impl Iterator<Item = (u8, &Hop)> {
        (self.options.first..=self.end).zip(&self.hops)
    }

    fn state(&self) -> State {
        let any =
            |what: What| self.way().any(|(_, hop)| hop.iter().flatten().any(|reply| reply.what == what));
        if any(What::Open) {
            State::Open
        } else if any(What::Closed) {
            State::Closed
        } else {
            State::Unreached
        }
    }

    /// Prints the lines of the hops that are complete and follow those printed.
    fn report(&mut self) -> Result<()> {
        if self.options.json {
            return Ok(());
        }
        let ready: Vec<String> = self
            .way()
            .skip(self.printed)
            .take_while(|(ttl, hop)| self.is_complete(*ttl, hop))
            .map(|(ttl, hop)| report::line(ttl, hop, &self.names))
            .collect();
        self.printed += ready.len();
        if ready.is_empty() { Ok(()) } else { print(&ready.concat()) }
    }

    /// Whether nothing is to come for it, be it a name.
    fn is_complete(&self, ttl: u8, hop: &Hop) -> bool {
        let unnamed = |reply: &Reply| reply.from.is_some_and(|address| self.names.is_pending(address));
        hop.len() == usize::from(self.options.queries)
            && !self.in_flight.iter().any(|probe| probe.ttl == ttl)
            && !hop.iter().flatten().any(unnamed)
    }

    fn json(&self, state: State) -> Value {
        let hops: Vec<Value> = self.way().map(|(ttl, hop)| report::json(ttl, hop, &self.names)).collect();
        let Options { host, port, .. } = self.options;
        json!({"host": host, "address": self.address.to_string(), "port": port, "state": state.word(), "hops": hops})
    }
}
