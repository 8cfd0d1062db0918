//! What rustls does not have: sessions without certificates, by OpenSSL, fed with bytes.
//!
//! Built with the feature `tls-openssl` only.

pub(crate) mod anon;
pub(crate) mod psk;

use super::priority::Priority;
use super::{Endpoint, Received, TlsSession};
use crate::{Error, Kind, Result};
use openssl::bn::BigNum;
use openssl::dh::Dh;
use openssl::error::ErrorStack;
use openssl::pkey::Params;
use openssl::ssl::{
    ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode, SslStream,
    SslVersion,
};
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// How many bytes of records are kept at a time, at most: what is not used stays with the caller.
const KEPT: usize = 64 << 10;

/// How many bytes one call of [`TlsSession::send`] encrypts, at most.
const AT_ONCE: usize = 256 << 10;

/// What the callbacks of a session find out: the name of the peer, or why there is none.
#[derive(Debug, Default)]
struct Notes(Mutex<Option<Result<String, String>>>);

impl Notes {
    fn set(&self, found: Result<String, String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    }

    fn get(&self) -> Option<Result<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One connection.
pub(super) struct LibsslSession {
    stream: SslStream<Pipe>,
    notes: Arc<Notes>,
    kind: &'static str,
    handshaking: bool,
    is_ended: bool,
}

/// The two directions of records.
#[derive(Debug, Default)]
struct Pipe {
    input: Vec<u8>,
    /// How much of it was read.
    start: usize,
    output: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = to.len().min(self.input.len() - self.start);
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        to[..n].copy_from_slice(&self.input[self.start..self.start + n]);
        self.start += n;
        if self.start == self.input.len() {
            self.input.clear();
            self.start = 0;
        }
        Ok(n)
    }
}

impl Write for Pipe {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(from);
        Ok(from.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LibsslSession {
    fn new(context: &SslContext, endpoint: Endpoint, notes: Arc<Notes>, kind: &'static str) -> Result<Self> {
        let mut ssl = Ssl::new(context).map_err(|e| unusable(&e))?;
        match endpoint {
            Endpoint::Client => ssl.set_connect_state(),
            Endpoint::Server => ssl.set_accept_state(),
        }
        let stream = SslStream::new(ssl, Pipe::default()).map_err(|e| unusable(&e))?;
        let mut session = LibsslSession { stream, notes, kind, handshaking: true, is_ended: false };
        // The client speaks first.
        session.shake()?;
        Ok(session)
    }

    /// Goes on with the handshake as far as the records there are allow.
    fn shake(&mut self) -> Result<()> {
        match self.stream.do_handshake() {
            Ok(()) => {
                self.handshaking = false;
                Ok(())
            }
            Err(e) if e.code() == ErrorCode::WANT_READ => Ok(()),
            Err(e) => Err(self.explain(&e)),
        }
    }

    fn explain(&self, e: &openssl::ssl::Error) -> Error {
        let doing = if self.handshaking { "TLS handshake failed" } else { "Cannot read from TLS channel" };
        let reason =
            e.ssl_error().and_then(|stack| stack.errors().first()).and_then(openssl::error::Error::reason);
        let reason = reason.unwrap_or("the connection broke");
        if let Some((_, alert)) = reason.split_once(" alert ") {
            return Error::new(Kind::Io, format!("{doing}: A TLS fatal alert has been received: {alert}"))
                .with_hint("The other end does not accept our key or name, or has no cipher in common; its log may say why.");
        }
        match self.notes.get() {
            Some(Err(why)) => Error::new(Kind::Io, format!("{doing}: {why}")),
            Some(Ok(who)) if self.handshaking => {
                Error::new(Kind::Io, format!("{doing}: client '{who}': {reason}"))
                    .with_hint("Its key is not the one known here.")
            }
            _ => Error::new(Kind::Io, format!("{doing}: {reason}")),
        }
    }

    /// Fills `to`, after its first `skip` bytes, as far as there is something.
    fn give(&mut self, to: &mut [IoSliceMut<'_>], mut skip: usize) -> Result<usize> {
        let mut given = 0;
        for part in to {
            let mut at = skip.min(part.len());
            skip -= at;
            while at < part.len() {
                match self.stream.ssl_read(&mut part[at..]) {
                    Ok(n) => {
                        at += n;
                        given += n;
                    }
                    Err(e) if e.code() == ErrorCode::WANT_READ => return Ok(given),
                    Err(e) if e.code() == ErrorCode::ZERO_RETURN => {
                        self.is_ended = true;
                        return Ok(given);
                    }
                    Err(e) => return Err(self.explain(&e)),
                }
            }
        }
        Ok(given)
    }

    /// Keeps as many records as there is room for.
    fn keep(&mut self, records: &[u8]) -> usize {
        let pipe = self.stream.get_mut();
        let n = records.len().min(KEPT - (pipe.input.len() - pipe.start).min(KEPT));
        pipe.input.extend_from_slice(&records[..n]);
        n
    }
}

impl TlsSession for LibsslSession {
    fn receive(&mut self, records: &mut [u8], to: &mut [IoSliceMut<'_>]) -> Result<Received> {
        let room: usize = to.iter().map(|part| part.len()).sum();
        let mut done = Received::default();
        loop {
            if self.handshaking {
                self.shake()?;
            }
            if !self.handshaking {
                done.clear += self.give(to, done.clear)?;
            }
            let full = room > 0 && done.clear == room;
            if full || self.is_ended || done.used == records.len() {
                return Ok(done);
            }
            let n = self.keep(&records[done.used..]);
            done.used += n;
            if n == 0 {
                return Ok(done);
            }
        }
    }

    fn send(&mut self, from: &[IoSlice<'_>]) -> Result<usize> {
        if self.handshaking {
            return Ok(0);
        }
        // Records of many small parts would be small records.
        let mut gathered = Vec::new();
        let bytes = match from {
            [one] => &one[..one.len().min(AT_ONCE)],
            parts => {
                for part in parts {
                    let room = AT_ONCE - gathered.len();
                    gathered.extend_from_slice(&part[..part.len().min(room)]);
                }
                &gathered[..]
            }
        };
        let mut sent = 0;
        while sent < bytes.len() {
            sent += self.stream.ssl_write(&bytes[sent..]).map_err(|e| self.explain(&e))?;
        }
        Ok(sent)
    }

    fn take_records(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.stream.get_mut().output);
    }

    fn is_handshaking(&self) -> bool {
        self.handshaking
    }

    fn has_clear(&self) -> bool {
        let pipe = self.stream.get_ref();
        self.stream.ssl().pending() > 0 || pipe.start < pipe.input.len()
    }

    fn is_ended(&self) -> bool {
        self.is_ended
    }

    fn end(&mut self) {
        // A session that broke has nothing to say.
        let _ = self.stream.shutdown();
    }

    fn peer(&self) -> Option<String> {
        self.notes.get().and_then(Result::ok).filter(|_| !self.handshaking)
    }

    fn peer_kind(&self) -> &'static str {
        self.kind
    }
}

impl fmt::Debug for LibsslSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LibsslSession")
            .field("kind", &self.kind)
            .field("notes", &self.notes)
            .finish_non_exhaustive()
    }
}

/// A context in which nothing is kept from one session to the next.
fn context(endpoint: Endpoint, priority: Priority) -> Result<SslContextBuilder, ErrorStack> {
    let method = match endpoint {
        Endpoint::Client => SslMethod::tls_client(),
        Endpoint::Server => SslMethod::tls_server(),
    };
    let mut context = SslContext::builder(method)?;
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_options(SslOptions::NO_TICKET | SslOptions::NO_RENEGOTIATION | SslOptions::NO_COMPRESSION);
    context.set_num_tickets(0)?;
    let version = |tls13: bool| if tls13 { SslVersion::TLS1_3 } else { SslVersion::TLS1_2 };
    context.set_min_proto_version(Some(version(!priority.has_tls12())))?;
    context.set_max_proto_version(Some(version(priority.has_tls13())))?;
    Ok(context)
}

/// A path that still means the same when a server in the background has left its folder.
fn absolute(path: &str) -> String {
    std::path::absolute(path).map_or_else(|_| path.to_owned(), |path| path.to_string_lossy().into_owned())
}

/// The group of a server's folder, or one of RFC 3526: 2048 bits.
fn dh_group(dir: Option<&str>) -> Result<Dh<Params>> {
    let file = dir.map(|dir| Path::new(dir).join("dh-params.pem"));
    if let Some(file) = file.filter(|file| file.exists()) {
        let unable = || format!("Unable to load DH parameters from {}", file.display());
        let text = std::fs::read(&file).map_err(|e| Error::from(e).context(unable()))?;
        return Dh::params_from_pem(&text)
            .map_err(|_| Error::invalid("Base64 unexpected header error.").context(unable()));
    }
    let group = || Dh::from_pqg(BigNum::get_rfc3526_prime_2048()?, None, BigNum::from_u32(2)?);
    group().map_err(|e| unusable(&e))
}

fn unusable(e: &ErrorStack) -> Error {
    Error::invalid(format!("Cannot start a TLS session: {e}"))
}
