#!/bin/sh
# boot.sh [COMMAND]: what runs inside a ship: COMMAND, or all that Debian starts at boot. TERM stops it.
# It is the ship's own /bin/sh that runs it, whatever that is: plain POSIX. 'ready' goes to descriptor 3.

umask 022
cd /
export HOME=/root
mkdir -p /run/lock && chmod 1777 /run/lock
: >/run/utmp

# Process 1 here means that the ship has a sysvinit, which will have no other place. It does not tell when it is
# done: a child of it looks whether it has named its runlevel and its script for that has ended.
if [ $$ -eq 1 ]; then
	(
		until case $(runlevel 2>/dev/null) in *[2-5]) ! grep -qs /etc/init.d/rc /proc/[0-9]*/cmdline ;; *) false ;; esac do
			sleep 0.1
		done
		echo ready >&3
	) >/dev/null 2>&1 </dev/null &
	exec /sbin/init 3>&-
fi

# What a service started here must not have: descriptor 3 would keep the ship from being ready.
each_script() { # FOLDER start|stop - as init does: the links in S order to start, in the other to stop
	set -- "$1" "$2" "$1"/S*
	order=$2 list=''
	shift 2
	for script; do
		[ -x "$script" ] || continue
		case $order in
		start) list="$list $script" ;;
		stop) list="$script $list" ;;
		esac
	done
	for script in $list; do
		"$script" "$order" </dev/null 3>&- || echo "boot: $script $order ended with $?"
		[ "$order" = stop ] || [ -z "$ending" ] || break
	done
}

stop_all() {
	each_script /etc/rc2.d stop
	each_script /etc/rcS.d stop
	exit 0
}

if [ $# -gt 0 ]; then
	set -f
	for word in $1; do break; done
	case $word in
	*[!A-Za-z0-9_./+-]*) ;; # the shell's to understand
	*)
		command -v "$word" >/dev/null || { # told now, not after 'ready'
			echo "boot: command not found: $word"
			exit 127
		}
		;;
	esac
	echo ready >&3
	exec 3>&-
	exec /bin/sh -c "$1"
fi

ending=''
# During the boot only noted: the script at work finishes first.
trap 'ending=yes' TERM INT PWR
export RUNLEVEL=S PREVLEVEL=N runlevel=S previous=N
each_script /etc/rcS.d start
export RUNLEVEL=2 runlevel=2
[ -n "$ending" ] || each_script /etc/rc2.d start
[ -z "$ending" ] || stop_all
trap stop_all TERM INT PWR
echo ready >&3
exec 3>&-
[ -z "$ending" ] || stop_all # a TERM between the two traps
while :; do
	sleep 86400 &
	wait $!
done
