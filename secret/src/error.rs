//! The one error type of all crates.
//!
//! An error is a small [`Kind`] for control flow, an optional errno for texts and NBD replies, one sentence for the
//! user, an optional hint (what to do about it), an optional place in an image, and the error that caused it. `Display` prints the whole chain once,
//! outermost first, joined by `": "`; nobody repeats the text of the source in their own sentence.

use std::{fmt, io};

/// The result type of all crates.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as code has to tell cases apart. Everything else is text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The caller asked for something that makes no sense (bad option, bad argument).
    Invalid,
    /// A file or object that was named does not exist.
    NotFound,
    /// We know what is asked and do not do it.
    Unsupported,
    /// The image contradicts its format's specification.
    Corrupt,
    /// No key slot could be opened with the secret given.
    WrongKey,
    /// Another process holds the image.
    Locked,
    /// A write to something read-only.
    ReadOnly,
    /// The device or file system is full.
    NoSpace,
    /// Any other failure of the operating system or a peer.
    Io,
    /// The user interrupted the operation.
    Interrupted,
}

/// An error: see the module documentation.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    errno: Option<i32>,
    text: String,
    hint: Option<String>,
    place: Option<String>,
    source: Option<Error>,
}

impl Error {
    /// An error of `kind` whose sentence is `text`.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, errno: None, text: text.into(), hint: None, place: None, source: None }))
    }

    /// A wrong option, argument or request.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, text)
    }

    /// Something we know and refuse or do not have.
    pub fn unsupported(text: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, text)
    }

    /// An image that contradicts its format.
    pub fn corrupt(text: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, text)
    }

    /// An error number of the operating system; the sentence is its `strerror` text.
    pub fn from_errno(errno: i32) -> Self {
        let kind = match nix::errno::Errno::from_raw(errno) {
            nix::errno::Errno::ENOENT => Kind::NotFound,
            nix::errno::Errno::ENOSPC | nix::errno::Errno::EDQUOT | nix::errno::Errno::EFBIG => Kind::NoSpace,
            nix::errno::Errno::EROFS => Kind::ReadOnly,
            nix::errno::Errno::EINVAL => Kind::Invalid,
            nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOSYS | nix::errno::Errno::ENOTTY => {
                Kind::Unsupported
            }
            _ => Kind::Io,
        };
        Self::new(kind, strerror(errno)).with_errno(errno)
    }

    /// Attaches the operating system's error number (for `strerror` texts and NBD replies).
    #[must_use]
    pub fn with_errno(mut self, errno: i32) -> Self {
        self.0.errno = Some(errno);
        self
    }

    /// Attaches what the user can do about it, a sentence printed on a line of its own.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Attaches where in an image the cause is, a sentence printed on a line of its own for who looks into images.
    #[must_use]
    pub fn with_place(mut self, place: impl Into<String>) -> Self {
        self.0.place = Some(place.into());
        self
    }

    /// Wraps this error in a sentence that says what was being done: `"context: this error"`.
    #[must_use]
    pub fn context(self, text: impl Into<String>) -> Self {
        let (kind, errno) = (self.0.kind, self.0.errno);
        Error(Box::new(Inner { kind, errno, text: text.into(), hint: None, place: None, source: Some(self) }))
    }

    /// What went wrong, for control flow.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The operating system's error number: the one attached, or the one that fits the kind best.
    pub fn errno(&self) -> i32 {
        self.0.errno.unwrap_or(match self.0.kind {
            Kind::Invalid => nix::libc::EINVAL,
            Kind::NotFound => nix::libc::ENOENT,
            Kind::Unsupported => nix::libc::ENOTSUP,
            Kind::WrongKey => nix::libc::EACCES,
            Kind::Locked => nix::libc::EAGAIN,
            Kind::ReadOnly => nix::libc::EACCES,
            Kind::NoSpace => nix::libc::ENOSPC,
            Kind::Corrupt | Kind::Io => nix::libc::EIO,
            Kind::Interrupted => nix::libc::EINTR,
        })
    }

    /// The innermost hint of the chain: the remedy known closest to the cause.
    pub fn hint(&self) -> Option<&str> {
        self.0.source.as_ref().and_then(Error::hint).or(self.0.hint.as_deref())
    }

    /// The innermost place of the chain.
    pub fn place(&self) -> Option<&str> {
        self.0.source.as_ref().and_then(Error::place).or(self.0.place.as_deref())
    }

    /// The `strerror` text of [`Error::errno`], for messages that show nothing but that.
    pub fn strerror(&self) -> String {
        strerror(self.errno())
    }
}

/// The operating system's text for an error number, without Rust's "(os error N)".
pub fn strerror(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

// `source` stays None: `Display` already prints the whole chain, and a caller that walks sources would repeat it.
impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Self {
        match (e.raw_os_error(), e.kind()) {
            (Some(errno), _) => Self::from_errno(errno),
            (None, io::ErrorKind::WriteZero) => Self::from_errno(nix::libc::ENOSPC),
            (None, _) => Self::new(Kind::Io, e.to_string()),
        }
    }
}

impl From<nix::errno::Errno> for Error {
    fn from(e: nix::errno::Errno) -> Self {
        Self::from_errno(e as i32)
    }
}

/// Adds context to the error of a result: `result.context(|| format!("Could not open '{name}'"))`.
pub trait Context<T> {
    /// Wraps the error, if any, in the sentence `text` gives.
    fn context<S: Into<String>>(self, text: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<S: Into<String>>(self, text: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| e.into().context(text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_prints_the_chain_once_and_the_innermost_hint_wins() {
        let e = Error::from_errno(nix::libc::ENOENT)
            .with_hint("check the path")
            .with_place("byte 9")
            .context("Could not open 'x'");
        assert_eq!(e.to_string(), "Could not open 'x': No such file or directory");
        assert_eq!((e.hint(), e.place()), (Some("check the path"), Some("byte 9")));
        assert_eq!(e.kind(), Kind::NotFound);
        assert_eq!(e.errno(), nix::libc::ENOENT);
    }
}
