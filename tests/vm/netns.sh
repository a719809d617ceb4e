#!/bin/sh
# vm: -k 6.1 -M "veth bridge 8021q sch_tbf"
# vm-long: -k newest -M "veth bridge 8021q sch_tbf"
# VLANs on a Linux bridge, which the machine's own kernel may not keep apart:
# tests/vm/run -M "veth bridge 8021q sch_tbf" -b DIR tests/vm/netns.sh
set -eu
cd /run

reaches() { netns exec "$1" ping -c1 -W1 "$2" >/dev/null 2>&1; }
# apart FROM ADDRESS - a plain "!" would not end the script.
apart() { if reaches "$@"; then exit 1; fi; }
ok() { printf 'ok %s\n' "$1"; }

netns apply - <<'end'
add a b c d
switch add br0 --address 10.0.0.254/24
link d:eth0 br0 10.0.0.4/24
link a:eth0 br0 10.0.0.1/24 tag 10
link b:eth0 br0 10.0.0.2/24 tag 10 rate 80mbit
link c:eth0 br0 10.0.0.3/24 tag 20
link c:eth1 br0 trunk 10,30
end
reaches a 10.0.0.2
apart a 10.0.0.3
apart a 10.0.0.254
apart d 10.0.0.1
reaches d 10.0.0.254
ok 'ships of one VLAN reach each other, those of another and the untagged are apart'

netns exec c sh -c 'ip addr flush dev eth0; ip link add link eth1 name v10 type vlan id 10
	ip addr add 10.0.0.33/24 dev v10; ip link set v10 up'
reaches c 10.0.0.1
ok 'a trunk carries VLANs tagged'

# Once more and nothing changes; another tag is refused.
before=$(bridge vlan)
netns link a:eth0 br0 10.0.0.1/24 tag 10
netns link c:eth1 br0 trunk 30,10
if netns link a:eth0 br0 tag 11 2>said; then exit 1; fi
grep -q "VLANs 'tag 10', not 'tag 11'" said
[ "$before" = "$(bridge vlan)" ]
ok 'tags are compared and kept'

netns show --plan >plan
grep -q '^link c:eth1 br0 .* trunk 10,30$' plan
netns del --wait a b c d
netns switch del br0
netns apply plan
netns show --plan >again
cmp plan again
ok 'a plan brings VLANs and rates back'
