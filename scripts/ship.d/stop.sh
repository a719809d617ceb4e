# shellcheck shell=dash disable=SC2034,SC2154,SC2015 # settings are shared by all of ship.d; C of A && B || C may run
# stop.sh: ship stop.

stop_ship() {
	load_state "$1"
	lock_ship
	if ! ship_runs; then
		say "'$name' does not run"
		wipe_ship || fail 1 "cannot clear away what is left of '$name'"
		return 0
	fi
	end_ship
	wipe_ship || fail 1 "cannot clear away all of '$name'" "ship stop $name tries again"
}

# load_state NAME [LEFTOVER] - as load_ship, but a ship whose conf is bad, or gone, must be stopped all the same.
load_state() {
	name=$1 conf=$config_folder/$1.conf root=$farm_folder/$1 state=$pid_folder/$1
	[ -e "$conf" ] || [ -e "$state" ] || [ -e "${2:-$conf}" ] ||
		fail 1 "no ship '$name'" "ship create $name, or 'ship status' to see what there is"
}

# end_ship - ask, wait, insist. The wait is in the background so that a signal to us is heard at once.
end_ship() {
	if [ -e "$state/sysvinit" ]; then
		last_scripts 9>&- &
	else
		kill -TERM "$pid" 2>/dev/null || :
		gone "$stop_timeout" 9>&- &
	fi
	wait $! || say "'$name' has not stopped after $stop_timeout seconds: killed"
	kill_ship || fail 1 "cannot end '$name'"
}

# last_scripts - how a sysvinit is stopped: it does not heed TERM, and ends with a reboot, which no ship may. So
# run what it would run, and the last script's end is the end.
last_scripts() {
	local tries=0 child
	entry_words
	# shellcheck disable=SC2016,SC2086 # for the shell inside; words
	"$bin/nsenter" $entry -- /bin/sh -c \
		'INIT_HALT=HALT RUNLEVEL=0 PREVLEVEL=2 exec /etc/init.d/rc 0' </dev/null >>"$state/log" 2>&1 &
	child=$!
	while [ "$tries" -lt $((stop_timeout * 10)) ]; do
		# The script stops all processes before it ends them; nsenter stops with its child and needs a call.
		kill -CONT "$child" 2>/dev/null || return 0
		tries=$((tries + 1))
		sleep 0.1
	done
	kill -KILL "$child"
	return 1
}
