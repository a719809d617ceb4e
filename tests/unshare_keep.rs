//! unshare: namespaces that are kept in files, and what must not happen when they cannot be.

mod common;

use common::{inside, theirs, theirs_lacks};

/// Linux 6.18 binds a mount namespace only where its inode number is above that of the namespace we are in,
/// which is a matter of chance for all but the first one.
const KEEP: &str = r#"
    keep() {
        tries=0
        until "$BIN/unshare" "$@" 2>$T/said; do
            status=$?
            grep -q '/ns/mnt on .*: Invalid argument' $T/said && [ $tries -lt 50 ] || { cat $T/said; return $status; }
            tries=$((tries + 1))
            umount mount user uts 2>/dev/null || :
        done
    }
"#;

#[test]
#[ignore = "needs root: tests/run"]
fn each_namespace_lives_on_in_its_file() {
    inside(
        r#"
        mount -t tmpfs keep $T
        mount --make-private $T
        cd $T
        for pair in uts:uts ipc:ipc net:net cgroup:cgroup mount:mnt pid:pid time:time user:user; do
            word=${pair%%:*} kind=${pair#*:}
            : >$T/$word
            [ $word != time ] || [ -e /proc/self/ns/time ] || continue # the kernel has none
            [ $word != user ] || [ -z "$OLD" ] || continue
            case $word in pid | time) fork=--fork ;; *) fork='' ;; esac
            ns=$(keep --$word=$T/$word $fork readlink /proc/self/ns/$kind) || ns=failed
            case $ns in "$kind:["*) ;; *) echo "$word: $ns" ;; esac
            [ "$kind:[$(stat -c %i $T/$word)]" = "$ns" ] || [ $word = pid ] || echo "$word is not $ns"
            [ "$(stat -f -c %T $T/$word)" = nsfs ] || echo "$word is not bound"
            umount $T/$word
        done
    "#
        .replace("$OLD", if theirs_lacks("unshare", "--owner") { "old" } else { "" })
        .replace("cd $T", &format!("cd $T\n{KEEP}"))
        .as_str(),
    )
    .ended_with(0)
    .printed("");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_kept_namespace_can_be_entered_again() {
    inside(
        r#"
        : >$T/uts; : >$T/net
        "$BIN/unshare" --uts=$T/uts --net=$T/net hostname kept
        nsenter --uts=$T/uts --net=$T/net hostname
        umount $T/uts $T/net
    "#,
    )
    .ended_with(0)
    .printed("kept\n");
}

/// The mount and the user namespace cannot bind themselves: that is done by who stays outside.
#[test]
#[ignore = "needs root: tests/run"]
fn files_are_bound_outside_of_new_mount_and_user_namespaces() {
    if theirs_lacks("unshare", "--owner") {
        return; // --user=FILE alone fails there
    }
    inside(
        &(KEEP.to_owned()
            + r#"
        mount -t tmpfs keep $T
        mount --make-private $T
        cd $T
        for word in mount user uts; do : >$word; done
        keep -r --user=user --mount=mount --uts=uts -R / true
        for word in mount user uts; do stat -f -c %T $word; umount $word; done
        keep -r -p -f --mount=mount sh -c 'exit 3' || echo $?
        stat -f -c %T mount
    "#),
    )
    .ended_with(0)
    .printed("nsfs\nnsfs\nnsfs\n3\nnsfs\n");
}

/// util-linux lets the program begin while it binds.
#[test]
#[ignore = "needs root: tests/run"]
fn what_cannot_be_kept_does_not_run() {
    let mut script = String::from(
        r#"
        for options in "--uts=$T/none" "-f --uts=$T/none" "-m --uts=$T/none" "-pf --kill-child --uts=$T/none" \
            "-r --uts=$T/none"; do
            "$BIN/unshare" $options touch $T/ran 2>$T/said && echo "ran: $options"
            grep -q "^unshare: mount /proc/[0-9]*/ns/uts on $T/none failed: No such file or directory" $T/said ||
                cat $T/said
        done
    "#,
    );
    if !theirs() {
        script += "[ ! -e $T/ran ]; grep '^hint: touch' $T/said";
        inside(&script).ended_with(0).printed("hint: touch /tmp/t/none\n");
        return;
    }
    inside(&script).ended_with(0).printed("");
}

/// What spreads into the namespace itself cannot be bound: that would be a loop. We bind when the mounts are
/// private already; util-linux before (its issue 289).
#[test]
#[ignore = "needs root: tests/run"]
fn a_mount_namespace_is_kept_on_a_shared_mount_unless_it_stays_shared() {
    if theirs() {
        return;
    }
    let shared = KEEP.to_owned()
        + r#"
        mount -t tmpfs keep $T
        mount --make-shared $T
        cd $T
        : >mount
    "#;
    inside(&(shared.clone() + "keep --mount=mount echo ran")).ended_with(0).printed("ran\n");
    inside(&(shared + "\"$BIN/unshare\" --propagation slave --mount=mount echo ran"))
        .ended_with(1)
        .printed("")
        .said("on mount failed: Invalid argument")
        .said("hint: it is on a shared mount");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_pid_namespace_without_a_process_is_not_kept() {
    inside(": >$T/pid; \"$BIN/unshare\" --pid=$T/pid true || echo $?").ended_with(0).printed("1\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn pid_file_and_kept_files_go_together() {
    if theirs() {
        return;
    }
    inside(
        r#"
        : >$T/uts
        "$BIN/unshare" --uts=$T/uts --pid-file $T/pid sh -c '[ $$ = $(cat $0/pid) ] && stat -f -c %T $0/uts' $T
        umount $T/uts; rm $T/pid
        "$BIN/unshare" --uts=$T/none --pid-file $T/pid touch $T/ran || echo $?
        [ ! -s $T/pid ] && [ ! -e $T/ran ]
        "$BIN/unshare" --uts=$T/uts --pid-file $T/pid --wd $T/none true || echo $?
        [ ! -e $T/pid ]
        stat -f -c %T $T/uts
    "#,
    )
    .ended_with(0)
    .printed("nsfs\n1\n1\ntmpfs\n");
}

/// Nobody is left over, whoever dies.
#[test]
#[ignore = "needs root: tests/run"]
fn the_process_outside_ends_with_the_others() {
    if theirs() {
        return;
    }
    inside(
        r#"
        : >$T/uts
        mkfifo $T/up $T/down
        "$BIN/unshare" --uts=$T/uts -f --kill-child sh -c 'echo up; read x' <$T/down >$T/up &
        exec 4>$T/down
        read line <$T/up
        [ "$(cat /proc/[0-9]*/comm | grep -c unshare)" = 1 ] # the one that waits
        kill -KILL $!
        wait $! 2>/dev/null || echo $?
        while grep -qs unshare /proc/[0-9]*/comm; do :; done
    "#,
    )
    .ended_with(0)
    .printed("137\n");
}
