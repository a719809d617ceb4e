//! netns on a real Open vSwitch: Debian's, with its own datapath, each instance in namespaces of its own.

mod common;
mod netns_bed;

use common::{Outcome, inside, run};
use netns_bed::{CARD, OVS, STRIKES, with_ovs};

#[test]
#[ignore = "needs root: tests/run"]
fn tcp_passes_both_ways_between_ships_and_the_host() {
    with_ovs(
        r#"
        netns switch add br0 --ovs --address 10.0.0.254/24
        netns add a b
        netns link a:eth0 br0 10.0.0.1/24; netns link b:eth0 br0 10.0.0.2/24 via 10.0.0.254
        serve a 80; serve b 80
        same "$(load a 10.0.0.2 80) $(load b 10.0.0.1 80)" "1000000 1000000"
        same "$(perl -e "$LOAD" 10.0.0.1 80)" 1000000
        reaches a 10.0.0.254
        "#,
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_same_again_changes_nothing_and_another_is_refused() {
    with_ovs(
        r#"
        netns switch add br0 --ovs; netns switch add br0 --ovs; netns switch add br0
        netns switch add br1 --ovs
        netns add web
        same="netns link web:eth0 br0 10.0.0.1/24 tag 7 trunk 8,9"
        $same; before="$(ovs-vsctl list Port) $(links)"
        $same; netns link web:eth0 br0
        same "$before" "$(ovs-vsctl list Port) $(links)"
        fails 1 netns link web:eth0 br0 tag 8; says "VLANs 'tag 7 trunk 8,9', not 'tag 8'"
        fails 1 netns link web:eth0 br1; says "switch 'br0', not 'br1'"
        netns unlink web:eth0
        same "$(ports br0)" 0
        ip link add lb type bridge; fails 1 netns switch add lb --ovs; says "'lb' is there and is"
        fails 1 netns switch add br0 --ovs --datapath system; says "datapath 'netdev', not 'system'"
        fails 2 netns switch add 0123456789abcdef --ovs
        "#,
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_port_goes_with_its_link_and_works_when_it_is_made_again() {
    with_ovs(
        r#"
        netns switch add br0 --ovs --address 10.0.0.254/24
        mac='mac 02:00:00:00:00:01' # the host's neighbour table remembers the last one for a second
        for i in 1 2 3 4 5 6 7 8; do
            netns add web; netns link web:eth0 br0 10.0.0.1/24 $mac --no-check; reaches web 10.0.0.254
            case $i in
            1 | 5) netns unlink web:eth0; same "$(ports br0)" 0; netns del web ;;
            2 | 6) netns del --wait web; same "$(ports br0)" 0 ;;
            3 | 7) netns del web; same "$(ports br0)" 0 ;;
            *) ip netns del web; same "$(ports br0)" 1 ;; # behind our back: the port is dead
            esac
        done
        netns add web; netns link web:eth0 br0 10.0.0.1/24 $mac; reaches web 10.0.0.254
        netns switch del br0 --if-unused; same "$(ports br0)" 1
        "#,
    )
    .ended_with(0)
    .said("");
}

#[test]
#[ignore = "needs root: tests/run"]
fn tags_separate_and_trunks_carry() {
    with_ovs(
        r#"
        netns switch add br0 --ovs; netns add a b c t
        netns link a:eth0 br0 10.0.0.1/24 tag 10 --no-check; netns link b:eth0 br0 10.0.0.2/24 tag 10 --no-check
        netns link c:eth0 br0 10.0.0.3/24 tag 20 --no-check; netns link t:eth0 br0 trunk 10 --no-check
        reaches a 10.0.0.2; cut_off a 10.0.0.3; cut_off c 10.0.0.1
        for bad in 0 4095 4096 x -1; do fails 2 netns link t:eth1 br0 tag $bad; done
        # t asks in VLAN 10 and in VLAN 20 who has an address there; only what its trunk carries is answered.
        who() {
            netns exec t perl -e 'my ($vlan, $last) = @ARGV;
                socket(S, 17, 3, 0x0300) or die; $i = `cat /sys/class/net/eth0/ifindex`;
                bind(S, pack("SnlSCCa8", 17, 3, $i, 1, 0, 6, "")) or die "bind $!"; $m = "\2\0\0\0\0\x77";
                send(S, "\xff" x 6 . $m . pack("nnn", 0x8100, $vlan, 0x0806) . pack("nnCCn", 1, 0x800, 6, 4, 1) . $m .
                    "\x0a\0\0\x77" . "\0" x 6 . pack("C4", 10, 0, 0, $last) . "\0" x 18, 0) or die;
                $SIG{ALRM} = sub { print "silence"; exit }; alarm 1;
                while (recv(S, $f, 2000, 0)) { if (substr($f, 0, 6) eq $m) { print "answer"; exit } }' $1 $2
        }
        same "$(who 10 1) $(who 20 3)" "answer silence"
        # The plan makes the same anew.
        netns show --plan >$T/plan; grep -q '^link t:eth0 br0 .*trunk 10$' $T/plan; grep -q '^link a:eth0 br0 10.0.0.1/24 .*tag 10$' $T/plan
        netns diff $T/plan
        netns del --wait a b c t; netns switch del br0
        netns apply $T/plan
        netns show --plan | cmp - $T/plan
        reaches a 10.0.0.2; cut_off a 10.0.0.3
        "#,
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn without_ovs_vswitchd_all_fails_in_time_and_leaves_nothing() {
    with_ovs(
        r#"
        netns switch add br0 --ovs; netns add web
        before=$(links)
        kill -STOP $(cat $T/o/ovs-vswitchd.pid)
        timeout 20 netns switch add br1 --ovs 2>$T/add & add=$! # both wait for five seconds
        fails 1 timeout 20 netns link web:eth0 br0; says "ovs-vswitchd does not answer"; says hint
        code=0; wait $add || code=$?; same $code 1; grep -q "ovs-vswitchd does not answer" $T/add
        same "$(ports br0) $(links) $(ovs-vsctl --no-wait list-br)" "0 $before br0"
        kill -CONT $(cat $T/o/ovs-vswitchd.pid)
        netns link web:eth0 br0
        "#,
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn without_ovsdb_server_the_socket_is_named() {
    with_ovs(
        r#"
        netns switch add br0 --ovs; netns add web; before=$(links)
        kill -9 $(cat $T/o/ovsdb-server.pid); while kill -0 $(cat $T/o/ovsdb-server.pid) 2>/dev/null; do :; done
        fails 1 timeout 2 netns link web:eth0 br0; says "$T/o/db.sock"; says hint
        fails 1 timeout 2 netns switch add br1 --ovs; says "$T/o/db.sock"
        rm $T/o/db.sock
        fails 1 timeout 2 netns switch add br1 --ovs; says "$T/o/db.sock"; says "apt-get install openvswitch-switch"
        same "$(links)" "$before"
        # A stranger on the socket: one that talks rubbish, one that says nothing, one that never ends.
        for words in 'print C "garbage\n"' 'sleep 60' 'print C "{\"a\":\""; 1 while print C "x" x 65536' 'print C "{" x 1000000' \
            'print C "{\"id\":1,\"error\":null,\"result\":[{\"rows\":[{\"name\":[]}]},7,null]}"'; do
            rm -f $T/o/db.sock $T/ready; mkfifo $T/ready
            perl -e 'use Socket; $SIG{PIPE}="IGNORE"; socket(S,PF_UNIX,SOCK_STREAM,0); bind(S,sockaddr_un($ARGV[0])); listen(S,9);
                open(R,">",$ARGV[1]); print R "ready\n"; close R; while(accept(C,S)){$n=sysread(C,$b,10); eval $ARGV[2]; close C}' \
                $T/o/db.sock $T/ready "$words" & p=$!
            read word <$T/ready
            timeout 20 netns switch add br1 --ovs 2>/dev/null & add=$!
            fails 1 timeout 20 netns link web:eth0 br0
            code=0; wait $add || code=$?; same $code 1
            kill $p
        done
        same "$(links)" "$before"
        "#,
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_datapath_that_the_kernel_does_not_have_leaves_nothing() {
    with_ovs(
        r#"
        fails 1 netns switch add br0 --ovs --datapath system; says "'br0'"
        same "$(ovs-vsctl list-br)" ""; same "$(links)" 1
        fails 2 netns switch add br0 --ovs --datapath other
        fails 2 netns switch add br0 --datapath netdev; says "ovs"
        "#,
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn switches_are_shown_and_deleted() {
    let outcome = with_ovs(
        r#"
        netns switch add br0 --ovs --address 10.0.0.254/24 --mtu 1400; netns add web
        netns link web:eth0 br0 tag 7 --no-check
        same "$(cat /sys/class/net/br0/mtu)" 1400
        mac=$(cat /sys/class/net/br0/address)
        same "$(netns switch show)" "br0 up $mac 10.0.0.254/24 ovs web:eth0"
        same "$(netns list)" "web live eth0=web-543522e0@br0"
        netns switch show --json br0; netns list --json
        netns switch del br0 --if-unused; ip link show br0 >/dev/null
        netns switch del br0 2>$T/err; says "note: 'br0' had ports.*web:eth0"
        same "$(ovs-vsctl list-br)" ""
        fails 1 netns switch del br0; netns switch del br0 --if-unused
        fails 1 ip link show br0
        "#,
    )
    .ended_with(0);
    let mut lines = outcome.out.lines();
    let json: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!((&json[0]["kind"], &json[0]["datapath"]), (&"ovs".into(), &"netdev".into()));
    assert_eq!(json[0]["ports"][0]["ship"], "web");
    assert_eq!(json[0]["ports"][0]["tag"], 7);
    let json: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(json[0]["links"][0]["switch"], "br0");
}

#[test]
#[ignore = "needs root: tests/run"]
fn ships_on_open_vswitch_reach_the_outside() {
    with_ovs(
        r#"
        netns add ship out
        ip link add wan type veth peer name eth0 netns out
        ip addr add 192.0.2.1/24 dev wan; ip link set wan up
        netns exec out ip addr add 192.0.2.9/24 dev eth0; netns exec out ip link set eth0 up
        serve out 80
        netns switch add br0 --ovs --address 10.0.0.254/24 --nat
        netns link ship:eth0 br0 10.0.0.1/24 via 10.0.0.254
        same "$(load ship 192.0.2.9 80)" 1000000
        netns switch del br0 2>/dev/null
        same "$(nft list ruleset)$(cat /proc/sys/net/ipv4/ip_forward)" 0
        "#,
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn links_at_the_same_time_make_one_each() {
    with_ovs(
        r#"
        for i in 1 2 3 4 5 6 7 8; do
            { netns switch add br0 --ovs && netns add n$i && netns link n$i:eth0 br0 10.0.0.$i/24 --check 20 || echo failed; } &
            netns add shared && netns switch add br0 --ovs && netns link shared:eth0 br0 --no-check || echo failed &
        done
        wait
        same "$(ports br0)" 9
        for i in 1 2 3 4 5 6 7 8; do netns del --wait n$i || echo failed & done
        wait
        same "$(ports br0)" 1
        "#,
    )
    .ended_with(0)
    .printed("");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_hundred_ports_are_one_transaction() {
    with_ovs(
        r#"
        { echo switch add br0 --ovs; seq -f 'add n%g' 100; seq 100 | sed 's/.*/link n&:eth0 br0 10.0.0.&\/24 --no-check/'; } >$T/file
        netns apply $T/file
        same "$(ports br0)" 100
        done=$(ovs-vsctl get Open_vSwitch . next_cfg); test $done -le 4 || { echo "$done changes" >&2; exit 99; }
        reaches n1 10.0.0.100
        netns apply $T/file
        same "$(ovs-vsctl get Open_vSwitch . next_cfg)" $done
        "#,
    )
    .ended_with(0);
}

/// Two hosts, h1 and h2, with an instance each: `on HOST COMMAND...` runs there. `under` is the switch that
/// carries the tunnels, `br0` the one of the ships s1 and s2.
const HOSTS: &str = r#"
on() { host=$1; shift; OVS_RUNDIR=$T/$host netns exec $host "$@"; }
netns add h1 h2 s1 s2
ip link add wire netns h1 type veth peer name wire netns h2
for i in 1 2; do
    ip -n h$i link set wire up
    # Our own program with the words of ovs(), inside.
    printf '%s\novs %s\n' "$OVS_WORDS" $T/h$i >$T/start; netns exec h$i sh -eu $T/start
    on h$i netns switch add under --ovs --address 192.0.2.$i/24
    on h$i ovs-vsctl add-port under wire
    on h$i netns switch add br0 --ovs
done
tunnel() { # WORDS: the same from both sides
    on h1 netns tunnel add br0 t0 $1 remote 192.0.2.2 $2; on h2 netns tunnel add br0 t0 $1 remote 192.0.2.1 $3
}
"#;

fn two_hosts(script: &str) -> Outcome {
    let words = OVS.replace('\'', "'\\''");
    inside(&format!("{OVS}\nOVS_WORDS='{words}'\n{HOSTS}\n{script}"))
}

#[test]
#[ignore = "needs root: tests/run"]
fn switches_of_two_hosts_form_one_by_a_tunnel() {
    two_hosts(
        r#"
        for kind in vxlan geneve gre; do
            tunnel $kind "key 7" "key 7"
            tunnel $kind "key 7" "key 7"
            for i in 1 2; do on h$i netns link s$i:eth0 br0 10.0.0.$i/24; done
            test "$(netns exec s1 cat /sys/class/net/eth0/mtu)" -le 1458
            reaches s1 10.0.0.2
            serve s1 80; one=$!; serve s2 80; two=$!
            same "$(load s1 10.0.0.2 80) $(load s2 10.0.0.1 80)" "1000000 1000000"
            kill $one $two; rm $T/ready.*
            on h1 netns show --plan >$T/plan; grep -q "^tunnel add br0 t0 $kind remote 192.0.2.2 key 7$" $T/plan
            grep -q '^switch add br0 --ovs --datapath netdev$' $T/plan
            fails 1 on h1 netns tunnel add br0 t0 $kind remote 192.0.2.3 key 7; says "remote 192.0.2.2 key 7', not .*192.0.2.3"
            on h1 netns switch show --json br0 | grep -q '"remote":"192.0.2.2"'
            on h2 netns tunnel del br0 t0
            on h2 netns tunnel add br0 t0 $kind remote 192.0.2.1 key 8
            cut_off s1 10.0.0.2
            for i in 1 2; do on h$i netns tunnel del br0 t0; on h$i netns unlink s$i:eth0; done
            fails 1 on h1 netns tunnel del br0 t0; says "no tunnel 't0'"
        done
        "#,
    )
    .ended_with(0);
}

#[test]
fn misuse_of_tunnels_is_2() {
    for words in [
        &["tunnel", "add", "br0", "t0", "vxlan"][..],
        &["tunnel", "add", "br0", "t0", "ipip", "remote", "192.0.2.1"],
        &["tunnel", "add", "br0", "t0", "vxlan", "remote", "host"],
        &["tunnel", "add", "br0", "t0", "vxlan", "remote", "224.0.0.1"],
        &["tunnel", "add", "br0", "t0", "vxlan", "remote", "192.0.2.1", "key", "16777216"],
        &["tunnel", "add", "br0", "t0/1", "gre", "remote", "192.0.2.1"],
        &["tunnel", "del", "br0"],
    ] {
        run("netns", words).ended_with(2);
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_card_moves_to_the_switch_and_back() {
    with_ovs(
        r#"
        ip link set lo up; netns add lan ship
        ip link add wan type veth peer name eth0 netns lan; ip addr add 192.0.2.1/24 dev wan; ip addr add fd00::1/64 dev wan nodad; ip link set wan up
        netns exec lan sh -c 'ip addr add 192.0.2.9/24 dev eth0; ip addr add fd00::9/64 dev eth0 nodad; ip link set eth0 up'
        ip route add default via 192.0.2.9
        have() { ip -o addr show dev $1 scope global | tr -s ' ' | cut -d' ' -f4; ip route show dev $1; cat /proc/sys/net/ipv4/conf/wan/rp_filter; }
        before=$(have wan)
        netns switch add br0 --ovs --uplink wan; netns switch add br0 --ovs --uplink wan
        same "$(netns switch add -n br0 --ovs --uplink wan)" ""
        same "$(cat /sys/class/net/br0/address)" "$(cat /sys/class/net/wan/address)"
        same "$(ip -o addr show dev wan scope global)" ""
        # Once and not twice, in both directions and families.
        for address in 192.0.2.1 fd00::1; do
            netns exec lan ping -c 3 -i 0.05 -W 5 $address >$T/ping; same "$(grep -c DUP $T/ping)" 0
        done
        ping -c 3 -i 0.05 -W 5 192.0.2.9 >$T/ping; same "$(grep -c DUP $T/ping)" 0
        netns link ship:eth0 br0 192.0.2.7/24; reaches ship 192.0.2.9; reaches lan 192.0.2.7
        netns show --plan | grep -q '^switch add br0 --ovs --datapath netdev --uplink wan$'
        netns unlink ship:eth0; netns switch del br0
        same "$before" "$(have wan)"
        reaches lan 192.0.2.1; reaches lan fd00::1
        "#,
    )
    .ended_with(0);
}

/// The same struck by signals (netns_struck).
fn struck_with_ovs(script: &str) -> Outcome {
    with_ovs(&[STRIKES, script].concat())
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_card_keeps_what_it_has_whatever_struck_its_move_to_open_vswitch() {
    struck_with_ovs(
        &[
            CARD,
            r#"
        ADD='netns switch add br0 --ovs --uplink wan'; CALLS='sendto'; STEP=4
        each_call KILL made $ADD
        $ADD; CALLS='sendto' STEP=3; each_call KILL returned netns switch del br0; back
        STEP=6; each_call TERM stopped $ADD
        printf '%s\n' 'switch add br0 --ovs --uplink wan' 'add web' 'link web:eth0 br0 192.0.2.9/24' >$T/file
        fails 1 netns apply $T/file; says 'is taken'; none
        netns switch add br1 --ovs; kept() { netns switch add br1 --ovs; ip -o link show br1 | grep -q UP; }
        STEP=2; each_call TERM kept netns switch del br1
        # One that has died gives back what it has.
        $ADD; kill -9 $(cat $T/o/ovs-vswitchd.pid)
        fails 1 netns switch del br0; says 'ovs-vswitchd does not answer'; same "$(have wan)" "$before"
    "#,
        ]
        .concat(),
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_port_of_open_vswitch_is_replaced_or_undone_whatever_struck_its_link() {
    struck_with_ovs(
        r#"
        netns switch add br0 --ovs --address 10.0.0.254/24; netns add web; before=$(links)
        link='netns link web:eth0 br0 10.0.0.1/24 mac 02:00:00:00:00:01'
        none() { same "$(ports br0) $(links)" "0 $before"; }
        replaced() { $link --no-check; reaches web 10.0.0.254; netns unlink web:eth0; none; }
        undone() { [ "$(ports br0)" = 1 ] || none; replaced; }
        severed() { netns unlink web:eth0 2>/dev/null || :; none; $link --no-check; }
        CALLS='sendto' STEP=4; each_call KILL replaced $link --check 2; each_call TERM undone $link --check 2
        $link --no-check; STEP=1; each_call KILL severed netns unlink web:eth0
        again() { $link --no-check; reaches web 10.0.0.254; }; each_call KILL again netns unlink web:eth0
        # With its name a ship loses its ports, or neither.
        named() { if netns list | grep -q web; then same "$(ports br0)" 1; netns del web; fi; same "$(ports br0)" 0; netns add web; $link --no-check; }
        $link --no-check; STEP=2; each_call TERM named netns del web
        # A tunnel is a port like any other.
        netns unlink web:eth0; tunnel='netns tunnel add br0 t0 vxlan remote 192.0.2.9'
        uncut() { $tunnel; $tunnel; netns tunnel del br0 t0; none; }
        STEP=2; each_call KILL uncut $tunnel
        "#,
    )
    .ended_with(0);
}
