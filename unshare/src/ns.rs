//! ns: the kinds of namespace as one table (namespaces(7), /proc/PID/ns).

use nix::sched::CloneFlags;

/// One kind of namespace: how the user, /proc and the kernel call it.
#[derive(Debug)]
pub struct Kind {
    pub letter: char,
    /// The long option, and the word in messages.
    pub word: &'static str,
    /// What one enters.
    pub file: &'static str,
    /// What children will be in: differs for pid and time only.
    pub for_children: &'static str,
    pub flag: CloneFlags,
}

/// The order is that of entering: the user namespace first, as it gives the right to enter the others
/// (nsenter(1) goes round once more for the case in which it must be last); the mount namespace last, as
/// it changes what the paths of the others mean.
#[rustfmt::skip]
pub const KINDS: [Kind; 8] = [
    Kind { letter: 'U', word: "user",   file: "ns/user",   for_children: "ns/user",              flag: CloneFlags::CLONE_NEWUSER },
    Kind { letter: 'C', word: "cgroup", file: "ns/cgroup", for_children: "ns/cgroup",            flag: CloneFlags::CLONE_NEWCGROUP },
    Kind { letter: 'i', word: "ipc",    file: "ns/ipc",    for_children: "ns/ipc",               flag: CloneFlags::CLONE_NEWIPC },
    Kind { letter: 'u', word: "uts",    file: "ns/uts",    for_children: "ns/uts",               flag: CloneFlags::CLONE_NEWUTS },
    Kind { letter: 'n', word: "net",    file: "ns/net",    for_children: "ns/net",               flag: CloneFlags::CLONE_NEWNET },
    Kind { letter: 'p', word: "pid",    file: "ns/pid",    for_children: "ns/pid_for_children",  flag: CloneFlags::CLONE_NEWPID },
    Kind { letter: 'm', word: "mount",  file: "ns/mnt",    for_children: "ns/mnt",               flag: CloneFlags::CLONE_NEWNS },
    Kind { letter: 'T', word: "time",   file: "ns/time",   for_children: "ns/time_for_children", flag: NEWTIME },
];

/// linux/sched.h; nix has no name for it.
pub const NEWTIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

pub fn by_letter(letter: char) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.letter == letter)
}

pub fn by_word(word: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.word == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_words_are_unambiguous() {
        for kind in &KINDS {
            assert_eq!(by_letter(kind.letter).map(|k| k.word), Some(kind.word));
            assert_eq!(by_word(kind.word).map(|k| k.letter), Some(kind.letter));
        }
    }
}
