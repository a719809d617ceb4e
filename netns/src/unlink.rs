//! unlink: cuts links, whole or not, and takes away what is published over them.

use anyhow::{Context, Result, anyhow};

use crate::link::End;
use crate::machine::{Machine, need_capabilities};
use crate::manner::Manner;
use crate::plug;
use crate::publish::Entry;
use crate::rtnl::{self, Link};
use crate::store::{Target, quoted};
use crate::unpublish::Withdrawal;

/// Removes links, whole or not, also when their namespace has lost its name: all of them or none.
pub fn unlink(ends: &[End], manner: Manner) -> Result<()> {
    need_capabilities(false)?;
    let mut machine = Machine::open()?;
    // For macvlans only: a pair is cut without its namespace.
    let open: Vec<&Target> =
        ends.iter().map(|end| &end.target).filter(|target| target.open().is_ok()).collect();
    machine.open_spaces(open.into_iter(), false)?;
    let mut outer = Vec::new();
    let mut inner = Vec::new();
    for end in ends {
        let failed = || format!("cannot unlink '{}'", end.label());
        let found = rtnl::find_link(&mut machine.outside, &end.outer()).with_context(failed)?;
        let ours = |link: &Link| link.kind == "veth" && (link.alias.is_empty() || link.alias == end.alias());
        match found.filter(ours) {
            Some(link) => outer.push(link),
            None => inner.push(shared_end(&mut machine, end).with_context(failed)?),
        }
    }
    let withdrawal = withdrawal(&mut machine, ends, &outer)?;
    let mut changes: Vec<String> =
        ends.iter().map(|end| format!("unlink {}", quoted(&end.label()))).collect();
    changes.extend(withdrawal.iter().flat_map(Withdrawal::words));
    if manner.dry_run {
        return manner.tell(&changes, &[]);
    }
    withdrawal.map_or(Ok(()), Withdrawal::act_and_say)?;
    plug::pull(&mut machine, &outer)?;
    let outer: Vec<String> = outer.into_iter().map(|link| link.name).collect();
    rtnl::delete_links(&mut machine.outside, &outer).context("cannot unlink")?;
    for (space, name) in inner {
        machine.inside(space).tell(vec![rtnl::delete_link(&name)]).context("cannot unlink")?;
    }
    manner.tell(&changes, &[])
}

/// What is published and leads to a ship over one of these links.
fn withdrawal(machine: &mut Machine, ends: &[End], outer: &[Link]) -> Result<Option<Withdrawal>> {
    let mut cut = Vec::new();
    for link in outer {
        let Some(end) = ends.iter().find(|end| end.outer() == link.name) else { continue };
        let switch = plug::of_port(machine, link)?;
        cut.extend(switch.map(|switch| (&end.target, switch)));
    }
    let over = |entry: &Entry| {
        cut.iter().any(|(target, switch)| **target == entry.spec.target && *switch == entry.switch)
    };
    if cut.is_empty() { Ok(None) } else { Withdrawal::plan(over) }
}

/// A macvlan of ours in the namespace.
fn shared_end(machine: &mut Machine, end: &End) -> Result<(usize, String)> {
    let none = || anyhow!("there is no such link");
    let space = machine.space_of(&end.target).ok_or_else(none)?;
    let found = rtnl::find_link(machine.inside(space), &end.ifname)?;
    let ours = |link: &Link| link.alias == end.alias() && matches!(link.kind.as_str(), "macvlan" | "macvtap");
    found.filter(ours).map(|link| (space, link.name)).ok_or_else(none)
}
