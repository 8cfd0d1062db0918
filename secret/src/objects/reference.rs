//! Secrets by reference: the bytes of a file, of a credential of the service, or of what a program prints.
//!
//! Nothing here stands on a command line but names. Bytes are taken as they are, a newline at the end included.

use crate::{Context, Error, Kind, Result, SecretBytes};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

/// The longest secret, in bytes: what cryptsetup takes as a key file. Nobody's passphrase is longer, and somebody will
/// name `/dev/zero`.
const MAX: usize = 8 << 20;

/// The directory in which systemd shows a service its credentials.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// The bytes of a file, which may be a pipe, a terminal or an inherited descriptor (`/dev/fd/N`): all, or `size` of them
/// (or fewer, where it ends) after `offset`.
///
/// # Errors
/// It cannot be read, ends before `offset`, or is too large.
pub(super) fn file(path: &str, offset: Option<u64>, size: Option<u64>) -> Result<SecretBytes> {
    let unable = || format!("Unable to read {path}");
    let mut file = File::open(path).context(|| format!("Failed to open file “{path}”")).context(unable)?;
    let reading = || format!("Error reading file “{path}”");
    if let Some(offset) = offset {
        // Not a seek: the file may be a pipe.
        let skipped = std::io::copy(&mut file.by_ref().take(offset), &mut std::io::sink());
        if skipped.context(reading)? < offset {
            return Err(Error::invalid(format!("File “{path}” ends before its secret")).context(unable()));
        }
    }
    let part = file.take(size.unwrap_or(u64::MAX));
    let bytes = SecretBytes::read_all(part, MAX).context(reading).context(unable)?;
    bytes.ok_or_else(|| too_large(&format!("File “{path}”")).context(unable()))
}

fn too_large(what: &str) -> Error {
    Error::invalid(format!("{what} is too large"))
        .with_hint(format!("A secret may have at most {} MiB.", MAX >> 20))
}

/// The credential of that name of the service we run in.
///
/// # Errors
/// We run in no service, or it has no such credential.
pub(super) fn credential(name: &str) -> Result<SecretBytes> {
    let Some(directory) = std::env::var_os(CREDENTIALS) else {
        return Err(Error::new(
            Kind::NotFound,
            format!("There are no credentials: {CREDENTIALS} is not set"),
        )
        .with_hint("A service gets them with LoadCredential= or LoadCredentialEncrypted=."));
    };
    // The name stands in a configuration; it must not lead out of the directory.
    if name.is_empty() || name.contains('/') || matches!(name, "." | "..") {
        return Err(Error::invalid(format!("'{name}' is no name of a credential")));
    }
    let path = Path::new(&directory).join(name);
    let file = File::open(path).context(|| format!("Could not open the credential '{name}'"))?;
    let bytes =
        SecretBytes::read_all(file, MAX).context(|| format!("Could not read the credential '{name}'"))?;
    bytes.ok_or_else(|| too_large(&format!("The credential '{name}'")))
}

/// What a program prints; `words` are its name and arguments, which no shell sees.
///
/// # Errors
/// It cannot be started, fails, or prints too much.
pub(super) fn command(words: &[String]) -> Result<SecretBytes> {
    let (name, arguments) = words.split_first().ok_or_else(|| Error::invalid("'cmd' names no program"))?;
    let failed = || format!("The program '{name}' gave no secret");
    let mut command = Command::new(name);
    command.args(arguments).stdout(Stdio::piped());
    let mut child = command.spawn().context(failed)?;
    let output = child.stdout.take().expect("the output is a pipe");
    let bytes = SecretBytes::read_all(output, MAX).context(failed);
    let status = child.wait().context(failed)?;
    let bytes = bytes?.ok_or_else(|| too_large("Its output").context(failed()))?;
    match status.success() {
        true => Ok(bytes),
        false => Err(Error::new(Kind::Io, format!("it ended with {status}")).context(failed())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_part_of_a_file_is_taken_as_it_is() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0123456789\n").unwrap();
        let path = file.path().to_str().unwrap();
        for (offset, size, want) in [
            (None, None, &b"0123456789\n"[..]),
            (Some(4), None, b"456789\n"),
            (Some(4), Some(3), b"456"),
            (None, Some(1), b"0"),
            (Some(9), Some(100), b"9\n"),
            (Some(11), None, b""),
        ] {
            let bytes = super::file(path, offset, size).unwrap();
            assert_eq!(&*bytes, want, "{offset:?} {size:?}");
        }
        let error = super::file(path, Some(12), None).unwrap_err().to_string();
        assert!(error.ends_with("ends before its secret"), "{error}");
    }

    #[test]
    fn a_program_is_run_without_a_shell() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(&*command(&words(&["printf", "%s", "$HOME; a b"])).unwrap(), b"$HOME; a b");
        let error = command(&words(&["false"])).unwrap_err().to_string();
        assert!(error.starts_with("The program 'false' gave no secret: it ended with"), "{error}");
        assert!(command(&words(&["/nowhere/program"])).is_err());
        assert!(command(&[]).is_err());
    }

    #[test]
    fn a_credential_is_no_path() {
        // The variable is not set here; what it names is tried in the integration tests.
        for name in ["", ".", "..", "../x", "/etc/passwd"] {
            assert!(credential(name).is_err(), "{name}");
        }
    }
}
