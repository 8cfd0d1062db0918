//! TLS as those who hold a connection see it: credentials that start sessions, sessions that turn bytes into bytes, and
//! authorisation that judges names.
//!
//! Only the contract lives here; what is behind it (which library, which kind of credentials) lives with the object types. A
//! session never sees a socket: records go in and come out as bytes, so it works over anything that carries bytes in order.

#[cfg(feature = "tls-openssl")]
pub(crate) mod libssl;
mod priority;
mod session;
pub(crate) mod x509;

use crate::objects::Object;
use crate::{Error, Kind, Registry, Result};
use serde::Deserialize;
use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

/// Which end of connections credentials are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// Whoever connects.
    #[default]
    Client,
    /// Whoever is connected to.
    Server,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Endpoint::Client => "client",
            Endpoint::Server => "server",
        })
    }
}

/// What a session is started from. An object offers it with [`crate::Object::as_tls_credentials`].
pub trait TlsCredentials: fmt::Debug + Send + Sync {
    /// Which end it is for; sessions are of that end.
    fn endpoint(&self) -> Endpoint;

    /// Starts a session. `hostname` is the name a client looks for in the server's certificate; servers have none.
    ///
    /// # Errors
    /// What can be said before the peer is asked: no name to look for, files that changed and are bad now.
    fn start(&self, hostname: Option<&str>) -> Result<Box<dyn TlsSession>>;

    /// Why peers' names cannot be judged, when they cannot: because nobody checks them, or there are none. Asked at start-up
    /// by whoever is given authorisation.
    ///
    /// # Errors
    /// That reason.
    fn check_authorizable(&self) -> Result<()>;
}

/// One secure connection: the handshake, then bytes both ways.
///
/// The caller moves records between the session and the network: after every call (also one that failed) it sends what
/// [`TlsSession::take_records`] gives. Calls never wait.
pub trait TlsSession: fmt::Debug + Send {
    /// Takes records from the peer, in any pieces, and gives what they say in clear, in order. `records` may be decrypted in
    /// place; what is used is not to be given again. Nothing given and nothing used, with room in `to`, means that more
    /// records are needed. During the handshake nothing is given.
    ///
    /// # Errors
    /// The peer broke the protocol, is not who it should be, or ended the session with an alert that is an error. The
    /// sentence says which and why; the session is of no more use, but for its last records.
    fn receive(&mut self, records: &mut [u8], to: &mut [IoSliceMut<'_>]) -> Result<Received>;

    /// Encrypts as much of `from` as one call should: at least one byte once the handshake is done, none before.
    ///
    /// # Errors
    /// The session is of no more use.
    fn send(&mut self, from: &[IoSlice<'_>]) -> Result<usize>;

    /// Appends the records that are to be sent to `out`.
    fn take_records(&mut self, out: &mut Vec<u8>);

    /// Whether the handshake still runs. When it does no longer, the peer is who it should be.
    fn is_handshaking(&self) -> bool;

    /// Whether [`TlsSession::receive`] would give something without further records.
    fn has_clear(&self) -> bool;

    /// Whether the peer said that nothing more comes.
    fn is_ended(&self) -> bool;

    /// Tells the peer that nothing more comes (with the next records).
    fn end(&mut self);

    /// The peer's name once the handshake is done, as authorisation judges it: the distinguished name of a certificate or the
    /// identity of a shared key. `None` for nobody in particular.
    fn peer(&self) -> Option<String>;

    /// What the peer's name is, as messages call it: `x509`, `psk`.
    fn peer_kind(&self) -> &'static str;
}

/// What [`TlsSession::receive`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    /// Bytes of records used.
    pub used: usize,
    /// Bytes given in clear.
    pub clear: usize,
}

/// A client's credentials without an object: the certificates in a folder.
///
/// # Errors
/// What is wrong with them.
pub fn client_with_certificates(dir: &str, verify_peer: bool) -> Result<Arc<dyn TlsCredentials>> {
    x509::client(dir, verify_peer)
}

/// A client's credentials without an object: a key of a file (its users' names and keys), of `username` or of `qemu`.
///
/// # Errors
/// What is wrong with the file, or a program without shared keys.
pub fn client_with_shared_key(file: &str, username: Option<&str>) -> Result<Arc<dyn TlsCredentials>> {
    #[cfg(feature = "tls-openssl")]
    return libssl::psk::client(file, username);
    #[cfg(not(feature = "tls-openssl"))]
    {
        let text = format!("TLS with shared keys ({file}, {username:?}) is not available");
        Err(Error::unsupported(text).with_hint(WITHOUT_OPENSSL))
    }
}

/// What to do about a program without the feature.
pub(crate) const WITHOUT_OPENSSL: &str = "This program was built without the feature tls-openssl, which has it (scripts/install \
     builds with it); tls-creds-x509 is always there.";

/// Judges who may enter. An object offers it with [`crate::Object::as_authorization`].
pub trait Authorization: fmt::Debug + Send + Sync {
    /// Whether `name` may.
    ///
    /// # Errors
    /// Nobody can tell, which means no.
    fn allows(&self, name: &str) -> Result<bool>;
}

impl Registry {
    /// The TLS credentials `id`, for this end of connections.
    ///
    /// # Errors
    /// There is no such object, it is no TLS credentials, or they are for the other end.
    pub fn tls_credentials(&self, id: &str, end: Endpoint) -> Result<Arc<dyn TlsCredentials>> {
        let object = self.get_any(id).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("No TLS credentials with id '{id}'"))
                .with_hint(format!("Make them first: --object tls-creds-x509,id={id},dir=DIR,endpoint={end}"))
        })?;
        let credentials = object
            .as_tls_credentials()
            .ok_or_else(|| Error::invalid(format!("Object with id '{id}' is not TLS credentials")))?;
        if credentials.endpoint() != end {
            return Err(Error::invalid(format!("Expected TLS credentials for a {end} endpoint"))
                .with_hint(format!("Add endpoint={end} to the object '{id}'.")));
        }
        Ok(credentials)
    }

    /// The only TLS credentials for this end of connections.
    ///
    /// # Errors
    /// There are none, or several.
    pub fn only_tls_credentials(&self, end: Endpoint) -> Result<Arc<dyn TlsCredentials>> {
        let all = self.iter().filter_map(|(_, object)| object.as_tls_credentials());
        let mut fitting: Vec<_> = all.filter(|credentials| credentials.endpoint() == end).collect();
        match (fitting.pop(), fitting.is_empty()) {
            (Some(credentials), true) => Ok(credentials),
            (None, _) => Err(Error::invalid("A secure connection needs TLS credentials").with_hint(format!(
                "Make them first: --object tls-creds-x509,id=tls0,dir=DIR,endpoint={end}; a URI may also name the folder \
                 with tls-certificates=DIR."
            ))),
            (Some(_), false) => Err(Error::invalid("There are several TLS credentials to choose from")
                .with_hint("Name one with tls-creds=ID.")),
        }
    }

    /// The authorisation `id`.
    ///
    /// # Errors
    /// There is no such object, or it is no authorisation.
    pub fn authorization(&self, id: &str) -> Result<Arc<dyn Authorization>> {
        self.get_any(id).and_then(Object::as_authorization).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("Cannot find QAuthZ object ID {id}"))
                .with_hint(format!("Make it first, for example: --object authz-simple,id={id},identity=NAME"))
        })
    }
}

/// The default of switches.
fn yes() -> bool {
    true
}

fn dir_missing() -> Error {
    Error::invalid("Missing 'dir' property value").with_hint("Name the folder of the credentials: dir=DIR.")
}

/// An object that is TLS credentials.
#[derive(Debug)]
struct Made<C>(Arc<C>);

impl<C: TlsCredentials + 'static> Made<C> {
    fn object(credentials: C) -> Box<dyn Object> {
        Box::new(Made(Arc::new(credentials)))
    }
}

impl<C: TlsCredentials + 'static> Object for Made<C> {
    fn as_tls_credentials(&self) -> Option<Arc<dyn TlsCredentials>> {
        Some(Arc::clone(&self.0) as _)
    }
}
