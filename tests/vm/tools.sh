#!/bin/sh
# vm-short: -k 5.10 -m 512 -M loop -a suites=unshare,nsenter
# vm-short: -k newest -m 512 -M loop -a suites=unshare,nsenter
# vm-long: -k 5.10 -m 512 -M loop -t 900
# vm-long: -k 6.1 -m 512 -M loop -t 900
# vm-long: -q -c 1 -k 5.10 -m 768 -M "macvlan iptable_filter" -t 900 -a tests=beyond_uml
# vm-long: -q -c 1 -k 6.1 -m 768 -t 900 -a tests=samples
# vm-long: -q -c 1 -k 6.12 -m 768 -t 900 -a tests=samples
# vm-long: -q -c 1 -k newest -m 768 -M "macvlan iptable_filter" -t 900 -a tests=beyond_uml
# vm-long: -k 6.12 -m 512 -M loop -t 900
# vm-long: -k newest -m 512 -M loop -t 900
# The tools' own tests, those that cargo made of tests/*.rs, on this kernel: ./all has put them into target/vm.
# user-mode-linux starts programs eight times faster than an emulated PC, so it runs all that it can, and QEMU the
# rest: all of it on the oldest and the newest kernel, samples on those between. Prints what each test did; one that
# asks for what this kernel is too old for is skipped, with the reason.
set -u

# beyond_uml - the tests that take what Debian builds its user-mode-linux without. A new one that fails there with
# "Operation not supported" may belong here.
beyond_uml() {
	nftables=$(
		cat <<-END
			a_file_makes_a_network_once
			a_firewall_that_drops_by_default_is_named
			a_port_is_published_on_one_address_or_as_udp
			a_published_port_is_reached_from_everywhere
			a_taken_address_is_refused_with_the_mac_that_answered
			all_is_shown_in_words_as_json_and_as_a_drawing
			all_works_in_a_user_namespace_and_where_sysfs_is_masked
			diff_tells_what_is_missing_what_differs_and_what_is_too_much
			nat_comes_once_goes_whole_and_touches_nothing_else
			nat_is_switched_on_and_off_alone
			ships_reach_the_outside_by_the_hosts_address
			switches_are_shown_in_words_and_as_json
			what_is_published_goes_with_what_it_leads_to
			what_is_shown_as_a_plan_makes_the_same_again
			what_was_changed_is_told_as_json
			a_closed_port_is_3_and_told_from_one_that_a_firewall_refuses_or_swallows
			a_silent_router_is_stars_and_holds_nobody_up
			options_mean_what_tcptraceroute_means
		END
	)
	routing_tables=a_card_moves_to_the_switch_and_back_with_all_it_has
	perf_events=in_a_jail_no_attack_gets_through
	time_namespaces=every_namespace_is_new_and_the_others_are_not
	printf '%s\n' "$nftables" $routing_tables $perf_events $time_namespaces
}

# samples - some of them.
samples() {
	echo a_file_makes_a_network_once
	echo nat_comes_once_goes_whole_and_touches_nothing_else
	echo in_a_jail_no_attack_gets_through
}

# endurance - tests that are struck in each of their system calls, or do dozens of things at once: proven on the
# machine's kernel, they take minutes here.
endurance() {
	cat <<-END
		a_card_keeps_what_it_has_whatever_struck_its_move
		a_link_stopped_in_any_call_is_undone_or_whole
		a_switch_killed_in_any_call_is_completed_by_the_next_add
		an_add_or_del_struck_in_any_call_does_not_stop_the_next
		an_apply_stopped_in_any_call_is_undone_and_a_killed_one_completed
		nat_and_what_is_published_can_be_switched_off_whatever_struck_them
		ships_that_start_together_do_not_disturb_each_other
		what_a_link_killed_in_any_call_leaves_the_next_one_replaces
	END
}

# too_old - those that this kernel is too old for: the test, and why
too_old() {
	older 5.12 && echo 'read_only_holds_for_all_below_and_for_files a bind with options and all below it needs Linux 5.12'
	older 6.9 && echo 'a_process_is_named_by_pid_and_inode numbers of pidfds need Linux 6.9'
	older 6.11 && echo 'a_namespace_is_named_by_its_number numbers of namespaces need Linux 6.11'
}

older() { [ "$(printf '%s\n' "$1" "$(uname -r)" | sort -V | head -n 1)" != "$1" ]; }

# places - what the tests expect of a machine: they lay their own /run and /tmp over these, and write to /etc.
places() {
	# Programs start faster from memory than from the host's disk.
	mkdir /tmp/bin && mount --bind /tmp/bin /mnt
	for tool in unshare nsenter netns cgset; do cp "/run/bin/$tool" /tmp/bin; done
	cp -a /etc /tmp/etc && mount --bind /tmp/etc /etc
	# They name files of the source tree by the path that it had when they were compiled.
	source=$(cat /run/job/folder.repo)
	[ -d "$source" ] || { mkdir -p "$source" && mount --bind /run/repo "$source"; }
}

# word NAME - a word of the kernel's command line, its commas as spaces
word() { tr ' ' '\n' </proc/cmdline | sed -n "s/^$1=//p" | tr ',' ' '; }

# chosen PROGRAM - the tests of it that are run here, one a line
chosen() {
	"$1" --list 2>/dev/null | sed -n 's/: test$//p' >/tmp/all
	cat /tmp/all >>/tmp/known
	if [ -n "$named" ]; then
		grep -xF "$named" /tmp/all
	else
		grep -vxF "$(beyond_uml && endurance)" /tmp/all
	fi >/tmp/chosen
	too_old >/tmp/too_old
	while read -r name why; do
		if grep -qxF "$name" /tmp/chosen; then printf 'skip    %s: %s\n' "$name" "$why"; fi
	done </tmp/too_old >&2
	cut -d' ' -f1 /tmp/too_old | grep -vxF -f - /tmp/chosen
}

# suite PROGRAM - its lines "test NAME ... ok" in the words of ./all
suite() {
	cp "$1" /tmp/program
	tests=$(chosen /tmp/program) || return 0
	# shellcheck disable=SC2086 # names
	/tmp/program --include-ignored --exact $tests --test-threads=2 </dev/null >/tmp/said 2>&1
	status=$?
	sed -n 's/^test \(.*\) \.\.\. ok$/ok      \1/p; s/^test \(.*\) \.\.\. FAILED$/BROKEN  \1/p' /tmp/said
	sed -n "s/^test result: .*finished in /# ${1##*/}: /p" /tmp/said
	[ "$status" = 0 ] && grep -q "^test result: ok\. $(printf '%s\n' "$tests" | wc -l) passed" /tmp/said && return
	broken=$((broken + 1))
	printf 'BROKEN  %s ended with %s\n' "${1##*/}" "$status"
	sed 's/^/        /' /tmp/said
}

# all_known - a test that is named above and is in no suite has another name now.
all_known() {
	{ beyond_uml && endurance && too_old | cut -d' ' -f1; } | grep -vxF -f /tmp/known |
		sed 's/^/BROKEN  there is no test /' >/tmp/unknown
	cat /tmp/unknown
	[ ! -s /tmp/unknown ] || broken=$((broken + 1))
}

broken=0
places
# ENTRIES: the attacks on an entry watch so many of them; hundreds, too, are for the machine's own kernel.
export UNDER_TEST=/mnt TEST_SECONDS=240 ENTRIES=10
suites=$(word suites)
case $(word tests) in
beyond_uml) named=$(beyond_uml) ;;
samples) named=$(samples) ;;
*) named='' ;;
esac
for name in ${suites:-$(ls "$REPO/target/vm")}; do
	suite "$REPO/target/vm/$name"
done 2>&1
[ -n "$suites" ] || all_known
exit "$broken"
