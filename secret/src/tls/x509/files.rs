//! The folder of credentials: which files must be there, and what is in them.

use super::super::Endpoint;
use crate::{Context, Error, Kind, Result};
use pem::Pem;
use rustls::pki_types::CertificateDer;
use std::io::Read;
use std::path::Path;

/// The longest file that is read, in bytes: bundles of all the world's CAs are smaller.
const MAX_FILE: u64 = 4 << 20;

/// The files of a folder that matter to one end of connections.
#[derive(Debug)]
pub(super) struct Folder {
    dir: String,
    pub(super) endpoint: Endpoint,
    /// The certificates of the CAs.
    pub(super) cas: String,
    /// The list of what they revoked.
    pub(super) crl: Option<String>,
    /// Our own certificate.
    pub(super) certificate: Option<String>,
    /// Its key. A client's certificate without one is of no use, but looked at.
    pub(super) key: Option<String>,
}

impl Folder {
    /// Looks which files there are.
    ///
    /// # Errors
    /// One that is needed is missing or cannot be got at.
    pub(super) fn open(dir: &str, endpoint: Endpoint) -> Result<Self> {
        let needed = endpoint == Endpoint::Server;
        let mut folder = Folder {
            dir: dir.to_owned(),
            endpoint,
            cas: String::new(),
            crl: None,
            certificate: None,
            key: None,
        };
        folder.cas = folder.find("ca-cert.pem", true)?.unwrap_or_default();
        if needed {
            folder.crl = folder.find("ca-crl.pem", false)?;
        }
        folder.certificate = folder.find(&format!("{endpoint}-cert.pem"), needed)?;
        folder.key = folder.find(&format!("{endpoint}-key.pem"), needed)?;
        if needed && let Some(file) = folder.find("dh-params.pem", false)? {
            check_dh_params(&file)?;
        }
        Ok(folder)
    }

    /// Our own certificate, and those between it and the CA, if it is there.
    pub(super) fn chain(&self) -> Result<Vec<CertificateDer<'static>>> {
        let Some(file) = &self.certificate else { return Ok(Vec::new()) };
        certificates(file).context(|| format!("Unable to import {} certificate {file}", self.endpoint))
    }

    /// The path of a file, if it is there.
    fn find(&self, name: &str, needed: bool) -> Result<Option<String>> {
        let path = Path::new(&self.dir).join(name).to_string_lossy().into_owned();
        match std::fs::metadata(&path) {
            Ok(_) => Ok(Some(path)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !needed => Ok(None),
            Err(e) => {
                let hint = format!(
                    "A {0} needs {1}; 'img tls-init NEW-FOLDER' makes a set for both ends.",
                    self.endpoint,
                    needs(self.endpoint)
                );
                let error = Error::from(e);
                let error = if error.kind() == Kind::NotFound { error.with_hint(hint) } else { error };
                Err(error.context(format!("Unable to access credentials {path}")))
            }
        }
    }
}

fn needs(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Server => "ca-cert.pem, server-cert.pem and server-key.pem in its folder",
        Endpoint::Client => "ca-cert.pem in its folder",
    }
}

/// Everything in PEM form in a file, which is read whole.
pub(super) fn sections(file: &str) -> Result<Vec<Pem>> {
    let mut text = zeroize::Zeroizing::new(Vec::new());
    std::fs::File::open(file)?.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(Error::invalid("File is too large").with_hint(format!("{file} is no such file.")));
    }
    let sections = pem::parse_many(&*text).map_err(|_| {
        Error::invalid("Base64 decoding error.")
            .with_hint(format!("{file} is damaged: a section between BEGIN and END is no base64."))
    })?;
    Ok(sections)
}

/// The file has no section of this kind, or none of any kind.
pub(super) fn missing(file: &str, kind: &str, sections: usize) -> Error {
    let text = match sections {
        0 => "Base64 unexpected header error.",
        _ => "The requested data were not available.",
    };
    Error::invalid(text).with_hint(format!(
        "{file} must be in PEM form and have a section that starts with -----BEGIN {kind}-----."
    ))
}

/// The certificates of a file: at least one.
///
/// # Errors
/// A file that cannot be read, or without certificates, or with one that is malformed.
pub(super) fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>> {
    let wanted = |tag: &str| matches!(tag, "CERTIFICATE" | "X509 CERTIFICATE");
    let sections = sections(file)?;
    let count = sections.len();
    let found = sections.into_iter().filter(|section| wanted(section.tag()));
    let list: Vec<CertificateDer<'static>> = found.map(|section| section.into_contents().into()).collect();
    if list.is_empty() {
        return Err(missing(file, "CERTIFICATE", count));
    }
    for der in &list {
        super::trust::parse(der).map_err(|_| {
            Error::invalid("ASN1 parser: Error in DER parsing.")
                .with_hint(format!("{file} holds a damaged certificate."))
        })?;
    }
    Ok(list)
}

/// Parameters for key exchanges of the past. Ours are better, so they are not used; a file that holds none is a mistake all the
/// same.
fn check_dh_params(file: &str) -> Result<()> {
    let unable = || format!("Unable to load DH parameters from {file}");
    let found = sections(file).context(unable)?;
    if found.iter().any(|section| matches!(section.tag(), "DH PARAMETERS" | "X9.42 DH PARAMETERS")) {
        return Ok(());
    }
    Err(missing(file, "DH PARAMETERS", found.len()).context(unable()))
}
