//! What a ship cannot do: unshare --jail and --seccomp against attempts that work without them.

mod common;

use std::process::Command;

use common::{Outcome, finish, inside_with, run, theirs, tool};

/// The attempts that get through when perl is started by `how`: a command in which `jail` stands for unshare on
/// a copy of the host's tree.
fn attempts(how: &str) -> Outcome {
    let script = format!(
        r#"
        mkdir $T/root
        mount --bind / $T/root
        printf '%s\n' 'tmpfs /tmp tmpfs' 'tmpfs /run tmpfs' >$T/fstab
        jail() {{ "$BIN/unshare" -n --pivot-root $T/root --fstab $T/fstab "$@"; }}
        >/run/outside
        exec 7</
        printf %s "$ATTACK" >$T/attack.pl
        mkfifo $T/up
        perl -e 'defined shmget 0x5117, 1, 0600 | 01000 or die $!;
            socket my $s, 1, 1, 0; bind $s, pack "Sa*", 1, "\0outside" or die $!; listen $s, 1;
            print "up\n"; close STDOUT; sleep' >$T/up &
        read line <$T/up
        {how} perl - <$T/attack.pl
    "#
    );
    inside_with(&script, &[("ATTACK", include_str!("attack.pl"))])
}

fn lines(outcome: Outcome) -> Vec<String> {
    outcome.ended_with(0).out.lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root: tests/run"]
fn in_a_jail_no_attack_gets_through() {
    if theirs() {
        return;
    }
    // They are real attempts: without a jail they succeed, but for those that the kernel has nothing for.
    let free = lines(attempts(""));
    let expected = "io_uring_setup|userfaultfd|bpf|perf_event_open|keyctl|add_key|settimeofday|syslog|\
        open_by_handle_at|personality|ptrace|process_vm_readv|setns|mount|umount2|pivot_root|fsopen|open_tree|\
        move_mount|TIOCSTI|TIOCSTI, 64 bits|packet|unshare user|clone user|clone3 user|chroot out|mknod disk|\
        mknod kmsg|fresh tmpfs|fresh proc|fresh sysfs|write /proc/sys/kernel/core_pattern|\
        inherited descriptor|shared memory|abstract socket";
    for name in expected.split('|') {
        assert!(free.iter().any(|line| line == name), "'{name}' does not work at all: {free:?}");
    }
    attempts("jail --jail").ended_with(0).printed("");
    // With programs of 32 bits (their kernel may lack them) nothing else gets through.
    if cfg!(target_arch = "x86_64") {
        let through = free.iter().filter(|line| *line == "32-bit entry");
        assert!(lines(attempts("jail --jail --seccomp i386")).iter().eq(through));
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_filter_follows_the_capabilities_and_can_be_left_out() {
    if theirs() {
        return;
    }
    let without = lines(attempts("jail --jail --seccomp none"));
    for name in ["io_uring_setup", "keyctl", "unshare user", "clone user", "clone3 user", "TIOCSTI"] {
        assert!(without.iter().any(|line| line == name), "{name}: {without:?}");
    }
    let trusted = lines(attempts("jail --jail --caps default,sys_admin"));
    for name in ["mount", "fsopen", "clone3 user", "setns", "fresh tmpfs"] {
        assert!(trusted.iter().any(|line| line == name), "{name}: {trusted:?}");
    }
    for name in ["io_uring_setup", "keyctl", "add_key", "userfaultfd", "TIOCSTI", "ptrace", "32-bit entry"] {
        assert!(trusted.iter().all(|line| line != name), "{name}: {trusted:?}");
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_filter_binds_process_1_and_lets_setuid_programs_be() {
    if theirs() {
        return;
    }
    let ask = "grep -h -E '^(NoNewPrivs|Seccomp):' /proc/1/status /proc/self/status";
    run("unshare", &["-n", "--jail", "sh", "-c", ask])
        .ended_with(0)
        .printed(&"NoNewPrivs:\t0\nSeccomp:\t2\n".repeat(2));
}

#[test]
#[ignore = "needs root: tests/run"]
fn without_the_right_no_new_privs_comes_with_the_filter() {
    if theirs() {
        return;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(tool("unshare"));
    command.args(["--seccomp", "default", "grep", "-E", "^(NoNewPrivs|Seccomp):", "/proc/self/status"]);
    finish(command, "").ended_with(0).printed("NoNewPrivs:\t1\nSeccomp:\t2\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_filter_from_a_file_is_used_as_it_is_or_nothing_runs() {
    if theirs() {
        return;
    }
    // Load the number of the call; is it getppid's? EPERM, else allow.
    let script = r#"
        export N=$(case $(uname -m) in aarch64) echo 173 ;; *) echo 110 ;; esac)
        perl -e 'print pack "SCCL" x 4, 0x20,0,0,0, 0x15,0,1,$ENV{N}, 6,0,0,0x50001, 6,0,0,0x7fff0000' >$T/filter
        "$BIN/unshare" --seccomp $T/filter perl -e 'print "$!\n" if syscall($ENV{N}) < 0; print "on\n"'
        "$BIN/unshare" --no-new-privs --caps none --seccomp $T/filter -S 7 grep Seccomp: /proc/self/status
        head -c 12 $T/filter >$T/short
        head -c 32 /dev/zero >$T/odd
        for bad in short odd missing; do
            "$BIN/unshare" --seccomp $T/$bad touch $T/ran || echo $?
        done
        [ ! -e $T/ran ] || echo ran
    "#;
    inside_with(script, &[])
        .ended_with(0)
        .printed("Operation not permitted\non\nSeccomp:\t2\n1\n1\n1\n")
        .said("/short'")
        .said("/missing'")
        .said("hint: ");
}
