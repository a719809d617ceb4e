//! What the five tools share: namespaces and the process that carries them.
//!
//! nsenter and netns borrow the namespace table, exec and the stand-in parent; cgset and mkrootfs the
//! latter two. A thing enters this library only when two tools need it.

pub mod caps;
pub mod child;
pub mod exec;
pub mod fail;
pub mod fstab;
#[cfg(test)]
mod fuzz;
pub mod limits;
pub mod ns;
pub mod options;
pub mod passwd;
pub mod rooted;
pub mod seccomp;
pub mod signals;
pub mod sys;
