#!/bin/sh
# The tutorials: what they tell is so, and nothing of them stays.
. "${0%/*}/lib.sh"

tutorial=$top/scripts/tutorial/limits

check 'limits' "$tutorial"
said 'with the systemd command beside each' '# systemctl set-property --runtime memhogtest.service MemoryLimit=30M'
said 'a kill for memory' 'out of memory: limit 30M'
said 'and a report' 'oom_kills=1'
harbour=$(sed -n 's/.*\(harbour-[[:alnum:]]*\).*/\1/p;T;q' "$output")
same 'nothing stays' "${harbour:?} $(find /sys/fs/cgroup -maxdepth 3 -type d -name "$harbour")" "$harbour "
check_fails 2 'a word too many' "$tutorial" now
check 'its help' "$tutorial" --help
said 'says what it is' 'Usage: limits'

tutorial=$top/scripts/tutorial/network
check 'network' "$tutorial"
said "with the tutorial's commands beside" '# ovs-vsctl add-port name_switch net1-ovs'
said 'ships that reach each other' '64 bytes from 10.0.0.2'
said 'a shell inside' 'here is net1: lo net1-netns'
said 'and a file of it all' 'publish 8080 net1:80'
check_fails 2 'a word too many' "$tutorial" now
check 'its help' "$tutorial" --help

finish
