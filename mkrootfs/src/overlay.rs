//! overlay: a clone in a moment: what is changed lies beside the target, the rest in the source
//! (Documentation/filesystems/overlayfs.rst). The mount is the caller's, and goes with the next boot.

use std::fs::{self, DirBuilder, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::mount::{MsFlags, mount};

use crate::clone::Copy;
use crate::progress::Progress;
use crate::staging;
use crate::trouble::Kind;

pub fn make(source: &Path, target: &Path, progress: &Progress) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        let hint = "type sudo before the command, or leave --overlay out";
        return Err(Kind::Asked.hinted("cannot mount an overlay", "only root can", hint));
    }
    Copy::open(source, target)?;
    let source = fs::canonicalize(source).with_context(|| format!("cannot find '{}'", source.display()))?;
    let target =
        std::path::absolute(target).with_context(|| format!("cannot find '{}'", target.display()))?;
    staging::check(&target)?;
    let layers = layers_of(&target);
    if fs::symlink_metadata(&layers).is_ok() {
        let why = anyhow!("'{}' is there already, of an earlier overlay", layers.display());
        return Err(Kind::Asked.because(format!("cannot make '{}'", target.display()), why));
    }
    let fresh = !target.exists();
    let done = lay(&source, &target, &layers);
    if done.is_err() {
        let _ = staging::remove_tree(&layers);
        if fresh {
            let _ = fs::remove_dir(&target);
        }
        return done;
    }
    progress.step(&format!("an overlay; what changes lies in '{}'", layers.display()));
    Ok(())
}

fn layers_of(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".overlay");
    name.into()
}

fn lay(source: &Path, target: &Path, layers: &Path) -> Result<()> {
    let (upper, work) = (layers.join("upper"), layers.join("work"));
    for dir in [layers, &upper, &work] {
        let made = DirBuilder::new().mode(0o700).create(dir);
        made.with_context(|| format!("cannot make '{}'", dir.display()))?;
    }
    // The root of an overlay has what its upper layer says.
    let of = fs::metadata(source).with_context(|| format!("cannot look at '{}'", source.display()))?;
    let root = File::open(&upper).with_context(|| format!("cannot open '{}'", upper.display()))?;
    std::os::unix::fs::fchown(root.as_fd(), Some(of.uid()), Some(of.gid()))
        .and_then(|()| root.set_permissions(fs::Permissions::from_mode(of.mode() & 0o7777)))
        .with_context(|| format!("cannot set the mode of '{}'", upper.display()))?;
    if !target.exists() {
        fs::create_dir(target).with_context(|| format!("cannot make '{}'", target.display()))?;
    }
    let data = options(source, &upper, &work)?;
    mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(data.as_str()))
        .with_context(|| format!("cannot mount an overlay on '{}'", target.display()))
}

/// A comma ends an option, a colon a lower layer.
fn options(source: &Path, upper: &Path, work: &Path) -> Result<String> {
    let escaped = |path: &Path| {
        let text = path.to_str().with_context(|| format!("'{}' is not valid text", path.display()))?;
        Ok::<String, anyhow::Error>(text.chars().fold(String::new(), |mut out, c| {
            if matches!(c, '\\' | ',' | ':') {
                out.push('\\');
            }
            out.push(c);
            out
        }))
    };
    Ok(format!("lowerdir={},upperdir={},workdir={}", escaped(source)?, escaped(upper)?, escaped(work)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_cannot_end_an_option() {
        let text = options(Path::new("/a:b,c"), Path::new("/u"), Path::new("/w")).unwrap();
        assert_eq!(text, "lowerdir=/a\\:b\\,c,upperdir=/u,workdir=/w");
    }
}
