//! switch: a Linux bridge that ships are linked to, the host's address on it, and the way out.

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use serde_json::{Value, json};
use unshare::fail::{hint, print};

use crate::address::{Cidr, format_mac};
use crate::list::belongs_to;
use crate::nat::{self, Nft, Ruleset};
use crate::netlink::{Socket, errno};
use crate::rtnl::{self, Link};
use crate::signals::Signals;
use crate::sys;

#[derive(Debug, PartialEq, Eq)]
pub struct SwitchSpec {
    pub name: String,
    pub addresses: Vec<Cidr>,
    pub nat: bool,
}

/// Makes the switch, or adds to it what is missing; what is there and differs is an error.
pub fn add(request: &SwitchSpec) -> Result<()> {
    let failed = || format!("cannot add the switch '{}'", request.name);
    let nft = request.nat.then(Nft::need).transpose().with_context(failed)?;
    let signals = Signals::block()?;
    let mut socket = Socket::open()?;
    let found = rtnl::find_link(&mut socket, &request.name).with_context(failed)?;
    let present = match &found {
        Some(link) => rtnl::addresses(&mut socket, bridge(link).with_context(failed)?.index)?,
        None => Vec::new(),
    };
    let missing = missing(&request.addresses, &present).with_context(failed)?;
    let mut subnets = present;
    subnets.extend(&missing);
    if request.nat && subnets.is_empty() {
        let error = anyhow!("NAT needs to know the subnet");
        return Err(hint(error, "give the switch an address: --address 10.0.0.254/24")).with_context(failed);
    }
    let mut adding = Adding { name: &request.name, socket, new: false, addresses: Vec::new() };
    match adding.act(found, missing, nft.as_ref(), &subnets, &signals) {
        Ok(ruleset) => warn_of_filters(request, ruleset, adding.new),
        Err(error) => {
            adding.undo();
            return Err(error).with_context(failed);
        }
    }
    Ok(())
}

fn bridge(link: &Link) -> Result<&Link> {
    match link.kind.as_str() {
        "bridge" => Ok(link),
        _ => Err(anyhow!("'{}' is there and is not a bridge", link.name)),
    }
}

/// The addresses to be added. A bridge with another one of the same family is somebody's; we keep off.
fn missing(asked: &[Cidr], present: &[Cidr]) -> Result<Vec<Cidr>> {
    let mut missing = Vec::new();
    for cidr in asked.iter().filter(|cidr| !present.contains(cidr)) {
        if let Some(is) = present.iter().find(|is| is.address.is_ipv4() == cidr.address.is_ipv4()) {
            return Err(anyhow!("it exists with address '{is}', not '{cidr}'"));
        }
        missing.push(*cidr);
    }
    Ok(missing)
}

/// What has been done so far, for the way back.
struct Adding<'a> {
    name: &'a str,
    socket: Socket,
    new: bool,
    addresses: Vec<(u32, Cidr)>,
}

impl Adding<'_> {
    fn act(
        &mut self,
        found: Option<Link>,
        missing: Vec<Cidr>,
        nft: Option<&Nft>,
        subnets: &[Cidr],
        signals: &Signals,
    ) -> Result<Option<Ruleset>> {
        let link = match found {
            Some(link) => link,
            None => self.make()?,
        };
        if !link.up {
            self.socket.tell(vec![rtnl::set_up(self.name)])?;
        }
        signals.check()?;
        for cidr in missing {
            match self.socket.tell(vec![rtnl::new_address(link.index, &cidr)]) {
                Err(error) if errno(&error) == Some(Errno::EEXIST) => {} // by another add at the same time
                done => {
                    done?;
                    self.addresses.push((link.index, cidr));
                }
            }
        }
        signals.check()?;
        // Last, as it is all or nothing by itself.
        nft.map(|nft| nft.switch_on(self.name, subnets)).transpose()
    }

    fn make(&mut self) -> Result<Link> {
        // Locally administered, of one interface.
        let mut mac = sys::random::<6>().context("cannot make a MAC address")?;
        mac[0] = mac[0] & 0xfc | 0x02;
        match self.socket.tell(vec![rtnl::new_bridge(self.name, mac)]) {
            Err(error) if errno(&error) == Some(Errno::EEXIST) => {} // by another add at the same time
            done => {
                done?;
                self.new = true;
            }
        }
        rtnl::find_link(&mut self.socket, self.name)?.context("it has vanished")
    }

    fn undo(&mut self) {
        if self.new {
            let _ = self.socket.tell(vec![rtnl::delete_link(self.name)]);
            return;
        }
        for (index, cidr) in self.addresses.drain(..).rev() {
            let _ = self.socket.tell(vec![rtnl::delete_address(index, &cidr)]);
        }
    }
}

/// A firewall that drops by default swallows what ships send, without a word: so one from us.
fn warn_of_filters(request: &SwitchSpec, ruleset: Option<Ruleset>, new: bool) {
    let bridged = nat::bridges_are_filtered();
    if !(request.nat || new && bridged) {
        return;
    }
    let ruleset = ruleset.or_else(|| Nft::find().and_then(|nft| nft.ruleset().ok()));
    let Some(ruleset) = ruleset else { return };
    for chain in ruleset.dropping() {
        let what = if bridged { "between ships and to the outside" } else { "to the outside" };
        eprintln!(
            "netns: warning: policy drop of '{chain}' will swallow traffic of '{}' {what}",
            request.name
        );
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Removal {
    pub name: String,
    pub if_unused: bool,
}

/// Removes the switch and its NAT; ports that are left end nowhere.
pub fn delete(removal: &Removal) -> Result<()> {
    let name = &removal.name;
    let failed = || format!("cannot delete the switch '{name}'");
    let mut socket = Socket::open()?;
    let found = rtnl::find_link(&mut socket, name).with_context(failed)?;
    let mut ports = Vec::new();
    if let Some(link) = &found {
        let index = bridge(link).with_context(failed)?.index;
        ports = rtnl::all_links(&mut socket)?.into_iter().filter(|port| port.master == Some(index)).collect();
    }
    if removal.if_unused && !ports.is_empty() {
        return Ok(());
    }
    let nft = Nft::find();
    let had_nat = nft.map(|nft| nft.switch_off(name)).transpose().with_context(failed)?.unwrap_or(false);
    if found.is_none() {
        // Somebody else has removed the bridge; then our rules were what was left to remove.
        return match had_nat || removal.if_unused {
            true => Ok(()),
            false => Err(anyhow!("no switch '{name}'")),
        };
    }
    socket.tell(vec![rtnl::delete_link(name)]).with_context(failed)?;
    if !ports.is_empty() {
        let names: Vec<String> = ports.iter().map(label).collect();
        eprintln!("netns: note: '{name}' had ports, now without a switch: {}", names.join(" "));
    }
    Ok(())
}

/// A port as the user knows it, where it is one of ours.
fn label(port: &Link) -> String {
    match belongs_to(port) {
        Some((ship, ifname)) => format!("{ship}:{ifname}"),
        None => port.name.clone(),
    }
}

/// One switch a line: NAME up|down MAC [ADDRESS ...] [nat] [PORT ...].
pub fn show(name: Option<&str>, as_json: bool) -> Result<()> {
    let mut socket = Socket::open()?;
    let links = rtnl::all_links(&mut socket)?;
    let bridges: Vec<&Link> =
        links.iter().filter(|l| l.kind == "bridge" && name.is_none_or(|name| name == l.name)).collect();
    if let (Some(name), []) = (name, &bridges[..]) {
        return Err(anyhow!("no switch '{name}'"));
    }
    // Without nft there is no NAT of ours; who may not ask it, sees the rest.
    let ruleset = if bridges.is_empty() { None } else { Nft::find().and_then(|nft| nft.ruleset().ok()) };
    let mut text = String::new();
    let mut records = Vec::new();
    for bridge in bridges {
        let addresses: Vec<String> =
            rtnl::addresses(&mut socket, bridge.index)?.iter().map(Cidr::to_string).collect();
        let nat = ruleset.as_ref().is_some_and(|ruleset| ruleset.masquerade(&bridge.name));
        let ports: Vec<&Link> = links.iter().filter(|port| port.master == Some(bridge.index)).collect();
        let state = if bridge.up { "up" } else { "down" };
        let mac = format_mac(&bridge.mac);
        let mut words = vec![bridge.name.clone(), state.into(), mac.clone()];
        words.extend(addresses.iter().cloned());
        words.extend(nat.then(|| "nat".into()));
        words.extend(ports.iter().map(|port| label(port)));
        text += &(words.join(" ") + "\n");
        let ports: Vec<Value> = ports.into_iter().map(port_json).collect();
        records.push(json!({
            "name": bridge.name, "state": state, "mac": mac, "addresses": addresses, "nat": nat, "ports": ports,
        }));
    }
    print(&if as_json { format!("{}\n", Value::from(records)) } else { text })
}

fn port_json(port: &Link) -> Value {
    let (ship, ifname) = belongs_to(port).unzip();
    json!({"outer": port.name, "ship": ship, "ifname": ifname})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_each_family_can_be_added_but_not_a_second() {
        let cidr = |word: &str| Cidr::parse(word).unwrap();
        let (four, six) = (cidr("10.0.0.1/24"), cidr("fd00::1/64"));
        assert_eq!(missing(&[four, six], &[]).unwrap(), [four, six]);
        assert_eq!(missing(&[four, six], &[four]).unwrap(), [six]);
        let error = missing(&[cidr("10.0.0.2/24")], &[four]).unwrap_err();
        assert_eq!(error.to_string(), "it exists with address '10.0.0.1/24', not '10.0.0.2/24'");
    }
}
