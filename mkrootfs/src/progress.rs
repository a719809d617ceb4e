//! progress: what is going on, on stderr: a line that changes on a terminal, else a line a step, or JSON.

use std::io::{IsTerminal, Write};

use crate::cli::{Options, Show};

pub struct Progress {
    lines: bool,
    terminal: bool,
    json: bool,
    pub verbose: bool,
}

impl Progress {
    pub fn new(options: &Options) -> Progress {
        Progress {
            lines: options.progress != Show::None,
            terminal: options.progress == Show::Auto && std::io::stderr().is_terminal(),
            json: options.progress == Show::Json,
            verbose: options.verbose,
        }
    }

    /// A step that begins, or a result that stays.
    pub fn step(&self, text: &str) {
        if self.json {
            self.object("step", text);
        } else if self.lines {
            self.put(&format!("{}mkrootfs: {text}\n", if self.terminal { "\r\x1b[K" } else { "" }));
        }
    }

    /// How far a step is; the next step writes over it.
    pub fn state(&self, text: &str) {
        if self.json {
            self.object("state", text);
        } else if self.terminal {
            self.put(&format!("\r\x1b[Kmkrootfs: {text}"));
        }
    }

    /// Takes the changing line away before something else is written.
    pub fn clear(&self) {
        if self.terminal {
            self.put("\r\x1b[K");
        }
    }

    pub fn detail(&self, text: &str) {
        if self.verbose {
            self.step(text);
        }
    }

    fn object(&self, kind: &str, text: &str) {
        self.put(&format!("{}\n", serde_json::json!({ kind: text })));
    }

    fn put(&self, text: &str) {
        // A closed stderr is no reason to stop.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

/// What the user must know whatever progress is shown.
pub fn warn(text: &str) {
    let clear = if std::io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
    // A closed stderr is no reason to stop.
    let _ = std::io::stderr().write_all(format!("{clear}mkrootfs: warning: {text}\n").as_bytes());
}

/// "31.9 MB", in powers of ten as disks and networks are sold.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(
            (size(999), size(1999), size(31_870_120)),
            ("999 B".into(), "1 kB".into(), "31.8 MB".into())
        );
    }
}
