# shellcheck shell=dash disable=SC2034,SC2154,SC2015 # settings are shared by all of ship.d; C of A && B || C may run
# conf.sh: NAME.conf, one ship's settings: our keys, and those of util-vserver that mean something here.

# load_ship NAME - check the name and read its conf over the site's defaults.
load_ship() {
	name=$1 conf=$config_folder/$1.conf root=$farm_folder/$1 state=$pid_folder/$1
	[ -e "$conf" ] || fail 1 "no ship '$name'" "ship create $name, or 'ship status' to see what there is"
	ship_defaults
	each_setting "$conf" ship_setting
}

ship_defaults() {
	address='' hostname=$name onboot=yes level=$site_level seccomp=default caps='' nice=0 command=''
	mem=$site_mem swap=$site_swap procs=$site_procs cpu=$site_cpu
}

# limit_words - the ship's limits in the words of cgset; nothing when it has none.
limit_words() {
	printf '%s' "${mem:+mem=$mem }${swap:+swap=$swap }${procs:+procs=$procs }${cpu:+cpu=$cpu }"
}

# unshare_words [INIT] - what the ship's level means, in the options of unshare; with INIT ours is process 1.
unshare_words() {
	printf '%s ' -m -u -i -p -C -f --kill-child --forward-signals --close-fds --mount-proc --mount-sys --mount-dev ${1:+--init}
	# Level open is as the seeds had it, for teaching and debugging: nothing masked, nothing dropped.
	[ "$level" = open ] || printf '%s ' --mask-paths --new-keyring --caps "default$caps" --seccomp "$seccomp"
}

ship_setting() {
	case $1 in
	address) set_address "$2" ;;
	hostname | S_HOSTNAME) is_word "$1" "$2" && hostname=$2 ;;
	onboot | ONBOOT) one_of "$@" yes no && onboot=$2 ;;
	level) one_of "$@" default open && level=$2 ;;
	caps | S_CAPS) set_caps "$@" ;;
	seccomp) one_of "$@" default i386 none && seccomp=$2 ;;
	nice | S_NICE) set_nice "$@" ;;
	command) [ -n "$2" ] || bad_setting "command: nothing to run" && command=$2 ;;
	mem) is_limit "$@" && mem=$2 ;;
	swap) is_limit "$@" && swap=$2 ;;
	procs) is_limit "$@" && procs=$2 ;;
	cpu) is_limit "$@" && cpu=$2 ;;
	IPROOT) set_iproot "$2" ;;
	IPROOTMASK) set_mask "$2" ;;
	IPROOTDEV) [ -z "$2" ] || one_of "$@" eth0 ;;
	S_FLAGS) set_flags "$2" ;;
	ULIMIT) set_ulimit "$2" ;;
	IPROOTBCAST | S_DOMAINNAME | S_CONTEXT | PROFILE)
		[ -z "$2" ] || bad_setting "$1 is util-vserver's and not acted on here" "remove the line"
		;;
	'') bad_setting "not key=value: '$2'" "a conf is a list of settings, not a shell script" ;;
	*) bad_setting "unknown key '$1'" "ship(8) lists the keys of a ship's conf" ;;
	esac
}

# set_address ADDRESS - in $address, plain; it must be one of the site's network.
set_address() {
	split_address "$1" || bad_setting "'$1' is no IPv4 address" "an address in $net_text, such as ${net_text%.*}.30"
	in_network || bad_setting "'$1' is not an address for a ship in $net_text" \
		"take one in it that is not the host's, or change network= in $config"
	address=$ip
}

# set_iproot LIST - util-vserver's [DEVICE:]ADDRESS[/MASK]: the device inside is always eth0.
set_iproot() {
	case $1 in
	*[\ ,]*) bad_setting "IPROOT: more than one address is not acted on here" "leave one" ;;
	eth0:*) set_address "${1#eth0:}" ;;
	*:*) bad_setting "IPROOT: a ship's interface is eth0, not '${1%%:*}'" "IPROOT=eth0:${1#*:}" ;;
	'') ;;
	*) set_address "$1" ;;
	esac
}

set_mask() {
	mask_length "$1" && [ "$length" -eq "$net_length" ] ||
		bad_setting "IPROOTMASK: '$1' is not the mask of $net_text" "remove the line: network= in $config says it"
}

# set_caps KEY LIST - capabilities on top of the level's, joined by commas for unshare --caps.
set_caps() {
	local word IFS=', '
	caps=''
	set -f
	for word in $2; do
		case $word in
		*[!A-Za-z_]*) bad_setting "$1: '$word' is no capability to add" "CAP_NET_RAW, …: see capabilities(7)" ;;
		esac
		caps=$caps,$word
	done
	set +f
}

set_nice() {
	case ${2#-} in '' | *[!0-9]* | ???*) bad_setting "$1: '$2' is no number from -20 to 19" ;; esac
	nice=$2
}

# set_flags LIST - those that every ship has anyway; the others would be a promise that nobody keeps.
set_flags() {
	local word
	set -f
	for word in $1; do
		case $word in
		lock | nproc | hideinfo) ;;
		*) bad_setting "S_FLAGS: '$word' is not acted on here" "lock, nproc and hideinfo hold for every ship" ;;
		esac
	done
	set +f
}

# set_ulimit OPTIONS - "-H -u N", which util-vserver turned into a limit for the whole ship.
set_ulimit() {
	local count
	case $1 in
	'') return 0 ;;
	'-H -u '* | '-HS -u '* | '-u '*) count=${1##* } ;;
	*) bad_setting "ULIMIT: '$1' is not acted on here" "ULIMIT=\"-H -u N\", or procs=N" ;;
	esac
	is_limit ULIMIT "$count"
	procs=$count
}

# each_address FUNCTION - call FUNCTION NAME ADDRESS for every ship of the farm that has one.
each_address() {
	local each
	for each in $(every_ship); do
		found=''
		{ each_setting "$config_folder/$each.conf" find_address; } 2>/dev/null || continue # deleted meanwhile
		[ -z "$found" ] || "$1" "$each" "$found"
	done
}

find_address() { # not a judge: another ship's conf may be wrong without stopping this one
	case $1 in
	address | IPROOT) split_address "${2#*:}" && found=$ip ;;
	esac
	return 0
}

# write_hosts NAME - the hosts file of that ship: itself and all that have an address.
write_hosts() {
	printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n'
	known=''
	each_address host_line
	case $known in *" $1 "*) ;; *) printf '127.0.1.1 %s\n' "$1" ;; esac
}
host_line() {
	known="$known $1 "
	printf '%s %s\n' "$2" "$1"
}

# refresh_hosts - a ship came or went: tell those that run. In place: the file is mounted in them.
refresh_hosts() {
	local each
	for each in $(every_state); do
		[ ! -e "$pid_folder/$each/hosts" ] || write_hosts "$each" >"$pid_folder/$each/hosts"
	done
}
