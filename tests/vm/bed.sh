#!/bin/sh
# vm: -k 6.1 -M "veth bridge overlay"
# vm: -k newest -M "veth bridge overlay"
# vm-long: -q -k 6.1 -M "veth bridge overlay"
# What the test bed itself promises: tests/vm/run -M "veth bridge overlay" -b DIR tests/vm/bed.sh 'a b'
# Two network namespaces on a bridge reach each other, with a limit of cgroup v2 on one, programs of the
# host's own root, and a writable copy of that root. Arguments come through; 0 is the end of a good bed.
set -eu

[ "$1" = 'a b' ]
grep -qw memory /sys/fs/cgroup/cgroup.controllers
[ -x "$REPO/tests/vm/run" ]

ip link add br0 type bridge
ip link set br0 up
for n in 1 2; do
	ip netns add "n$n"
	ip link add "v$n" type veth peer name eth0 netns "n$n"
	ip link set "v$n" master br0 up
	ip -n "n$n" address add "10.9.0.$n/24" dev eth0
	ip -n "n$n" link set eth0 up
done
ip address add 10.9.0.254/24 dev br0
echo hello >/tmp/page
cgset web mem=30M procs=20 -- ip netns exec n1 busybox httpd -f -p 10.9.0.1:80 -h /tmp &
web=$!
i=0
until [ "$(ip netns exec n2 busybox wget -q -O - http://10.9.0.1/page)" = hello ]; do
	i=$((i + 1))
	[ "$i" -lt 50 ]
	sleep 0.1
done
cgset --show web
cgset --remove web
wait "$web" || [ $? = 137 ]

mkdir /run/upper /run/work /run/all
mount -t overlay -o lowerdir=/,upperdir=/run/upper,workdir=/run/work overlay /run/all
chroot /run/all touch /etc/made-in-the-guest
[ ! -e /etc/made-in-the-guest ]
