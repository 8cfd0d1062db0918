//! Snapshots inside an image: what a format that has them implements, and how the user names one.

use crate::{Error, Kind, Quiesced, Result};
use secret::options::keyval::Bare;

/// A snapshot, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Its id: unique in the image, short, chosen by the format.
    pub id: String,
    /// Its name: chosen by the user, not unique.
    pub name: String,
    /// Bytes of the state of a machine that was saved with it.
    pub vm_state_size: u64,
    /// When it was taken, in seconds since 1970.
    pub date_sec: u32,
    /// The rest of that time, in nanoseconds.
    pub date_nsec: u32,
    /// How long the machine had run, in nanoseconds.
    pub vm_clock_nsec: u64,
    /// How many instructions it had executed, where they are counted.
    pub icount: Option<u64>,
}

/// A snapshot to be taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewSnapshot {
    /// Its name.
    pub name: String,
    /// The time, in seconds since 1970.
    pub date_sec: u32,
    /// The rest of that time, in nanoseconds.
    pub date_nsec: u32,
}

/// How a snapshot is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotName {
    /// By its id or its name, whichever fits; the id is tried first.
    Either(String),
    /// By its name or its id; the name is tried first.
    NameFirst(String),
    /// By what is given: both have to fit.
    Exact {
        /// The id.
        id: Option<String>,
        /// The name.
        name: Option<String>,
    },
}

impl SnapshotName {
    /// What a user typed: `snapshot.id=…,snapshot.name=…`, or else a name or id.
    ///
    /// # Errors
    /// The first unknown member.
    pub fn parse(text: &str) -> Result<Self> {
        if !text.starts_with("snapshot.") {
            return Ok(SnapshotName::Either(text.to_owned()));
        }
        let (mut id, mut name) = (None, None);
        for (key, value) in crate::tool::pairs(text, Bare::Always)? {
            match key.as_str() {
                "snapshot.id" => id = Some(value),
                "snapshot.name" => name = Some(value),
                _ => return Err(Error::invalid(format!("Invalid parameter '{key}'"))),
            }
        }
        Ok(SnapshotName::Exact { id, name })
    }

    /// The first of `all` that is meant.
    pub fn find<'a>(&self, all: &'a [Snapshot]) -> Option<&'a Snapshot> {
        let by_id = |text: &str| all.iter().find(|s| s.id == text);
        let by_name = |text: &str| all.iter().find(|s| s.name == text);
        match self {
            SnapshotName::Either(text) => by_id(text).or_else(|| by_name(text)),
            SnapshotName::NameFirst(text) => by_name(text).or_else(|| by_id(text)),
            SnapshotName::Exact { id, name } => {
                let fits = |wanted: &Option<String>, text: &str| wanted.as_deref().is_none_or(|w| w == text);
                all.iter().find(|s| fits(id, &s.id) && fits(name, &s.name))
            }
        }
    }
}

/// A format with snapshots; see [`Driver::snapshots`](crate::Driver::snapshots). Ids are those of
/// [`Snapshots::list`]; nothing is in flight while a method that takes a [`Quiesced`] runs.
///
/// # Errors
/// `ENOENT` where there is no such snapshot, or what is wrong in the image.
pub trait Snapshots {
    /// All snapshots, oldest first.
    fn list(&self) -> Vec<Snapshot>;

    /// Keeps the contents as they are now.
    fn create(&self, q: &Quiesced<'_>, new: &NewSnapshot) -> Result<()>;

    /// Makes the contents those of the snapshot, which stays.
    fn apply(&self, q: &Quiesced<'_>, id: &str) -> Result<()>;

    /// Forgets a snapshot and what only it holds.
    fn delete(&self, q: &Quiesced<'_>, id: &str) -> Result<()>;

    /// Shows the contents of the snapshot in this read-only image, as long as it is open. The file does not change.
    fn load(&self, q: &Quiesced<'_>, id: &str) -> Result<()>;
}

/// The error for a snapshot that does not exist.
pub fn not_found() -> Error {
    Error::new(Kind::NotFound, "snapshot not found").with_errno(nix::libc::ENOENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(id: &str, name: &str) -> Snapshot {
        Snapshot { id: id.into(), name: name.into(), ..Snapshot::default() }
    }

    #[test]
    fn a_name_may_look_like_the_id_of_another() {
        let all = [snapshot("1", "a"), snapshot("2", "1"), snapshot("3", "a")];
        let id = |name: SnapshotName| name.find(&all).map(|s| s.id.as_str());
        assert_eq!(id(SnapshotName::Either("1".into())), Some("1"));
        assert_eq!(id(SnapshotName::NameFirst("1".into())), Some("2"));
        assert_eq!(id(SnapshotName::NameFirst("3".into())), Some("3"));
        assert_eq!(id(SnapshotName::Either("b".into())), None);
        let exact = |id: Option<&str>, name: Option<&str>| SnapshotName::Exact {
            id: id.map(Into::into),
            name: name.map(Into::into),
        };
        assert_eq!(id(exact(Some("3"), Some("a"))), Some("3"));
        assert_eq!(id(exact(Some("2"), Some("a"))), None);
        assert_eq!(id(exact(None, Some("a"))), Some("1"));
    }
}
