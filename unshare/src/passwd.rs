//! passwd: users and groups by name: /etc/passwd and /etc/group (passwd(5), group(5)).
//!
//! Read directly, as a static program cannot ask the name services of glibc.

use std::fs;

pub const USERS: &str = "/etc/passwd";
pub const GROUPS: &str = "/etc/group";

/// The id of a user or group, by the file that tells.
pub fn id_of(file: &str, name: &str) -> Option<u32> {
    find(&read(file), 0, name)?.get(2)?.parse().ok()
}

pub fn name_of(uid: u32) -> Option<String> {
    let text = read(USERS);
    Some((*find(&text, 2, &uid.to_string())?.first()?).to_owned())
}

pub fn shell_of(uid: u32) -> Option<String> {
    let text = read(USERS);
    let shell = *find(&text, 2, &uid.to_string())?.get(6)?;
    (!shell.is_empty()).then(|| shell.to_owned())
}

fn read(file: &str) -> String {
    fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The fields of the first line that has `value` in one of them.
fn find<'a>(text: &'a str, field: usize, value: &str) -> Option<Vec<&'a str>> {
    text.lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.len() > 2 && fields.get(field) == Some(&value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_any_field() {
        let text = "root:x:0:0:root:/root:/bin/bash\nbroken\n:x:1\nu1:x:1234:5::/:\n";
        assert_eq!(find(text, 0, "u1").unwrap()[2], "1234");
        assert_eq!(find(text, 2, "0").unwrap()[6], "/bin/bash");
        assert_eq!(find(text, 0, "broken"), None);
        assert_eq!(find(text, 0, "x"), None);
    }
}
