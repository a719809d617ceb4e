#!/bin/sh
# shellcheck shell=dash disable=SC2016,SC2154,SC2317 # words for a shell inside; names of lib.sh; called by name
# kill -9 at every step of create, start, stop and delete: the same command again succeeds, and nothing is left.
# A step is the call of a tool: stand-ins for the tools kill the command that calls them, before or after the
# tool has done its work; the command alone, or its whole process group. What lies between two calls is met by a
# kill after some time.
. "${0%/*}/lib.sh"
. "${0%/*}/ships.sh"

little_root base/little
mkdir steps
for tool in unshare nsenter netns cgset mkrootfs; do
	cat >"steps/$tool" <<-END
		#!/bin/sh
		cd '$T' && [ -e victim ] || exec '$SLIPWAY_BIN/$tool' "\$@"
		read -r at when victim <victim
		read -r count <count
		count=\$((count + 1))
		echo \$count >count
		[ \$count -eq \$at ] || exec '$SLIPWAY_BIN/$tool' "\$@"
		[ \$when = before ] || '$SLIPWAY_BIN/$tool' "\$@"
		[ ! -e victim ] || kill -KILL \$victim
	END
	chmod +x "steps/$tool"
done

# killed N before|after alone|group COMMAND... - true when COMMAND was killed at its step N; false: it has fewer.
killed() {
	local at="$1" when="$2" who="$3" status=0
	shift 3
	echo 0 >count
	# The victim writes down who it is: a process, or with a '-' the group that it leads.
	# shellcheck disable=SC2016 # for the inner shell
	setsid sh -c 'echo "$1 $2 $3$$" >victim; shift 3; exec "$@"' sh \
		"$at" "$when" "$([ "$who" = alone ] || echo -)" env SLIPWAY_BIN="$T/steps" "$@" >output 2>&1 || status=$?
	rm -f victim
	[ "$status" -eq 137 ]
}

# steps NAME PREPARE AFTER COMMAND... - for each step: PREPARE, COMMAND killed there, COMMAND again, AFTER.
steps() {
	local name="$1" prepare="$2" after="$3" at when who count
	shift 3
	for when in before after; do
		for who in alone group; do
			at=1 count=0
			while [ "$at" -le 20 ]; do
				"$prepare"
				killed "$at" "$when" "$who" "$@" || break
				count=$((count + 1))
				check "$name: killed $when step $at, $who: again" again "$@"
				"$after"
				at=$((at + 1))
			done
			check "$name: $when, $who: it has steps, and an end" [ $((count > 0 && count < 20)) -eq 1 ]
			"$@" >output 2>&1 || :
			"$after"
		done
	done
}
again() {
	"$@" || {
		# What a kill came too late for: the ship was gone already.
		[ "$1 $2" = 'ship delete' ] && [ ! -e conf/web.conf ]
	}
}

# sweep NAME PREPARE AFTER COMMAND... - as steps, killed after 2, 13, 24 … milliseconds, until it is through before.
sweep() {
	local name="$1" prepare="$2" after="$3" time who how
	shift 3
	for who in alone group; do
		time=2 how=137
		while [ "$how" -eq 137 ] && [ "$time" -le 300 ]; do
			"$prepare" >output 2>&1
			how=0
			# shellcheck disable=SC2046 # one option or none
			timeout $([ "$who" = group ] || echo --foreground) -s KILL "$(printf 0.%03d "$time")" "$@" >output 2>&1 ||
				how=$?
			check "$name: killed after $time ms, $who: again" again "$@"
			"$after"
			time=$((time + 11))
		done
	done
}

# ended NAME COMMAND... - TERM after 2, 23, 44 … milliseconds: it undoes at once what it has made, and says 143.
ended() {
	local name="$1" time=2 how=143
	shift
	while [ "$how" -eq 143 ] && [ "$time" -le 300 ]; do
		how=0
		timeout --foreground --preserve-status -s TERM "$(printf 0.%03d "$time")" "$@" >output 2>&1 || how=$?
		[ "$how" -ne 143 ] || same "$name: TERM after $time ms" "$(left)$(find farm conf -mindepth 1 -name '.*')" ''
		time=$((time + 21))
	done
	same "$name: with more time" "$how" 0
}

created() { ship create web --from base/little procs=50 mem=50M 2>/dev/null; }
started() { ship start web; }
nothing() { :; }
runs_and_stops() {
	check '  it runs' ship exec web true
	check '  it stops' ship stop web
	same '  nothing is left' "$(left)" ''
}
none_left() { same '  nothing is left' "$(left)" ''; }
gone() {
	none_left
	same '  farm and conf are empty' "$(find farm conf -mindepth 1)" ''
}
deleted() {
	check '  delete' ship delete web
	gone
}

steps create nothing deleted ship create web --from base/little procs=50 mem=50M
created
steps start nothing runs_and_stops ship start web
steps stop started none_left ship stop web
ship delete web
sweep create nothing deleted ship create web --from base/little procs=50 mem=50M
killed 3 before alone ship create web --from base/little procs=50 || :
check 'delete clears away what a killed create has left' ship delete web
gone
sweep delete created gone ship delete web
ended create ship create web --from base/little procs=50 mem=50M
ended start ship start web
ship stop web
sweep start nothing runs_and_stops ship start web
sweep stop started none_left ship stop web
finish
