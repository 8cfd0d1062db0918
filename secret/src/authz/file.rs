//! The object type `authz-list-file`: the rules of an `authz-list` in a file, which is read again when it changes.
//!
//! While the file cannot be read or understood nobody may enter, and whoever is refused is told (in the server's log) why.

use super::Judge;
use super::list::List;
use crate::objects::{Object, ObjectType, Request};
use crate::options::de::{self, Dialect};
use crate::options::json;
use crate::tls::Authorization;
use crate::{Context, Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

pub(super) const TYPE: ObjectType =
    ObjectType { name: "authz-list-file", options: &[("filename", "string"), ("refresh", "bool")], create };

pub(super) const SECOND_NAME: ObjectType = ObjectType { name: "authz-listfile", ..TYPE };

/// The longest file, in bytes.
const MAX_FILE: u64 = 4 << 20;

#[derive(Deserialize)]
struct FileOptions {
    filename: String,
    #[serde(default = "yes")]
    refresh: bool,
}

fn yes() -> bool {
    true
}

/// Rules in a file.
#[derive(Debug)]
struct File {
    path: String,
    refresh: bool,
    loaded: Mutex<Loaded>,
}

/// What was read, and from which state of the file.
#[derive(Debug)]
struct Loaded {
    state: Option<State>,
    list: List,
}

/// What changes when a file changes: which one it is, its size, and when it was written and renamed.
#[derive(Debug, PartialEq, Eq)]
struct State {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

fn create(request: &Request<'_>) -> Result<Box<dyn Object>> {
    let options: FileOptions = request.parse()?;
    if options.refresh && !options.filename.starts_with('/') {
        return Err(Error::invalid("'filename' must be an absolute path when the file is to be read again")
            .with_hint("Give the whole path, or add refresh=off: a server in the background leaves the folder it was started in."));
    }
    let loaded = load(&options.filename)?;
    Ok(Judge::object(File { path: options.filename, refresh: options.refresh, loaded: Mutex::new(loaded) }))
}

impl Authorization for File {
    fn allows(&self, name: &str) -> Result<bool> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        // A file that could not be read has no state.
        if self.refresh && (loaded.state.is_none() || state(&self.path) != loaded.state) {
            // Nobody, until the file is right again; the next question tries anew.
            *loaded = Loaded { state: None, list: List::nobody() };
            *loaded = load(&self.path)?;
        }
        Ok(loaded.list.judge(name))
    }
}

fn load(path: &str) -> Result<Loaded> {
    // Before reading: what is written while we read counts as a change.
    let state = state(path);
    let list = read(path).context(|| format!("Unable to load the rules in '{path}'"))?;
    Ok(Loaded { state, list })
}

fn read(path: &str) -> Result<List> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(Error::invalid("File is too large"));
    }
    let Value::Object(map) = json::parse(&text)? else {
        return Err(Error::invalid("Expecting a JSON object").with_hint(
            "The file holds what the options of authz-list are: { \"policy\": \"deny\", \"rules\": [ … ] }.",
        ));
    };
    Ok(de::parse(&map, Dialect::Json)?)
}

fn state(path: &str) -> Option<State> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(State {
        file: (metadata.dev(), metadata.ino()),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}
