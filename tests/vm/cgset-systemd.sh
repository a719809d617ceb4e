#!/bin/sh
# What cgset promises where systemd manages the tree: to be run as root by a systemd that is process 1, with cgset on
# PATH. Prints a line for each promise; ends with the number of broken ones.
set -u

broken=0
cd /tmp || exit

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

a_scope_is_delegated() {
	cgset --scope job mem=60M procs=30 -- sh -c 'cat /proc/self/cgroup; cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.max' >/tmp/inside 2>/tmp/err || {
		cat /tmp/inside /tmp/err
		return 1
	}
	cat /tmp/inside /tmp/err
	grep -Eq '^0::/system.slice/run-[^/]*\.scope/job$' /tmp/inside && grep -qx 62914560 /tmp/inside && [ ! -s /tmp/err ]
}

a_scope_keeps_status_and_tells_oom() {
	cgset --scope --oom-exit 9 job mem=40M -- sh -c 'dd if=/dev/zero of=/dev/null bs=90M count=1; exit 0' 2>/tmp/err
	status=$?
	cat /tmp/err
	[ $status = 9 ] && grep -q 'cgset: job: out of memory: limit 40M' /tmp/err || return
	cgset --scope job -- sh -c 'exit 7'
	[ $? = 7 ]
}

no_scope_stays() {
	systemctl list-units --all --no-legend 'run-*.scope' >/tmp/units || return
	cat /tmp/units
	[ ! -s /tmp/units ]
}

# Inside of a delegated unit there is nothing to warn of; elsewhere there is.
the_warning_knows_delegation() {
	cgset hand procs=20 2>/tmp/err || return
	cat /tmp/err
	grep -q "has not delegated 'hand'" /tmp/err || return
	systemctl daemon-reload
	[ "$(cat /sys/fs/cgroup/hand/pids.max)" = 20 ] || return
	cgset --remove hand || return
	systemd-run --quiet --wait --pipe -p Delegate=yes cgset --parent . --leaf sub procs=20 -- true >/tmp/out 2>&1 || {
		cat /tmp/out
		return 1
	}
	cat /tmp/out
	[ ! -s /tmp/out ]
}

a_units_group_is_told() {
	systemd-run --quiet --unit=own-test sleep 600 || return
	cgset system.slice/own-test.service procs=25 2>/tmp/err
	status=$?
	cat /tmp/err
	systemctl stop own-test
	[ $status = 0 ] && grep -q 'hint: systemctl set-property --runtime own-test.service' /tmp/err
}

main() {
	if [ "$(cat /proc/1/comm)" != systemd ]; then
		echo 'skip    systemd is not process 1 here'
		return
	fi
	promise 'a scope is delegated' a_scope_is_delegated
	promise 'a scope keeps the status and tells of OOM' a_scope_keeps_status_and_tells_oom
	promise 'no scope stays' no_scope_stays
	promise 'the warning knows delegation' the_warning_knows_delegation
	promise "a unit's group is told" a_units_group_is_told
	return "$broken"
}

main
