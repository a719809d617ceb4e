# shellcheck shell=dash disable=SC2034,SC2154,SC2015 # settings are shared by all of ship.d; C of A && B || C may run
# exec.sh: ship exec and ship con: become a process of a running ship.

verb_exec() {
	[ $# -gt 0 ] || fail 2 "'exec' needs the name of a ship" "$self exec NAME COMMAND"
	find_running "$1"
	shift
	[ "${1-}" != -- ] || shift
	[ $# -gt 0 ] || fail 2 "nothing to run in '$name'" "$self exec $name COMMAND, or $self con $name"
	enter "$@"
}

verb_con() {
	one_name "$@"
	find_running "$name"
	# shellcheck disable=SC2016 # for the shell inside
	enter /bin/sh -c 'export TERM="$1" HOME=/root; cd; unset container
		[ ! -x /bin/bash ] || exec /bin/bash -l
		exec /bin/sh -l' con "${TERM:-dumb}"
}

find_running() {
	check_name "$1"
	name=$1 state=$pid_folder/$1
	ship_pid && return 0
	[ -e "$config_folder/$name.conf" ] || fail 1 "no ship '$name'" "$self status lists them"
	[ ! -e "$state/pid" ] || need_root # others cannot look into /proc/PID/ns
	fail 1 "'$name' does not run" "$self start $name"
}

# enter COMMAND... - on a terminal with one of the ship's own, as it could type into ours (TIOCSTI).
enter() {
	local pty=''
	! on_terminal || pty=--pty
	entry_words
	# shellcheck disable=SC2086 # words
	exec "$bin/nsenter" $entry $pty -- "$@"
}
