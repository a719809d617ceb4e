//! nsenter --pty on terminals: bytes, modes, sizes, signals, and what a hostile program can do with its end.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::{command_inside, inside, theirs};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;

/// A target with a devpts of its own; `$P` is its pid. Ends with the test.
const TARGET: &str = r#"
    mkfifo $T/up $T/down
    /usr/bin/unshare -muinpCf --mount-proc --kill-child sh -c '
        hostname target; mount -t devpts -o newinstance,ptmxmode=666 devpts /dev/pts; echo up; read x' \
        <$T/down >$T/up &
    exec 4>$T/down
    read line <$T/up
    P=$(cat /proc/$!/task/$!/children); P=${P% }
"#;

fn with_target(script: &str) -> common::Outcome {
    inside(&(TARGET.to_owned() + script))
}

/// A person at a terminal that runs a script.
struct Person {
    screen: File,
    seen: String,
    child: Child,
}

impl Person {
    fn runs(script: &str) -> Person {
        let pty = openpty(None, None).unwrap();
        let inner = command_inside(&(TARGET.to_owned() + script));
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(inner.get_program()).args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let end = |fd: &OwnedFd| fd.try_clone().unwrap();
        command.stdin(end(&pty.slave)).stdout(end(&pty.slave)).stderr(end(&pty.slave));
        let child = command.spawn().unwrap();
        Person { screen: pty.master.into(), seen: String::new(), child }
    }

    fn types(&mut self, keys: &str) {
        self.screen.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads until `text` is on the screen, and forgets what came up to it.
    #[track_caller]
    fn sees(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut chunk = [0; 4096];
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let mut fds = [PollFd::new(self.screen.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::from(100u8)).unwrap() > 0;
            let got = if ready { self.screen.read(&mut chunk).unwrap_or(0) } else { 0 };
            self.seen.push_str(&String::from_utf8_lossy(&chunk[..got]));
            assert!(Instant::now() < deadline && !(ready && got == 0), "no {text:?} in {:?}", self.seen);
        }
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_program_leads_a_session_on_a_terminal_of_the_target() {
    if theirs() {
        return;
    }
    with_target(
        r#"
        "$BIN/nsenter" -t $P -a --pty sh -c 'tty; ls /dev/pts; ps -o pid=,sid=,tty= -p $$ | tr -s " "; : </dev/tty; exit 7' </dev/null || echo $?
        sig() { "$@" grep -E 'Sig(Blk|Ign)' /proc/self/status; }
        sig env >$T/outside
        sig "$BIN/nsenter" -t $P -a --pty </dev/null | tr -d '\r' | cmp - $T/outside
        outside=$(ls /proc/self/fd | wc -l)
        [ "$("$BIN/nsenter" -t $P -a --pty sh -c 'ls /proc/self/fd | wc -l' </dev/null | tr -d '\r')" = "$outside" ]
        "$BIN/nsenter" -t $P -n --pty sh -c 'test -t 0 && test -t 1 && test -t 2 && echo terminal' </dev/null
    "#,
    )
    .ended_with(0)
    .printed("/dev/pts/0\r\n0  ptmx\r\n 4 4 pts/0\r\n7\nterminal\r\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn without_a_terminal_all_bytes_and_the_end_of_input_are_passed_on() {
    if theirs() {
        return;
    }
    with_target(
        r#"
        enter="$BIN/nsenter -t $P -a --pty"
        printf 'one\ntwo' | $enter cat
        echo
        seq 20000 | $enter wc -l
        $enter seq 100000 </dev/null >$T/got; seq 100000 | sed 's/$/\r/' | cmp - $T/got && echo complete
        echo 'echo from a shell; cat; echo after; exit' | PS1='' $enter sh
        $enter sh -c 'cat; cat; stty raw
            until [ "$(head -c 1 | od -An -tx1)" = " 04" ]; do :; done; echo the sign' </dev/null
        $enter sh -c 'kill -KILL $$' </dev/null 2>/dev/null || echo $?
        $enter /no/such/program </dev/null 2>$T/said || echo $?
        cat $T/said
    "#,
    )
    .ended_with(0)
    .printed(
        "one\r\ntwo\n20000\r\ncomplete\nfrom a shell\r\nafter\r\nthe sign\n137\n127\n\
         nsenter: failed to execute /no/such/program: No such file or directory\n",
    );
}

#[test]
#[ignore = "needs root: tests/run"]
fn what_the_program_leaves_behind_holds_nobody_up() {
    if theirs() {
        return;
    }
    with_target(
        r#"
        enter="timeout 20 $BIN/nsenter -t $P -a --pty"
        $enter sh -c 'trap "" HUP; (sleep 60; echo late) & echo early' </dev/null
        $enter sh -c 'trap "" HUP; (while echo spam; do :; done) & sleep 0.1; exit 3' </dev/null >$T/spam || echo $?
        $enter yes </dev/null | head -n 1    # its reader is gone: so is it
        $enter sh -c 'exec <&- >&- 2>&-; sleep 0.5; grep -c . /proc/1/stat >/dev/null; exit 4' </dev/null || echo $?
    "#,
    )
    .ended_with(0)
    .printed("early\r\n3\ny\r\n4\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_terminal_belongs_to_the_user_of_the_program() {
    if theirs() {
        return;
    }
    with_target(
        r#"
        "$BIN/nsenter" -t $P -a -S 8 --pty sh -c 'stat -c %u $(tty)' </dev/null
        "$BIN/nsenter" -t $P -a --pty echo lost </dev/null >/dev/full || echo $?
        mkfifo $T/up2 $T/down2
        setpriv --reuid=1000 --regid=1000 --clear-groups /usr/bin/unshare -rmpf --mount-proc --kill-child sh -c '
            mount -t devpts -o newinstance,ptmxmode=666 devpts /dev/pts; echo up; read x' <$T/down2 >$T/up2 &
        exec 5>$T/down2
        read line <$T/up2
        P=$(cat /proc/$!/task/$!/children); P=${P% }
        "$BIN/nsenter" -t $P -a --pty sh -c 'tty; stat -c %u $(tty)' </dev/null
    "#,
    )
    .ended_with(0)
    .said("cannot write to standard output: No space left on device")
    .printed("8\r\n1\n/dev/pts/0\r\n0\r\n");
}

/// A terminal that nobody has open any more reads as an error at once, again and again.
#[test]
#[ignore = "needs root: tests/run"]
fn the_relay_sleeps_while_nothing_happens() {
    if theirs() {
        return;
    }
    with_target(
        r#"
        mkfifo $T/said
        "$BIN/nsenter" -t $P -a --pty sh -c 'exec 5>/tmp/t/said; exec <&- >&- 2>&-; sleep 0.2; echo slept >&5; exec sleep 60' </dev/null &
        read line <$T/said
        for n in $(seq 100); do # who spins is running ('R') whenever one looks
            read -r stat </proc/$!/stat
            set -- ${stat##*) }
            [ "$1" = R ] || echo not running
        done | sort | uniq -c | { read -r times words; [ "${times:-0}" -gt 90 ] && echo idle; }
        kill $!
    "#,
    )
    .ended_with(0)
    .printed("idle\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn keys_are_the_programs_and_the_terminal_is_restored() {
    if theirs() {
        return;
    }
    let mut person = Person::runs(
        r#"
        stty -g >$T/before
        "$BIN/nsenter" -t $P -a --pty sh -ic 'PS1="in> "; exec sh -i' || echo ended $?
        stty -g | cmp - $T/before && echo as before
        "$BIN/nsenter" -t $P -a --pty sh -c 'echo dying; kill -KILL $$' || echo ended $?
        stty -g | cmp - $T/before && echo as before
        read line
    "#,
    );
    person.sees("# ");
    person.types("hostname; sh -c 'echo slee\"\"ping; exec sleep 1000'\r");
    person.sees("target");
    person.sees("sleeping");
    person.types("\x1a");
    person.sees("Stopped");
    person.types("sh -c 'echo slee\"\"ping; exec sleep 1000'; echo inter$((1+1))\r");
    person.sees("sleeping");
    person.types("\x03");
    person.sees("# ");
    person.types("kill -9 %1; wait\r");
    person.sees("# ");
    person.types("exit 9; exit 9\r"); // the first is refused while it does not know of the job's end
    person.sees("ended 9");
    person.sees("as before");
    person.sees("dying");
    person.sees("ended 137");
    person.sees("as before");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_signal_that_ends_nsenter_restores_the_terminal_and_hangs_up_the_program() {
    if theirs() {
        return;
    }
    for signal in ["TERM", "HUP", "INT", "QUIT", "USR1", "ALRM", "SEGV", "RTMIN"] {
        let mut person = Person::runs(&format!(
            r#"
            stty -g >$T/before
            # The killer is told by the program, and waits for a moment in which it has the terminal.
            mkfifo $T/go
            (read pid <$T/go; kill -{signal} $pid) &
            ulimit -c 0
            sh -c 'echo $$ >$T/pid; exec "$BIN/nsenter" -t '$P' -a --pty sh -c "trap \"echo hung up >$T/end; exit\" HUP
                cat $T/pid >$T/go; while :; do sleep 0.1; done"' || echo ended $(kill -l $(($? - 128)))
            stty -g | cmp - $T/before && echo as before
            until [ -s $T/end ]; do sleep 0.05; done
            cat $T/end
            read line
        "#
        ));
        if signal != "RTMIN" {
            person.sees(&format!("ended {signal}"));
        }
        person.sees("as before");
        person.sees("hung up");
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_size_of_the_window_is_passed_on_and_so_are_its_changes() {
    if theirs() {
        return;
    }
    let mut person = Person::runs(
        r#"
        stty rows 33 cols 77
        mkfifo $T/go
        (read x <$T/go; stty rows 44 cols 99 </dev/tty) &
        "$BIN/nsenter" -t $P -a --pty sh -c 'stty size; trap "stty size; exit" WINCH; echo >$T/go; while :; do sleep 0.1; done'
        read line
    "#,
    );
    person.sees("33 77\r\n");
    person.sees("44 99\r\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_stopped_program_stops_nsenter_with_its_terminal_restored() {
    if theirs() {
        return;
    }
    let mut person = Person::runs(
        r#"
        export P
        exec sh -i
    "#,
    );
    person.sees("# ");
    person.types("PS1='out> '; stty -g >$T/before\r");
    person.types("\"$BIN/nsenter\" -t $P -a --pty sh -c 'echo ready; kill -STOP $$; echo went on; exit 5'\r");
    person.sees("ready");
    person.sees("Stopped");
    person.sees("out> ");
    person.types("stty -g | cmp - $T/before && echo as be''fore\r");
    person.sees("as before");
    person.types("fg\r");
    person.sees("went on");
    person.sees("out> ");
    person.types("echo status $?; exit\r");
    person.sees("status 5");
}

/// Input that a hostile program pushes back must not be there for the caller's shell to read.
#[test]
#[ignore = "needs root: tests/run"]
fn input_that_is_pushed_back_reaches_nobody() {
    if theirs() {
        return;
    }
    let mut person = Person::runs(
        r#"
        echo 1 >/proc/sys/dev/tty/legacy_tiocsti 2>/dev/null || :    # since 6.2 only with CAP_SYS_ADMIN, which it has
        "$BIN/nsenter" -t $P -a --pty perl -e 'for (0..9) { open my $f, "<&=", $_ or next; ioctl $f, 0x5412, $_ for split //, "pushed\n" } print "attacked\n"'
        echo ready
        read line
        echo "got: $line"
        read line
    "#,
    );
    person.sees("attacked");
    person.sees("ready");
    person.types("typed\r");
    person.sees("got: typed");
}

#[test]
#[ignore = "needs root: tests/run"]
fn signals_are_forwarded_to_the_program_when_asked_to() {
    if theirs() {
        return;
    }
    with_target(
        r#"
        mkfifo $T/said
        "$BIN/nsenter" -t $P -a --pty --forward-signals=USR1,TERM sh -c \
            'trap "echo usr1" USR1; trap "echo term; exit 5" TERM; echo ready; while :; do sleep 0.1; done' </dev/null >$T/said &
        exec 5<$T/said
        read line <&5
        kill -USR1 $!
        read line <&5; echo "$line"
        kill -TERM $!
        wait $! || echo $?
        cat <&5
        "$BIN/nsenter" -t $P -a --pty --kill-child sh -c 'trap "" HUP; echo ready; sleep 60; :' </dev/null >$T/said 2>&1 &
        exec 5<$T/said
        read line <&5
        kill -KILL $!
        while "$BIN/nsenter" -t $P -a pgrep -f 'trap.*ready' >/dev/null; do sleep 0.05; done
        echo gone
    "#,
    )
    .ended_with(0)
    .printed("usr1\r\n5\nterm\r\ngone\n");
}

/// As by nohup(1), and in the background of a script: there the shell ignores INT and QUIT.
#[test]
#[ignore = "needs root: tests/run"]
fn what_the_caller_ignores_or_holds_back_ends_nobody() {
    if theirs() {
        return;
    }
    with_target(
        r#"
        mkfifo $T/said $T/go
        exec 6<>$T/go
        trap "" HUP INT
        perl -MPOSIX -e 'sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGUSR1)); exec @ARGV' \
            "$BIN/nsenter" -t $P -a --pty sh -c 'echo ready; read x; exit 3' <&6 >$T/said &
        exec 5<$T/said
        read line <&5
        kill -HUP $!; kill -INT $!; kill -USR1 $!
        echo go >&6
        wait $! || echo $?
    "#,
    )
    .ended_with(0)
    .printed("3\n");
}

/// The other end is opened only if it is what it says; a fifo or a disk in its place is left alone.
#[test]
#[ignore = "needs root: tests/run"]
fn a_false_ptmx_in_the_target_is_not_opened() {
    if theirs() {
        return;
    }
    inside(
        r#"
        mkfifo $T/up $T/down
        mkdir -p $T/dev/pts; mkfifo $T/dev/pts/ptmx; ln -s /proc/self/fd/0 $T/dev/ptmx
        /usr/bin/unshare -mpf --mount-proc --kill-child sh -c 'mount --bind /tmp/t/dev /dev; echo up; read x' <$T/down >$T/up &
        exec 4>$T/down
        read line <$T/up
        P=$(cat /proc/$!/task/$!/children); P=${P% }
        timeout 20 "$BIN/nsenter" -t $P -a --pty sh -c 'test -t 0 && echo outside' </dev/null
    "#,
    )
    .ended_with(0)
    .printed("outside\r\n");
}
