//! The real netns binary against the real kernel.

mod common;
mod netns_bed;

use common::{docs_agree, inside, run};
use netns_bed::{NETWORK, net};

#[test]
fn help_and_version_end_well_and_misuse_is_2() {
    run("netns", &["--help"]).ended_with(0);
    assert!(run("netns", &["-V"]).ended_with(0).out.starts_with("netns (slipway) "));
    run("netns", &["fly"]).ended_with(2).said("'fly'");
    run("netns", &["exec"]).ended_with(125);
    run("netns", &["pids", "--json", "none-of-that-name"]).ended_with(1).printed("");
}

#[test]
fn documents_agree() {
    docs_agree("netns", "netns.8");
}

#[test]
#[ignore = "needs root: tests/run"]
fn added_is_a_living_namespace_with_lo_up_that_ip_knows() {
    net(r#"
        netns add web
        same "$(stat -f -c %t /run/netns/web)" 6e736673
        same "$(ip netns list)" web
        ip netns exec web ip -br link show lo up | grep -q LOWER_UP
        grep -q ' /netns /run/netns .* shared:' /proc/self/mountinfo
        ip netns add theirs
        same "$(netns list)" "$(printf 'theirs live\nweb live')"
        netns exec theirs true
        netns del theirs
        ip netns del web
        same "$(netns list)" ""
        same "$(ls /run/netns)" ""
    "#)
    .ended_with(0)
    .printed("");
}

#[test]
#[ignore = "needs root: tests/run"]
fn adding_again_changes_nothing() {
    net(r#"
        netns add web
        before=$(stat -L -c %i /run/netns/web)
        netns add web other
        same "$before" "$(stat -L -c %i /run/netns/web)"
        same "$(grep -c ' /run/netns/web ' /proc/self/mountinfo)" 1
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_stale_name_is_replaced_with_one_note() {
    net(r#"
        mkdir /run/netns; : >/run/netns/web; chmod 0 /run/netns/web
        same "$(netns list)" "web stale"
        fails 1 netns link web:eth0 br0
        fails 125 netns exec web true; says stale
        netns add web 2>$T/err
        same "$(wc -l <$T/err)" 1; says "note: '/run/netns/web' was stale"
        netns exec web true
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn bad_names_are_2_and_leave_nothing() {
    net(r#"
        long=$(printf '%0256d' 1)
        for name in "" . .. a/b "$long" pid:1 "$(printf 'a\nb')"; do fails 2 netns add good "$name"; done
        fails 2 netns add -x
        fails 2 netns add -- -x
        test ! -e /run/netns
        netns add "$(printf '%0255d' 1)" 1 "a b"
        ip netns list >$T/list
        same "$(wc -l <$T/list)" 3
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn adds_at_the_same_time_agree() {
    net(r#"
        for i in 1 2 3 4 5 6 7 8 9; do netns add n$i & netns add shared & done
        wait
        same "$(netns list | grep -c live)" 10
        same "$(grep -c ' /netns /run/netns ' /proc/self/mountinfo)" 1
        same "$(grep -c ' /run/netns/shared ' /proc/self/mountinfo)" 1
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn several_adds_are_all_or_nothing() {
    net(r#"
        netns add old
        mkdir /run/netns/folder
        fails 1 netns add one old two folder three; says folder
        rmdir /run/netns/folder
        same "$(netns list)" "old live"
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_read_only_run_is_1() {
    net("mount -o remount,ro /run; fails 1 netns add web; says /run/netns").ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn deleting_what_is_in_use_is_refused_and_names_the_process() {
    net(r#"
        netns add web; netns switch add br0; netns link web:eth0 br0
        mkfifo $T/f; netns exec web sh -c 'read x <$T/f' & p=$!
        while [ "$(readlink /proc/$p/ns/net)" != "net:[$(stat -L -c %i /run/netns/web)]" ]; do :; done
        fails 1 netns del web; says "process $p in it"; says hint
        netns exec web true
        netns del --force --wait web 2>$T/err; says "lives on"; says "process $p"
        same "$(links)" 2
        netns add web; netns link web:eth0 br0; netns exec web ip link show eth0 >/dev/null
        echo >$T/f; wait $p
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn deleting_a_missing_name_is_1_and_a_stale_one_goes() {
    net(r#"
        fails 1 netns del web; says "no network namespace 'web'"
        netns del --if-exists web
        netns add one
        fails 1 netns del one web
        same "$(netns list)" "one live"
        netns del --if-exists one web
        : >/run/netns/web
        netns del web
        same "$(ls /run/netns)" ""
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn after_del_wait_the_outer_ends_are_gone_fifty_times_in_a_row() {
    net(r#"
        netns switch add br0
        for i in $(seq 50); do
            netns add web; netns link web:eth0 br0 10.0.0.1/24 --no-check; netns link web:eth1 br0 --no-check
            ip link add mine type veth peer name eth2 netns web
            netns del --wait web
            same "$(links)" 2
        done
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn without_wait_a_new_link_of_the_same_name_still_works() {
    net(r#"
        netns switch add br0
        for i in $(seq 20); do
            netns add web; netns link web:eth0 br0 10.0.0.1/24 --no-check; netns del web
        done
    "#)
    .ended_with(0)
    .printed("");
}

#[test]
#[ignore = "needs root: tests/run"]
fn del_wait_does_not_wait_for_a_namespace_with_a_second_name() {
    net(r#"
        netns add web; netns switch add br0; netns link web:eth0 br0
        : >/run/netns/alias; mount --bind /run/netns/web /run/netns/alias
        netns del --wait web 2>$T/err; says "lives on as 'alias'"
        netns exec alias ip link show eth0 >/dev/null
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_namespace_of_a_process_gets_a_name_and_outlives_it() {
    net(r#"
        mkfifo $T/f; unshare -n sh -c 'read x <$T/f' & p=$!
        while [ "$(readlink /proc/$p/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do :; done
        same "$(netns attach -n web $p)" "attach web pid:$p"; same "$(netns list)" ""
        netns attach web $p; same "net:[$(stat -L -c %i /run/netns/web)]" "$(readlink /proc/$p/ns/net)"
        same "$(netns attach --json web pid:$p)" '{"addresses":[],"changes":[],"dry_run":false}'
        netns attach again /run/netns/web; same "$(ip netns list | sort)" "$(printf 'again\nweb')"
        netns add other; : >/run/netns/stale
        fails 1 netns attach other $p; says "cannot attach 'other': it is the name of another namespace"
        netns attach stale $p 2>$T/err; says "was stale"; netns del --force again stale 2>/dev/null
        echo >$T/f; wait $p
        fails 1 netns attach new $p; says "no such process"; fails 1 netns attach new /etc/passwd; says "not a namespace"
        netns switch add br0; netns link web:eth0 br0 --no-check
        same "$(netns list | cut -d' ' -f1,2)" "$(printf 'other live\nweb live')"
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn all_names_go_or_none() {
    net(r#"
        netns del --all; netns add a b; : >/run/netns/stale
        mkfifo $T/f; netns exec b sh -c 'read x <$T/f' & p=$!; while ! netns pids b | grep -q .; do kill -0 $p; done
        fails 1 netns del --all; says "cannot delete 'b'"; same "$(netns list | wc -l)" 3
        echo >$T/f; wait $p
        same "$(netns del -n --all | xargs)" "del a del b del stale"; netns del --wait --all; same "$(ls /run/netns)" ""
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn list_tells_live_from_stale_and_shows_links() {
    let outcome = net(r#"
        netns add web; netns switch add br0; netns link web:eth0 br0 10.0.0.1/24 --no-check
        mkdir /run/netns/folder; : >/run/netns/stale
        netns list; netns list --json
    "#)
    .ended_with(0)
    .said("");
    let (text, json) = outcome.out.rsplit_once("\n[").expect("lines, then JSON");
    assert_eq!(text, "folder stale\nstale stale\nweb live eth0=web-543522e0@br0");
    let json: serde_json::Value = serde_json::from_str(&format!("[{json}")).unwrap();
    assert_eq!(json[2]["name"], "web");
    assert_eq!(json[2]["state"], "live");
    assert!(json[2]["inode"].is_u64());
    assert_eq!(json[2]["links"][0]["outer"], "web-543522e0");
    assert_eq!(json[1]["state"], "stale");
    assert!(json[1]["inode"].is_null() && json[0]["links"].as_array().unwrap().is_empty());
    assert_eq!(outcome.err, "");
    net("netns list; netns list --json").ended_with(0).printed("[]\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_link_carries_traffic_the_moment_it_is_made() {
    net(r#"
        netns add a b
        netns switch add br0 --address 10.0.0.254/24
        for check in --no-check "--check 20"; do
            netns link a:eth0 br0 10.0.0.1/24 via 10.0.0.254 $check; serve a 80
            same "$(host_fetch 10.0.0.1 80)" 10.0.0.254
            netns link b:eth0 br0 10.0.0.2/24 via 10.0.0.254 $check
            same "$(fetch b 10.0.0.1 80)" 10.0.0.2
            ip link show type veth | grep -q 'alias netns:a:eth0'
            same "$(netns exec a ip -o -4 addr show eth0 | tr -s ' ' | cut -d' ' -f4)" 10.0.0.1/24
            same "$(netns exec a ip route show default)" "default via 10.0.0.254 dev eth0 proto static "
            same "$(netns exec a cat /sys/class/net/eth0/operstate /sys/class/net/lo/carrier)" "$(printf 'up\n1')"
            kill $!; wait $! || :; rm $T/ready.a
            netns unlink a:eth0; netns unlink b:eth0
            same "$(links)" 2
        done
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_same_link_again_changes_nothing_and_another_is_refused() {
    net(r#"
        netns add web; netns switch add br0; netns switch add br1
        same="netns link web:eth0 br0 10.0.0.1/24 fd00::1/64 via 10.0.0.254 mtu 1400 mac 02:00:00:00:00:07"
        # The kernel's own link-local address is tentative for a while.
        state() { echo "$(index web eth0) $(netns exec web ip -o addr | sed 's/ tentative//') $(links)"; }
        $same; before=$(state)
        $same
        netns link web:eth0 br0 fd00::1/64 10.0.0.1/24
        netns link web:eth0 br0
        same "$before" "$(state)"
        fails 1 netns link web:eth0 br0 10.0.0.2/24; says "'10.0.0.1/24 fd00::1/64', not '10.0.0.2/24'"
        fails 1 netns link web:eth0 br0 10.0.0.1/24 fd00::1/64 via 10.0.0.253; says "'10.0.0.254', not '10.0.0.253'"
        fails 1 netns link web:eth0 br0 mtu 1500; says "'1400', not '1500'"
        fails 1 netns link web:eth0 br0 mac 02:00:00:00:00:08; says "'02:00:00:00:00:07', not '02:00:00:00:00:08'"
        fails 1 netns link web:eth0 br1; says "switch 'br0', not 'br1'"; says "hint: netns unlink 'web:eth0'"
        same "$before" "$(state)"
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_missing_gateway_is_added() {
    net(r#"
        netns add web; netns switch add br0; netns link web:eth0 br0 10.0.0.1/24
        netns link web:eth0 br0 10.0.0.1/24 via 10.0.0.254
        netns exec web ip route show default | grep -q 'via 10.0.0.254'
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn links_at_the_same_time_make_one() {
    net(r#"
        netns add web; netns switch add br0
        for i in 1 2 3 4 5 6 7 8; do netns link web:eth0 br0 10.0.0.1/24 --check 20 || echo failed & done
        wait
        same "$(links)" 3
    "#)
    .ended_with(0)
    .printed("");
}

#[test]
#[ignore = "needs root: tests/run"]
fn ships_that_start_together_do_not_disturb_each_other() {
    net(r#"
        for i in 1 2 3 4 5 6 7 8; do
            { netns switch add br0 --address 10.0.0.254/24 --nat && netns add n$i &&
                netns link n$i:eth0 br0 10.0.0.$i/24 via 10.0.0.254 --check 20 || echo failed; } &
        done
        wait
        same "$(links)" 10
        same "$(nft list ruleset | grep -c masquerade$)" 1
        for i in 1 2 3 4 5 6 7 8; do netns del --wait n$i || echo failed & done
        wait
        same "$(links)" 2
    "#)
    .ended_with(0)
    .printed("");
}

#[test]
#[ignore = "needs root: tests/run"]
fn eth0_of_the_host_is_no_obstacle() {
    net(r#"
        ip link add eth0 type bridge
        netns add web; netns switch add br0; netns link web:eth0 br0
        ip link show eth0 type bridge >/dev/null
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn malformed_words_are_2_before_any_change() {
    net(r#"
        netns add web; netns switch add br0; before=$(links)
        for name in 0123456789abcdef "a b" a/b . x%d ""; do fails 2 netns link "web:$name" br0; done
        for address in 10.0.0.256/24 10.0.0.1/33 10.0.0 10.0.0.1 10.0.0.1/-1 "10.0.0.1/24 " 0.0.0.0/8 \
            10.0.0.0/24 10.0.0.255/24 127.0.0.1/8 224.0.0.1/24 ff02::1/64 ::1/128; do
            fails 2 netns link web:eth0 br0 "$address"
        done
        fails 2 netns link web:eth0 br0 10.0.0.1/24 via 10.0.1.1; says "in none of the interface's networks"
        same "$before" "$(links)"
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn ships_with_long_names_have_links_of_their_own() {
    net(r#"
        a=a-very-long-ship-name-1; b=a-very-long-ship-name-2
        netns add $a $b; netns switch add br0
        netns link $a:eth0 br0; netns link $b:eth0 br0; netns link $a:averylongifname br0
        same "$(links)" 5
        same "$(netns list | grep -c "^$a live eth0=averyl-........@br0 averylongifname=averyl-........@br0$")" 1
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn what_stands_in_the_way_is_1_and_nothing_is_left() {
    net(r#"
        netns add web
        fails 1 netns link web:eth0 br0; says "no switch 'br0'"; says "hint: netns switch add"
        fails 1 netns link web:eth0 lo; says "'lo' is not a switch"
        netns switch add br0
        fails 1 netns link none:eth0 br0; says "no network namespace 'none'"
        ip link set br0 down; fails 1 netns link web:eth0 br0; says "'br0' is down"; netns switch add br0
        netns exec web ip link add eth0 type bridge; before=$(links)
        fails 1 netns link web:eth0 br0; says "has an interface 'eth0' already"
        fails 1 netns link web:lo br0
        ip link add web-543522e0 type bridge; netns exec web ip link del eth0
        fails 1 netns link web:eth0 br0; says "'web-543522e0' is taken by 'bridge'"
        same "$(links)" $((before + 1))
        fails 1 netns unlink web:eth1; says "no such link"
        fails 1 netns unlink web:eth0
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_process_is_a_target_and_a_dead_one_is_not() {
    net(r#"
        netns switch add br0 --address 10.0.0.254/24
        mkfifo $T/f; unshare -n sh -c 'read x <$T/f' & p=$!
        while [ "$(readlink /proc/$p/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do :; done
        netns link pid:$p:eth0 br0 10.0.0.1/24 --check 20
        netns link pid:$p:eth0 br0 10.0.0.1/24
        same "$(nsenter -t $p -n ip -o -4 addr show eth0 | tr -s ' ' | cut -d' ' -f4)" 10.0.0.1/24
        netns link /proc/$p/ns/net:eth1 br0
        netns switch show | grep -q " pid:$p:eth0 /proc/$p/ns/net:eth1$"
        netns exec pid:$p test -e /sys/class/net/eth1
        netns unlink pid:$p:eth0; netns unlink /proc/$p/ns/net:eth1
        echo >$T/f; wait $p; before=$(links)
        fails 1 netns link pid:$p:eth0 br0; says "no such process: '$p'"
        perl -e 'my $z = fork // die; exit 0 unless $z; waitpid(-1, 0) if 0; open(F, ">", $ENV{T}."/z"); print F "$z\n";
            close F; 1 while `cat /proc/$z/stat` !~ / Z /; system("netns link pid:$z:eth0 br0 2>$ENV{T}/err"); exit($? >> 8)' || code=$?
        same "$code" 1; says "no such process: '$(cat $T/z)'"
        fails 1 netns link /etc/passwd:eth0 br0; says "not a namespace"
        same "$(links)" "$before"
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_taken_address_is_refused_with_the_mac_that_answered() {
    net(r#"
        netns switch add br0 --address 10.0.0.254/24
        netns add a b; netns link a:eth0 br0 10.0.0.1/24 fd00::1/64 mac 02:00:00:00:00:01
        # A host that lets nothing in but answers ARP.
        netns exec a nft 'add table ip t; add chain ip t c { type filter hook input priority 0; policy drop; }'
        before=$(links)
        fails 1 netns link b:eth0 br0 10.0.0.1/24; says "'10.0.0.1' is taken by '02:00:00:00:00:01'"
        fails 1 netns link b:eth0 br0 10.0.0.2/24 fd00::1/64; says "'fd00::1' is taken by '02:00:00:00:00:01'"
        fails 1 netns link b:eth0 br0 10.0.0.254/24; says "'10.0.0.254' is taken by '$(cat /sys/class/net/br0/address)'"
        same "$(links)" "$before"
        fails 1 netns exec b ip link show eth0
        netns link b:eth0 br0 10.0.0.1/24 --no-check
        netns unlink b:eth0
        netns link b:eth0 br0 10.0.0.2/24 fd00::2/64
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn ipv6_can_be_used_at_once() {
    net(r#"
        netns add a; netns switch add br0 --address fd00::fe/64
        netns link a:eth0 br0 fd00::1/64 via fd00::fe --no-check
        netns exec a ip -6 -o addr show dev eth0 | grep fd00::1/64 >$T/address
        grep -q tentative $T/address && exit 9
        netns exec a ip -6 route show default | grep -q 'via fd00::fe'
        netns link a:eth0 br0 fd00::1/64 via fd00::fe
        perl -e 'use Socket qw(:DEFAULT inet_pton pack_sockaddr_in6); alarm 20; socket(L,PF_INET6,SOCK_STREAM,0); bind(L,pack_sockaddr_in6(7,inet_pton(AF_INET6,"fd00::fe"))) or die "$!"; listen(L,1);
            exec("netns","exec","a","perl","-e",q{use Socket qw(:DEFAULT inet_pton pack_sockaddr_in6); alarm 20; socket(S,PF_INET6,SOCK_STREAM,0); connect(S,pack_sockaddr_in6(7,inet_pton(AF_INET6,"fd00::fe"))) or die "connect: $!\n"}) unless fork;
            accept(C,L) or die; wait; exit($? >> 8)'
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn without_the_capabilities_nothing_is_begun() {
    net(r#"
        netns add web; netns switch add br0; before=$(links)
        for cap in net_admin sys_admin net_raw; do
            fails 1 setpriv --bounding-set -$cap netns link web:eth0 br0 10.0.0.1/24
            says "needs CAP_$(echo $cap | tr a-z A-Z)"
            same "$before" "$(links)"
        done
        fails 1 netns exec web ip link show eth0
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_switch_is_made_once_and_keeps_its_address_and_mac() {
    net(r#"
        netns switch add br0
        netns switch add br0 --address 10.0.0.254/24
        mac=$(cat /sys/class/net/br0/address)
        netns switch add br0 --address 10.0.0.254/24 --address fd00::fe/64
        same "$(cat /sys/class/net/br0/bridge/forward_delay /sys/class/net/br0/bridge/stp_state)" "$(printf '0\n0')"
        fails 1 netns switch add br0 --address 10.0.0.253/24; says "'10.0.0.254/24', not '10.0.0.253/24'"
        fails 1 netns switch add lo; says "'lo' is there and is not a bridge"
        netns add web
        netns link web:eth0 br0 mac 02:00:00:00:00:01 --no-check
        same "$mac" "$(cat /sys/class/net/br0/address)"
        netns switch del br0 --if-unused; ip link show br0 >/dev/null
        netns unlink web:eth0
        netns switch del br0 --if-unused; netns switch del br0 --if-unused
        fails 1 netns switch del br0; says "no switch 'br0'"
        same "$(links)" 1
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn switches_are_shown_in_words_and_as_json() {
    let outcome = net(r#"
        netns add web; netns switch add br0 --address 10.0.0.254/24 --nat
        netns link web:eth0 br0 --no-check
        ip link set br0 address 02:00:00:00:00:01
        netns switch show; netns switch show --json br0
        fails 1 netns switch show br1
    "#)
    .ended_with(0);
    let (text, json) = outcome.out.split_once('\n').unwrap();
    assert_eq!(text, "br0 up 02:00:00:00:00:01 10.0.0.254/24 nat web:eth0");
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(
        json,
        serde_json::json!([{"name": "br0", "kind": "bridge", "datapath": null, "state": "up", "mac": "02:00:00:00:00:01",
            "addresses": ["10.0.0.254/24"], "nat": true,
            "ports": [{"outer": "web-543522e0", "ship": "web", "ifname": "eth0",
                "tag": null, "trunks": [], "tunnel": null, "error": null}]}])
    );
}

/// `out` plays the world outside: it knows the host and no ship.
const OUTSIDE: &str = r#"
    netns add ship out
    ip link add wan type veth peer name eth0 netns out
    ip addr add 192.0.2.1/24 dev wan; ip link set wan up
    netns exec out ip addr add 192.0.2.9/24 dev eth0; netns exec out ip link set eth0 up
    serve out 80
"#;

#[test]
#[ignore = "needs root: tests/run"]
fn ships_reach_the_outside_by_the_hosts_address() {
    net(&format!(
        r#"{OUTSIDE}
        netns switch add br0 --address 10.0.0.254/24
        netns link ship:eth0 br0 10.0.0.1/24 via 10.0.0.254
        same "$(cat /proc/sys/net/ipv4/ip_forward)" 0
        LIMIT=1; fails 142 fetch ship 192.0.2.9 80; LIMIT=20 # nobody answers: SIGALRM
        netns switch add br0 --nat
        same "$(fetch ship 192.0.2.9 80)" 192.0.2.1
        serve ship 80
        same "$(host_fetch 10.0.0.1 80)" 10.0.0.254
    "#
    ))
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn nat_comes_once_goes_whole_and_touches_nothing_else() {
    net(r#"
        nft 'add table ip foreign; add chain ip foreign c { type nat hook postrouting priority 100; }; add rule ip foreign c masquerade'
        foreign=$(nft list ruleset)
        netns switch add br0 --address 10.0.0.254/24 --nat
        netns switch add br0 --address 10.0.0.254/24 --nat
        netns switch add br1 --address 10.0.1.254/24 --address fd00::fe/64 --nat 2>/dev/null
        same "$(nft list table ip slipway | grep -c masquerade$)" 2
        same "$(nft list table ip6 slipway | grep -c masquerade$)" 1
        netns switch del br0
        same "$(nft list table ip slipway | grep -c masquerade$)" 1
        same "$(cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding)" "$(printf '1\n1')"
        netns switch del br1
        same "$(cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding)" "$(printf '0\n0')"
        same "$foreign" "$(nft list ruleset)"
        # A second add changes nothing at all, but mends what somebody has taken away.
        netns switch add br0 --address 10.0.0.254/24 --nat; before=$(nft -a list ruleset)
        netns switch add br0 --nat; same "$before" "$(nft -a list ruleset)"
        nft flush table ip slipway; netns switch add br0 --nat
        same "$(nft list table ip slipway | grep -c 'ip saddr 10.0.0.0/24 oifname != "br0" masquerade$')" 1
        netns switch del br0
        # Forwarding that was on before stays on.
        echo 1 >/proc/sys/net/ipv4/ip_forward
        netns switch add br0 --address 10.0.0.254/24 --nat; netns switch del br0
        same "$(cat /proc/sys/net/ipv4/ip_forward)" 1
        same "$foreign" "$(nft list ruleset)"
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn nat_that_cannot_be_made_leaves_nothing() {
    net(r#"
        fails 1 netns switch add br0 --nat; says "hint: give the switch an address"
        fails 2 netns switch add 'br{0' --nat
        before=$(links)
        mount --bind /bin/false $(command -v nft)
        fails 1 netns switch add br0 --address 10.0.0.254/24 --nat; says "failed"
        same "$(links) $(cat /proc/sys/net/ipv4/ip_forward)" "$before 0"
        mount --bind /dev/null $(readlink -f $(command -v nft))
        fails 1 netns switch add br0 --address 10.0.0.254/24 --nat; says "hint: apt-get install nftables"
        same "$(links)" "$before"
        netns switch add br0; netns switch show >/dev/null; netns switch del br0
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_firewall_that_drops_by_default_is_named() {
    net(r#"
        netns switch add quiet 2>$T/err; same "$(cat $T/err)" ""
        nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'
        netns switch add br0 --address 10.0.0.254/24 --nat 2>$T/err; says "warning: policy drop of 'ip filter FORWARD'"
        if [ "$(cat /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null)" = 1 ]; then
            netns switch add br1 2>$T/err; says "between ships"
        fi
        # Foreign tables are in nobody's way, and the old iptables is seen as well.
        nft flush ruleset; nft 'add table ip filter; add chain ip filter INPUT { type filter hook input priority 0; policy drop; }'
        netns switch add br2 --address 10.2.0.254/24 --nat 2>$T/err; same "$(cat $T/err)" ""
        iptables-legacy -P FORWARD DROP
        netns switch add br3 --address 10.3.0.254/24 --nat 2>$T/err; says "warning: policy drop of 'iptables FORWARD'"
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn exec_ends_as_the_program_or_with_125_126_127() {
    net(r#"
        netns add web
        fails 7 netns exec web sh -c 'exit 7'
        fails 137 netns exec web sh -c 'kill -9 $$'
        fails 127 netns exec web no-such-program; says "no-such-program"
        fails 126 netns exec web /etc/passwd
        fails 125 netns exec none true; says "no network namespace 'none'"
        fails 125 netns exec web
        same "$(netns exec web echo -n -- a)" "-- a"
        same "$(netns exec web -- echo a)" a
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn exec_shows_the_namespaces_devices_and_keeps_the_cgroups() {
    net(r#"
        ip link add br9 type bridge
        mountpoint -q /sys/fs/cgroup || { mount -t tmpfs none /sys/fs/cgroup; }
        mkdir -p $T/c; mount -t tmpfs below $T/c; mount --bind $T/c /sys/fs/cgroup
        touch /sys/fs/cgroup/here; mkdir /sys/fs/cgroup/sub; mount -t tmpfs sub /sys/fs/cgroup/sub; touch /sys/fs/cgroup/sub/there
        netns add web
        same "$(netns exec web ls /sys/class/net)" lo
        netns exec web test -e /sys/fs/cgroup/here -a -e /sys/fs/cgroup/sub/there
        ls /sys/class/net/br9 >/dev/null
        before=$(wc -l </proc/self/mountinfo)
        netns exec web mount -t tmpfs x /mnt
        same "$before" "$(wc -l </proc/self/mountinfo)"
        mount -o remount,bind,ro /sys
        netns exec web grep -q ' /sys ro,.* - sysfs ' /proc/self/mountinfo
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn all_works_in_a_user_namespace_and_where_sysfs_is_masked() {
    net(r#"
        printf '%s\n' 'set -eu; mount -t tmpfs run /run; netns add u; netns switch add br0 --address 10.0.0.254/24 --nat' \
            'netns link u:eth0 br0 10.0.0.1/24 --check 20; netns exec u ls /sys/class/net; netns del --wait u' >$T/script
        same "$(unshare -Urmn sh $T/script)" "$(printf 'eth0\nlo')"
        mount -t tmpfs masked /sys/kernel
        unshare -Urmn sh $T/script >$T/out 2>$T/err; says "note: no new '/sys'"
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn exec_covers_files_of_etc() {
    net(r#"
        mount -t tmpfs etc /etc; mkdir -p /etc/netns/web /etc/netns/odd; echo host >/etc/resolv.conf; echo ship >/etc/netns/web/resolv.conf
        netns add web odd
        same "$(netns exec web cat /etc/resolv.conf) $(netns exec odd cat /etc/resolv.conf) $(cat /etc/resolv.conf)" "ship host host"
        touch /etc/netns/odd/nothing
        netns exec odd true 2>$T/err; same "$(wc -l <$T/err)" 1; says "/etc/netns/odd/nothing"
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn with_the_last_name_the_mount_of_the_directory_goes() {
    inside(
        r#"
        netns add a b
        netns del a
        mountpoint -q /run/netns
        netns del b
        if mountpoint -q /run/netns; then exit 9; fi
        netns add a
        mountpoint -q /run/netns
        mount -t tmpfs mine /run/netns
        netns add c
        netns del c
        grep -q mine /proc/self/mountinfo    # what others mounted there stays
    "#,
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_file_makes_a_network_once() {
    net(&format!(
        r#"{NETWORK}
        empty=$(state)
        network | netns apply -n - >$T/plan
        same "$(cat $T/plan)" "$(printf '%s\n' 'add a' "add 'b c'" 'switch add br0 --address 10.0.0.254/24 --nat' \
            'link a:eth0 br0 10.0.0.1/24 via 10.0.0.254' "link 'b c:eth0' br0 10.0.0.2/24 via 10.0.0.254" 'publish 8080 a:80')"
        same "$empty" "$(state)"
        network | netns apply -
        serve a 80
        same "$(host_fetch 10.0.0.1 80)" 10.0.0.254
        before=$(state)
        network >$T/file; netns apply $T/file; netns apply -n $T/file >$T/plan
        same "$before $(cat $T/plan)" "$(state) "
        # What has gone is mended, and nothing else touched.
        index=$(index a eth0)
        netns unlink 'b c:eth0'; netns exec a ip route del default; netns nat off br0; netns unpublish 8080
        netns apply -n $T/file >$T/plan
        same "$(cat $T/plan)" "$(printf '%s\n' "set the gateway '10.0.0.254' of 'a:eth0'" \
            "link 'b c:eth0' br0 10.0.0.2/24 via 10.0.0.254" 'nat on br0' 'publish 8080 a:80')"
        netns apply $T/file
        same "$index $(netns apply -n $T/file)" "$(index a eth0) "
        kill $!; wait $! || :
        netns del --wait a 'b c'; netns switch del br0
        same "$empty" "$(state)"
    "#
    ))
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_file_with_one_bad_line_changes_nothing_and_says_which() {
    net(&format!(
        r#"{NETWORK}
        netns add old; netns switch add br9; netns link old:eth0 br9 10.9.0.1/24 --no-check; empty=$(state)
        bad() {{ {{ network; printf '%s\n' "$1"; }} | fails 1 netns apply -; says "^netns: line 8: "; says "$2"; same "$empty" "$(state)"; }}
        bad 'link a:eth1 br0 10.0.0.256/24' "not an address"
        bad 'link a:eth1 none' "no switch 'none'"
        bad 'link none:eth0 br0' "no network namespace 'none'"
        bad 'link old:eth0 br9 10.9.0.2/24' "it exists with address '10.9.0.1/24', not '10.9.0.2/24'"
        bad 'link a:eth0 br9' "'a:eth0' is linked already (line 2)"
        bad 'link old:eth1 br9 10.9.0.1/24' "'10.9.0.1' is taken by"
        bad 'link old:lo br9' "has an interface 'lo' already"
        bad 'publish 8080 old:80' "line 3"
        bad 'publish 81 none:80' "no network namespace 'none'"
        bad 'nat on br8' "no switch 'br8'"
        bad 'switch add lo' "'lo' is there and is not a bridge"
        bad 'del a' "is none of"
        bad "add 'a" "quote"
        bad 'fly' "'fly' is none of"
        bad 'link a:eth1 br0 rate 80' "rate '80'"
        fails 1 netns apply /none; says "cannot read '/none'"
        fails 1 netns apply /run; says "cannot read '/run'"
        head -c 100000 /dev/urandom >$T/noise; fails 1 netns apply $T/noise
        same "$empty" "$(state)"
    "#
    ))
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn an_apply_that_fails_at_its_last_step_is_undone() {
    net(&format!(
        r#"{NETWORK}
        empty=$(state)
        printf '#!/bin/sh\ncat >$T/in; grep -q add $T/in && exit 1; echo "{{\\"nftables\\":[]}}"' >$T/nft; chmod +x $T/nft
        mkdir $T/path; mv $T/nft $T/path
        network >$T/file
        PATH=$T/path:$PATH fails 1 netns apply $T/file; says "cannot set up NAT"
        same "$empty" "$(state)"
    "#
    ))
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_published_port_is_reached_from_everywhere() {
    net(&format!(
        r#"ip link set lo up
        {OUTSIDE}
        netns add other
        netns switch add br0 --address 10.0.0.254/24 --address fd00::fe/64
        netns link ship:eth0 br0 10.0.0.1/24 fd00::1/64 via 10.0.0.254 --no-check
        netns link other:eth0 br0 10.0.0.2/24 via 10.0.0.254 --no-check
        nft 'add table ip foreign; add chain ip foreign c {{ type nat hook postrouting priority 100; }}'; foreign=$(nft list ruleset)
        serve ship 80
        netns publish 8080 ship:80 2>/dev/null; before=$(nft -a list ruleset)
        netns publish 8080 ship:80; same "$before" "$(nft -a list ruleset)"
        same "$(fetch out 192.0.2.1 8080)" 192.0.2.9       # from outside
        same "$(host_fetch 192.0.2.1 8080)" 10.0.0.254      # from the host by its addresses
        same "$(host_fetch 10.0.0.254 8080)" 10.0.0.254
        same "$(host_fetch 127.0.0.1 8080)" 10.0.0.254
        same "$(fetch other 192.0.2.1 8080)" 10.0.0.254     # from another ship
        same "$(fetch ship 192.0.2.1 8080)" 10.0.0.254      # from itself
        if [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]; then
            echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables
            same "$(fetch ship 192.0.2.1 8080)$(fetch other 192.0.2.1 8080)" 10.0.0.25410.0.0.254
        fi
        # The host's own 127.0.0.1 is not open to ships.
        perl -e 'use Socket; socket(S,PF_INET,SOCK_DGRAM,0); bind(S,sockaddr_in(99,inet_aton("127.0.0.1"))) or die;
            alarm $ENV{{LIMIT}}; recv(S,$m,9,0); print $m' >$T/heard &
        netns exec other ip route add 127.0.0.0/8 via 10.0.0.254 table 7
        netns exec other ip rule add to 127.0.0.0/8 table 7 pref 0 2>/dev/null || :
        netns exec other ip rule del pref 0 table local; netns exec other ip rule add pref 9 table local
        netns exec other perl -e 'use Socket; socket(S,PF_INET,SOCK_DGRAM,0); send(S,"evil",0,sockaddr_in(99,inet_aton("127.0.0.1")))' || :
        perl -e 'use Socket; socket(S,PF_INET,SOCK_DGRAM,0); send(S,"good",0,sockaddr_in(99,inet_aton("127.0.0.1")))'
        wait $!; same "$(cat $T/heard)" good
        fails 1 netns publish 8080 other:80; says "the port is taken by 'publish 8080 ship:80'"; says "hint: netns unpublish 8080"
        netns publish 8080 other:80 udp
        fails 1 netns unpublish 8081; says "not published"
        netns unpublish 8080; netns unpublish 8080 udp
        same "$(nft list ruleset) $(cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/br0/route_localnet)" "$foreign $(printf '0\n0')"
        LIMIT=1; fails 111 host_fetch 192.0.2.1 8080
    "#
    ))
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_port_is_published_on_one_address_or_as_udp() {
    net(&format!(
        r#"ip link set lo up
        {OUTSIDE}
        netns switch add br0 --address 10.0.0.254/24
        fails 1 netns publish 80 ship:80; says "'ship' has no address of that family on a switch"
        netns link ship:eth0 br0 10.0.0.1/24 via 10.0.0.254 --no-check
        fails 1 netns publish [fd00::1]:80 ship:80; says "of that family"
        same "$(nft list ruleset)" ""
        serve ship 80
        netns publish 127.0.0.1:8080 ship:80
        same "$(host_fetch 127.0.0.1 8080)" 10.0.0.254
        LIMIT=2; fails 111 host_fetch 192.0.2.1 8080; fails 111 fetch out 192.0.2.1 8080; LIMIT=20
        netns publish 192.0.2.1:8080 ship:80
        same "$(host_fetch 192.0.2.1 8080) $(fetch out 192.0.2.1 8080)" "10.0.0.254 192.0.2.9"
        fails 1 netns publish 8080 ship:81; says "the port is taken by"
        # The ship comes back with another address.
        netns unlink ship:eth0; netns link ship:eth0 br0 10.0.0.7/24 via 10.0.0.254 --no-check
        netns publish 192.0.2.1:8080 ship:80
        same "$(fetch out 192.0.2.1 8080)" 192.0.2.9
        netns publish 5353 ship:53 udp
        netns exec ship perl -e 'use Socket; socket(S,PF_INET,SOCK_DGRAM,0); bind(S,sockaddr_in(53,INADDR_ANY)) or die; open(R,">",$ENV{{T}}."/udp"); print R "ready\n"; close R;
            alarm $ENV{{LIMIT}}; $from = recv(S,$m,99,0); send(S,"got $m",0,$from)' &
        while ! [ -s $T/udp ]; do kill -0 $!; done
        same "$(netns exec out perl -e 'use Socket; alarm 20; socket(S,PF_INET,SOCK_DGRAM,0); send(S,"hello",0,sockaddr_in(5353,inet_aton("192.0.2.1"))); recv(S,$m,99,0); print $m')" "got hello"
        # With the switch goes what is published on it.
        netns unlink ship:eth0; netns switch del br0
        same "$(nft list ruleset)" ""
    "#
    ))
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn nat_is_switched_on_and_off_alone() {
    net(&format!(
        r#"{OUTSIDE}
        netns switch add br0 --address 10.0.0.254/24
        netns link ship:eth0 br0 10.0.0.1/24 via 10.0.0.254 --no-check
        same "$(netns nat on -n br0)" "nat on br0"
        netns nat on br0; netns nat on br0
        same "$(netns nat on -n br0)" ""
        same "$(fetch ship 192.0.2.9 80)" 192.0.2.1
        same "$(netns nat off -n br0)" "nat off br0"
        netns nat off br0; netns nat off br0
        same "$(nft list ruleset)$(cat /proc/sys/net/ipv4/ip_forward)" 0
        fails 1 netns nat on br1; says "cannot give 'br1' NAT: no switch 'br1'"
        fails 1 netns nat off br1; says "no switch 'br1'"
        netns switch add br1; fails 1 netns nat on br1; says "hint: give the switch an address"
    "#
    ))
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_card_moves_to_the_switch_and_back_with_all_it_has() {
    net(r#"
        netns add lan
        ip link add wan type veth peer name eth0 netns lan
        netns exec lan sh -c 'ip addr add 192.0.2.9/24 dev eth0; ip addr add 2001:db8::9/64 dev eth0 nodad; ip link set eth0 up'
        ip link set wan up; ip addr add 192.0.2.1/24 dev wan; ip addr add 192.0.2.2/24 dev wan; ip addr add 2001:db8::1/64 dev wan nodad
        ip route add default via 192.0.2.9; ip route add 198.51.100.0/24 dev wan src 192.0.2.2 metric 7
        ip route add 203.0.113.0/24 via 192.0.2.9 table 99; ip -6 route add default via 2001:db8::9
        serve lan 80; netns exec lan ip route add 10.0.0.0/24 via 192.0.2.1
        have() { ip -o addr show dev $1 scope global | sed "s/$1//g" | tr -s ' ' | cut -d' ' -f2-7; ip route show table all dev $1 | grep -v -e local -e broadcast -e multicast -e fe80 | sort; ip -6 route show dev $1 | grep -v -e fe80 -e ff00 | sort; }
        before=$(have wan); mac=$(cat /sys/class/net/wan/address)
        # A connection of the host lives on.
        mkfifo $T/listens $T/talks $T/go
        netns exec lan perl -e 'use Socket; alarm $ENV{LIMIT}; socket(S,PF_INET,SOCK_STREAM,0); bind(S,sockaddr_in(81,INADDR_ANY)) or die; listen(S,1);
            open(R,">",$ENV{T}."/listens"); close R; accept(C,S); sysread(C,$m,9); syswrite(C,$m)' &
        : <$T/listens
        perl -e 'use Socket; alarm $ENV{LIMIT}; socket(S,PF_INET,SOCK_STREAM,0); connect(S,sockaddr_in(81,inet_aton("192.0.2.9"))) or die "connect: $!";
            open(R,">",$ENV{T}."/talks"); close R; open(G,"<",$ENV{T}."/go"); <G>; syswrite(S,"hello"); sysread(S,$m,9); print $m' >$T/heard & talk=$!
        : <$T/talks
        same "$(netns switch add -n br0 --uplink wan)" "switch add br0 --uplink wan"
        netns switch add br0 --uplink wan
        same "$(have br0)" "$before"; same "$(have wan)" ""
        same "$mac" "$(cat /sys/class/net/br0/address)"
        same "$(host_fetch 192.0.2.9 80)" 192.0.2.1
        netns switch add br0 --uplink wan; same "$(netns switch add -n br0 --uplink wan)" ""
        echo >$T/go; wait $talk; same "$(cat $T/heard)" hello
        netns switch add br0 --uplink wan --address 10.0.0.254/24
        netns add ship; netns link ship:eth0 br0 192.0.2.7/24
        same "$(fetch ship 192.0.2.9 80)" 192.0.2.7
        fails 1 netns link ship:eth1 br0 192.0.2.9/24; says "'192.0.2.9' is taken"
        netns switch del br0 --if-unused; ip link show br0 >/dev/null
        netns unlink ship:eth0; netns switch del br0 --if-unused
        same "$(have wan)" "$before"; same "$(ip -o link show wan | grep -c alias)" 0
        same "$(host_fetch 192.0.2.9 80)" 192.0.2.1
        fails 1 netns switch add br0 --uplink none; says "no interface 'none'"
        fails 1 netns switch add br0 --uplink lo; says "'lo' cannot be an uplink"
        same "$(have wan)$(ip -br link show type bridge)" "$before"
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn what_is_published_goes_with_what_it_leads_to() {
    net(r#"
        netns switch add br0 --address 10.0.0.254/24; netns switch add br1 --address 10.0.1.254/24
        again() {
            netns add web db; netns link web:eth0 br0 10.0.0.1/24 --no-check; netns link web:eth1 br1 10.0.1.1/24 --no-check
            netns link db:eth0 br0 10.0.0.2/24 --no-check
            netns publish 8080 web:80; netns publish 5353 web:53 udp; netns publish 5432 db:5432
        }
        published() { netns show --plan | grep '^publish' | xargs; }
        again; same "$(published)" "publish 8080 web:80 publish 5353 web:53 udp publish 5432 db:5432"
        same "$(netns del -n web)" "$(printf 'del web\nunpublish 8080\nunpublish 5353 udp')"
        netns exec web sleep 60 & wait_for() { while ! netns pids web | grep -q .; do kill -0 $!; done; }; wait_for
        fails 1 netns del web; same "$(published | wc -w)" 10
        kill $!; wait $! || :
        netns del web 2>$T/err; says "note: with it goes what was published: unpublish 8080$"
        same "$(published)" "publish 5432 db:5432"; same "$(cat /proc/sys/net/ipv4/conf/br0/route_localnet)" 1
        netns del db 2>$T/err; same "$(published)" ""; same "$(nft list tables)" ""
        same "$(cat /proc/sys/net/ipv4/conf/br0/route_localnet)" 0
        # A link that it does not go over is no reason, and neither is the end of another.
        again; netns unlink web:eth1 2>$T/err; same "$(cat $T/err)" ""; same "$(published | wc -w)" 10
        same "$(netns unlink -n web:eth0 | xargs)" "unlink web:eth0 unpublish 8080 unpublish 5353 udp"
        netns unlink web:eth0 2>$T/err; says "unpublish 5353 udp"; same "$(published)" "publish 5432 db:5432"
        fails 1 netns unpublish 8080; says "it is not published"; netns unpublish 5432; fails 1 netns unpublish 5432
        netns publish 5432 db:5432; same "$(netns switch del -n br0 | xargs)" "switch del br0 unpublish 5432"
        netns switch del br0 2>$T/err; says "unpublish 5432$"; says "had ports"; same "$(published)" ""
        netns show --plan | grep -qx '# link db:eth0 - .*'
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn what_was_changed_is_told_as_json() {
    net(r#"
        told() { want=$1; shift; same "$("$@" --json)" "$want"; }
        did() { echo "{\"addresses\":[${2-}],\"changes\":[$1],\"dry_run\":false}"; }
        told "$(did '"add a","add b"')" netns add a b; told "$(did '')" netns add a b
        told "$(did '"switch add br0 --address 10.0.0.254/24"')" netns switch add br0 --address 10.0.0.254/24
        told "$(did '')" netns switch add br0
        told "$(did '"link a:eth0 br0 10.0.0.1/24"')" netns link a:eth0 br0 10.0.0.1/24 --check 5
        told "$(did '"link b:eth0 br0 --next-free"' '"10.0.0.2/24"')" netns link b:eth0 br0 --next-free --check 20
        told "$(did '"nat on br0"')" netns nat on br0; told "$(did '')" netns nat on br0
        told "$(did '"publish 80 a:80"')" netns publish 80 a:80; told "$(did '')" netns publish 80 a:80
        printf 'add a\nadd c\nlink a:eth0 br0\nlink c:eth0 br0 10.0.0.3/24 --no-check\n' >$T/file
        told '{"differing":[],"extra":["add b","switch add br0 --address 10.0.0.254/24 --nat","link b:eth0 br0 10.0.0.2/24 mac '$(netns exec b cat /sys/class/net/eth0/address)'","publish 80 a:80"],"missing":["add c","link c:eth0 br0 10.0.0.3/24"]}' \
            sh -c 'netns diff "$@" || test $? = 1' sh $T/file
        told '{"addresses":[],"changes":["add c","link c:eth0 br0 10.0.0.3/24"],"dry_run":true}' netns apply -n $T/file
        told "$(did '"add c","link c:eth0 br0 10.0.0.3/24"')" netns apply $T/file
        told "$(did '"unpublish 80"')" netns unpublish 80
        told "$(did '"nat off br0"')" netns nat off br0; told "$(did '')" netns nat off br0
        told "$(did '"unlink a:eth0","unlink c:eth0"')" netns unlink a:eth0 c:eth0
        told "$(did '')" netns switch del --if-unused br0
        told "$(did '"del a","del b"')" netns del --wait a b; told "$(did '')" netns del --if-exists a
        told "$(did '"switch del br0"')" netns switch del br0
        fails 1 netns switch del -n br0; says "no switch 'br0'"; fails 1 netns nat off -n br0; says "no switch 'br0'"
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn neighbours_learn_the_new_mac_of_an_address() {
    net(r#"
        netns add a b
        netns switch add br0 --address 10.0.0.254/24 --address fd00::fe/64
        netns link b:eth0 br0 10.0.0.2/24 fd00::2/64 --no-check
        mac() { netns exec a cat /sys/class/net/eth0/address; }
        # b and the host hold an entry that they have no reason to doubt.
        believe() { netns exec b ip neigh replace $1 lladdr $2 dev eth0 nud reachable; ip neigh replace $1 lladdr $2 dev br0 nud reachable; }
        believes() { netns exec b ip neigh show $1 dev eth0 | grep -qF " lladdr $2 " && ip neigh show $1 dev br0 | grep -qF " lladdr $2 "; }
        for check in --no-check "--check 20"; do
            for address in 10.0.0.1 fd00::1; do believe $address 02:00:00:00:00:99; done
            netns link a:eth0 br0 10.0.0.1/24 fd00::1/64 $check
            for address in 10.0.0.1 fd00::1; do
                end=$(($(cut -d. -f1 /proc/uptime) + 10))
                until believes $address $(mac); do
                    test $(cut -d. -f1 /proc/uptime) -lt $end || { ip neigh >&2; netns exec b ip neigh >&2; exit 9; }
                done
            done
            same "$(netns exec a cat /proc/sys/net/ipv4/conf/eth0/arp_notify /proc/sys/net/ipv6/conf/eth0/ndisc_notify | xargs)" "0 0"
            netns unlink a:eth0
        done
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_card_can_be_shared_without_a_switch() {
    net(r#"
        netns add lan a b
        ip link add wan type veth peer name eth0 netns lan
        netns exec lan sh -c 'ip addr add 192.0.2.9/24 dev eth0; ip link set eth0 up'; serve lan 80
        fails 1 netns link a:eth0 macvlan:wan; says "the interface 'wan' is down"; ip link set wan up
        netns link a:eth0 macvlan:wan 192.0.2.1/24; netns link b:eth0 macvtap:wan 192.0.2.2/24 mac 02:00:00:00:00:02
        same "$(fetch a 192.0.2.9 80) $(fetch b 192.0.2.9 80)" "192.0.2.1 192.0.2.2"
        before=$(netns exec a ip -d link; netns exec b ip -d link)
        netns link a:eth0 macvlan:wan 192.0.2.1/24; netns link b:eth0 macvtap:wan
        same "$before" "$(netns exec a ip -d link; netns exec b ip -d link)"
        fails 1 netns link a:eth1 macvlan:wan 192.0.2.9/24; says "is taken by"
        fails 1 netns exec a ip link show eth1
        fails 1 netns link a:eth0 macvtap:wan; fails 1 netns link a:eth0 macvlan:wan mtu 1400; says "mtu '1500', not '1400'"
        fails 1 netns link a:eth1 macvlan:none; says "no interface 'none'"
        netns unlink a:eth0; fails 1 netns unlink a:eth0; netns unlink b:eth0
        netns link a:eth0 macvlan:wan
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn rate_holds_in_both_directions() {
    net(r#"
        netns add a; netns switch add br0 --address 10.0.0.254/24
        netns link a:eth0 br0 10.0.0.1/24 rate 8mbit promisc --no-check
        netns link a:eth0 br0 10.0.0.1/24 rate 8mbit promisc; netns link a:eth0 br0
        fails 1 netns link a:eth0 br0 rate 9mbit; says "rate '8mbit', not '9mbit'"
        netns exec a ip -o link show eth0 | grep -q PROMISC
        netns link a:eth1 br0 --no-check; fails 1 netns link a:eth1 br0 rate 8mbit; says "rate 'none', not '8mbit'"
        # A megabyte takes a second at 8 Mbit; the token bucket lets 64 KB through at once.
        for direction in in out; do
            perl -e 'use Socket; use Fcntl; alarm 30; socket(L,PF_INET,SOCK_STREAM,0); setsockopt(L,SOL_SOCKET,SO_REUSEADDR,1);
                bind(L,sockaddr_in(7,inet_aton("10.0.0.254"))) or die; listen(L,1);
                if (!fork) { exec("netns","exec","a","perl","-e",q{use Socket; alarm 30; socket(S,PF_INET,SOCK_STREAM,0); connect(S,sockaddr_in(7,inet_aton("10.0.0.254"))) or die;
                    if ($ARGV[0] eq "out") { print S "x" x 1000000; shutdown(S,1); read(S,$_,1) } else { 1 while sysread(S,$_,65536) }}, $ARGV[0]) }
                accept(C,L) or die; my @t = times; my $start = `date +%s%N`;
                if ($ARGV[0] eq "out") { $n = 0; while ($r = sysread(C,$_,65536)) { $n += $r } } else { $n = 0; while ($n < 1000000) { $n += syswrite(C,"x" x 65536) || die } shutdown(C,1); }
                close C; wait; printf "%d\n", (`date +%s%N` - $start) / 1e6' $direction >$T/ms
            test $(cat $T/ms) -gt 600 || { echo "$direction took $(cat $T/ms) ms" >&2; exit 9; }
        done
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_next_free_address_is_found_and_told() {
    net(r#"
        netns add a b c d; netns switch add br0 --address 10.0.0.2/29
        netns link a:eth0 br0 10.0.0.3/29 --no-check
        same "$(netns link b:eth0 br0 --next-free via 10.0.0.1 --check 40)" 10.0.0.4/29
        same "$(netns exec b ip route show default)" "default via 10.0.0.1 dev eth0 proto static "
        same "$(netns link b:eth0 br0 --next-free)" ""
        netns link c:eth0 br0 --next-free --check 40 >$T/c & netns link d:eth0 br0 --next-free --check 40 >$T/d & wait
        same "$(cat $T/c $T/d | sort)" "$(printf '10.0.0.1/29\n10.0.0.5/29')"
        same "$(netns link a:eth1 br0 --next-free --check 40)" 10.0.0.6/29; before=$(links)
        fails 1 netns link a:eth2 br0 --next-free --check 40; says "no address of '10.0.0.0/29' is free on 'br0'"
        same "$before" "$(links)"
        netns switch add br1; fails 1 netns link a:eth2 br1 --next-free; says "has no address"
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn links_take_the_mtu_of_their_switch() {
    net(r#"
        netns add a; netns switch add br0 --mtu 1450
        netns link a:eth0 br0; netns link a:eth1 br0 mtu 1400
        same "$(netns exec a cat /sys/class/net/eth0/mtu /sys/class/net/eth1/mtu) $(cat /sys/class/net/br0/mtu)" "$(printf '1450\n1400') 1450"
        fails 1 netns switch add br0 --mtu 1500; says "mtu '1450', not '1500'"
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_dry_run_says_what_and_does_nothing() {
    net(r#"
        netns add a; netns switch add br0 --address 10.0.0.254/24; netns link a:eth0 br0 --no-check; before="$(links) $(netns list)"
        same "$(netns add -n a b)" "add b"
        same "$(netns del --dry-run a)" "del a"
        same "$(netns link -n a:eth1 br0 10.0.0.1/24 rate 1000kbit)" "link a:eth1 br0 10.0.0.1/24 rate 1mbit"
        same "$(netns link -n a:eth0 br0)" ""
        same "$(netns unlink -n a:eth0)" "unlink a:eth0"
        same "$(netns switch add -n br1 --nat --address 10.1.0.1/24)" "switch add br1 --address 10.1.0.1/24 --nat"
        same "$(netns switch add -n br0 --address fd00::1/64)" "give 'fd00::1/64' to 'br0'"
        same "$(netns switch del -n br0)" "switch del br0"
        fails 1 netns link -n a:eth1 br1; fails 1 netns unlink -n a:eth1; fails 1 netns del -n b
        same "$before $(nft list ruleset)" "$(links) $(netns list) "
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn what_is_shown_as_a_plan_makes_the_same_again() {
    net(&format!(
        r#"{NETWORK}
        ip link add wan type veth peer name far; ip link set wan up; ip link set far up
        ip addr add 192.0.2.1/24 dev wan; ip route add default via 192.0.2.9
        {{ network; cat <<'end'
switch add br1 --address fd00::fe/64 --mtu 1450 --uplink wan
switch add lonely
link a:eth1 br1 fd00::1/64 192.0.2.8/24 mac 02:00:00:00:00:09 rate 8mbit promisc --no-check
link a:mv0 macvlan:far 198.51.100.1/24 --no-check
link 'b c:eth9' br0 10.0.0.9/24 mtu 1400
publish [fd00::fe]:80 a:81
publish 192.0.2.1:53 'b c:53' udp
end
        }} | netns apply - 2>/dev/null
        ip link add foreign type bridge; ip link set foreign up
        netns show --plan >$T/plan; state >$T/state
        grep -qx 'switch add br1 --address fd00::fe/64 --mtu 1450 --uplink wan' $T/plan
        grep -q "^link a:mv0 macvlan:far 198.51.100.1/24 mac ..:..:..:..:..:..$" $T/plan
        grep -q "^link a:eth1 br1 192.0.2.8/24 fd00::1/64 mac 02:00:00:00:00:09 rate 8mbit promisc$" $T/plan
        same "$(grep -c foreign $T/plan)" 0
        same "$(netns diff $T/plan)" ""; same "$(netns apply -n $T/plan)" ""
        netns del --wait a 'b c'; for br in br0 br1 lonely; do netns switch del $br; done
        same "$(netns show)" ""; same "$(nft list ruleset)" ""
        netns apply $T/plan 2>/dev/null; netns show --plan >$T/again
        diff $T/plan $T/again >&2
        netns apply $T/plan
        diff $T/plan $T/again >&2
    "#
    ))
    .ended_with(0)
    .said("");
}

#[test]
#[ignore = "needs root: tests/run"]
fn diff_tells_what_is_missing_what_differs_and_what_is_too_much() {
    net(&format!(
        r#"{NETWORK}
        network >$T/file
        fails 1 netns diff $T/file; same "$(grep -c '^+' $T/out) $(grep -vc '^+' $T/out)" "6 0"
        same "$(links)" 1
        netns apply $T/file
        netns diff $T/file >$T/out; same "$(cat $T/out)" ""
        netns add more; netns link more:eth0 br0 10.0.0.3/24 mac 02:00:00:00:00:03 --no-check
        sed -i 's/via 10.0.0.254   # behind/via 10.0.0.253/; s/8080/8081/' $T/file
        fails 1 netns diff $T/file
        same "$(cat $T/out)" "$(cat <<'end'
! line 5: cannot link 'b c:eth0': it exists with gateway '10.0.0.254', not '10.0.0.253'
+ publish 8081 a:80
- add more
- link more:eth0 br0 10.0.0.3/24 mac 02:00:00:00:00:03
- publish 8080 a:80
end
        )"
        fails 2 netns diff /none; echo nonsense >$T/file; fails 2 netns diff $T/file
    "#
    ))
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn processes_are_found_by_name_and_names_by_process() {
    let outcome = net(r#"
        netns add web other; : >/run/netns/alias; mount --bind /run/netns/web /run/netns/alias
        same "$(netns pids web)" ""
        mkfifo $T/f; netns exec web sh -c 'read x <$T/f' & p=$!
        while [ "$(readlink /proc/$p/ns/net)" != "net:[$(stat -L -c %i /run/netns/web)]" ]; do :; done
        same "$(netns pids web) $(netns pids alias) $(netns pids pid:$p) $(netns pids other)" "$p $p $p "
        same "$(netns pids web)" "$(ip netns pids web)"
        same "$(netns identify $p)" "$(printf 'alias\nweb')"; same "$(netns identify)" ""
        same "$(netns exec other netns identify) $(netns identify $$)" "other "
        netns pids --json web >$T/j; netns identify --json $p >>$T/j; sed "s/\"inode\":[0-9]*/\"inode\":0/;s/$p/PID/" $T/j
        fails 1 netns pids none; says "no network namespace 'none'"
        echo >$T/f; wait $p
        fails 1 netns identify $p; says "no such process: '$p'"; fails 1 netns pids pid:$p
    "#);
    outcome
        .ended_with(0)
        .printed("{\"inode\":0,\"pids\":[PID],\"target\":\"web\"}\n{\"inode\":0,\"names\":[\"alias\",\"web\"],\"pid\":PID}\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn all_is_shown_in_words_as_json_and_as_a_drawing() {
    let outcome = net(&format!(
        r#"{NETWORK}
        network | netns apply -; : >/run/netns/stale
        for ship in a 'b c'; do netns exec "$ship" ip link set eth0 address 02:00:00:00:00:01; done
        netns show; echo --; netns show --dot; echo --; netns show --json
        netns exec a ip link del eth0
        netns show >$T/out; same "$(grep -c '^link a:eth0' $T/out)" 0
    "#
    ))
    .ended_with(0);
    let parts: Vec<&str> = outcome.out.split("--\n").collect();
    let [lines, dot, json] = parts[..] else { panic!("{}", outcome.out) };
    assert_eq!(
        lines,
        "namespace a live\nnamespace 'b c' live\nnamespace stale stale\n\
         switch br0 --address 10.0.0.254/24 --nat up\n\
         link a:eth0 br0 10.0.0.1/24 via 10.0.0.254 mac 02:00:00:00:00:01 up\n\
         link 'b c:eth0' br0 10.0.0.2/24 via 10.0.0.254 mac 02:00:00:00:00:01 up\npublish 8080 a:80\n"
    );
    assert!(dot.starts_with("graph netns {\n  \"a\";\n") && dot.ends_with("}\n"), "{dot}");
    assert!(dot.contains("  \"b c\" -- \"br0\" [label=\"eth0 10.0.0.2/24\"];\n"), "{dot}");
    assert!(dot.contains("  host -- \"br0\" [label=\"10.0.0.254/24\\nnat\"];\n"), "{dot}");
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(
        json["links"][1],
        serde_json::json!({"target": "b c", "ifname": "eth0", "outer": "bc-41765dab", "switch": "br0", "state": "up",
            "addresses": ["10.0.0.2/24"], "gateways": ["10.0.0.254"], "mtu": 1500, "mac": "02:00:00:00:00:01",
            "tag": null, "trunks": [], "rate": null, "promisc": false})
    );
    assert_eq!(json["namespaces"][2]["state"], "stale");
    assert_eq!(json["switches"][0]["nat"], true);
    assert_eq!(
        json["publications"],
        serde_json::json!([{"address": null, "port": 8080, "protocol": "tcp", "target": "a", "to": 80}])
    );
}

#[test]
#[ignore = "needs root: tests/run"]
fn comings_and_goings_are_told() {
    net(r#"
        mkfifo $T/told; netns monitor >$T/told & p=$!; exec 9<$T/told
        while ! ls -l /proc/$p/fd | grep -q signalfd; do kill -0 $p; done
        hears() { read -r line <&9; same "$line" "$1"; }
        netns switch add br0
        netns add web; hears "add web"
        netns add 'a b'; hears "add 'a b'"
        netns link web:eth0 br0 10.0.0.1/24; hears "link web:eth0"
        netns unlink web:eth0; hears "unlink web:eth0"
        netns del 'a b'; hears "del 'a b'"
        ip netns add theirs; hears "add theirs"
        netns del web theirs; read -r one <&9; read -r two <&9; same "$(printf '%s\n' "$one" "$two" | sort)" "$(printf 'del theirs\ndel web')"
        kill $p; set +e; wait $p; same $? 143; set -e
        netns monitor --json >$T/told & p=$!; exec 9<$T/told
        while ! ls -l /proc/$p/fd | grep -q signalfd; do kill -0 $p; done
        netns add web; hears '{"event":"add","what":"web"}'
        kill $p
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn two_hundred_commands_at_once_on_the_same_names_end_in_a_whole_state() {
    net(r#"
        netns switch add br0 --address 10.0.0.254/24
        for i in $(seq 40); do
            n=n$((i % 5))
            netns add $n & netns link $n:eth0 br0 10.0.0.$((i % 5 + 1))/24 --check 5 &
            netns del --force $n & printf 'add %s\nlink %s:eth0 br0 10.0.0.%s/24 --check 5\n' $n $n $((i % 5 + 1)) | netns apply - &
            netns unlink $n:eth0 &
        done >$T/out 2>$T/err
        wait
        if grep -v -e '^netns: ' -e '^hint: ' $T/err >&2; then exit 9; fi
        if grep -i panic $T/err >&2; then exit 9; fi
        # Whatever came last: every name is whole or not there, and the next command succeeds.
        if netns list | grep -v live >&2; then exit 9; fi
        for n in n0 n1 n2 n3 n4; do netns add $n; netns unlink $n:eth0 2>/dev/null || :; netns link $n:eth0 br0 --no-check; done
        same "$(links)" 7
        netns del --wait n0 n1 n2 n3 n4; netns switch del br0
        same "$(links) $(ls /run/netns) $(grep -c /run/netns /proc/self/mountinfo)" "1  0"
    "#)
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_same_file_applied_by_many_at_once_makes_one_network() {
    net(&format!(
        r#"{NETWORK}
        network | grep -v -e publish -e switch >$T/file; echo 'switch add br0' >>$T/file
        for round in 1 2 3; do
            for i in 1 2 3 4 5 6; do netns apply $T/file || echo failed & done
            wait
            netns diff $T/file
            same "$(links)" 4
            netns del --wait a 'b c'; netns switch del br0
        done
    "#
    ))
    .ended_with(0)
    .printed("");
}
