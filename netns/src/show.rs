//! show: what is there of ours, with what is inside the namespaces: for the reader, as JSON, as statements
//! that make it anew, and as a drawing.

use anyhow::Result;

use crate::apply::Line;
use crate::machine::Machine;

pub fn beyond(_machine: &mut Machine, _lines: &[Line]) -> Result<Vec<String>> {
    Ok(Vec::new())
}
