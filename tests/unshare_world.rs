//! unshare: what the program finds: its mounts, clocks, environment, limits, interpreters, network.

mod common;

use common::{finish, inside, run, theirs, theirs_lacks, tool};
use std::process::Command;

#[test]
fn long_options_may_be_shortened_while_they_are_unique() {
    run("unshare", &["--hel"]).ended_with(0);
    run("unshare", &["--fo=1"]).ended_with(1);
    run("unshare", &["--map-u", "1", "true"]).ended_with(1).said("option '--map-u' is ambiguous");
    run("unshare", &["--fork=1", "true"]).ended_with(1).said("option '--fork' doesn't allow an argument");
    run("unshare", &["--wd"]).ended_with(1).said("option '--wd' requires an argument");
    run("unshare", &["-w"]).ended_with(1).said("option requires an argument -- 'w'");
    run("unshare", &["-x"]).ended_with(1).said("invalid option -- 'x'").said("Try 'unshare --help'");
    run("unshare", &["--x=1"]).ended_with(1).said("unrecognized option '--x=1'");
    if !theirs() {
        // --nice is ours, and --net is not: what is unique there stays so.
        run("unshare", &["--n=/nonexistent/x", "--he"]).ended_with(0);
        run("unshare", &["--pi", "--he"]).ended_with(0);
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn without_a_program_the_login_shell_runs() {
    let shell = |setting: &str| {
        let mut command = Command::new("env");
        command.args(["-u", "SHELL"]).args(setting.split_whitespace()).arg(tool("unshare")).arg("-u");
        finish(command, "echo $0 runs\n")
    };
    shell("SHELL=/bin/sh").ended_with(0).printed("-sh runs\n");
    if !theirs_lacks("unshare", "--clear-env") {
        // The shell of passwd(5), where the environment names none.
        shell("").ended_with(0).printed("-bash runs\n");
    }
    shell("SHELL=/no/shell").ended_with(127).said("failed to execute /no/shell: No such file or directory");
}

#[test]
#[ignore = "needs root: tests/run"]
fn what_fails_is_told_in_the_words_of_util_linux() {
    for (arguments, words) in [
        (&["-u", "/no/such"][..], "failed to execute /no/such: No such file or directory"),
        (
            &["-R", "/no/such", "true"],
            "cannot change root directory to '/no/such': No such file or directory",
        ),
        (&["-w", "/no/such", "true"], "cannot change directory to /no/such: No such file or directory"),
        (&["--mount-proc=/no/such", "true"], "mount /no/such failed: No such file or directory"),
        (
            &["--monotonic", "5", "true"],
            "options --monotonic and --boottime require unsharing of a time namespace (-",
        ),
        (&["--propagation", "up", "true"], "unsupported propagation mode: up"),
        (&["-T", "--boottime", "x", "true"], "failed to parse boottime offset: 'x'"),
    ] {
        if words.contains("change directory") && theirs_lacks("unshare", "--map-subids") {
            continue; // other words in 2.38
        }
        let status = if words.starts_with("failed to exec") { 127 } else { 1 };
        run("unshare", arguments).ended_with(status).said(&format!("unshare: {words}"));
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn clocks_are_shifted_forth_and_back() {
    if !std::path::Path::new("/proc/self/ns/time").exists() {
        let got = run("unshare", &["-T", "true"]).ended_with(1).said("unshare failed: Invalid argument");
        if !theirs() {
            got.said("hint: this kernel has no time namespaces");
        }
        return;
    }
    run("unshare", &["-T", "--monotonic", "9999999999", "true"])
        .ended_with(1)
        .said("unshare: failed to write to /proc/self/timens_offsets: Numerical result out of range");
    let monotonic = |options: &[&str]| -> f64 {
        let ask = [
            "perl",
            "-MPOSIX",
            "-e",
            "require 'syscall.ph' if 0; my $t = pack 'qq', 0, 0; syscall(228, 1, $t); my ($s, $n) = unpack 'qq', $t; print $s + $n / 1e9",
        ];
        run("unshare", &[options, &ask].concat()).ended_with(0).out.parse().unwrap()
    };
    let uptime = |options: &[&str]| -> f64 {
        let out = run("unshare", &[options, &["cut", "-d", " ", "-f", "1", "/proc/uptime"]].concat());
        out.ended_with(0).out.trim().parse().unwrap()
    };
    let now = uptime(&["-u"]);
    let later = uptime(&["-T", "-f", "--boottime", "100000"]);
    assert!((later - now - 100_000.0).abs() < 100.0, "{now} {later}");
    if cfg!(target_arch = "x86_64") {
        let shift = monotonic(&["-T", "-f", "--monotonic", "5000", "--boottime", "1"]) - monotonic(&["-u"]);
        assert!((shift - 5000.0).abs() < 100.0, "{shift}");
        if !theirs_lacks("unshare", "--map-subids") {
            // Not before the machine's own start, which may be seconds ago.
            let seconds = (now / 2.0).clamp(1.0, 60.0).floor();
            let shift = format!("-{seconds}");
            let back = monotonic(&["-T", "-f", "--monotonic", &shift]) - monotonic(&["-u"]);
            assert!((-seconds - 100.0..=-seconds).contains(&back), "{back}");
        }
    }
    // Before 1970, so to say.
    run("unshare", &["-T", "--boottime", "-9999999999", "true"]).ended_with(1).said("timens_offsets");
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_environment_is_cut_down_to_what_is_named() {
    if theirs_lacks("unshare", "--clear-env") {
        return;
    }
    let run_with = |options: &[&str]| {
        let mut command = Command::new(tool("unshare"));
        command.env_clear().envs([("A", "1"), ("B", "2 3"), ("C", "4"), ("PATH", "/usr/bin:/bin")]);
        command.args(options);
        finish(command, "")
    };
    run_with(&["--clear-env", "/usr/bin/env"]).ended_with(0).printed("");
    let both = run_with(&["--whitelist-env", "A,B,NONE", "/usr/bin/env"]).ended_with(0);
    let mut lines: Vec<_> = both.out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=1", "B=2 3"]);
    run_with(&["--clear-env", "--whitelist-env", "C", "/usr/bin/env"]).ended_with(0).printed("C=4\n");
    // The program is sought after that: by the default path.
    run_with(&["--clear-env", "env"]).ended_with(0).printed("");
}

#[test]
#[ignore = "needs root: tests/run"]
fn proc_is_mounted_where_it_is_wanted_and_does_not_spread() {
    inside(
        r#"
        mount --make-rshared /
        mkdir $T/p
        "$BIN/unshare" -pf --propagation shared --mount-proc sh -c 'echo $$; readlink /proc/self'
        readlink /proc/self >/dev/null
        cd $T
        "$BIN/unshare" -pf --mount-proc=p cat p/1/comm
        "$BIN/unshare" --mount-proc true # an old pid namespace is allowed
        "$BIN/unshare" -rpf --mount-proc readlink /proc/self
        ls $T/p
    "#,
    )
    .ended_with(0)
    .printed("1\n2\ncat\n1\n");
}

/// With the caller's network namespace it is the caller's sysfs that would be mounted once more: EBUSY.
#[test]
#[ignore = "needs root: tests/run"]
fn sys_is_read_only_and_bare_wherever_it_comes_from() {
    if theirs() {
        return;
    }
    for options in
        ["--mount-sys", "--mount-sys -n", "--mount-sys --pivot-root /", "--jail --caps all --seccomp none"]
    {
        inside(&format!(
            r#"
            grep -c ' /sys/' /proc/self/mountinfo >/dev/null || mount -t tmpfs none /sys/fs/cgroup
            "$BIN/unshare" {options} sh -c 'ls /sys/fs/cgroup | grep -v ":"; [ -d /sys/class ] && echo fine
                (echo >/sys/kernel/uevent_seqnum) 2>&1 | grep -c "Read-only"'
        "#
        ))
        .ended_with(0)
        .printed("fine\n1\n");
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn proc_is_mounted_where_there_is_none_yet() {
    let script = r#"
        while umount -l /proc 2>/dev/null; do :; done
        cd /usr
        "$BIN/unshare" -p -f --mount-proc sh -c 'echo $$ $(ls -d /proc/[0-9]*) $PWD'
    "#;
    inside(script).ended_with(0).printed("1 /proc/1 /proc/2 /usr\n");
    if !theirs() {
        // An empty one: below the last mount may be the /proc of who runs this kernel.
        inside("mkdir $T/none $T/r; mount --bind $T/none /proc; unshare -R $T/r --mount-sys true")
            .ended_with(1)
            .said("unshare: mount /sys failed: No such file or directory\nhint: mount -t proc proc /proc\n");
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn in_a_chroot_the_propagation_is_left_alone_on_request() {
    let script = r#"
        mkdir -p $T/root/bin $T/root/proc
        mount --rbind / $T/root
        mkdir -p $T/inner
        mkdir -p $T/tree/bin $T/tree/proc
        cp "$(command -v busybox)" $T/tree/bin/sh
        cp "$BIN/unshare" $T/tree/bin/unshare
        for lib in $(ldd "$BIN/unshare" 2>/dev/null | grep -o '/[^ ]*'); do
            mkdir -p $T/tree${lib%/*}; cp $lib $T/tree$lib
        done
        mount -t proc proc $T/tree/proc
        chroot $T/tree /bin/unshare -m /bin/sh -c 'echo never' || echo $?
        chroot $T/tree /bin/unshare -m --propagation unchanged /bin/sh -c 'echo fine'
    "#;
    let got = inside(script)
        .ended_with(0)
        .printed("1\nfine\n")
        .said("cannot change root filesystem propagation: Invalid argument");
    if !theirs() {
        got.said("hint: ").said("--propagation unchanged");
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn interpreters_are_registered_for_one_user_namespace() {
    if theirs_lacks("unshare", "--load-interp") || !has_binfmt() {
        return;
    }
    let script = r#"
        printf '\177ship here' >$T/file
        printf '#!/bin/sh\necho ran "$1"\n' >$T/interpreter
        chmod +x $T/file $T/interpreter
        "$BIN/unshare" -r -p -f --mount-binfmt ls /proc/sys/fs/binfmt_misc
        "$BIN/unshare" -r -p -f -l ":ship:M::\x7fship::$T/interpreter:" $T/file
        "$BIN/unshare" -r -p -f -l "broken" true || echo $?
        ls /proc/sys/fs/binfmt_misc
    "#;
    inside(script)
        .ended_with(0)
        .printed("register\nstatus\nran /tmp/t/file\n1\n")
        .said("write failed /proc/sys/fs/binfmt_misc/register: Invalid argument");
    if theirs() {
        return;
    }
    // Without a new pid namespace the proc that is there serves; and somewhere else, and with a new root.
    let script = r#"
        printf '\177ship here' >$T/file
        printf '#!/bin/sh\necho ran "$1"\n' >$T/interpreter
        chmod +x $T/file $T/interpreter
        "$BIN/unshare" -r -l ":ship:M::\x7fship::$T/interpreter:" $T/file
        mkdir $T/misc
        "$BIN/unshare" -r --mount-binfmt=$T/misc -l ":ship:M::\x7fship::$T/interpreter:" $T/file
        mkdir -p $T/root/bin $T/root/proc
        cp "$(command -v busybox)" $T/root/bin/sh
        cp $T/file $T/root/file
        # F: the interpreter is the caller's, and runs where it cannot be seen.
        "$BIN/unshare" -r -p -f -R $T/root -l ":ship:M::\x7fship::$(command -v busybox):F" /bin/sh -c \
            '/file; echo $?; [ -e /proc/sys/fs/binfmt_misc/ship ] && echo there'
        "$BIN/unshare" -l ":ship:M::\x7fship::$T/interpreter:" true || echo $?
    "#;
    inside(script)
        .ended_with(0)
        .printed("ran /tmp/t/file\nran /tmp/t/file\n127\nthere\n1\n")
        .said("hint: map a user");
}

/// For each user namespace its own: since Linux 6.7.
fn has_binfmt() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let numbers: Vec<u32> = release.split(['.', '-']).take(2).map(|n| n.parse().unwrap()).collect();
    numbers[..] >= [6, 7][..] && std::fs::read_to_string("/proc/filesystems").unwrap().contains("binfmt_misc")
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_loopback_interface_is_up_on_request() {
    if theirs() {
        return;
    }
    let flags = ["cat", "/sys/class/net/lo/flags"];
    run("unshare", &[&["-n", "--mount-sys"][..], &flags].concat()).ended_with(0).printed("0x8\n");
    run("unshare", &[&["--loopback", "--mount-sys"][..], &flags].concat()).ended_with(0).printed("0x9\n");
    run("unshare", &[&["-r", "--loopback", "-m", "--mount-sys"][..], &flags].concat())
        .ended_with(0)
        .printed("0x9\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn limits_and_the_nice_value_are_the_programs() {
    if theirs() {
        return;
    }
    let limits = ["grep", "-E", "open files|core file", "/proc/self/limits"];
    let squeeze = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let got = run("unshare", &[&["--rlimit", "nofile=64:128", "--rlimit=core=0"][..], &limits].concat());
    assert_eq!(squeeze(got.ended_with(0).out), "Max core file size 0 0 bytes Max open files 64 128 files");
    // Raised before the user namespace, in which nobody could.
    let raise = r#"
        ulimit -n 100
        may=yes; (ulimit -n 200) 2>/dev/null || may=no # a container's root may not
        if "$BIN/unshare" -r --rlimit nofile=200:200 sh -c '[ $(ulimit -n) = 200 ] && [ $(ulimit -Hn) = 200 ]'
        then does=yes; else does=no; fi
        [ $may = $does ]
        "$BIN/unshare" -r --rlimit nofile=50:60 sh -c 'ulimit -n; ulimit -Hn'
    "#;
    inside(raise).ended_with(0).printed("50\n60\n");
    // The preparation is not what is limited.
    run("unshare", &["--jail", "--rlimit", "nofile=4", "--rlimit", "nproc=1", "true"]).ended_with(0);
    run("unshare", &["--nice", "7", "nice"]).ended_with(0).printed("7\n");
    run("unshare", &["-r", "--nice=-5", "nice"]).ended_with(0).printed("-5\n");
    run("unshare", &["--rlimit", "files=1", "true"]).ended_with(1).said("the names are as core");
    let mut poor = Command::new("setpriv");
    poor.args(["--reuid=65534", "--clear-groups", "--bounding-set=-all"]).arg(tool("unshare"));
    poor.args(["-r", "--nice", "-5", "true"]);
    finish(poor, "").ended_with(1).said("cannot set the nice value -5: Permission denied");
}

#[test]
#[ignore = "needs root: tests/run"]
fn limits_of_the_kernel_are_named() {
    if theirs() {
        return;
    }
    let script = r#"
        as_nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
        "$BIN/unshare" -U --map-users all --map-groups all sh -c \
            'echo 0 >/proc/sys/user/max_net_namespaces; "$BIN/unshare" -n true' || echo $?
    "#;
    inside(script)
        .ended_with(0)
        .printed("1\n")
        .said("unshare failed: No space left on device")
        .said("hint: sysctl -w user.max_net_namespaces=N (now 0;");
}

#[test]
#[ignore = "needs root: tests/run"]
fn what_people_meet_has_a_hint() {
    if theirs() {
        return;
    }
    let user = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    for (script, error, hint) in [
        (
            "\"$BIN/unshare\" -r --mount-proc true",
            "mount /proc failed: Operation not permitted",
            "add --pid --fork",
        ),
        (
            // Alone in sight: a whole proc anywhere, as in somebody's chroot on this machine, would do.
            "while read -r _ _ _ _ at rest; do
                 case $at:$rest in /proc:*) ;; *' - proc '*) umount -l \"$(printf %b \"$at\")\" ;; esac
             done </proc/self/mountinfo
             mount --bind /dev/null /proc/uptime; \"$BIN/unshare\" -rpf --mount-proc true",
            "mount /proc failed: Operation not permitted",
            "the /proc outside is partly hidden",
        ),
        (
            "exec \"$BIN/unshare\" -p sh -c 'sh -c :; exec \"$BIN/unshare\" -f true'",
            "fork failed: Cannot allocate memory",
            "make it with --fork",
        ),
        ("$USER \"$BIN/unshare\" -n true", "unshare failed: Operation not permitted", "--map-root-user (-r)"),
    ] {
        eprintln!("{script}"); // shown when it fails
        inside(&script.replace("$USER", user))
            .ended_with(1)
            .said(&format!("unshare: {error}\nhint: "))
            .said(hint);
    }
    let chroot = r#"
        mkdir -p $T/root/proc $T/root/bin
        mount -t proc proc $T/root/proc
        cp "$BIN/unshare" $T/root/bin/unshare
        for lib in $(ldd "$BIN/unshare" 2>/dev/null | grep -o '/[^ ]*'); do
            mkdir -p $T/root${lib%/*}; cp $lib $T/root$lib
        done
        chroot $T/root /bin/unshare -r true
    "#;
    inside(chroot).ended_with(1).said("unshare failed: Operation not permitted").said("chroot(2)");
}

/// To who sits at a terminal, and only there.
#[test]
#[ignore = "needs root: tests/run"]
fn a_pid_namespace_without_a_fork_is_warned_about_at_a_terminal() {
    if theirs() {
        return;
    }
    let at_terminal = |arguments: &str| {
        let mut command = Command::new("script");
        let line = format!("'{}' {arguments}", tool("unshare").display());
        command.args(["-q", "-e", "-c", &line, "/dev/null"]).env("SHELL", "/bin/sh");
        finish(command, "").ended_with(0).out
    };
    assert!(at_terminal("-p sh -c :").contains("unshare: --pid without --fork (-f)"));
    assert_eq!(at_terminal("-p true"), "");
    assert_eq!(at_terminal("-pf sh -c :"), "");
    assert_eq!(run("unshare", &["-p", "sh", "-c", ":"]).ended_with(0).err, "");
}

/// A kernel that knows no pid namespaces in unshare(2), as before 3.8, and one that lacks pidfds.
#[test]
#[ignore = "needs root: tests/run"]
fn old_kernels_get_their_pid_namespace_by_clone() {
    if theirs() {
        return;
    }
    let strace = |inject: &str, options: &[&str]| {
        let mut command = Command::new("strace");
        command.args(["-o", "/dev/null", "-e", inject]).arg(tool("unshare")).args(options);
        command.args(["sh", "-c", "echo $$"]);
        finish(command, "")
    };
    let einval = "inject=unshare:error=EINVAL:when=1";
    strace(einval, &["-p", "-f", "--kill-child"]).ended_with(0).printed("1\n");
    strace(einval, &["-p", "--init", "-u"]).ended_with(0).printed("2\n");
    strace(einval, &["-p"]).ended_with(1).said("unshare failed: Invalid argument");
    strace("inject=pidfd_open:error=ENOSYS", &["-p", "-f", "--kill-child"]).ended_with(0).printed("1\n");
    strace("inject=close_range:error=ENOSYS", &["--close-fds"]).ended_with(0);
    strace("inject=openat2:error=ENOSYS", &["-pf", "--mount-proc"]).ended_with(0).printed("1\n");
    strace("inject=mount_setattr:error=ENOSYS", &["-r", "--jail"]).ended_with(0).printed("2\n");
    strace("inject=open_tree:error=ENOSYS", &["-pf", "--pivot-root", "/"]).ended_with(0).printed("1\n");
}
