//! nft: the program nft(8), which takes and lists rules as JSON (libnftables-json(5)), and the one table that is
//! ours.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use serde_json::{Value, json};
use unshare::fail::hint;

pub const TABLE: &str = "slipway";

pub struct Nft(PathBuf);

impl Nft {
    /// None without the program, and on a kernel without netfilter, which can hold no rules of ours.
    pub fn find() -> Option<Nft> {
        if kernel_has_netfilter() { Nft::program() } else { None }
    }

    fn program() -> Option<Nft> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
        places.extend(["/usr/sbin".into(), "/sbin".into()]);
        places.into_iter().map(|dir| dir.join("nft")).find(|file| file.is_file()).map(Nft)
    }

    pub fn need() -> Result<Nft> {
        if !kernel_has_netfilter() {
            bail!("NAT needs nf_tables, which this kernel does not have");
        }
        Nft::program().ok_or_else(|| {
            hint(anyhow!("NAT needs the program 'nft'; iptables is not enough"), "apt-get install nftables")
        })
    }

    /// Runs commands (libnftables-json(5)), all of them or none, and gives back what there is then.
    ///
    /// JSON in, not only out: told to write JSON, nft takes no commands of its own language on stdin.
    /// Terse: the elements of other people's sets may be many.
    pub fn run(&self, mut commands: Vec<Value>) -> Result<Ruleset> {
        commands.push(json!({"list": {"ruleset": null}}));
        let script = json!({ "nftables": commands }).to_string();
        let program = self.0.display();
        // To nft "-" is /dev/stdin, which a bare /dev does not have.
        let input = if Path::new("/dev/stdin").exists() { "-" } else { "/proc/self/fd/0" };
        let mut child = Command::new(&self.0)
            .args(["-t", "-j", "-f", input])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run '{program}'"))?;
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        // It fits into the pipe; should nft die early, its status tells.
        let _ = stdin.write_all(script.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().with_context(|| format!("cannot wait for '{program}'"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("'{program}' failed: {}", said.lines().next().unwrap_or("no reason given"));
        }
        let mut listed: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("cannot read what '{program}' lists"))?;
        let entries = listed["nftables"].as_array_mut().map(std::mem::take).unwrap_or_default();
        Ok(Ruleset(entries))
    }

    pub fn ruleset(&self) -> Result<Ruleset> {
        self.run(Vec::new())
    }
}

fn kernel_has_netfilter() -> bool {
    let opened =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter);
    opened.err() != Some(Errno::EPROTONOSUPPORT)
}

/// What the host's tables hold, as nft lists it.
pub struct Ruleset(Vec<Value>);

impl Ruleset {
    fn all<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter_map(move |entry| entry.get(kind))
    }

    pub fn chains_of_ours(&self, family: &str) -> Vec<&str> {
        let ours = |chain: &&Value| chain["family"] == family && chain["table"] == TABLE;
        self.all("chain").filter(ours).filter_map(|chain| chain["name"].as_str()).collect()
    }

    pub fn rules_of_ours<'a>(&'a self, family: &'a str) -> impl Iterator<Item = &'a Value> {
        self.all("rule").filter(move |rule| rule["family"] == family && rule["table"] == TABLE)
    }
}

/// What nft takes in the name of a chain.
pub fn check_switch(name: &str) -> Result<()> {
    if name.bytes().any(|b| !b.is_ascii_alphanumeric() && !b"_-.".contains(&b)) {
        bail!("the name of a switch with NAT has letters, digits, '_', '-' and '.' only: '{name}'");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_be_code_is_refused() {
        assert!(check_switch("br-0.x_y").is_ok());
        for bad in ["br;x", "br{", "br$x", "br#"] {
            assert!(check_switch(bad).is_err(), "{bad}");
        }
    }
}
