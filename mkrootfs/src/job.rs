//! job: one root that is to be made.

use crate::cli::Options;
use crate::mirror::Source;
use crate::power::Power;
use crate::target::Form;

/// What is asked for, checked.
pub struct Job {
    pub suite: String,
    pub sources: Vec<Source>,
    pub arch: String,
    pub options: Options,
    /// Take away what differs from run to run: the root is packed, or wanted the same each time.
    pub tidy: bool,
    pub power: Power,
    pub form: Form,
    /// Nobody else can write to the cache: bases may be kept there.
    pub private: bool,
}
