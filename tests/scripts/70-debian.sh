#!/bin/sh
# shellcheck shell=dash disable=SC2016,SC2154 # words for a shell inside; names of lib.sh
# A real Debian with nginx, in its cached root: made with the machine's network, run without it.
# sandbox: network
packages=nginx-light
. "${0%/*}/debian.sh"
. "${0%/*}/lib.sh"
. "${0%/*}/ships.sh"

# Another base folder: create copies what is in the cache.
sed -i "s|^base_folder=.*|base_folder=${DEBIAN_ROOT%/*}|" ship.cfg
fetch() { printf 'exec 3<>/dev/tcp/%s/80; printf "GET / HTTP/1.0\\r\\n\\r\\n" >&3; grep -o "Welcome to nginx!" <&3' "$1"; }

check 'create' ship create web --include nginx-light mem=64M swap='0?' procs=100
check 'create' ship create peer --include nginx-light
check 'start' ship start all
check 'nginx answers the host' within 10 bash -c "$(fetch 10.10.10.2)"
check 'and its neighbour, by name' ship exec peer -- bash -c "$(fetch web)"
check 'su works' ship exec web -- su -s /bin/sh www-data -c 'test "$(id -un)" = www-data'
check 'dpkg works' ship exec web -- dpkg --audit
check_fails any 'no knob of the kernel' ship exec web -- sh -c 'echo x >/proc/sys/kernel/core_pattern'
check_fails any 'no mount' ship exec web -- mount -t tmpfs x /mnt
check 'its processes are behind the filter' ship exec web -- grep -q '^Seccomp:.*2' /proc/1/status
check_fails any 'no device of the host' ship exec web -- mknod /tmp/disk b 8 0
check_fails any 'no new address' ship exec web -- perl -e 'exit !open my $f, ">", "/proc/sys/net/ipv4/ip_forward"'
check_fails 137 'a memory hog is killed' ship exec web -- perl -e '$hog = "x" x (1 << 30)'
check 'its ship lives on' bash -c "$(fetch 10.10.10.2)"
check 'and its neighbour' bash -c "$(fetch 10.10.10.3)"
check 'stop' ship stop all
same 'in time, not by force' "$(cat "$output")" ''
same 'nothing is left' "$(left)" ''
check 'delete all' ship delete all
finish
