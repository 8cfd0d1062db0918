//! What there is: images found and described without a key, and the options that open a chain of them with one.

use crate::command::Tool;
use block::graph::{self, OpenFlags};
use block::snapshot::Snapshot;
use block::{Context, Error, Options, Result};
use serde_json::Value;
use std::path::Path;

/// More layers than this are taken for a circle.
const MAX_LAYERS: u32 = 200;

/// How an image is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    /// Not at all.
    None,
    /// Legacy AES.
    Legacy,
    /// LUKS inside qcow2.
    QcowLuks,
    /// The luks format.
    Luks,
}

/// An image, as it can be seen without its key.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) path: String,
    pub(super) driver: &'static str,
    pub(super) encryption: Encryption,
    pub(super) size: u64,
    pub(super) cluster: Option<u32>,
    pub(super) snapshots: Vec<Snapshot>,
    /// The backing file, and its format where the image names one.
    pub(super) backing: Option<(String, Option<String>)>,
}

/// The ids of secrets.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// What legacy images are encrypted with.
    pub(super) old: String,
    /// What new images are encrypted with.
    pub(super) new: String,
}

/// Images named by words, in order: those with legacy AES in folders, and every file that is named itself.
pub(super) fn collect(tool: &Tool<'_>, words: &[String]) -> Vec<Result<Look, (String, Error)>> {
    words.iter().flat_map(|word| collect_one(tool, word)).collect()
}

fn collect_one(tool: &Tool<'_>, word: &str) -> Vec<Result<Look, (String, Error)>> {
    let path = Path::new(word);
    if !path.is_dir() {
        let found = canonical(path).and_then(|path| look(tool, &path, None)).and_then(require_legacy);
        return vec![found.map_err(|e| (word.to_owned(), e))];
    }
    let Ok(entries) = std::fs::read_dir(path) else {
        return vec![Err((word.to_owned(), Error::from_errno(nix::libc::EACCES)))];
    };
    let mut files: Vec<_> = entries.flatten().map(|e| e.path()).filter(|path| path.is_file()).collect();
    files.sort();
    // What is something else is no business of ours, and neither is why it cannot be opened.
    let looks = files.iter().filter_map(|path| look(tool, &canonical(path).ok()?, None).ok());
    looks.filter(|look| look.encryption == Encryption::Legacy).map(Ok).collect()
}

fn require_legacy(look: Look) -> Result<Look> {
    match look.encryption {
        Encryption::Legacy => Ok(look),
        _ => Err(Error::invalid("The image is not encrypted with the legacy AES encryption")
            .with_hint("Only such images need a rescue; others are copied with convert.")),
    }
}

fn canonical(path: &Path) -> Result<String> {
    let errno = |e: std::io::Error| Error::from_errno(e.raw_os_error().unwrap_or(nix::libc::EIO));
    let full = path.canonicalize().map_err(errno)?;
    full.into_os_string().into_string().map_err(|_| Error::invalid("The file's name is not valid UTF-8"))
}

fn file_options(path: &str, format: Option<&str>) -> Result<Options> {
    let mut options = Options::new();
    options.set("file.driver", "file")?;
    options.set("file.filename", path)?;
    if let Some(format) = format {
        options.set("driver", format)?;
    }
    Ok(options)
}

/// Looks at the image in the file `path`.
///
/// # Errors
/// It cannot be opened.
pub(super) fn look(tool: &Tool<'_>, path: &str, format: Option<&str>) -> Result<Look> {
    let flags = OpenFlags { no_io: true, no_backing: true, ..OpenFlags::default() };
    let image = graph::open_tree(tool.env(), None, file_options(path, format)?, flags)
        .context(|| format!("Could not open '{path}'"))?;
    let node = image.node();
    let info = node.info();
    let driver = node.name().driver;
    let inner = info.specific.as_ref().and_then(|(_, data)| data["encrypt"]["format"].as_str());
    let encryption = match (driver, inner) {
        _ if !info.encrypted => Encryption::None,
        ("qcow", _) | ("qcow2", Some("aes")) => Encryption::Legacy,
        ("qcow2", _) => Encryption::QcowLuks,
        _ => Encryption::Luks,
    };
    let backing = match &info.backing_file {
        Some(name) => Some((graph::resolve(path, name)?, info.backing_format.clone())),
        None => None,
    };
    let look = Look {
        path: path.to_owned(),
        driver,
        encryption,
        size: image.len()?,
        cluster: node.limits().cluster_size,
        snapshots: node.snapshots().unwrap_or_default(),
        backing,
    };
    image.close()?;
    Ok(look)
}

/// Whether the layers behind an image are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    /// All of them.
    All,
    /// None: what is not in the image reads as zeroes.
    None,
}

/// The options that open the image in `path`.
///
/// # Errors
/// An image of the chain cannot be looked at, or there are too many.
pub(super) fn options(
    tool: &Tool<'_>,
    path: &str,
    format: Option<&str>,
    keys: &Keys,
    behind: Behind,
) -> Result<Options> {
    layer(tool, path, format, keys, behind, MAX_LAYERS)
}

fn layer(
    tool: &Tool<'_>,
    path: &str,
    format: Option<&str>,
    keys: &Keys,
    behind: Behind,
    left: u32,
) -> Result<Options> {
    if left == 0 {
        return Err(Error::invalid(format!("The backing chain of '{path}' has no end")));
    }
    let look = look(tool, path, format)?;
    let mut options = file_options(path, Some(look.driver))?;
    match look.encryption {
        Encryption::None => {}
        Encryption::Legacy => options.set("encrypt.key-secret", keys.old.as_str())?,
        Encryption::QcowLuks => options.set("encrypt.key-secret", keys.new.as_str())?,
        Encryption::Luks => options.set("key-secret", keys.new.as_str())?,
    }
    match (&look.backing, behind) {
        (None, _) => {}
        (Some(_), Behind::None) => options.set("backing", Value::Null)?,
        (Some((name, format)), Behind::All) => {
            options.merge("backing", layer(tool, name, format.as_deref(), keys, behind, left - 1)?)?;
        }
    }
    Ok(options)
}
