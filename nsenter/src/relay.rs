//! relay: carry bytes, size and signals between the caller's terminal and the program's (pty(7), termios(3)).

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, cfmakeraw, tcgetattr, tcsetattr};
use nix::sys::wait::WaitPidFlag;
use nix::unistd::{Pid, getpgrp, read, tcgetpgrp, write};
use unshare::child::End;
use unshare::sys::Waited;

use crate::sys;
use crate::terminal::Pty;

/// What is read at once: a pipe that is ready to be written takes as much without waiting.
const CHUNK: usize = 4096;

/// A terminal holds back less than this (TTYB_DEFAULT_MEM_LIMIT, and the line discipline's buffer): so much
/// is read after the program's end, and a process that goes on writing does not keep us.
const HELD_BACK: usize = 1 << 20;

/// All that can be held back, so that the caller's terminal is restored whichever of them comes. Not those
/// with which a terminal stops a job in the background that touches it; nor those that the caller ignores, as
/// nohup(1) does, or holds back himself, unless they are for the program.
pub fn signals(forward: &SigSet) -> Result<SigSet> {
    const OURS: [Signal; 3] = [Signal::SIGCHLD, Signal::SIGCONT, Signal::SIGWINCH];
    let held = SigSet::thread_get_mask().context("cannot read the signal mask")?;
    let is_meant = |signal: &i32| {
        let wanted = sys::is_member(forward, *signal) || OURS.iter().any(|ours| *ours as i32 == *signal);
        wanted || !(unshare::sys::is_ignored(*signal) || sys::is_member(&held, *signal))
    };
    let all = unshare::sys::numbers_in(&unshare::sys::all_signals());
    let mut set = unshare::sys::sigset(&all.into_iter().filter(is_meant).collect::<Vec<_>>());
    set.remove(Signal::SIGTTIN);
    set.remove(Signal::SIGTTOU);
    Ok(set)
}

pub fn receiver(signals: &SigSet) -> Result<SignalFd> {
    SignalFd::with_flags(signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .context("cannot receive signals")
}

pub struct Relay {
    pty: Pty,
    worker: Pid,
    forward: SigSet,
    complaints: OwnedFd,
    /// From standard input to the program.
    input: Vec<u8>,
    /// From the program to standard output.
    output: Vec<u8>,
    /// The program has got a part of a line.
    in_line: bool,
    eof: Option<Eof>,
    /// Nothing comes any more: the program has no terminal.
    hung_up: bool,
    end: Option<End>,
    left: usize,
}

/// Standard input has ended.
struct Eof {
    /// When to say so, and how long to wait until the next time.
    at: Instant,
    delay: Duration,
    said: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    Signal,
    Input,
    Output,
    Program,
}

impl Relay {
    pub fn new(pty: Pty, worker: Pid, forward: SigSet, complaints: OwnedFd) -> Relay {
        let (input, output) = (Vec::new(), Vec::new());
        Relay {
            pty,
            worker,
            forward,
            complaints,
            input,
            output,
            in_line: false,
            eof: None,
            hung_up: false,
            end: None,
            left: HELD_BACK,
        }
    }

    /// Until the worker has ended and all that the program wrote is out.
    pub fn run(mut self, held: &SignalFd) -> Result<End> {
        self.raw();
        let done = self.carry(held);
        self.restore();
        self.pass_complaints();
        done
    }

    fn carry(&mut self, held: &SignalFd) -> Result<End> {
        loop {
            if let (Some(end), true) = (self.end, self.output.is_empty()) {
                if !self.read_program() {
                    return Ok(end);
                }
            }
            self.end_of_input();
            for ready in self.wait(held)? {
                match ready {
                    Ready::Signal => {
                        if let Some(fatal) = self.receive(held)? {
                            return Ok(fatal);
                        }
                    }
                    Ready::Input => self.read_caller(),
                    Ready::Program => {
                        self.write_program();
                        self.read_program();
                    }
                    Ready::Output => match self.write_caller() {
                        Err(Errno::EPIPE) => return Ok(End::Signal(Signal::SIGPIPE as i32)),
                        done => done.context("cannot write to standard output")?,
                    },
                }
            }
        }
    }

    fn wait(&self, held: &SignalFd) -> Result<Vec<Ready>> {
        let mut fds = vec![(Ready::Signal, PollFd::new(held.as_fd(), PollFlags::POLLIN))];
        let mut add = |what, fd, events| fds.push((what, PollFd::new(fd, events)));
        if self.end.is_none() && self.eof.is_none() && self.input.is_empty() {
            add(Ready::Input, sys::STDIN, PollFlags::POLLIN);
        }
        if !self.output.is_empty() {
            add(Ready::Output, sys::STDOUT, PollFlags::POLLOUT);
        }
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, self.output.is_empty());
        events.set(PollFlags::POLLOUT, !self.input.is_empty());
        if !self.hung_up && !events.is_empty() {
            add(Ready::Program, self.pty.master.as_fd(), events);
        }
        let (what, mut fds): (Vec<_>, Vec<_>) = fds.into_iter().unzip();
        match poll(&mut fds, self.patience()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for the terminal"),
        }
        let ready = what.into_iter().zip(&fds).filter(|(_, fd)| fd.any().unwrap_or(true));
        Ok(ready.map(|(what, _)| what).collect())
    }

    fn patience(&self) -> PollTimeout {
        match self.eof {
            Some(Eof { at, .. }) if self.end.is_none() => {
                let left = at.saturating_duration_since(Instant::now()).as_millis() + 1;
                u16::try_from(left).map_or(PollTimeout::MAX, PollTimeout::from)
            }
            _ => PollTimeout::NONE,
        }
    }

    fn read_caller(&mut self) {
        let mut chunk = [0; CHUNK];
        match read(sys::STDIN, &mut chunk) {
            Ok(n) if n > 0 => self.input.extend_from_slice(&chunk[..n]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // An error is an end too: a terminal that is gone.
            _ => {
                let delay = Duration::from_millis(20);
                self.eof = Some(Eof { at: Instant::now(), delay, said: false });
            }
        }
    }

    fn write_program(&mut self) {
        if self.input.is_empty() {
            return;
        }
        match write(&self.pty.master, &self.input) {
            Ok(n) => {
                self.in_line = n > 0 && self.input[n - 1] != b'\n';
                self.input.drain(..n);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.input.clear(),
        }
    }

    /// Reads what the program has written; false when there is nothing now.
    fn read_program(&mut self) -> bool {
        if !self.output.is_empty() || (self.end.is_some() && self.left == 0) {
            return false;
        }
        let mut chunk = [0; CHUNK];
        match read(&self.pty.master, &mut chunk) {
            Ok(n) if n > 0 => {
                self.output.extend_from_slice(&chunk[..n]);
                if self.end.is_some() {
                    self.left = self.left.saturating_sub(n);
                }
                true
            }
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => false,
            Err(_) => {
                // Someone has hung it up (vhangup(2), as a login does) and will open it again: so do we.
                match sys::pty_peer(self.pty.master.as_fd()) {
                    Ok(slave) if self.end.is_none() => self.pty.slave = slave,
                    _ => self.hung_up = true,
                }
                false
            }
        }
    }

    fn write_caller(&mut self) -> nix::Result<()> {
        match write(sys::STDOUT, &self.output) {
            Ok(n) => {
                self.output.drain(..n);
                Ok(())
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// A terminal has no end; who types says it with a character, which ends one read. So it is said again
    /// whenever it has been read: a program that comes to read later finds the end too, as with a pipe. The
    /// modes may have changed before it was read, and with them its meaning; then, too, this is a second try.
    fn end_of_input(&mut self) {
        let unread = self.unread();
        let Some(eof) = &mut self.eof else { return };
        if self.end.is_some() || !self.input.is_empty() || Instant::now() < eof.at {
            return;
        }
        if !eof.said || !unread {
            let modes = tcgetattr(&self.pty.master).ok();
            let cooked = modes.as_ref().is_none_or(|m| m.local_flags.contains(LocalFlags::ICANON));
            let sign = modes.map_or(0, |m| m.control_chars[SpecialCharacterIndices::VEOF as usize]);
            let sign = if sign == 0 { 4 } else { sign };
            // The first one ends the line that has begun.
            let twice = if cooked && self.in_line { 2 } else { 1 };
            let _ = write(&self.pty.master, &[sign, sign][..twice]);
            self.in_line = false;
        }
        let delay = (eof.delay * 2).min(Duration::from_secs(1));
        *eof = Eof { at: Instant::now() + eof.delay, delay, said: true };
    }

    /// Whether there is something that the program has not read yet.
    fn unread(&self) -> bool {
        let mut fds = [PollFd::new(self.pty.slave.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Acts on the signals that have come; gives back how to end when one is fatal.
    fn receive(&mut self, held: &SignalFd) -> Result<Option<End>> {
        while let Some(got) = held.read_signal().context("cannot receive signals")? {
            let number = got.ssi_signo as i32;
            match Signal::try_from(number) {
                Ok(Signal::SIGCHLD) => self.look_after_worker()?,
                Ok(Signal::SIGWINCH) => self.resize(),
                Ok(Signal::SIGTSTP) => self.stop(),
                Ok(Signal::SIGCONT) => {
                    self.raw();
                    self.resize();
                }
                Ok(Signal::SIGURG) => {}
                _ if sys::is_member(&self.forward, number) => {
                    // It may have ended by now, which the next signal tells.
                    let _ = unshare::sys::kill(self.worker, number);
                }
                _ => return Ok(Some(End::Signal(number))),
            }
        }
        Ok(None)
    }

    fn look_after_worker(&mut self) -> Result<()> {
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
        match unshare::sys::wait(self.worker, flags).context("cannot wait for the child")? {
            Waited::Ended(_, end) => self.end = Some(end),
            Waited::Stopped(_) => {
                self.stop();
                let _ = unshare::sys::kill(self.worker, Signal::SIGCONT as i32);
            }
            Waited::Nothing => {}
        }
        Ok(())
    }

    /// Stops as a job of the caller's shell does, its terminal as it was.
    fn stop(&mut self) {
        self.restore();
        let _ = raise(Signal::SIGSTOP);
        self.raw();
        self.resize();
    }

    /// Every key is for the program: its own terminal makes signals of them.
    fn raw(&self) {
        let Some(mut modes) = self.pty.before.clone() else { return };
        cfmakeraw(&mut modes);
        // In the background this stops us until it is our turn.
        let _ = tcsetattr(sys::STDIN, SetArg::TCSANOW, &modes);
    }

    fn restore(&self) {
        let Some(modes) = &self.pty.before else { return };
        // In the background it belongs to somebody else.
        if tcgetpgrp(sys::STDIN).is_ok_and(|group| group != getpgrp()) {
            return;
        }
        let _ = tcsetattr(sys::STDIN, SetArg::TCSANOW, modes);
    }

    fn resize(&self) {
        if let Some(size) = sys::STREAMS.iter().find_map(|stream| sys::window_size(*stream).ok()) {
            let _ = sys::set_window_size(self.pty.master.as_fd(), &size);
        }
    }

    fn pass_complaints(&mut self) {
        let mut fds = [PollFd::new(self.complaints.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
            let mut chunk = [0; CHUNK];
            if let Ok(n) = read(&self.complaints, &mut chunk) {
                let _ = io::stderr().write_all(&chunk[..n]);
            }
        }
    }
}
