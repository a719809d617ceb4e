#!/bin/sh
# shellcheck shell=dash disable=SC2016,SC2154,SC2317 # words for a shell inside; names of lib.sh; called by name
# A ship from create to delete: what each verb does, says and leaves.
. "${0%/*}/lib.sh"
. "${0%/*}/ships.sh"

little_root base/little
check 'create' ship create web --from base/little procs=50
said 'with the first free address' "'web' is made, address 10.10.10.2"
same 'the conf' "$(cat conf/web.conf)" "# made from $T/base/little
address=10.10.10.2
procs=50"
check 'the same again is no error' ship create web --from base/little procs=50
said 'and says so' "'web' is there already"
check_fails 1 'but the same name made otherwise is' ship create web --from base/little procs=60
said 'and says what' 'made otherwise'
check_fails 125 'exec before start' ship exec web true
said 'names the ship' "'web' does not run"
check 'stop of a ship that does not run' ship stop web

check 'start' ship start web
same 'rcS, then rc2' "$(cat farm/web/var/log/boot)" "10one start
20two start
10three start
20four start"
check 'start again' ship start web
check 'stop' ship stop web
check 'start into a pipe: it ends' timeout 30 sh -c 'ship start web 2>&1 | cat'
check 'stop into a pipe' timeout 30 sh -c 'ship stop web 2>&1 | cat'
: >farm/web/var/log/boot
check 'start' ship start web
check 'start again' ship start web
said 'does nothing' "'web' runs already"
same 'only once' "$(wc -l <farm/web/var/log/boot)" 4
check 'status' ship status
said 'a line a ship' 'web              running  10.10.10.2'
json() {
	ship status --json | python3 -c 'import json, sys
(web,) = json.load(sys.stdin)
assert [web[k] for k in ("name", "state", "address", "level")] == ["web", "running", "10.10.10.2", "default"], web
assert web["limits"]["procs"]["limit"] == 50 and web["pid"] > 1 and web["uptime"] >= 0, web'
}
if command -v python3 >/dev/null; then check 'status as JSON' json; else skip 'status as JSON' 'no python3'; fi

check 'exec' ship exec web hostname
said 'is in the ship' web
check 'exec with --' ship exec web -- cat /etc/hosts
said 'which knows itself' '10.10.10.2 web'
check_fails 42 "exec ends with the program's status" ship exec web -- sh -c 'exit 42'
check_fails 127 'no such program' ship exec web no-such
check_fails 126 'no program' ship exec web /etc/hosts
check_fails 125 'no such ship' ship exec none true
same 'exec passes its input on' "$(echo hello | ship exec web cat)" hello
same 'con is a shell' "$(echo 'cd /etc && pwd' | ship con web)" /etc
same 'what runs inside is filtered as the ship is' \
	"$(ship exec web cat /proc/self/status | sed -n 's/^Seccomp:[^0-9]*//p')" 2
# A terminal of ours, by script(1), and what the shell inside has instead.
check 'on a terminal con has a terminal of its own' \
	sh -c 'echo "ls -l /proc/self/fd/0; exit 7" | script -q -e -c "ship con web" /dev/null; [ $? = 7 ]'
said "which is the ship's" '/dev/pts/0'
same 'processes of its own alone' "$(ship exec web -- sh -c 'cat /proc/[0-9]*/comm' | sort | tr '\n' ' ')" \
	'sh sh sleep unshare '
# (10 is where dash keeps its script.)
same 'no descriptor from outside' "$(ship exec web -- sh -c 'ls /proc/2/fd' | tr '\n' ' ')" '0 1 10 2 '
same 'no variable from outside' "$(SECRET=x ship exec web env | grep SECRET)" ''
check_fails any 'its hosts file is not its own to change' ship exec web -- sh -c 'echo x >>/etc/hosts'
check_fails any "the host's files are out of sight" ship exec web ls "$T"

check_fails 1 'delete of a ship that runs' ship delete web
said 'tells what to do' 'ship stop web'
check 'and it runs on' ship exec web true
: >farm/web/var/log/boot
check 'stop' ship stop web
same 'in the reverse order' "$(cat farm/web/var/log/boot)" "20four stop
10three stop
20two stop
10one stop"
same 'nothing is left of it' "$(left)" ''
check 'it is stopped' is_state web stopped

check 'start' ship start web
kill -KILL "$(cat run/web/pid)"
check 'the launcher ends with it' flock -s -w 20 run/web/alive true
check 'it is dead' is_state web dead
check_fails 125 'exec in a dead ship' ship exec web true
check 'start of a dead ship' ship start web
check 'it lives' ship exec web true
kill -KILL "$(cat run/web/launcher)"
check 'the ship ends with its launcher' flock -s -w 20 run/web/alive true
check 'stop of a dead ship' ship stop web
same 'nothing is left of it' "$(left)" ''

# A command in place of the boot.
check 'create' ship create job --from base/little --command 'echo I am $$; exec sleep 1000'
check 'start' ship start job
check 'its words are in the log' within 10 grep -qx 'I am 2' run/job/log
check 'create' ship create bad --from base/little --command 'no-such-program x'
check_fails 1 'a command that is not there' ship start bad
said 'is named' 'command not found: no-such-program'
check 'create' ship create deaf --from base/little --onboot no \
	--command 'trap "" TERM; echo deaf; while :; do sleep 1000; done'
check 'start' ship start deaf
check 'it is deaf' within 10 grep -qx deaf run/deaf/log
echo stop_timeout=1 >>ship.cfg
check 'a ship that is deaf to TERM' ship stop deaf
said 'is killed' 'killed'

# A program of 32 bits, exit(7) by int 0x80, is killed for the call, or let through with the profile for it: as the
# ship's own command, and as one that enters.
seven_bytes() {
	printf '\177ELF\1\1\1\0\0\0\0\0\0\0\0\0\2\0\3\0\1\0\0\0\124\200\4\10\64\0\0\0\0\0\0\0\0\0\0\0\64\0\40\0\1\0\0\0\0\0\0\0'
	printf '\1\0\0\0\0\0\0\0\0\200\4\10\0\200\4\10\140\0\0\0\140\0\0\0\5\0\0\0\0\20\0\0'
	printf '\270\1\0\0\0\273\7\0\0\0\315\200'
}
seven_bytes >seven
chmod +x seven
if status=0 && { ./seven || status=$?; } && [ "$status" = 7 ]; then
	cp seven base/little/bin
	check 'create' ship create old --from base/little --seccomp i386 --command 'seven; echo "it said $?"; exec sleep 1000'
	check 'create' ship create new --from base/little --command 'seven; echo "it said $?"; exec sleep 1000'
	check 'start' ship start old
	check 'start' ship start new
	check '32 bits run where the conf lets them' within 10 grep -qx 'it said 7' run/old/log
	check 'and not elsewhere' within 10 grep -qx 'it said 159' run/new/log
	check_fails 7 'so with what enters' ship exec old seven
	check_fails 159 'and not elsewhere' ship exec new seven
	check 'delete' sh -c 'ship stop old && ship stop new && ship delete old && ship delete new'
else
	skip 'programs of 32 bits: the kernel has none'
fi

# All at once; one that cannot start does not keep the others from it, and one that shall not is left alone.
check_fails 1 'start all' ship start all
said 'tells who cannot' "'bad' ended while it started"
check 'web runs' is_state web running
check 'job runs' is_state job running
check 'deaf does not' is_state deaf stopped
check 'stop all' ship stop all
same 'nothing is left' "$(left)" ''
mkdir farm/web/data
mount -t tmpfs data farm/web/data
check_fails 1 "delete of a ship in whose root the host has mounted something" ship delete web
said 'names it' "$T/farm/web/data"
umount farm/web/data
check 'delete all' ship delete all
same 'farm and conf are empty' "$(find farm conf -mindepth 1)" ''
check_fails 1 'delete of what is not there' ship delete web
same 'no ships' "$(ship status | wc -l)" 1
same 'no ships, as JSON' "$(ship status --json | tr -d '\n ')" '[]'
finish
