# shellcheck shell=dash disable=SC2034,SC2154,SC2015 # settings are shared by all of ship.d; C of A && B || C may run
# run.sh: ship run: a ship for one command. All that it makes lies in namespaces of its own and in memory: the
# kernel takes it away with the last process, whatever ends that.

verb_run() {
	from=''
	case ${1-} in
	'' | -* | *=*)
		name=run
		ship_defaults
		;;
	*)
		check_name "$1"
		load_ship "$1"
		from=$root
		shift
		;;
	esac
	read_options run "$@"
	[ "${rest:-0}" -gt 0 ] || fail 2 "no command to run" "$self run [NAME] [option...] -- COMMAND"
	shift $(($# - rest))
	[ -n "$from" ] || make_base
	[ -d "$from" ] || fail 1 "no root directory '$from'" "ship delete $name, then ship create $name"
	mkdir -p -- "$pid_folder"
	become_ship "$@"
}

# become_ship COMMAND... - one exec after the other: signals find the command, and its status is ours.
become_ship() {
	local words limits session=--new-session
	words=$(unshare_words init) limits=$(limit_words)
	# On a terminal it gets one of its own, and job control with that; else no terminal at all: what it has of
	# ours it could type into (TIOCSTI).
	! on_terminal || session=''
	# shellcheck disable=SC2086 # plain words, each without a blank
	set -- "$bin/unshare" $words $session -n --hostname "$hostname" --pivot-root "$pid_folder/root" \
		--fstab "$pid_folder/fstab" -- "$@"
	set -- "$bin/unshare" -m -- /bin/sh "$lib/ship.d/world.sh" "$pid_folder" "$from" "$hostname" "$@"
	[ "$nice" -eq 0 ] || set -- nice -n "$nice" "$@"
	if [ -n "$limits" ]; then
		sweep_groups
		# cgset stays to report and to remove; killed with -9, it takes the rest along.
		# shellcheck disable=SC2086 # words of cgset
		set -- "$bin/cgset" "${group_prefix}run-$$" $limits -- setpriv --pdeathsig KILL "$@"
	fi
	become /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
		TERM="${TERM:-dumb}" container=slipway "$@"
}

# sweep_groups - the control groups of runs whose cgset was killed with -9: empty by now, or they stay.
sweep_groups() {
	local a b c d mount rest group
	while read -r a b c d mount rest; do
		case $rest in *' - cgroup'*) ;; *) continue ;; esac
		for group in "$mount/${group_prefix}run-"*; do
			[ ! -d "$group" ] || [ -e "/proc/${group##*-}" ] || rmdir -- "$group" 2>/dev/null || :
		done
	done </proc/self/mountinfo
}
