//! Sessions between two ends, without any socket: bytes are carried by hand.

use crate::objects::{OBJECT_TYPES, Registry};
use crate::tls::{Endpoint, TlsSession};
use crate::{Error, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, DnValue, IsCa, KeyPair};
use std::io::{IoSlice, IoSliceMut};
use std::path::Path;
use tempfile::TempDir;

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A folder for one end, whose certificate has these alternative names and this distinguished name.
fn folder(trusted: &Ca, role: &str, issuer: &Ca, names: &[&str], dn: &[(DnType, DnValue)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (kind, value) in dn {
        params.distinguished_name.push(kind.clone(), value.clone());
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    let write = |name: String, text: String| std::fs::write(dir.path().join(name), text).unwrap();
    write("ca-cert.pem".into(), trusted.pem());
    write(format!("{role}-cert.pem"), certificate.pem());
    write(format!("{role}-key.pem"), key.serialize_pem());
    dir
}

fn cn(name: &str) -> Vec<(DnType, DnValue)> {
    vec![(DnType::CommonName, name.into())]
}

fn start(dir: &Path, end: Endpoint, hostname: Option<&str>, more: &str) -> Result<Box<dyn TlsSession>> {
    let mut registry = Registry::new([OBJECT_TYPES]);
    let _ = registry.add(format!("tls-creds-x509,id=t,dir={},endpoint={end}{more}", dir.display()))?;
    registry.tls_credentials("t", end)?.start(hostname)
}

/// Gives `records` to a session, in pieces of `piece` bytes; what came out in clear.
fn feed(session: &mut dyn TlsSession, records: &mut [u8], piece: usize) -> Result<Vec<u8>> {
    let mut clear = Vec::new();
    let mut kept: Vec<u8> = Vec::new();
    for part in records.chunks(piece) {
        kept.extend_from_slice(part);
        loop {
            let (mut a, mut b) = ([0; 7], [0; 1000]);
            let got = session.receive(&mut kept, &mut [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)])?;
            kept.drain(..got.used);
            let first = got.clear.min(a.len());
            clear.extend_from_slice(&a[..first]);
            clear.extend_from_slice(&b[..got.clear - first]);
            if got.used == 0 && got.clear == 0 {
                break;
            }
        }
    }
    assert!(kept.is_empty(), "everything that came is used");
    Ok(clear)
}

/// Carries bytes both ways until both are quiet; the first error of each end.
fn shake(client: &mut dyn TlsSession, server: &mut dyn TlsSession, piece: usize) -> [Option<Error>; 2] {
    let mut errors = [None, None];
    loop {
        let mut moved = false;
        for (from, to) in [(0, 1), (1, 0)] {
            let mut records = Vec::new();
            let ends: [&mut dyn TlsSession; 2] = [client, server];
            let [a, b] = ends;
            let (sender, receiver) = if from == 0 { (a, b) } else { (b, a) };
            sender.take_records(&mut records);
            moved |= !records.is_empty();
            if errors[to].is_none()
                && let Err(e) = feed(receiver, &mut records, piece)
            {
                errors[to] = Some(e);
            }
        }
        if !moved {
            return errors;
        }
    }
}

fn text(error: &Option<Error>) -> String {
    error.as_ref().map(ToString::to_string).unwrap_or_default()
}

#[test]
fn bytes_get_through_in_any_pieces_under_both_versions() {
    let ca = ca("CA");
    let server_dir = folder(&ca, "server", &ca, &["host.example"], &cn("server"));
    let client_dir = folder(&ca, "client", &ca, &[], &cn("client"));
    for (priority, piece) in
        [("NORMAL", 1), ("NORMAL", 1 << 20), ("NORMAL:-VERS-TLS1.3", 100), ("SECURE256", 4096)]
    {
        let more = format!(",priority={priority}");
        let mut server = start(server_dir.path(), Endpoint::Server, None, "").unwrap();
        let mut client = start(client_dir.path(), Endpoint::Client, Some("host.example"), &more).unwrap();
        let errors = shake(&mut *client, &mut *server, piece);
        assert!(errors.iter().all(Option::is_none), "{errors:?}");
        assert!(!client.is_handshaking() && !server.is_handshaking());
        assert_eq!((server.peer().as_deref(), server.peer_kind()), (Some("CN=client"), "x509"));
        let data: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        let mut sent = 0;
        let mut got = Vec::new();
        while sent < data.len() {
            let (a, b) = data[sent..].split_at((data.len() - sent) / 3);
            sent += server.send(&[IoSlice::new(a), IoSlice::new(b)]).unwrap();
            let mut records = Vec::new();
            server.take_records(&mut records);
            got.extend(feed(&mut *client, &mut records, piece).unwrap());
        }
        assert_eq!(got, data);
        server.end();
        let mut records = Vec::new();
        server.take_records(&mut records);
        assert!(feed(&mut *client, &mut records, piece).unwrap().is_empty() && client.is_ended());
    }
}

#[test]
fn a_client_refuses_a_server_of_another_ca_or_another_name() {
    let (good, bad) = (ca("good"), ca("bad"));
    let server_dir = folder(&good, "server", &good, &["host.example", "10.0.0.1"], &cn("localhost"));
    let stranger = folder(&bad, "client", &bad, &[], &cn("client"));
    let client = folder(&good, "client", &good, &[], &cn("client"));
    let refusal = |dir: &TempDir, hostname: &str, more: &str| {
        let mut server = start(server_dir.path(), Endpoint::Server, None, "").unwrap();
        let mut client = start(dir.path(), Endpoint::Client, Some(hostname), more).unwrap();
        let errors = shake(&mut *client, &mut *server, 1 << 20);
        (text(&errors[0]), text(&errors[1]))
    };
    let (told, log) = refusal(&stranger, "host.example", "");
    assert_eq!(told, "The certificate hasn't got a known issuer");
    assert!(log.contains("UnknownCA"), "{log}");
    // There is an alternative name, so the common name does not count.
    let (told, _) = refusal(&client, "localhost", "");
    assert_eq!(told, "Certificate does not match the hostname localhost");
    let (told, _) = refusal(&client, "10.0.0.2", "");
    assert_eq!(told, "Certificate does not match the hostname 10.0.0.2");
    for name in ["10.0.0.1", "HOST.example"] {
        assert_eq!(refusal(&client, name, "").0, "", "{name}");
    }
    // Nothing is looked at when the user says so; the server still refuses a client of another CA.
    let (told, log) = refusal(&stranger, "anything", ",verify-peer=off");
    assert!(told.contains("UnknownCA"), "{told}");
    assert_eq!(log, "The certificate hasn't got a known issuer (client 'CN=client')");
}

#[test]
fn a_server_refuses_a_client_without_a_certificate() {
    let ca = ca("CA");
    let server_dir = folder(&ca, "server", &ca, &["h"], &cn("server"));
    let bare = tempfile::tempdir().unwrap();
    std::fs::write(bare.path().join("ca-cert.pem"), ca.pem()).unwrap();
    let outcome = |more: &str| {
        let mut server = start(server_dir.path(), Endpoint::Server, None, more).unwrap();
        let mut client = start(bare.path(), Endpoint::Client, Some("h"), "").unwrap();
        let errors = shake(&mut *client, &mut *server, 1 << 20);
        (text(&errors[0]), text(&errors[1]), server.peer())
    };
    let (told, log, _) = outcome("");
    assert_eq!(log, "Verify failed: No certificate was found.");
    assert!(told.contains("CertificateRequired"), "{told}");
    assert_eq!(outcome(",verify-peer=off"), (String::new(), String::new(), None));
}

#[test]
fn names_come_in_the_order_of_their_encoding() {
    let ca = ca("CA");
    let server_dir = folder(&ca, "server", &ca, &["h"], &cn("server"));
    let printable = DnValue::PrintableString("GB".try_into().unwrap());
    let bmp = DnValue::BmpString(rcgen::string::BmpString::try_from("Łódź").unwrap());
    let names = [
        (DnType::CountryName, printable),
        (DnType::LocalityName, bmp),
        (DnType::OrganizationName, "Dark, Lord \"Ent\" c1".into()),
        (DnType::CustomDnType(vec![1, 2, 3, 4, 5]), "x".into()),
        (DnType::CommonName, " #a ".into()),
    ];
    let client_dir = folder(&ca, "client", &ca, &[], &names);
    let mut server = start(server_dir.path(), Endpoint::Server, None, "").unwrap();
    let mut client = start(client_dir.path(), Endpoint::Client, Some("h"), "").unwrap();
    shake(&mut *client, &mut *server, 1 << 20);
    let want = r#"C=GB,L=Łódź,O=Dark\, Lord \"Ent\" c1,1.2.3.4.5=#0c0178,CN=\ #a\ "#;
    assert_eq!(server.peer().as_deref(), Some(want));
}

#[test]
fn a_session_survives_any_rubbish() {
    let ca = ca("CA");
    let server_dir = folder(&ca, "server", &ca, &["h"], &cn("server"));
    let mut seed = 1u64;
    for len in [1usize, 5, 100, 5000, 70_000] {
        let mut rubbish: Vec<u8> = (0..len)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (seed >> 56) as u8
            })
            .collect();
        for first in [0x16, 0x17, 0x00] {
            rubbish[0] = first;
            let mut server = start(server_dir.path(), Endpoint::Server, None, "").unwrap();
            let _ = server.receive(&mut rubbish, &mut []);
            assert!(server.is_handshaking());
        }
    }
}
