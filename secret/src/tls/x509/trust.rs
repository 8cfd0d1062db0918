//! Whom to believe: the CAs of the folder, the certificates they revoked, and whether a certificate leads to one of them.
//!
//! Paths and signatures are webpki's work. It does not look into its anchors and ignores key usage, so who may sign, and until
//! when, is judged here before it is asked.

use super::files::{self, Folder};
use crate::{Context, Error, Result};
use rustls::DistinguishedName;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::fmt;
use webpki::{
    CertRevocationList, EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, OwnedCertRevocationList,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::prelude::FromDer;

/// CAs and their lists of what they revoked.
#[derive(Debug)]
pub(super) struct Trust {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<Anchor>,
    lists: Vec<CertRevocationList<'static>>,
    /// The names of the CAs, which clients are told.
    pub(super) subjects: Vec<DistinguishedName>,
}

/// A CA as webpki takes it, and what webpki does not look at.
#[derive(Debug)]
struct Anchor {
    trusted: TrustAnchor<'static>,
    /// From when to when it is valid, in seconds.
    valid: std::ops::RangeInclusive<i64>,
    may_sign: bool,
}

/// Why a certificate is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Distrust {
    UnknownIssuer,
    /// A CA that may not sign, or no longer, or names not of its domain.
    NotTrusted,
    Expired,
    NotYetActive,
    Revoked,
    BadSignature,
    Insecure,
    OldVersion,
    Malformed,
    WrongPurpose,
}

/// In QEMU's words where it has some.
impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Distrust::UnknownIssuer => "The certificate hasn't got a known issuer",
            Distrust::NotTrusted => "The certificate is not trusted",
            Distrust::Expired => "The certificate has expired",
            Distrust::NotYetActive => "The certificate is not yet activated",
            Distrust::Revoked => "The certificate has been revoked",
            Distrust::BadSignature => "The signature in the certificate is invalid",
            Distrust::Insecure => "The certificate uses an insecure algorithm",
            Distrust::OldVersion => "The certificate is of version 1 of X.509, which has no extensions",
            Distrust::Malformed => "The certificate is malformed",
            Distrust::WrongPurpose => "The certificate's purpose does not allow this use",
        })
    }
}

impl Distrust {
    /// What to do about our own certificate.
    pub(super) fn remedy(self, own: &str, ca: &str) -> String {
        match self {
            Distrust::UnknownIssuer => format!(
                "{ca} must hold the certificate of the CA that signed {own} (and those between it and the root, if any)."
            ),
            Distrust::NotTrusted => {
                format!(
                    "The CA in {ca} has the extension keyUsage without keyCertSign; issue it anew, in certtool with 'cert_signing_key'."
                )
            }
            Distrust::OldVersion => {
                format!("Issue {own} anew with extensions: with openssl x509 -req that takes -extfile.")
            }
            Distrust::Insecure => {
                format!("Issue {own} anew, signed with SHA-256 or better and a key of at least 2048 bits.")
            }
            _ => format!("Issue {own} anew with the CA in {ca}."),
        }
    }
}

impl Trust {
    /// Loads the CAs, and the lists if the folder has any.
    ///
    /// # Errors
    /// A file that is missing or malformed.
    pub(super) fn load(folder: &Folder) -> Result<Self> {
        let file = &folder.cas;
        let unable = || format!("Unable to import CA certificate list {file}");
        let certificates = files::certificates(file).context(unable)?;
        let anchors: Result<Vec<_>> = certificates.iter().map(anchor).collect();
        let anchors = anchors.context(unable)?;
        let lists = folder.crl.as_deref().map(lists).transpose()?.unwrap_or_default();
        let subjects =
            anchors.iter().map(|a| DistinguishedName::in_sequence(a.trusted.subject.as_ref())).collect();
        Ok(Trust { certificates, anchors, lists, subjects })
    }

    /// The CAs' certificates.
    pub(super) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Whether `leaf` leads to a CA at this time.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Distrust> {
        let seconds = now.as_secs() as i64;
        let usable = |a: &&Anchor| a.may_sign && a.valid.contains(&seconds);
        let anchors: Vec<_> = self.anchors.iter().filter(usable).map(|a| a.trusted.clone()).collect();
        let signers: Vec<_> = intermediates.iter().filter(|der| may_sign(der)).cloned().collect();
        match self.path(leaf, &signers, &anchors, now) {
            Err(Distrust::UnknownIssuer) => {
                // Is it that nobody signed it, or that somebody did who may not?
                let all: Vec<_> = self.anchors.iter().map(|a| a.trusted.clone()).collect();
                let known = self.path(leaf, intermediates, &all, now) != Err(Distrust::UnknownIssuer);
                Err(if known { Distrust::NotTrusted } else { Distrust::UnknownIssuer })
            }
            done => done,
        }
    }

    fn path(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        anchors: &[TrustAnchor<'_>],
        now: UnixTime,
    ) -> Result<(), Distrust> {
        let leaf = EndEntityCert::try_from(leaf).map_err(|e| distrust(&e))?;
        let lists: Vec<&CertRevocationList<'_>> = self.lists.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            // A CA without a list revoked nothing.
            options.with_status_policy(UnknownStatusPolicy::Allow).build()
        });
        let algorithms = default_provider().signature_verification_algorithms.all;
        leaf.verify_for_usage(algorithms, anchors, intermediates, now, AnyPurpose, revocation, None)
            .map(drop)
            .map_err(|e| distrust(&e))
    }
}

/// Purposes are judged elsewhere, with regard to whether they are critical.
struct AnyPurpose;

impl ExtendedKeyUsageValidator for AnyPurpose {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

fn distrust(e: &webpki::Error) -> Distrust {
    use webpki::Error as E;
    match e {
        E::UnknownIssuer | E::MaximumPathDepthExceeded => Distrust::UnknownIssuer,
        E::CertExpired { .. } => Distrust::Expired,
        E::CertNotValidYet { .. } => Distrust::NotYetActive,
        E::CertRevoked => Distrust::Revoked,
        E::InvalidSignatureForPublicKey | E::InvalidCrlSignatureForPublicKey => Distrust::BadSignature,
        E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | E::UnsupportedCrlSignatureAlgorithmContext(_) => Distrust::Insecure,
        E::UnsupportedCertVersion => Distrust::OldVersion,
        E::BadDer | E::BadDerTime | E::TrailingData(_) | E::ExtensionValueInvalid => Distrust::Malformed,
        _ => Distrust::NotTrusted,
    }
}

fn anchor(der: &CertificateDer<'static>) -> Result<Anchor> {
    let malformed = || Error::invalid("ASN1 parser: Error in DER parsing.");
    let parsed = parse(der).map_err(|_| malformed())?;
    let trusted = webpki::anchor_from_trusted_cert(der).map_err(|_| malformed())?.to_owned();
    let valid = parsed.validity();
    Ok(Anchor {
        trusted,
        valid: valid.not_before.timestamp()..=valid.not_after.timestamp(),
        may_sign: may_sign(der),
    })
}

/// Whether the key usage of a certificate, if it has one, lets it sign others; critical or not.
fn may_sign(der: &CertificateDer<'_>) -> bool {
    parse(der).is_ok_and(|c| c.key_usage().is_ok_and(|usage| usage.is_none_or(|u| u.value.key_cert_sign())))
}

fn lists(file: &str) -> Result<Vec<CertRevocationList<'static>>> {
    let cannot = || format!("Cannot load CRL '{file}'");
    let sections = files::sections(file).context(cannot)?;
    let lists = sections.iter().filter(|section| section.tag() == "X509 CRL");
    let lists: Result<Vec<_>, _> = lists
        .map(|section| OwnedCertRevocationList::from_der(section.contents()).map(CertRevocationList::Owned))
        .collect();
    let lists = lists.map_err(|e| {
        Error::invalid("ASN1 parser: Error in DER parsing.")
            .with_hint(format!("What is wrong: {e}."))
            .context(cannot())
    })?;
    if lists.is_empty() {
        return Err(files::missing(file, "X509 CRL", sections.len()).context(cannot()));
    }
    Ok(lists)
}

/// A certificate, whole.
pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, X509Error> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(X509Error::InvalidCertificate),
        Err(_) => Err(X509Error::InvalidCertificate),
    }
}

/// The time.
pub(super) fn now() -> UnixTime {
    UnixTime::now()
}
