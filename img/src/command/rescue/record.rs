//! What is known about a new image: whose contents it has, and how far it has come.
//!
//! The record is a file beside the image. It is written before the image is, and again when a stretch is durable, so it
//! never promises more than there is. The source is recognised by its name, size, time and the hash of its beginning.

use block::{Error, Result};
use formats::crypto::HashAlg;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes of the beginning that are hashed: header and first tables.
const HASHED: u64 = 64 << 10;

fn failed(what: &str, path: &Path, e: &std::io::Error) -> Error {
    let errno = e.raw_os_error().unwrap_or(nix::libc::EIO);
    Error::from_errno(errno).context(format!("Could not {what} '{}'", path.display()))
}

/// What the file `path` is recognised by.
///
/// # Errors
/// It cannot be read.
pub(super) fn fingerprint(path: &str) -> Result<Value> {
    let io = |e: std::io::Error| failed("read", Path::new(path), &e);
    let file = File::open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    let mut head = Vec::new();
    file.take(HASHED).read_to_end(&mut head).map_err(io)?;
    let mut digest = [0; 32];
    HashAlg::Sha256.digest_into(&[&head[..]], &mut digest);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(json!({
        "path": path,
        "size": meta.len(),
        "mtime": meta.mtime(),
        "mtime-nsec": meta.mtime_nsec(),
        "sha256-of-first-64k": hex,
    }))
}

/// A record and where it is kept.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    value: Value,
}

impl Record {
    /// The record of the image `target`, made from what `source` says; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be read, or is no record.
    pub(super) fn load(target: &Path) -> Result<Option<Self>> {
        let path = Self::place(target);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed("read", &path, &e)),
        };
        let value = serde_json::from_str(&text)
            .map_err(|_| Error::invalid(format!("'{}' is no record of a rescue", path.display())))?;
        Ok(Some(Record { path, value }))
    }

    /// A record of an image that does not exist yet.
    pub(super) fn new(target: &Path, source: &Value, what: &Value) -> Self {
        let value =
            json!({"source": source, "what": what, "created": false, "position": 0, "complete": false});
        Record { path: Self::place(target), value }
    }

    fn place(target: &Path) -> PathBuf {
        let mut name = target.as_os_str().to_owned();
        name.push(".rescue.json");
        name.into()
    }

    /// Whether it is about that source and that kind of image.
    pub(super) fn is_about(&self, source: &Value, what: &Value) -> bool {
        self.value["source"] == *source && self.value["what"] == *what
    }

    /// Whether the image exists.
    pub(super) fn is_created(&self) -> bool {
        self.value["created"] == true
    }

    /// Whether the image is complete.
    pub(super) fn is_complete(&self) -> bool {
        self.value["complete"] == true
    }

    /// How many bytes of the disk the image has for certain.
    pub(super) fn position(&self) -> u64 {
        self.value["position"].as_u64().unwrap_or(0)
    }

    /// Changes a member and writes the record.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn set(&mut self, member: &str, value: impl Into<Value>) -> Result<()> {
        self.value[member] = value.into();
        self.save()
    }

    /// Writes the record, durably and in one step.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn save(&self) -> Result<()> {
        let mut temporary = self.path.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        let io = |e: std::io::Error| failed("write", &self.path, &e);
        let mut file = File::create(&temporary).map_err(io)?;
        file.write_all(format!("{:#}\n", self.value).as_bytes()).map_err(io)?;
        file.sync_all().map_err(io)?;
        fs::rename(&temporary, &self.path).map_err(io)
    }
}

/// Gives a finished image its name, durably.
///
/// # Errors
/// The name is taken, or the folder cannot be written.
pub(super) fn publish(partial: &Path, target: &Path) -> Result<()> {
    let io = |e: std::io::Error| failed("write", target, &e);
    // A link fails where the name is taken meanwhile; a renaming would replace what is there.
    let linked = fs::hard_link(partial, target);
    let done = match linked {
        Err(_) if !target.exists() => fs::rename(partial, target),
        linked => linked,
    };
    done.map_err(io)?;
    let _ = fs::remove_file(partial);
    let folder = target.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_knows_its_source() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.qcow2");
        let source = folder.path().join("source");
        fs::write(&source, b"QFI").unwrap();
        let source = source.to_str().unwrap();
        let print = fingerprint(source).unwrap();
        let mut record = Record::new(&target, &print, &json!("qcow2"));
        record.set("created", true).unwrap();
        record.set("position", 1 << 30).unwrap();
        let back = Record::load(&target).unwrap().unwrap();
        assert!(back.is_about(&print, &json!("qcow2")) && !back.is_about(&print, &json!("raw")));
        assert_eq!((back.is_created(), back.position(), back.is_complete()), (true, 1 << 30, false));
        fs::write(source, b"QFJ").unwrap();
        assert!(!back.is_about(&fingerprint(source).unwrap(), &json!("qcow2")));
        assert!(Record::load(&folder.path().join("b")).unwrap().is_none());
    }

    #[test]
    fn a_name_that_is_taken_stays() {
        let folder = tempfile::tempdir().unwrap();
        let [partial, target] = ["partial", "target"].map(|name| folder.path().join(name));
        fs::write(&partial, b"new").unwrap();
        fs::write(&target, b"old").unwrap();
        assert!(publish(&partial, &target).is_err());
        assert_eq!(fs::read(&target).unwrap(), b"old");
        fs::remove_file(&target).unwrap();
        publish(&partial, &target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert!(!partial.exists());
    }
}
