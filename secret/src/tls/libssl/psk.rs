//! The object type `tls-creds-psk`: keys that both ends know, by the names of users, in the file `keys.psk` (`psktool` makes it).
//!
//! TLS 1.3 with a key from outside, as GnuTLS peers agree on it, or 1.2. A server reads the file for each connection, so users
//! can be added while it runs.

use super::{LibsslSession, Notes, context, dh_group, unusable};
use crate::objects::{Object, ObjectType, Request};
use crate::tls::priority::Priority;
use crate::tls::{Endpoint, Made, TlsCredentials, TlsSession};
use crate::{Context, Error, Result, SecretBytes};
use openssl::ssl::SslContextBuilder;
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;

pub(crate) const TYPE: ObjectType = ObjectType {
    name: "tls-creds-psk",
    options: &[
        ("dir", "string"),
        ("endpoint", "QCryptoTLSCredsEndpoint"),
        ("priority", "string"),
        ("username", "string"),
        ("verify-peer", "bool"),
    ],
    create,
};

/// The name of a client that gives none.
const DEFAULT_USER: &str = "qemu";

/// The longest file, in bytes: thousands of users.
const MAX_FILE: usize = 8 << 20;

/// Ciphers of TLS 1.2: those that keep the past secret first. What GnuTLS has and we have.
const CIPHERS: &str = "ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES256-GCM-SHA384:DHE-PSK-AES128-GCM-SHA256:\
                       DHE-PSK-CHACHA20-POLY1305:ECDHE-PSK-AES256-CBC-SHA384:ECDHE-PSK-AES128-CBC-SHA256:\
                       PSK-AES256-GCM-SHA384:PSK-AES128-GCM-SHA256";

/// Ciphers of TLS 1.3: keys from outside go with SHA-256.
const SUITES: &str = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256";

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct PskOptions {
    #[serde(default = "crate::tls::yes", rename = "verify-peer")]
    _verify_peer: bool,
    dir: Option<String>,
    #[serde(default)]
    endpoint: Endpoint,
    priority: Option<String>,
    username: Option<String>,
}

#[derive(Debug)]
struct Psk {
    endpoint: Endpoint,
    priority: Priority,
    dir: String,
    keys: Arc<Keys>,
}

/// Where keys come from, for callbacks to hold.
#[derive(Debug)]
struct Keys {
    file: String,
    username: String,
}

fn create(request: &Request<'_>) -> Result<Box<dyn Object>> {
    let options: PskOptions = request.parse()?;
    let dir = options.dir.ok_or_else(crate::tls::dir_missing)?;
    let priority = Priority::parse_with(options.priority.as_deref(), &["ECDHE-PSK", "DHE-PSK", "PSK"])?;
    let file = Path::new(&dir).join("keys.psk").to_string_lossy().into_owned();
    std::fs::metadata(&file).context(|| format!("Unable to access credentials {file}"))?;
    if options.endpoint == Endpoint::Server && options.username.is_some() {
        return Err(Error::invalid("username should not be set when endpoint=server")
            .with_hint("A server knows all users of the file; clients say who they are."));
    }
    let mut keys = Keys { file, username: options.username.unwrap_or_else(|| DEFAULT_USER.into()) };
    keys.check(options.endpoint)?;
    keys.file = super::absolute(&keys.file);
    let dir = super::absolute(&dir);
    Ok(Made::object(Psk { endpoint: options.endpoint, priority, dir, keys: Arc::new(keys) }))
}

/// A client's credentials from a file, without an object.
///
/// # Errors
/// As for the object.
pub(in crate::tls) fn client(file: &str, username: Option<&str>) -> Result<Arc<dyn TlsCredentials>> {
    let keys = Keys { file: file.to_owned(), username: username.unwrap_or(DEFAULT_USER).to_owned() };
    keys.check(Endpoint::Client)?;
    let priority = Priority::parse_with(None, &[])?;
    Ok(Arc::new(Psk { endpoint: Endpoint::Client, priority, dir: String::new(), keys: Arc::new(keys) }))
}

impl Keys {
    /// What can be told before anybody connects: whether the file is well-formed, and a client's own key is in it.
    fn check(&self, endpoint: Endpoint) -> Result<()> {
        if endpoint == Endpoint::Client {
            return key_of(&self.file, &self.username)?.map(drop).ok_or_else(|| {
                Error::invalid(format!("Username {} not found in PSK file {}", self.username, self.file))
                    .with_hint("Say which user of the file this is with username=NAME.")
            });
        }
        let text = read(&self.file)?;
        for (number, line) in lines(&text).enumerate() {
            let well_formed = line.iter().position(|b| *b == b':').is_some_and(|at| {
                let digits = &line[at + 1..];
                !digits.is_empty()
                    && digits.len().is_multiple_of(2)
                    && digits.iter().all(u8::is_ascii_hexdigit)
            });
            if !well_formed && !line.is_empty() {
                return Err(Error::invalid(format!(
                    "Cannot set PSK server credentials: line {} of {}",
                    number + 1,
                    self.file
                ))
                .with_hint("Each line is a user name, ':' and the key in hexadecimal; psktool makes them."));
            }
        }
        Ok(())
    }

    fn client(self: &Arc<Self>, context: &mut SslContextBuilder) {
        let keys = Arc::clone(self);
        context.set_psk_client_callback(move |_, _, identity, key| {
            let name = keys.username.as_bytes();
            // Without a key there is nothing to say, and the handshake fails.
            let Ok(Some(found)) = key_of(&keys.file, &keys.username) else { return Ok(0) };
            if name.len() >= identity.len() || found.len() > key.len() {
                return Ok(0);
            }
            identity[..name.len()].copy_from_slice(name);
            identity[name.len()] = 0;
            key[..found.len()].copy_from_slice(&found);
            Ok(found.len())
        });
    }

    fn server(self: &Arc<Self>, context: &mut SslContextBuilder, notes: &Arc<Notes>) {
        let (keys, notes) = (Arc::clone(self), Arc::clone(notes));
        context.set_psk_server_callback(move |_, identity, key| {
            let Some(name) = identity.and_then(|name| std::str::from_utf8(name).ok()) else {
                notes.set(Err("the client gives no user name".into()));
                return Ok(0);
            };
            match key_of(&keys.file, name) {
                Ok(Some(found)) if found.len() <= key.len() => {
                    notes.set(Ok(name.to_owned()));
                    key[..found.len()].copy_from_slice(&found);
                    Ok(found.len())
                }
                Ok(_) => {
                    notes.set(Err(format!("user '{}' is not in {}", name.escape_debug(), keys.file)));
                    Ok(0)
                }
                Err(e) => {
                    notes.set(Err(e.to_string()));
                    Ok(0)
                }
            }
        });
    }
}

impl TlsCredentials for Psk {
    fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    fn start(&self, _hostname: Option<&str>) -> Result<Box<dyn TlsSession>> {
        let notes = Arc::new(Notes::default());
        let mut builder = context(self.endpoint, self.priority).map_err(|e| unusable(&e))?;
        builder.set_cipher_list(CIPHERS).map_err(|e| unusable(&e))?;
        builder.set_ciphersuites(SUITES).map_err(|e| unusable(&e))?;
        match self.endpoint {
            Endpoint::Client => self.keys.client(&mut builder),
            Endpoint::Server => {
                let group = dh_group(Some(&self.dir))?;
                builder.set_tmp_dh(&group).map_err(|e| unusable(&e))?;
                self.keys.server(&mut builder, &notes);
            }
        }
        Ok(Box::new(LibsslSession::new(&builder.build(), self.endpoint, notes, "psk")?))
    }

    fn check_authorizable(&self) -> Result<()> {
        Ok(())
    }
}

fn read(file: &str) -> Result<SecretBytes> {
    let unable = || format!("Unable to access credentials {file}");
    let opened = std::fs::File::open(file).context(unable)?;
    let text = SecretBytes::read_all(opened, MAX_FILE).context(unable)?;
    text.ok_or_else(|| Error::invalid("File is too large").context(unable()))
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// The key of a user, if there is one.
fn key_of(file: &str, name: &str) -> Result<Option<SecretBytes>> {
    let text = read(file)?;
    let found = lines(&text).find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b":"));
    let Some(digits) = found else { return Ok(None) };
    let malformed = || {
        Error::invalid("Cannot set PSK client credentials: Error in parsing.")
            .with_hint(format!("The key of '{name}' in {file} must be an even number of hexadecimal digits."))
    };
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        return Err(malformed());
    }
    let mut key = SecretBytes::zeroed(pairs.len())?;
    for (byte, pair) in key.iter_mut().zip(pairs) {
        let digit = |c: u8| char::from(c).to_digit(16);
        let (high, low) = digit(pair[0]).zip(digit(pair[1])).ok_or_else(malformed)?;
        *byte = (high * 16 + low) as u8;
    }
    Ok(Some(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_the_whole_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.psk");
        std::fs::write(&path, "qemu2:00\nqemu:0a1B\r\nbad:abc\nworse:zz\n").unwrap();
        let key = |name: &str| key_of(path.to_str().unwrap(), name);
        assert_eq!(&key("qemu").unwrap().unwrap()[..], [0x0a, 0x1b]);
        assert!(key("qem").unwrap().is_none());
        assert!(key("").unwrap().is_none());
        assert!(key("bad").is_err() && key("worse").is_err());
    }
}
