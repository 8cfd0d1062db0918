//! A session with certificates: rustls, fed with bytes.

use super::x509::Verdict;
use super::{Received, TlsSession};
use crate::{Error, Kind, Result};
use rustls::{AlertDescription, Connection};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::sync::Arc;

/// How many bytes of records may wait to be taken: as much as one call of [`TlsSession::send`] encrypts.
const WAITING: usize = 512 << 10;

/// One connection.
#[derive(Debug)]
pub(super) struct RustlsSession {
    connection: Connection,
    verdict: Arc<Verdict>,
    /// Bytes in clear that were not asked for yet.
    left: usize,
    is_ended: bool,
}

impl RustlsSession {
    pub(super) fn new(mut connection: Connection, verdict: Arc<Verdict>) -> Self {
        connection.set_buffer_limit(Some(WAITING));
        RustlsSession { connection, verdict, left: 0, is_ended: false }
    }

    /// Gives what is there in clear, after the first `skip` bytes of `to`.
    fn give(&mut self, to: &mut [IoSliceMut<'_>], mut skip: usize) -> Result<usize> {
        let mut given = 0;
        for part in to {
            let start = skip.min(part.len());
            skip -= start;
            let mut at = start;
            while at < part.len() {
                match self.connection.reader().read(&mut part[at..]) {
                    Ok(0) => return Ok(given),
                    Ok(n) => {
                        at += n;
                        given += n;
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(given),
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(given)
    }

    fn explain(&self, e: rustls::Error) -> Error {
        if let Some(refusal) = self.verdict.refusal() {
            return refusal;
        }
        match e {
            rustls::Error::NoCertificatesPresented => {
                Error::invalid("Verify failed: No certificate was found.")
            }
            rustls::Error::AlertReceived(alert) => self.alert(alert),
            e => Error::new(Kind::Io, format!("{}: {e}", self.doing())),
        }
    }

    fn doing(&self) -> &'static str {
        if self.is_handshaking() { "TLS handshake failed" } else { "Cannot read from TLS channel" }
    }

    fn alert(&self, alert: AlertDescription) -> Error {
        use AlertDescription as A;
        let text = format!("{}: A TLS fatal alert has been received: {alert:?}", self.doing());
        let error = Error::new(Kind::Io, text);
        match alert {
            A::BadCertificate | A::UnsupportedCertificate | A::CertificateRevoked | A::CertificateExpired
            | A::CertificateUnknown | A::UnknownCA | A::AccessDenied | A::CertificateRequired => {
                error.with_hint("The other end does not accept our certificate, or misses one; its log may say why.")
            }
            A::ProtocolVersion | A::HandshakeFailure | A::InsufficientSecurity => error.with_hint(
                "There is no protocol version, cipher and kind of credentials both ends have; TLS 1.2 and 1.3 are there here.",
            ),
            _ => error,
        }
    }
}

impl TlsSession for RustlsSession {
    fn receive(&mut self, records: &mut [u8], to: &mut [IoSliceMut<'_>]) -> Result<Received> {
        let room: usize = to.iter().map(|part| part.len()).sum();
        let mut done = Received::default();
        loop {
            let given = self.give(to, done.clear)?;
            done.clear += given;
            self.left -= given.min(self.left);
            let full = room > 0 && done.clear == room;
            if full || self.is_ended || done.used == records.len() {
                return Ok(done);
            }
            // Full of what was not asked for yet: go on when it has been.
            let Ok(n) = self.connection.read_tls(&mut &records[done.used..]) else { return Ok(done) };
            done.used += n;
            let state = self.connection.process_new_packets().map_err(|e| self.explain(e))?;
            self.left = state.plaintext_bytes_to_read();
            self.is_ended = state.peer_has_closed();
            if n == 0 {
                return Ok(done);
            }
        }
    }

    fn send(&mut self, from: &[IoSlice<'_>]) -> Result<usize> {
        if self.connection.is_handshaking() {
            return Ok(0);
        }
        Ok(self.connection.writer().write_vectored(from)?)
    }

    fn take_records(&mut self, out: &mut Vec<u8>) {
        while self.connection.wants_write() {
            if self.connection.write_tls(out).is_err() {
                // Memory does not refuse.
                return;
            }
        }
    }

    fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    fn has_clear(&self) -> bool {
        self.left > 0
    }

    fn is_ended(&self) -> bool {
        self.is_ended
    }

    fn end(&mut self) {
        self.connection.send_close_notify();
    }

    fn peer(&self) -> Option<String> {
        // A certificate alone proves nothing; the end of the handshake proves that the peer has its key.
        if self.is_handshaking() { None } else { self.verdict.name() }
    }

    fn peer_kind(&self) -> &'static str {
        "x509"
    }
}
