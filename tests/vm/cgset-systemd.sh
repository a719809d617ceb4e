#!/bin/sh
# vm: -k 6.1 -g v2 -M overlay
# What cgset promises where systemd manages the tree: run by a systemd that is process 1, or else it starts one, the
# host's own, in a pid namespace on a writable copy of the host's root. Prints a line for each promise; ends with
# the number of broken ones.
set -u

broken=0
cd /tmp || exit

# promise WORDS COMMAND... - the command must succeed
promise() {
	what=$1
	shift
	if "$@" >/tmp/said 2>&1; then
		printf 'ok      %s\n' "$what"
	else
		printf 'BROKEN  %s\n' "$what"
		sed 's/^/        /' /tmp/said
		broken=$((broken + 1))
	fi
}

a_scope_is_delegated() {
	# shellcheck disable=SC2016 # for the inner shell
	cgset --scope job mem=60M procs=30 -- \
		sh -c 'cat /proc/self/cgroup; cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.max' >/tmp/inside 2>/tmp/err || {
		cat /tmp/inside /tmp/err
		return 1
	}
	cat /tmp/inside /tmp/err
	grep -Eq '^0::/system.slice/run-[^/]*\.scope/job$' /tmp/inside && grep -qx 62914560 /tmp/inside && [ ! -s /tmp/err ]
}

a_scope_keeps_status_and_tells_oom() {
	cgset --scope --oom-exit 9 job mem=40M -- sh -c 'dd if=/dev/zero of=/dev/null bs=90M count=1; exit 0' 2>/tmp/err
	status=$?
	cat /tmp/err
	[ $status = 9 ] && grep -q 'cgset: job: out of memory: limit 40M' /tmp/err || return
	cgset --scope job -- sh -c 'exit 7'
	[ $? = 7 ]
}

no_scope_stays() {
	systemctl list-units --all --no-legend 'run-*.scope' >/tmp/units || return
	cat /tmp/units
	[ ! -s /tmp/units ]
}

# Inside of a delegated unit there is nothing to warn of; elsewhere there is.
the_warning_knows_delegation() {
	cgset hand procs=20 2>/tmp/err || return
	cat /tmp/err
	grep -q "has not delegated 'hand'" /tmp/err || return
	systemctl daemon-reload
	[ "$(cat /sys/fs/cgroup/hand/pids.max)" = 20 ] || return
	cgset --remove hand || return
	systemd-run --quiet --wait --pipe -p Delegate=yes cgset --parent . --leaf sub procs=20 -- true >/tmp/out 2>&1 || {
		cat /tmp/out
		return 1
	}
	cat /tmp/out
	[ ! -s /tmp/out ]
}

a_units_group_is_told() {
	systemd-run --quiet --unit=own-test sleep 600 || return
	cgset system.slice/own-test.service procs=25 2>/tmp/err
	status=$?
	cat /tmp/err
	systemctl stop own-test
	[ $status = 0 ] && grep -q 'hint: systemctl set-property --runtime own-test.service' /tmp/err
}

# user_manager - a systemd of user daemon's own, as a login starts one
user_manager() {
	systemd-run --quiet --unit=manager --property=User=daemon --property=Type=notify --property=Delegate=yes \
		--property=RuntimeDirectory=manager --setenv=XDG_RUNTIME_DIR=/run/manager /lib/systemd/systemd --user
}

# as_user COMMAND... - by user daemon, from outside of that manager's groups
as_user() {
	setpriv --reuid daemon --regid daemon --init-groups env XDG_RUNTIME_DIR=/run/manager "$@"
}

a_users_scope_is_his_managers() {
	user_manager || return
	as_user cgset --scope --oom-exit 9 job mem=40M procs=30 -- \
		sh -c 'cat /proc/self/cgroup; dd if=/dev/zero of=/dev/null bs=90M count=1; exit 0' >/tmp/inside 2>/tmp/err
	status=$?
	cat /tmp/inside /tmp/err
	[ $status = 9 ] && grep -Eq '^0::/system.slice/manager.service/.*\.scope/job$' /tmp/inside || return
	grep -q 'cgset: job: out of memory: limit 40M' /tmp/err || return
	# What he starts in a group of his manager needs no scope: that group is his.
	as_user systemd-run --user --quiet --wait --pipe --property=Delegate=yes \
		cgset --leaf sub mem=40M -- cat /proc/self/cgroup >/tmp/inside 2>&1
	status=$?
	cat /tmp/inside
	[ $status = 0 ] && grep -Eq '^0::/system.slice/manager.service/.*\.service/sub$' /tmp/inside || return
	as_user cgset other mem=40M 2>/tmp/err
	status=$?
	cat /tmp/err
	systemctl stop manager
	[ $status = 1 ] && grep -q 'hint: run it as root' /tmp/err
}

# start_systemd - as process 1 of a container; its one unit is this script again.
start_systemd() {
	root=/run/all
	mkdir /run/upper /run/work $root
	mount -t overlay -o lowerdir=/,upperdir=/run/upper,workdir=/run/work overlay $root || return
	mkdir -p $root/opt/case
	cp -- "$(command -v cgset)" "$0" $root/opt/case || return
	cat >$root/etc/systemd/system/case.service <<-END
		[Unit]
		DefaultDependencies=no
		Requires=dbus.socket
		After=dbus.socket
		[Service]
		Type=oneshot
		Environment=PATH=/opt/case:/usr/sbin:/usr/bin:/sbin:/bin
		ExecStart=/bin/sh -c '/opt/case/${0##*/} >/opt/case/said 2>&1; echo \$\$? >/opt/case/status'
	END
	mount -t proc proc $root/proc
	mount --rbind /sys $root/sys
	mount --rbind /dev $root/dev
	mount -t tmpfs run $root/run
	mount -t tmpfs tmp $root/tmp
	/usr/bin/unshare --pid --fork --kill-child --mount-proc=$root/proc chroot $root \
		env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
		/lib/systemd/systemd --system --unit=case.service --log-target=console --show-status=no \
		</dev/null >/tmp/systemd.log 2>&1 &
	i=0
	until [ -s $root/opt/case/status ]; do
		i=$((i + 1))
		if [ $i -ge 450 ] || ! kill -0 $!; then
			printf 'BROKEN  systemd comes up\n'
			tail -n 20 /tmp/systemd.log
			return 1
		fi
		sleep 0.2
	done
	cat $root/opt/case/said
	return "$(cat $root/opt/case/status)"
}

main() {
	if [ "$(cat /proc/1/comm)" != systemd ]; then
		if [ ! -x /lib/systemd/systemd ] || [ ! -x /usr/bin/dbus-daemon ]; then
			echo 'skip    there is no systemd with dbus here: apt-get install systemd dbus'
			return
		fi
		start_systemd
		return
	fi
	promise 'a scope is delegated' a_scope_is_delegated
	promise 'a scope keeps the status and tells of OOM' a_scope_keeps_status_and_tells_oom
	promise 'no scope stays' no_scope_stays
	promise 'the warning knows delegation' the_warning_knows_delegation
	promise "a unit's group is told" a_units_group_is_told
	promise "a user's scope is his manager's" a_users_scope_is_his_managers
	return "$broken"
}

main
