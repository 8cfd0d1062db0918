//! Judging the peer's certificate inside the handshake, so that one who is not believed is told so and gets nothing.

use super::sanity::{self, Role};
use super::trust::{Distrust, Trust, parse};
use super::{dn, name};
use crate::Error;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use std::sync::{Arc, Mutex, PoisonError};

/// What was found about a peer, for the session that asks afterwards: why it was refused, or its name.
#[derive(Debug, Default)]
pub(crate) struct Verdict(Mutex<Option<Result<String, Error>>>);

impl Verdict {
    fn set(&self, found: Result<String, Error>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    }

    /// Why the peer was refused, if it was; told once.
    pub(crate) fn refusal(&self) -> Option<Error> {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*found, Some(Err(_))) {
            return None;
        }
        found.take().and_then(Result::err)
    }

    /// The name of the peer, if it was believed and has one.
    pub(crate) fn name(&self) -> Option<String> {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found.as_ref().and_then(|f| f.as_ref().ok()).filter(|name| !name.is_empty()).cloned()
    }
}

/// The judge of one session.
#[derive(Debug)]
pub(super) struct Verifier {
    /// Whom to believe; everybody when `None`.
    pub(super) trust: Option<Arc<Trust>>,
    /// The name a server must have.
    pub(super) hostname: Option<String>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    pub(super) verdict: Arc<Verdict>,
}

impl Verifier {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let Some(trust) = &self.trust else { return Ok(()) };
        let certificate = parse(leaf).map_err(|_| self.refuse(Distrust::Malformed, role, ""))?;
        let who = dn::text(certificate.subject());
        trust.verify(leaf, intermediates, now).map_err(|distrust| self.refuse(distrust, role, &who))?;
        if !sanity::allows(&certificate, role).unwrap_or(false) {
            return Err(self.refuse(Distrust::WrongPurpose, role, &who));
        }
        if let Some(hostname) = &self.hostname
            && !name::matches(&certificate, hostname)
        {
            let error = Error::invalid(format!("Certificate does not match the hostname {hostname}"));
            self.verdict.set(Err(error.with_hint(format!(
                "The server is '{who}'. Say which of its names to expect with tls-hostname=NAME."
            ))));
            return Err(CertificateError::NotValidForName.into());
        }
        self.verdict.set(Ok(who));
        Ok(())
    }

    /// Notes the refusal; the result is what makes the right alert.
    fn refuse(&self, distrust: Distrust, role: Role, who: &str) -> rustls::Error {
        self.verdict.set(Err(match role {
            // A server's log must say who it was.
            Role::Client => Error::invalid(format!("{distrust} (client '{who}')")),
            _ => Error::invalid(distrust.to_string()).with_hint(peer_remedy(distrust, who)),
        }));
        let kind = match distrust {
            Distrust::UnknownIssuer => CertificateError::UnknownIssuer,
            Distrust::Expired => CertificateError::Expired,
            Distrust::NotYetActive => CertificateError::NotValidYet,
            Distrust::Revoked => CertificateError::Revoked,
            Distrust::BadSignature => CertificateError::BadSignature,
            Distrust::Malformed | Distrust::OldVersion => CertificateError::BadEncoding,
            Distrust::WrongPurpose => CertificateError::InvalidPurpose,
            Distrust::NotTrusted | Distrust::Insecure => {
                CertificateError::Other(OtherError(Arc::new(Error::invalid(distrust.to_string()))))
            }
        };
        kind.into()
    }
}

fn peer_remedy(distrust: Distrust, who: &str) -> String {
    match distrust {
        Distrust::UnknownIssuer => {
            format!(
                "The server is '{who}'; ca-cert.pem here must hold the certificate of the CA that signed for it."
            )
        }
        _ => format!("The server is '{who}'; whoever runs it must have its certificate issued anew."),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, Role::Server, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.trust.as_ref().map_or(&[], |trust| &trust.subjects)
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, Role::Client, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
