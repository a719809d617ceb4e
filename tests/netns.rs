//! The real netns binary against the real kernel.

mod common;

use common::{Outcome, docs_agree, inside, run};

/// Two words of TCP in perl, which every Debian has: `serve NS PORT` comes back when the server listens and
/// answers each caller with the address it calls from; `fetch NS ADDRESS PORT` prints that answer.
const NET: &str = r#"
mount -t sysfs none /sys
serve() {
    mkfifo $T/ready.$1
    netns exec $1 perl -e 'use Socket; socket(S,PF_INET,SOCK_STREAM,0); setsockopt(S,SOL_SOCKET,SO_REUSEADDR,1);
        bind(S,sockaddr_in($ARGV[0],INADDR_ANY)) or die "bind: $!\n"; listen(S,9); open(R,">",$ARGV[1]);
        print R "ready\n"; close R; while(accept(C,S)){($p,$a)=sockaddr_in(getpeername(C)); print C inet_ntoa($a),"\n"; close C}
        ' $2 $T/ready.$1 >$T/server.$1 2>&1 &
    read word <$T/ready.$1; test "$word" = ready
}
export LIMIT=20
FETCH='use Socket; alarm $ENV{LIMIT}; socket(S,PF_INET,SOCK_STREAM,0);
    connect(S,sockaddr_in($ARGV[1],inet_aton($ARGV[0]))) or die "connect: $!\n"; print <S>'
fetch() { netns exec $1 perl -e "$FETCH" $2 $3; }
host_fetch() { perl -e "$FETCH" $1 $2; }
links() { ip -o link | wc -l; }
index() { netns exec $1 cat /sys/class/net/$2/ifindex; }
same() { test "$1" = "$2" || { echo "not the same: '$1' and '$2'" >&2; exit 99; }; }
fails() { code=$1; shift; set +e; "$@" >$T/out 2>$T/err; got=$?; set -e
    test $got = $code || { echo "status $got, not $code: $*" >&2; cat $T/err >&2; exit 99; }; }
says() { grep -q -e "$1" $T/err || { echo "no '$1' in:" >&2; cat $T/err >&2; exit 99; }; }
"#;

/// A script in namespaces of its own, with the words above; /run is an empty tmpfs.
fn net(script: &str) -> Outcome {
    inside(&format!("{NET}\n{script}"))
}

#[test]
fn help_and_version_end_well_and_misuse_is_2() {
    run("netns", &["--help"]).ended_with(0);
    assert!(run("netns", &["-V"]).ended_with(0).out.starts_with("netns (slipway) "));
    run("netns", &["fly"]).ended_with(2).said("'fly'");
    run("netns", &["exec"]).ended_with(125);
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
        $same; before="$(index web eth0) $(netns exec web ip -o addr) $(links)"
        $same
        netns link web:eth0 br0 fd00::1/64 10.0.0.1/24
        netns link web:eth0 br0
        same "$before" "$(index web eth0) $(netns exec web ip -o addr) $(links)"
        fails 1 netns link web:eth0 br0 10.0.0.2/24; says "'10.0.0.1/24 fd00::1/64', not '10.0.0.2/24'"
        fails 1 netns link web:eth0 br0 10.0.0.1/24 fd00::1/64 via 10.0.0.253; says "'10.0.0.254', not '10.0.0.253'"
        fails 1 netns link web:eth0 br0 mtu 1500; says "'1400', not '1500'"
        fails 1 netns link web:eth0 br0 mac 02:00:00:00:00:08; says "'02:00:00:00:00:07', not '02:00:00:00:00:08'"
        fails 1 netns link web:eth0 br1; says "switch 'br0', not 'br1'"; says "hint: netns unlink 'web:eth0'"
        same "$before" "$(index web eth0) $(netns exec web ip -o addr) $(links)"
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

/// SIGNAL after each of many moments. `kill_at SIGNAL` runs "$@" and kills it $delay microseconds later.
const KILLS: &str = r#"
kill_at() { perl -e '($s, $d) = splice(@ARGV, 0, 2); $p = fork; if (!$p) { exec(@ARGV) }
    select(undef, undef, undef, $d / 1e6); kill($s, $p); waitpid($p, 0)' "$@" 2>/dev/null; }
"#;

#[test]
#[ignore = "needs root: tests/run"]
fn a_link_stopped_at_any_moment_is_undone_or_whole() {
    net(&format!(
        r#"{KILLS}
        netns switch add br0; netns add web
        delay=0; : >$T/seen
        while [ $(grep -c whole $T/seen) -lt 3 ]; do
            delay=$((delay + 400)); test $delay -lt 400000
            kill_at TERM $delay netns link web:eth0 br0 10.0.0.1/24 --check 8
            # Whole or nothing, with no help.
            if [ $(links) != 2 ]; then
                ip link show web-543522e0 | grep -q 'alias netns:web:eth0'
                netns exec web ip -o addr show eth0 | grep -q 10.0.0.1/24
                echo whole >>$T/seen
            else echo nothing >>$T/seen; fi
            netns link web:eth0 br0 10.0.0.1/24 --check 1
            netns unlink web:eth0
            same "$(links)" 2
        done
        grep -q nothing $T/seen
    "#
    ))
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn what_a_killed_link_leaves_the_next_one_replaces() {
    net(&format!(
        r#"{KILLS}
        netns switch add br0; netns add web
        delay=0; whole=0; half=0
        while [ $whole -lt 3 ]; do
            delay=$((delay + 300)); test $delay -lt 400000
            kill_at KILL $delay netns link web:eth0 br0 10.0.0.1/24 via 10.0.0.9 --check 8
            if ip link show type veth | grep -q alias; then whole=$((whole + 1))
            elif [ $(links) = 3 ]; then half=$((half + 1)); fi
            netns link web:eth0 br0 10.0.0.1/24 via 10.0.0.9 --check 1
            netns exec web ip -o addr show eth0 | grep -q 10.0.0.1/24
            netns exec web ip route | grep -q 'default via 10.0.0.9'
            same "$(links)" 3
            netns unlink web:eth0
            same "$(links)" 2
        done
        test $half -gt 0
    "#
    ))
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn an_add_killed_at_any_moment_does_not_stop_the_next() {
    net(&format!(
        r#"{KILLS}
        for signal in TERM KILL; do
            for delay in $(seq 0 300 6000); do
                kill_at $signal $delay netns add one two
                netns add one two 2>/dev/null
                netns exec one true; netns exec two true
                netns del one two
                same "$(ls /run/netns)" ""
            done
        done
        same "$(grep -c ' /netns /run/netns ' /proc/self/mountinfo)" 0
    "#
    ))
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_switch_killed_at_any_moment_is_completed_by_the_next_add() {
    net(&format!(
        r#"{KILLS}
        for delay in $(seq 0 700 21000); do
            kill_at KILL $delay netns switch add br0 --address 10.0.0.254/24 --nat
            netns switch add br0 --address 10.0.0.254/24 --nat
            same "$(nft list ruleset | grep -c masquerade$)" 1
            same "$(cat /proc/sys/net/ipv4/ip_forward)" 1
            kill_at KILL $delay netns switch del br0
            netns switch del --if-unused br0
            same "$(nft list ruleset)$(cat /proc/sys/net/ipv4/ip_forward) $(links)" "0 1"
        done
    "#
    ))
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
        serde_json::json!([{"name": "br0", "state": "up", "mac": "02:00:00:00:00:01",
            "addresses": ["10.0.0.254/24"], "nat": true,
            "ports": [{"outer": "web-543522e0", "ship": "web", "ifname": "eth0"}]}])
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
        ! mountpoint -q /run/netns
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
