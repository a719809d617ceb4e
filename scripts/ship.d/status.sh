# shellcheck shell=dash disable=SC2034,SC2154,SC2015 # settings are shared by all of ship.d; C of A && B || C may run
# status.sh: ship status: a line a ship, or JSON.

verb_status() {
	local json='' wanted='' each status=0
	for each; do
		case $each in
		--json) json=yes ;;
		-*) fail 2 "unknown option '$each'" "$self --help" ;;
		all) ;;
		*)
			[ -z "$wanted" ] || fail 2 "'status' takes one name: what is '$each'?" "$self --help"
			check_name "$each"
			wanted=$each
			;;
		esac
	done
	[ -z "$wanted" ] || [ -e "$config_folder/$wanted.conf" ] || [ -e "$pid_folder/$wanted" ] ||
		fail 1 "no ship '$wanted'" "ship create $wanted, or 'ship status' to see what there is"
	read -r now _ </proc/uptime
	if [ -n "$json" ]; then json_list || status=1; else plain_list || status=1; fi
	return "$status"
}

# ships - those asked for, one a line: all that have a conf, and all that run without one.
ships() {
	if [ -n "$wanted" ]; then
		printf '%s\n' "$wanted"
	else
		{
			every_ship
			every_state
		} | sort -u
	fi
}

plain_list() {
	local each status=0
	printf '%-16s %-8s %-15s %7s %9s %12s %s\n' NAME STATE ADDRESS PID UPTIME MEM LEVEL
	for each in $(ships); do
		# In a shell of its own: a conf that is wrong ends that, not the list.
		(look_at "$each" && plain_line) || {
			printf '%-16s %-8s %-15s %7s %9s %12s %s\n' "$each" broken - - - - -
			status=1
		}
	done
	return "$status"
}

plain_line() {
	printf '%-16s %-8s %-15s %7s %9s %12s %s\n' "$name" "$what" "${address:--}" "${pid:--}" \
		"$(clock "$uptime")" "$(memory)" "$level"
}

json_list() {
	local each status=0 before='['
	for each in $(ships); do
		printf '%s\n' "$before"
		before=,
		(look_at "$each" && json_object) || {
			printf '  {"name": "%s", "state": "broken"}' "$each"
			status=1
		}
	done
	[ "$before" = , ] || printf '['
	printf '\n]\n'
	return "$status"
}

# All words here have been judged: none holds a quote or a backslash.
json_object() {
	printf '  {"name": "%s", "state": "%s", "address": %s, "pid": %s, "uptime": %s, "level": "%s", "onboot": %s, "limits": ' \
		"$name" "$what" "$(json_word "$address")" "${pid:-null}" "${uptime:-null}" "$level" \
		"$([ "$onboot" = yes ] && printf true || printf false)"
	[ -n "$pid" ] && group_of && "$bin/cgset" --show --json "$group" || printf null
	printf '}'
}
json_word() { if [ -n "$1" ]; then printf '"%s"' "$1"; else printf null; fi; }

# look_at NAME - its settings, and $what it does, its $pid and its $uptime in seconds.
look_at() {
	local since
	if [ -e "$config_folder/$1.conf" ]; then
		load_ship "$1"
	else
		name=$1 state=$pid_folder/$1
		ship_defaults
	fi
	what=stopped pid='' uptime=''
	[ -d "$state" ] || return 0
	if ship_runs; then
		what=running
		read -r since <"$state/started" || return 0 # stopped just now
		uptime=$((${now%.*} - ${since%.*}))
	elif [ -e "$state/lock" ] && ! flock -n "$state/lock" true; then
		what=busy pid='' # a command is at work: being started, stopped …
	elif [ -e "$state/launcher" ]; then
		what=dead pid='' # it has ended by itself, or its start was killed: start and stop tidy up
	fi
}

group_of() {
	group=''
	[ -e "$state/group" ] && read -r group <"$state/group"
}

# memory - in use/limit, where it has a control group.
memory() {
	local line used
	[ -n "$pid" ] && group_of && line=$("$bin/cgset" --show "$group" 2>/dev/null) || {
		printf '%s' -
		return 0
	}
	case $line in
	mem=*' used='*)
		used=${line#*' used='} line=${line#mem=}
		printf '%s/%s' "${used%%[ 
]*}" "${line%% *}"
		;;
	*) printf '%s' - ;;
	esac
}

# clock SECONDS - as hours:minutes:seconds.
clock() {
	[ -n "$1" ] || {
		printf '%s' -
		return 0
	}
	printf '%d:%02d:%02d' $(($1 / 3600)) $(($1 / 60 % 60)) $(($1 % 60))
}
