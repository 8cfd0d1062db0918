//! A target that is not complete yet: nothing of it may be left that looks like an image.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// What an operation writes to, until it is finished.
#[derive(Debug)]
pub(crate) enum Unfinished {
    /// A file that we create, over what may have been there before.
    Created {
        /// The file.
        path: PathBuf,
        /// What was there before we began.
        before: Option<State>,
    },
    /// An image that existed already (or is no file); it is kept.
    Existing {
        /// How the user calls it.
        name: String,
    },
}

/// Enough of a file to see whether anybody touched it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct State {
    inode: (u64, u64),
    len: u64,
    changed: (i64, i64),
}

impl From<&Metadata> for State {
    fn from(m: &Metadata) -> Self {
        State { inode: (m.dev(), m.ino()), len: m.size(), changed: (m.ctime(), m.ctime_nsec()) }
    }
}

impl Unfinished {
    /// A file about to be created at `path`.
    pub(crate) fn creating(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let before = std::fs::metadata(&path).ok().map(|m| State::from(&m));
        Unfinished::Created { path, before }
    }

    /// Deletes what was created and says what has become of it, if anything has.
    pub(crate) fn abandon(self) -> Option<String> {
        Some(match self {
            Unfinished::Existing { name } => {
                format!("'{name}' holds an incomplete copy and must not be used")
            }
            Unfinished::Created { path, before } => {
                let name = path.display();
                let now = std::fs::metadata(&path).ok().map(|m| State::from(&m));
                if now == before {
                    return None;
                }
                match std::fs::remove_file(&path) {
                    Ok(()) => format!("The incomplete '{name}' was removed"),
                    Err(e) => {
                        format!("The incomplete '{name}' could not be removed: {}", block::Error::from(e))
                    }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_created_file_is_removed_and_one_not_yet_touched_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("target");
        let fresh = Unfinished::creating(&path);
        std::fs::write(&path, "new").unwrap();
        assert!(fresh.abandon().unwrap().ends_with("was removed"));
        assert!(!path.exists());

        std::fs::write(&path, "old").unwrap();
        assert_eq!(Unfinished::creating(&path).abandon(), None);
        assert!(path.exists());
        let overwritten = Unfinished::creating(&path);
        std::fs::write(&path, "another").unwrap();
        assert!(overwritten.abandon().unwrap().ends_with("was removed"));
        assert!(!path.exists());
    }
}
