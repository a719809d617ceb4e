//! The real nsenter binary against the real kernel; what util-linux promises is proven on util-linux first
//! (UNDER_TEST=theirs). The targets are made by the system's unshare, or by ours where only it can.

mod common;

use common::{docs_agree, inside, inside_with, run, theirs, unique};

/// A target in all new namespaces but user and time; `$P` is its pid. Ends with the test.
const TARGET: &str = r#"
    mkfifo $T/up $T/down
    /usr/bin/unshare -muinpCf --mount-proc --kill-child sh -c 'hostname target; mount -t tmpfs x /mnt; echo up; read x' <$T/down >$T/up &
    exec 4>$T/down
    read line <$T/up
    P=$(cat /proc/$!/task/$!/children); P=${P% }
"#;

/// A jail on busybox in which `program` runs; `$P` is its process 1.
fn in_a_jail(options: &str, program: &str, script: &str) -> common::Outcome {
    in_a_jail_prepared("", options, program, script, &[])
}

fn in_a_jail_prepared(
    prepare: &str,
    options: &str,
    program: &str,
    script: &str,
    environment: &[(&str, &str)],
) -> common::Outcome {
    let script = format!(
        r#"
        mkdir -p $T/root/bin $T/root/tmp
        cp "$(command -v busybox)" $T/root/bin/busybox
        for name in $($T/root/bin/busybox --list); do ln -s busybox $T/root/bin/$name 2>/dev/null || true; done
        mkfifo $T/up $T/down
        {prepare}
        "$BIN/unshare" --jail --hostname jail --pid-file $T/pid --pivot-root $T/root {options} \
            /bin/sh -c '{program}' <$T/down >$T/up &
        exec 4>$T/down
        exec 5<$T/up
        read line <&5
        P=$(cat $T/pid)
        {script}
    "#
    );
    inside_with(&script, environment)
}

fn with_target(script: &str) -> common::Outcome {
    inside(&(TARGET.to_owned() + script))
}

#[test]
fn help_man_page_and_completion_name_the_same_options() {
    if !theirs() {
        docs_agree("nsenter", "nsenter.1");
    }
}

#[test]
fn a_usage_error_is_one_line_and_status_1() {
    run("nsenter", &["--no-such-option"]).ended_with(1).said("no-such-option");
    run("nsenter", &["-t", "x", "-a"]).ended_with(1).said("failed to parse");
    run("nsenter", &["-n", "true"]).ended_with(1).said("target");
    if !theirs() {
        run("nsenter", &["-t", "1", "true"]).ended_with(1).said("no namespace");
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_process_that_is_not_there_is_named() {
    let got = run("nsenter", &["-t", "999999999", "-a", "true"]).ended_with(1);
    assert!(got.err.contains("999999999"), "{}", got.err);
}

#[test]
#[ignore = "needs root: tests/run"]
fn each_letter_enters_its_namespace_and_no_other() {
    with_target(
        r#"
        for pair in m:mnt u:uts i:ipc n:net C:cgroup p:pid; do
            letter=${pair%%:*} file=${pair#*:}
            for other in mnt uts ipc net cgroup; do
                got=$("$BIN/nsenter" -t $P -$letter readlink /proc/self/ns/$other 2>/dev/null) || continue
                if [ $other = $file ]; then want=$(readlink /proc/$P/ns/$other); else want=$(readlink /proc/self/ns/$other); fi
                [ "$got" = "$want" ] || { echo "-$letter: $other is $got, not $want"; exit 1; }
            done
        done
        "$BIN/nsenter" -t $P -p sh -c 'echo $$' | grep -qx '[2-9]'
        "$BIN/nsenter" -t $P -u hostname
        "$BIN/nsenter" --uts=/proc/$P/ns/uts hostname
        "$BIN/nsenter" -u/proc/$P/ns/uts hostname
    "#,
    )
    .ended_with(0)
    .printed("target\ntarget\ntarget\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn all_enters_all_and_the_status_is_the_programs() {
    with_target(
        r#"
        "$BIN/nsenter" -t $P -a sh -c 'hostname; pwd; set -- /proc/[0-9]*; echo $#; exit 42' || echo $?
        "$BIN/nsenter" -t $P -a sh -c 'kill -KILL $$' || echo $?
        "$BIN/nsenter" -t $P -a /no/such/program 2>/dev/null || echo $?
        "$BIN/nsenter" -t $P -a /etc/passwd 2>/dev/null || echo $?
        "$BIN/nsenter" -t $P -m mountpoint -q /mnt && echo mounted
    "#,
    )
    .ended_with(0)
    .printed("target\n/\n2\n42\n137\n127\n126\nmounted\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn root_and_wd_are_the_targets_or_opened_before_entering() {
    if theirs() {
        return; // -r alone leaves the working directory outside: a difference on purpose
    }
    with_target(
        r#"
        mkdir -p $T/tree/bin $T/tree/srv
        cp "$(command -v busybox)" $T/tree/bin/pwd
        "$BIN/nsenter" -t $P -m -r$T/tree /bin/pwd
        "$BIN/nsenter" -t $P -n -w$T/tree/srv pwd
        "$BIN/nsenter" -t $P -m -w/usr pwd
        "$BIN/nsenter" -t $P -m --wdns /mnt pwd
        cd /usr; "$BIN/nsenter" -t $P -n pwd
    "#,
    )
    .ended_with(0)
    .printed("/\n/tmp/t/tree/srv\n/usr\n/mnt\n/usr\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_user_namespace_makes_root_of_the_caller_unless_told_otherwise() {
    inside(
        r#"
        mkfifo $T/up $T/down
        setpriv --reuid=1000 --regid=1000 --clear-groups /usr/bin/unshare -r --kill-child -f sh -c 'echo up; read x' <$T/down >$T/up &
        exec 4>$T/down
        read line <$T/up
        "$BIN/nsenter" -t $! -U sh -c 'id -u; id -g'
        "$BIN/nsenter" -t $! -U --preserve-credentials id -u
        "$BIN/nsenter" -t $! -a id -u
    "#,
    )
    .ended_with(0)
    .printed("0\n0\n65534\n0\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn environment_and_ids_follow_the_target() {
    if theirs() {
        return; // -e and follow came with 2.39
    }
    inside(
        r#"
        mkfifo $T/up $T/down
        env -i A=1 PATH=/bin:/usr/bin setpriv --reuid=7 --regid=8 --clear-groups sh -c 'echo up; read x' <$T/down >$T/up &
        exec 4>$T/down
        read line <$T/up
        "$BIN/nsenter" -t $! -e -n -S follow -G follow sh -c 'echo $A; id -u; id -g; echo ${T-unset}'
    "#,
    )
    .ended_with(0)
    .printed("1\n7\n8\nunset\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_jail_is_entered_with_its_own_limits_of_power() {
    if theirs() {
        return;
    }
    let script = r#"
        "$BIN/nsenter" -t $P -a -c -e --caps=target --close-fds /bin/sh -c \
            'hostname; grep CapBnd /proc/self/status; ls /proc/self/fd | wc -l; pwd'
        "$BIN/nsenter" -t $P -a /bin/grep CapBnd /proc/self/status | grep -q a00405fb || echo all
        "$BIN/nsenter" -t $P -a -c -e --caps=target --close-fds --pty --seccomp default /bin/sh -c 'tty; ls -l $(tty) | cut -c1-10' </dev/null
    "#;
    in_a_jail("", "echo up; read x", script)
        .ended_with(0)
        .printed("jail\nCapBnd:\t00000000a00405fb\n4\n/\nall\n/dev/pts/0\r\ncrw--w----\r\n");
}

/// CVE-2016-9962, CVE-2019-5736: somebody inside polls /proc for the moment in which the entering process can
/// be looked at. He writes down whatever is not of the jail: links, descriptors, powers.
const WATCH: &str = r#"
    $| = 1; open $log, ">>", "/tmp/seen"; $log->autoflush(1); $met = 0;
    chomp($most = (grep { /^CapBnd/ } split /^/, do { local (@ARGV, $/) = "/proc/self/status"; <> })[0] =~ s/.*\t//r);
    @here = stat "/.";
    print "up\n";
    while (! -e "/tmp/stop") {
        opendir my $proc, "/proc"; my @pids = grep { /^\d+$/ && $_ > 2 } readdir $proc;
        for my $p (@pids) {
            if (!$met) { open my $c, "<", "/proc/$p/comm"; <$c> =~ /^nsenter/ and $met = open my $m, ">", "/tmp/met" }
            for my $link ("root", "cwd", "exe", map { "fd/$_" } glob_fd($p)) {
                my $to = readlink "/proc/$p/$link" // next;
                print $log "$link $to\n" unless $to =~ m{^(/|/usr/bin/perl.*|/bin/busybox|/dev/pts/\d+|/dev/null|/proc/\d*|pipe:.*|anon_inode:\[pidfd\]|/memfd:nsenter.*)$};
            }
            # A link to "/" may be to that of the host: only the inode tells.
            for my $place ("root", "cwd") {
                my @there = stat "/proc/$p/$place/." or next;
                print $log "$place elsewhere\n" if "@there[0, 1]" ne "@here[0, 1]";
            }
            open my $s, "<", "/proc/$p/status" or next;
            for (<$s>) { print $log "power $_" if /^Cap(?:Prm|Eff):\t(\w+)/ && (hex($1) & ~hex($most)) }
        }
    }
    sub glob_fd { opendir my $d, "/proc/$_[0]/fd" or return; grep { /^\d+$/ } readdir $d }
    print $log "met\n" if $met;
    print "done\n"; <STDIN>;
"#;

/// What the watcher has seen in `entries` entries (or $ENTRIES) with these options of nsenter, into a jail that has `caps`.
fn watched(caps: &str, options: &str, entries: u32) -> String {
    let entries = std::env::var("ENTRIES").unwrap_or(entries.to_string());
    let script = format!(
        r#"
        n=0
        # On a slow machine the watcher may need more of them to meet one at all.
        while [ $n -lt {entries} ] || {{ [ ! -e $T/root/tmp/met ] && [ $n -lt 2000 ]; }}; do
            "$BIN/nsenter" -t $P -a -c -e --caps=target --close-fds {options} /bin/busybox true </dev/null >/dev/null
            n=$((n + 1))
        done
        : >$T/root/tmp/stop
        read line <&5
        sort -u $T/root/tmp/seen
    "#
    );
    let prepare = r#"
        printf '%s\n' '/usr /usr none bind,ro,x-mount.mkdir' '/lib /lib none bind,ro,x-mount.mkdir' \
            '/lib64 /lib64 none bind,ro,nofail,x-mount.mkdir' >$T/fstab
        mkdir -p $T/root/tmp
        printf '%s' "$WATCH" >$T/root/tmp/watch
    "#;
    let jail = format!("--fstab $T/fstab --caps {caps}");
    in_a_jail_prepared(prepare, &jail, "exec perl /tmp/watch", &script, &[("WATCH", WATCH)]).ended_with(0).out
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_hostile_jail_never_sees_the_callers_root_directory_or_binary() {
    if !theirs() {
        assert_eq!(watched("default", "", 200), "met\n");
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_hostile_jail_sees_no_more_of_an_entry_with_a_terminal() {
    if !theirs() {
        assert_eq!(watched("default", "--pty", 100), "met\n");
    }
}

/// It sees a sealed copy of the binary, and the power that it has itself.
#[test]
#[ignore = "needs root: tests/run"]
fn nor_does_a_jail_that_may_debug() {
    if !theirs() {
        assert_eq!(watched("default,sys_ptrace", "", 50), "met\n");
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn nor_does_a_jail_that_may_debug_with_a_terminal() {
    if !theirs() {
        assert_eq!(watched("default,sys_ptrace", "--pty", 50), "met\n");
    }
}

/// What Rust changes at its start must not be seen by the program, nor what it changes before the sealed copy.
#[test]
#[ignore = "needs root: tests/run"]
fn sigpipe_and_closed_descriptors_are_as_they_were() {
    if theirs() {
        return;
    }
    // Bit 12 is in the fourth digit.
    let script = r#"
        ignored='grep -c ^SigIgn:.*[13579bdf]...$ /proc/self/status || :'
        for setting in DEFAULT IGNORE; do
            SETTING=$setting perl -e '$SIG{PIPE} = $ENV{SETTING}; exec @ARGV' "$BIN/nsenter" -t $P -a /bin/sh -c "$ignored"
        done
        open='for n in 0 1 2; do [ ! -e /proc/$$/fd/$n ] || echo $n; done'
        "$BIN/nsenter" -t $P -a /bin/sh -c "$open" <&- 2>&-
        "$BIN/nsenter" -t $P -a /bin/sh -c "$open"
    "#;
    for caps in ["default", "default,sys_ptrace"] {
        in_a_jail(&format!("--caps {caps}"), "echo up; read x", script)
            .ended_with(0)
            .printed("0\n1\n1\n0\n1\n2\n");
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn terminating_nsenter_ends_the_program_when_asked_to() {
    if theirs() {
        return;
    }
    with_target(
        r#"
        mkfifo $T/said
        "$BIN/nsenter" -t $P -a --forward-signals sh -c \
            'trap "echo bye; exit 5" TERM; echo ready; while :; do sleep 0.1; done' >$T/said &
        exec 5<$T/said
        read line <&5
        kill -TERM $!
        wait $! || echo $?
        cat <&5
        "$BIN/nsenter" -t $P -a --kill-child sh -c 'echo ready; exec sleep 60' >$T/said &
        exec 5<$T/said
        read line <&5
        kill -KILL $!
        cat <&5    # ends when the program has let go of the fifo
        echo gone
    "#,
    )
    .ended_with(0)
    .printed("5\nbye\ngone\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn join_cgroup_joins_every_hierarchy_in_which_the_target_is_elsewhere() {
    if theirs() {
        return; // util-linux joins cgroup2 only
    }
    let group = unique("join");
    inside(&format!(
        r#"
        mkfifo $T/up $T/down
        "$BIN/cgset" {group} procs=50 mem=50M -- sh -c 'echo up; read x' <$T/down >$T/up &
        exec 4>$T/down
        read line <$T/up
        P=$(cat /proc/$!/task/$!/children); P=${{P% }}
        for fork in "" -p; do
            "$BIN/nsenter" -t $P -u $fork -c cat /proc/self/cgroup >$T/joined
            cmp /proc/$P/cgroup $T/joined
        done
        "$BIN/nsenter" -t $P -u cat /proc/self/cgroup | cmp -s /proc/$P/cgroup || echo apart
        exec 4>&-    # its read ends, and cgset takes the group away
        wait || :
    "#
    ))
    .ended_with(0)
    .printed("apart\n");
}
