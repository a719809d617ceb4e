# shellcheck shell=dash disable=SC2034,SC2154,SC2015 # settings are shared by all of ship.d; C of A && B || C may run
# address.sh: IPv4 addresses and networks as numbers. No process is made.

# ip_number ADDRESS - its 32 bits in $number; fails when it is not four numbers of 0 to 255.
ip_number() {
	local rest="$1." part count=0
	number=0
	while [ -n "$rest" ]; do
		part=${rest%%.*} rest=${rest#*.} count=$((count + 1))
		case $part in
		'' | *[!0-9]* | 0?* | ????*) return 1 ;; # a leading zero would be octal to some
		esac
		[ "$part" -le 255 ] && [ "$count" -le 4 ] || return 1
		number=$((number * 256 + part))
	done
	[ "$count" -eq 4 ]
}

# ip_text NUMBER - the address in $text.
ip_text() {
	text=$(($1 >> 24 & 255)).$(($1 >> 16 & 255)).$(($1 >> 8 & 255)).$(($1 & 255))
}

# mask_length MASK - the prefix length of a netmask such as 255.255.255.192, in $length.
mask_length() {
	local bits
	ip_number "$1" || return 1
	bits=$number length=32
	while [ "$length" -gt 0 ] && [ $((bits & 1)) -eq 0 ]; do
		bits=$((bits >> 1)) length=$((length - 1))
	done
	[ "$number" -eq $((0xffffffff << (32 - length) & 0xffffffff)) ]
}

# split_address ADDRESS[/LENGTH|/MASK] - into $ip, its $number and $length; an empty $length: none was given.
split_address() {
	ip=${1%%/*} length=''
	ip_number "$ip" || return 1
	case $1 in
	*/*.*) mask_length "${1#*/}" && ip_number "$ip" ;;
	*/*)
		length=${1#*/}
		case $length in '' | *[!0-9]* | 0?* | ???*) return 1 ;; esac
		[ "$length" -le 32 ]
		;;
	esac
}

# read_network CIDR - the site's network: $net_first and $net_last as numbers, $gateway, $net_length, $net_text.
read_network() {
	local mask
	split_address "$1" && [ -n "$length" ] && [ "$length" -le 30 ] || return 1
	gateway=$ip net_length=$length
	mask=$((0xffffffff << (32 - length) & 0xffffffff))
	net_first=$((number & mask)) net_last=$((number | ~mask & 0xffffffff)) net_host=$number
	ip_text "$net_first"
	net_text=$text/$length
}

# in_network - the $number and $length of split_address are those of a ship in the site's network.
in_network() {
	[ "$number" -gt "$net_first" ] && [ "$number" -lt "$net_last" ] && [ "$number" -ne "$net_host" ] &&
		[ "${length:-$net_length}" -eq "$net_length" ]
}
