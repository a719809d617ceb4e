//! The real unshare binary against the real kernel; what util-linux promises is proven on util-linux first
//! (UNDER_TEST=theirs), what is ours is skipped there by name.

mod common;

use std::process::Command;

use common::{docs_agree, finish, inside, run, theirs, tool};

#[test]
fn help_man_page_and_completion_name_the_same_options() {
    if !theirs() {
        docs_agree("unshare", "unshare.1");
    }
}

#[test]
fn a_usage_error_is_one_line_and_status_1() {
    let got = run("unshare", &["--no-such-option"]).ended_with(1).said("no-such-option").said("--help");
    assert_eq!((got.out.as_str(), got.err.lines().count()), ("", 2));
    run("unshare", &["--propagation", "up", "true"]).ended_with(1).said("propagation");
    if !theirs() {
        run("unshare", &["--pivot-root", "/", "--propagation", "shared", "true"])
            .ended_with(1)
            .said("shared");
    }
    run("unshare", &["--kill-child=15", "true"]).ended_with(1).said("unknown signal: 15");
}

#[test]
#[ignore = "needs root: tests/run"]
fn every_namespace_is_new_and_the_others_are_not() {
    inside(
        r#"
        own() { readlink /proc/self/ns/$1; }
        for pair in m:mnt u:uts i:ipc n:net C:cgroup U:user; do
            letter=${pair%%:*} file=${pair#*:}
            new=$("$BIN/unshare" -$letter readlink /proc/self/ns/$file)
            [ "$new" != "$(own $file)" ] || { echo "$file is not new"; exit 1; }
            for other in mnt uts ipc net cgroup; do
                [ $other != $file ] || continue
                kept=$("$BIN/unshare" -$letter readlink /proc/self/ns/$other)
                [ "$kept" = "$(own $other)" ] || { echo "$file changed $other"; exit 1; }
            done
        done
        [ "$("$BIN/unshare" -p -f sh -c 'echo $$')" = 1 ] || { echo "pid is not new"; exit 1; }
        [ "$("$BIN/unshare" -T -f readlink /proc/self/ns/time)" != "$(own time)" ] || { echo "time"; exit 1; }
    "#,
    )
    .ended_with(0)
    .printed("");
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_status_is_the_programs_with_and_without_a_fork() {
    for fork in ["-u", "-uf", "-upf"] {
        run("unshare", &[fork, "sh", "-c", "exit 42"]).ended_with(42);
        run("unshare", &[fork, "/no/such/program"]).ended_with(127).said("/no/such/program");
        run("unshare", &[fork, "/etc/passwd"]).ended_with(126).said("/etc/passwd");
        run("unshare", &[fork, "sh", "-c", "kill -TERM $$; :"]).ended_with(if fork == "-upf" {
            0
        } else {
            128 + 15
        });
    }
    if !theirs() {
        // util-linux before 2.40 ends with 1 and a message about sigprocmask here (its issue 2614).
        run("unshare", &["-uf", "sh", "-c", "kill -KILL $$"]).ended_with(128 + 9);
    }
}

/// As process 1 of its namespace a program ignores TERM from inside; with a parent like ours it does not.
#[test]
#[ignore = "needs root: tests/run"]
fn with_init_the_program_can_be_killed_and_orphans_are_reaped() {
    if theirs() {
        return;
    }
    run("unshare", &["--init", "sh", "-c", "kill -TERM $$; :"]).ended_with(128 + 15);
    run("unshare", &["--init", "sh", "-c", "exit 42"]).ended_with(42);
    run("unshare", &["--init", "/no/such/program"]).ended_with(127);
    // Three orphans end; then no process but init, the shell and its child ps may be there, zombies included.
    let count = "for i in 1 2 3; do (sh -c : &) ; done; \
                 while grep -lqs 'State:.Z' /proc/[0-9]*/status; do :; done; exit 7";
    run("unshare", &["--init", "--mount-proc", "timeout", "-s", "KILL", "30", "sh", "-c", count])
        .ended_with(7);
}

#[test]
#[ignore = "needs root: tests/run"]
fn terminating_the_launcher_ends_the_program_which_may_answer() {
    if theirs() {
        return;
    }
    for options in [&["-f", "--forward-signals"][..], &["--init", "--forward-signals"]] {
        let program = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
        let mut launcher = Command::new(tool("unshare"));
        launcher.args(options).args(["sh", "-c", program]);
        let got = signalled_when_ready(launcher, "TERM");
        assert_eq!((got.0, got.1.as_str()), (5, "ready\nbye\n"), "{options:?}");
    }
}

/// Starts, waits for a line on stdout, sends a signal; gives back status and all of stdout.
fn signalled_when_ready(mut command: Command, signal: &str) -> (i32, String) {
    use std::io::{BufRead, BufReader, Read};
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    out.read_line(&mut text).unwrap();
    assert_eq!(text, "ready\n");
    let mut kill = Command::new("kill");
    kill.args([&format!("-{signal}"), &child.id().to_string()]);
    finish(kill, "").ended_with(0);
    let status = child.wait().unwrap();
    out.read_to_string(&mut text).unwrap();
    (status.code().unwrap_or_else(|| 128 + status.signal().unwrap()), text)
}

#[test]
#[ignore = "needs root: tests/run"]
fn killing_the_launcher_kills_the_child() {
    inside(
        r#"
        mkfifo $T/alive
        "$BIN/unshare" --kill-child sh -c 'echo ready; exec sleep 60' >$T/alive &
        launcher=$!
        exec 3<$T/alive
        read line <&3
        kill -KILL $launcher
        read line <&3 || echo gone    # end of file: the child has let go of the fifo
    "#,
    )
    .ended_with(0)
    .printed("gone\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn mounts_made_inside_do_not_come_out_and_outer_ones_come_in_only_as_slave() {
    inside(
        r#"
        mount --make-rshared /
        "$BIN/unshare" -m mount -t tmpfs none $T
        "$BIN/unshare" -m --propagation slave mount -t tmpfs none $T
        ! mountpoint -q $T
        "$BIN/unshare" -m --propagation shared mount -t tmpfs none $T
        mountpoint -q $T
        umount $T
        "$BIN/unshare" -m --propagation unchanged mount -t tmpfs none $T
        mountpoint -q $T
    "#,
    )
    .ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn mount_proc_shows_the_new_pid_namespace_only() {
    run("unshare", &["-p", "-f", "--mount-proc", "sh", "-c", "set -- /proc/[0-9]*; echo $#"])
        .ended_with(0)
        .printed("1\n");
    inside("mkdir $T/p; \"$BIN/unshare\" -pf --mount-proc=$T/p sh -c \"cat $T/p/1/comm\"")
        .ended_with(0)
        .printed("sh\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn map_root_user_is_root_inside_and_denies_setgroups() {
    run("unshare", &["-r", "sh", "-c", "id -u; cat /proc/self/setgroups"]).ended_with(0).printed("0\ndeny\n");
    run("unshare", &["-r", "--setgroups", "allow", "true"]).ended_with(1).said("mutually exclusive");
}

#[test]
#[ignore = "needs root: tests/run"]
fn root_changes_the_root_and_wd_comes_after_it() {
    inside(
        &(TREE.to_owned()
            + r#"
        "$BIN/unshare" -R $T/root /bin/pwd
        "$BIN/unshare" -w /bin -R $T/root /bin/pwd
        "$BIN/unshare" -R $T/none /bin/pwd || echo $?
    "#),
    )
    .ended_with(0)
    .printed("/\n/bin\n1\n");
}

/// A root directory with busybox in it.
const TREE: &str = r#"
    mkdir -p $T/root/bin $T/root/etc
    cp "$(command -v busybox)" $T/root/bin/busybox
    for name in sh ls cat pwd hostname mount readlink touch grep stat test id; do
        ln -s busybox $T/root/bin/$name
    done
    export PATH=/bin:$PATH
"#;

/// Runs a shell script in a jail on the tree of busybox; `$T/root` is its root, `options` come first.
fn jailed(before: &str, options: &str, script: &str) -> common::Outcome {
    inside(&format!(
        "{TREE}\n{before}\n\"$BIN/unshare\" {options} --pivot-root $T/root /bin/sh -c '{script}'"
    ))
}

#[test]
#[ignore = "needs root: tests/run"]
fn pivot_root_leaves_nothing_of_the_old_root_and_lets_the_host_unmount() {
    if theirs() {
        return;
    }
    jailed(
        "",
        "--mount-proc -p -f",
        "ls /; cat /proc/self/mountinfo | while read a b c d point rest; do echo $point; done",
    )
    .ended_with(0)
    .printed("bin\netc\nproc\n/\n/proc\n");
    // What the host had mounted is not pinned by a running jail.
    inside(
        &(TREE.to_owned()
            + r#"
        mkdir $T/other
        mount -t tmpfs other $T/other
        mkfifo $T/up $T/down
        "$BIN/unshare" --jail --pivot-root $T/root /bin/sh -c 'echo up; read x' <$T/down >$T/up &
        exec 4>$T/down
        read line <$T/up
        grep -q " $T/other " /proc/self/mountinfo
        ! grep -q " $T/other " /proc/$!/mountinfo || echo pinned
        umount $T/other
        exec 4>&-
        wait $! || :
    "#),
    )
    .ended_with(0)
    .printed("");
}

/// pivot_root(2) from a chroot(2) changes the caller's root directory alone, and letting shared mounts go that are
/// outside of it would unmount them everywhere.
#[test]
#[ignore = "needs root: tests/run"]
fn a_jail_made_in_a_chroot_has_nothing_of_the_host_either() {
    if theirs() {
        return;
    }
    for kind in ["private", "shared"] {
        inside(&format!(
            r#"{TREE}
        mkdir $T/host
        mount --rbind / $T/host
        mount --make-r{kind} /
        mkdir $T/shared && mount -t tmpfs other $T/shared && mkdir $T/shared/deep && mount -t tmpfs deep $T/shared/deep
        wc -l </proc/self/mountinfo >$T/before
        mkfifo $T/up $T/down
        chroot $T/host "$BIN/unshare" --jail --pid-file $T/pid --pivot-root $T/root /bin/sh -c 'echo up; read x' <$T/down >$T/up &
        exec 4>$T/down
        read line <$T/up
        wc -l </proc/self/mountinfo | cmp - $T/before && echo the mounts of the host are there
        "$BIN/nsenter" -t $(cat $T/pid) -m /bin/ls /
        exec 4>&-
        wait $! || :
    "#
        ))
        .ended_with(0)
        .printed("the mounts of the host are there\nbin\ndev\netc\nproc\nsys\n");
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_private_dev_holds_the_harmless_devices_and_works() {
    if theirs() {
        return;
    }
    jailed("", "--mount-dev", "cd /dev; for n in *; do echo $n; done; echo lost >null && test -c tty && readlink fd && readlink ptmx && stat -c %t:%T null zero full random urandom tty")
        .ended_with(0)
        .printed(
            "fd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n\
             /proc/self/fd\npts/ptmx\n1:3\n1:5\n1:7\n1:8\n1:9\n5:0\n",
        );
    // In a user namespace the same, bound from the host.
    jailed("", "-r --mount-dev", "echo lost >/dev/null && test -c /dev/urandom && echo fine")
        .ended_with(0)
        .printed("fine\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn fstab_lines_are_mounted_inside_the_root() {
    if theirs() {
        return;
    }
    let before = r#"
        mkdir $T/data; echo hello >$T/data/file; echo name >$T/single
        printf '%s\n' '# comment' '' "$T/data /srv/data none bind,ro,x-mount.mkdir 0 0" \
            "$T/single /new/single none bind,x-mount.mkdir=0750" \
            'tmpfs /run tmpfs nosuid,size=64k,mode=700,x-mount.mkdir' \
            '/nowhere /mnt none bind,nofail,x-mount.mkdir' >$T/fstab
    "#;
    jailed(
        before,
        "--fstab $T/fstab",
        "cat /srv/data/file /new/single; touch /srv/data/new || echo refused; stat -c %a /run /new",
    )
    .ended_with(0)
    .printed("hello\nname\nrefused\n700\n750\n");
    let missing = "echo 'tmpfs /run tmpfs defaults' >$T/fstab";
    jailed(missing, "--fstab $T/fstab", "true")
        .ended_with(1)
        .said("'/run'")
        .said("hint: add the option x-mount.mkdir");
    let broken = "echo '/a b none bind' >$T/fstab";
    jailed(broken, "--fstab $T/fstab", "true").ended_with(1).said("line 1").said("'b'");
}

#[test]
#[ignore = "needs root: tests/run"]
fn process_1_tells_nothing_of_the_host() {
    if theirs() {
        return;
    }
    let script = r#"
        grep -c pivot-root /proc/1/cmdline
        grep -c ^init /proc/1/cmdline
        for secret in exe root cwd; do readlink /proc/1/$secret; done
        cat /proc/1/environ 2>/dev/null || echo hidden
    "#;
    jailed("", "--jail", script).ended_with(0).printed("0\n1\nhidden\n");
}

/// CVE-2021-30465 and its kind: links planted in the tree where something will be mounted. Mounts are shared
/// with the host here, so that one which lands outside is seen outside.
#[test]
#[ignore = "needs root: tests/run"]
fn links_in_a_hostile_root_never_lead_a_mount_out_of_it() {
    if theirs() {
        return;
    }
    let before = r#"
        mkdir -p $T/host/proc $T/host/dev $T/data
        echo host >$T/host/file; echo data >$T/data/file
        echo "$T/data /srv none bind,x-mount.mkdir" >$T/fstab
        untouched() {
            [ "$(cat $T/host/file)" = host ] && [ -z "$(ls -A $T/host/proc $T/host/dev | grep -v :)" ]
        }
        jail() { "$BIN/unshare" -m --propagation shared "$@" --root $T/root /bin/sh -c 'cat /srv/file'; }
        mount --make-rshared /
    "#;
    // What a link names is looked up inside; where it is not there, nothing is mounted at all.
    let cases = r#"
        ln -s $T/host $T/root/srv
        jail --fstab $T/fstab 2>/dev/null || echo refused
        untouched
        mkdir -p $T/root$T/host
        jail --fstab $T/fstab
        untouched
        rm $T/root/srv
        mkdir $T/root/srv
        for way in $T/host ../../../../../../..$T/host; do
            ln -s $way/proc $T/root/proc
            ln -s $way/dev $T/root/dev
            jail --mount-proc -pf 2>/dev/null || echo refused
            jail --mount-dev 2>/dev/null || echo refused
            untouched
            rm $T/root/proc $T/root/dev
        done
    "#;
    inside(&(TREE.to_owned() + before + cases))
        .ended_with(0)
        .printed("refused\ndata\nrefused\nrefused\nrefused\nrefused\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_jail_hides_and_protects_the_kernels_knobs() {
    if theirs() {
        return;
    }
    let script = r#"
        for path in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/uevent_helper; do
            (echo x >$path) 2>/dev/null && echo "wrote $path"
        done
        for path in /proc/kcore /proc/keys /proc/timer_list; do
            [ ! -e $path ] || [ -z "$(cat $path 2>/dev/null)" ] || echo "read $path"
        done
        [ -z "$(ls -A /sys/firmware 2>/dev/null)" ] || echo "read firmware"
        mount -t tmpfs none /bin 2>/dev/null && echo mounted
        mount -o remount,rw /sys 2>/dev/null && echo remounted
        /bin/busybox umount /proc/sys 2>/dev/null && echo unmounted
        /bin/busybox mknod /dev/disk b 8 0 2>/dev/null && echo made
        /bin/busybox chroot / /bin/busybox true || echo no chroot
        grep CapBnd /proc/self/status
        cat /proc/sys/kernel/ostype
        ls /proc/self/fd | wc -l
    "#
    .replace('\'', "");
    jailed("exec 7</", "--jail --hostname ship", &script)
        .ended_with(0)
        .printed("CapBnd:\t00000000a00405fb\nLinux\n4\n"); // 0 1 2 and the directory ls reads
}

/// No device can be made there, and no sysfs be mounted: both are the caller's, read-only where it matters.
#[test]
#[ignore = "needs root: tests/run"]
fn an_ordinary_user_can_have_a_jail_too() {
    if theirs() {
        return;
    }
    let script = r#"
        id -u
        cat /dev/zero | /bin/busybox head -c 3 | /bin/busybox wc -c
        touch /sys/new 2>/dev/null || echo refused
        (echo x >/sys/kernel/uevent_helper) 2>/dev/null && echo written
        ls /sys/fs/cgroup /sys/firmware 2>/dev/null | grep -v : | grep .
        [ -d /sys/class/net ] && hostname
    "#;
    for options in ["", "--net"] {
        inside(&format!(
            r#"{TREE}
            chown -R 65534 $T/root
            setpriv --reuid=65534 --regid=65534 --clear-groups "$BIN/unshare" -r --jail {options} --hostname poor \
                --pivot-root $T/root /bin/sh -c '{}'
            "$BIN/unshare" -r --jail {options} sh -c 'id -u; test -c /dev/null && test -d /sys/class && echo whole'
        "#,
            script
        ))
        .ended_with(0)
        .printed("0\n3\nrefused\npoor\n0\nwhole\n");
    }
}

/// remount(2) sets all flags of a mount: those that it had must not get lost by one more.
#[test]
#[ignore = "needs root: tests/run"]
fn the_options_of_a_bind_mount_add_to_those_of_its_source() {
    if theirs() {
        return;
    }
    let before = r#"
        mkdir -p $T/data
        mount -t tmpfs -o nosuid,noexec data $T/data
        mkdir $T/data/below
        mount -t tmpfs -o nodev below $T/data/below
        for how in bind rbind; do echo "$T/data /srv/$how none $how,ro,x-mount.mkdir"; done >$T/fstab
        show="/bin/busybox cut -d ' ' -f 5,6 /proc/self/mountinfo | /bin/busybox grep /srv/"
    "#;
    // The second one by one, as before Linux 5.12.
    let without = "strace -f -o /dev/null -e inject=mount_setattr:error=ENOSYS";
    for how in ["", without] {
        let jail = "unshare --mount-proc -pf --fstab $T/fstab --pivot-root $T/root /bin/sh -c \"$show\"";
        inside(&format!("{TREE}{before}\n{how} \"$BIN/\"{jail}")).ended_with(0).printed(
            "/srv/bind ro,nosuid,noexec,relatime\n/srv/rbind ro,nosuid,noexec,relatime\n\
             /srv/rbind/below ro,nodev,relatime\n",
        );
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn inherited_descriptors_are_closed_but_those_to_be_kept() {
    if theirs() {
        return;
    }
    let list = "for n in 3 4 5 9; do [ -e /proc/self/fd/$n ] && echo $n; done; true";
    inside(&format!(
        "exec 3</ 4</ 5</ 9</; \"$BIN/unshare\" -u --close-fds --keep-fd 4 --keep-fd 9 sh -c '{list}'"
    ))
    .ended_with(0)
    .printed("4\n9\n");
    inside(&format!("exec 3</ 9</; \"$BIN/unshare\" -u sh -c '{list}'")).ended_with(0).printed("3\n9\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_host_name_is_set_inside_only() {
    if theirs() {
        return;
    }
    inside("hostname outer; \"$BIN/unshare\" --hostname inner hostname; hostname")
        .ended_with(0)
        .printed("inner\nouter\n");
    let long = "x".repeat(65);
    run("unshare", &["--hostname", &long, "true"]).ended_with(1).said("host name");
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_pid_file_names_the_child_once_it_can_be_entered() {
    if theirs() {
        return;
    }
    inside(&(TREE.to_owned() + r#"
        mkfifo $T/up $T/down
        "$BIN/unshare" --jail --pid-file $T/pid --pivot-root $T/root /bin/sh -c 'echo up; read x' <$T/down >$T/up &
        exec 4>$T/down
        read line <$T/up
        pid=$(cat $T/pid)
        grep -q "^NSpid:.*	1$" /proc/$pid/status
        [ "$(stat -c %i /proc/$pid/root/.)" = "$(stat -c %i $T/root)" ]
        exec 4>&-
        wait $!
    "#))
    .ended_with(1); // read ends at the end of the file
    // A world that cannot be made leaves no pid file.
    inside("\"$BIN/unshare\" --pid-file $T/pid --pivot-root $T/none true || [ ! -e $T/pid ]")
        .ended_with(0)
        .said("'/tmp/t/none'");
}

#[test]
#[ignore = "needs root: tests/run"]
fn caps_bind_what_comes_after_even_with_other_ids() {
    if theirs() {
        return;
    }
    run("unshare", &["--caps", "chown,net_raw", "grep", "-E", "Cap(Prm|Eff|Bnd|Amb)", "/proc/self/status"])
        .ended_with(0)
        .printed("CapPrm:\t0000000000002001\nCapEff:\t0000000000002001\nCapBnd:\t0000000000002001\nCapAmb:\t0000000000000000\n");
    run(
        "unshare",
        &["--caps", "none", "-S", "7", "-G", "8", "sh", "-c", "id -u; id -g; grep CapBnd /proc/self/status"],
    )
    .ended_with(0)
    .printed("7\n8\nCapBnd:\t0000000000000000\n");
    run("unshare", &["--caps", "fly", "true"]).ended_with(1).said("unknown capability: 'fly'");
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_program_starts_with_the_callers_signal_mask_and_sigpipe() {
    let ask = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"];
    let mut plain = Command::new(ask[0]);
    plain.args(&ask[1..]);
    let callers = finish(plain, "").ended_with(0).out;
    for options in ["-u", "-uf", "-pf"] {
        run("unshare", &[&[options], &ask[..]].concat()).ended_with(0).printed(&callers);
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn without_the_right_a_remedy_is_named() {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--clear-groups"]).arg(tool("unshare")).args(["-u", "true"]);
    let got = finish(command, "").ended_with(1).said("unshare failed");
    if !theirs() {
        got.said("--map-root-user");
    }
}
