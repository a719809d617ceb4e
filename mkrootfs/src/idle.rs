//! idle: what packages' scripts call for upgrades only, by dpkg-maintscript-helper(1): it does nothing for a package
//! that had no older version, and a bootstrap would start three processes for each of its dozens of calls.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use crate::dpkg::ADMIN;

/// In the tree.
const HELPER: &str = "/usr/bin/dpkg-maintscript-helper";

const SHELL: &str = "#!/bin/sh\n";

/// Ends the calls of a postinst that find nothing to do; all others go on to the helper's own text behind it. The
/// last two kinds look not at the version but for what a preinst has put aside.
const FRONT: &str = r#"case "$DPKG_MAINTSCRIPT_NAME/$*" in
postinst/rm_conffile\ *' -- configure ' | postinst/mv_conffile\ *' -- configure ') exit 0 ;;
postinst/symlink_to_dir\ *' -- configure ' | postinst/dir_to_symlink\ *' -- configure ')
	[ -e "$2.dpkg-backup" ] || [ -h "$2.dpkg-backup" ] || exit 0
	;;
esac
"#;

/// Whether a preinst is for upgrades only: all that it calls is the helper.
pub fn is_idle(script: &str) -> bool {
    const KINDS: [&str; 4] = ["rm_conffile", "mv_conffile", "symlink_to_dir", "dir_to_symlink"];
    let idle = |line: &str| {
        let words =
            line.strip_prefix("dpkg-maintscript-helper ").and_then(|rest| rest.strip_suffix(" -- \"$@\""));
        let kind = words.and_then(|words| words.split(' ').next()).unwrap_or("");
        let plain = |words: &str| !words.contains(['$', '`', ';', '&', '|', '<', '>', '(', ')']);
        ["", "set -e", "exit 0"].contains(&line)
            || line.starts_with('#')
            || (KINDS.contains(&kind) && words.is_some_and(plain))
    };
    script.starts_with("#!/bin/sh") && script.lines().all(|line| idle(line.trim()))
}

/// The helper with the quick answers before its own text; None where that is nothing for this shell.
fn quick(helper: &str) -> Option<String> {
    Some(format!("{SHELL}{FRONT}{}", helper.strip_prefix(SHELL)?))
}

/// For as long as the scripts' mount namespace lives, the helper answers quickly. The tree is the root directory by
/// now; its own file stays as it is, below the mount.
pub fn cover_helper() -> Result<()> {
    let Some(text) = fs::read_to_string(HELPER).ok().and_then(|text| quick(&text)) else { return Ok(()) };
    let aside = format!("{ADMIN}/helper.mkrootfs");
    let cover = || -> Result<()> {
        fs::write(&aside, text)?;
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o755))?;
        Ok(mount(Some(aside.as_str()), HELPER, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
    };
    let done = cover().with_context(|| format!("cannot mount over '{HELPER}'"));
    // A mount needs the file, not its name.
    fs::remove_file(&aside).with_context(|| format!("cannot remove '{aside}'")).and(done)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_preinst_for_upgrades_only_is_left_out() {
        let helper = "dpkg-maintscript-helper rm_conffile /etc/x 1.2\\~ -- \"$@\"\n";
        assert!(is_idle(&format!("#!/bin/sh\nset -e\n\n# by debhelper\n{helper}{helper}# end\nexit 0\n")));
        for more in ["rm x", "dpkg-maintscript-helper supports rm_conffile", "if true; then", "set -e; rm x"]
        {
            assert!(!is_idle(&format!("#!/bin/sh\n{helper}{more}\n")), "{more}");
        }
        let trick = helper.replace("/etc/x", "$(rm x)");
        assert!(!is_idle(&format!("#!/bin/sh\n{trick}")));
        assert!(!is_idle(&format!("#!/usr/bin/perl\n{helper}")));
        assert!(!is_idle(""));
    }

    /// Which calls the helper's own text, here one word, gets to see.
    #[test]
    fn only_calls_with_nothing_to_do_end_at_once() {
        let helper = quick("#!/bin/sh\necho own\n").unwrap();
        let own = |script: &str, args: &[&str]| {
            let mut shell = Command::new("sh");
            shell.args(["-c", &helper, "helper"]).args(args).env("DPKG_MAINTSCRIPT_NAME", script);
            String::from_utf8(shell.output().unwrap().stdout).unwrap() == "own\n"
        };
        assert!(!own("postinst", &["rm_conffile", "/etc/x", "1~", "--", "configure", ""]));
        assert!(!own("postinst", &["mv_conffile", "/a b", "/c", "1~", "pkg", "--", "configure", ""]));
        assert!(!own("postinst", &["dir_to_symlink", "/no/such", "x", "1~", "--", "configure", ""]));
        for args in [
            &["rm_conffile", "/etc/x", "1~", "--", "configure", "0.9"][..],
            &["rm_conffile", "/etc/x", "1~", "--", "configure"],
            &["rm_conffile", "/etc/x", "1~", "configure", ""],
            &["supports", "rm_conffile"],
            &[],
        ] {
            assert!(own("postinst", args), "{args:?}");
        }
        assert!(own("postrm", &["rm_conffile", "/etc/x", "1~", "--", "configure", ""]));
        let aside = std::env::temp_dir().join(format!("mkrootfs-idle-{}", std::process::id()));
        let there = aside.with_extension("dpkg-backup");
        std::os::unix::fs::symlink("/no/such", &there).unwrap();
        let args = ["symlink_to_dir", aside.to_str().unwrap(), "x", "1~", "--", "configure", ""];
        let seen = own("postinst", &args);
        fs::remove_file(&there).unwrap();
        assert!(seen);
        assert_eq!(quick("#!/usr/bin/perl\n"), None);
    }
}
