//! nsenter as a drop-in for that of util-linux: options, messages, statuses and signals. What the installed one
//! has, or a newer build of it (UNDER_TEST=theirs:DIR), is proven there first.

mod common;

use common::{inside, run, theirs, theirs_lacks};

/// A target in all new namespaces but user and time; `$P` is its pid. Ends with the test.
const TARGET: &str = r#"
    mkfifo $T/up $T/down
    /usr/bin/unshare -muinpCf --mount-proc --kill-child sh -c 'hostname target; echo up; read x' <$T/down >$T/up &
    exec 4>$T/down
    read line <$T/up
    P=$(cat /proc/$!/task/$!/children); P=${P% }
"#;

/// As above, in a user namespace of uid 1000; `$U` runs a command as that user.
const OF_A_USER: &str = r#"
    mkfifo $T/up $T/down
    U="setpriv --reuid=1000 --regid=1000 --clear-groups"
    $U /usr/bin/unshare -rmnpf --mount-proc --kill-child sh -c 'echo up; read x' <$T/down >$T/up &
    exec 4>$T/down
    read line <$T/up
    P=$(cat /proc/$!/task/$!/children); P=${P% }
    chmod 755 $T
"#;

fn with_target(script: &str) -> common::Outcome {
    inside(&(TARGET.to_owned() + script))
}

fn with_user(script: &str) -> common::Outcome {
    inside(&(OF_A_USER.to_owned() + script))
}

fn newest() -> bool {
    !theirs_lacks("nsenter", "--user-parent")
}

#[test]
fn misuse_is_told_in_the_known_words() {
    let said = |words: &[&str], text: &str| drop(run("nsenter", words).ended_with(1).said(text));
    said(&["-t", "1", "-n", "-S", "x", "true"], "failed to parse uid: 'x'");
    said(&["-t", "1", "-n", "-G", "x", "true"], "failed to parse gid: 'x'");
    said(&["--net=/no/such/file", "true"], "cannot open /no/such/file: No such file or directory");
    said(&["--no-such"], "unrecognized option '--no-such'");
    said(&["-x"], "invalid option -- 'x'");
    said(&["-t"], "option requires an argument -- 't'");
    said(&["--all=1"], "option '--all' doesn't allow an argument");
    said(&["-x"], "Try 'nsenter --help' for more information.");
    if newest() {
        said(&["-t", "x", "-n", "true"], "failed to parse PID argument 'x'");
        said(&["-t", "1", "-t", "2", "-n", "true"], "option --target may be given only once");
        said(&["true"], "no namespace specified");
        said(&["-t", "1", "-n", "-w/", "-W/", "true"], "options --wd and --wdns cannot be combined");
        said(&["--u", "-n", "true"], "option '--u' is ambiguous; possibilities: '--uts' '--user'");
        said(&["-t", "1", "-N", "x", "true"], "failed to parse file descriptor");
    }
    if !theirs() {
        said(&["-a", "true"], "no target PID specified");
        said(&["-n", "true"], "no target PID specified");
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn help_to_a_full_disk_is_a_failure() {
    inside(r#""$BIN/nsenter" --help >/dev/full || echo $?"#).ended_with(0).printed("1\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn long_options_may_be_abbreviated_and_options_end_at_the_program() {
    with_target(
        r#"
        "$BIN/nsenter" --targ $P --ut hostname
        "$BIN/nsenter" --target=$P --uts=/proc/$P/ns/uts hostname
        "$BIN/nsenter" -t$P -u echo -F --all
        "$BIN/nsenter" -t $P -u -- echo -n
        echo 'echo $0' | SHELL=/bin/sh "$BIN/nsenter" -t $P -u
    "#,
    )
    .ended_with(0)
    .printed("target\ntarget\n-F --all\n-sh\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_wrong_file_is_refused_by_the_name_of_the_namespace() {
    with_target(
        r#"
        "$BIN/nsenter" --net=/etc/passwd true || echo $?
        "$BIN/nsenter" --net=/proc/$P/ns/uts true || echo $?
    "#,
    )
    .ended_with(0)
    .said("reassociate to namespace 'ns/net' failed: Invalid argument")
    .printed("1\n1\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_named_file_takes_the_place_of_the_targets_namespace() {
    with_target(
        r#"
        hostname own
        "$BIN/nsenter" -t $P -a --uts=/proc/self/ns/uts hostname
        "$BIN/nsenter" --uts=/proc/self/ns/uts -a -t $P hostname
    "#,
    )
    .ended_with(0)
    .printed("own\nown\n");
}

/// util-linux 2.41 to 2.42.1 skipped the namespaces.
#[test]
#[ignore = "needs root: tests/run"]
fn closed_standard_streams_change_nothing() {
    with_target(
        r#"
        "$BIN/nsenter" -t $P -u hostname <&-
        "$BIN/nsenter" -t $P -a hostname <&- 2>&-
        "$BIN/nsenter" -t $P -a sh -c 'hostname >/tmp/t/name' >&- <&- 2>&-
        cat $T/name
    "#,
    )
    .ended_with(0)
    .printed("target\ntarget\ntarget\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn nothing_of_ours_is_handed_on() {
    with_target(
        r#"
        outside=$(ls /proc/self/fd | wc -l)
        for options in -n -a "-a -r -w"; do
            [ "$("$BIN/nsenter" -t $P $options ls /proc/self/fd | wc -l)" = "$outside" ] || echo "more with $options"
        done
        sig() { "$@" grep -E 'Sig(Blk|Ign)' /proc/self/status; }
        sig env >$T/outside; sig "$BIN/nsenter" -t $P -a | cmp - $T/outside
        sig "$BIN/nsenter" -t $P -u | cmp - $T/outside
    "#,
    )
    .ended_with(0)
    .printed("");
}

#[test]
#[ignore = "needs root: tests/run"]
fn without_a_fork_the_children_are_inside() {
    with_target(
        r#"
        "$BIN/nsenter" -t $P -p -F sh -c 'echo $(readlink /proc/$$/ns/pid); sh -c "echo \$\$"' >$T/got
        { readlink /proc/self/ns/pid; cat $T/got; } | uniq -d | wc -l
        tail -n 1 $T/got | grep -qx '[0-9]' && echo inside
    "#,
    )
    .ended_with(0)
    .printed("1\ninside\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn ids_are_set_and_groups_dropped() {
    with_target(
        r#"
        setpriv --groups=5,6 "$BIN/nsenter" -t $P -n id -G
        setpriv --groups=5,6 "$BIN/nsenter" -t $P -n -G 7 -S 8 id
        setpriv --groups=5,6 "$BIN/nsenter" -t $P -a -S 8 id
    "#,
    )
    .ended_with(0)
    .printed(
        "0 5 6\nuid=8(mail) gid=7(lp) groups=7(lp)\nuid=8(mail) gid=0(root) groups=0(root),5(tty),6(disk)\n",
    );
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_user_enters_his_own_container_and_root_that_of_another() {
    with_user(
        r#"
        $U "$BIN/nsenter" -t $P -U -n -p -m --preserve-credentials sh -c 'id -u; echo $$ | grep -cx "[0-9]"'
        "$BIN/nsenter" -t $P -a id -u
        "$BIN/nsenter" -t $P -n -m -p sh -c 'id -u; readlink /proc/self/ns/user' >$T/got
        { echo 0; readlink /proc/self/ns/user; } | cmp - $T/got
        $U "$BIN/nsenter" -t $P -U id -u || echo $?
        $U "$BIN/nsenter" -t $P -n true || echo $?
    "#,
    )
    .ended_with(0)
    .said("setgroups failed: Operation not permitted")
    .printed("0\n1\n0\n1\n1\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn what_helps_is_hinted_at() {
    if theirs() {
        return;
    }
    let got = with_user(
        r#"
        $U "$BIN/nsenter" -t $P -U true || echo $?
        $U "$BIN/nsenter" -t $P -n true || echo $?
        $U "$BIN/nsenter" -t $$ -r true || echo $?
        $U "$BIN/nsenter" -t $$ -a true || echo $?
        "$BIN/nsenter" -t $$ -U true || echo $?
        "$BIN/nsenter" -t $P -U -S 5 true || echo $?
        "$BIN/nsenter" -t 999999999 -n true || echo $?
        "$BIN/nsenter" -t $P:1 -n true || echo $?
        cp "$BIN/nsenter" $T/nsenter; mount --bind $T /proc
        $T/nsenter -t $P -n echo works without /proc
        $T/nsenter -t 999999999 -a true || echo $?
    "#,
    )
    .ended_with(0);
    assert_eq!(got.out, "1\n1\n1\n1\n1\n1\n1\n1\nworks without /proc\n1\n", "{}", got.err);
    for hint in [
        "hint: add --preserve-credentials\n",
        "hint: run it as root, or enter the user namespace too (-U)\n",
        "hint: the user namespace does not have this id: see /proc/PID/uid_map and gid_map\n",
        "cannot open /proc/1/root: Permission denied\nhint: run it as root\n",
        "stat of /proc/1/ns/user failed: Permission denied\nhint: run it as root\n",
        "hint: nobody can enter the user namespace that he is in: leave -U out\n",
        "hint: is the process still running?\n",
        "hint: /proc is not mounted: mount -t proc proc /proc\n",
    ] {
        assert!(got.err.contains(hint), "{hint}{}", got.err);
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_pid_namespace_without_its_process_1_is_told() {
    inside(
        r#"
        touch $T/pid; mount --make-private /tmp
        /usr/bin/unshare --pid=$T/pid -f --mount-proc true
        "$BIN/nsenter" --pid=$T/pid true || echo $?
    "#,
    )
    .ended_with(0)
    .said("fork failed: Cannot allocate memory")
    .printed("1\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_stopped_child_stops_nsenter_and_goes_on_with_it() {
    with_target(
        r#"
        mkfifo $T/said
        "$BIN/nsenter" -t $P -p sh -c 'echo up; kill -STOP $$; exit 6' >$T/said &
        N=$!
        read line <$T/said
        until grep -q '^State:.T' /proc/$N/status; do sleep 0.02; done
        kill -CONT $N
        wait $N || echo $?
    "#,
    )
    .ended_with(0)
    .printed("6\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_signal_ends_nsenter_alone_unless_it_is_forwarded() {
    with_target(
        r#"
        mkfifo $T/said $T/in
        "$BIN/nsenter" -t $P -p sh -c 'echo up; read x; echo alive' <$T/in >$T/said &
        N=$!
        exec 6>$T/in
        exec 5<$T/said
        read line <&5
        kill -TERM $N
        wait $N 2>/dev/null || echo $?
        echo >&6
        cat <&5
        sh -c 'trap "" CHLD; "$BIN/nsenter" -t '$P' -p sh -c "exit 3"' || echo $?
    "#,
    )
    .ended_with(0)
    .printed("143\nalive\n3\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_parent_of_a_user_namespace_and_the_namespace_of_a_socket_are_entered() {
    if !newest() {
        return;
    }
    inside(
        r#"
        mkfifo $T/up $T/down
        setpriv --reuid=1000 --regid=1000 --clear-groups /usr/bin/unshare -r --kill-child -f /usr/bin/unshare -r -f \
            perl -e '$^F = 9; socket(S, 1, 1, 0); print STDERR fileno(S), "\n"; exec "/usr/bin/unshare", "-n", "sh", "-c", "echo up; read x"' \
            <$T/down >$T/up 2>$T/number &
        exec 4>$T/down
        read line <$T/up
        outer=$!
        inner=$(cat /proc/$outer/task/$outer/children); inner=${inner% }
        inner=$(cat /proc/$inner/task/$inner/children); inner=${inner% }
        "$BIN/nsenter" -t $inner --user-parent readlink /proc/self/ns/user >$T/got
        readlink /proc/$outer/ns/user | cmp - $T/got
        "$BIN/nsenter" -t $inner -N $(cat $T/number) readlink /proc/self/ns/net >$T/got
        readlink /proc/self/ns/net | cmp - $T/got
        "$BIN/nsenter" -t $inner -n readlink /proc/self/ns/net | cmp -s - $T/got || echo another
        "$BIN/nsenter" -t $inner -N 77 true 2>/dev/null || echo $?
        "$BIN/nsenter" -t $inner -N 0 true 2>/dev/null || echo $?
    "#,
    )
    .ended_with(0)
    .printed("another\n1\n1\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_process_is_named_by_pid_and_inode() {
    if !newest() {
        return;
    }
    with_target(
        r#"
        inode=$(perl -e 'my $fd = syscall(434, $ARGV[0] + 0, 0); open my $f, "<&=", $fd or die; print((stat $f)[1])' $P)
        "$BIN/nsenter" -t $P:$inode -u hostname
        "$BIN/nsenter" -t $P:$((inode + 1)) -u hostname || echo $?
    "#,
    )
    .ended_with(0)
    .said("failed to obtain a valid file descriptor for PID")
    .printed("target\n1\n");
}

/// Ids that are followed are those that the target has for itself, not for us.
#[test]
#[ignore = "needs root: tests/run"]
fn followed_ids_are_those_inside() {
    if newest() {
        with_user(r#""$BIN/nsenter" -t $P -a -S follow -G follow sh -c 'id -u; id -g'"#)
            .ended_with(0)
            .printed("0\n0\n");
    }
}

/// On a kernel that cannot, the sentence says so.
#[test]
#[ignore = "needs root: tests/run"]
fn a_namespace_is_named_by_its_number() {
    if !newest() {
        return;
    }
    let got = with_target(
        r#"
        id=$(perl -e 'open my $f, "<", "/proc/$ARGV[0]/ns/mnt"; my $id = "\0" x 8; ioctl($f, 0x8008b705, $id) or die $!; print unpack "Q", $id' $P)
        readlink /proc/$P/ns/mnt >$T/want
        "$BIN/nsenter" --mount=:$id readlink /proc/self/ns/mnt 2>$T/said | cmp -s - $T/want && echo entered
        cat $T/said
    "#,
    )
    .ended_with(0);
    assert!(
        got.out == "entered\n"
            || (got.out.contains("cannot open namespace of id") && got.out.contains("6.19"))
            || theirs(),
        "{got:?}"
    );
}

#[test]
#[ignore = "needs root: tests/run"]
fn capabilities_of_a_user_namespace_are_kept_by_another_user() {
    if theirs() {
        return; // with -U alone util-linux keeps nothing
    }
    with_user(
        r#"
        ambient() { "$@" grep CapAmb /proc/self/status | grep -q 'CapAmb:.0*$' && echo none || echo kept; }
        ambient "$BIN/nsenter" -t $P -U --keep-caps --preserve-credentials
        ambient "$BIN/nsenter" -t $P -a --keep-caps
        ambient "$BIN/nsenter" -t $P -a
        ambient "$BIN/nsenter" -t $P -n --keep-caps
    "#,
    )
    .ended_with(0)
    .printed("kept\nkept\nnone\nnone\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_targets_environment_is_the_whole_and_names_the_program() {
    if !newest() {
        return;
    }
    inside(
        r#"
        mkdir $T/bin; printf '#!/bin/sh\necho found\n' >$T/bin/only-there; chmod +x $T/bin/only-there
        mkfifo $T/up $T/down
        /usr/bin/env -i /bin/sh -c 'echo up; exec env -i /bin/sleep 60' >$T/up &
        bare=$!
        read line <$T/up
        until grep -qx sleep /proc/$bare/comm; do sleep 0.02; done
        timeout 20 "$BIN/nsenter" -t $bare -e -n /usr/bin/env
        env -i PATH=$T/bin A=1 A=2 /bin/sh -c 'echo up; exec /bin/sleep 60' >$T/up &
        full=$!
        read line <$T/up
        # In the midst of an exec there is no environment to be read.
        until grep -qx sleep /proc/$full/comm && grep -qz '^PATH=' /proc/$full/environ; do sleep 0.02; done
        "$BIN/nsenter" -t $full -e -n only-there
        kill $bare $full
    "#,
    )
    .ended_with(0)
    .printed("found\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn root_and_directory_need_no_namespace() {
    if theirs() {
        return; // 2.41 and later refuse; 2.38.1 leaves the working directory outside
    }
    inside(
        r#"
        mkdir -p $T/tree/srv; cp "$(command -v busybox)" $T/tree/pwd
        mkfifo $T/up
        chroot $T/tree /pwd >/dev/null
        (cd /usr; echo up >$T/up; exec sleep 60) &
        read line <$T/up
        until grep -qx sleep /proc/$!/comm; do sleep 0.02; done
        "$BIN/nsenter" -t $! -w pwd
        "$BIN/nsenter" -t $! -r pwd
        "$BIN/nsenter" -r$T/tree -W /srv /pwd
        "$BIN/nsenter" -t $! -Z -n true && echo no SELinux, no matter
        kill $!
    "#,
    )
    .ended_with(0)
    .printed("/usr\n/\n/srv\nno SELinux, no matter\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn limits_powers_and_system_calls_are_reduced() {
    if theirs() {
        return;
    }
    with_target(
        r#"
        show() { grep -E "^($1):" /proc/self/status | tr '\n' ' '; }
        "$BIN/nsenter" -t $P -a --caps chown,kill -S 8 grep -E 'Cap(Eff|Bnd)|NoNewPrivs' /proc/self/status
        "$BIN/nsenter" -t $P -a --seccomp default grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status
        "$BIN/nsenter" -t $P -a --seccomp default --caps default sh -c '/usr/bin/unshare -U true 2>/dev/null || echo refused'
        "$BIN/nsenter" -t $P -a --rlimit nofile=64:128 --rlimit core=0 sh -c 'ulimit -Sn; ulimit -Hn; ulimit -c'
    "#,
    )
    .ended_with(0)
    .printed(
        "CapEff:\t0000000000000021\nCapBnd:\t0000000000000021\nNoNewPrivs:\t0\n\
         NoNewPrivs:\t0\nSeccomp:\t2\nrefused\n64\n128\n0\n",
    );
}

/// A change of ids undoes the tie, so it must come before.
#[test]
#[ignore = "needs root: tests/run"]
fn the_tie_to_the_child_outlives_its_change_of_ids() {
    if theirs() {
        return;
    }
    with_target(
        r#"
        mkfifo $T/said; chmod 666 $T/said
        for options in "-S 8 -G 8" "--caps chown,kill" "-S 8 --pty"; do
            "$BIN/nsenter" -t $P -a $options --kill-child sh -c 'trap "" HUP; echo up; exec sleep 60' </dev/null >$T/said &
            exec 5<$T/said
            read line <&5
            kill -KILL $!
            cat <&5
            echo gone
        done
    "#,
    )
    .ended_with(0)
    .printed("gone\ngone\ngone\n");
}
