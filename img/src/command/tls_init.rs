//! `img tls-init`: a certificate authority, a server and a client certificate, and what to type next. Our own.
//!
//! The folder gets three parts: `ca-cert.pem` and `ca-key.pem`, which signs and can be put away; `server` and `client`, which are
//! what `tls-creds-x509` takes as `dir` on either end. Nothing that exists is written over.

use super::Tool;
use crate::cli::{Objects, Run};
use block::{Context, Error, Result};
use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use time::{Duration, OffsetDateTime};
use zeroize::{Zeroize, Zeroizing};

/// How long the authority lives, in days: ten years.
const CA_DAYS: i64 = 3650;

/// How long the others live unless told, in days: what is left of the habit of two years.
const DAYS: &str = "825";

/// Options of `tls-init`.
#[derive(Debug, Args)]
pub(crate) struct TlsInitArgs {
    #[command(flatten)]
    objects: Objects,
    /// A name or address clients reach the server by; may repeat (default: this machine's name, localhost, 127.0.0.1, ::1)
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// The name of the client, which the server can ask for with --tls-authz
    #[arg(long, value_name = "NAME", default_value = "client")]
    client: String,
    /// How many days the server's and the client's certificates are valid
    #[arg(long, value_name = "N", default_value = DAYS, value_parser = clap::value_parser!(u16).range(1..))]
    days: u16,
    /// The folder to make
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl Run for TlsInitArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn run(self, tool: &Tool<'_>) -> Result<ExitCode> {
        secret::forbid_core_dump()?;
        let hosts = if self.hosts.is_empty() { default_hosts() } else { self.hosts.clone() };
        let made = Made::new(&hosts, &self.client, self.days.into())?;
        made.save(&self.dir)?;
        let dir = std::path::absolute(&self.dir)?;
        tool.out.print(next_steps(&dir, &hosts, &self.client, self.days.into()));
        Ok(ExitCode::SUCCESS)
    }
}

fn default_hosts() -> Vec<String> {
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut hosts: Vec<String> =
        Some(own.trim().to_owned()).filter(|name| !name.is_empty()).into_iter().collect();
    hosts.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    hosts.dedup();
    hosts
}

/// Certificates and keys, in PEM form.
struct Made {
    ca: (String, Zeroizing<String>),
    server: (String, Zeroizing<String>),
    client: (String, Zeroizing<String>),
}

impl Made {
    fn new(hosts: &[String], client: &str, days: i64) -> Result<Self> {
        let failed = |e: rcgen::Error| Error::invalid(format!("Could not make a certificate: {e}"));
        let main = hosts.first().map_or("localhost", String::as_str);
        let mut params = shape(&format!("{main} disk CA"), CA_DAYS, &[]).map_err(failed)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let mut ca_key = KeyPair::generate().map_err(failed)?;
        let ca = params.self_signed(&ca_key).map_err(failed)?;
        let issuer = Issuer::from_params(&params, &ca_key);
        let leaf = |name: &str, names: &[String], purpose| -> Result<_, rcgen::Error> {
            let mut params = shape(name, days, names)?;
            params.is_ca = IsCa::ExplicitNoCa;
            // The second for the sake of tools that insist on it whatever the key can do.
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
            params.extended_key_usages = vec![purpose];
            params.use_authority_key_identifier_extension = true;
            let mut key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &issuer)?;
            let made = (certificate.pem(), Zeroizing::new(key.serialize_pem()));
            key.zeroize();
            Ok(made)
        };
        let made = Made {
            server: leaf(main, hosts, ExtendedKeyUsagePurpose::ServerAuth).map_err(failed)?,
            client: leaf(client, &[], ExtendedKeyUsagePurpose::ClientAuth).map_err(failed)?,
            ca: (ca.pem(), Zeroizing::new(ca_key.serialize_pem())),
        };
        ca_key.zeroize();
        Ok(made)
    }

    fn save(&self, dir: &Path) -> Result<()> {
        let (server, client) = (dir.join("server"), dir.join("client"));
        for folder in [dir, &server, &client] {
            if !folder.is_dir() {
                let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
                made.context(|| format!("Could not make the folder '{}'", folder.display()))?;
            }
        }
        let files = [
            (dir.join("ca-key.pem"), &*self.ca.1, 0o600),
            (server.join("server-key.pem"), &*self.server.1, 0o600),
            (client.join("client-key.pem"), &*self.client.1, 0o600),
            (dir.join("ca-cert.pem"), &self.ca.0, 0o644),
            (server.join("ca-cert.pem"), &self.ca.0, 0o644),
            (server.join("server-cert.pem"), &self.server.0, 0o644),
            (client.join("ca-cert.pem"), &self.ca.0, 0o644),
            (client.join("client-cert.pem"), &self.client.0, 0o644),
        ];
        if let Some((path, ..)) = files.iter().find(|(path, ..)| path.symlink_metadata().is_ok()) {
            return Err(Error::invalid(format!("'{}' exists already", path.display()))
                .with_hint("Nothing was changed. Name another folder, or move the old credentials away."));
        }
        files.iter().try_for_each(|(path, text, mode)| write(path, text, *mode))
    }
}

/// What all certificates have in common. Clocks may differ by an hour.
fn shape(name: &str, days: i64, names: &[String]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::days(days);
    Ok(params)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let failed = || format!("Could not write '{}'", path.display());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).context(failed)?;
    file.write_all(text.as_bytes()).context(failed)?;
    file.sync_all().context(failed)
}

/// The commands an operator types next, ready to be copied.
fn next_steps(dir: &Path, hosts: &[String], client: &str, days: i64) -> String {
    let main = hosts.first().map_or("localhost", String::as_str);
    let bracketed =
        if main.parse::<IpAddr>().is_ok_and(|a| a.is_ipv6()) { format!("[{main}]") } else { main.to_owned() };
    let object = |part: &str| {
        let path = dir.join(part).to_string_lossy().replace(',', ",,");
        quoted(&format!("tls-creds-x509,id=tls0,dir={path},endpoint={part}"))
    };
    let (server, client_object) = (object("server"), object("client"));
    let authz = quoted(&format!("authz-simple,id=auth0,identity=CN={}", in_rule(client)));
    let uri = quoted(&format!("nbds://{bracketed}/?tls-creds=tls0"));
    let folder = dir.display();
    format!(
        "Made in {folder}: a CA (10 years), and certificates of the server and the client ({days} days).\n\
         The server answers to: {}\n\
         \n\
         On the server, which needs {folder}/server only:\n  \
         nbd-server --object {server} --tls-creds tls0 --persistent --shared 0 -f raw disk.raw\n\
         To let in nobody but this client, add:\n  \
         --object {authz} --tls-authz auth0\n\
         \n\
         On the client, which needs {folder}/client only:\n  \
         img info --object {client_object} {uri}\n  \
         img convert --object {client_object} {uri} -O qcow2 copy.qcow2\n\
         \n\
         Keep {folder}/ca-key.pem away from both: whoever has it can make more certificates.\n",
        hosts.join(", ")
    )
}

/// A name as rules compare it, in an option string.
fn in_rule(name: &str) -> String {
    let escape = |c: char| if ",+\"\\<>;".contains(c) { format!("\\{c}") } else { c.to_string() };
    name.chars().map(escape).collect::<String>().replace(',', ",,")
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:=,+@%-".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}
