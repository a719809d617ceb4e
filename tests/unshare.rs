//! The real unshare binary against the real kernel.
