//! target: what a root becomes: a directory, a tar file, or an image by the program that makes such images. The
//! end of its name says which.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use flate2::{Compression, GzBuilder};

use crate::pack;
use crate::trouble::Kind;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Directory,
    Tar(Packing),
    Image(Image),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    None,
    Gzip,
    Zstd,
    Xz,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    Squashfs,
    Erofs,
    Ext4,
}

/// Ends of names; the longest that fits counts.
const FORMS: [(&str, Form); 9] = [
    (".tar", Form::Tar(Packing::None)),
    (".tar.gz", Form::Tar(Packing::Gzip)),
    (".tgz", Form::Tar(Packing::Gzip)),
    (".tar.zst", Form::Tar(Packing::Zstd)),
    (".tar.xz", Form::Tar(Packing::Xz)),
    (".squashfs", Form::Image(Image::Squashfs)),
    (".sqfs", Form::Image(Image::Squashfs)),
    (".erofs", Form::Image(Image::Erofs)),
    (".ext4", Form::Image(Image::Ext4)),
];

/// What a target is: by the word that was given, with the packing by the name; else by the name. "-" is a tar on
/// standard output.
pub fn form(target: &Path, asked: Option<Form>) -> Form {
    match (asked, by_name(target)) {
        (Some(Form::Tar(_)), by_name @ Form::Tar(_)) => by_name,
        (Some(asked), _) => asked,
        (None, by_name) => by_name,
    }
}

/// The words of --format; None for "auto".
pub fn parse(word: &str) -> Option<Option<Form>> {
    Some(match word {
        "auto" => None,
        "directory" | "dir" => Some(Form::Directory),
        "tar" => Some(Form::Tar(Packing::None)),
        "squashfs" | "sqfs" => Some(Form::Image(Image::Squashfs)),
        "erofs" => Some(Form::Image(Image::Erofs)),
        "ext4" => Some(Form::Image(Image::Ext4)),
        _ => return None,
    })
}

fn by_name(target: &Path) -> Form {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    if target == Path::new("-") {
        return Form::Tar(Packing::None);
    }
    FORMS
        .iter()
        .find(|(end, _)| name.len() > end.len() && name.ends_with(end))
        .map_or(Form::Directory, |f| f.1)
}

impl Form {
    /// The program that it takes, if it takes one.
    fn program(self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Form::Tar(Packing::Zstd) => ("zstd", "zstd"),
            Form::Tar(Packing::Xz) => ("xz", "xz-utils"),
            Form::Image(Image::Squashfs) => ("mksquashfs", "squashfs-tools"),
            Form::Image(Image::Erofs) => ("mkfs.erofs", "erofs-utils"),
            Form::Image(Image::Ext4) => ("mke2fs", "e2fsprogs"),
            _ => return None,
        })
    }

    /// Before any work: is the program there?
    pub fn check(self) -> Result<()> {
        let Some((program, package)) = self.program() else { return Ok(()) };
        match find(program) {
            Some(_) => Ok(()),
            None => {
                let hint =
                    format!("apt-get install {package}, or name a file that ends with .tar or .tar.gz");
                Err(Kind::Asked.hinted("cannot make such a file", format!("there is no '{program}'"), hint))
            }
        }
    }

    /// Makes it of the tree at `root`.
    pub fn make(self, root: &Path, stand_ins: bool, out: Output) -> Result<()> {
        match (self, out) {
            (Form::Directory, _) => Ok(()),
            (Form::Tar(packing), Output::Stdout) => {
                tar(root, stand_ins, packing, io::stdout().as_fd().try_clone_to_owned()?.into())
            }
            (Form::Tar(packing), Output::File(path)) => {
                let file =
                    File::create_new(&path).with_context(|| format!("cannot make '{}'", path.display()))?;
                tar(root, stand_ins, packing, file.try_clone()?)?;
                file.sync_all().with_context(|| format!("cannot write '{}'", path.display()))
            }
            (Form::Image(image), Output::File(path)) => make_image(image, root, &path),
            (Form::Image(_), Output::Stdout) => bail!("an image is no stream"),
        }
    }
}

/// Where the bytes go.
pub enum Output {
    Stdout,
    File(PathBuf),
}

/// The places of system programs, too: root's path may lack them under sudo.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs =
        std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn tar(root: &Path, stand_ins: bool, packing: Packing, out: File) -> Result<()> {
    match packing {
        Packing::None => pack::pack(root, stand_ins, io::BufWriter::with_capacity(1 << 20, out)),
        // No name and no time in the head: the bytes depend on the tree alone.
        Packing::Gzip => pack::pack(root, stand_ins, GzBuilder::new().write(out, Compression::new(6))),
        // The number of threads is fixed, as it shows in the bytes.
        Packing::Zstd => through("zstd", &["-q", "-c", "-3", "-T2"], root, stand_ins, out),
        Packing::Xz => through("xz", &["-q", "-c", "-6", "-T2"], root, stand_ins, out),
    }
}

/// Through a program that packs what it reads.
fn through(program: &str, arguments: &[&str], root: &Path, stand_ins: bool, out: File) -> Result<()> {
    let mut command = Command::new(find(program).unwrap_or_else(|| program.into()));
    command.args(arguments).stdin(Stdio::piped()).stdout(out);
    let mut child = command.spawn().with_context(|| format!("cannot run '{program}'"))?;
    let stdin = child.stdin.take().expect("it is a pipe");
    let packed = pack::pack(root, stand_ins, io::BufWriter::with_capacity(1 << 20, stdin));
    let status = child.wait().with_context(|| format!("cannot wait for '{program}'"))?;
    if !status.success() {
        bail!("'{program}' failed: {status}");
    }
    packed
}

fn make_image(image: Image, root: &Path, out: &Path) -> Result<()> {
    let epoch = pack::epoch()?.map(|epoch| epoch.to_string());
    let (program, _) = Form::Image(image).program().expect("every image has one");
    let mut command = Command::new(find(program).unwrap_or_else(|| program.into()));
    match image {
        // It reads SOURCE_DATE_EPOCH itself.
        Image::Squashfs => {
            command.arg(root).arg(out).args(["-noappend", "-no-progress", "-comp", "zstd"]);
        }
        Image::Erofs => {
            if let Some(epoch) = &epoch {
                // With a time for all a fixed name too: else it is a random one.
                command.args(["-T", epoch, "-U", "00000000-0000-0000-0000-000000000000"]);
            }
            command.arg(out).arg(root);
        }
        Image::Ext4 => {
            command.args(["-q", "-F", "-t", "ext4", "-m", "0", "-d"]).arg(root);
            if epoch.is_some() {
                let fixed = "00000000-0000-0000-0000-000000000000";
                command.args(["-U", fixed, "-E", &format!("hash_seed={fixed}")]);
            }
            command.arg(out).arg(format!("{}k", ext4_size(root)?));
        }
    }
    finish(program, command)?;
    File::open(out)
        .and_then(|file| file.sync_all())
        .with_context(|| format!("cannot write '{}'", out.display()))
}

/// Blocks of 1024 bytes: what is in the tree, a fifth more, and room for the journal.
fn ext4_size(root: &Path) -> Result<u64> {
    let (mut todo, mut blocks) = (vec![root.to_owned()], 0);
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| format!("cannot read '{}'", dir.display()))? {
            let entry = entry?;
            let data = entry.metadata()?;
            blocks += data.len().div_ceil(4096) * 4 + 4;
            if data.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    Ok(blocks * 6 / 5 + (32 << 10))
}

/// Runs it; its words are shown only when it fails.
fn finish(program: &str, mut command: Command) -> Result<()> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run '{program}'"))?;
    let mut stderr = child.stderr.take().expect("it is a pipe");
    let said = thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stderr.read_to_end(&mut bytes);
        bytes
    });
    let status = child.wait().with_context(|| format!("cannot wait for '{program}'"))?;
    let said = said.join().unwrap_or_default();
    if status.success() {
        return Ok(());
    }
    let _ = io::stderr().write_all(&said);
    Err(anyhow!("'{program}' failed: {status}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_name_says_what_it_is() {
        for (name, expected) in [
            ("-", Form::Tar(Packing::None)),
            ("/srv/root", Form::Directory),
            ("root.tar.zst", Form::Tar(Packing::Zstd)),
            ("root.tgz", Form::Tar(Packing::Gzip)),
            ("x/root.ext4", Form::Image(Image::Ext4)),
            (".tar", Form::Directory),
            ("root.tarx", Form::Directory),
        ] {
            assert_eq!(form(Path::new(name), None), expected, "{name}");
        }
        let asked = |name: &str, word: &str| form(Path::new(name), parse(word).unwrap());
        assert_eq!(asked("x.tar.gz", "tar"), Form::Tar(Packing::Gzip));
        assert_eq!(asked("x", "tar"), Form::Tar(Packing::None));
        assert_eq!(asked("x.tar", "dir"), Form::Directory);
        assert_eq!(parse("cpio"), None);
    }
}
