# shellcheck shell=dash disable=SC2034,SC2154,SC2015 # settings are shared by all of ship.d; C of A && B || C may run
# state.sh: what a running ship leaves in pid_folder/NAME, who may touch it, and how it is cleared away.
#
#   lock      held (flock) by the command that changes the ship
#   net       the bridge it hangs on: written before its namespace is made
#   group     its control group: written before that is made
#   launcher  pid of the process that holds the ship up, and the leader of its process group
#   out       the fifo that is the ship's standard output: who has it as descriptor 1 is the launcher
#   pid       the ship's process 1, as the host sees it
#   started   seconds of uptime when it was ready; no such file: the start was never finished
#   alive     held (flock) by the launcher until it has written its pid, and by the reader of out until the
#             last process of the ship has gone
#   log       what the ship said, at most 1 MiB
#
# A pid alone is never trusted: it may be another process by now.

# ship_pid - the ship's process 1 in $pid, when it runs; no process is made.
ship_pid() {
	local key value
	pid=''
	[ -e "$state/pid" ] && read -r pid <"$state/pid" || return 1
	# Same network namespace, and process 1 of a pid namespace of its own.
	[ -n "$pid" ] && [ "/proc/$pid/ns/net" -ef "/run/netns/$name" ] || return 1
	while read -r key value; do
		case $key in NSpid:) break ;; esac
	done 2>/dev/null <"/proc/$pid/status" || return 1
	case $value in *[!0-9]1) ;; *) return 1 ;; esac
}

# ship_runs - its start was finished and it has not ended; its process 1 in $pid.
ship_runs() { [ -e "$state/started" ] && ship_pid; }

# entry_words - in $entry: how nsenter becomes a process of the ship, with all its namespaces, its control group and
# environment, no capability that it has not, and its filter of system calls.
entry_words() {
	local key value filter=''
	while read -r key value; do
		case $key:$value in Seccomp::2) filter=default ;; esac
	done <"/proc/$pid/status"
	[ -z "$filter" ] || [ ! -e "$config_folder/$name.conf" ] || each_setting "$config_folder/$name.conf" find_filter
	entry="-t $pid -a -c -e --caps=target${filter:+ --seccomp $filter}"
}

find_filter() { # not a judge: what is wrong elsewhere in the conf is no matter for a ship that runs
	case $1=$2 in seccomp=i386) filter=i386 ;; esac
}

# lock_ship - be the only command that changes this ship; waits for another one.
lock_ship() {
	while :; do
		[ -d "$state" ] || mkdir -p -- "$state"
		# Whoever held the lock before may have removed the folder in between: then try again.
		{ command exec 9>"$state/lock"; } 2>/dev/null || {
			[ ! -d "$state" ] || fail 1 "cannot write '$state/lock'"
			continue
		}
		flock -n 9 || {
			say "waiting for another command on '$name'"
			flock -w "$((start_timeout + stop_timeout + 30))" 9 ||
				fail 1 "another command holds '$name'" "fuser $state/lock tells which"
		}
		[ /proc/self/fd/9 -ef "$state/lock" ] || continue
		on_exit leave_state
		return 0
	done
}

# clear_state - all but the lock, which is held.
clear_state() {
	local file
	for file in "$state"/*; do
		case $file in */lock) ;; *) rm -rf -- "$file" ;; esac
	done
}

# leave_state - a ship that is not up has no folder.
leave_state() {
	local file
	for file in "$state"/*; do
		case $file in */lock | *'*') ;; *) return 0 ;; esac
	done
	rm -rf -- "$state"
}

# launcher_runs - the pid of the process that holds the ship up in $launcher, when it is there.
launcher_runs() {
	launcher=''
	[ -e "$state/launcher" ] && read -r launcher <"$state/launcher" || return 1
	[ -n "$launcher" ] && [ "/proc/$launcher/fd/1" -ef "$state/out" ]
}

# gone SECONDS - wait until no process of the ship is left; fails when one is there at the end.
gone() {
	local tries=0
	# The reader of its output ends when the last of its processes does: nothing is polled.
	[ ! -e "$state/alive" ] || flock -s -w "$1" "$state/alive" true || return 1
	# Only when somebody has killed that reader is there more to wait for.
	while ship_pid || launcher_runs; do
		[ "$tries" -lt "$(($1 * 20))" ] || return 1
		tries=$((tries + 1))
		sleep 0.05
	done
}

# kill_ship - by force: the launcher's group, with which process 1 dies, and so all others.
kill_ship() {
	local tries=0
	exec 5>&-
	# A launcher whose start was killed may not have written its pid yet: it holds 'alive'.
	while ! launcher_runs && ! ship_pid; do
		[ -e "$state/alive" ] && ! flock -s -w 0.05 "$state/alive" true && [ "$tries" -lt 100 ] || break
		tries=$((tries + 1))
	done
	! launcher_runs || kill -KILL "-$launcher" 2>/dev/null || kill -KILL "$launcher" 2>/dev/null || :
	! ship_pid || kill -KILL "$pid" 2>/dev/null || :
	gone 10 || {
		say "'$name' has processes that do not die"
		return 1
	}
}

# wipe_ship - end what is left of a ship and undo its start, whatever step that had come to. Goes on where
# something fails; then the folder stays, and the next command tries again.
wipe_ship() {
	local link group failed=''
	kill_ship || failed=yes
	if [ -e "$state/group" ] && read -r group <"$state/group"; then
		"$bin/cgset" --remove "$group" || failed=yes
	fi
	if [ -e "$state/net" ] && read -r link <"$state/net"; then
		if [ -e "/run/netns/$name" ]; then
			"$bin/netns" del --wait "$name" || failed=yes
		else
			unlinked "$link" || failed=yes
		fi
		"$bin/netns" switch del --if-unused "$link" || failed=yes
	fi
	[ -z "$failed" ] || return 1
	clear_state
}

# unlinked SWITCH - a delete that was killed may have taken the name; the kernel takes the link a moment later.
unlinked() {
	local tries=0
	while case " $("$bin/netns" switch show "$1" 2>/dev/null) " in *" $name:"*) ;; *) false ;; esac do
		[ "$tries" -lt 100 ] || return 1
		tries=$((tries + 1))
		sleep 0.05
	done
}

# escape PATH - as fstab(5) and /proc/mounts write it, in $escaped.
escape() {
	local rest="$1" char
	escaped=''
	while [ -n "$rest" ]; do
		char=${rest%"${rest#?}"} rest=${rest#?}
		case $char in
		' ') char='\040' ;;
		'	') char='\011' ;;
		\\) char='\134' ;;
		esac
		escaped=$escaped$char
	done
}

# unmounted PATH - the host has mounted nothing there.
unmounted() {
	local device mount rest
	escape "$1"
	while read -r device mount rest; do
		case $mount in
		"$escaped" | "$escaped"/*)
			say "'$mount' is mounted in what is to be removed"
			printf 'hint: umount %s\n' "$mount" >&2
			return 1
			;;
		esac
	done </proc/self/mounts
}

# remove_tree PATH... - with all that is in it, but never what the host has mounted there.
remove_tree() {
	local each
	for each; do
		unmounted "$each" && rm -rf -- "$each" || return 1
	done
}
