//! import: what 'unpack' reads: a tar stream, packed or not, or a container image (an OCI image layout or what
//! "docker save" writes, each as a directory or as a tar of it).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use serde_json::Value;
use unshare::rooted;

use crate::cli::Options;
use crate::digest::Running;
use crate::extract::Extract;
use crate::host;
use crate::progress;
use crate::tree::Tree;
use crate::trouble::Kind;

/// A file or standard input, opened before anything is made.
pub enum Source {
    Stream(Box<dyn BufRead + Send>),
    Directory(Tree),
}

const BUFFER: usize = 1 << 20;

impl Source {
    pub fn open(path: &Path) -> Result<Source> {
        if path == Path::new("-") {
            return Ok(Source::Stream(Box::new(BufReader::with_capacity(BUFFER, io::stdin()))));
        }
        let failed = || format!("cannot unpack '{}'", path.display());
        let file = File::open(path).map_err(|e| Kind::Asked.because(failed(), e))?;
        if file.metadata().with_context(failed)?.is_dir() {
            return Ok(Source::Directory(Tree::open(path)?));
        }
        Ok(Source::Stream(Box::new(BufReader::with_capacity(BUFFER, file))))
    }

    /// Puts the tree that it holds at `root`.
    pub fn unpack(self, root: &Path, scratch: &Path, options: &Options) -> Result<()> {
        let _mask = crate::sys::Umask::set(0o022);
        let tree = Tree::open(root)?;
        let mut extract = Extract::new(&tree);
        extract.devices = options.devices;
        match self {
            Source::Directory(image) => layers(&image, &mut extract, options)?,
            Source::Stream(stream) => {
                let mut reader = decoded(stream)?;
                let mut head = Vec::new();
                reader.by_ref().take(512).read_to_end(&mut head).context("cannot read the archive")?;
                if head.is_empty() {
                    bail!(Kind::BadPackage.error("the archive is empty"));
                }
                if begins_image(&head) {
                    let dir = scratch.join("image");
                    std::fs::create_dir(&dir).with_context(|| format!("cannot make '{}'", dir.display()))?;
                    let image = Tree::open(&dir)?;
                    Extract::new(&image).run(head.chain(reader)).context("cannot unpack the image")?;
                    layers(&image, &mut extract, options)?;
                } else {
                    extract.run(head.chain(reader)).context("cannot unpack")?;
                }
            }
        }
        if extract.left_out > 0 {
            progress::warn(&format!("{} devices are left out: --devices makes them", extract.left_out));
        }
        Ok(())
    }
}

/// By its first bytes what a stream is packed with.
fn decoded<'r>(mut stream: impl BufRead + Send + 'r) -> Result<Box<dyn Read + 'r>> {
    let head = stream.fill_buf().context("cannot read the archive")?;
    Ok(match head {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(stream)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Box::new(XzReader::new(stream, true)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(Frames { input: Some(stream), frame: None }),
        [b'B', b'Z', b'h', ..] => {
            let hint = "bunzip2 -c FILE | mkrootfs unpack - TARGET";
            return Err(Kind::Asked.hinted("cannot unpack the archive", "it is packed by bzip2", hint));
        }
        _ => Box::new(stream),
    })
}

/// Zstandard data may be several frames one after another (RFC 8878, section 3).
struct Frames<R: BufRead> {
    input: Option<R>,
    frame: Option<StreamingDecoder<R, FrameDecoder>>,
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let count = frame.read(buffer)?;
                if count > 0 || buffer.is_empty() {
                    return Ok(count);
                }
                self.input = self.frame.take().map(StreamingDecoder::into_inner);
            }
            let Some(mut input) = self.input.take() else { return Ok(0) };
            if input.fill_buf()?.is_empty() {
                return Ok(0);
            }
            self.frame = Some(StreamingDecoder::new(input).map_err(|e| io::Error::other(e.to_string()))?);
        }
    }
}

/// Whether a tar that begins so holds a container image: a root directory has no such names at its top.
fn begins_image(head: &[u8]) -> bool {
    let name = head.get(..100).unwrap_or_default().split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name);
    let name = name.strip_prefix("./").unwrap_or(&name);
    let first = name.split('/').next().unwrap_or_default();
    let hex = |text: &str| text.len() == 64 && text.bytes().all(|c| c.is_ascii_hexdigit());
    ["blobs", "oci-layout", "index.json", "manifest.json", "repositories"].contains(&first)
        || hex(first)
        || first.strip_suffix(".json").is_some_and(hex)
}

/// Lays the layers of an image over each other.
fn layers(image: &Tree, extract: &mut Extract, options: &Options) -> Result<()> {
    extract.layer = true;
    let paths = match (read_json(image, "index.json"), read_json(image, "manifest.json")) {
        (Some(index), _) => of_layout(image, &index?, options)?,
        (None, Some(manifest)) => of_docker(&manifest?)?,
        (None, None) => {
            let why = "it has neither 'index.json' nor 'manifest.json'";
            bail!(Kind::Asked.because("it is no image of a container", anyhow!(why)))
        }
    };
    for path in paths {
        layer(image, &path, extract).with_context(|| format!("cannot unpack the layer '{path}'"))?;
    }
    Ok(())
}

fn layer(image: &Tree, path: &str, extract: &mut Extract) -> Result<()> {
    let fd = rooted::open(image.fd(), Path::new(path), OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty())?;
    let mut file = File::from(fd);
    if let Some(sha256) = path.strip_prefix("blobs/sha256/") {
        check_digest(&mut file, sha256)?;
    }
    let mut stream = || -> Result<Box<dyn Read>> {
        file.rewind()?;
        decoded(BufReader::with_capacity(BUFFER, file.try_clone()?))
    };
    extract.hide(stream()?)?;
    extract.run(stream()?)
}

fn check_digest(file: &mut File, sha256: &str) -> Result<()> {
    let mut running = Running::default();
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => running.update(&buffer[..count]),
        }
    }
    let got = running.end();
    match got == sha256 {
        true => Ok(()),
        false => Err(Kind::BadPackage.error(format!("it has SHA-256 {got}"))),
    }
}

/// None when the image has no such file.
fn read_json(image: &Tree, path: &str) -> Option<Result<Value>> {
    let bytes = image.read(path)?;
    Some(serde_json::from_slice(&bytes).map_err(|e| damaged(path, e)))
}

fn damaged(path: &str, error: impl Into<anyhow::Error>) -> anyhow::Error {
    Kind::BadPackage.because(format!("the image's '{path}' is damaged"), error)
}

/// index.json names manifests, a manifest names layers; an index may name further indexes.
fn of_layout(image: &Tree, index: &Value, options: &Options) -> Result<Vec<String>> {
    const DEPTH: usize = 4;
    let mut document = index.clone();
    for _ in 0..DEPTH {
        if let Some(layers) = document["layers"].as_array() {
            return layers.iter().map(blob).collect();
        }
        let path = blob(choose(&document, options)?)?;
        let bytes = image.read(&path).with_context(|| format!("the image has no '{path}'"))?;
        let sha256 = crate::digest::sha256(&bytes);
        if !path.ends_with(&sha256) {
            bail!(Kind::BadPackage.error(format!("the image's '{path}' has SHA-256 {sha256}")));
        }
        document = serde_json::from_slice(&bytes).map_err(|e| damaged(&path, e))?;
    }
    Err(damaged("index.json", anyhow!("its indexes do not end")))
}

/// The manifest for this machine, or the only one.
fn choose<'v>(index: &'v Value, options: &Options) -> Result<&'v Value> {
    let manifests = index["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
    let arch = options.arch.clone().unwrap_or_else(|| host::native().to_owned());
    let ours = |manifest: &&Value| {
        let platform = &manifest["platform"];
        platform["os"].as_str().is_none_or(|os| os == "linux")
            && platform["architecture"].as_str().is_none_or(|a| a == host::oci_arch(&arch))
    };
    manifests
        .iter()
        .find(ours)
        .ok_or_else(|| Kind::Asked.error(format!("the image has nothing for '{arch}'")))
}

/// "sha256:HEX" of a descriptor as a path.
fn blob(descriptor: &Value) -> Result<String> {
    let digest = descriptor["digest"].as_str().unwrap_or_default();
    let hex = digest.strip_prefix("sha256:").filter(|hex| hex.len() == 64);
    match hex.filter(|hex| hex.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))) {
        Some(hex) => Ok(format!("blobs/sha256/{hex}")),
        None => Err(damaged("index.json", anyhow!("'{digest}' is no SHA-256"))),
    }
}

fn of_docker(manifest: &Value) -> Result<Vec<String>> {
    let layers = manifest[0]["Layers"].as_array().context("it names no layers");
    let layers = layers.map_err(|e| damaged("manifest.json", e))?;
    let path = |layer: &Value| layer.as_str().map(str::to_owned).context("a layer has no name");
    layers.iter().map(path).collect::<Result<_>>().map_err(|e| damaged("manifest.json", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_from_roots_by_their_first_name() {
        for (name, image) in [
            ("blobs/", true),
            ("./oci-layout", true),
            ("manifest.json", true),
            (&"a".repeat(64), true),
            ("./", false),
            ("bin/", false),
            ("etc/manifest.json", false),
        ] {
            let mut head = [0; 512];
            head[..name.len()].copy_from_slice(name.as_bytes());
            assert_eq!(begins_image(&head), image, "{name}");
        }
    }

    #[test]
    fn digests_become_paths_and_nothing_else_does() {
        let of = |digest: &str| blob(&serde_json::json!({ "digest": digest }));
        assert_eq!(
            of(&format!("sha256:{}", "a".repeat(64))).unwrap(),
            format!("blobs/sha256/{}", "a".repeat(64))
        );
        for bad in ["", "sha256:../../x", "sha512:00", &format!("sha256:{}", "/".repeat(64))] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
