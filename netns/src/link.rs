//! link: a cable from a namespace to a switch, in one process and without a fork.
//!
//!   outside, one message    the pair: outer end up and on the switch, inner end born in the namespace
//!   inside, one batch       lo up, inner end up
//!   probe                   does anybody answer for the addresses?
//!   inside, one batch       addresses, default route
//!   outside, one message    the outer end's alias "netns:SHIP:IFNAME": from here on the link is whole
//!
//! An outer end without its alias was left by a killed link, and the next one replaces it. Outer ends are
//! found by their name, which is made from SHIP and IFNAME alone: there is no list to keep.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sched::CloneFlags;
use unshare::fail::hint;

use crate::address::{Cidr, Mac, format_mac};
use crate::netlink::{Message, Socket, errno};
use crate::probe::{Asker, probe};
use crate::rtnl::{self, Link, Pair, PortState};
use crate::signals::Signals;
use crate::store::Target;

pub const ALIAS: &str = "netns:";
/// IFALIASZ, linux/if.h.
const LONGEST_ALIAS: usize = 255;
/// How long a port may take until it forwards: the kernel does it in its own time, mostly below 1 ms.
const PORT_READY: Duration = Duration::from_secs(2);
/// How long a namespace may take from its last user to the kernel's taking it down: a socket that was open
/// in it is let go a little after its process.
const LAST_BREATH: Duration = Duration::from_secs(2);

/// What the user asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct LinkSpec {
    pub end: End,
    pub switch: String,
    pub addresses: Vec<Cidr>,
    pub gateways: Vec<IpAddr>,
    pub mtu: Option<u32>,
    pub mac: Option<Mac>,
    /// How long to listen for somebody who has the address; None for not at all.
    pub check: Option<Duration>,
}

impl LinkSpec {
    pub fn new(end: End, switch: String, check: Option<Duration>) -> LinkSpec {
        LinkSpec { end, switch, addresses: vec![], gateways: vec![], mtu: None, mac: None, check }
    }
}

/// The inner end of a link: TARGET:IFNAME.
#[derive(Debug, PartialEq, Eq)]
pub struct End {
    pub target: Target,
    pub ifname: String,
}

impl End {
    /// The interface has no colon in its name, a target may.
    pub fn parse(word: &str) -> Result<End> {
        let Some((target, ifname)) = word.rsplit_once(':') else {
            bail!("'{word}' is not TARGET:IFNAME, as in 'web:eth0'");
        };
        let end = End { target: Target::parse(target)?, ifname: ifname.to_owned() };
        crate::address::check_ifname(ifname)?;
        if end.alias().len() > LONGEST_ALIAS {
            bail!("'{word}' is too long: a link has room for {} bytes", LONGEST_ALIAS - ALIAS.len());
        }
        Ok(end)
    }

    pub fn label(&self) -> String {
        format!("{}:{}", self.target.label(), self.ifname)
    }

    fn alias(&self) -> String {
        format!("{ALIAS}{}", self.label())
    }

    /// At most 15 bytes: the beginning of the ship's name for the eye, a hash of the whole for the rest.
    fn outer(&self) -> String {
        let label = self.target.label();
        let seen: String = label.chars().filter(char::is_ascii_alphanumeric).take(6).collect();
        format!("{seen}-{:08x}", fnv1a(self.label().as_bytes()))
    }
}

/// FNV-1a, 32 bits: must never change, or links made before are not found any more.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

pub fn link(request: &LinkSpec) -> Result<()> {
    let failed = || format!("cannot link '{}'", request.end.label());
    need_capabilities(request.check.is_some()).with_context(failed)?;
    let namespace = request.end.target.open().with_context(failed)?;
    // Two links into one namespace at the same time would each take the other's for a leftover.
    let namespace = Flock::lock(namespace, FlockArg::LockExclusive)
        .map_err(|(_, errno)| Error::new(errno).context("cannot lock the namespace"))
        .with_context(failed)?;
    let signals = Signals::block()?;
    Linking { request, namespace, signals, outer: request.end.outer() }.run().with_context(failed)
}

/// The kernel would refuse too, but some of it half-way.
fn need_capabilities(raw: bool) -> Result<()> {
    let [low, _] = unshare::sys::capget().context("cannot read the capabilities")?;
    let needed = [(12, "CAP_NET_ADMIN", true), (13, "CAP_NET_RAW", raw), (21, "CAP_SYS_ADMIN", true)];
    match needed.iter().find(|(bit, _, needed)| *needed && (low.effective >> bit) & 1 == 0) {
        Some((_, name, _)) => bail!("needs {name}"),
        None => Ok(()),
    }
}

struct Linking<'a> {
    request: &'a LinkSpec,
    namespace: Flock<OwnedFd>,
    signals: Signals,
    outer: String,
}

impl Linking<'_> {
    fn run(&self) -> Result<()> {
        let LinkSpec { end, switch, .. } = self.request;
        let mut outside = Socket::open()?;
        let mut found = outside.batch(vec![rtnl::get_link(switch), rtnl::get_link(&self.outer)])?;
        let outer = found.pop().map(|answer| rtnl::found(answer.result.map(|()| answer.payload)));
        let bridge = found.pop().map(|answer| rtnl::found(answer.result.map(|()| answer.payload)));
        let (Some(outer), Some(bridge)) = (outer, bridge) else { unreachable!("two questions, two answers") };
        let bridge = usable_switch(bridge?, switch)?;
        let outer = match outer? {
            Some(outer) => self.claim(&mut outside, outer)?,
            None => None,
        };

        // In here to the end: a socket stays where it was opened, so nothing calls us back.
        unshare::sys::setns(self.namespace.as_fd(), CloneFlags::CLONE_NEWNET)
            .context("cannot enter the namespace")?;
        let mut inside = Socket::open()?;
        if let Some(outer) = outer {
            let inner = self.inner_end_of(&outer, &mut inside)?;
            return self.ensure(&mut outside, &mut inside, &outer, &inner, &bridge);
        }
        self.signals.check()?;
        outside
            .tell(vec![rtnl::new_pair(&Pair {
                what: format!("make '{}' in the namespace", end.ifname),
                outer: &self.outer,
                master: bridge.index,
                inner: &end.ifname,
                namespace: self.namespace.as_fd(),
                mac: self.request.mac,
                mtu: self.request.mtu,
            })])
            .map_err(|error| match errno(&error) {
                Some(Errno::EEXIST) => anyhow!("the namespace has an interface '{}' already", end.ifname),
                _ => error,
            })?;
        let mut made = Made { socket: &mut outside, outer: &self.outer, keep: false };
        self.finish(made.socket, &mut inside)?;
        made.keep = true;
        Ok(())
    }

    /// The outer end of the whole link that is there; None after a leftover has been removed.
    fn claim(&self, outside: &mut Socket, outer: Link) -> Result<Option<Link>> {
        let end = &self.request.end;
        let whole = outer.alias == end.alias();
        if outer.kind != "veth" || !(whole || outer.alias.is_empty()) {
            let by = if outer.alias.is_empty() { &outer.kind } else { &outer.alias };
            bail!("its outer name '{}' is taken by '{by}'", outer.name);
        }
        let here = rtnl::namespace_id(outside, self.namespace.as_fd())?;
        if whole && outer.peer_ns == here {
            return Ok(Some(outer));
        }
        if outer.peer_ns != here {
            self.outlive(outside, &outer)?;
        }
        match outside.tell(vec![rtnl::delete_link(&outer.name)]) {
            Err(error) if errno(&error) == Some(Errno::ENODEV) => {} // was on its way out
            done => done?,
        }
        Ok(None)
    }

    /// The outer end leads to another namespace: one of this name from before, which the kernel is about
    /// to take down, or one that somebody lives in; then we keep off.
    fn outlive(&self, outside: &mut Socket, outer: &Link) -> Result<()> {
        let Some(id) = outer.peer_ns.filter(|id| *id >= 0) else { return Ok(()) };
        let mut listener = Socket::listen_to_links()?;
        let deadline = Instant::now() + LAST_BREATH;
        let mut gone = false;
        while !gone && rtnl::namespace_lives(outside, id) {
            let heard = listener.notified(deadline, &self.signals, |kind, payload| {
                gone |= rtnl::gone(kind, payload) == Some(outer.index);
            })?;
            if !heard {
                let error = anyhow!("'{}' leads to another namespace that still lives", outer.name);
                return Err(hint(error, format!("netns unlink '{}' cuts it", self.request.end.label())));
            }
        }
        Ok(())
    }

    fn inner_end_of(&self, outer: &Link, inside: &mut Socket) -> Result<Link> {
        let end = &self.request.end;
        let found = rtnl::find_link(inside, &end.ifname)?;
        found.filter(|inner| inner.peer == Some(outer.index) && outer.peer == Some(inner.index)).ok_or_else(
            || {
                let error =
                    anyhow!("the inner end of '{}' is not called '{}' any more", outer.name, end.ifname);
                hint(error, format!("netns unlink '{}' cuts it", end.label()))
            },
        )
    }

    /// All that is asked for and differs is an error that says so; nothing is changed then. What is not
    /// there yet is added.
    fn ensure(
        &self,
        outside: &mut Socket,
        inside: &mut Socket,
        outer: &Link,
        inner: &Link,
        bridge: &Link,
    ) -> Result<()> {
        let mut differences = Differences(Vec::new());
        if outer.master != Some(bridge.index) {
            let links = rtnl::all_links(outside)?;
            let master = links.iter().find(|link| Some(link.index) == outer.master);
            differences.note("switch", master.map_or("none", |link| &link.name), &bridge.name);
        }
        self.compare(inside, inner, &mut differences)?;
        let routes = self.missing_routes(inside, inner, &mut differences)?;
        if !differences.0.is_empty() {
            let error = anyhow!("it exists with {}", differences.0.join(", "));
            return Err(hint(error, format!("netns unlink '{}' first", self.request.end.label())));
        }
        if !outer.up {
            outside.tell(vec![rtnl::set_up(&outer.name)])?;
        }
        if !inner.up {
            inside.tell(vec![rtnl::set_up(&inner.name)])?;
        }
        inside.tell(routes)
    }

    fn compare(&self, inside: &mut Socket, inner: &Link, differences: &mut Differences) -> Result<()> {
        if !self.request.addresses.is_empty() {
            let mut asked = self.request.addresses.clone();
            asked.sort();
            differences.note("address", &join(&rtnl::addresses(inside, inner.index)?), &join(&asked));
        }
        if let Some(mac) = self.request.mac {
            differences.note("mac", &format_mac(&inner.mac), &format_mac(&mac));
        }
        if let Some(mtu) = self.request.mtu {
            differences.note("mtu", &inner.mtu.to_string(), &mtu.to_string());
        }
        Ok(())
    }

    fn missing_routes(
        &self,
        inside: &mut Socket,
        inner: &Link,
        differences: &mut Differences,
    ) -> Result<Vec<Message>> {
        let asked = &self.request.gateways;
        let present = if asked.is_empty() { Vec::new() } else { rtnl::gateways(inside, inner.index)? };
        let mut missing = Vec::new();
        for asked in asked {
            match present.iter().find(|gateway| gateway.is_ipv4() == asked.is_ipv4()) {
                Some(is) => differences.note("gateway", &is.to_string(), &asked.to_string()),
                None => missing.push(rtnl::new_default_route(inner.index, *asked)),
            }
        }
        Ok(missing)
    }

    /// From the bare pair to the whole link. An error from here removes the pair.
    fn finish(&self, outside: &mut Socket, inside: &mut Socket) -> Result<()> {
        let LinkSpec { end, addresses, gateways, .. } = self.request;
        let ifname = &end.ifname;
        let mut up = inside.batch(vec![rtnl::set_up("lo"), rtnl::set_up(ifname), rtnl::get_link(ifname)])?;
        let inner = up.pop().and_then(|answer| answer.payload).and_then(|payload| Link::parse(&payload));
        up.into_iter().try_for_each(|answer| answer.result)?;
        let inner = inner.with_context(|| format!("cannot find '{ifname}' in the namespace"))?;
        self.signals.check()?;
        self.wait_for_port(outside)?;
        self.check_free(&inner)?;
        let mut batch: Vec<_> = addresses.iter().map(|cidr| rtnl::new_address(inner.index, cidr)).collect();
        batch.extend(gateways.iter().map(|gateway| rtnl::new_default_route(inner.index, *gateway)));
        inside.tell(batch)?;
        self.signals.check()?;
        outside.tell(vec![rtnl::set_alias(&self.outer, &end.alias())])
    }

    /// Until the bridge passes frames from and to the new port. The kernel tells the bridge of the carrier
    /// a moment later (net/core/link_watch.c), and what is sent before is lost: the first ping, or the probe.
    fn wait_for_port(&self, outside: &mut Socket) -> Result<()> {
        let state = |socket: &mut Socket| -> Result<PortState> {
            let link = rtnl::find_link(socket, &self.outer)?;
            let link = link.with_context(|| format!("'{}' has vanished", self.outer))?;
            // A kernel that does not tell the state (before 3.13) leaves no choice but to go on.
            Ok(link.port.unwrap_or(PortState::Forwarding))
        };
        if state(outside)? == PortState::Forwarding {
            return Ok(());
        }
        let deadline = Instant::now() + PORT_READY;
        loop {
            match state(outside)? {
                PortState::Forwarding => return Ok(()),
                PortState::Undecided => {
                    let switch = &self.request.switch;
                    eprintln!("netns: note: the spanning tree of '{switch}' has not opened the port yet");
                    return Ok(());
                }
                PortState::Disabled if Instant::now() > deadline => {
                    bail!("the switch '{}' does not open its port '{}'", self.request.switch, self.outer);
                }
                PortState::Disabled => {}
            }
            // A notification could be waited for instead, but only from a socket opened before we entered
            // the namespace: three calls in every link, for what is rarely needed.
            self.signals.wait(&[], Instant::now() + Duration::from_millis(1))?;
        }
    }

    fn check_free(&self, inner: &Link) -> Result<()> {
        let Some(window) = self.request.check else { return Ok(()) };
        let addresses: Vec<IpAddr> = self.request.addresses.iter().map(|cidr| cidr.address).collect();
        if addresses.is_empty() {
            return Ok(());
        }
        let mac = Mac::try_from(&inner.mac[..]).context("the new interface has no MAC address")?;
        let Some(taken) = probe(&Asker { index: inner.index, mac }, &addresses, window, &self.signals)?
        else {
            return Ok(());
        };
        let error = anyhow!(
            "address '{}' is taken by '{}' on '{}'",
            taken.address,
            format_mac(&taken.by),
            self.request.switch
        );
        Err(hint(error, "choose another address (netns switch show lists the ports)"))
    }
}

/// What is there and was not asked for so.
struct Differences(Vec<String>);

impl Differences {
    fn note(&mut self, what: &str, is: &str, asked: &str) {
        if is != asked {
            self.0.push(format!("{what} '{is}', not '{asked}'"));
        }
    }
}

/// A pair that is not whole yet; dropped, it is removed.
struct Made<'a> {
    socket: &'a mut Socket,
    outer: &'a str,
    keep: bool,
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if !self.keep {
            let _ = self.socket.tell(vec![rtnl::delete_link(self.outer)]);
        }
    }
}

fn usable_switch(found: Option<Link>, name: &str) -> Result<Link> {
    let Some(bridge) = found else {
        let error = anyhow!("no switch '{name}'");
        return Err(hint(error, format!("netns switch add '{name}' makes it")));
    };
    if bridge.kind != "bridge" {
        bail!("'{name}' is not a switch");
    }
    if !bridge.up {
        return Err(hint(
            anyhow!("the switch '{name}' is down"),
            format!("netns switch add '{name}' opens it"),
        ));
    }
    Ok(bridge)
}

fn join(addresses: &[Cidr]) -> String {
    match addresses {
        [] => "none".into(),
        list => list.iter().map(Cidr::to_string).collect::<Vec<_>>().join(" "),
    }
}

/// Removes a link, whole or not, also when its namespace has lost its name.
pub fn unlink(end: &End) -> Result<()> {
    let failed = || format!("cannot unlink '{}'", end.label());
    need_capabilities(false).with_context(failed)?;
    let mut outside = Socket::open()?;
    let found = rtnl::find_link(&mut outside, &end.outer()).with_context(failed)?;
    let ours = |link: &Link| link.kind == "veth" && (link.alias.is_empty() || link.alias == end.alias());
    let Some(outer) = found.filter(ours) else {
        return Err(anyhow!("there is no such link")).with_context(failed);
    };
    outside.tell(vec![rtnl::delete_link(&outer.name)]).with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_names_are_stable_short_and_differ() {
        let outer = |word: &str| End::parse(word).unwrap().outer();
        assert_eq!(outer("web:eth0"), "web-543522e0");
        assert_ne!(outer("web:eth0"), outer("web:eth1"));
        let long = outer("a-very-long-ship-name-netns:eth0");
        assert!(long.starts_with("averyl-") && long.len() == 15, "{long}");
        assert!(crate::address::check_ifname(&outer("ü:eth0").replacen('-', "x", 1)).is_ok());
    }

    #[test]
    fn an_end_is_split_at_its_last_colon() {
        let end = End::parse("pid:12:eth0").unwrap();
        assert_eq!((end.target.clone(), end.ifname.as_str()), (Target::Pid(12), "eth0"));
        assert_eq!(end.alias(), "netns:pid:12:eth0");
        assert_eq!(End::parse("a:b:eth0").unwrap().target, Target::Name("a:b".into()));
        for bad in
            ["web", "web:", ":eth0", "web:a b", "web:0123456789abcdef", &format!("{}:eth0", "x".repeat(250))]
        {
            assert!(End::parse(bad).is_err(), "{bad}");
        }
    }
}
