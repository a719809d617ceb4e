#!/bin/sh
# shellcheck shell=dash disable=SC2016,SC2154 # words for a shell inside; names of lib.sh
# Ships reach each other and the host; an address is never given twice; what is not ours is not touched.
. "${0%/*}/lib.sh"
. "${0%/*}/ships.sh"

little_root base/bookworm
check 'create a' ship create a
check 'create b' ship create b 10.10.10.20
check 'the next free address' ship create c
said 'is that' 'address 10.10.10.3'
check_fails 1 'an address that another ship has' ship create d 10.10.10.20
said 'and whose it is' "taken by 'b'"
same 'no trace of d' "$(find conf farm run -name '*d*' -maxdepth 1)" ''
check 'start all' ship start all
check 'the host reaches a' ping -c1 -W5 10.10.10.2
check 'and b' ping -c1 -W5 10.10.10.20
check 'a reaches b' netns exec a ping -c1 -W5 10.10.10.20
check 'a reaches the host' netns exec a ping -c1 -W5 10.10.10.1
check 'a has a way out' sh -c 'netns exec a ip route | grep -q "default via 10.10.10.1 dev eth0"'
same 'all know all' "$(ship exec c -- cat /etc/hosts | sed 1,2d)" '10.10.10.2 a
10.10.10.20 b
10.10.10.3 c'

check 'one more' ship create late
same 'those that run know it at once' "$(ship exec c -- cat /etc/hosts | sed -n 's/ late$//p')" 10.10.10.4
check 'gone again' ship delete late
same 'and that' "$(ship exec c -- cat /etc/hosts | grep late)" ''

# Somebody who is in no conf answers.
netns add stranger
netns link stranger:eth0 ship0 10.10.10.77/24
check_fails 1 'an address that answers on the bridge' ship create d 10.10.10.77
said 'is told' '10.10.10.77'
same 'no trace of d' "$(find conf farm run /run/netns -name 'd*' -maxdepth 1)" ''
sed -i s/10.10.10.3/10.10.10.77/ conf/c.conf
check 'stop' ship stop c
check_fails 1 'nor can a ship start with it' ship start c
same 'c left nothing' "$(find /run/netns run -name c)" ''
check 'the stranger is well' netns exec stranger ping -c1 -W5 10.10.10.1
netns del --wait stranger
check 'then it can' ship start c

# A namespace of that name which is not the ship's.
check 'create' ship create d
netns add d
check_fails 1 "somebody else's namespace" ship start d
said 'is named' "'d'"
check 'stop leaves it' ship stop d
check 'alone' netns exec d true
netns del --wait d

# The host has a way out now: ships started from here on have it too, by the host's address, and no longer.
check 'stop all' ship stop all
netns add outside
ip link add up0 type veth peer name eth0 netns outside
ip addr add 192.0.2.1/24 dev up0
ip link set up0 up
ip -n outside addr add 192.0.2.2/24 dev eth0
ip -n outside link set eth0 up
check 'start without a default route' ship start a
check_fails 1 'has no way out' netns exec a ping -c1 -W1 192.0.2.2
check 'stop' ship stop a
ip route add default via 192.0.2.2
forwarding=$(cat /proc/sys/net/ipv4/ip_forward)
check 'start with one' ship start a
check 'has' netns exec a ping -c1 -W5 192.0.2.2
same 'status tells nothing else' "$(ship status a | grep -c running)" 1
check 'stop' ship stop a
same 'forwarding is as before' "$(cat /proc/sys/net/ipv4/ip_forward)" "$forwarding"
same 'and no rule is left' "$(nft list tables)" ''
ip link del up0
netns del --wait outside
check 'start all' ship start all

# Two farms on one bridge: it goes with the last ship.
sed 's/=run$/=run2/;s/=farm$/=farm2/;s/=conf$/=conf2/' ship.cfg >two.cfg
check 'create in another farm' env SHIP_CONFIG="$T/two.cfg" ship create z 10.10.10.99
check 'start there' env SHIP_CONFIG="$T/two.cfg" ship start z
check "create" env SHIP_CONFIG="$T/two.cfg" ship create a 10.10.10.98
check_fails 1 "a name that runs in the other farm" env SHIP_CONFIG="$T/two.cfg" ship start a
check 'stop all here' ship stop all
check 'z runs on' ping -c1 -W5 10.10.10.99
check 'stop there' env SHIP_CONFIG="$T/two.cfg" ship stop all
same 'nothing is left' "$(left)" ''

# At the same time: each gets an address of its own; the same name is made once.
for round in 1 2 3 4 5; do
	[ "$round" = 1 ] || check 'delete all' ship delete all
	for name in p q r s; do ship create $name >"$name.out" 2>&1 & done
	wait
	same 'four at once' "$(sed -n 's/^address=//p' conf/[p-s].conf | sort -u | wc -l)" 4
done
for name in 1 2 3; do ship start p >"$name.out" 2>&1 & done
wait
same 'one start of three' "$(cat 1.out 2.out 3.out | grep -c 'runs already')" 2
check 'it runs' is_state p running
check 'stop all' ship stop all
check 'delete all' ship delete all
same 'nothing is left' "$(left)" ''
finish
