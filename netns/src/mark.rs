//! mark: the alias by which a device tells that it is ours and whose: the memory of all commands.

use crate::rtnl::Link;

/// Of the outer end of a link: "netns:TARGET:IFNAME".
pub const LINK: &str = "netns:";
/// Of a card that has become a port: "netns uplink ADDRESS/PREFIX …".
pub const UPLINK: &str = "netns uplink";
/// Of a switch that we have made.
pub const SWITCH: &str = "netns switch";
/// IFALIASZ, linux/if.h.
pub const LONGEST: usize = 255;

/// The link that an outer end belongs to, as (target, interface).
pub fn belongs_to(outer: &Link) -> Option<(&str, &str)> {
    outer.alias.strip_prefix(LINK)?.rsplit_once(':')
}

pub fn is_uplink(link: &Link) -> bool {
    link.alias.starts_with(UPLINK)
}

pub fn is_switch(link: &Link) -> bool {
    link.alias == SWITCH
}
