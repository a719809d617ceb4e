//! host: what this machine can run, and whether we may.

use std::fs;

use anyhow::Result;

use crate::trouble::Kind;

/// Debian's name for what this program was built for.
pub fn native() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "i386",
        "aarch64" => "arm64",
        "arm" => "armhf",
        "powerpc64" => "ppc64el",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// Container images have other names for some architectures (those of Go).
pub fn oci_arch(arch: &str) -> &str {
    match arch {
        "i386" => "386",
        "armhf" | "armel" => "arm",
        "ppc64el" => "ppc64le",
        "mips64el" => "mips64le",
        other => other,
    }
}

/// The architecture that was asked for, if its programs run here as the packages' scripts must, or none will.
pub fn arch(asked: Option<&str>, unpack_only: bool) -> Result<String> {
    let arch = asked.unwrap_or(native());
    let runs = unpack_only || arch == native() || (arch == "i386" && native() == "amd64") || emulated(arch);
    if runs {
        return Ok(arch.to_owned());
    }
    let why = format!("this machine is {}", native());
    Err(Kind::Asked.hinted(
        format!("cannot run programs of '{arch}'"),
        why,
        "apt-get install qemu-user-static binfmt-support, or unpack only with --foreign",
    ))
}

/// An interpreter that the kernel keeps open (flag F) works in any root (binfmt_misc, admin-guide).
fn emulated(arch: &str) -> bool {
    let name = match arch {
        "arm64" => "aarch64",
        "armhf" | "armel" => "arm",
        "ppc64el" => "ppc64le",
        "amd64" => "x86_64",
        other => other,
    };
    let entry = fs::read_to_string(format!("/proc/sys/fs/binfmt_misc/qemu-{name}")).unwrap_or_default();
    let flags = entry.lines().find_map(|line| line.strip_prefix("flags: ")).unwrap_or("");
    entry.starts_with("enabled") && flags.contains('F')
}
