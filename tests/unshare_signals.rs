//! unshare: what a parent of a program must do with signals, and what the program gets of them.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, Stdio};

use common::{eventually, finish, inside, run, theirs, theirs_lacks, tool};

/// A program under unshare that has said "ready".
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Running {
    fn start(options: &[&str], script: &str) -> Running {
        let mut command = Command::new(tool("unshare"));
        command.args(options).args(["sh", "-c", script]);
        Running::start_command(command)
    }

    /// On a terminal of its own, by script(1).
    fn on_terminal(options: &str, script: &str) -> Running {
        let mut command = Command::new("script");
        let line = format!("stty -echo; exec '{}' {options} sh -c \"$PROGRAM\"", tool("unshare").display());
        command.args(["-q", "-e", "-c", &line, "/dev/null"]).env("PROGRAM", script).env("SHELL", "/bin/sh");
        Running::start_command(command)
    }

    fn start_command(mut command: Command) -> Running {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), "ready");
        Running { child, out }
    }

    fn kill(&self, signal: &str) {
        let mut kill = Command::new("kill");
        kill.args([&format!("-{signal}"), &self.child.id().to_string()]);
        finish(kill, "").ended_with(0);
    }

    fn say(&mut self, line: &str) {
        self.child.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    }

    /// The status as a shell shows it, and the rest of what was printed.
    fn end(mut self) -> (i32, String) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        let mut text = String::new();
        self.out.read_to_string(&mut text).unwrap();
        (status.code().unwrap_or_else(|| 128 + status.signal().unwrap()), text)
    }
}

fn children(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap()
}

#[test]
#[ignore = "needs root: tests/run"]
fn while_waiting_int_and_term_are_held_back_and_the_childs_end_counts() {
    for signal in ["TERM", "INT"] {
        let mut running = Running::start(&["-f"], "echo ready; read line; echo $line; exit 7");
        running.kill(signal);
        running.say("still here\n");
        assert_eq!(running.end(), (7, "still here\n".into()), "{signal}");
    }
    // The others kill the parent, as any program, and leave the child.
    let running = Running::start(&["-f"], "echo ready; read line; echo left");
    running.kill("HUP");
    assert_eq!(running.end(), (128 + 1, "left\n".into()));
}

#[test]
#[ignore = "needs root: tests/run"]
fn term_and_int_are_forwarded_on_request() {
    if theirs_lacks("unshare", "--forward-signals") {
        return;
    }
    for signal in ["TERM", "INT"] {
        let script = format!("trap 'echo got; exit 5' {signal}; echo ready; while :; do sleep 0.02; done");
        let running = Running::start(&["--forward-signals"], &script);
        running.kill(signal);
        assert_eq!(running.end(), (5, "got\n".into()), "{signal}");
    }
    // A program that dies of it: so do we.
    let running = Running::start(&["--forward-signals"], "echo ready; while :; do sleep 0.02; done");
    running.kill("TERM");
    assert_eq!(running.end(), (128 + 15, String::new()));
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_list_says_which_signals_are_forwarded() {
    if theirs() {
        return;
    }
    for signal in ["HUP", "QUIT", "USR1", "USR2", "WINCH", "RTMIN+2"] {
        let trap = signal.replace("RTMIN+2", "36");
        let script = format!("trap 'echo got; exit 5' {trap}; echo ready; while :; do sleep 0.02; done");
        for list in [format!("--forward-signals={signal}"), "--forward-signals=all".into()] {
            let running = Running::start(&[&list], &script);
            running.kill(&trap);
            assert_eq!(running.end(), (5, "got\n".into()), "{list}");
        }
    }
    run("unshare", &["--forward-signals=TERM,FLY", "true"]).ended_with(1).said("unknown signal: FLY");
    run("unshare", &["--forward-signals=KILL", "true"]).ended_with(1).said("KILL");
}

/// Ctrl-C goes to the whole foreground group: to the child once, and to one that has left the group by us.
#[test]
#[ignore = "needs root: tests/run"]
fn what_the_terminal_sends_reaches_the_child_once() {
    if theirs() {
        return; // util-linux sends it twice
    }
    let script = "trap 'echo got' INT; trap 'echo end; exit 5' USR1; echo ready; \
                  while :; do sleep 0.02; done";
    for options in ["-f", "-f --new-session", "--init", "--init --new-session"] {
        let options = format!("{options} --forward-signals=INT,USR1");
        let mut running = Running::on_terminal(&options, script);
        running.say("\x03");
        let mut line = String::new();
        running.out.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), "got", "{options}");
        // What had been sent twice would come before this.
        let mut kill = Command::new("kill");
        kill.args(["-USR1", children(running.child.id()).trim()]);
        finish(kill, "").ended_with(0);
        assert_eq!(running.end(), (5, "end\r\n".into()), "{options}");
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_parent_dies_of_the_childs_signal() {
    for (signal, status) in
        [("TERM", 143), ("INT", 130), ("HUP", 129), ("SEGV", 139), ("KILL", 137), ("36", 164)]
    {
        if theirs_lacks("unshare", "--map-subids") && signal == "KILL" {
            continue; // util-linux#2614
        }
        run("unshare", &["-f", "sh", "-c", &format!("kill -{signal} $$")]).ended_with(status);
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn orphans_that_die_of_real_time_signals_are_reaped_too() {
    if theirs() {
        return;
    }
    let script = "(sh -c 'kill -36 $$' &); (sh -c 'kill -36 $$' &); \
                  while grep -lqs 'State:.Z' /proc/[0-9]*/status; do :; done; exit 7";
    run("unshare", &["--init", "--mount-proc", "timeout", "-s", "KILL", "30", "sh", "-c", script])
        .ended_with(7);
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_stopped_child_is_not_followed() {
    let running = Running::start(
        &["-f"],
        "trap 'exit 4' USR1; echo ready; kill -STOP $$; while :; do sleep 0.02; done",
    );
    let me = running.child.id();
    let state = |pid: &str| std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap();
    let child = children(me);
    eventually("the child is stopped", || state(&child).contains(") T "));
    eventually("the parent waits", || state(&me.to_string()).contains(") S "));
    for signal in ["USR1", "CONT"] {
        let mut kill = Command::new("kill");
        kill.args([&format!("-{signal}"), child.trim()]);
        finish(kill, "").ended_with(0);
    }
    assert_eq!(running.end().0, 4);
}

/// A caller that ignores SIGCHLD would take the child's status away; the program gets the default, too.
#[test]
#[ignore = "needs root: tests/run"]
fn an_ignored_sigchld_does_no_harm() {
    for options in ["-f", "-u", "-r --map-users 7:7:1"] {
        if options.contains("map-users") && theirs_lacks("unshare", "--map-subids") {
            continue;
        }
        let script = format!(
            "perl -e '$SIG{{CHLD}} = \"IGNORE\"; exec @ARGV' \"$BIN/unshare\" {options} sh -c 'grep -c ^SigIgn:.*[02468ace]....$ /proc/$$/status; exit 9'"
        );
        inside(&script).ended_with(9).printed("1\n"); // the fifth digit from the right holds bit 16
    }
}

/// What Rust changes at its start must not be seen by the program.
#[test]
#[ignore = "needs root: tests/run"]
fn sigpipe_and_closed_descriptors_are_as_they_were() {
    let ask = "grep -c ^SigIgn:.*[13579bdf]...$ /proc/self/status || :"; // bit 12 is in the fourth digit
    for (setting, ignored) in [("DEFAULT", 0), ("IGNORE", 1)] {
        for options in ["-u", "-f", "-pf"] {
            inside(&format!(
                "perl -e '$SIG{{PIPE}} = \"{setting}\"; exec @ARGV' \"$BIN/unshare\" {options} sh -c '{ask}'"
            ))
            .ended_with(0)
            .printed(&format!("{ignored}\n"));
        }
    }
    let list = "[ -e /proc/$$/fd/0 ] && echo stdin; [ -e /proc/$$/fd/2 ] && echo stderr; :";
    for options in ["-u", "-f", "-pf --mount-proc", "-r"] {
        inside(&format!("\"$BIN/unshare\" {options} sh -c '{list}' <&- 2>&-")).ended_with(0).printed("");
        inside(&format!("\"$BIN/unshare\" {options} sh -c '{list}'"))
            .ended_with(0)
            .printed("stdin\nstderr\n");
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn signal_names_are_taken_in_all_forms_and_numbers_in_none() {
    for name in ["KILL", "sigkill", "SigTerm", "RTMIN+1", "rtmax-2"] {
        run("unshare", &[&format!("--kill-child={name}"), "true"]).ended_with(0);
    }
    for name in ["15", "FLY", "SIG"] {
        run("unshare", &[&format!("--kill-child={name}"), "true"])
            .ended_with(1)
            .said(&format!("unknown signal: {name}"));
    }
}

/// Scripts enter what the parent has left: it must be in the new namespaces, all but the pid namespace.
#[test]
#[ignore = "needs root: tests/run"]
fn the_waiting_parent_is_in_the_new_namespaces_itself() {
    let running = Running::start(&["-u", "-n", "-m", "-p", "-f"], "hostname inner; echo ready; read line");
    let me = running.child.id();
    let ns = |pid: &str, kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    for kind in ["uts", "net", "mnt"] {
        assert_ne!(ns(&me.to_string(), kind), ns("self", kind), "{kind}");
    }
    assert_eq!(ns(&me.to_string(), "pid"), ns("self", "pid"));
    assert_ne!(ns(&me.to_string(), "pid_for_children"), ns("self", "pid"));
    running.end();
}

/// Session, group and terminal are the caller's.
#[test]
#[ignore = "needs root: tests/run"]
fn a_fork_makes_no_session_and_no_group() {
    let script = r#"
        ids() { cut -d " " -f 5,6 /proc/self/stat; }
        for options in -f -pf "-f --kill-child"; do
            [ "$("$BIN/unshare" $options cut -d " " -f 5,6 /proc/self/stat)" = "$(ids)" ] || echo "$options"
        done
    "#;
    inside(script).ended_with(0).printed("");
}
