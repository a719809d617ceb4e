#!/bin/sh
# vm: -k 5.10 -g v2 -M brd
# vm: -k 5.10 -g v1 -M brd
# vm: -k 5.10 -g hybrid -M brd
# vm: -k 6.1 -g v2 -M brd
# vm: -k 6.1 -g v1 -M brd
# vm: -k 6.1 -g hybrid -M brd
# vm: -k newest -g v2 -M brd
# vm-long: -q -c 1 -k 6.12 -g v2 -M 'zram brd' -t 900
# vm: -k 5.10 -g none
# vm: -k newest -g none
# vm: -k 5.10 -g v2 -a cgroup_disable=memory
# vm: -k newest -g v2 -a cgroup_disable=memory
# What cgset promises, on a kernel of its own: run by tests/vm/run -g v2 (or v1, hybrid) -b DIR cgset.sh
# Prints a line for each promise; ends with the number of broken ones.
set -u

broken=0

# promise WORDS COMMAND... - the command must succeed
promise() {
	what=$1
	shift
	if "$@" >/tmp/said 2>&1; then
		printf 'ok      %s\n' "$what"
	else
		printf 'BROKEN  %s\n' "$what"
		sed 's/^/        /' /tmp/said
		broken=$((broken + 1))
	fi
}

v2() {
	! mountpoint -q /sys/fs/cgroup/memory && mountpoint -q /sys/fs/cgroup
}

# file GROUP V1-CONTROLLER V1-FILE V2-FILE - prints what the control file says
file() {
	for path in /sys/fs/cgroup/"$2/$1/$3" /sys/fs/cgroup/"$1/$4" /sys/fs/cgroup/unified/"$1/$4"; do
		[ ! -e "$path" ] || cat "$path"
	done
}

# gone GROUP - no directory of it is left anywhere
gone() {
	[ -z "$(find /sys/fs/cgroup -type d -path "*/$1")" ]
}

# sleeps GROUP - its command has begun to sleep (before, its process is a copy of cgset)
sleeps() {
	pid_inside=$(cgset --show "$1" 2>/dev/null | sed -n 's/^pids=\([0-9]*\).*/\1/p')
	[ "$(cat "/proc/${pid_inside:-none}/comm" 2>/dev/null)" = sleep ]
}

limits_are_set() {
	cgset l mem=100000000 procs=50 cpu=150% || return
	[ "$(file l memory memory.limit_in_bytes memory.max)" = 99999744 ] || return
	[ "$(file l pids pids.max pids.max)" = 50 ] || return
	case $(file l cpu cpu.cfs_quota_us cpu.max) in 150000*) ;; *) return 1 ;; esac
	cgset l mem=max procs=none cpu=-1 || return
	[ "$(file l pids pids.max pids.max)" = max ] && cgset --remove l && gone l
}

oom_is_told_in_one_line() {
	cgset hog mem=40M swap='0?' -- dd if=/dev/zero of=/dev/null bs=90M count=1 2>/tmp/err
	status=$?
	cat /tmp/err
	[ "$status" = 137 ] && gone hog &&
		grep -qx 'cgset: hog: out of memory: limit 40M, peak \([0-9.]*M\|unknown\), 1 process killed' /tmp/err
}

oom_is_told_where_the_command_hides_it() {
	cgset hog mem=40M swap='0?' -- sh -c 'dd if=/dev/zero of=/dev/null bs=90M count=1; exit 0' 2>/tmp/err
	status=$?
	cat /tmp/err
	[ "$status" = 0 ] && [ "$(grep -c 'out of memory' /tmp/err)" = 1 ]
}

no_oom_is_not_told() {
	cgset fine mem=60M -- dd if=/dev/zero of=/dev/null bs=9M count=1 status=none 2>/tmp/err && [ ! -s /tmp/err ]
}

procs_stops_forks() {
	# dash: bash would try again for fifteen seconds
	cgset few procs=5 -- dash -c 'for i in 1 2 3 4 5 6 7 8; do sleep 60 & done' 2>/tmp/err
	cat /tmp/err
	grep -q 'fork' /tmp/err && gone few || return
	v2 || return 0 # there, who is inside already moves in all the same
	cgset --force few procs=0 -- true 2>/tmp/err
	[ $? = 125 ] && cat /tmp/err && grep -q 'hint: its procs= limit is reached' /tmp/err && gone few
}

cpu_is_throttled() {
	cgset --keep slow cpu=0.1 -- timeout 1 sh -c 'while :; do :; done'
	cgset --show --json slow >/tmp/show || return
	cat /tmp/show
	cgset --remove slow
	grep -q '"throttled_usec": [1-9]' /tmp/show
}

status_is_the_commands() {
	cgset s -- sh -c 'exit 7'
	[ $? = 7 ] || return
	cgset s -- /no/such
	[ $? = 127 ] || return
	# shellcheck disable=SC2016  # for the inner shell
	cgset s -- sh -c 'kill -TERM $$'
	[ $? = 143 ] && gone s
}

born_inside() {
	cgset born mem=50M procs=9 -- cat /proc/self/cgroup >/tmp/in
	cat /tmp/in
	if v2; then
		[ "$(cat /tmp/in)" = 0::/born ]
	else
		grep -q ':memory:/born$' /tmp/in && grep -Eq '^(.*:pids:|0::)/born$' /tmp/in
	fi
}

fork_loop_is_removed() {
	cgset loop procs=40
	# Each shell starts two of itself: a list of processes is old when it is read.
	# shellcheck disable=SC2016  # for the inner shell
	printf '#!/bin/sh\n"$0" & "$0" & exit\n' >/tmp/bomb
	chmod +x /tmp/bomb
	cgset loop -- sh -c '/tmp/bomb 2>/dev/null; sleep 600' 2>/dev/null &
	waiting=$!
	until [ "$(cgset --show loop | sed -n 's/^pids=//p' | tr ',' '\n' | wc -l)" -gt 2 ]; do :; done
	cgset --remove loop || return
	wait "$waiting"
	gone loop
}

frozen_is_removed() {
	cgset cold
	cgset cold -- sleep 600 2>/dev/null &
	waiting=$!
	until sleeps cold; do :; done
	if v2; then
		echo 1 >/sys/fs/cgroup/cold/cgroup.freeze
	else
		echo FROZEN >/sys/fs/cgroup/freezer/cold/freezer.state
	fi
	cgset --remove cold || return
	wait "$waiting"
	gone cold
}

nothing_is_left_of_a_failure() {
	# The group below may not have more than the one above it (v1), and no such controller is there (v2).
	mkdir -p /tmp/none
	if v2; then
		echo 0 >/sys/fs/cgroup/cgroup.max.descendants
		cgset half mem=50M && return 1
		echo max >/sys/fs/cgroup/cgroup.max.descendants
	else
		cgset top cpu=0.5
		cgset top/half mem=50M cpu=2 && return 1
		gone top/half || return
		cgset --remove top
	fi
	gone half
}

old_values_come_back() {
	v2 || return 0
	cgset back mem=50M procs=20 || return
	cgset back -- sleep 600 2>/dev/null &
	until sleeps back; do :; done
	# A process that cannot be moved: the last step fails.
	cgset back procs=30 cpu=1 --pid 2 && return 1
	[ "$(cat /sys/fs/cgroup/back/pids.max)" = 20 ] || return
	cgset --remove back
	wait
	gone back
}

no_internal_processes_is_explained() {
	v2 || return 0
	cgset inner
	cgset inner -- sleep 600 2>/dev/null &
	pid=$!
	until sleeps inner; do :; done
	cgset inner/leaf mem=50M 2>/tmp/err
	status=$?
	cat /tmp/err
	gone inner/leaf || return
	cgset --remove inner
	wait "$pid"
	[ "$status" = 1 ] && grep -q 'Device or resource busy' /tmp/err && grep -q 'stand: [0-9]* (sleep)' /tmp/err
}

controllers_are_handed_down_as_needed() {
	v2 || return 0
	cgset deep/er/still mem=10M || return
	[ "$(cat /sys/fs/cgroup/deep/cgroup.subtree_control)" = memory ] || return
	[ "$(cat /sys/fs/cgroup/deep/er/cgroup.subtree_control)" = memory ] || return
	cgset deep/er -- true 2>/tmp/err
	status=$?
	cat /tmp/err
	cgset --remove deep
	[ "$status" = 125 ] && grep -q "hands 'memory' down" /tmp/err && gone deep
}

a_limit_below_use_is_refused() {
	cgset used mem=90M swap='0?'
	# dd holds what the pipe does not take.
	cgset used -- sh -c 'dd if=/dev/zero bs=50M count=1 | sleep 600' 2>/dev/null &
	waiting=$!
	until cgset --show used | grep -q ' used=5[0-9][0-9.]*M'; do :; done
	cgset used mem=10M 2>/tmp/err
	status=$?
	cat /tmp/err
	cgset --show used | grep -q 'mem=90M.*oom_kills=0' || return
	cgset --remove used
	wait "$waiting"
	[ "$status" = 1 ]
}

a_killed_run_is_cleared_by_the_next() {
	cgset again mem=50M -- sleep 600 2>/dev/null &
	first=$!
	until sleeps again; do :; done
	cgset again mem=50M -- true 2>/tmp/err
	[ $? = 125 ] && grep -q 'belongs to a running cgset' /tmp/err || return
	kill -9 "$first"
	wait "$first" 2>/dev/null
	cgset again mem=50M -- true && gone again
}

swap_is_shown_or_refused() {
	cgset sw mem=50M swap=0 2>/tmp/err || {
		cat /tmp/err
		grep -q 'swap' /tmp/err
		return
	}
	cgset --show sw | grep -q '^swap=0 '
	status=$?
	cgset --remove sw
	return $status
}

a_missing_controller_is_named() {
	cgset m mem=50M 2>/tmp/err
	[ $? = 1 ] && cat /tmp/err && grep -q "no 'memory' controller.*switched off at boot" /tmp/err || return
	cgset m 'mem=50M?' -- true && gone m
}

a_host_without_groups_is_told_so() {
	cgset m mem=50M 2>/tmp/err
	status=$?
	cat /tmp/err
	[ "$status" = 1 ] && grep -q 'no cgroup file system is mounted' /tmp/err || return
	cgset m 'mem=50M?' -- sh -c 'exit 7'
	[ $? = 7 ]
}

main() {
	if ! grep -q '^cgroup' /proc/mounts; then
		promise 'a host without control groups is told so' a_host_without_groups_is_told_so
		return "$broken"
	fi
	if grep -q cgroup_disable=memory /proc/cmdline; then
		promise 'a missing controller is named' a_missing_controller_is_named
		return "$broken"
	fi
	promise 'limits are set, rounded, and lifted' limits_are_set
	promise 'an OOM kill is told in one line' oom_is_told_in_one_line
	promise 'an OOM kill that the command hides is told' oom_is_told_where_the_command_hides_it
	promise 'no OOM kill is told of where there was none' no_oom_is_not_told
	promise 'procs= stops forks' procs_stops_forks
	promise 'cpu= throttles' cpu_is_throttled
	promise 'swap= is set, or refused by name' swap_is_shown_or_refused
	promise 'the status is the command'\''s' status_is_the_commands
	promise 'the command is born inside' born_inside
	promise 'a fork loop is removed' fork_loop_is_removed
	promise 'a frozen group is removed' frozen_is_removed
	promise 'a failure leaves nothing' nothing_is_left_of_a_failure
	promise 'a failure gives old values back' old_values_come_back
	promise 'a group with processes inside is explained' no_internal_processes_is_explained
	promise 'controllers are handed down where needed' controllers_are_handed_down_as_needed
	promise 'a limit below what is used is refused' a_limit_below_use_is_refused
	promise 'what a killed run left is cleared by the next' a_killed_run_is_cleared_by_the_next
	more_promises
	return "$broken"
}

# shellcheck source=tests/vm/cgset.verbs
. "$REPO/tests/vm/cgset.verbs"
main
