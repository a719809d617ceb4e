#!/bin/sh
# shellcheck shell=dash disable=SC2016,SC2034,SC2154 # words for a shell inside; names of lib.sh
# Old kernels: the calls that they lack fail as if they were not there (strace sees to that), and the tools do their
# work the older way, or say in plain words what is missing.
. "${0%/*}/lib.sh"

# lacks LINUX - the calls that came after that version, of those that the tools ask for
lacks() {
	case $1 in
	5.10) echo mount_setattr ;;
	5.7) echo mount_setattr,close_range ;;
	5.4) echo mount_setattr,close_range,openat2,pidfd_getfd ;;
	5.2) echo mount_setattr,close_range,openat2,pidfd_getfd,pidfd_open,clone3 ;;
	4.19) echo mount_setattr,close_range,openat2,pidfd_getfd,pidfd_open,clone3,open_tree,move_mount,fsopen,pidfd_send_signal ;;
	esac
}
readonly VERSIONS='5.7 5.4 5.2 4.19'

# lacking CALLS ERROR TOOL ARGUMENT... - run it where these calls fail so
lacking() {
	local calls="$1" error="$2" tool="$3"
	shift 3
	strace -f -qqq -o "$T/calls" -e trace="$calls" -e inject="$calls:error=$error" -- "$SLIPWAY_BIN/$tool" "$@"
}

# on VERSION TOOL ARGUMENT...
on() {
	local version="$1"
	shift
	lacking "$(lacks "$version")" ENOSYS "$@"
}

# missed - the tool has asked for a call that was not there: else the check before this proves nothing.
missed() { check 'which was asked for more' grep -q INJECTED "$T/calls"; }

# A root of busybox, and a directory for it.
mkdir -p root/bin root/tmp root/proc root/sys root/dev root/data
cp "$(command -v busybox)" root/bin/busybox
for name in sh cat grep hostname id ls; do ln -s busybox "root/bin/$name"; done
mkdir source && echo carried >source/file
printf '%s\n' "$T/source /data none bind,ro 0 0" >fstab

# Inside, 9 is what the caller had open, and 3 is the directory that ls reads.
inside='hostname; cat /data/file; id -u; (echo x >/data/file) 2>/dev/null || echo refused; ls /proc/self/fd'
for version in $VERSIONS; do
	exec 9</dev/null
	check "a jail on Linux $version" on "$version" unshare --jail --close-fds --hostname ship --fstab fstab \
		--pivot-root root /bin/sh -c "$inside"
	exec 9<&-
	same 'is the same' "$(cat "$output")" "$(printf '%s\n' ship carried 0 refused 0 1 2 3)"
	missed
done

# With what is mounted below, and below that; each keeps what it had.
mkdir "$T/source/below"
mount -t tmpfs -o nosuid below source/below
mkdir 'source/below/far below'
mount -t tmpfs far "source/below/far below"
printf '%s\n' "$T/source /data none rbind,ro 0 0" >fstab
inside='for dir in /data /data/below "/data/below/far below"; do
	(echo x >"$dir/new") 2>/dev/null || echo refused
done
grep -c " /data[^ ]* ro[, ]" /proc/self/mountinfo; grep -c " /data/below ro,nosuid" /proc/self/mountinfo'
for version in 5.10 $VERSIONS; do
	check "all that is mounted below is read-only on Linux $version" on "$version" unshare --jail --fstab fstab \
		--pivot-root root /bin/sh -c "$inside"
	same 'each of the three' "$(cat "$output")" "$(printf '%s\n' refused refused refused 3 1)"
	missed
done
(echo x >source/below/new) || :
same 'and outside nothing is' "$(cat source/below/new)" x
umount -R source/below

mkfifo up down
/usr/bin/unshare -muinpCf --mount-proc --kill-child sh -c 'hostname target; echo up; read x' <down >up &
launcher=$!
exec 4>down
read -r line <up
target=$(cat "/proc/$launcher/task/$launcher/children")
target=${target% }
inside='hostname; readlink /proc/self/ns/pid'
expected=$(printf '%s\n' target "$(readlink "/proc/$target/ns/pid")")
for version in $VERSIONS; do
	check "nsenter on Linux $version" on "$version" nsenter -t "$target" -a sh -c "$inside"
	same 'is inside' "$(cat "$output")" "$expected"
done
check 'nsenter where setns takes no pidfd' lacking setns EINVAL:when=1 nsenter -t "$target" -a sh -c "$inside"
same 'is inside' "$(cat "$output")" "$expected"
missed
check_fails 1 'a directory cannot be carried in on Linux 4.19' on 4.19 nsenter -t "$target" -a \
	--bind "$T/source:/mnt" echo started
said 'and the remedy is named' 'hint: this needs Linux 5.2'
same 'nothing was started' "$(grep -c started "$output")" 0
exec 4>&-
wait "$launcher" || :

for version in $VERSIONS; do
	check "netns on Linux $version: add" on "$version" netns add web
	check 'exec' on "$version" netns exec web -- sh -c 'test "$(ip -o link | wc -l)" = 1'
	check 'delete' on "$version" netns delete --wait web
	same 'leaves nothing' "$(ls /run/netns 2>/dev/null)" ''
done
finish
