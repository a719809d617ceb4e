//! `netns trace` over a chain of routers: a - r1 - r2 - r3 - b.

mod common;

use common::{Outcome, inside, run};

/// The chain, IPv4 and IPv6; b listens on port 80. `router NS COMMAND...` runs a command in a router.
const CHAIN: &str = r#"
pair() { # A IF B IF NET: A gets address 1 and B address 2
    ip link add $2 netns $1 type veth peer name $4 netns $3
    ip -n $1 addr add 10.0.$5.1/24 dev $2; ip -n $1 addr add fd00:$5::1/64 dev $2 nodad; ip -n $1 link set $2 up
    ip -n $3 addr add 10.0.$5.2/24 dev $4; ip -n $3 addr add fd00:$5::2/64 dev $4 nodad; ip -n $3 link set $4 up
}
router() { ns=$1; shift; ip netns exec $ns "$@"; }
netns add a r1 r2 r3 b
for ns in r1 r2 r3; do
    router $ns sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
        echo 0 >/proc/sys/net/ipv4/icmp_ratelimit; echo 0 >/proc/sys/net/ipv6/icmp/ratelimit'
done
pair a e0 r1 w 1; pair r1 e r2 w 2; pair r2 e r3 w 3; pair r3 e b e0 4
ip -n a route add default via 10.0.1.2; ip -n a -6 route add default via fd00:1::2
for n in 1 2; do
    ip -n r$n route add default via 10.0.$((n + 1)).2; ip -n r$n -6 route add default via fd00:$((n + 1))::2
    ip -n r$((n + 1)) route add 10.0.1.0/24 via 10.0.$((n + 1)).1
    ip -n r$((n + 1)) -6 route add fd00:1::/64 via fd00:$((n + 1))::1
done
ip -n b route add default via 10.0.4.1; ip -n b -6 route add default via fd00:4::1
mkfifo $T/ready
ip netns exec b perl -e 'use Socket qw(:DEFAULT IN6ADDR_ANY); socket(S,PF_INET6,SOCK_STREAM,0); bind(S,pack_sockaddr_in6(80,IN6ADDR_ANY)) or die;
    listen(S,99); open(R,">",$ARGV[0]); print R "ready\n"; close R; while(accept(C,S)){close C}' $T/ready &
read word <$T/ready; test $word = ready
status() { want=$1; shift; got=0; "$@" >$T/out 2>$T/err || got=$?
    test $got = $want || { echo "status $got, not $want: $*" >&2; cat $T/out $T/err >&2; exit 99; }; }
says() { grep -qx -e "$1" $T/$2 || { echo "no '$1' in $2:" >&2; cat $T/$2 >&2; exit 99; }; }
lines() { test "$(wc -l <$T/out)" = $1 || { echo "not $1 lines:" >&2; cat $T/out >&2; exit 99; }; }
ms='  [0-9]*\.[0-9]\{3\} ms'
"#;

fn chain(script: &str) -> Outcome {
    inside(&format!("{CHAIN}\n{script}"))
}

#[test]
#[ignore = "needs root: tests/run"]
fn every_router_and_an_open_port_are_shown() {
    chain(
        r#"
        status 0 netns trace -N a 10.0.4.2; lines 4
        says " 1  10\.0\.1\.2$ms$ms$ms" out; says " 3  10\.0\.3\.2$ms$ms$ms" out
        says " 4  10\.0\.4\.2 \[open\]$ms$ms$ms" out
        says "Tracing the way to 10.0.4.2 on TCP port 80, 30 hops max" err
        status 0 netns exec a netns trace 10.0.4.2 80; lines 4
        status 0 netns trace -N a fd00:4::2; lines 4
        says " 2  fd00:2::2$ms$ms$ms" out; says " 4  fd00:4::2 \[open\]$ms$ms$ms" out
        # No raw socket: without any capability, too.
        status 0 netns exec a setpriv --bounding-set -all --inh-caps -all netns trace -n 10.0.4.2; lines 4
        "#,
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_closed_port_is_3_and_told_from_one_that_a_firewall_refuses_or_swallows() {
    chain(
        r#"
        status 3 netns trace -N a 10.0.4.2 81; lines 4; says " 4  10\.0\.4\.2 \[closed\]$ms$ms$ms" out
        status 3 netns trace -N a fd00:4::2 81; lines 4; says " 4  fd00:4::2 \[closed\]$ms$ms$ms" out
        router r3 nft 'add table inet f; add chain inet f c { type filter hook forward priority 0; }
            add rule inet f c tcp dport 82 drop
            add rule inet f c tcp dport 83 reject with icmpx type admin-prohibited
            add rule inet f c tcp dport 84 reject with icmpx type host-unreachable'
        status 4 netns trace -N a -w 0.2 -m 5 10.0.4.2 82; lines 5
        says " 3  10\.0\.3\.2$ms$ms$ms" out; says " 4  \* \* \*" out; says " 5  \* \* \*" out
        says "netns: '10.0.4.2' was not reached" err
        for host in 10.0.4.2 fd00:4::2; do
            status 4 netns trace -N a $host 83; lines 4; says " 4  .*3.*2 !X$ms$ms$ms" out
            status 4 netns trace -N a $host 84; lines 4; says " 4  .*3.*2 !H$ms$ms$ms" out
        done
        "#,
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_silent_router_is_stars_and_holds_nobody_up() {
    chain(
        r#"
        router r2 nft 'add table ip f; add chain ip f c { type filter hook output priority 0; policy drop; }'
        start=$(cut -d. -f1 /proc/uptime)
        status 0 netns trace -N a -w 30 10.0.4.2; lines 4
        test $(($(cut -d. -f1 /proc/uptime) - start)) -lt 15
        says " 1  10\.0\.1\.2$ms$ms$ms" out; says " 2  \* \* \*" out; says " 4  10\.0\.4\.2 \[open\]$ms$ms$ms" out
        "#,
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn options_mean_what_tcptraceroute_means() {
    chain(
        r#"
        status 4 netns trace -N a -f 2 -m 3 -q 1 10.0.4.2; lines 2
        says " 2  10\.0\.2\.2$ms" out; says " 3  10\.0\.3\.2$ms" out
        # The source: an address that b has no other way to, and a port that a firewall lets through.
        ip -n a addr add 10.0.1.77/24 dev e0
        router r1 nft 'add table ip f; add chain ip f c { type filter hook forward priority 0; policy drop; }
            add rule ip f c ip saddr 10.0.1.77 tcp sport 4001 accept; add rule ip f c ip daddr 10.0.1.77 accept'
        status 4 netns trace -N a -w 0.1 -m 2 10.0.4.2; lines 2; says " 2  \* \* \*" out
        status 0 netns trace -N a -s 10.0.1.77 -p 4001 10.0.4.2; lines 4; says " 4  .* \[open\]$ms$ms$ms" out
        ip link add e1 netns a type veth peer name e1 netns r1; ip -n a link set e1 up
        status 0 netns trace -N a -s 10.0.1.77 -p 4001 -i e0 10.0.4.2; lines 4
        status 4 netns trace -N a -i e1 -m 1 -w 0.2 10.0.4.2; says " 1  \* \* \*" out
        status 1 netns trace -N a -i nope 10.0.4.2; grep -q "'nope'" $T/err
        status 1 netns trace -N a -s 10.9.9.9 10.0.4.2; grep -q "10.9.9.9" $T/err
        "#,
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn names_are_shown_unless_n_is_given() {
    chain(
        r#"
        mount -t tmpfs etc /etc; echo 'hosts: files' >/etc/nsswitch.conf; echo 'multi on' >/etc/host.conf
        printf '10.0.1.2 first.test\n10.0.4.2 web.test\nfd00:4::2 web.test\n' >/etc/hosts
        status 0 netns trace -N a -4 web.test; says " 1  first.test (10\.0\.1\.2)$ms$ms$ms" out
        says " 4  web.test (10\.0\.4\.2) \[open\]$ms$ms$ms" out; says " 2  10\.0\.2\.2$ms$ms$ms" out
        says "Tracing the way to web.test (10.0.4.2) on .*" err
        status 0 netns trace -N a -n -6 web.test; says " 4  fd00:4::2 \[open\]$ms$ms$ms" out
        status 1 netns trace -N a -6 10.0.4.2; grep -q 'has no IPv6 address' $T/err
        echo 'options timeout:1 attempts:1' >/etc/resolv.conf
        status 1 netns trace -N a nowhere.test
        "#,
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_name_server_that_does_not_answer_holds_nobody_up() {
    chain(
        r#"
        mount -t tmpfs etc /etc; echo 'hosts: files dns' >/etc/nsswitch.conf; echo '10.0.4.2 web.test' >/etc/hosts
        echo 'nameserver 127.0.0.1' >/etc/resolv.conf; echo 'options timeout:30' >>/etc/resolv.conf
        ip link set lo up; mkfifo $T/bound
        perl -e 'use Socket; socket(S,PF_INET,SOCK_DGRAM,0); bind(S,sockaddr_in(53,INADDR_LOOPBACK)) or die;
            open(R,">",$ARGV[0]); print R "bound\n"; close R; sleep' $T/bound &
        read word <$T/bound; test "$word" = bound
        start=$(cut -d. -f1 /proc/uptime)
        status 0 netns trace -N a 10.0.4.2; lines 4
        test $(($(cut -d. -f1 /proc/uptime) - start)) -lt 20
        says " 1  10\.0\.1\.2$ms$ms$ms" out; says " 4  web.test (10\.0\.4\.2) \[open\]$ms$ms$ms" out
        status 0 netns trace -N a --json 10.0.4.2; grep -q '"name":"web.test"' $T/out
        # Whoever asked for the names has ended, too.
        test -z "$(pidof netns)"
        "#,
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn json_has_every_reply() {
    let outcome = chain("netns trace -N a --json -q 2 10.0.4.2").ended_with(0).said("");
    let json: serde_json::Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!((&json["state"], &json["port"]), (&"open".into(), &80.into()));
    let hops = json["hops"].as_array().unwrap();
    let at = |hop: usize| {
        (&hops[hop]["ttl"], &hops[hop]["replies"][1]["address"], &hops[hop]["replies"][1]["state"])
    };
    assert_eq!(at(0), (&1.into(), &"10.0.1.2".into(), &"passing".into()));
    assert_eq!(at(3), (&4.into(), &"10.0.4.2".into(), &"open".into()));
    assert!(hops.len() == 4 && hops[1]["replies"][0]["ms"].as_f64().is_some_and(|ms| ms > 0.0));
}

#[test]
#[ignore = "needs root: tests/run"]
fn no_way_at_all_is_1_or_a_refusal_of_our_own_host() {
    chain(
        r#"
        status 1 netns trace 10.0.4.2; grep -q 'Network is unreachable' $T/err
        status 4 netns trace -N a -m 2 -w 5 -q 1 10.0.1.99; says " 1  10\.0\.1\.1 !H$ms" out
        status 1 netns trace -N nowhere 10.0.4.2
        "#,
    )
    .ended_with(0);
}

#[test]
fn misuse_is_2() {
    for words in [
        &["trace"][..],
        &["trace", "127.0.0.1", "0"],
        &["trace", "127.0.0.1", "65536"],
        &["trace", "127.0.0.1", "80", "x"],
        &["trace", "-f", "0", "127.0.0.1"],
        &["trace", "-f", "5", "-m", "4", "127.0.0.1"],
        &["trace", "-q", "21", "127.0.0.1"],
        &["trace", "-w", "0", "127.0.0.1"],
        &["trace", "-s", "x", "127.0.0.1"],
        &["trace", "-6", "-s", "127.0.0.1", "localhost"],
    ] {
        run("netns", words).ended_with(2);
    }
}
