//! trace: the way to a TCP port, router by router, as tcptraceroute does it, but without a raw socket.
//!
//! Each probe is an ordinary connect(2) with a small TTL. The router where that runs out says so by ICMP, and
//! the kernel keeps its address for us on the socket's error queue (IP_RECVERR in ip(7); for a socket that
//! is connecting since Linux 5.9, before that the hop is known to be there but not who it is). Firewalls
//! that swallow the UDP and ICMP of the classical traceroute let this pass, as it looks like any client.

use std::collections::HashMap;
use std::fs::File;
use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, connect,
    getsockopt, recvmsg, setsockopt, socket, sockopt,
};
use serde_json::{Value, json};
use unshare::fail::print;

use crate::store::Target;
use crate::sys;

/// So many hops are asked at once. More would be faster, but those beyond the destination all reach it.
const HOPS_AT_ONCE: usize = 3;
/// When this hop or one further on has answered, a silent probe gets at least so long, and this many times
/// as long as that answer took.
const NEAR: (Duration, u32) = (Duration::from_millis(200), 10);
/// A name server that takes longer is not asked again.
const SLOW_NAMES: Duration = Duration::from_secs(1);

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

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// The time to live has run out there.
    Passing,
    Open,
    Closed,
    /// As traceroute(8) marks it: !H, !N, !X …
    Refused(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Reply {
    from: Option<IpAddr>,
    what: What,
    time: Duration,
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
    let outside = File::open("/proc/self/ns/net").context("cannot open '/proc/self/ns/net'")?;
    if let Some(target) = &options.inside {
        let namespace = target.open()?;
        unshare::sys::setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter '{}'", target.label()))?;
    }
    if !options.json {
        eprintln!(
            "Tracing the way to {} on TCP port {}, {} hops max",
            shown(options, address),
            options.port,
            options.last
        );
    }
    let mut tracing = Tracing::new(options, address);
    tracing.run().with_context(failed)?;
    if options.inside.is_some() {
        // Names are looked up where the host's was.
        unshare::sys::setns(outside.as_fd(), CloneFlags::CLONE_NEWNET).context("cannot come back")?;
    }
    let state = tracing.state();
    tracing.report(true)?;
    if options.json {
        print(&format!("{}\n", tracing.json(state)))?;
    } else if state == State::Unreached {
        eprintln!("netns: '{}' was not reached", options.host);
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
    fn new(options: &'a Options, address: IpAddr) -> Tracing<'a> {
        let names = Names { known: HashMap::new(), ask: !options.numeric };
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
            if self.in_flight.is_empty() {
                return Ok(());
            }
            self.wait()?;
            // Looking names up takes time, which would count as that of the probes under way.
            if self.options.numeric {
                self.report(false)?;
            }
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

    /// Until a probe is answered or its time is over.
    fn wait(&mut self) -> Result<()> {
        let now = Instant::now();
        let first = self.in_flight.iter().map(|probe| self.deadline(probe)).min().unwrap_or(now);
        let left = first.saturating_duration_since(now).as_millis() as u64 + 1;
        let mut polled: Vec<PollFd> = self
            .in_flight
            .iter()
            .map(|probe| PollFd::new(probe.socket.as_fd(), PollFlags::POLLOUT))
            .collect();
        match poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("cannot wait"),
        }
        let now = Instant::now();
        let ready: Vec<bool> = polled.iter().map(|fd| fd.any() == Some(true)).collect();
        for (probe, ready) in std::mem::take(&mut self.in_flight).into_iter().zip(ready) {
            if ready {
                let reply = read(&probe, now, self.address)?;
                self.note(&probe, reply);
            } else if now >= self.deadline(&probe) {
                self.note(&probe, None);
            } else {
                self.in_flight.push(probe);
            }
        }
        let end = self.end;
        self.in_flight.retain(|probe| probe.ttl <= end);
        Ok(())
    }

    fn deadline(&self, probe: &Probe) -> Instant {
        let this = usize::from(probe.ttl - self.options.first);
        let answers = self.hops.get(this..).unwrap_or(&[]).iter().flatten().flatten();
        let near = answers.map(|reply| (reply.time * NEAR.1).max(NEAR.0)).max();
        probe.sent + near.map_or(self.options.wait, |near| near.min(self.options.wait))
    }

    fn note(&mut self, probe: &Probe, reply: Option<Reply>) {
        if reply.as_ref().is_some_and(|reply| reply.what != What::Passing) {
            self.end = self.end.min(probe.ttl);
        }
        let Some(hop) = self.hop(probe.ttl) else { return };
        hop.resize(hop.len().max(probe.query + 1), None);
        hop[probe.query] = reply;
    }

    fn state(&self) -> State {
        let way = usize::from(self.end - self.options.first) + 1;
        let replies = || self.hops.iter().take(way).flatten().flatten();
        if replies().any(|reply| reply.what == What::Open) {
            State::Open
        } else if replies().any(|reply| reply.what == What::Closed) {
            State::Closed
        } else {
            State::Unreached
        }
    }

    /// Prints the lines of the hops that are complete and follow those printed.
    fn report(&mut self, all: bool) -> Result<()> {
        if self.options.json {
            return Ok(());
        }
        let way = usize::from(self.end - self.options.first) + 1;
        while self.printed < self.hops.len().min(way) {
            let ttl = self.options.first + self.printed as u8;
            let complete = self.hops[self.printed].len() == usize::from(self.options.queries)
                && !self.in_flight.iter().any(|probe| probe.ttl == ttl);
            if !complete && !all {
                break;
            }
            let line = self.line(ttl);
            print(&line)?;
            self.printed += 1;
        }
        Ok(())
    }

    /// "TTL  ADDRESS [open]  0.123 ms  0.120 ms *": an address once for the times that follow it.
    fn line(&mut self, ttl: u8) -> String {
        let hop = self.hops[self.printed].clone();
        let mut line = format!("{ttl:2} ");
        let mut last = None;
        for reply in &hop {
            let Some(reply) = reply else {
                line += " *";
                continue;
            };
            if last != Some((reply.from, &reply.what)) {
                line += &format!(" {}{}", self.names.shown(reply.from), mark(&reply.what));
                last = Some((reply.from, &reply.what));
            }
            line += &format!("  {:.3} ms", reply.time.as_secs_f64() * 1e3);
        }
        line + "\n"
    }

    fn json(&mut self, state: State) -> Value {
        let way = usize::from(self.end - self.options.first) + 1;
        let hops: Vec<Hop> = self.hops.iter().take(way).cloned().collect();
        let hops: Vec<Value> = hops
            .into_iter()
            .zip(self.options.first..)
            .map(|(hop, ttl)| {
                let replies: Vec<Value> = hop.iter().map(|reply| self.reply_json(reply.as_ref())).collect();
                json!({"ttl": ttl, "replies": replies})
            })
            .collect();
        let Options { host, port, .. } = self.options;
        json!({"host": host, "address": self.address.to_string(), "port": port, "state": state.word(), "hops": hops})
    }

    fn reply_json(&mut self, reply: Option<&Reply>) -> Value {
        let Some(reply) = reply else { return Value::Null };
        let (state, why) = match reply.what {
            What::Passing => ("passing", None),
            What::Open => ("open", None),
            What::Closed => ("closed", None),
            What::Refused(why) => ("refused", Some(why)),
        };
        let name = reply.from.and_then(|address| self.names.of(address));
        json!({
            "address": reply.from.map(|address| address.to_string()), "name": name, "state": state, "why": why,
            "ms": reply.time.as_micros() as f64 / 1e3,
        })
    }
}

fn mark(what: &What) -> String {
    match what {
        What::Passing => String::new(),
        What::Open => " [open]".into(),
        What::Closed => " [closed]".into(),
        What::Refused(why) => format!(" {why}"),
    }
}

/// What came back; None when it was nothing in time for the kernel.
fn read(probe: &Probe, now: Instant, destination: IpAddr) -> Result<Option<Reply>> {
    let time = now.saturating_duration_since(probe.sent);
    if let Some((from, what)) = heard(&probe.socket)? {
        return Ok(Some(Reply { from, what, time }));
    }
    let errno = getsockopt(&probe.socket, sockopt::SocketError).context("cannot ask the socket")?;
    let (from, what) = match Errno::from_raw(errno) {
        Errno::UnknownErrno => (Some(destination), What::Open), // 0
        Errno::ECONNREFUSED => (Some(destination), What::Closed),
        Errno::ETIMEDOUT => return Ok(None),
        // From a kernel that does not say who: 11 of ICMP becomes this too (net/ipv4/tcp_ipv4.c).
        Errno::EHOSTUNREACH => (None, What::Passing),
        other => return Err(anyhow!(other)),
    };
    Ok(Some(Reply { from, what, time }))
}

/// What ICMP said about this probe and who said it.
fn heard(socket: &OwnedFd) -> Result<Option<(Option<IpAddr>, What)>> {
    let mut data = [0; 64];
    let mut iov = [IoSliceMut::new(&mut data)];
    let mut space = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut iov, Some(&mut space), flags) {
        Ok(message) => message,
        Err(_) => return Ok(None), // EAGAIN: it said nothing
    };
    for part in message.cmsgs().context("cannot read what ICMP said")? {
        let (error, from) = match part {
            ControlMessageOwned::Ipv4RecvErr(error, from) => {
                (error, from.map(|from| IpAddr::from(from.sin_addr.s_addr.to_ne_bytes())))
            }
            ControlMessageOwned::Ipv6RecvErr(error, from) => {
                (error, from.map(|from| IpAddr::from(from.sin6_addr.s6_addr)))
            }
            _ => continue,
        };
        if let Some(what) = meaning(error.ee_origin, error.ee_type, error.ee_code) {
            return Ok(Some((from, what)));
        }
    }
    Ok(None)
}

/// RFC 792 and RFC 4443; marks as traceroute(8) has them.
fn meaning(origin: u8, kind: u8, code: u8) -> Option<What> {
    match (origin, kind, code) {
        (libc::SO_EE_ORIGIN_ICMP, 11, _) | (libc::SO_EE_ORIGIN_ICMP6, 3, _) => Some(What::Passing),
        (libc::SO_EE_ORIGIN_ICMP, 3, 0) | (libc::SO_EE_ORIGIN_ICMP6, 1, 0) => Some(What::Refused("!N")),
        (libc::SO_EE_ORIGIN_ICMP, 3, 2) => Some(What::Refused("!P")),
        (libc::SO_EE_ORIGIN_ICMP, 3, 3) | (libc::SO_EE_ORIGIN_ICMP6, 1, 4) => Some(What::Refused("!p")),
        (libc::SO_EE_ORIGIN_ICMP, 3, 9 | 10 | 13) | (libc::SO_EE_ORIGIN_ICMP6, 1, 1 | 5 | 6) => {
            Some(What::Refused("!X"))
        }
        (libc::SO_EE_ORIGIN_ICMP, 3, _) | (libc::SO_EE_ORIGIN_ICMP6, 1, _) => Some(What::Refused("!H")),
        _ => None,
    }
}

/// The names of routers, each asked for once.
struct Names {
    known: HashMap<IpAddr, Option<String>>,
    ask: bool,
}

impl Names {
    fn of(&mut self, address: IpAddr) -> Option<String> {
        if !self.ask {
            return None;
        }
        if let Some(name) = self.known.get(&address) {
            return name.clone();
        }
        let start = Instant::now();
        // A stranger's text for the terminal.
        let name = sys::name_of(address).filter(|name| name.bytes().all(|byte| byte.is_ascii_graphic()));
        self.ask = start.elapsed() < SLOW_NAMES;
        self.known.insert(address, name.clone());
        name
    }

    fn shown(&mut self, address: Option<IpAddr>) -> String {
        let Some(address) = address else { return "?".into() };
        match self.of(address) {
            Some(name) => format!("{name} ({address})"),
            None => address.to_string(),
        }
    }
}
