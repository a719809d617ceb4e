# shellcheck shell=dash disable=SC2154,SC2016 # lib.sh, read before this, sets $T, $kept, $top
# ships.sh: a farm of its own for each test of ship, and a root directory that is made in a moment.

export SHIP_CONFIG="$T/ship.cfg"
group_prefix=t${kept##*.}-
cat >ship.cfg <<END
farm_folder=farm
config_folder=conf
pid_folder=run
base_folder=base
group_prefix=$group_prefix
start_timeout=30
stop_timeout=10
END

# little_root FOLDER - this machine's own dash and a few tools, and four services that write down what is asked
# of them: all that a boot needs.
little_root() {
	local name file
	mkdir -p "$1/bin" "$1/etc/rcS.d" "$1/etc/rc2.d" "$1/etc/init.d" "$1/proc" "$1/sys" "$1/dev" "$1/run" "$1/tmp" \
		"$1/root" "$1/var/log"
	for name in dash sleep cat chmod mkdir hostname ls readlink id env head touch true; do
		file=$(command -v "$name")
		[ -x "$file" ] || file=/bin/$name # a builtin
		cp "$file" "$1/bin/$name"
		ldd "$file" | sed -n 's/[^/]*\(\/[^ ]*\) (0x.*/\1/p' | while read -r file; do
			mkdir -p "$1${file%/*}" && cp -nL "$file" "$1$file"
		done
	done
	ln -sf dash "$1/bin/sh"
	for name in S:10one S:20two 2:10three 2:20four; do
		file=$1/etc/init.d/${name#*:}
		printf '#!/bin/sh\necho "%s $1" >>/var/log/boot\n' "${name#*:}" >"$file"
		chmod +x "$file"
		ln -s "../init.d/${name#*:}" "$1/etc/rc${name%%:*}.d/S${name#*:}"
	done
}

# left - what ships have outside of their farm: processes, links, namespaces, mounts, control groups, state.
left() {
	local pid
	for pid in /proc/[0-9]*; do
		case $(tr '\0' ' ' 2>/dev/null <"$pid/cmdline") in
		*"$T"*) printf 'process %s\n' "${pid#/proc/}" ;;
		esac
	done
	ip -o link | sed -n 's/^[0-9]*: \([^:@]*\).*/link \1/p' | grep -vx 'link lo'
	ls /run/netns 2>/dev/null
	find "$T/run" -mindepth 1 ! -name .lock 2>/dev/null
	find /sys/fs/cgroup -maxdepth 3 -name "$group_prefix*" 2>/dev/null
	grep -F "$T" /proc/self/mounts
	return 0
}

# is_state NAME STATE - as ship status tells.
is_state() { ship status "$1" | grep -q "^$1  *$2 "; }
