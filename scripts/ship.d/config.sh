# shellcheck shell=dash disable=SC2034,SC2154,SC2015 # settings are shared by all of ship.d; C of A && B || C may run
# config.sh: ship.cfg and NAME.conf, read and judged, never run: a ship's conf may come from its tenant.
# No process is made here: 'ship exec' reads them on its way.

# each_setting FILE FUNCTION - call FUNCTION KEY VALUE for each line key=value or (as SHIP wrote it)
# key: 'value'; a line that is neither gives an empty KEY.
each_setting() {
	local line key value
	at_file=$1 at_line=0
	while read -r line || [ -n "$line" ]; do
		at_line=$((at_line + 1))
		case $line in '' | '#'*) continue ;; esac
		key=${line%%[=:]*} value=''
		case $key in
		"$line" | '' | *[!A-Za-z_\ ]*) key='' value=$line ;;
		*)
			value=${line#"$key"[=:]} key=${key%"${key##*[! ]}"}
			trim "$value"
			;;
		esac
		"$2" "$key" "$value"
	done <"$1"
}

# trim TEXT - into $value, without blanks at its ends and without the quotes around it.
trim() {
	value=${1#"${1%%[! 	]*}"}
	value=${value%"${value##*[! 	]}"}
	case $value in
	\"*\") value=${value#\"} value=${value%\"} ;;
	\'*\') value=${value#\'} value=${value%\'} ;;
	esac
}

# bad_setting TEXT [REMEDY] - refuse the line at hand.
bad_setting() { fail 2 "$at_file${at_line:+:$at_line}: $1" "${2:-}"; }

# read_site - the settings of ship.cfg over the defaults.
read_site() {
	config=${SHIP_CONFIG:-/etc/ship/ship.cfg}
	farm_folder=/srv/ships config_folder=/etc/ship pid_folder=/run/ship base_folder=''
	bridge=ship0 network=10.10.10.1/24 nat=auto group_prefix=ship-
	suite=bookworm include='' mirror='' start_timeout=60 stop_timeout=30
	site_level=default site_mem='' site_swap='' site_procs='' site_cpu=''
	if [ -e "$config" ]; then
		each_setting "$config" site_setting
	elif [ -n "${SHIP_CONFIG:-}" ]; then
		fail 2 "no file '$config'" "SHIP_CONFIG names the ship.cfg to use"
	fi
	: "${base_folder:=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/slipway/roots}"
	read_network "$network"
}

site_setting() {
	case $1 in
	farm_folder) set_folder "$1" "$2" && farm_folder=$value ;;
	config_folder) set_folder "$1" "$2" && config_folder=$value ;;
	pid_folder) set_folder "$1" "$2" && pid_folder=$value ;;
	base_folder) set_folder "$1" "$2" && base_folder=$value ;;
	bridge) is_device "$2" || bad_setting "bridge: '$2' is no name of a network interface" && bridge=$2 ;;
	network)
		read_network "$2" || bad_setting "network: '$2' is no IPv4 address with a length of at most 30" \
			"network=10.10.10.1/24: the host's own address on the bridge"
		network=$2
		;;
	nat) one_of "$@" auto yes no && nat=$2 ;;
	group_prefix) is_word "$1" "$2" && group_prefix=$2 ;;
	suite) is_word "$1" "$2" && suite=$2 ;;
	include) include=$2 ;;
	mirror) mirror=$2 ;;
	start_timeout) is_seconds "$@" && start_timeout=$2 ;;
	stop_timeout) is_seconds "$@" && stop_timeout=$2 ;;
	level) one_of "$@" default open && site_level=$2 ;;
	mem) is_limit "$@" && site_mem=$2 ;;
	swap) is_limit "$@" && site_swap=$2 ;;
	procs) is_limit "$@" && site_procs=$2 ;;
	cpu) is_limit "$@" && site_cpu=$2 ;;
	'') bad_setting "not key=value: '$2'" ;;
	*) bad_setting "unknown key '$1'" "ship(8) lists the keys of ship.cfg" ;;
	esac
}

# set_folder KEY PATH - the path in $value without a slash at its end; a relative one begins where ship.cfg is.
set_folder() {
	value=$2
	while :; do
		case $value in ?*/) value=${value%/} ;; *) break ;; esac
	done
	case $value in
	/ | '') bad_setting "$1: '$2' is no folder of its own" ;;
	/*) ;;
	*) case $config in */*) value=${config%/*}/$value ;; esac ;;
	esac
}

# The judges: silent when KEY VALUE is good, else the end.
one_of() {
	local key="$1" value="$2" word
	shift 2
	for word; do [ "$value" != "$word" ] || return 0; done
	bad_setting "$key: '$value' is not one of: $*"
}
is_seconds() {
	case $2 in '' | *[!0-9]* | ??????*) bad_setting "$1: '$2' is no number of seconds" ;; esac
}
is_limit() { # the words of cgset: max, 512M, 50%, 1.5; with a ? at the end: where it can be had
	case $2 in max | [0-9]*) ;; *) bad_setting "$1: '$2' is no limit" "$1=max or a number: see cgset(8)" ;; esac
	case ${2%\?} in *[!0-9A-Za-z.%]*) bad_setting "$1: '$2' is no limit" "$1=max or a number: see cgset(8)" ;; esac
}
is_word() {
	case $2 in '' | -* | .* | *[!A-Za-z0-9._-]*) bad_setting "$1: '$2' is no plain word" ;; esac
}
is_device() {
	case $1 in '' | ????????????????* | -* | .* | *[!A-Za-z0-9._-]*) return 1 ;; esac
}

# check_name NAME [STATUS] - before anything else is done with it: it becomes a path, a host name, an interface.
check_name() {
	case $1 in
	'' | -* | *[!a-z0-9-]* | ?????????????????????????????????*)
		fail "${2:-2}" "'$1' is no name for a ship" \
			"a to z, 0 to 9 and '-', not first a '-', 32 characters at most"
		;;
	all) fail "${2:-2}" "'all' is no name for a ship" "it stands for all ships" ;;
	esac
}
