# shellcheck shell=dash disable=SC2154 # the script that reads this sets $self and $verb
# lib.sh: how every script speaks, fails and tidies up. Sourced, not run.

# say TEXT... - a message, for people: results alone go to stdout.
say() { printf '%s: %s\n' "$self" "$*" >&2; }

# fail STATUS TEXT [REMEDY] - one line that names the object, a second with what to type, and the end.
fail() {
	say "$2"
	[ -z "${3:-}" ] || printf 'hint: %s\n' "$3" >&2
	exit "${own_failure:-$1}"
}
own_failure='' # 125 where 1 and 2 are statuses of the program that is run

# show_help - the block between the two ---help--- lines of the script that runs.
show_help() {
	sed -n '/^#---help---$/,/^#---help---$/{/^#---help---$/d;s/^# \{0,1\}//;p;}' "$0"
}

# need_root - everything here that makes or ends something works on the kernel's own tables.
need_root() {
	local key id rest
	while read -r key id rest; do
		case $key in Uid:) break ;; esac
	done </proc/self/status # a builtin reads its own: no process is made
	[ "$id" -eq 0 ] || fail 1 "'$self $verb' needs root" "sudo $self $verb …"
}

# quoted WORD... - the words so that eval reads them back, in $quoted; no process is made.
quoted() {
	local word rest
	quoted=''
	for word; do
		quoted="$quoted '"
		while :; do
			rest=${word#*\'}
			[ "$rest" != "$word" ] || break
			quoted="$quoted${word%%\'*}'\\''"
			word=$rest
		done
		quoted="$quoted$word'"
	done
}

# on_exit COMMAND... - run it when this script ends, however it ends; what was added last runs first.
on_exit() {
	quoted "$@"
	exit_list="$quoted
$exit_list"
	[ -z "$exit_armed" ] || return 0
	exit_armed=yes
	# An EXIT trap alone is not run by dash when a signal ends it; a trap that does not exit goes on.
	trap end_of_script EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
}
exit_list='' exit_armed=''

# keep - what was made stays: forget the list.
keep() { exit_list=''; }

end_of_script() {
	local status=$? list="$exit_list"
	trap '' HUP INT TERM # a second signal must not stop the tidying up
	trap - EXIT
	exit_list=''
	set +e
	eval "$list"
	exit "$status"
}

on_terminal() { [ -t 0 ] && [ -t 1 ]; }

# become COMMAND... - in place of this script; on a pty of its own when we are on a terminal: a ship that has
# ours could type into it (TIOCSTI).
become() {
	on_terminal || exec "$@"
	quoted "$@"
	SHELL=/bin/sh exec script -q -e -c "exec$quoted" /dev/null
}
