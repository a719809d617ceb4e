# shellcheck shell=dash disable=SC2034,SC2154,SC2015 # settings are shared by all of ship.d; C of A && B || C may run
# start.sh: ship start. The chain of tools that makes a ship is in launch.

start_ship() {
	load_ship "$1"
	lock_ship
	if ship_runs; then
		say "'$name' runs already"
		return 0
	fi
	wipe_ship || fail 1 "cannot clear away what is left of '$name'" "ship stop $name"
	check_start
	on_exit abandon_start
	printf '%s\n' "$bridge" >"$state/net"
	# Beside the preparations: the check of the address takes as long as they do. It holds the ship's lock.
	plumb &
	plumbing=$!
	write_files
	launch
	await_ready
	keep
}

abandon_start() {
	wait "$plumbing" || :
	wipe_ship || :
}

# check_start - what would make it fail later, told before anything is made.
check_start() {
	[ -d "$root" ] || fail 1 "'$name' has no root directory '$root'" "ship delete $name, then ship create $name"
	# Without our own note of it, the namespace is somebody else's.
	[ ! -e "/run/netns/$name" ] || fail 1 "a network namespace '$name' is there already and is not this ship's" \
		"netns del $name, if nobody needs it"
}

# write_files - what the ship gets to see of its name and its neighbours, and the table of its mounts. Nothing
# is ever written through the ship's own tree, which may be hostile: these are mounted over its files.
write_files() {
	printf '%s\n' "$hostname" >"$state/hostname"
	write_hosts "$name" >"$state/hosts"
	write_resolv >"$state/resolv.conf"
	{
		printf 'tmpfs /run tmpfs nosuid,nodev,noexec,mode=755,size=64m 0 0\n'
		bind_line "$lib/boot.sh" /run/boot.sh
		bind_line "$state/hostname" /etc/hostname
		bind_line "$state/hosts" /etc/hosts
		bind_line "$state/resolv.conf" /etc/resolv.conf
		[ ! -e "$config_folder/$name.fstab" ] || cat -- "$config_folder/$name.fstab"
	} >"$state/fstab"
}

bind_line() {
	escape "$1"
	printf '%s %s none bind,ro,x-mount.mkdir 0 0\n' "$escaped" "$2"
}

# write_resolv - the host's name servers, but for those that listen on its loopback alone.
write_resolv() {
	local file key value rest
	for file in /etc/resolv.conf /run/systemd/resolve/resolv.conf; do
		[ -e "$file" ] || continue
		found=''
		while read -r key value rest || [ -n "$key" ]; do
			case $key:$value in
			nameserver:127.* | nameserver:::1) continue ;;
			nameserver:*) found=yes ;;
			search:* | domain:* | options:*) ;;
			*) continue ;;
			esac
			printf '%s\n' "$key $value${rest:+ $rest}"
		done <"$file"
		[ -z "$found" ] || return 0
	done
}

# plumb - a namespace of its own, on the bridge that all ships share.
plumb() {
	"$bin/netns" add "$name"
	[ -n "$address" ] || return 0
	set -- switch add "$bridge" --address "$network"
	! nat_wanted || set -- "$@" --nat
	"$bin/netns" "$@"
	# The check costs its milliseconds; an address that somebody answers for costs an evening. Who is on the
	# bridge answers at once; 'ship create' has asked for longer.
	"$bin/netns" link "$name:eth0" "$bridge" "$address/$net_length" via "$gateway" --check 5
}

# nat_wanted - as ship.cfg says; auto: where the host itself has a way out.
nat_wanted() {
	local device destination rest
	case $nat in yes) return 0 ;; no) return 1 ;; esac
	while read -r device destination rest; do
		case $destination:$device in 00000000:lo) ;; 00000000:*) return 0 ;; esac
	done </proc/net/route
	return 1
}

# launch - start the chain in the background, in a session of its own and with a clean environment; the fifo
# 'ready' is open in the ship until it has booted, 'out' until it has ended.
launch() {
	local words limits
	exec 5>"$state/alive"
	flock 5
	mkfifo -- "$state/out" "$state/ready"
	# Opened for both first: then no other open waits, and a kill at any moment leaves nobody waiting.
	# shellcheck disable=SC2094 # a fifo
	exec 6<>"$state/out" 7<"$state/out" 8>"$state/out" 6>&-
	# shellcheck disable=SC2094 # a fifo
	exec 6<>"$state/ready" 4<"$state/ready" 3>"$state/ready" 6>&-
	if has_sysvinit; then
		: >"$state/sysvinit"
		words=$(unshare_words)
	else
		words=$(unshare_words init)
	fi
	limits=$(limit_words)
	# shellcheck disable=SC2086 # plain words, each without a blank
	set -- "$bin/unshare" $words --hostname "$hostname" --pivot-root "$root" --fstab "$state/fstab" \
		--new-session --pid-file "$state/pid" --keep-fd 3 -- /bin/sh /run/boot.sh ${command:+"$command"}
	set -- "$bin/netns" exec "$name" -- "$@"
	if [ -n "$limits" ]; then
		printf '%s\n' "$group_prefix$name" >"$state/group"
		# cgset stays, to report; killed with -9, it takes the ship along.
		# shellcheck disable=SC2086 # words of cgset
		set -- "$bin/cgset" "$group_prefix$name" $limits -- setpriv --pdeathsig KILL "$@"
	fi
	[ "$nice" -eq 0 ] || set -- nice -n "$nice" "$@"
	wait "$plumbing"
	read_output &
	run_chain "$@" &
	exec 3>&- 5>&- 7<&- 8>&-
}

# has_sysvinit - a sysvinit must be process 1 itself. (What the tree answers is one bit: it may lie.)
has_sysvinit() {
	[ -z "$command" ] && [ -f "$root/sbin/init" ] && [ ! -h "$root/sbin/init" ] &&
		[ -e "$root/var/lib/dpkg/info/sysvinit-core.list" ]
}

# read_output - the log, until the last process of the ship has let go of its output; it holds 'alive' till
# then. A pipe, not a file: what a ship has open it can open again for writing, and fill the host's /run.
read_output() {
	# Nothing of the caller's: who reads what 'ship start' prints must find an end.
	exec 3>&- 4<&- 8>&- 9>&- <&7 7<&- >/dev/null 2>&1
	# shellcheck disable=SC2016 # for the inner shell
	exec setsid sh -c 'dd bs=64K count=1M iflag=count_bytes status=none >>"$1"; exec cat >/dev/null' \
		ship-log "$state/log"
}

run_chain() {
	local self_pid rest
	exec 4<&- 7<&- 9>&- </dev/null >&8 2>&1 8>&-
	# The builtin reads its own /proc/self: this subshell, which becomes the launcher.
	read -r self_pid rest </proc/self/stat
	printf '%s\n' "$self_pid" >"$state/launcher"
	exec 5>&- # not before: until now 'alive' says that there is somebody to look for
	# A shell's background job ignores ^C; a ship must not.
	exec setsid /usr/bin/env -i --default-signal=INT,QUIT \
		PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=slipway "$@"
}

# await_ready - the ship says so itself; its end before that is the end of the fifo.
await_ready() {
	local answer=''
	timeout "$start_timeout" head -n 1 <&4 >"$state/answer" 9>&- &
	wait $! || answer=late # a signal ends this wait and so the start
	exec 4<&-
	[ -n "$answer" ] || read -r answer <"$state/answer" || :
	case $answer in
	ready) ;;
	late) not_started "is not up after $start_timeout seconds" "start_timeout= in $config, or look at why" ;;
	*) not_started "ended while it started" "ship create --help, if its root is not a Debian" ;;
	esac
	read -r uptime _ </proc/uptime
	printf '%s\n' "$uptime" >"$state/started"
}

# not_started WHY REMEDY - with the last words of the ship.
not_started() {
	kill_ship || :
	[ ! -s "$state/log" ] || tail -n 10 -- "$state/log" >&2
	fail 1 "'$name' $1" "$2"
}
