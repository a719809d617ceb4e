#!/bin/sh
# vm: -k 5.10 -m 512 -a suites=unshare,nsenter
# vm: -k newest -m 512 -a suites=unshare,nsenter
# vm-long: -k 5.10 -m 512 -t 600
# vm-long: -k 6.1 -m 512 -t 600
# vm-long: -k 6.12 -m 512 -t 600
# vm-long: -k newest -m 512 -t 600
# vm-long: -q -k 6.1 -m 768 -t 600 -a suites=unshare,nsenter,seccomp
# The tools' own tests, those that cargo made of tests/*.rs, on this kernel: ./all has put them into target/vm.
# Prints what each test did; a test that asks for what a kernel does not have is left out by name, with the reason.
set -u

# missing - those left out on this kernel: the test, and why
missing() {
	[ -e /proc/self/ns/time ] ||
		echo 'every_namespace_is_new_and_the_others_are_not this kernel is built without time namespaces'
	[ -e /proc/sys/kernel/perf_event_paranoid ] ||
		echo 'in_a_jail_no_attack_gets_through this kernel is built without perf events, one of the attacks'
}

# places - what the tests expect of a machine: they lay their own /run and /tmp over these, and write to /etc.
places() {
	mount --bind /run/bin /mnt
	cp -a /etc /tmp/etc && mount --bind /tmp/etc /etc
	# They name files of the source tree by the path that it had when they were compiled.
	source=$(cat /run/job/folder.repo)
	[ -d "$source" ] || { mkdir -p "$source" && mount --bind /run/repo "$source"; }
}

# suite PROGRAM - its lines "test NAME ... ok" in the words of ./all
suite() {
	set -- "$1" --include-ignored --exact
	while read -r name why; do
		"$1" --list --exact "$name" 2>/dev/null | grep -q '^1 test' || continue
		printf 'skip    %s: %s\n' "$name" "$why"
		set -- "$@" --skip "$name"
	done <<-END
		$(missing)
	END
	"$@" </dev/null >/tmp/said 2>&1
	status=$?
	sed -n 's/^test \(.*\) \.\.\. ok$/ok      \1/p; s/^test \(.*\) \.\.\. FAILED$/BROKEN  \1/p' /tmp/said
	[ "$status" = 0 ] && grep -q '^test result: ok' /tmp/said && return
	broken=$((broken + 1))
	printf 'BROKEN  %s ended with %s\n' "${1##*/}" "$status"
	sed 's/^/        /' /tmp/said
}

broken=0
places
export UNDER_TEST=/mnt
suites=$(tr ' ' '\n' </proc/cmdline | sed -n 's/^suites=//p' | tr ',' ' ')
for name in ${suites:-$(ls "$REPO/target/vm")}; do
	suite "$REPO/target/vm/$name"
done
exit "$broken"
