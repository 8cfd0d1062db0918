//! How the connection to a server is secured: from options, or from what a URI says.

use crate::channel::{Address, ClientTls};
use crate::{Error, Result};
use secret::Registry;
use secret::tls::{self, Endpoint, TlsCredentials};
use std::sync::Arc;

/// The options that are about TLS.
#[derive(Debug)]
pub(super) struct TlsOptions {
    pub(super) creds: Option<String>,
    pub(super) wanted: bool,
    pub(super) hostname: Option<String>,
    pub(super) certificates: Option<String>,
    pub(super) verify_peer: bool,
    pub(super) psk_file: Option<String>,
    pub(super) username: Option<String>,
}

impl TlsOptions {
    /// What they come to; nothing when no TLS is asked for. The name to look for is the one given, else the host connected
    /// to; other sockets have none.
    ///
    /// # Errors
    /// No credentials, or several ways to get them, or what is wrong with them.
    pub(super) fn client(self, objects: &Registry, address: &Address) -> Result<Option<ClientTls>> {
        let Some(credentials) = self.credentials(objects)? else { return Ok(None) };
        let hostname = self.hostname.or_else(|| address.host().map(str::to_owned));
        Ok(Some(ClientTls { credentials, hostname }))
    }

    fn credentials(&self, objects: &Registry) -> Result<Option<Arc<dyn TlsCredentials>>> {
        match (&self.creds, &self.certificates, &self.psk_file) {
            (Some(id), None, None) => objects.tls_credentials(id, Endpoint::Client).map(Some),
            (None, Some(dir), None) => tls::client_with_certificates(dir, self.verify_peer).map(Some),
            (None, None, Some(file)) => tls::client_with_shared_key(file, self.username.as_deref()).map(Some),
            (None, None, None) if self.wanted => objects.only_tls_credentials(Endpoint::Client).map(Some),
            (None, None, None) => Ok(None),
            _ => Err(Error::invalid("Only one of tls-creds, tls-certificates and tls-psk-file may be given")),
        }
    }
}

/// Takes what is about TLS out of the query of a URI: the keys others know, and `tls-creds`.
pub(super) fn from_query(query: &mut Vec<(&str, String)>) -> Vec<(&'static str, String)> {
    const KEYS: [&str; 6] =
        ["tls-creds", "tls-hostname", "tls-certificates", "tls-verify-peer", "tls-psk-file", "tls-username"];
    let known = |key: &str| KEYS.iter().find(|known| **known == key).copied();
    let mut pairs = Vec::new();
    for (key, value) in query.extract_if(.., |(key, _)| known(key).is_some()) {
        // Others write switches differently.
        let value = match (key, value.as_str()) {
            ("tls-verify-peer", "true" | "1") => "on".to_owned(),
            ("tls-verify-peer", "false" | "0") => "off".to_owned(),
            _ => value,
        };
        pairs.extend(known(key).map(|key| (key, value)));
    }
    pairs
}
