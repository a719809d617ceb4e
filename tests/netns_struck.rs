//! netns struck by a signal: whatever ends a command, nothing is left that the next one does not take on.
//!
//! FULL=1 strikes at every call and takes minutes; without it some are left out, with STEP.

mod common;
mod netns_bed;

use common::Outcome;
use netns_bed::{CARD, NETWORK, STRIKES, net};

fn struck(script: &str) -> Outcome {
    net(&[STRIKES, script].concat())
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_link_stopped_in_any_call_is_undone_or_whole() {
    struck(
        r#"
        netns switch add br0; netns add web
        look() {
            # Whole or nothing, with no help.
            if [ $(links) != 2 ]; then
                ip link show web-543522e0 | grep -q 'alias netns:web:eth0'
                netns exec web ip -o addr show eth0 | grep -q 10.0.0.1/24
                echo whole
            else echo nothing; fi >>$T/seen
            netns link web:eth0 br0 10.0.0.1/24 --no-check
            netns unlink web:eth0
            same "$(links)" 2
        }
        each_call TERM look netns link web:eth0 br0 10.0.0.1/24 --check 2
        grep -q nothing $T/seen; grep -q whole $T/seen
    "#,
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn what_a_link_killed_in_any_call_leaves_the_next_one_replaces() {
    struck(
        r#"
        netns switch add br0; netns add web; half=0
        look() {
            if ! ip link show type veth | grep -q alias && [ $(links) = 3 ]; then half=$((half + 1)); fi
            netns link web:eth0 br0 10.0.0.1/24 via 10.0.0.9 --no-check
            netns exec web ip -o addr show eth0 | grep -q 10.0.0.1/24
            netns exec web ip route | grep -q 'default via 10.0.0.9'
            same "$(links)" 3
        }
        STEP=2
        then_cut() { look; netns unlink web:eth0; same "$(links)" 2; }
        each_call KILL then_cut netns link web:eth0 br0 10.0.0.1/24 via 10.0.0.9 --check 2
        test $half -gt 0
        look; netns publish 8080 web:80
        cut_again() {
            netns unlink web:eth0 2>/dev/null || :
            same "$(links) $(nft list ruleset)" "2 "; look; netns publish 8080 web:80
        }
        each_call KILL cut_again netns unlink web:eth0
    "#,
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn an_add_or_del_struck_in_any_call_does_not_stop_the_next() {
    struck(r#"
        STEP=2
        add_again() {
            netns add one two 2>/dev/null
            netns exec one true; netns exec two true
            netns del one two
            same "$(ls /run/netns) $(grep -c ' /netns /run/netns ' /proc/self/mountinfo)" " 0"
        }
        each_call TERM add_again netns add one two
        CALLS="$CALLS openat mkdir"; each_call KILL add_again netns add one two
        netns switch add br0 --address 10.0.0.254/24
        make() { netns add one two; netns link one:eth0 br0 10.0.0.1/24 --no-check; netns publish 80 one:80; }
        del_again() {
            netns del --if-exists --wait one two 2>/dev/null
            same "$(ls /run/netns) $(grep -c ' /netns /run/netns ' /proc/self/mountinfo) $(nft list ruleset)" " 0 "
            make
        }
        make; CALLS='sendto umount2 unlink write'; each_call TERM del_again netns del one two; each_call KILL del_again netns del one two
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_switch_killed_in_any_call_is_completed_by_the_next_add() {
    struck(
        r#"
        STEP=2
        again() {
            netns switch add br0 --address 10.0.0.254/24 --nat
            same "$(nft list ruleset | grep -c masquerade$)" 1
            same "$(cat /proc/sys/net/ipv4/ip_forward)" 1
        }
        add_again() { again; netns switch del br0; same "$(nft list ruleset) $(links)" " 1"; }
        del_again() {
            netns switch del --if-unused br0
            same "$(nft list ruleset)$(cat /proc/sys/net/ipv4/ip_forward) $(links)" "0 1"
            again
        }
        each_call KILL add_again netns switch add br0 --address 10.0.0.254/24 --nat
        again; each_call KILL del_again netns switch del br0
    "#,
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn an_apply_stopped_in_any_call_is_undone_and_a_killed_one_completed() {
    struck(
        &[
            NETWORK,
            r#"
        CALLS='sendto mount unshare' STEP=3; network >$T/file
        empty=$(state)
        stopped() {
            now=$(state)
            if [ "$now" = "$empty" ]; then echo nothing
            else same "$(netns apply -n $T/file)" ""; echo whole; fi >>$T/seen
            netns del --wait --if-exists a 'b c' 2>/dev/null; netns switch del --if-unused br0
        }
        each_call TERM stopped netns apply $T/file
        grep -q nothing $T/seen; grep -q whole $T/seen
        killed() {
            netns apply $T/file 2>/dev/null
            same "$(netns apply -n $T/file)" ""
            same "$(netns list)" "$(printf 'a live eth0=a-92c4baf3@br0\nb c live eth0=bc-41765dab@br0')"
            netns del --wait a 'b c' 2>/dev/null; netns switch del br0
            same "$(state)" "$empty"
        }
        STEP=4; each_call KILL killed netns apply $T/file
    "#,
        ]
        .concat(),
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn nat_and_what_is_published_can_be_switched_off_whatever_struck_them() {
    struck(
        r#"
        netns switch add br0 --address 10.0.0.254/24; netns add web; netns link web:eth0 br0 10.0.0.1/24 --no-check
        state() { nft list ruleset; cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/br0/route_localnet \
            /sys/class/net/br0/brif/*/hairpin_mode; }
        empty=$(state) LEAST=1 # nft does the work
        nat_again() { netns nat on br0; netns nat off br0; same "$(state)" "$empty"; }
        nat_off() { netns nat off br0; same "$(state)" "$empty"; netns nat on br0; }
        CALLS='sendto openat'; each_call KILL nat_again netns nat on br0
        each_call KILL nat_off netns nat off br0; nat_off; netns nat off br0
        gone() { netns unpublish 8080 2>/dev/null || :; same "$(state)" "$empty"; }
        there() { netns publish 8080 web:80; same "$(state)" "$whole"; }
        netns publish 8080 web:80; whole=$(state); gone
        each_call KILL gone netns publish 8080 web:80
        there; each_call KILL there netns unpublish 8080
    "#,
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_card_keeps_what_it_has_whatever_struck_its_move() {
    struck(&[CARD, r#"
        ADD='netns switch add br0 --uplink wan'; CALLS='sendto'
        each_call KILL made $ADD; each_call KILL unmade $ADD; each_call TERM stopped $ADD
        $ADD; each_call KILL kept netns switch del br0; each_call KILL returned netns switch del br0; back
        # What a later step fails at takes it back, too.
        printf '%s\n' 'switch add br0 --uplink wan' 'add web' 'link web:eth0 br0 192.0.2.9/24' >$T/file
        fails 1 netns apply $T/file; says 'is taken'; none
        # An alias that it had from others comes back, too.
        ip link set wan alias 'to the lan 192.0.2.2/24'; $ADD; whole; netns switch del br0
        same "$(ip -o link show wan | grep -c 'alias to the lan 192.0.2.2/24')" 1; ip link set wan alias ''
        # A switch that somebody else removes takes the addresses with it: they are remembered.
        $ADD; ip link del br0; same "$(have wan)" ""
        fails 1 $ADD; says "'wan' was the uplink of a switch that has gone"; says 'hint: netns switch del'
        netns switch del br0; same "$(have wan)" "$(printf '%s\n' 192.0.2.1/24 fd00::1/64 '192.0.2.0/24 proto kernel scope link src 192.0.2.1 ')"
    "#].concat())
    .ended_with(0);
}
