//! Whether a certificate can be used for what it is given for: its time, basic constraints, key usage and purpose, in this
//! order. Each refusal names the file, the field and what to do.

use super::super::Endpoint;
use super::trust::{self, parse};
use crate::{Error, Result};
use rustls::pki_types::CertificateDer;
use std::fmt;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, KeyUsage};
use x509_parser::oid_registry::OID_PKCS1_RSAENCRYPTION;
use x509_parser::prelude::X509Error;

/// What a certificate is given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// To sign others.
    Ca,
    /// To be connected to.
    Server,
    /// To connect.
    Client,
}

impl From<Endpoint> for Role {
    fn from(endpoint: Endpoint) -> Self {
        match endpoint {
            Endpoint::Server => Role::Server,
            Endpoint::Client => Role::Client,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Ca => "CA",
            Role::Server => "server",
            Role::Client => "client",
        })
    }
}

/// Checks one certificate of `file`.
///
/// # Errors
/// The first thing wrong with it.
pub(super) fn check(der: &CertificateDer<'_>, file: &str, role: Role) -> Result<()> {
    let certificate = parse(der).map_err(|_| unreadable(file))?;
    check_time(&certificate, file, role)?;
    check_constraints(&certificate, file, role)?;
    check_usage(&certificate, file, role)?;
    if role != Role::Ca {
        check_purpose(&certificate, file, role)?;
    }
    Ok(())
}

fn unreadable(file: &str) -> Error {
    Error::invalid(format!("Unable to import certificate {file}: an extension is malformed or there twice"))
}

fn check_time(certificate: &X509Certificate<'_>, file: &str, role: Role) -> Result<()> {
    let (now, valid) = (trust::now().as_secs() as i64, certificate.validity());
    if valid.not_after.timestamp() < now {
        let text = format!("The {role} certificate {file} has expired");
        return Err(Error::invalid(text).with_hint(format!(
            "Its field 'not after' is {}; have it issued anew, or set the clock right.",
            valid.not_after
        )));
    }
    if valid.not_before.timestamp() > now {
        let text = format!("The {role} certificate {file} is not yet active");
        return Err(Error::invalid(text).with_hint(format!(
            "Its field 'not before' is {}; set the clock right, or have it issued anew.",
            valid.not_before
        )));
    }
    Ok(())
}

fn check_constraints(certificate: &X509Certificate<'_>, file: &str, role: Role) -> Result<()> {
    let constraints = certificate.basic_constraints().map_err(|_| unreadable(file))?;
    match (role, constraints.map(|c| c.value.ca)) {
        (Role::Ca, Some(true)) | (Role::Server | Role::Client, Some(false) | None) => Ok(()),
        (Role::Ca, Some(false)) => {
            Err(Error::invalid(format!("The certificate {file} basic constraints do not show a CA"))
                .with_hint("ca-cert.pem must hold CA certificates only: issue it with basicConstraints CA:TRUE, in certtool 'ca'."))
        }
        (Role::Ca, None) => {
            Err(Error::invalid(format!("The certificate {file} is missing basic constraints for a CA"))
                .with_hint("Issue it anew with the extension basicConstraints CA:TRUE, in certtool 'ca'."))
        }
        (_, Some(true)) => Err(Error::invalid(format!(
            "The certificate {file} basic constraints show a CA, but we need one for a {role}"
        ))
        .with_hint(format!("Issue a certificate of its own for the {role}, with basicConstraints CA:FALSE, signed by the CA."))),
    }
}

/// A missing bit counts only where the extension is critical, or else it is advice.
fn check_usage(certificate: &X509Certificate<'_>, file: &str, role: Role) -> Result<()> {
    let Some(usage) = certificate.key_usage().map_err(|_| unreadable(file))? else { return Ok(()) };
    if !usage.critical {
        return Ok(());
    }
    let refuse = |what: &str, bit: &str, certtool: &str| {
        Err(Error::invalid(format!("Certificate {file} usage does not permit {what}")).with_hint(format!(
            "Issue it anew with {bit} in the extension keyUsage, in certtool '{certtool}'."
        )))
    };
    let usage: &KeyUsage = usage.value;
    match role {
        Role::Ca if !usage.key_cert_sign() => {
            refuse("certificate signing", "keyCertSign", "cert_signing_key")
        }
        Role::Server | Role::Client if !usage.digital_signature() => {
            refuse("digital signature", "digitalSignature", "signing_key")
        }
        // Only a key that can encipher needs the leave to; others sign and nothing else.
        Role::Server | Role::Client if is_rsa(certificate) && !usage.key_encipherment() => {
            refuse("key encipherment", "keyEncipherment", "encryption_key")
        }
        _ => Ok(()),
    }
}

fn is_rsa(certificate: &X509Certificate<'_>) -> bool {
    certificate.public_key().algorithm.algorithm == OID_PKCS1_RSAENCRYPTION
}

fn check_purpose(certificate: &X509Certificate<'_>, file: &str, role: Role) -> Result<()> {
    if allows(certificate, role).map_err(|_| unreadable(file))? {
        return Ok(());
    }
    let purpose = if role == Role::Server { "serverAuth" } else { "clientAuth" };
    Err(Error::invalid(format!("Certificate {file} purpose does not allow use with a TLS {role}")).with_hint(
        format!(
            "Issue it anew with {purpose} in the extension extendedKeyUsage, in certtool 'tls_www_{role}'."
        ),
    ))
}

/// Whether the purposes a certificate has allow this one; without the extension, or where it is not critical, they do.
///
/// # Errors
/// The extension is malformed or there twice.
pub(super) fn allows(certificate: &X509Certificate<'_>, role: Role) -> Result<bool, X509Error> {
    let Some(purposes) = certificate.extended_key_usage()? else { return Ok(true) };
    Ok(!purposes.critical || has_purpose(purposes.value, role))
}

/// Whether the purpose is listed.
pub(super) fn has_purpose(purposes: &ExtendedKeyUsage<'_>, role: Role) -> bool {
    purposes.any
        || match role {
            Role::Server => purposes.server_auth,
            Role::Client => purposes.client_auth,
            Role::Ca => true,
        }
}
