# shellcheck shell=dash
# lib.sh: TAP for shell tests (POSIX sh, no dependency). A test file NN-topic.sh is:
#
#   #!/bin/sh
#   . "${0%/*}/lib.sh"                                sets -eu; $T: empty folder, also the working directory
#   check 'a ship starts' ship start web              passes when the command ends with 0
#   check_fails 125 'a slash is refused' ship create a/b   passes on that status only; 'any': not 0
#   said 'it names the name' "'a/b'"                  the command checked last printed this text
#   same 'the address' "$(ship address web)" 10.0.0.2      two texts: what is, what should be
#   check 'it answers' within 10 ping -c1 10.0.0.2    again and again, for 10 seconds at most; no sleeps
#   skip 'over OVS' 'no openvswitch-switch'           fails with REQUIRE_ALL=1, as in CI, unless the reason
#                                                     begins with 'kernel: ' (nothing to install helps)
#   finish                                            without it the file has failed
#
# Commands are on PATH: $SLIPWAY_BIN (the tools under test), the system's, the scripts. A function as a command runs
# under set -e in a subshell. tests/scripts/run gives each file namespaces of its own, /run empty, no network;
# '# sandbox: network' on a line of its own in the file keeps the machine's.
set -eu

here=$(cd "${0%/*}" && pwd)
top=${here%/tests/*}
: "${SLIPWAY_BIN:=$top/target/bin}"
export SLIPWAY_BIN PATH="$SLIPWAY_BIN:$PATH:/usr/sbin:/sbin:$top/scripts" # last: 'install' stays the system's
kept=$(mktemp -d "${TMPDIR:-/tmp}/slipway-test.XXXXXX")
T=$kept/t output=$kept/output
mkdir "$T" && : >"$output"
number=0 failed=0 ended=0
trap 'ended=$?; trap - EXIT; result 1 "reached its end (status $ended)"; end' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
cd "$T"

# result STATUS NAME - one TAP line.
result() {
	number=$((number + 1))
	[ "$1" -ne 0 ] || { echo "ok $number - $2" && return; }
	failed=$((failed + 1))
	echo "not ok $number - $2"
}

# attempt COMMAND... - $status, and all it printed in $output. (Not 'if' or '||': they would switch set -e off in it.)
attempt() {
	set +e
	(
		set -e
		"$@"
	) >"$output" 2>&1 </dev/null
	status=$?
	set -e
}

check() { check_status 0 "$@"; }
check_fails() { check_status "$@"; }
check_status() {
	local want="$1" name="$2" bad=0
	shift 2
	attempt "$@"
	case $want in any) [ "$status" -ne 0 ] || bad=1 ;; *) [ "$status" -eq "$want" ] || bad=1 ;; esac
	result "$bad" "$name"
	[ "$bad" -eq 0 ] || sed "s/^/# /;1i # status $status, not $want, of: $*" "$output"
}

said() {
	if grep -qF -e "$2" -- "$output"; then result 0 "$1"; else
		result 1 "$1"
		sed "s/^/# /;1i # did not print: $2" "$output"
	fi
}

same() {
	[ "$2" = "$3" ] || { result 1 "$1" && printf '%s\n' "is:" "$2" "should be:" "$3" | sed 's/^/# /' && return; }
	result 0 "$1"
}

within() {
	local until=$(($(date +%s) + $1))
	shift
	until "$@"; do [ "$(date +%s)" -lt "$until" ] && command sleep 0.05 || return 1; done
}

skip() {
	case ${REQUIRE_ALL:-}:$2 in
	:* | *:kernel:*) result 0 "$1 # SKIP $2" ;;
	*) result 1 "$1 (skipped: $2)" ;;
	esac
}

finish() {
	trap - EXIT
	[ "$number" -gt 0 ] || result 1 "has a test in it"
	end
}
end() {
	echo "1..$number"
	cd /
	[ "$failed" -eq 0 ] || { echo "# kept: $T" && exit 1; }
	rm -rf -- "$kept"
	exit 0
}
