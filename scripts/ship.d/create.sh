# shellcheck shell=dash disable=SC2034,SC2154,SC2015 # settings are shared by all of ship.d; C of A && B || C may run
# create.sh: ship create. A ship exists when its conf exists; that is renamed into place last.

verb_create() {
	[ $# -gt 0 ] || fail 2 "'create' needs a name" "$self create NAME [ADDRESS] [option...]"
	check_name "$1"
	name=$1
	shift
	from=''
	ship_defaults
	read_options create "$@"
	[ -z "$rest" ] || fail 2 "what is '--'?" "--command is for what runs inside"
	# shellcheck disable=SC2046 # words of cgset
	[ -z "$(limit_words)" ] || "$bin/cgset" --dry-run "$group_prefix$name" $(limit_words) >/dev/null || exit 2
	create_ship
}

# read_options VERB WORD... - options and a conf's own words, judged as its lines are; into $words, a conf.
# $rest is the number of words after "--".
read_options() {
	local key value verb="$1"
	shift
	at_file="$self $verb" at_line='' words='' rest=''
	while [ $# -gt 0 ]; do
		case $1 in
		--)
			shift
			rest=$#
			return 0
			;;
		--*=*) key=${1%%=*} value=${1#*=} && shift ;;
		--*)
			[ $# -gt 1 ] || fail 2 "option '$1' needs a value" "$self --help"
			key=$1 value=$2
			shift 2
			;;
		*=*) key=--${1%%=*} value=${1#*=} && shift ;;
		*)
			[ "$verb:$address" = create: ] || fail 2 "what is '$1'?" "$self --help"
			set_address "$1"
			shift
			continue
			;;
		esac
		take_option "$verb" "${key#--}" "$value"
	done
}

take_option() {
	case $2 in
	suite) is_word "$2" "$3" && suite=$3 ;;
	include) is_packages "$3" && include=$3 ;;
	mirror) is_word_line "$2" "$3" && mirror=$3 ;;
	from)
		[ -d "$3" ] || fail 1 "no directory '$3'" "--from takes a root directory"
		from=$(readlink -f -- "$3")
		;;
	mem | swap | procs | cpu | caps | level | seccomp | hostname | nice) add_word "$2" "$3" ;;
	command | onboot | address)
		[ "$1" = create ] || fail 2 "'$2' is not for '$self $1'" "$self --help"
		is_word_line "$2" "$3"
		add_word "$2" "$3"
		;;
	*) fail 2 "unknown option '--$2'" "$self --help" ;;
	esac
}

add_word() {
	ship_setting "$1" "$2"
	[ "$1" = address ] || words="$words$1=$2
"
}

is_packages() {
	case $1 in *[!a-z0-9+.,-]* | -*) fail 2 "include: '$1' is no list of packages" "--include nginx,openssh-server" ;; esac
}

is_word_line() {
	case $2 in '' | *'
'*) fail 2 "$1: empty, or more than a line" "$self --help" ;; esac
}

create_ship() {
	conf=$config_folder/$name.conf root=$farm_folder/$name state=$pid_folder/$name
	reserved=$config_folder/.$name.conf.new growing=$farm_folder/.$name.new
	mkdir -p -- "$config_folder" "$farm_folder" "$pid_folder"
	lock_ship
	! already_there || return 0
	clear_leftovers
	on_exit remove_tree "$reserved" "$growing"
	reserve
	probe_address
	grow_root
	# Killed between these two, it leaves a root without a conf, and the reservation that says whose it is.
	on_exit abandon_root
	mv -- "$growing" "$root"
	mv -- "$reserved" "$conf"
	keep
	leave_state
	refresh_hosts
	say "'$name' is made, address $address: ship start $name"
}

# abandon_root - but once the conf is in its place, the ship is made.
abandon_root() { [ -e "$conf" ] || remove_tree "$root"; }

# already_there - as asked for: nothing to do; otherwise: the end.
already_there() {
	[ -e "$conf" ] || return 1
	[ -n "$address" ] || {
		found=''
		each_setting "$conf" find_address
		address=$found
	}
	[ "$(conf_text)" = "$(cat -- "$conf")" ] && [ -d "$root" ] ||
		fail 1 "'$name' is there already, and made otherwise" "edit $conf, or ship delete $name first"
	say "'$name' is there already"
}

conf_text() {
	printf '# made from %s\naddress=%s\n%s' "${from:-$suite${include:+ $include}}" "$address" "$words"
}

# clear_leftovers - of a create or delete of this name that was killed; what was never ours is not touched.
clear_leftovers() {
	remove_tree "$growing" "$farm_folder/.$name.gone"
	[ ! -e "$root" ] || [ -e "$reserved" ] ||
		fail 1 "'$root' is there and is no ship" "mv it away, then: ship create $name --from IT"
	[ ! -e "$reserved" ] || remove_tree "$root"
	[ ! -e "/run/netns/$name.probe" ] || "$bin/netns" del --wait "$name.probe"
}

# reserve - an address that no other ship has, given or the next free one: the conf, not yet in its place. One
# at a time over the whole farm. What is being made is looked at first: it may become a ship meanwhile.
reserve() {
	local candidate
	exec 8>"$pid_folder/.lock"
	flock 8
	taken_list=''
	each_reserved note_taken
	each_address note_taken
	if [ -n "$address" ]; then
		holder=$(printf '%s' "$taken_list" | sed -n "/^$address /{s/^[^ ]* //p;q;}")
		[ -z "$holder" ] || fail 1 "address $address is taken by '$holder'" "take another, or none: the next free one"
	else
		next_free
	fi
	conf_text >"$reserved"
	exec 8>&-
}

note_taken() {
	taken_list="$taken_list$2 $1
"
}

# each_reserved FUNCTION - as each_address, for those that are being made now.
each_reserved() {
	local file other
	for file in "$config_folder"/.*.conf.new; do
		[ -e "$file" ] && [ "$file" != "$reserved" ] || continue
		other=${file##*/.} other=${other%.conf.new} found=''
		# Nobody holds its lock: a create that was killed, which does not count.
		! flock -n "$pid_folder/$other/lock" true 2>/dev/null || continue
		{ each_setting "$file" find_address; } 2>/dev/null || continue # it is a ship now
		[ -z "$found" ] || "$1" "$other" "$found"
	done
}

next_free() {
	local candidate=$((net_first + 1))
	while [ "$candidate" -lt "$net_last" ]; do
		ip_text "$candidate"
		case "
$taken_list" in
		*"
$text "*) ;;
		*)
			[ "$candidate" -eq "$net_host" ] || {
				address=$text
				return 0
			}
			;;
		esac
		candidate=$((candidate + 1))
	done
	fail 1 "no free address in $net_text" "a wider network= in $config"
}

# probe_address - ask on the bridge, where there is one already: some ships are in no farm of ours.
probe_address() {
	device_there "$bridge" || return 0
	on_exit "$bin/netns" del --if-exists --wait "$name.probe"
	"$bin/netns" add "$name.probe"
	"$bin/netns" link "$name.probe:eth0" "$bridge" "$address/$net_length" --check 200 ||
		fail 1 "address $address is of no use" "take another, or none: the next free one"
	# Until it is gone it would answer itself, and the ship could not have the address.
	"$bin/netns" del --wait "$name.probe"
}

# device_there NAME - in this network namespace; /sys may show another one's.
device_there() {
	local device rest
	while IFS=': ' read -r device rest; do
		[ "$device" != "$1" ] || return 0
	done </proc/net/dev
	return 1
}

# grow_root - a copy of a root directory that stays in the cache, made when there is none yet.
grow_root() {
	[ -n "$from" ] || make_base
	in_background "$bin/mkrootfs" clone "$from" "$growing"
}

# make_base - the cached root of that suite and these packages, in $from.
make_base() {
	local packages
	packages=$(printf '%s\n' "$include" | tr , '\n' | sed /^$/d | sort -u | tr '\n' +)
	from=$base_folder/$suite${packages:+-${packages%+}}
	[ ! -d "$from" ] || return 0
	mkdir -p -- "$base_folder"
	# The lock file stays: it is the cache's, and empty.
	exec 8>"$from.lock"
	flock 8
	[ -d "$from" ] || in_background "$bin/mkrootfs" ${include:+--include "$include"} "$suite" "$from" ${mirror:+"$mirror"}
	exec 8>&-
}

# in_background COMMAND... - a signal to us ends it at once. It keeps our locks: when we are killed with -9 and
# it is not, the next command waits for it.
in_background() {
	local status=0
	"$@" &
	child=$!
	on_exit end_child
	wait "$child" || status=$?
	child=''
	[ "$status" -eq 0 ] || exit 1 # it has said why
}

end_child() {
	[ -z "$child" ] || kill -TERM "$child" 2>/dev/null || return 0
	[ -z "$child" ] || wait "$child" || :
}
