//! Certificates of every shape, for tests: each extension and its criticality chosen freely, as no sane tool lets one.

use rcgen::{
    CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    SanType, SerialNumber, date_time_ymd,
};
use std::fs;
use std::path::Path;

/// Bits of the extension keyUsage, as they are in its first byte.
pub mod usage {
    /// digitalSignature.
    pub const SIGNATURE: u8 = 0x80;
    /// keyEncipherment.
    pub const ENCIPHERMENT: u8 = 0x20;
    /// keyCertSign.
    pub const CERT_SIGN: u8 = 0x04;
    /// cRLSign.
    pub const CRL_SIGN: u8 = 0x02;
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Now.
    Now,
    /// No longer.
    Past,
    /// Not yet.
    Future,
}

/// Purposes of the extension extendedKeyUsage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// serverAuth.
    Server,
    /// clientAuth.
    Client,
    /// anyExtendedKeyUsage.
    Any,
}

/// The shape of a certificate. Extensions come with their criticality; `None` leaves them out.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The common name; the country before it is always UK.
    pub name: String,
    /// basicConstraints: whether it is a CA.
    pub constraints: Option<(bool, bool)>,
    /// keyUsage: its bits.
    pub usage: Option<(bool, u8)>,
    /// extendedKeyUsage.
    pub purposes: Option<(bool, &'static [Purpose])>,
    /// Its validity.
    pub when: When,
    /// DNS names and addresses of the server.
    pub names: Vec<String>,
    /// The serial number; chosen by the library when `None`.
    pub serial: Option<u64>,
}

/// digitalSignature and keyEncipherment, critical: what a leaf usually has.
pub const LEAF_USAGE: Option<(bool, u8)> = Some((true, usage::SIGNATURE | usage::ENCIPHERMENT));

impl Shape {
    /// A flawless CA.
    pub fn ca(name: &str) -> Self {
        Shape {
            name: name.into(),
            constraints: Some((true, true)),
            usage: Some((true, usage::CERT_SIGN | usage::CRL_SIGN)),
            purposes: None,
            when: When::Now,
            names: Vec::new(),
            serial: None,
        }
    }

    /// A flawless server.
    pub fn server(name: &str) -> Self {
        Shape {
            constraints: Some((true, false)),
            usage: LEAF_USAGE,
            purposes: Some((true, &[Purpose::Server])),
            ..Self::ca(name)
        }
    }

    /// A flawless client.
    pub fn client(name: &str) -> Self {
        Shape { purposes: Some((true, &[Purpose::Client])), ..Self::server(name) }
    }

    /// The same for these DNS names and addresses.
    #[must_use]
    pub fn named(mut self, names: &[&str]) -> Self {
        self.names = names.iter().map(|n| (*n).to_owned()).collect();
        self
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "UK");
        params.distinguished_name.push(DnType::CommonName, self.name.as_str());
        params.is_ca = IsCa::NoCa;
        (params.not_before, params.not_after) = match self.when {
            When::Now => (date_time_ymd(2020, 1, 1), date_time_ymd(2099, 1, 1)),
            When::Past => (date_time_ymd(2010, 1, 1), date_time_ymd(2011, 1, 1)),
            When::Future => (date_time_ymd(2090, 1, 1), date_time_ymd(2099, 1, 1)),
        };
        params.serial_number = self.serial.map(SerialNumber::from);
        params.subject_alt_names = self.names.iter().map(|name| alternative(name)).collect();
        let constraints = self.constraints.map(|(critical, ca)| {
            extension(&[2, 5, 29, 19], critical, if ca { vec![0x30, 3, 1, 1, 0xff] } else { vec![0x30, 0] })
        });
        let usage =
            self.usage.map(|(critical, bits)| extension(&[2, 5, 29, 15], critical, usage_value(bits)));
        let purposes =
            self.purposes.map(|(critical, list)| extension(&[2, 5, 29, 37], critical, purposes_value(list)));
        params.custom_extensions = [constraints, usage, purposes].into_iter().flatten().collect();
        params
    }
}

fn alternative(name: &str) -> SanType {
    match name.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into().expect("names of tests are ASCII")),
    }
}

fn extension(oid: &[u64], critical: bool, value: Vec<u8>) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, value);
    extension.set_criticality(critical);
    extension
}

/// A BIT STRING in DER has no trailing zero bits.
fn usage_value(bits: u8) -> Vec<u8> {
    match bits {
        0 => vec![3, 1, 0],
        bits => vec![3, 2, bits.trailing_zeros() as u8, bits],
    }
}

fn purposes_value(list: &[Purpose]) -> Vec<u8> {
    let oids: Vec<u8> = list.iter().flat_map(|purpose| purpose.oid().iter().copied()).collect();
    let mut value = vec![0x30, oids.len() as u8];
    value.extend(oids);
    value
}

impl Purpose {
    fn oid(self) -> &'static [u8] {
        match self {
            Purpose::Server => &[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1],
            Purpose::Client => &[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2],
            Purpose::Any => &[6, 4, 0x55, 0x1d, 0x25, 0],
        }
    }
}

/// A certificate with its key, able to sign others.
#[derive(Debug)]
pub struct Cert {
    shape: Shape,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Cert {
    /// Signed by itself.
    ///
    /// # Panics
    /// The library refuses the shape.
    pub fn root(shape: &Shape) -> Self {
        let issuer = CertifiedIssuer::self_signed(shape.params(), key()).expect("a certificate can be made");
        Cert { shape: shape.clone(), issuer }
    }

    /// Signed by `issuer`.
    ///
    /// # Panics
    /// The library refuses the shape.
    pub fn issued(shape: &Shape, issuer: &Cert) -> Self {
        let issuer = CertifiedIssuer::signed_by(shape.params(), key(), &issuer.issuer);
        Cert { shape: shape.clone(), issuer: issuer.expect("a certificate can be made") }
    }

    /// The certificate.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// The key, as PKCS#8.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A list, signed by this, that revokes the certificates with these serial numbers.
    ///
    /// # Panics
    /// The library refuses: this is no CA that may sign lists.
    pub fn revoke(&self, serials: &[u64]) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = self.shape.params().distinguished_name;
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
        let signer = Issuer::from_params(&params, self.issuer.key());
        let revoked = serials.iter().map(|serial| rcgen::RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = rcgen::CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(2098, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&signer).expect("a list can be made").pem().expect("a list has a PEM form")
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key can be made")
}

/// Writes what a credentials folder holds: `ca-cert.pem` with all of `cas`, and the certificate and key of `role`
/// (`server` or `client`).
///
/// # Panics
/// The folder cannot be written.
pub fn folder(dir: &Path, cas: &[&Cert], role: &str, leaf: Option<&Cert>) {
    fs::create_dir_all(dir).expect("a folder can be made");
    let put = |name: String, text: String| fs::write(dir.join(name), text).expect("a file can be written");
    put("ca-cert.pem".into(), cas.iter().map(|ca| ca.pem()).collect());
    if let Some(leaf) = leaf {
        put(format!("{role}-cert.pem"), leaf.pem());
        put(format!("{role}-key.pem"), leaf.key_pem());
    }
    if role == "server" {
        // Without it the real tool makes a group of its own, which takes a while.
        put("dh-params.pem".into(), DH_PARAMS.into());
    }
}

/// The group ffdhe2048 of RFC 7919, in the form of PKCS #3.
pub const DH_PARAMS: &str = "-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
";
