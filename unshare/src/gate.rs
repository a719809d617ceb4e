//! gate: where the child waits, when all is ready, until the parent has done what must be done before the
//! program begins: namespaces bound to files, the pid written.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::exit;

use anyhow::{Context, Result};

pub struct Gate {
    parent: UnixStream,
    child: UnixStream,
}

/// The child's end.
pub struct Waiting(UnixStream);

/// The parent's end; dropped unopened it ends the child.
pub struct Keeper(UnixStream);

impl Gate {
    pub fn new() -> Result<Gate> {
        let (parent, child) = UnixStream::pair().context("cannot make a pair of sockets")?;
        Ok(Gate { parent, child })
    }

    pub fn child(self) -> Waiting {
        Waiting(self.child)
    }

    pub fn parent(self) -> Keeper {
        Keeper(self.parent)
    }
}

impl Waiting {
    /// Says that all is ready, and waits to be let through.
    pub fn pass(mut self) -> Result<()> {
        self.0.write_all(b"r").context("cannot tell the parent that all is ready")?;
        if self.0.read(&mut [0]).context("cannot hear from the parent")? == 0 {
            // The parent has failed, and said why, or was killed: the program must not run without it.
            exit(1);
        }
        Ok(())
    }
}

impl Keeper {
    /// True when the child is ready, false when it has ended before.
    pub fn ready(&mut self) -> Result<bool> {
        Ok(self.0.read(&mut [0]).context("cannot hear from the child")? == 1)
    }

    pub fn open(mut self) -> Result<()> {
        match self.0.write_all(b"g") {
            // A child that has gone is told by waiting for it.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
            done => done.context("cannot let the child go"),
        }
    }
}
