//! cgset's verbs on groups of the machine's own trees: freeze, kill, wait, list, measure, report, give away.

mod cgset_bed;
mod common;

use std::fs;
use std::process::{Child, Command, Stdio};

use cgset_bed::{Group, Scratch};
use common::{eventually, finish, run, tool};

const HOG: &str = "dd if=/dev/zero of=/dev/null bs=90M count=1 status=none";

/// A tool in the background.
fn spawn(arguments: &[&str]) -> Child {
    let mut command = Command::new(tool("cgset"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("cgset starts")
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_frozen_group_stands_still_until_thawed() {
    let group = Group::new("freeze");
    let file = Scratch::new("count");
    let count = || fs::metadata(&file).map_or(0, |meta| meta.len());
    let shell = format!("echo ready; exec >/dev/null; while :; do echo >>{}; done", file.str());
    let run_of_it = group.start(&[], &shell);
    eventually("it counts", || count() > 10);
    run("cgset", &["--freeze", &group.0]).ended_with(0);
    let (first, shown) = (count(), run("cgset", &["--show", &group.0]).ended_with(0).out);
    let second = count();
    assert!(shown.contains("frozen=1\n"), "{shown}");
    run("cgset", &["--thaw", &group.0]).ended_with(0);
    eventually("it goes on", || count() > second);
    // Frozen again, and killed as it is; the run that belongs to the group ends with it.
    run("cgset", &["--freeze", &group.0]).ended_with(0);
    run("cgset", &["--kill", &group.0]).ended_with(0);
    assert_eq!((run_of_it.end(), first), (137, second));
    group.gone();
    for verb in ["--freeze", "--thaw", "--kill", "--wait-oom"] {
        run("cgset", &[verb, &group.0]).ended_with(1).said("there is no group");
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn nobody_freezes_or_kills_himself() {
    let group = Group::new("himself");
    let me = tool("cgset");
    for verb in ["--freeze", "--kill"] {
        let ended = group.cgset(&["--", me.to_str().expect("a path"), verb, &group.0]).ended_with(1);
        ended.said("cgset itself").said("hint: call it from outside");
    }
    group.gone();
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_thawed_group_below_a_frozen_one_is_told() {
    let top = Group::new("above");
    let inner = Group(format!("{}/inner", top.0));
    inner.cgset(&[]).ended_with(0);
    run("cgset", &["--freeze", &top.0, &inner.0]).ended_with(0);
    run("cgset", &["--thaw", &inner.0]).ended_with(1).said("stays frozen, as the group above it is");
    run("cgset", &["--thaw", &top.0, &inner.0]).ended_with(0);
    run("cgset", &["--remove", &top.0]).ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn kill_ends_a_forking_group_and_leaves_its_limits() {
    let group = Group::new("killed");
    group.cgset(&["procs=30"]).ended_with(0);
    let script = Scratch::script("bomb", "#!/bin/sh\n\"$0\" & \"$0\" & exit\n");
    let bomb = format!("echo ready; exec >/dev/null 2>&1; {} ; sleep 600", script.str());
    let run_of_it = group.start(&[], &bomb);
    eventually("it forks", || group.pids().len() > 3);
    run("cgset", &["--kill", &group.0]).ended_with(0);
    assert_eq!((group.pids(), run_of_it.end()), (vec![], 137));
    assert_eq!(group.file(&["pids.max"]), "30");
    run("cgset", &["--remove", &group.0]).ended_with(0);
    group.gone();
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_kill_for_memory_is_waited_for() {
    let group = Group::new("wait");
    group.cgset(&["mem=40M", "swap=0?"]).ended_with(0);
    // Nobody inside: nothing to wait for.
    run("cgset", &["--wait-oom", &group.0]).ended_with(0);
    let stays = group.start(&[], "echo ready; exec sleep 600");
    for (options, status) in [(&["--wait-oom"][..], 3), (&["--wait-oom", "--oom-exit", "9"], 9)] {
        let mut waiting = spawn(&[options, &[&group.0]].concat());
        let mut kills = 0;
        // The first may come before it looks.
        while waiting.try_wait().expect("our child").is_none() {
            group.cgset(&["--", "sh", "-c", &format!("{HOG} 2>/dev/null; exit 0")]).ended_with(0);
            kills += 1;
            assert!(kills < 500, "never told");
        }
        let ended = waiting.wait_with_output().expect("our child");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(status), "{said}");
        assert!(said.starts_with(&format!("cgset: {}: out of memory: limit 40M, peak ", group.0)), "{said}");
    }
    let waiting = spawn(&["--wait-oom", &group.0]);
    run("cgset", &["--kill", &group.0]).ended_with(0);
    let ended = waiting.wait_with_output().expect("our child");
    assert_eq!((ended.status.code(), stays.end()), (Some(0), 137));
    run("cgset", &["--remove", &group.0]).ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn oomgroup_ends_all_that_runs_inside() {
    let group = Group::new("unit");
    let command = format!("{HOG}; sleep 600");
    let ended = group.cgset(&["oomgroup=1", "mem=40M", "swap=0?", "--", "sh", "-c", &command]);
    ended.ended_with(137).said("out of memory");
    group.gone();
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_run_is_reported_and_its_kill_has_a_status() {
    let group = Group::new("report");
    let file = Scratch::new("report");
    let path = file.str();
    // Longer than what comes: nothing of it stays.
    fs::write(&file, "x".repeat(5000)).unwrap();
    let busy = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; exit 4";
    group.cgset(&["--report", path, "mem=60M", "procs=9", "--", "sh", "-c", busy]).ended_with(4);
    let text = fs::read_to_string(&file).unwrap();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {key} in {text}")).to_owned()
    };
    assert_eq!([value("group"), value("status"), value("signal")], [group.0.clone(), "4".into(), "0".into()]);
    assert_eq!([value("oom_kills"), value("limit")], ["0", "62914560"]);
    for key in ["cpu_usec", "wall_usec", "peak", "procs_peak"] {
        assert!(value(key).parse::<u64>().is_ok_and(|n| n > 0), "{text}");
    }
    assert_eq!(text.lines().count(), 10);
    group.gone();

    let words = ["--json", "--report", path, "--oom-exit", "99", "mem=40M", "swap=0?", "--"];
    let hidden = format!("{HOG} 2>/dev/null; exit 0");
    group.cgset(&[&words[..], &["sh", "-c", &hidden]].concat()).ended_with(99);
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).expect("JSON");
    assert_eq!(
        (&json["status"], &json["oom_kills"], &json["limit"]),
        (&0.into(), &1.into(), &41_943_040.into())
    );
    // A stream is written to where it is.
    let script = format!(
        "exec '{}' {} --report /dev/stdout -- echo first >'{path}'",
        tool("cgset").display(),
        group.0
    );
    fs::write(&file, "").unwrap();
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("first\ngroup="), "{text:?}");
    // Without a kill it is the command's own.
    group.cgset(&["--oom-exit", "99", "mem=40M", "--", "sh", "-c", "kill -TERM $$"]).ended_with(143);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_command_that_cannot_be_executed_leaves_all_as_it_was() {
    let group = Group::new("noexec");
    group.cgset(&["mem=50M", "procs=20"]).ended_with(0);
    for (command, status) in [("/no/such", 127), ("/etc/passwd", 126)] {
        group.cgset(&["mem=70M", "procs=30", "cpu=1", "--", command]).ended_with(status);
        assert_eq!((group.limit(), group.file(&["pids.max"])), ((50 << 20).to_string(), "20".into()));
    }
    run("cgset", &["--remove", &group.0]).ended_with(0);
    let far = Group(format!("{}/a/b", group.0));
    far.cgset(&["mem=50M", "--", "/no/such"]).ended_with(127);
    group.gone();
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_limit_set_later_holds_who_is_inside_already() {
    let group = Group::new("later");
    // On v1 the group has no part in the tree of memory before.
    let command = format!("sleep 600 & echo ready; read x; {HOG}; kill %1");
    let mut child = Command::new(tool("cgset"));
    child.args([&group.0, "--", "sh", "-c", &command]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = child.stderr(Stdio::piped()).spawn().expect("cgset starts");
    eventually("both run", || group.pids().len() == 2);
    group.cgset(&["mem=40M", "swap=0?"]).ended_with(0);
    for dir in group.dirs() {
        let inside = fs::read_to_string(dir.join("cgroup.procs")).unwrap();
        assert_eq!(inside.lines().count(), 2, "{}", dir.display());
    }
    drop(child.stdin.take());
    let ended = child.wait_with_output().expect("our child");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("out of memory: limit 40M"), "{said}");
    // The tree that came later went with the others.
    group.gone();
}

#[test]
#[ignore = "needs root: tests/run"]
fn who_is_exiting_does_not_hold_up_a_limit_set_later() {
    let group = Group::new("exiting");
    // While the kernel frees its memory it stands in its group, and a move that succeeds does not move it.
    let exits =
        "perl -e '$x = \"a\" x 3e8; $SIG{USR1} = sub { kill 9, $$ }; $| = 1; print qq(ready\n); sleep'";
    let child = group.start(&[], &format!("{exits}; exec sleep 600"));
    let comm = |pid: &String| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let perl = group.pids().into_iter().find(|pid| comm(pid) == "perl\n").expect("it is inside");
    assert!(Command::new("kill").args(["-USR1", &perl]).status().expect("kill runs").success());
    group.cgset(&["mem=1G"]).ended_with(0);
    child.signal("KILL");
    child.end();
    run("cgset", &["--remove", &group.0]).ended_with(0);
    group.gone();
}

#[test]
#[ignore = "needs root: tests/run"]
fn levels_that_a_killed_run_made_go_with_the_next() {
    let top = Group::new("levels9");
    let [a, b] = ["a", "b"].map(|name| Group(format!("{}/level/{name}", top.0)));
    let killed = || {
        let run_of_it = a.start(&["mem=50M"], "echo ready; exec sleep 600");
        run_of_it.signal("KILL");
        run_of_it.end();
    };
    killed();
    // Another group below the same level: the level stays while the killed one's group is there.
    b.cgset(&["--", "true"]).ended_with(0);
    a.cgset(&["--", "true"]).ended_with(0);
    top.gone();
    killed();
    run("cgset", &["--remove", &a.0]).ended_with(0);
    top.gone();
    // A run in the level itself ends nobody below it, and leaves it to them.
    killed();
    let other = b.start(&[], "echo ready; exec sleep 600");
    run("cgset", &["--remove", &a.0]).ended_with(0);
    let level = Group(format!("{}/level", top.0));
    level.cgset(&["--", "true"]).ended_with(0);
    assert_eq!(b.pids().len(), 1);
    other.signal("TERM");
    assert_eq!(other.end(), 143);
    top.gone();
    // Somebody has set a limit there meanwhile: it is theirs.
    let me = tool("cgset");
    a.cgset(&["--", me.to_str().expect("a path"), &top.0, "procs=77"]).ended_with(0);
    assert_eq!(top.file(&["pids.max"]), "77");
    run("cgset", &["--remove", &top.0]).ended_with(0);
    top.gone();
}

/// One of them makes the group; the others must see that, whatever they saw a moment before.
#[test]
#[ignore = "needs root: tests/run"]
fn of_runs_that_begin_together_none_is_ended_by_another() {
    let group = Group::new("together");
    let begin = || spawn(&[&group.0, "mem=30M", "--", "sh", "-c", "sleep 0.02; exit 4"]);
    for _ in 0..20 {
        let runs = [(); 5].map(|()| begin());
        let ends = runs.map(|run| run.wait_with_output().unwrap());
        let codes = ends.each_ref().map(|end| end.status.code().unwrap());
        assert!(codes.contains(&4) && codes.iter().all(|code| [4, 125].contains(code)), "{ends:?}");
        group.gone();
    }
    // The directory is there, and not marked yet.
    let mut slow = Command::new(common::system("strace"));
    slow.args(["-qq", "-o", "/dev/null", "-e", "inject=?mkdir,?mkdirat:delay_exit=50000:when=1"]);
    let slow = slow.arg(tool("cgset")).args([&group.0, "--", "sh", "-c", "sleep 0.1; exit 4"]).spawn();
    eventually("a directory", || !group.dirs().is_empty());
    group.cgset(&["--", "true"]).ended_with(125).said("belongs to a running cgset");
    assert_eq!(slow.unwrap().wait().unwrap().code(), Some(4));
    group.gone();
}

/// strace ends cgset at each of its calls in turn; it counts each kind by itself.
#[test]
#[ignore = "needs root: tests/run"]
fn killed_at_any_call_its_group_can_be_removed() {
    let group = Group::new("call");
    let mut killed = 0;
    for call in
        "mkdir mkdirat open openat write pread64 lsetxattr pipe2 fork clone clone3 wait4 rmdir".split(' ')
    {
        for count in 1.. {
            let mut strace = Command::new(common::system("strace"));
            strace.args(["-o", "/dev/null", "-e", &format!("inject=?{call}:signal=KILL:when={count}")]);
            strace.arg(tool("cgset")).args([&group.0, "mem=50M", "procs=9", "cpu=1", "--", "true"]);
            let code = finish(strace, "").code;
            run("cgset", &["--remove", &group.0]).ended_with(0);
            group.gone();
            if code == 0 {
                break;
            }
            assert_eq!(code, 137, "at {call} {count}");
            killed += 1;
        }
    }
    assert!(killed > 30, "{killed} calls");
}

/// strace lets each of its calls, and of its command's, fail in turn.
#[test]
#[ignore = "needs root: tests/run"]
fn whatever_call_fails_nothing_is_left() {
    let group = Group::new("fails");
    let trace = Scratch::new("strace");
    let mut failed = 0;
    for call in
        "mkdir mkdirat open openat read write pread64 lsetxattr pipe2 fork clone clone3 getdents64".split(' ')
    {
        for count in 1.. {
            let mut strace = Command::new(common::system("strace"));
            strace.args([
                "-f",
                "-o",
                trace.str(),
                "-e",
                &format!("inject=?{call}:error=ENOMEM:when={count}"),
            ]);
            strace.arg(tool("cgset")).args([&group.0, "mem=50M", "procs=9", "cpu=1", "--", "true"]);
            let ended = finish(strace, "");
            if !fs::read_to_string(&trace).unwrap_or_default().contains("(INJECTED)") {
                ended.ended_with(0);
                break;
            }
            group.gone();
            // 126, 127: it was one of the command's own, or of the loader of either.
            assert!(matches!(ended.code, 0 | 125..=127), "at {call} {count}: {ended:?}");
            failed += 1;
        }
    }
    assert!(failed > 30, "{failed} calls");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_thousand_runs_leave_the_tree_as_it_was() {
    let group = Group::new("thousand");
    for _ in 0..1000 {
        let mut child = Command::new(tool("cgset"));
        child.args([&group.0, "mem=50M", "procs=9", "--", "true"]).stdin(Stdio::null());
        assert!(child.status().expect("cgset starts").success());
    }
    group.gone();
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_user_is_given_a_group_and_no_more() {
    let group = Group::new("own");
    // By descriptor, as the user may not reach the directory that the tool lies in.
    let outer = "exec 9<\"$1\"; shift; exec setpriv --reuid 1234 --regid 5678 --clear-groups sh -c \"$@\"";
    let inner = "cgset=/proc/self/fd/9; \
                 \"$cgset\" --leaf sub mem=30M procs=5 -- cat /proc/self/cgroup || exit; \
                 \"$cgset\" stays procs=4 && \"$cgset\" --remove stays || exit; \
                 \"$cgset\" --show stays 2>&1 | grep -q 'hint: .*--parent / is the root' || exit; \
                 ! \"$cgset\" ../x 2>/dev/null && ! \"$cgset\" --parent / escaped mem=1M 2>/dev/null && \
                 ! echo max >\"$1\" 2>/dev/null";
    let limit = |group: &Group| group.dirs().into_iter().map(|d| d.join("pids.max")).find(|f| f.exists());
    group.cgset(&["--own", "1234:5678", "mem=90M", "procs=50"]).ended_with(0);
    let file = limit(&group).expect("a pids.max");
    let (me, path) = (tool("cgset"), file.to_str().expect("a path"));
    let words = ["--", "sh", "-c", outer, "sh", me.to_str().expect("a path"), inner, "sh", path];
    let seen = group.cgset(&words).ended_with(0).out;
    assert!(seen.lines().any(|line| line.ends_with(&format!(":/{}/sub", group.0))), "{seen}");
    assert_eq!(fs::read_to_string(file).unwrap(), "50\n");
    run("cgset", &["--remove", &group.0]).ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn where_nobody_hears_it_does_its_work_all_the_same() {
    let group = Group::new("deaf");
    let line = "cgset -v \"$1\" procs=9 swappiness=0? >&- 2>/dev/full && cgset --remove -v no-such-group 2>/dev/full";
    let mut deaf = Command::new("sh");
    deaf.args(["-c", &line.replace("cgset", &tool("cgset").display().to_string()), "sh", &group.0]);
    finish(deaf, "").ended_with(0);
    assert_eq!(group.file(&["pids.max"]), "9");
    run("cgset", &["--remove", &group.0]).ended_with(0);
}

#[test]
#[ignore = "needs root: tests/run"]
fn processes_come_from_standard_input() {
    let group = Group::new("stdin");
    let mut others: Vec<Child> =
        (0..2).map(|_| Command::new("sleep").arg("600").spawn().expect("sleep starts")).collect();
    let pids: Vec<String> = others.iter().map(|child| child.id().to_string()).collect();
    let attach = |input: &str| {
        let mut command = Command::new(tool("cgset"));
        command.args([&group.0, "--pid", "-"]);
        finish(command, input)
    };
    let moved = attach(&pids.join("\n"));
    let inside = group.pids();
    let odd = attach("12 x");
    run("cgset", &["--kill", &group.0]).ended_with(0);
    run("cgset", &["--remove", &group.0]).ended_with(0);
    others.iter_mut().for_each(|child| drop(child.wait()));
    moved.ended_with(0);
    odd.ended_with(2).said("'x' is not a process number");
    let mut want = pids.clone();
    want.sort();
    assert_eq!(inside, want);
}

#[test]
#[ignore = "needs root: tests/run"]
fn groups_are_listed_as_a_tree() {
    let group = Group::new("list");
    let inner = Group(format!("{}/inner", group.0));
    let run_of_it = inner.start(&[], "echo ready; exec sleep 600");
    let pid = inner.pids().remove(0);
    // While it becomes sleep, it has no command line.
    let line = || fs::read(format!("/proc/{pid}/cmdline")).expect("it runs");
    eventually("it sleeps", || line() == b"sleep\x00600\x00");
    let mut ascii = Command::new(tool("cgset"));
    ascii.args(["--list", &group.0]).env("LC_ALL", "C");
    let listed = finish(ascii, "").ended_with(0).out;
    let json = run("cgset", &["--list", "--json", &group.0]).ended_with(0).out;
    let whole = run("cgset", &["--list"]).ended_with(0).out;
    run("cgset", &["--remove", &group.0]).ended_with(0);
    run_of_it.end();
    assert_eq!(listed, format!("{}\n`-inner\n  `-{pid} sleep 600\n", group.0));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let inside = &json["groups"][0]["pids"][0];
    assert_eq!(
        (&inside["pid"], &inside["command"]),
        (&pid.parse::<i32>().unwrap().into(), &"sleep 600".into())
    );
    assert!(whole.starts_with("/\n") && whole.contains(&group.0), "{whole}");
    run("cgset", &["--list", &group.0]).ended_with(1).said("there is no group");
}

#[test]
#[ignore = "needs root: tests/run"]
fn what_groups_use_is_measured() {
    let group = Group::new("top");
    let run_of_it = group.start(&["mem=60M"], "echo ready; while :; do :; done");
    let records = run("cgset", &["--top", "-n", "2", "-d", "0.1", &group.0]).ended_with(0).out;
    let json = run("cgset", &["--top", "--json", "-d", "0.05", &group.0]).ended_with(0).out;
    run("cgset", &["--remove", &group.0]).ended_with(0);
    run_of_it.end();
    let lines: Vec<&str> = records.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 2, "{records}");
    let end = format!(" group={}", group.0);
    assert!(lines.iter().all(|line| line.starts_with("procs=1 cpu=") && line.ends_with(&end)), "{records}");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(json[0]["mem"].as_u64().is_some_and(|bytes| bytes > 0), "{json}");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_terminal_gets_a_screen_that_fits() {
    let groups: Vec<Group> = (0..3).map(|_| Group::new("screen")).collect();
    groups.iter().for_each(|group| drop(group.cgset(&[]).ended_with(0)));
    let line = format!("stty rows 4 cols 50; exec {} --top -n 2 -d 0.05", tool("cgset").display());
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]);
    let seen = finish(script, "").ended_with(0).out;
    let screens: Vec<&str> = seen.split("\x1b[H").skip(1).collect();
    assert_eq!(screens.len(), 2, "{seen:?}");
    for screen in screens {
        let lines: Vec<&str> = screen.split("\x1b[K").map(|line| line.trim_start_matches("\r\n")).collect();
        assert!(lines[0].starts_with("GROUP ") && lines.len() <= 4, "{screen:?}");
        assert!(lines.iter().all(|line| line.chars().count() <= 50), "{screen:?}");
    }
}
