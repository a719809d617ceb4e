#!/bin/sh
# shellcheck shell=dash disable=SC2016,SC2154 # words for a shell inside; names of lib.sh
# The static tools at work in roots that have little or are old: busybox alone, Debian 11, Debian 12. The roots are
# made with the machine's network, kept, and never written to: each test lays an overlay over them.
# sandbox: network
readonly SUITES='bullseye bookworm'
if [ -z "${OLD_ROOTS:-}" ]; then
	top=$(cd "${0%/*}/../.." && pwd)
	export OLD_ROOTS="${SLIPWAY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/slipway}/roots"
	mkdir -p "$OLD_ROOTS"
	for suite in $SUITES; do
		exec 8>"$OLD_ROOTS/$suite.lock"
		flock 8
		[ -d "$OLD_ROOTS/$suite" ] || "${SLIPWAY_BIN:-$top/target/bin}/mkrootfs" "$suite" "$OLD_ROOTS/$suite" || exit 1
		exec 8>&-
	done
	exec "$top/tests/sandbox" /usr/bin/unshare --mount sh "$0"
fi
. "${0%/*}/lib.sh"

# laid LOWER NAME - the root NAME: LOWER with the tools in /tools, to be written to
laid() {
	mkdir -p "over/$2" "$2"
	mount -t tmpfs over "over/$2"
	mkdir "over/$2/upper" "over/$2/work"
	mount -t overlay -o "lowerdir=$1,upperdir=over/$2/upper,workdir=over/$2/work" "$2" "$2"
	mkdir -p "$2/tools" "$2/proc" "$2/sys" "$2/dev" "$2/run" "$2/tmp" "$2/etc"
	[ -e "$2/dev/null" ] || : >"$2/dev/null"
	cp "$SLIPWAY_BIN/unshare" "$SLIPWAY_BIN/nsenter" "$SLIPWAY_BIN/netns" "$SLIPWAY_BIN/cgset" "$SLIPWAY_BIN/mkrootfs" inside "$2/tools/"
	mount -t proc proc "$2/proc"
	mount -t tmpfs run "$2/run"
	mount --bind /dev/null "$2/dev/null"
}

# in_root NAME FUNCTION - that one of the script below, run there by a shell of its own
in_root() { env -i PATH=/tools:/usr/sbin:/usr/bin:/sbin:/bin chroot "$1" /bin/sh -eu /tools/inside "$2"; }

cat >inside <<'END'
# Functions before all: a static busybox takes its own programs before those on PATH.
for tool in unshare nsenter; do eval "$tool() { /tools/$tool \"\$@\"; }"; done
same() { test "$1" = "$2" || { echo "'$1' is not '$2'" && false; }; }
versions() { for tool in unshare nsenter netns cgset mkrootfs; do "/tools/$tool" --version | grep '0\.[0-9]*\.[0-9]'; done; }
namespaces() {
	unshare -m -u -i -n -p -f -C --mount-proc sh -c 'hostname inside; hostname; echo $$; ls -d /proc/[0-9]*' >/tmp/said
	same "$(head -n 3 /tmp/said | tr '\n' ' ')" 'inside 1 /proc/1 '
}
jail() {
	mkdir -p /tmp/root
	unshare -m sh -euc 'mount --bind / /tmp/root
		exec /tools/unshare --jail --hostname ship --pivot-root /tmp/root sh -c "hostname; id -u"' >/tmp/said
	same "$(cat /tmp/said)" "$(printf 'ship\n0')"
}
enter() {
	mkfifo /tmp/up /tmp/down
	unshare -m -u -n -p -f --pid-file /run/pid sh -c 'hostname target; echo up >/tmp/up; read line </tmp/down' &
	read -r line </tmp/up
	same "$(nsenter -t "$(cat /run/pid)" -a hostname)" target
	echo end >/tmp/down
	wait $!
}
networks() {
	netns add web
	netns exec web true
	same "$(netns list)" 'web live'
	netns delete web
	same "$(netns list)" ''
}
limits() {
	status=0
	cgset web mem=50M 2>/tmp/said || status=$?
	same "$status" 1
	grep 'no cgroup file system is mounted' /tmp/said
}
# On an overlay, where a file has another device than its directory: once it came out empty.
copies() {
	mkdir /tmp/a
	echo x >/tmp/a/file
	mkrootfs clone /tmp/a /tmp/b
	same "$(cat /tmp/b/file)" x
}
"$1"
END

mkdir -p little/bin
cp "$(command -v busybox)" little/bin/busybox
for name in $(busybox --list); do
	case $name in busybox | unshare | nsenter) ;; *) ln -s busybox "little/bin/$name" ;; esac
done
laid "$PWD/little" busybox
for suite in $SUITES; do laid "$OLD_ROOTS/$suite" "$suite"; done

for root in busybox $SUITES; do
	check "$root: each tool says its version" in_root "$root" versions
	check 'unshare makes namespaces' in_root "$root" namespaces
	check 'and a jail with a root of its own' in_root "$root" jail
	check 'nsenter enters all of a process' in_root "$root" enter
	check 'netns has names for networks' in_root "$root" networks
	check 'cgset says what is missing' in_root "$root" limits
	check 'mkrootfs copies a root' in_root "$root" copies
done
for root in busybox $SUITES; do umount -R "$root" "over/$root"; done
finish
