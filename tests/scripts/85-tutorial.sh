#!/bin/sh
# The tutorials: what they tell is so, and nothing of them stays.
. "${0%/*}/lib.sh"

tutorial=$top/scripts/tutorial/limits
harbours() { find /sys/fs/cgroup -maxdepth 3 -type d -name 'harbour-*'; }

check 'limits' "$tutorial"
said 'with the systemd command beside each' '# systemctl set-property --runtime memhogtest.service MemoryLimit=30M'
said 'a kill for memory' 'out of memory: limit 30M'
said 'and a report' 'oom_kills=1'
same 'nothing stays' "$(harbours)" ''
check_fails 2 'a word too many' "$tutorial" now
check 'its help' "$tutorial" --help
said 'says what it is' 'Usage: limits'

finish
