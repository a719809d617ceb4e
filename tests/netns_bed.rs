//! netns_bed: the words that scripts of netns' tests are written in.
#![allow(dead_code, reason = "each test file uses its own part")]

use crate::common::{Outcome, inside};

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
export LIMIT=${TEST_SECONDS:-20}
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
pub fn net(script: &str) -> Outcome {
    inside(&format!("{NET}\n{script}"))
}

/// A network of two ships; `network` prints the statements, `state` all that they make.
pub const NETWORK: &str = r#"
    network() { cat <<'end'
# two ships, in any order
link a:eth0 br0 10.0.0.1/24 via 10.0.0.254
publish 8080 a:80
add a 'b c'
link 'b c:eth0' br0 10.0.0.2/24 via 10.0.0.254   # behind

switch add br0 --address 10.0.0.254/24 --nat
end
    }
    state() { ip -o link | sed 's/<[^>]*>//; s/state [A-Z]*//'; ip -o addr show up scope global; ip route; netns list; nft list ruleset; cat /proc/sys/net/ipv4/ip_forward; }
"#;

/// `ovs DIR` starts an instance; DIR is then the default. TCP in perl: `serve NS PORT` comes back when the
/// server listens; it sends each caller as many bytes as he asks for. `load NS ADDRESS PORT` asks for a
/// megabyte and prints how much came.
pub const OVS: &str = r#"
mount -t sysfs own /sys 2>/dev/null || :
SCHEMA=/usr/share/openvswitch/vswitch.ovsschema
ovs() {
    mkdir -p $1; export OVS_RUNDIR=$1 OVS_LOGDIR=$1 OVS_DBDIR=$1 OVS_SYSCONFDIR=$1
    ovsdb-tool create $1/conf.db $SCHEMA
    ovsdb-server $1/conf.db --remote=punix:$1/db.sock --pidfile --log-file --detach --no-chdir -vconsole:off
    ovs-vsctl --no-wait init
    vswitchd
} 2>/dev/null
vswitchd() {
    ovs-vswitchd unix:$OVS_RUNDIR/db.sock --pidfile --log-file --detach --no-chdir --disable-system -vconsole:off 2>/dev/null
}
serve() {
    mkfifo $T/ready.$1.$2
    netns exec $1 perl -e 'use Socket; socket(S,PF_INET,SOCK_STREAM,0);
        setsockopt(S,SOL_SOCKET,SO_REUSEADDR,1); bind(S,sockaddr_in($ARGV[0],INADDR_ANY)) or die "bind: $!\n";
        listen(S,9); open(R,">",$ARGV[1]); print R "ready\n"; close R;
        while(accept(C,S)){$n=<C>; print C "x"x$n; close C}' $2 $T/ready.$1.$2 &
    read word <$T/ready.$1.$2; test "$word" = ready
}
LOAD='use Socket; alarm $ENV{LIMIT}; socket(S,PF_INET,SOCK_STREAM,0);
    connect(S,sockaddr_in($ARGV[1],inet_aton($ARGV[0]))) or die "connect: $!\n"; select(S); $|=1; print "1000000\n";
    while($n=read(S,$b,65536)){$s+=$n} select(STDOUT); print $s+0'
export LIMIT=20 LOAD
load() { netns exec $1 perl -e "$LOAD" $2 $3; }
links() { ip -o link | wc -l; }
ports() { ovs-vsctl --no-wait list-ports $1 | wc -l; }
same() { test "$1" = "$2" || { echo "not the same: '$1' and '$2'" >&2; exit 99; }; }
fails() { code=$1; shift; set +e; "$@" >$T/out 2>$T/err; got=$?; set -e
    test $got = $code || { echo "status $got, not $code: $*" >&2; cat $T/err >&2; exit 99; }; }
says() { grep -q -e "$1" $T/err || { echo "no '$1' in:" >&2; cat $T/err >&2; exit 99; }; }
reaches() { netns exec $1 ping -c 1 -W 2 $2 >/dev/null || { echo "'$1' does not reach '$2'" >&2; exit 99; }; }
# ovs-vswitchd looks through the flows it remembers twice a second.
cut_off() {
    for try in 1 2 3 4 5 6 7 8 9 10; do netns exec $1 ping -c 1 -W 0.3 $2 >/dev/null || return 0; done
    echo "'$1' reaches '$2'" >&2; exit 99
}
"#;

/// A script in namespaces of its own with one instance.
pub fn with_ovs(script: &str) -> Outcome {
    inside(&format!("{OVS}\novs $T/o\n{script}"))
}

/// `each_call SIGNAL AFTERWARDS COMMAND...` runs the command once for each of its system calls that change
/// something, or for one in STEP of them, is struck by the signal in that call, and looks afterwards.
/// At least LEAST of them (3) must have come to pass.
pub const STRIKES: &str = r#"
CALLS='sendto mount umount2 unshare unlink write clone'
STEP=1
strike() { signal=$1 call=$2 number=$3; shift 3
    strace -qq -o $T/calls -e trace=?$call -e inject=?$call:signal=$signal:when=$number "$@" >/dev/null 2>&1 || :
    test "$(grep -c "^$call(" $T/calls)" -ge $number; }
each_call() { blow=$1 after=$2 struck=0; shift 2
    [ -z "${FULL-}" ] || STEP=1
    for at in $CALLS; do
        count=1
        while strike $blow $at $count "$@"; do $after; count=$((count + STEP)) struck=$((struck + 1)); done
        $after
    done
    test $struck -ge ${LEAST:-3} || { echo "only $struck: $*" >&2; exit 9; }; }
"#;

/// A card `wan` with addresses and routes of both families: `have DEVICE` tells them, `reach` uses them.
pub const CARD: &str = r#"
    ip link set lo up; netns add lan; ip link add wan type veth peer name eth0 netns lan
    netns exec lan sh -c 'ip addr add 192.0.2.9/24 dev eth0; ip addr add fd00::9/64 dev eth0 nodad; ip link set eth0 up'
    ip addr add 192.0.2.1/24 dev wan; ip addr add fd00::1/64 dev wan nodad; ip link set wan up
    ip route add default via 192.0.2.9; ip -6 route add default via fd00::9
    have() { ip -o addr show dev $1 scope global | tr -s ' ' | cut -d' ' -f4; ip route show dev $1; ip -6 route show default dev $1; }
    knobs() { cat /proc/sys/net/ipv4/conf/wan/rp_filter /proc/sys/net/ipv6/conf/wan/disable_ipv6; ip -o link show wan | grep -c -e NOARP -e alias -e master || :; }
    whole() { same "$(have br0)" "$before"; same "$(have wan)" ""; same "$(netns switch add -n br0 --uplink wan)" ""; }
    none() { same "$(have wan) $(knobs)" "$before $silent"; same "$(ip -o link show br0 2>/dev/null)" ""; }
    back() { netns switch del --if-unused br0; none; }
    before=$(have wan) silent=$(knobs)
    # Whatever has happened, the host has a way out, and the next command goes on from there.
    reach() { ip route get 203.0.113.1 >/dev/null; ip route get 2001:db8::1 >/dev/null; test -n "$(have wan)$(have br0 2>/dev/null)"; }
    made() { reach; $ADD; whole; back; }
    unmade() { reach; back; }
    stopped() { if [ "$(have wan)" = "$before" ]; then none; else whole; back; fi; }
    returned() { reach; back; $ADD; }
    kept() { reach; $ADD; whole; }
"#;
