//! The object type `tls-creds-anon`: encryption without knowing with whom. Of use against listeners, not against anybody who can
//! put himself in between.
//!
//! TLS 1.2 with an anonymous Diffie-Hellman exchange; later versions have no such thing.

use super::{LibsslSession, Notes, context, dh_group, unusable};
use crate::objects::{Object, ObjectType, Request};
use crate::tls::priority::Priority;
use crate::tls::{Endpoint, Made, TlsCredentials, TlsSession};
use crate::{Error, Result};
use openssl::ssl::SslVersion;
use serde::Deserialize;
use std::sync::Arc;

pub(crate) const TYPE: ObjectType = ObjectType {
    name: "tls-creds-anon",
    options: &[
        ("dir", "string"),
        ("endpoint", "QCryptoTLSCredsEndpoint"),
        ("priority", "string"),
        ("verify-peer", "bool"),
    ],
    create,
};

/// Anonymous exchanges are below every security level.
const CIPHERS: &str =
    "ADH-AES256-GCM-SHA384:ADH-AES128-GCM-SHA256:ADH-AES256-SHA256:ADH-AES128-SHA256:@SECLEVEL=0";

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct AnonOptions {
    #[serde(default = "crate::tls::yes", rename = "verify-peer")]
    _verify_peer: bool,
    dir: Option<String>,
    #[serde(default)]
    endpoint: Endpoint,
    priority: Option<String>,
}

#[derive(Debug)]
struct Anon {
    endpoint: Endpoint,
    priority: Priority,
    dir: Option<String>,
}

fn create(request: &Request<'_>) -> Result<Box<dyn Object>> {
    let options: AnonOptions = request.parse()?;
    let priority = Priority::parse_with(options.priority.as_deref(), &["ANON-DH"])?;
    if !priority.has_tls12() {
        return Err(Error::invalid("TLS without authentication ends with version 1.2")
            .with_hint("Let the priority have TLS 1.2, or use tls-creds-x509."));
    }
    let anon = Anon { endpoint: options.endpoint, priority, dir: options.dir };
    if anon.endpoint == Endpoint::Server {
        dh_group(anon.dir.as_deref())?;
    }
    let dir = anon.dir.as_deref().map(super::absolute);
    Ok(Made::object(Anon { dir, ..anon }))
}

impl TlsCredentials for Anon {
    fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    fn start(&self, _hostname: Option<&str>) -> Result<Box<dyn TlsSession>> {
        let mut builder = context(self.endpoint, self.priority).map_err(|e| unusable(&e))?;
        builder.set_max_proto_version(Some(SslVersion::TLS1_2)).map_err(|e| unusable(&e))?;
        builder.set_cipher_list(CIPHERS).map_err(|e| unusable(&e))?;
        if self.endpoint == Endpoint::Server {
            let group = dh_group(self.dir.as_deref())?;
            builder.set_tmp_dh(&group).map_err(|e| unusable(&e))?;
        }
        Ok(Box::new(LibsslSession::new(&builder.build(), self.endpoint, Arc::new(Notes::default()), "anon")?))
    }

    fn check_authorizable(&self) -> Result<()> {
        Err(Error::invalid("TLS authorization needs clients that have names, and anonymous ones have none")
            .with_hint("Use tls-creds-x509 or tls-creds-psk."))
    }
}
