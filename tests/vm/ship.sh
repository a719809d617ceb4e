#!/bin/sh
# vm: -g v2 -M "veth bridge"
# A ship under a real cgroup v2, on a kernel of its own: run by tests/vm/run -g v2 -M "veth bridge" ship.sh
# Prints a line for each promise; ends with the number of broken ones.
set -u

broken=0
top=$REPO T=/tmp/ships kept=ships.vm
mkdir -p "$T" && cd "$T" || exit 125
export PATH="$top/scripts:$PATH"
# shellcheck source=tests/scripts/ships.sh
. "$top/tests/scripts/ships.sh"

# promise WORDS COMMAND... - the command must succeed
promise() {
	what=$1
	shift
	if "$@" >"$T/said" 2>&1; then
		printf 'ok      %s\n' "$what"
	else
		printf 'BROKEN  %s\n' "$what"
		sed 's/^/        /' "$T/said"
		broken=$((broken + 1))
	fi
}

equal() { [ "$1" = "$2" ] || { printf "'%s' is not '%s'\n" "$1" "$2" && false; }; }
group=/sys/fs/cgroup/${group_prefix}web

# swallow - a shell that eats memory until it is killed; its own ship must live on
swallow() {
	# shellcheck disable=SC2016 # for the shell inside
	ship exec web sh -c 'a=0123456789; while :; do a=$a$a; done'
	equal $? 137
}

little_root base/little
promise 'create' ship create web --from base/little --mem 40M --swap 0 --procs 30 --cpu 0.5
promise 'start' ship start web
promise 'memory.max is the limit' equal "$(cat "$group/memory.max")" 41943040
promise 'pids.max is the limit' equal "$(cat "$group/pids.max")" 30
promise 'cpu.max is the limit' equal "$(cat "$group/cpu.max")" '50000 100000'
promise 'the ship is in its group' grep -q . "$group/cgroup.procs"
promise 'the ship sees itself at the root of the tree' \
	equal "$(ship exec web cat /proc/self/cgroup | tail -n 1)" '0::/'
promise 'what enters is in the group' \
	equal "$(ship exec web sh -c 'exec cat /proc/self/cgroup' | tail -n 1)" '0::/'
promise 'the host reaches it' ping -c 1 -W 2 10.10.10.2
promise 'a memory hog inside is killed at the limit' swallow
promise 'by the group, which has counted it' grep -q '^oom_kill [1-9]' "$group/memory.events"
promise 'the ship lives on' ship exec web true
promise 'stop' ship stop web
promise 'delete' ship delete web
promise 'nothing is left' equal "$(left)" ''
exit "$broken"
