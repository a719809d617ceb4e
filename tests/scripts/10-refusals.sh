#!/bin/sh
# shellcheck shell=dash disable=SC2016,SC2154,SC2317 # words for a shell inside; names of lib.sh; called by name
# What users get wrong: one line that names it, the status of the manual, and nothing changed.
. "${0%/*}/lib.sh"
. "${0%/*}/ships.sh"

little_root base/bookworm
unchanged() { same '  nothing is made' "$(find conf farm run -mindepth 1 ! -name .lock 2>/dev/null)" ''; }

long=$(printf '%0300d' 0)
for name in a/b ../x . -rf --force 'a b' 'a
b' A 'ä' '' '$(reboot)' 'a;b' 'x*' "$long"; do
	for verb in create start stop delete; do
		check_fails 2 "$verb '$name'" ship "$verb" "$name"
		said '  is named' "'$name'"
		said '  with a remedy' 'hint: '
	done
	check_fails 125 "exec '$name'" ship exec "$name" true
	unchanged
done
check_fails 2 'a ship named all' ship create all
for address in 10.10.10 10.10.10.256 10.10.10.1 10.10.10.0 10.10.10.255 10.10.11.5 10.10.10.5/16 010.10.10.5 x; do
	check_fails 2 "address $address" ship create web "$address"
	said '  is named' "'$address'"
	unchanged
done
check_fails 1 'start of what is not there' ship start web
said 'has a remedy' 'ship create web'
check_fails 1 'stop of what is not there' ship stop web
check_fails 1 'status of what is not there' ship status web
check_fails 2 'no verb' ship
check_fails 2 'an unknown verb' ship sail web
said 'is named' "'sail'"
check_fails 2 'an unknown option' ship create web --colour red
check_fails 2 'an option without its value' ship create web --mem
check_fails 2 'a limit that is none' ship create web --mem much
check_fails 2 'a limit that cgset refuses' ship create web mem=5x
check_fails 2 'a limit that nothing can live with' ship create web mem=1
check_fails 2 'two names' ship start web db
check_fails 2 'a level that is none' ship create web --level paranoid
check_fails 1 'a root that is not there' ship create web --from "$T/none"
check_fails 125 'run without a command' ship run --mem 50M
unchanged
# In a user namespace without a map one is nobody, and can still read this checkout wherever it lies.
check_fails 1 'not root' unshare -U "$(command -v ship)" start web
said 'is said plainly' "'ship start' needs root"

# A root that was put into the farm by hand is nobody's leftover.
mkdir -p farm/web/precious
check_fails 1 'create over a directory' ship create web
said 'names it' "$T/farm/web"
check 'it is there still' test -d farm/web/precious
rm -r farm/web

# The mirror and the disk.
check_fails 1 'no mirror' ship create web --suite trixie --mirror http://127.0.0.1:1/debian
said 'names it' '127.0.0.1:1'
unchanged
mkdir small
mount -t tmpfs -o size=1m small small
echo farm_folder=small >>ship.cfg
check_fails 1 'a full disk' ship create web
said 'is told' 'No space left'
same 'nothing is left on it' "$(ls -A small)" ''
same 'and no conf' "$(ls -A conf)" ''
umount small

# ship.cfg and the confs: read, never run; a fault is named by file and line.
config() {
	printf '%s\n' "$@" >bad.cfg
	check_fails 2 "ship.cfg: $*" env SHIP_CONFIG="$T/bad.cfg" ship status
}
config farm_folder=/a 'colour=red'
said 'names the line' "bad.cfg:2: unknown key 'colour'"
config 'touch pwned'
said 'names the line' 'bad.cfg:1: not key=value'
config network=10.10.10.1
config network=fe80::1/64
config farm_folder=/
config start_timeout=soon
config bridge=a/b
check_fails 2 'a ship.cfg that is not there' env SHIP_CONFIG="$T/none.cfg" ship status
sed -i '$d' ship.cfg
check 'create' ship create web
good=$(cat conf/web.conf)
conf() {
	printf '%s\n' "$@" >conf/web.conf
	check_fails 2 "conf: $*" ship start web
}
# shellcheck disable=SC2016 # must not be run
conf 'hostname=$(touch pwned)'
conf 'address=10.10.10.2' 'IROOT=1.2.3.4'
said 'names the line' "web.conf:2: unknown key 'IROOT'"
conf 'touch pwned; case x in'
conf 'S_FLAGS="lock sched"'
said 'names what is not acted on' "'sched' is not acted on"
conf 'ULIMIT="-H -n 5"'
conf 'IPROOT="eth0:10.10.10.4 eth1:10.10.10.5"'
conf 'S_CAPS="!CAP_CHOWN"'
conf 'S_DOMAINNAME=nis'
conf 'PROFILE=prod'
conf 'nice=21x'
conf 'level=strict'
check_fails any 'nothing was run' test -e pwned
check_fails 1 'status of a broken conf' ship status
said 'shows it' 'broken'
cat >conf/web.conf <<'END'
# A conf as util-vserver has it.
IPROOT="eth0:10.10.10.44/255.255.255.0"
IPROOTMASK=255.255.255.0
IPROOTBCAST=
IPROOTDEV=eth0
ONBOOT=no
S_HOSTNAME=marvin.example.org
S_DOMAINNAME=
S_NICE=5
S_FLAGS="lock nproc"
ULIMIT="-H -u 1000"
S_CAPS="CAP_NET_RAW"
END
check "util-vserver's conf" ship start web
same 'hostname' "$(ship exec web hostname)" marvin.example.org
same 'nice' "$(ship exec web -- sh -c 'read -r line </proc/2/stat; set -- $line; echo ${19}')" 5
same 'net_raw is there' "$(($(sed -n 's/CapBnd:\t*/0x/p' "/proc/$(cat run/web/pid)/status") >> 13 & 1))" 1
same 'procs' "$(cgset --show "$(cat run/web/group)" | sed -n 's/^procs=\([0-9]*\) .*/\1/p')" 1000
check 'the address' ship status
said 'is that' 10.10.10.44
check 'stop' ship stop web
printf '%s\n' "$good" >conf/web.conf
check 'delete' ship delete web
same 'nothing is left' "$(left)" ''
finish
