//! cgset: limits that hold, and runs that end and leave nothing, on the kernel's own trees under names of their own.

mod cgset_bed;
mod common;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cgset_bed::{Group, Host, Scratch};
use common::{eventually, finish, run, tool};

#[test]
fn help_man_page_and_completion_agree() {
    common::docs_agree("cgset", "cgset.8");
}

#[test]
fn a_malformed_line_is_2_and_changes_nothing() {
    let host = Host::v2("memory pids cpu\n");
    for (line, said) in [
        ("", "no group given"),
        ("/web mem=1M", "'/web' cannot be a group"),
        ("../web", "no part of it may be empty, '.' or '..'"),
        ("web/tasks", "name of a control file"),
        ("memory.max", "name of a control file"),
        ("mem=100M", "hint: the group comes first"),
        // As others spell it: nothing is removed.
        ("-r memory.max=50M web", "hint: the group comes first"),
        ("web mem=", "hint: an unset variable?"),
        ("web mem=100MB", "hint: write 100M or 100MiB"),
        ("web mem=50", "hint: if it is meant: --force"),
        ("web mem=1M mem=2M", "given twice"),
        ("web memory=5M", "hint: the words are mem= swap= swappiness="),
        ("web memory.max=", "hint: an unset variable?"),
        ("web memory.max=100", "hint: if it is meant: --force"),
        ("web read=10M", "hint: read=/dev/sda:10M"),
        ("web write=8:0:1", "hint: if it is meant: --force"),
        ("web weight=0", "not a number from 1 to 10000"),
        ("web cpus=3-1", "not a list such as 0-3,5"),
        ("web swappiness=201", "not a number from 0 to 200"),
        ("web cgroup.procs=1", "hint: --pid N moves a process in"),
        ("web ../memory.max=5M", "not the name of a control file"),
        ("--freeze --kill web", "--freeze and --kill do not go together"),
        ("--kill web -v", "--verbose does not belong to --kill"),
        ("--list a b", "--list takes one group, and then came 'b'"),
        ("web --own nobody-of-that-name", "there is no user 'nobody-of-that-name'"),
        ("web ls -l", "invalid option"),
        ("web ls", "hint: a command comes after '--'"),
        ("web --pid x", "'x' is not a process number"),
        ("web --", "no command after"),
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        host.cgset(&words).ended_with(2).said(said);
    }
    let long = "x".repeat(256);
    host.cgset(&[&long]).ended_with(2).said("longer than 255");
    assert_eq!(fs::read_dir(host.0.join("sys/fs/cgroup")).unwrap().count(), 2, "nothing was made");
}

/// The kernel gives whole lines of mountinfo: before a long one, a block is short, and not the last.
#[test]
#[ignore = "needs root: tests/run"]
fn a_tree_behind_a_long_line_of_mounts_is_found() {
    let script = "awk '$3 ~ /^cgroup/ { print $2 }' /proc/mounts | sort -r | xargs umount
        part=$(printf '%0200d' 0)
        mkdir /run/cg && cd /run
        for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17; do mkdir $part && cd $part; done
        mount -t tmpfs long .
        mount -t cgroup2 cgroup2 /run/cg
        cgset $GROUP -- sed -n 's/^0:://p' /proc/self/cgroup";
    let group = Group::new("long");
    let found = common::inside_with(script, &[("GROUP", &group.0)]).ended_with(0).out;
    assert_eq!(found, format!("/{}\n", group.0));
    group.gone();
}

#[test]
#[ignore = "needs root: tests/run"]
fn limits_are_set_shown_changed_and_lifted() {
    let group = Group::new("limits");
    // Not a multiple of the page: the kernel rounds down, and that is as asked. Twice: nothing to complain of.
    for _ in 0..2 {
        group.cgset(&["mem=100000000", "procs=50", "cpu=150%"]).ended_with(0).printed("");
        assert_eq!((group.limit(), group.file(&["pids.max"])), ("99999744".into(), "50".into()));
        assert!(group.file(&["cpu.max", "cpu.cfs_quota_us"]).starts_with("150000"));
    }
    let shown = run("cgset", &["--show", &group.0]).ended_with(0).out;
    assert!(shown.contains("mem=95.4M used=") && shown.contains("procs=50 used=0"), "{shown}");
    assert!(shown.contains("cpu=1.5 used=") && shown.ends_with("pids=\n"), "{shown}");
    let json = run("cgset", &["--show", "--json", &group.0]).ended_with(0).out;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["mem"]["limit"], &json["cpu"]["limit"]), (&99_999_744.into(), &1.5.into()));
    group.cgset(&["mem=max", "procs=none", "cpu=-1"]).ended_with(0);
    assert_eq!(group.file(&["pids.max"]), "max");
    let json = run("cgset", &["--show", "--json", &group.0]).ended_with(0).out;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(
        json["mem"]["limit"].is_null() && json["procs"]["limit"].is_null() && json["cpu"]["limit"].is_null()
    );
    run("cgset", &["--remove", &group.0]).ended_with(0);
    group.gone();
    // As asked already.
    run("cgset", &["--remove", &group.0]).ended_with(0).printed("");
    run("cgset", &["--show", &group.0]).ended_with(1).said("there is no group");
}

#[test]
#[ignore = "needs root: tests/run"]
fn memory_and_swap_move_up_and_down_together() {
    let group = Group::new("swap");
    group.cgset(&["mem=50M"]).ended_with(0);
    if !group.has("memory.memsw.limit_in_bytes") {
        return; // v2 has no order to get wrong: tests/vm/cgset.sh
    }
    let both = || (group.limit(), group.file(&["memory.memsw.limit_in_bytes"]));
    for (words, limit, memsw) in [
        (&["mem=50M", "swap=10M"][..], 50, 60),
        (&["mem=200M", "swap=0"], 200, 200),
        (&["mem=20M"], 20, 20),
        (&["swap=30M"], 20, 50),
        (&["mem=100M"], 100, 130),
    ] {
        group.cgset(words).ended_with(0);
        assert_eq!(both(), ((limit << 20).to_string(), (memsw << 20).to_string()), "{words:?}");
    }
    group.cgset(&["mem=max"]).ended_with(0);
    assert_eq!(both().0, both().1);
    group.cgset(&["swap=1M"]).ended_with(1).said("hint: give both");
}

const HOG: &str = "dd if=/dev/zero of=/dev/null bs=90M count=1 status=none";

#[test]
#[ignore = "needs root: tests/run"]
fn death_for_memory_is_told_in_one_line_and_the_group_goes() {
    let group = Group::new("oom");
    let line = format!("cgset: {}: out of memory: limit 40M, peak ", group.0);
    let command = ["mem=40M", "swap=0?", "--", "dd", "if=/dev/zero", "of=/dev/null", "bs=90M", "count=1"];
    let ended = group.cgset(&command).ended_with(137).said(&line).said("1 process killed\n");
    assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
    group.gone();
    // The command goes on after the kill and ends well.
    let hidden = format!("{HOG} 2>/dev/null; {HOG} 2>/dev/null; exit 3");
    group.cgset(&["mem=40M", "swap=0?", "--", "sh", "-c", &hidden]).ended_with(3).said("2 processes killed");
    // Kills of before are not told again, and none is none.
    group.cgset(&["mem=40M", "swap=0?"]).ended_with(0);
    group.cgset(&["--", "sh", "-c", &hidden]).ended_with(3).said("2 processes killed");
    let calm = group.cgset(&["--", "true"]).ended_with(0);
    assert_eq!(calm.err, "");
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_status_is_the_commands() {
    let group = Group::new("status");
    group.cgset(&["--", "sh", "-c", "exit 7"]).ended_with(7);
    group.cgset(&["--", "sh", "-c", "kill -USR1 $$"]).ended_with(128 + 10);
    group.cgset(&["--", "/no/such"]).ended_with(127).said("failed to execute /no/such");
    group.cgset(&["--", "/etc/passwd"]).ended_with(126);
    group.gone();
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_command_gets_no_descriptor_and_no_mask() {
    let group = Group::new("clean");
    for command in [&["ls", "/proc/self/fd"][..], &["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]] {
        // Compared with the same without cgset: the test's own caller may leave some open or ignored.
        let mut plain = Command::new(command[0]);
        plain.args(&command[1..]);
        let plain = finish(plain, "").ended_with(0).out;
        group.cgset(&[&["mem=50M", "procs=9", "--"], command].concat()).ended_with(0).printed(&plain);
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_command_stands_in_the_group_in_every_tree_in_use() {
    let group = Group::new("stand");
    let seen =
        group.cgset(&["mem=50M", "procs=9", "cpu=1", "--", "cat", "/proc/self/cgroup"]).ended_with(0).out;
    let place = format!("/{}", group.0);
    let inside: Vec<&str> = seen.lines().filter(|line| line.ends_with(&place)).collect();
    let v1 = ["memory", "pids", "cpu"]
        .iter()
        .all(|c| inside.iter().any(|line| line.split([':', ',']).any(|w| w == *c)));
    assert!(v1 || inside == [format!("0::{place}")], "{seen}");
}

#[test]
#[ignore = "needs root: tests/run"]
fn procs_stops_forks() {
    let group = Group::new("procs");
    let loop_ = "for i in 1 2 3 4 5 6 7 8; do sleep 60 & done";
    group.cgset(&["procs=5", "--", "dash", "-c", loop_]).ended_with(2).said("Cannot fork");
    group.gone();
}

#[test]
#[ignore = "needs root: tests/run"]
fn processors_are_chosen_at_every_level() {
    let top = Group::new("cpus");
    let inner = Group(format!("{}/in", top.0));
    let run_in = ["cpus=0", "--", "sed", "-n", "s/^Cpus_allowed_list:.//p", "/proc/self/status"];
    assert_eq!(inner.cgset(&run_in).ended_with(0).out, "0\n");
    top.gone();
    top.cgset(&["cpus=0"]).ended_with(0);
    let failed = inner.cgset(&["cpus=900"]).ended_with(1);
    failed.said("cpuset.cpus': ").said("hint: the group above has '0'");
    inner.gone();
    top.cgset(&["cpus=max"]).ended_with(0);
    run("cgset", &["--remove", &top.0]).ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn stragglers_end_with_the_run_and_stay_with_keep() {
    let group = Group::new("left");
    group.cgset(&["--", "sh", "-c", "sleep 600 >/dev/null 2>&1 & exit 3"]).ended_with(3);
    group.gone();
    group.cgset(&["--keep", "mem=50M", "--", "sh", "-c", "sleep 600 >/dev/null 2>&1 & exit 3"]).ended_with(3);
    assert_eq!((group.pids().len(), group.limit()), (1, (50 << 20).to_string()));
    // A group that is there stays, and so do those inside.
    group.cgset(&["--", "true"]).ended_with(0);
    assert_eq!(group.pids().len(), 1);
    run("cgset", &["--remove", &group.0]).ended_with(0);
    group.gone();
}

#[test]
#[ignore = "needs root: tests/run"]
fn levels_made_for_a_run_go_with_it() {
    let top = Group::new("levels");
    let inner = Group(format!("{}/a/b", top.0));
    inner.cgset(&["mem=50M", "--", "true"]).ended_with(0);
    top.gone();
    inner.cgset(&["mem=50M"]).ended_with(0);
    inner.cgset(&["--", "true"]).ended_with(0);
    assert!(!inner.dirs().is_empty());
    // From the top, the deepest first.
    run("cgset", &["--remove", &top.0]).ended_with(0);
    top.gone();
}

#[test]
#[ignore = "needs root: tests/run"]
fn signals_reach_the_command() {
    let group = Group::new("signals");
    for signal in ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"] {
        let trap = format!("trap 'exit 42' {signal}; echo ready; while :; do sleep 0.01; done");
        let run = group.start(&[], &trap);
        run.signal(signal);
        assert_eq!(run.end(), 42, "{signal}");
        group.gone();
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_running_process_is_moved_in_with_all_its_threads_trees() {
    let group = Group::new("move");
    let mut other = Command::new("sleep").arg("600").spawn().expect("sleep starts");
    let pid = other.id().to_string();
    let moved = group.cgset(&["mem=50M", "procs=9", "--pid", &pid]);
    let inside = group.pids();
    // A process that is not there: nothing is made and nobody moved.
    let none = Group::new("move");
    let refused = none.cgset(&["mem=50M", "--pid", &pid, "--pid", "4194303"]);
    let still = group.pids();
    run("cgset", &["--remove", &group.0]).ended_with(0);
    other.wait().expect("our child");
    moved.ended_with(0);
    refused.ended_with(1).said("there is no process 4194303");
    none.gone();
    assert_eq!((&inside[..], &still[..]), (&[pid.clone()][..], &[pid][..]));
}

#[test]
#[ignore = "needs root: tests/run"]
fn what_is_forking_or_frozen_is_removed_all_the_same() {
    let group = Group::new("bomb");
    let script = Scratch::script("bomb", "#!/bin/sh\n\"$0\" & \"$0\" & exit\n");
    // In a group that limits it, and from which cgset itself does not read.
    let bomb = format!("echo ready; exec >/dev/null 2>&1; {} ; sleep 600", script.str());
    let run_of_it = group.start(&["procs=30"], &bomb);
    eventually("the loop forks", || group.pids().len() > 3);
    run("cgset", &["--remove", &group.0]).ended_with(0);
    group.gone();
    drop(run_of_it);

    let cold = Group::new("cold");
    let run_of_it = cold.start(&[], "echo ready; exec sleep 600");
    for dir in cold.dirs() {
        let _ = fs::write(dir.join("freezer.state"), "FROZEN");
        if dir.join("cgroup.freeze").exists() {
            fs::write(dir.join("cgroup.freeze"), "1").unwrap();
        }
    }
    run("cgset", &["--remove", &cold.0]).ended_with(0);
    assert_eq!(run_of_it.end(), 137);
    cold.gone();
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_limit_below_use_changes_nothing() {
    let group = Group::new("used");
    // A shell's variable holds it.
    let hold = "x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo ready; read x";
    let run_of_it = group.start(&["mem=100M", "procs=20"], &format!("exec 0</dev/zero; {hold}"));
    group.cgset(&["procs=10", "mem=5M"]).ended_with(1);
    assert_eq!((group.limit(), group.file(&["pids.max"])), ((100 << 20).to_string(), "20".into()));
    run("cgset", &["--remove", &group.0]).ended_with(0);
    assert_eq!(run_of_it.end(), 137);
}

#[test]
#[ignore = "needs root: tests/run"]
fn cgset_does_not_remove_the_group_it_stands_in() {
    let group = Group::new("self");
    let me = tool("cgset");
    let me = me.to_str().expect("a path");
    group.cgset(&["--", me, "--remove", &group.0]).ended_with(1).said("cgset itself");
    group.gone();
}

#[test]
#[ignore = "needs root: tests/run"]
fn two_runs_do_not_share_a_group_that_ends_with_one() {
    let group = Group::new("owner");
    let first = group.start(&["mem=50M"], "echo ready; exec sleep 600");
    group
        .cgset(&["--", "true"])
        .ended_with(125)
        .said("belongs to a running cgset")
        .said("hint: to share a group");
    // Its limits may be changed meanwhile.
    group.cgset(&["mem=60M"]).ended_with(0);
    assert_eq!(group.limit(), (60 << 20).to_string());
    first.signal("KILL");
    assert_eq!(first.end(), 137);
    assert_eq!(group.pids().len(), 1, "the command goes on when cgset is killed");
    // The next run clears what the killed one left.
    group.cgset(&["mem=50M", "--", "true"]).ended_with(0);
    group.gone();
}

#[test]
#[ignore = "needs root: tests/run"]
fn after_kill_at_any_moment_remove_leaves_nothing() {
    let mut delay = Duration::ZERO;
    while delay < Duration::from_millis(6) {
        let group = Group::new("kill9");
        let mut command = Command::new(tool("cgset"));
        command.args([&group.0, "mem=50M", "procs=20", "cpu=1", "--", "sleep", "600"]);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("cgset starts");
        let until = Instant::now() + delay;
        while Instant::now() < until {}
        child.kill().expect("our child");
        child.wait().expect("our child");
        run("cgset", &["--remove", &group.0]).ended_with(0);
        // A child that had not entered yet finds no group any more, and ends.
        group.gone();
        delay += Duration::from_micros(150);
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_dry_run_is_a_script_that_does_the_same() {
    let group = Group::new("dry");
    let plan =
        group.cgset(&["--dry-run", "mem=50M", "procs=9", "--", "sh", "-c", "echo $1; exit 5", "sh", "a b"]);
    group.gone();
    let mut sh = Command::new("sh");
    sh.args(["-c", &plan.ended_with(0).out]);
    finish(sh, "").ended_with(5).printed("a b\n");
    group.gone();
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_signal_that_comes_early_leaves_nothing() {
    let group = Group::new("early");
    for _ in 0..10 {
        let mut child = Command::new(tool("cgset"));
        let mut child =
            child.args([&group.0, "mem=50M", "--", "sleep", "600"]).spawn().expect("cgset starts");
        eventually("the group is there", || !group.dirs().is_empty());
        Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
        child.wait().expect("our child");
        group.gone();
    }
}
