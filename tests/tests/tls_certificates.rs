//! Which certificates are accepted and which refused when credentials are made, compared with the real tool: the whole table of
//! QEMU's own unit test for them, and more. What we say names the file, and a second line says what to do.

use std::path::Path;
use tempfile::TempDir;
use tests::certs::usage::{CERT_SIGN, CRL_SIGN, ENCIPHERMENT, SIGNATURE};
use tests::certs::{Cert, Purpose, Shape, When, folder};
use tests::{Ran, Whose};

const DE: u8 = SIGNATURE | ENCIPHERMENT;
const CLIENT: &[Purpose] = &[Purpose::Client];
const SERVER: &[Purpose] = &[Purpose::Server];
const BOTH: &[Purpose] = &[Purpose::Client, Purpose::Server];

/// A folder for everything, and what is found to differ.
struct Judge {
    dir: TempDir,
    differing: String,
}

impl Judge {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        std::fs::write(dir.path().join("a.raw"), [0; 512]).expect("a file can be written");
        Judge { dir, differing: String::new() }
    }

    fn path(&self, case: &str) -> std::path::PathBuf {
        self.dir.path().join(case)
    }

    /// Both tools make credentials of a folder; they must agree on whether, and if not why.
    fn compare(&mut self, case: &str, role: &str, accepted: bool, more: &str) {
        let [ours, real] =
            [Whose::Ours, Whose::Real].map(|whose| make(whose, self.dir.path(), case, role, more));
        let verdict = ours.code == Some(0);
        // Whatever we refuse comes with what to do about it.
        let helps = verdict || ours.stderr.lines().nth(1).is_some_and(|line| line.len() > 20);
        if verdict != accepted || !helps || !ours.agrees_with(&real) {
            self.differing.push_str(&format!("--- {case} {role}\n ours {ours}\n real {real}\n"));
        }
    }

    /// A case of our own folder.
    fn case(&mut self, case: &str, role: &str, cas: &[&Cert], leaf: Option<&Cert>, accepted: bool) {
        folder(&self.path(case), cas, role, leaf);
        self.compare(case, role, accepted, "");
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.differing.is_empty(), "{}", self.differing);
        }
    }
}

fn make(whose: Whose, dir: &Path, case: &str, role: &str, more: &str) -> Ran {
    let line =
        format!("qemu-img info {more} --object tls-creds-x509,id=t,dir={case},endpoint={role} -f raw a.raw");
    let line = match more.strip_prefix("NO-CHECK") {
        Some(_) => format!(
            "qemu-img info --object tls-creds-x509,id=t,dir={case},endpoint={role},sanity-check=off -f raw a.raw"
        ),
        None if more.contains("id=pw") => line.replace("endpoint=", "passwordid=pw,endpoint="),
        None => line,
    };
    whose.run(dir, &line)
}

fn server() -> Shape {
    Shape::server("server")
}

fn client() -> Shape {
    Shape::client("client")
}

#[test]
fn a_ca_must_be_one_and_be_allowed_to_sign() {
    let mut judge = Judge::new();
    let ca = |constraints, usage| Cert::root(&Shape { constraints, usage, ..Shape::ca("CA") });
    for (case, constraints, usage, accepted) in [
        ("perfect", Some((true, true)), Some((true, CERT_SIGN)), true),
        ("goodca1", Some((true, true)), None, true),
        ("goodca2", Some((false, true)), None, true),
        ("goodca3", Some((true, true)), Some((true, CERT_SIGN | CRL_SIGN)), true),
        ("badca1", Some((true, true)), Some((false, SIGNATURE)), false),
        ("badca2", None, None, false),
        ("badca3", Some((true, true)), Some((true, SIGNATURE)), false),
        ("not-a-ca", Some((true, false)), None, false),
    ] {
        let ca = ca(constraints, usage);
        judge.case(&format!("{case}-s"), "server", &[&ca], Some(&Cert::issued(&server(), &ca)), accepted);
        judge.case(&format!("{case}-c"), "client", &[&ca], Some(&Cert::issued(&client(), &ca)), accepted);
    }
}

#[test]
fn a_leaf_must_be_allowed_what_it_is_for() {
    let mut judge = Judge::new();
    let ca = Cert::root(&Shape::ca("CA"));
    for (case, usage, server_purposes, client_purposes, accepted) in [
        ("good1", None, None, None, true),
        ("good2", Some((true, DE | CERT_SIGN)), None, None, true),
        ("good3", Some((false, CERT_SIGN)), None, None, true),
        ("good4", None, Some((true, SERVER)), Some((true, CLIENT)), true),
        ("good5", None, Some((false, SERVER)), Some((false, CLIENT)), true),
        ("good6", None, Some((true, BOTH)), Some((true, BOTH)), true),
        ("good7", None, Some((false, BOTH)), Some((false, BOTH)), true),
        ("any", Some((true, DE)), Some((true, &[Purpose::Any])), Some((true, &[Purpose::Any])), true),
        ("other", Some((true, DE)), Some((false, CLIENT)), Some((false, SERVER)), true),
        ("bad1", Some((true, CERT_SIGN)), None, None, false),
        ("bad2", Some((true, DE)), Some((true, CLIENT)), Some((true, SERVER)), false),
        ("bad3", Some((true, 0)), None, None, false),
        ("bad4", Some((true, ENCIPHERMENT)), None, None, false),
    ] {
        let purposes = server_purposes.map(|(c, list): (bool, &'static [Purpose])| (c, list));
        let leaf = Cert::issued(&Shape { usage, purposes, ..server() }, &ca);
        judge.case(&format!("{case}-s"), "server", &[&ca], Some(&leaf), accepted);
        let purposes = client_purposes.map(|(c, list): (bool, &'static [Purpose])| (c, list));
        let leaf = Cert::issued(&Shape { usage, purposes, ..client() }, &ca);
        judge.case(&format!("{case}-c"), "client", &[&ca], Some(&leaf), accepted);
    }
    for (case, constraints, accepted) in
        [("no-constraints", None, true), ("is-a-ca", Some((true, true)), false)]
    {
        let leaf = Cert::issued(&Shape { constraints, ..server() }, &ca);
        judge.case(case, "server", &[&ca], Some(&leaf), accepted);
    }
}

#[test]
fn an_ecdsa_key_needs_no_leave_to_encipher() {
    // On purpose different from the real tool: such a key cannot encipher.
    let judge = Judge::new();
    let ca = Cert::root(&Shape::ca("CA"));
    let leaf = Cert::issued(&Shape { usage: Some((true, SIGNATURE)), ..server() }, &ca);
    folder(&judge.path("ecdsa"), &[&ca], "server", Some(&leaf));
    assert_eq!(make(Whose::Ours, judge.dir.path(), "ecdsa", "server", "").code, Some(0));
    let real = make(Whose::Real, judge.dir.path(), "ecdsa", "server", "");
    assert!(real.stderr.contains("key encipherment"), "{real}");
}

#[test]
fn certificates_out_of_their_time_are_refused_whoever_they_belong_to() {
    let mut judge = Judge::new();
    for (case, when) in [("expired", When::Past), ("inactive", When::Future)] {
        let ca = Cert::root(&Shape { when, ..Shape::ca("CA") });
        judge.case(&format!("{case}1"), "server", &[&ca], Some(&Cert::issued(&server(), &ca)), false);
        let ca = Cert::root(&Shape::ca("CA"));
        let leaf = Cert::issued(&Shape { when, ..server() }, &ca);
        judge.case(&format!("{case}2"), "server", &[&ca], Some(&leaf), false);
        let leaf = Cert::issued(&Shape { when, ..client() }, &ca);
        judge.case(&format!("{case}3"), "client", &[&ca], Some(&leaf), false);
        let other = Cert::root(&Shape { when, ..Shape::ca("other CA") });
        judge.case(&format!("{case}4"), "server", &[&ca, &other], Some(&Cert::issued(&server(), &ca)), false);
    }
}

#[test]
fn a_leaf_must_lead_to_a_ca_of_the_file() {
    let mut judge = Judge::new();
    let root = Cert::root(&Shape::ca("root"));
    let a1 = Cert::issued(&Shape::ca("level 1a"), &root);
    let b1 = Cert::issued(&Shape::ca("level 1b"), &root);
    let a2 = Cert::issued(&Shape::ca("level 2a"), &a1);
    let all = [&root, &a1, &b1, &a2];
    judge.case("chain1", "server", &all, Some(&Cert::issued(&server(), &a2)), true);
    judge.case("chain2", "client", &all, Some(&Cert::issued(&client(), &b1)), true);
    judge.case("anchor", "server", &[&a2], Some(&Cert::issued(&server(), &a2)), true);
    judge.case("gap", "server", &[&root], Some(&Cert::issued(&server(), &a2)), false);
    judge.case(
        "stranger",
        "client",
        &[&root],
        Some(&Cert::issued(&client(), &Cert::root(&Shape::ca("other")))),
        false,
    );
    // The same name, another key.
    let twin = Cert::root(&Shape::ca("root"));
    let leaf = Cert::issued(&server(), &twin);
    folder(&judge.path("twin"), &[&root], "server", Some(&leaf));
    let [ours, real] =
        [Whose::Ours, Whose::Real].map(|whose| make(whose, judge.dir.path(), "twin", "server", ""));
    assert!(ours.code == Some(1) && real.code == Some(1), "{ours} {real}");
}

#[test]
fn certificates_between_may_stand_in_the_file_of_the_leaf() {
    // On purpose different from the real tool, which looks at the first one only.
    let judge = Judge::new();
    let root = Cert::root(&Shape::ca("root"));
    let between = Cert::issued(&Shape::ca("between"), &root);
    let leaf = Cert::issued(&server(), &between);
    folder(&judge.path("bundle"), &[&root], "server", Some(&leaf));
    let both = leaf.pem() + &between.pem();
    std::fs::write(judge.path("bundle/server-cert.pem"), both).expect("a file can be written");
    assert_eq!(make(Whose::Ours, judge.dir.path(), "bundle", "server", "").code, Some(0));
}

#[test]
fn a_missing_or_damaged_file_is_named() {
    let mut judge = Judge::new();
    let ca = Cert::root(&Shape::ca("CA"));
    let leaf = Cert::issued(&server(), &ca);
    for (case, role, name, text, accepted) in [
        ("missingca", "server", "ca-cert.pem", None, false),
        ("missingserver", "server", "server-cert.pem", None, false),
        ("missingkey", "server", "server-key.pem", None, false),
        ("missingclientca", "client", "ca-cert.pem", None, false),
        ("rubbish", "server", "server-cert.pem", Some("rubbish"), false),
        (
            "broken",
            "server",
            "server-cert.pem",
            Some("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"),
            false,
        ),
        ("key", "server", "server-key.pem", Some("rubbish"), false),
        ("dh", "server", "dh-params.pem", Some("rubbish"), false),
        ("clientdh", "client", "dh-params.pem", Some("rubbish"), true),
    ] {
        folder(&judge.path(case), &[&ca], role, Some(&leaf));
        let path = judge.path(case).join(name);
        match text {
            Some(text) => std::fs::write(path, text).expect("a file can be written"),
            None => std::fs::remove_file(path).expect("the file is there"),
        }
        if role == "client" && accepted {
            let leaf = Cert::issued(&client(), &ca);
            folder(&judge.path(case), &[&ca], role, Some(&leaf));
        }
        judge.compare(case, role, accepted, "");
    }
    judge.case("missingclient", "client", &[&ca], None, true);
    // Refused by both; which words the list that is no list deserves, each has its own.
    folder(&judge.path("crl"), &[&ca], "server", Some(&leaf));
    std::fs::write(judge.path("crl/ca-crl.pem"), "rubbish").expect("a file can be written");
    let ours = make(Whose::Ours, judge.dir.path(), "crl", "server", "");
    assert!(ours.stderr.contains("Cannot load CRL 'crl/ca-crl.pem'"), "{ours}");
}

#[test]
fn a_key_that_belongs_to_another_certificate_is_told() {
    let mut judge = Judge::new();
    let ca = Cert::root(&Shape::ca("CA"));
    folder(&judge.path("pair"), &[&ca], "server", Some(&Cert::issued(&server(), &ca)));
    std::fs::write(judge.path("pair/server-key.pem"), ca.key_pem()).expect("a file can be written");
    judge.compare("pair", "server", false, "");
}

#[test]
fn nothing_is_checked_when_the_user_says_so() {
    let mut judge = Judge::new();
    let ca = Cert::root(&Shape { when: When::Past, ..Shape::ca("CA") });
    folder(&judge.path("unchecked"), &[&ca], "server", Some(&Cert::issued(&server(), &ca)));
    judge.compare("unchecked", "server", true, "NO-CHECK");
}

#[test]
fn encrypted_keys_open_with_their_password() {
    let mut judge = Judge::new();
    let ca = Cert::root(&Shape::ca("CA"));
    let leaf = Cert::issued(&server(), &ca);
    folder(&judge.path("plain"), &[&ca], "server", Some(&leaf));
    let openssl = |args: &str| {
        let mut command = std::process::Command::new("openssl");
        command.args(args.split(' ')).current_dir(judge.dir.path());
        Ran::of(&mut command).ok();
    };
    let forms = [
        ("pbes2", "pkcs8 -topk8 -v2 aes-256-cbc"),
        ("pbes2-sha1", "pkcs8 -topk8 -v2 aes-128-cbc -v2prf hmacWithSHA1"),
        ("pbes2-3des", "pkcs8 -topk8 -v2 des3"),
        ("pkcs12", "pkcs8 -topk8 -v1 PBE-SHA1-3DES"),
        ("legacy", "ec -aes256"),
        ("legacy-3des", "ec -des3"),
    ];
    for (name, how) in forms {
        folder(&judge.path(name), &[&ca], "server", Some(&leaf));
        openssl(&format!(
            "{how} -in plain/server-key.pem -out {name}/server-key.pem -passout pass:swordfish"
        ));
    }
    for (name, _) in forms {
        judge.compare(name, "server", true, "--object secret,id=pw,data=swordfish");
        judge.compare(name, "server", false, "--object secret,id=pw,data=trout");
        judge.compare(name, "server", false, "");
    }
    // A password nobody needs does no harm.
    judge.compare("plain", "server", true, "--object secret,id=pw,data=swordfish");
}
