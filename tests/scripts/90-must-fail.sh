#!/bin/sh
# The harness itself: every way for a test to fail is seen as a failure, by the file and by the runner.
. "${0%/*}/lib.sh"
unset REQUIRE_ALL
export TMPDIR="$T"

# file LINE... - a test file of these lines, beside a copy of lib.sh.
file() {
	mkdir -p "$T/tests/scripts"
	cp -- "$here/lib.sh" "$T/tests/scripts/lib.sh"
	# shellcheck disable=SC2016 # for the shell that runs the file
	printf '%s\n' '. "${0%/*}/lib.sh"' "$@" >"$T/tests/scripts/10-case.sh"
}
case_file() { sh "$T/tests/scripts/10-case.sh"; }
middle_fails() {
	false
	true
}

file "check good true" finish
check 'a file whose tests pass, passes' case_file

file "check bad false" finish
check_fails 1 'a command that fails' case_file
said 'is told by name' 'not ok 1 - bad'

file "check_fails 3 'other status' sh -c 'exit 4'" finish
check_fails 1 'another status than the promised one' case_file

file "check_fails any 'no failure' true" finish
check_fails 1 'a failure that does not come' case_file

file "same text is other" finish
check_fails 1 'a text that differs' case_file

file "check prints echo yes" "said missing no" finish
check_fails 1 'a text that was not printed' case_file

file "check first true"
check_fails 1 'no finish' case_file

file "check first true" false finish
check_fails 1 'a command that fails between the tests' case_file
said 'says its status' 'reached its end (status 1)'

file finish
check_fails 1 'no test at all' case_file

file "middle() { false; true; }" "check function middle" finish
check_fails 1 'a function whose first command fails' case_file
check_fails 1 'here too' middle_fails

file "check late within 1 false" finish
check_fails 1 'what does not come within its time' case_file

file "skip much 'no such package'" finish
check 'a skip is not a failure' case_file
check_fails 1 'but is where all is required' env REQUIRE_ALL=1 sh "$T/tests/scripts/10-case.sh"
file "skip much 'kernel: no such thing'" finish
check 'unless the kernel cannot' env REQUIRE_ALL=1 sh "$T/tests/scripts/10-case.sh"

file "check good true" "check bad false" "skip more 'no reason'" finish
check_fails 1 'the runner fails with it' "$here/run" "$T/tests/scripts/10-case.sh"
said 'and counts' '1 passed, 1 failed, 1 skipped'

# shellcheck disable=SC2016
file 'check good true' 'trap - EXIT' 'exit 0'
check_fails 1 'the runner sees a file that leaves early with 0' "$here/run" "$T/tests/scripts/10-case.sh"

file 'check good true' 'kill -9 $$' finish
check_fails 1 'and one that is killed' "$here/run" "$T/tests/scripts/10-case.sh"

file 'check good true' 'exec sleep 100'
check_fails 1 'and one that does not end' env SANDBOX_SECONDS=1 "$here/run" "$T/tests/scripts/10-case.sh"

finish
