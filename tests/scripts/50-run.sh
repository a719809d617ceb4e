#!/bin/sh
# shellcheck shell=dash disable=SC2016,SC2154,SC2317 # words for a shell inside; names of lib.sh; called by name
# ship run: a ship for one command: its status is the command's, and nothing is left, whatever ends it.
. "${0%/*}/lib.sh"
. "${0%/*}/ships.sh"

little_root base/bookworm
empty() { same '  nothing is left' "$(left)$(find run farm -mindepth 1 ! -name .lock 2>/dev/null)" ''; }

check 'run' ship run -- sh -c 'echo I am $$ on $(hostname)'
said 'as the only program' 'I am 2 on run'
empty
check_fails 42 'its status' ship run -- sh -c 'exit 42'
check_fails 127 'no such program' ship run -- no-such
check_fails 126 'no program' ship run -- /etc/init.d
check_fails 137 'a death by signal' ship run -- sh -c 'kill -KILL $$'
same 'input and output are passed on' "$(echo hello | ship run -- cat)" hello
same 'its words are its own' "$(ship run -- sh -c 'echo $#' x --mem 5 -- a)" 4
check 'another root, by options' ship run --from base/bookworm --hostname guest mem=40M procs=20 -- hostname
said 'and its name' guest
check_fails any 'the network is its own' ship run -- ls /sys/class/net/eth0
check 'it may write' ship run -- sh -c 'echo x >/bin/written && cat /bin/written'
check_fails any 'but the root stays as it was' test -e base/bookworm/bin/written
check_fails any 'a fork bomb meets its limit' ship run procs=10 -- sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 100 & done'
empty

check 'create' ship create web --hostname marvin
check 'run on a copy of a ship' ship run web -- sh -c 'hostname; echo x >/new'
said 'with its settings' marvin
check_fails any 'and its root stays as it was' test -e farm/web/new
check_fails 125 'no such ship' ship run none -- true
check 'delete' ship delete web
empty

# TERM reaches the command, whose status is ours; -9 takes all along.
mkfifo ready
no_process() { ! left | grep -q '^process'; }
# shellcheck disable=SC2016 # for the shell inside
for limits in '' procs=20; do
	ship run $limits -- sh -c 'trap "exit 7" TERM; echo ready; while :; do sleep 0.01; done' >ready &
	runner=$!
	read -r word <ready
	kill -TERM "$runner"
	status=0
	wait "$runner" || status=$?
	same "${limits:-no limits}: $word, TERM" "$status" 7
	ship run $limits -- sh -c 'echo ready; exec sleep 1000' >ready &
	runner=$!
	read -r word <ready
	kill -KILL "$runner"
	wait "$runner" || :
	check "${limits:-no limits}: $word, KILL" within 20 no_process
done
check 'the next run' ship run procs=20 -- true
empty
finish
