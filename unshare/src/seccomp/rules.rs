//! rules: the default profile as one table for all architectures, and its compiler.
//!
//! Refused is what a service never needs and what attacks on the kernel begin with. Most rules fall with a
//! capability, as in the profile of podman: who keeps CAP_SYS_ADMIN may mount. What is not in the table is
//! allowed, so that the kernel (5.11) passes it without running the filter; but for calls newer than the table:
//! nobody has thought about those, and who meets ENOSYS does without.
//!
//! Of an argument the low 32 bits count, as the kernel itself takes no more of those here: a filter that looks
//! at all 64 is passed by rubbish in the others (CVE-2019-10063).

use libc::{c_int, sock_filter};

use super::Caps;
use Refusal::{Always, NoneOf, OneOf, WithFlag};

/// What one must know of an architecture: its number in linux/audit.h, its column in the table.
#[derive(Clone, Copy, Debug)]
pub enum Arch {
    X86_64,
    Aarch64,
    /// The 32-bit entries of an x86_64 kernel.
    I386,
}

impl Arch {
    pub const HERE: Option<Arch> = if cfg!(target_arch = "x86_64") {
        Some(Arch::X86_64)
    } else if cfg!(target_arch = "aarch64") {
        Some(Arch::Aarch64)
    } else {
        None
    };

    fn audit(self) -> u32 {
        match self {
            Arch::X86_64 => 0xc000_003e,
            Arch::Aarch64 => 0xc000_00b7,
            Arch::I386 => 0x4000_0003,
        }
    }
}

/// A call, refused unless one of the capabilities `unless` is kept.
struct Rule {
    #[cfg_attr(not(test), expect(dead_code, reason = "for people, and compared with libc by a test"))]
    name: &'static str,
    x86_64: u32,
    aarch64: u32,
    i386: u32,
    unless: Caps,
    refusal: Refusal,
    errno: c_int,
}

/// When it is refused; the number is that of the argument.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Always,
    WithFlag(usize, u32),
    OneOf(usize, &'static [u32]),
    NoneOf(usize, &'static [u32]),
}

/// The number of a call that an architecture does not have.
const NO: u32 = u32::MAX;

const fn rule(name: &'static str, x86_64: u32, aarch64: u32, i386: u32, unless: Caps) -> Rule {
    Rule { name, x86_64, aarch64, i386, unless, refusal: Always, errno: libc::EPERM }
}

impl Rule {
    const fn if_(self, refusal: Refusal) -> Rule {
        Rule { refusal, ..self }
    }

    const fn errno(self, errno: c_int) -> Rule {
        Rule { errno, ..self }
    }

    fn number(&self, arch: Arch) -> Option<u32> {
        let number = match arch {
            Arch::X86_64 => self.x86_64,
            Arch::Aarch64 => self.aarch64,
            Arch::I386 => self.i386,
        };
        (number != NO).then_some(number)
    }
}

const NEVER: Caps = Caps::NONE;
const READ_SEARCH: Caps = Caps(1 << 2);
const NET_ADMIN: Caps = Caps(1 << 12);
const MODULE: Caps = Caps(1 << 16);
const RAWIO: Caps = Caps(1 << 17);
const PTRACE: Caps = Caps(1 << 19);
const PACCT: Caps = Caps(1 << 20);
const ADMIN: Caps = Caps(1 << 21);
const BOOT: Caps = Caps(1 << 22);
const NICE: Caps = Caps(1 << 23);
const TIME: Caps = Caps(1 << 25);
const SYSLOG: Caps = Caps((1 << 34) | ADMIN.0);
const PERFMON: Caps = Caps((1 << 38) | ADMIN.0);
const BPF: Caps = Caps((1 << 39) | ADMIN.0);

const NEWUSER: u32 = 0x1000_0000;
/// As programs of a plain Linux have it, with or without the number of version 2.6; all ones only asks.
const PERSONALITIES: &[u32] = &[0, 0x8, 0x2_0000, 0x2_0008, u32::MAX];
/// TIOCSTI and TIOCLINUX: input into a terminal that others read.
const PUSHING: &[u32] = &[0x5412, 0x541c];
/// unspec, unix, inet, inet6, netlink, packet. The others load modules that few have looked at, and some
/// (vsock, alg, bluetooth) know of no network namespaces.
const FAMILIES: &[u32] = &[0, 1, 2, 10, 16, 17];

#[rustfmt::skip]
const RULES: &[Rule] = &[
    //    name               x86_64 arm i386
    rule("ioctl",                16,  29,  54, NEVER).if_(OneOf(1, PUSHING)),
    rule("socket",               41, 198, 359, NET_ADMIN).if_(NoneOf(0, FAMILIES)).errno(libc::EAFNOSUPPORT),
    rule("socketpair",           53, 199, 360, NET_ADMIN).if_(NoneOf(0, FAMILIES)).errno(libc::EAFNOSUPPORT),
    rule("personality",         135,  92, 136, ADMIN).if_(NoneOf(0, PERSONALITIES)),
    // A new user namespace is a way to all that capabilities guard. What clone3 asks for lies in memory, where
    // no filter can look; C libraries fall back to clone.
    rule("clone",                56, 220, 120, ADMIN).if_(WithFlag(0, NEWUSER)),
    rule("unshare",             272,  97, 310, ADMIN).if_(WithFlag(0, NEWUSER)),
    rule("clone3",              435, 435, 435, ADMIN).errno(libc::ENOSYS),
    rule("setns",               308, 268, 346, ADMIN),

    rule("mount",               165,  40,  21, ADMIN),
    rule("umount2",             166,  39,  52, ADMIN),
    rule("umount",               NO,  NO,  22, ADMIN),
    rule("pivot_root",          155,  41, 217, ADMIN),
    rule("open_tree",           428, 428, 428, ADMIN),
    rule("move_mount",          429, 429, 429, ADMIN),
    rule("fsopen",              430, 430, 430, ADMIN),
    rule("fsconfig",            431, 431, 431, ADMIN),
    rule("fsmount",             432, 432, 432, ADMIN),
    rule("fspick",              433, 433, 433, ADMIN),
    rule("mount_setattr",       442, 442, 442, ADMIN),
    rule("open_tree_attr",      467, 467, 467, ADMIN),
    rule("quotactl",            179,  60, 131, ADMIN),
    rule("quotactl_fd",         443, 443, 443, ADMIN),
    rule("fanotify_init",       300, 262, 338, ADMIN),
    rule("lookup_dcookie",      212,  18, 253, ADMIN),
    rule("open_by_handle_at",   304, 265, 342, READ_SEARCH),

    // Of all the machine, with a large part of the kernel behind it.
    rule("bpf",                 321, 280, 357, BPF),
    rule("perf_event_open",     298, 241, 336, PERFMON),
    rule("syslog",              103, 116, 103, SYSLOG),
    rule("io_uring_setup",      425, 425, 425, NEVER),
    rule("io_uring_enter",      426, 426, 426, NEVER),
    rule("io_uring_register",   427, 427, 427, NEVER),
    rule("userfaultfd",         323, 282, 374, NEVER),
    // Keyrings know of no containers: root's is the same everywhere.
    rule("add_key",             248, 217, 286, NEVER),
    rule("request_key",         249, 218, 287, NEVER),
    rule("keyctl",              250, 219, 288, NEVER),

    rule("init_module",         175, 105, 128, MODULE),
    rule("finit_module",        313, 273, 350, MODULE),
    rule("delete_module",       176, 106, 129, MODULE),
    rule("kexec_load",          246, 104, 283, NEVER),
    rule("kexec_file_load",     320, 294,  NO, NEVER),
    rule("reboot",              169, 142,  88, BOOT),
    rule("swapon",              167, 224,  87, NEVER),
    rule("swapoff",             168, 225, 115, NEVER),
    rule("acct",                163,  89,  51, PACCT),
    rule("settimeofday",        164, 170,  79, TIME),
    rule("stime",                NO,  NO,  25, TIME),
    rule("clock_settime",       227, 112, 264, TIME),
    rule("clock_settime64",      NO,  NO, 404, TIME),
    rule("iopl",                172,  NO, 110, RAWIO),
    rule("ioperm",              173,  NO, 101, RAWIO),
    rule("vm86old",              NO,  NO, 113, RAWIO),
    rule("vm86",                 NO,  NO, 166, RAWIO),
    rule("uselib",              134,  NO,  86, NEVER),

    // Before Linux 4.8 a tracer could pass by the filter.
    rule("ptrace",              101, 117,  26, PTRACE),
    rule("process_vm_readv",    310, 270, 347, PTRACE),
    rule("process_vm_writev",   311, 271, 348, PTRACE),
    rule("process_madvise",     440, 440, 440, PTRACE),
    rule("pidfd_getfd",         438, 438, 438, PTRACE),
    rule("kcmp",                312, 272, 349, PTRACE),
    rule("migrate_pages",       256, 238, 294, NICE),
    rule("move_pages",          279, 239, 317, NICE),
];

/// The last call that the table has been held against: file_setattr of Linux 6.17. (On x86_64 what is above is
/// the x32 entry, too.)
const LAST_KNOWN: u32 = 469;

/// What happens from one number of a call to the next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allow,
    Refuse(Refusal, c_int),
}

/// The numbers of a call differ; who comes by an entry that is not among `arches` is killed.
pub fn compile(arches: &[Arch], keep: Caps) -> Vec<sock_filter> {
    let mut program = Vec::with_capacity(256 * arches.len());
    program.push(load(ARCH));
    for arch in arches {
        program.push(jump(libc::BPF_JEQ, arch.audit(), 1, 0));
        let over = program.len();
        program.extend([skip(0), load(NUMBER)]);
        search(&mut program, &ranges(*arch, keep));
        program[over] = skip(program.len() - over - 1);
    }
    program.push(answer(libc::SECCOMP_RET_KILL_PROCESS));
    program
}

/// All numbers as ranges, each by its first.
fn ranges(arch: Arch, keep: Caps) -> Vec<(u32, Verdict)> {
    let mut ranges = Vec::with_capacity(2 * RULES.len() + 2);
    ranges.push((0, Verdict::Allow));
    for rule in RULES.iter().filter(|rule| rule.unless.0 & keep.0 == 0) {
        if let Some(number) = rule.number(arch) {
            let refused = Verdict::Refuse(rule.refusal, rule.errno);
            ranges.extend([(number, refused), (number + 1, Verdict::Allow)]);
        }
    }
    // What is allowed after one call comes before what is said of the next.
    ranges.sort_unstable_by_key(|(first, verdict)| (*first, *verdict != Verdict::Allow));
    ranges.push((LAST_KNOWN + 1, Verdict::Refuse(Always, libc::ENOSYS)));
    // Of two that begin at one number the first is empty; of two that are alike the second is the first's.
    ranges.reverse();
    ranges.dedup_by_key(|(first, _)| *first);
    ranges.reverse();
    ranges.dedup_by_key(|(_, verdict)| *verdict);
    ranges
}

/// A search by halves for the range of the number that has been loaded.
fn search(program: &mut Vec<sock_filter>, ranges: &[(u32, Verdict)]) {
    let (low, high) = ranges.split_at(ranges.len() / 2);
    if low.is_empty() {
        return decide(program, high[0].1);
    }
    let branch = program.len();
    program.push(jump(libc::BPF_JGE, high[0].0, 0, 0));
    search(program, low);
    let over = program.len() - branch - 1;
    program[branch].jt = u8::try_from(over).expect("half of the table is short enough for a jump");
    search(program, high);
}

fn decide(program: &mut Vec<sock_filter>, verdict: Verdict) {
    let allow = answer(libc::SECCOMP_RET_ALLOW);
    let Verdict::Refuse(refusal, errno) = verdict else { return program.push(allow) };
    let refuse = answer(libc::SECCOMP_RET_ERRNO | errno as u32);
    match refusal {
        Always => program.push(refuse),
        WithFlag(argument, flag) => {
            program.extend([load(low_half(argument)), jump(libc::BPF_JSET, flag, 0, 1), refuse, allow]);
        }
        OneOf(argument, values) => among(program, argument, values, refuse, allow),
        NoneOf(argument, values) => among(program, argument, values, allow, refuse),
    }
}

fn among(program: &mut Vec<sock_filter>, argument: usize, values: &[u32], yes: sock_filter, no: sock_filter) {
    program.push(load(low_half(argument)));
    let tests = values.iter().enumerate();
    program.extend(tests.map(|(n, value)| jump(libc::BPF_JEQ, *value, (values.len() - n) as u8, 0)));
    program.extend([no, yes]);
}

// struct seccomp_data: number, architecture, instruction pointer, six arguments of 64 bits; little-endian.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

const fn low_half(argument: usize) -> u32 {
    16 + 8 * argument as u32
}

fn load(offset: u32) -> sock_filter {
    sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}

/// Goes on `jt` instructions further when the comparison with `k` holds, else `jf`.
fn jump(comparison: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | libc::BPF_K | comparison) as u16, jt, jf, k }
}

fn skip(count: usize) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | libc::BPF_JA) as u16, jt: 0, jf: 0, k: count as u32 }
}

fn answer(action: u32) -> sock_filter {
    sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: action }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARCHES: [Arch; 3] = [Arch::X86_64, Arch::Aarch64, Arch::I386];
    const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;
    /// A number that no argument rule names, with the half set that does not count.
    const ODD: u64 = 0xdead_beef_0000_7777;

    fn refused(errno: c_int) -> u32 {
        libc::SECCOMP_RET_ERRNO | errno as u32
    }

    /// The kernel's BPF machine, as far as seccomp uses it here.
    fn run(program: &[sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = vec![number, arch, 0, 0];
        data.extend(arguments.iter().flat_map(|a| [*a as u32, (*a >> 32) as u32]));
        let (mut at, mut value) = (0, 0);
        loop {
            let op = program[at];
            at += 1;
            let code = u32::from(op.code);
            let mut branch = |holds: bool| at += usize::from(if holds { op.jt } else { op.jf });
            match code & 0x07 {
                libc::BPF_LD => value = data[op.k as usize / 4],
                libc::BPF_RET => return op.k,
                libc::BPF_JMP if code & 0xf0 == libc::BPF_JA => at += op.k as usize,
                libc::BPF_JMP if code & 0xf0 == libc::BPF_JEQ => branch(value == op.k),
                libc::BPF_JMP if code & 0xf0 == libc::BPF_JGE => branch(value >= op.k),
                libc::BPF_JMP if code & 0xf0 == libc::BPF_JSET => branch(value & op.k != 0),
                _ => panic!("no such instruction here: {op:?}"),
            }
        }
    }

    #[test]
    fn every_rule_refuses_and_falls_with_its_capability_alone() {
        for arch in ARCHES {
            let none = compile(&[arch], Caps::NONE);
            for rule in RULES {
                let Some(number) = rule.number(arch) else { continue };
                let ask = |program: &[sock_filter], arguments| run(program, arch.audit(), number, arguments);
                let (bad, good): (Vec<u64>, Vec<u64>) = match rule.refusal {
                    Always => (vec![0, ODD], vec![]),
                    WithFlag(_, flag) => (vec![flag.into(), u64::MAX], vec![0, ODD]),
                    OneOf(_, values) => {
                        (values.iter().map(|v| u64::from(*v) | (5 << 32)).collect(), vec![0, ODD])
                    }
                    NoneOf(_, values) => (vec![ODD, 9], values.iter().map(|v| u64::from(*v)).collect()),
                };
                let at = |value: u64| {
                    let mut arguments = [ODD; 6];
                    if let WithFlag(n, _) | OneOf(n, _) | NoneOf(n, _) = rule.refusal {
                        arguments[n] = value;
                    }
                    arguments
                };
                for value in &bad {
                    assert_eq!(ask(&none, at(*value)), refused(rule.errno), "{} {value:#x}", rule.name);
                    for bit in 0..64 {
                        let kept = ask(&compile(&[arch], Caps(1 << bit)), at(*value)) == ALLOWED;
                        assert_eq!(kept, (rule.unless.0 >> bit) & 1 == 1, "{} with {bit}", rule.name);
                    }
                }
                for value in good {
                    assert_eq!(ask(&none, at(value)), ALLOWED, "{} {value:#x}", rule.name);
                }
            }
        }
    }

    #[test]
    fn all_others_are_allowed_and_what_is_newer_is_not_there() {
        for arch in ARCHES {
            let program = compile(&[arch], Caps::NONE);
            let ask = |n| run(&program, arch.audit(), n, [ODD; 6]);
            for n in (0..=LAST_KNOWN).filter(|n| RULES.iter().all(|r| r.number(arch) != Some(*n))) {
                assert_eq!(ask(n), ALLOWED, "{n}");
            }
            // The last: x32, whose calls are those of x86_64 with one bit more.
            for n in [LAST_KNOWN + 1, u32::MAX, 0x4000_0000, 0x4000_0000 + 165] {
                assert_eq!(ask(n), refused(libc::ENOSYS), "{n}");
            }
        }
    }

    #[test]
    fn other_entries_of_the_processor_kill() {
        for arches in [&[Arch::X86_64][..], &[Arch::Aarch64], &[Arch::X86_64, Arch::I386]] {
            let program = compile(arches, Caps::ALL);
            let audits = arches.iter().map(|arch| arch.audit()).collect::<Vec<_>>();
            for audit in ARCHES.map(Arch::audit).into_iter().chain([0x4000_0028, 0]) {
                let killed = run(&program, audit, 0, [0; 6]) == libc::SECCOMP_RET_KILL_PROCESS;
                assert_eq!(killed, !audits.contains(&audit), "{audit:#x}");
            }
        }
    }

    #[test]
    fn of_two_architectures_each_has_its_own_numbers() {
        let program = compile(&[Arch::X86_64, Arch::I386], Caps::NONE);
        let refused = |arch: Arch, number| run(&program, arch.audit(), number, [ODD; 6]) != ALLOWED;
        let numbers = 0..=LAST_KNOWN;
        for arch in [Arch::X86_64, Arch::I386] {
            let alone = compile(&[arch], Caps::NONE);
            for number in numbers.clone() {
                let verdict = run(&alone, arch.audit(), number, [ODD; 6]);
                assert_eq!(refused(arch, number), verdict != ALLOWED, "{arch:?} {number}");
            }
        }
        // mount and umount2, and what those numbers are to the other.
        assert!(refused(Arch::X86_64, 165) && refused(Arch::I386, 21) && refused(Arch::I386, 52));
        assert!(!refused(Arch::X86_64, 21) && !refused(Arch::X86_64, 52) && !refused(Arch::I386, 165));
    }

    #[test]
    fn no_call_is_named_twice() {
        for arch in ARCHES {
            let mut numbers: Vec<_> = RULES.iter().filter_map(|rule| rule.number(arch)).collect();
            numbers.sort_unstable();
            assert!(numbers.windows(2).all(|two| two[0] < two[1]));
        }
    }

    /// The numbers, against those of libc for this architecture.
    #[test]
    fn the_numbers_are_those_of_the_kernel() {
        let Some(arch) = Arch::HERE else { return };
        macro_rules! known {
            ($($name:ident)*) => { [$((&stringify!($name)[4..], libc::$name as u32)),*] };
        }
        let known = known!(
            SYS_ioctl SYS_socket SYS_socketpair SYS_personality SYS_clone SYS_unshare SYS_clone3 SYS_setns
            SYS_mount SYS_umount2 SYS_pivot_root SYS_open_tree SYS_move_mount SYS_fsopen SYS_fsconfig SYS_fsmount
            SYS_fspick SYS_mount_setattr SYS_quotactl SYS_quotactl_fd SYS_fanotify_init SYS_lookup_dcookie
            SYS_open_by_handle_at SYS_bpf SYS_perf_event_open SYS_syslog SYS_io_uring_setup SYS_io_uring_enter
            SYS_io_uring_register SYS_userfaultfd SYS_add_key SYS_request_key SYS_keyctl SYS_init_module
            SYS_finit_module SYS_delete_module SYS_kexec_load SYS_reboot SYS_swapon SYS_swapoff SYS_acct
            SYS_settimeofday SYS_clock_settime SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev
            SYS_process_madvise SYS_pidfd_getfd SYS_kcmp SYS_migrate_pages SYS_move_pages
        );
        for (name, expected) in known {
            let rule =
                RULES.iter().find(|rule| rule.name == name).unwrap_or_else(|| panic!("no rule for {name}"));
            assert_eq!(rule.number(arch), Some(expected), "{name}");
        }
        let unknown = ["open_tree_attr", "kexec_file_load", "iopl", "ioperm", "uselib"];
        let here = RULES.iter().filter(|rule| rule.number(arch).is_some()).count();
        assert_eq!(known.len() + unknown.len(), here);
    }
}
