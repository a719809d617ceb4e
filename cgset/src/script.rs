//! script: the plan as a shell script that does the same; -v prints the same lines as they are done.

use std::path::Path;

use crate::request::Request;
use crate::step::{Plan, Step};

impl Plan {
    pub fn script(&self, request: &Request) -> String {
        let mut text = String::from("#!/bin/sh\nset -e\n");
        for step in &self.steps {
            text += &step.shell();
        }
        if !request.runs() {
            return text;
        }
        let words: Vec<String> = request.argv.iter().map(|word| quote(&word.to_string_lossy())).collect();
        text += "status=0\n(\n";
        for place in &self.places {
            text += &format!("    echo 0 > {}\n", quote_path(&place.entrance()));
        }
        text += &format!("    exec {}\n) || status=$?\n", words.join(" "));
        if self.fresh && !request.options.keep {
            for step in self.steps.iter().rev() {
                if let Step::MakeDir(dir) = step {
                    text += &format!("rmdir {}\n", quote_path(dir));
                }
            }
        }
        text + "exit $status\n"
    }
}

impl Step {
    /// The step as a line of shell.
    pub fn shell(&self) -> String {
        match self {
            Step::MakeDir(dir) => format!("mkdir {}\n", quote_path(dir)),
            Step::Mark { .. } => String::new(),
            Step::Inherit(file) => {
                let name = file.file_name().expect("a control file has a name");
                let above = file.ancestors().nth(2).expect("a group has a parent").join(name);
                format!("cat {} > {}\n", quote_path(&above), quote_path(file))
            }
            Step::Enable { level, controller } => {
                echo(&format!("+{controller}"), &level.join("cgroup.subtree_control"))
            }
            Step::MakeRoom { dir, bytes } => {
                format!("test \"$(cat {})\" -le {bytes}\n", quote_path(&dir.join("memory.current")))
            }
            Step::NeedOne(files) => {
                let tests: Vec<String> = files.iter().map(|f| format!("test -e {}", quote_path(f))).collect();
                tests.join(" || ") + "\n"
            }
            Step::Write { file, value, optional: false, .. } => echo(value, file),
            Step::Write { file, value, .. } => {
                format!("! test -e {} || {}", quote_path(file), echo(value, file))
            }
            Step::Gather { from, into } => {
                let find = from.iter().map(|dir| quote_path(dir)).collect::<Vec<_>>().join(" ");
                let find = format!("find {find} -name cgroup.procs -exec cat {{}} +");
                let file = quote_path(&into.path.join("cgroup.procs"));
                format!("for pid in $({find}); do echo $pid > {file}; done\n")
            }
            Step::Own { dir, files, ids } => {
                let dir = quote_path(dir);
                format!(
                    "chown {ids} {dir}\nfor file in {}; do ! test -e {dir}/$file || chown {ids} {dir}/$file; done\n",
                    files.join(" ")
                )
            }
            Step::Move { pid, file, .. } => echo(&pid.to_string(), file),
        }
    }
}

/// Some echos take a backslash or a leading -n for themselves.
fn echo(value: &str, file: &Path) -> String {
    let command = if value.contains('\\') || value.starts_with("-n") { "printf '%s\\n'" } else { "echo" };
    format!("{command} {} > {}\n", quote(value), quote_path(file))
}

fn quote_path(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

/// For sh: as it is where it has nothing special.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:=@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quote("a/b-1"), "a/b-1");
        assert_eq!(quote("it's $x"), r"'it'\''s $x'");
        assert_eq!(quote(""), "''");
    }
}
