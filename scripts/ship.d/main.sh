# shellcheck shell=dash disable=SC2034,SC2154,SC2015 # settings are shared by all of ship.d; C of A && B || C may run
# main.sh: from the verb to the function that does it. Each verb reads its own file alone: 'ship exec' is often
# used, and must make no process before it becomes nsenter.

# use FILE... - of the folder ship.d.
use() {
	local file
	for file; do
		# shellcheck disable=SC1090 # all of ship.d
		. "$lib/ship.d/$file.sh"
	done
}

# shellcheck source=scripts/lib.sh
. "$lib/lib.sh"
use address config state

main() {
	verb=${1-}
	[ $# -eq 0 ] || shift
	case $verb in
	exec | con | run) own_failure=125 ;;
	--help | -h | help)
		show_help
		exit 0
		;;
	--version)
		printf 'ship (slipway) 0.1.0\n'
		exit 0
		;;
	esac
	case ${1-} in
	--help)
		show_help
		exit 0
		;;
	esac
	case $verb in create | start | stop | delete | status | run) need_root ;; esac
	find_tools
	read_site
	case $verb in
	exec | con) use exec ;;
	create) use conf create ;;
	start) use conf start ;;
	stop) use stop ;;
	delete) use conf stop delete ;;
	status) use conf status ;;
	run) use conf create run ;;
	'') fail 2 "what shall be done?" "$self --help" ;;
	*) fail 2 "unknown verb '$verb'" "$self --help" ;;
	esac
	"verb_$verb" "$@"
}

# find_tools - in $bin: $SLIPWAY_BIN, the source tree's target/bin, or beside these scripts.
find_tools() {
	for bin in "${SLIPWAY_BIN:-}" "$lib/../target/bin" "$lib/bin" "$lib" "$here"; do
		[ ! -x "$bin/unshare" ] || [ ! -x "$bin/nsenter" ] || return 0
	done
	fail 1 "the tools are not built" "${lib%/*}/scripts/build, or set SLIPWAY_BIN"
}

# one_name WORD... - a verb's single argument, checked, in $name.
one_name() {
	[ $# -gt 0 ] || fail 2 "'$verb' needs the name of a ship" "$self status lists them"
	[ $# -eq 1 ] || fail 2 "'$verb' takes one name: what is '$2'?" "$self --help"
	check_name "$1"
	name=$1
}

# for_all FUNCTION - 'VERB NAME' for each ship of the farm that FUNCTION names; goes on where one fails.
for_all() {
	local each status=0
	for each in $("$1"); do
		"$lib/ship" "$verb" "$each" || status=1
	done
	return "$status"
}

# every_ship - the names of all that have a conf, one a line.
every_ship() {
	local file
	for file in "$config_folder"/*.conf; do
		file=${file##*/} file=${file%.conf}
		# Other files may lie there too; '*' when there is none at all.
		case $file in *[!a-z0-9-]*) ;; *) printf '%s\n' "$file" ;; esac
	done
}

# ships_on_boot - all but those whose conf says onboot=no; one with a bad conf is named, so that its start tells.
ships_on_boot() {
	local each status
	for each in $(every_ship); do
		status=0
		(load_ship "$each" 2>/dev/null && [ "$onboot" = yes ] || exit 9) || status=$?
		[ "$status" -eq 9 ] || printf '%s\n' "$each"
	done
}

# every_state - the names of all that have a folder of state, with or without a conf.
every_state() {
	local folder
	for folder in "$pid_folder"/*/; do
		[ -e "${folder}lock" ] || continue
		folder=${folder%/}
		printf '%s\n' "${folder##*/}"
	done
}

verb_start() {
	if [ "$*" = all ]; then
		for_all ships_on_boot
	else
		one_name "$@"
		start_ship "$name"
	fi
}

verb_stop() {
	if [ "$*" = all ]; then
		for_all every_state
	else
		one_name "$@"
		stop_ship "$name"
	fi
}

verb_delete() {
	if [ "$*" = all ]; then
		for_all every_ship
	else
		one_name "$@"
		delete_ship "$name"
	fi
}
