//! The object type `tls-creds-x509`: certificates from a folder, and everything about them that can be judged before anybody
//! connects.
//!
//! The folder holds `ca-cert.pem`, and for this end of connections `server-cert.pem` with `server-key.pem` or `client-cert.pem`
//! with `client-key.pem`; a server also takes `ca-crl.pem`. What is accepted and what is refused, and in which words, is what
//! QEMU 10.0 does; where it differs on purpose, `docs/differences.md` tells.

mod dn;
mod files;
mod key;
mod name;
mod sanity;
#[cfg(test)]
mod tests;
mod trust;
mod verify;

use super::priority::Priority;
use super::session::RustlsSession;
use super::{Endpoint, Made, TlsCredentials, TlsSession};
use crate::objects::{Object, ObjectType, Request};
use crate::{Context, Error, Result, Secret};
use files::Folder;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use sanity::Role;
use serde::Deserialize;
use std::sync::Arc;
use trust::Trust;
pub(super) use verify::Verdict;
use verify::Verifier;

pub(crate) const TYPE: ObjectType = ObjectType {
    name: "tls-creds-x509",
    options: &[
        ("dir", "string"),
        ("endpoint", "QCryptoTLSCredsEndpoint"),
        ("passwordid", "string"),
        ("priority", "string"),
        ("sanity-check", "bool"),
        ("verify-peer", "bool"),
    ],
    create,
};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct X509Options {
    #[serde(default = "super::yes")]
    verify_peer: bool,
    dir: Option<String>,
    #[serde(default)]
    endpoint: Endpoint,
    priority: Option<String>,
    passwordid: Option<String>,
    #[serde(default = "super::yes")]
    sanity_check: bool,
}

/// Checked credentials, ready to start sessions.
#[derive(Debug)]
struct X509 {
    endpoint: Endpoint,
    provider: Arc<CryptoProvider>,
    priority: Priority,
    /// Our own certificate; clients may do without.
    own: Option<Arc<SingleCertAndKey>>,
    /// Whom to believe; nobody is asked when `None`.
    trust: Option<Arc<Trust>>,
}

fn create(request: &Request<'_>) -> Result<Box<dyn Object>> {
    let options: X509Options = request.parse()?;
    let find = |id: &str| request.registry.secret(id);
    Ok(Made::object(X509::load(&options, find)?))
}

/// A client's credentials from a folder, without an object.
///
/// # Errors
/// As for the object.
pub(super) fn client(dir: &str, verify_peer: bool) -> Result<Arc<dyn TlsCredentials>> {
    let options = X509Options {
        verify_peer,
        dir: Some(dir.to_owned()),
        endpoint: Endpoint::Client,
        priority: None,
        passwordid: None,
        sanity_check: true,
    };
    let no_secrets = |id: &str| Err(Error::invalid(format!("No secret with id '{id}'")));
    Ok(Arc::new(X509::load(&options, no_secrets)?))
}

impl X509 {
    fn load<'a>(options: &X509Options, secret: impl Fn(&str) -> Result<&'a Secret>) -> Result<Self> {
        let dir = options.dir.as_deref().ok_or_else(super::dir_missing)?;
        let priority = Priority::parse(options.priority.as_deref())?;
        let folder = Folder::open(dir, options.endpoint)?;
        let chain = folder.chain()?;
        let trust = Trust::load(&folder)?;
        if options.sanity_check {
            check(&folder, &chain, &trust)?;
        }
        let password = options.passwordid.as_deref().map(secret).transpose()?;
        let own = with_key(&folder, chain, password)?.map(|own| Arc::new(SingleCertAndKey::from(own)));
        Ok(X509 {
            endpoint: options.endpoint,
            provider: Arc::new(priority.provider()),
            priority,
            own,
            trust: options.verify_peer.then(|| Arc::new(trust)),
        })
    }
}

/// Our own certificates with their key, where there are both.
fn with_key(
    folder: &Folder,
    chain: Vec<CertificateDer<'static>>,
    password: Option<&Secret>,
) -> Result<Option<CertifiedKey>> {
    let (Some(cert_file), Some(key_file)) = (&folder.certificate, &folder.key) else { return Ok(None) };
    let cannot = || format!("Cannot load certificate '{cert_file}' & key '{key_file}'");
    let certified = CertifiedKey::new(chain, key::load(key_file, password).context(cannot)?);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(Some(certified))
        }
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(Error::invalid("The certificate and the given key do not match.")
                .with_hint(format!(
                    "{key_file} is not the key that {cert_file} was made for; copy the pair anew."
                ))
                .context(cannot()))
        }
        Err(e) => Err(Error::invalid(e.to_string()).context(cannot())),
    }
}

/// The checks of the certificates against what they are to be used for: our own first, then every CA, then the way from
/// one to the other.
fn check(folder: &Folder, own: &[CertificateDer<'static>], trust: &Trust) -> Result<()> {
    let (own_file, ca_file) = (folder.certificate.as_deref().unwrap_or_default(), &folder.cas);
    if let [leaf, ..] = own {
        sanity::check(leaf, own_file, Role::from(folder.endpoint))?;
    }
    for ca in trust.certificates() {
        sanity::check(ca, ca_file, Role::Ca)?;
    }
    let [leaf, intermediates @ ..] = own else { return Ok(()) };
    trust.verify(leaf, intermediates, trust::now()).map_err(|distrust| {
        let text = format!("Our own certificate {own_file} failed validation against {ca_file}: {distrust}");
        Error::invalid(text).with_hint(distrust.remedy(own_file, ca_file))
    })
}

impl TlsCredentials for X509 {
    fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    fn start(&self, hostname: Option<&str>) -> Result<Box<dyn TlsSession>> {
        let verdict = Arc::new(Verdict::default());
        let verifier = |hostname: Option<&str>| {
            Arc::new(Verifier {
                trust: self.trust.clone(),
                hostname: hostname.map(str::to_owned),
                algorithms: self.provider.signature_verification_algorithms,
                verdict: Arc::clone(&verdict),
            })
        };
        let connection = match self.endpoint {
            Endpoint::Server => self.server(verifier(None))?,
            Endpoint::Client => {
                if hostname.is_none() && self.trust.is_some() {
                    return Err(Error::invalid("No hostname for certificate validation")
                        .with_hint("Say which name the server's certificate has: tls-hostname=NAME."));
                }
                self.client(verifier(hostname), hostname)?
            }
        };
        Ok(Box::new(RustlsSession::new(connection, verdict)))
    }

    fn check_authorizable(&self) -> Result<()> {
        match self.trust {
            Some(_) => Ok(()),
            None => Err(Error::invalid("TLS authorization needs clients whose certificates are verified")
                .with_hint("Remove verify-peer=off from the TLS credentials: without it anybody could claim any name.")),
        }
    }
}

impl X509 {
    fn server(&self, verifier: Arc<Verifier>) -> Result<rustls::Connection> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(self.priority.versions())
            .map_err(|e| unusable(&e))?;
        let builder = match self.trust {
            Some(_) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let own = self.own.clone().ok_or_else(|| Error::invalid("A TLS server needs a certificate"))?;
        let mut config = builder.with_cert_resolver(own);
        // Every session stands alone: nothing to keep, and a revoked client cannot come back with a ticket.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(rustls::ServerConnection::new(Arc::new(config)).map_err(|e| unusable(&e))?.into())
    }

    fn client(&self, verifier: Arc<Verifier>, hostname: Option<&str>) -> Result<rustls::Connection> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(self.priority.versions())
            .map_err(|e| unusable(&e))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &self.own {
            Some(own) => builder.with_client_cert_resolver(Arc::clone(own) as _),
            None => builder.with_no_client_auth(),
        };
        config.resumption = rustls::client::Resumption::disabled();
        // The name is judged by our own verifier; here it is only told to the server, where it is a proper one.
        let name = hostname.and_then(|name| ServerName::try_from(name.to_owned()).ok());
        config.enable_sni = name.is_some();
        let name = name.unwrap_or_else(|| ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()));
        Ok(rustls::ClientConnection::new(Arc::new(config), name).map_err(|e| unusable(&e))?.into())
    }
}

fn unusable(e: &rustls::Error) -> Error {
    Error::invalid(format!("Cannot start a TLS session: {e}"))
}
