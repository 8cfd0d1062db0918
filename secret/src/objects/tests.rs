//! Objects as users make them. The messages were compared with those of QEMU 10.0's tools.

use super::*;
use linux_keyutils::{Key, KeyError, KeyPermissionsBuilder, KeyRing, KeyRingIdentifier, Permission};
use std::io::Write;

const MASTER: &str = "secret,id=master,data=9miloPQCzGy+TL6aonfzVcptibCmCIhKzrnlfwiWivk=,format=base64";
const IV: &str = "0I7Gw/TKuA+Old2W2apQ3g==";
const CIPHERTEXT: [u8; 16] =
    [0xcc, 0xbf, 0xf7, 0x09, 0x46, 0x19, 0x0b, 0x52, 0x2a, 0x3a, 0xb4, 0x6b, 0xcd, 0x7a, 0xb0, 0xb0];

fn registry(args: &[&str]) -> Result<Registry> {
    let mut registry = Registry::new([OBJECT_TYPES]);
    for arg in args {
        assert_eq!(registry.add(arg)?, Added::Object, "{arg}");
    }
    Ok(registry)
}

fn error(args: &[&str]) -> String {
    registry(args).unwrap_err().to_string()
}

/// The text of the secret `id`, once the objects are made.
fn text(args: &[&str], id: &str) -> String {
    registry(args).unwrap().secret(id).unwrap().as_utf8().unwrap().to_owned()
}

fn check(cases: &[(&str, &str)]) {
    for (arg, want) in cases {
        assert_eq!(error(&[arg]), *want, "{arg}");
    }
}

fn file(contents: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(contents).unwrap();
    file
}

fn from_file(contents: &[u8], options: &str) -> Result<Registry> {
    let file = file(contents);
    registry(&[MASTER, &format!("secret,id=sec0,file={},iv={IV}{options}", file.path().display())])
}

#[test]
fn a_secret_is_text_or_the_contents_of_a_file_as_they_are() {
    assert_eq!(text(&["secret,id=sec0,data=123456"], "sec0"), "123456");
    assert_eq!(text(&["secret,id=sec0,data=a,,b,"], "sec0"), "a,b");
    assert_eq!(text(&["secret,id=sec0,data="], "sec0"), "");
    for contents in [&b"123456"[..], b"", b"123456\n", b"\xff\0\n"] {
        let registry = from_file(contents, "").unwrap();
        assert_eq!(registry.secret("sec0").unwrap().as_bytes(), contents);
    }
}

#[test]
fn a_secret_has_exactly_one_origin() {
    check(&[
        ("secret,id=a", "Either 'file' or 'data' must be provided"),
        ("secret,id=a,data=x,file=y", "'file' and 'data' are mutually exclusive"),
        (
            "secret,id=a,file=/nope",
            "Unable to read /nope: Failed to open file “/nope”: No such file or directory",
        ),
        ("secret,id=a,file=", "Unable to read : Failed to open file “”: No such file or directory"),
        ("secret,id=a,file=/", "Unable to read /: Error reading file “/”: Is a directory"),
        ("secret,id=a,file=/dev/zero", "Unable to read /dev/zero: File “/dev/zero” is too large"),
    ]);
}

#[test]
fn base64_is_decoded_and_text_is_asked_for_only_when_needed() {
    assert_eq!(text(&["secret,id=a,data=MTIzNDU2,format=base64"], "a"), "123456");
    assert_eq!(text(&["secret,id=a,data=123456,format=raw"], "a"), "123456");
    let registry = registry(&["secret,id=a,data=f0VMRgIBAQAAAA==,format=base64"]).unwrap();
    let secret = registry.secret("a").unwrap();
    assert_eq!(secret.as_bytes(), b"\x7fELF\x02\x01\x01\0\0\0");
    assert_eq!(secret.as_utf8().unwrap_err().to_string(), "Data from secret a is not valid UTF-8");
}

#[test]
fn base64_is_as_lenient_as_in_qemu() {
    for (given, want) in [
        ("", &b""[..]),
        ("MTIz\n", b"123"),
        ("M\nT\n\nIz", b"123"),
        ("cHc=", b"pw"),
        ("cHc", b""),
        ("MTIzcHc", b"123"),
        ("cHc=MTIz", b"pw123"),
        ("MT=z", b"13"),
        ("====", b"\0"),
        ("MTIzN===", b"1234"),
    ] {
        let file = from_file(given.as_bytes(), ",format=base64").unwrap();
        assert_eq!(file.secret("sec0").unwrap().as_bytes(), want, "{given:?}");
    }
    for bad in [&b"MTI$NDU2"[..], b"MTIz NDU2", b"MTIz\r\n", b"MTI-", b"MTI_", b"\xff"] {
        let e = from_file(bad, ",format=base64").unwrap_err();
        assert_eq!(e.to_string(), "Base64 data contains invalid characters");
        assert!(e.hint().unwrap().contains("option 'file' of object 'sec0'"));
    }
    for bad in [&b"MTIz\0"[..], b"a\0$", b"$\0"] {
        let e = from_file(bad, ",format=base64").unwrap_err();
        assert_eq!(e.to_string(), "Base64 data contains embedded NUL characters");
    }
}

#[test]
fn an_encrypted_secret_is_decrypted_with_another() {
    let inline = format!("secret,id=sec0,keyid=master,format=base64,data=zL/3CUYZC1IqOrRrzXqwsA==,iv={IV}");
    assert_eq!(text(&[MASTER, &inline], "sec0"), "123456");
    let raw = from_file(&CIPHERTEXT, ",keyid=master").unwrap();
    assert_eq!(raw.secret("sec0").unwrap().as_bytes(), b"123456");
    // No data at all decrypts to no data.
    assert_eq!(text(&[MASTER, &format!("secret,id=sec0,keyid=master,data=,iv={IV}")], "sec0"), "");
}

/// Made with `openssl enc -aes-256-cbc -a -K … -iv …`, as QEMU's documentation says, from the keys 00…1f and 20…3f
/// (hexadecimal) and the iv f0…ff.
#[test]
fn what_openssl_encrypted_is_decrypted_and_keys_can_be_chained() {
    let key = "secret,id=m,format=base64,data=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
    let iv = "8PHy8/T19vf4+fr7/P3+/w==\n";
    let sec = |id: &str, keyid: &str, data: &str| {
        format!("secret,id={id},keyid={keyid},format=base64,data={data},iv={iv}")
    };
    let chained = [
        key,
        &sec("second", "m", "KlxXOJ/NpJ5x8GkhmLcCRCsrxEvo2Iefo7VtB+KeVZ2Dln0q48cfz2ivkgiLf9Eg"),
        &sec("sec0", "second", "3PQqS2AfD0rhAcbgFjLYhQ=="),
        &sec("sec1", "m", "yCQNd5rVsSt/rF//LDxyMg=="),
    ];
    assert_eq!(text(&chained, "sec0"), "letmein");
    assert_eq!(text(&chained, "sec1"), "letmein");
}

#[test]
fn what_is_wrong_with_a_key_or_its_use_is_named() {
    let short = "secret,id=master,data=9miloPQCzGy+TL6aonfzVc,format=base64";
    for (key, options, want, names) in [
        (
            short,
            "data=0123456789abcdef,iv=0I7Gw/TKuA+Old2W2apQ3g==",
            "Key should be 32 bytes in length",
            "'master'",
        ),
        (MASTER, "data=0123456789abcdef", "IV is required to decrypt secret", "'sec0'"),
        (
            MASTER,
            "data=0123456789abcdef,iv=",
            "IV should be 16 bytes in length not 0",
            "'iv' of object 'sec0'",
        ),
        (
            MASTER,
            "data=0123456789abcdef,iv=0I7Gw/TKuA+Old2W2a",
            "IV should be 16 bytes in length not 12",
            "'iv' of object 'sec0'",
        ),
        (
            MASTER,
            "data=0123456789abcdef,iv=0I7Gw/TKuA+Old2W2apQ3$==",
            "Base64 data contains invalid characters",
            "'iv' of object 'sec0'",
        ),
        (
            MASTER,
            "data=zL/3CUYZC1IqOrRrzXqwsA==,iv=0I7Gw/TKuA+Old2W2apQ3g==",
            "Length 24 must be a multiple of block size 16",
            "'sec0'",
        ),
        (
            MASTER,
            "data=0123456789abcdef,iv=0I7Gw/TKuA+Old2W2apQ3g==",
            "Incorrect number of padding bytes (160) found on decrypted data",
            "'master'",
        ),
    ] {
        let e = registry(&[key, &format!("secret,id=sec0,keyid=master,{options}")]).unwrap_err();
        assert_eq!(e.to_string(), want);
        assert!(e.hint().unwrap().contains(names), "{:?}", e.hint());
    }
}

#[test]
fn a_missing_key_object_and_a_cycle_are_named() {
    let e = registry(&["secret,id=a,data=x,keyid=b"]).unwrap_err();
    assert_eq!(e.to_string(), "No secret with id 'b'");
    assert!(e.hint().unwrap().contains("put the --object of 'b' before that of 'a'"));
    let e = registry(&["secret,id=a,data=x,keyid=a"]).unwrap_err();
    assert_eq!(e.to_string(), "Secret with id 'a' has no data");
    assert!(e.hint().unwrap().contains("'a' cannot decrypt itself"));
    let e = registry(&["secret,id=a,data=x"]).unwrap().secret("b").map(|_| ()).unwrap_err();
    assert_eq!((e.to_string().as_str(), e.kind()), ("No secret with id 'b'", Kind::NotFound));
}

/// The padding is judged by its last byte alone; no padding at all is accepted.
#[test]
fn the_last_byte_tells_how_much_padding_there_is() {
    for (last, left) in [(0, Some(16)), (1, Some(15)), (16, Some(0)), (17, None), (255, None)] {
        // Changing the iv changes the plaintext of a single block in the same places; it ends in 10 bytes of 10.
        let mut iv =
            [0xd0, 0x8e, 0xc6, 0xc3, 0xf4, 0xca, 0xb8, 0x0f, 0x8e, 0x95, 0xdd, 0x96, 0xd9, 0xaa, 0x50, 0xde];
        iv[15] ^= 10 ^ last;
        let iv = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, iv);
        let made = from_file(&CIPHERTEXT, &format!(",keyid=master,iv={iv}"));
        match left {
            Some(len) => assert_eq!(made.unwrap().secret("sec0").unwrap().as_bytes().len(), len),
            None => assert_eq!(
                made.unwrap_err().to_string(),
                format!("Incorrect number of padding bytes ({last}) found on decrypted data")
            ),
        }
    }
}

#[test]
fn only_text_without_nul_is_a_passphrase_for_creating() {
    for bad in [&b"\xff"[..], b"a\0b", b"abc\0", b"\xc0\x80"] {
        let registry = from_file(bad, "").unwrap();
        let e = registry.secret("sec0").unwrap().as_utf8().unwrap_err();
        assert_eq!(e.to_string(), "Data from secret sec0 is not valid UTF-8");
    }
}

#[test]
fn ids_are_identifiers_and_used_once() {
    check(&[
        ("secret,data=x", "Parameter 'id' is missing"),
        ("secret,id=,data=x", "Parameter 'id' expects an identifier"),
        ("secret,id=1a,data=x", "Parameter 'id' expects an identifier"),
        ("secret,id=a b,data=x", "Parameter 'id' expects an identifier"),
        ("secret,id=é,data=x", "Parameter 'id' expects an identifier"),
        ("secret,id.x=a,data=x", "Parameters 'id.*' are unexpected"),
    ]);
    assert!(registry(&["secret,id=a.b-c_9,data=x"]).is_ok());
    let twice = ["secret,id=a,data=x", "secret,id=a,file=/nope"];
    assert_eq!(error(&twice), "attempt to add duplicate property 'a' to object (type 'container')");
}

#[test]
fn options_that_do_not_exist_or_fit_are_named() {
    check(&[
        ("secret,id=a,data=x,oops=1", "Parameter 'oops' is unexpected"),
        ("secret,id=a,data=x,oops", "Expected '=' after parameter 'oops'"),
        ("secret,id=a,data=x,format=hex", "Parameter 'format' does not accept value 'hex'"),
        ("secret,id=a,data.foo=y", "Parameters 'data.*' are unexpected"),
        ("secret,id=a,data=3,data.foo=y", "Parameters 'data.*' used inconsistently"),
    ]);
}

#[test]
fn the_first_mistake_in_the_order_of_qemu_is_told() {
    check(&[
        ("foo,id=1", "Parameter 'qom-type' does not accept value 'foo'"),
        ("secret,oops=1,format=hex", "Parameter 'id' is missing"),
        ("secret,oops=1,format=hex,id=1", "Parameter 'format' does not accept value 'hex'"),
        ("secret,oops=1,id=1", "Parameter 'oops' is unexpected"),
        ("secret_keyring,id=1", "Parameter 'serial' is missing"),
        ("secret_keyring,id=1,serial=0", "Parameter 'id' expects an identifier"),
    ]);
    assert_eq!(error(&[MASTER, "secret,id=master,oops=1"]), "Parameter 'oops' is unexpected");
}

#[test]
fn a_type_is_named_first_or_by_its_key() {
    check(&[
        ("", "Parameter 'qom-type' is missing"),
        ("id=a,data=x", "Parameter 'qom-type' is missing"),
        ("foo,id=a", "Parameter 'qom-type' does not accept value 'foo'"),
    ]);
    assert_eq!(text(&["qom-type=secret,id=a,data=x"], "a"), "x");
    assert_eq!(text(&["foo,qom-type=secret,id=a,data=x"], "a"), "x");
}

#[test]
fn a_type_of_qemu_that_we_do_not_have_is_refused_with_what_there_is_instead() {
    let e = registry(&["iothread,id=a"]).unwrap_err();
    assert_eq!(e.to_string(), "Object type 'iothread' is not available");
    assert_eq!(e.kind(), Kind::Unsupported);
    assert!(e.hint().unwrap().contains("taskset"));
    let e = registry(&["foo,id=a"]).unwrap_err();
    let hint = e.hint().unwrap();
    assert!(
        hint.starts_with("There are: authz-list, ") && hint.contains(", secret, secret_keyring, "),
        "{hint}"
    );
}

#[test]
fn json_makes_the_same_objects() {
    assert_eq!(text(&[r#"{"qom-type": "secret", "id": "a", "data": "x,y"}"#], "a"), "x,y");
    assert_eq!(text(&["{'qom-type': 'secret', 'id': 'a', 'data': 'x'} "], "a"), "x");
    check(&[
        ("{}", "Parameter 'qom-type' is missing"),
        ("{", "JSON parse error, premature EOI"),
        ("{}x", "Expecting at most one JSON value"),
        (r#"{"qom-type":"secret"}"#, "Parameter 'id' is missing"),
        (r#"{"qom-type":"secret","id":5}"#, "Invalid parameter type for 'id', expected: string"),
        (r#"{"qom-type":"secret","id":"a","data":5}"#, "Invalid parameter type for 'data', expected: string"),
        (
            r#"{"qom-type":"secret","id":"a","data":null}"#,
            "Invalid parameter type for 'data', expected: string",
        ),
        (r#"{"qom-type":"secret","id":"a","data":"x","b.c":5}"#, "Parameter 'b.c' is unexpected"),
        (r#"{"qom-type":"secret","id":"a","data":"x","data":"y"}"#, "JSON parse error, duplicate key"),
        (
            r#"{"qom-type":"secret_keyring","id":"a","serial":"1"}"#,
            "Invalid parameter type for 'serial', expected: integer",
        ),
    ]);
}

#[test]
fn help_lists_types_and_options() {
    let help = |arg: &str| match Registry::new([OBJECT_TYPES, &[THING]]).add(arg).unwrap() {
        Added::Help(text) => text,
        Added::Object => panic!("{arg} made an object"),
    };
    let types = help("help");
    assert!(types.starts_with("List of user creatable objects:\n  authz-list\n"), "{types}");
    assert!(types.contains("\n  secret\n  secret_keyring\n  thing\n"), "{types}");
    assert_eq!(help("foo,help"), types);
    let options = "secret options:\n  cmd=<list>\n  credential=<string>\n  data=<string>\n  file=<string>\n  \
                   format=<QCryptoSecretFormat>\n  iv=<string>\n  keyid=<string>\n  offset=<size>\n  size=<size>\n";
    assert_eq!(help("secret,?"), options);
    assert_eq!(help("secret,id=a,help"), options);
}

#[test]
fn every_option_that_help_lists_exists() {
    for row in OBJECT_TYPES {
        for (option, _) in row.options {
            let made = registry(&[&format!("{},id=a,{option}=", row.name)]);
            let e = made.err().map(|e| e.to_string()).unwrap_or_default();
            assert!(!e.contains("unexpected"), "{}: {e}", row.name);
        }
    }
}

#[test]
fn arguments_that_are_not_text_are_refused() {
    let bytes: &OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"secret,id=a,data=\xff");
    let e = Registry::new([OBJECT_TYPES]).add(bytes).unwrap_err();
    assert!(e.hint().unwrap().contains("file="));
}

#[derive(Debug)]
struct Thing(u32);
impl Object for Thing {}

const THING: ObjectType = ObjectType {
    name: "thing",
    options: &[("size", "int")],
    create: |request| {
        #[derive(serde::Deserialize)]
        struct ThingOptions {
            size: u32,
        }
        Ok(Box::new(Thing(request.parse::<ThingOptions>()?.size)))
    },
};

#[test]
fn other_crates_contribute_types() {
    let mut registry = Registry::new([OBJECT_TYPES, &[THING]]);
    for arg in ["thing,id=t,size=0x10", "secret,id=s,data=x"] {
        assert_eq!(registry.add(arg).unwrap(), Added::Object);
    }
    assert_eq!(registry.get::<Thing>("t").unwrap().0, 16);
    assert!(registry.get::<Thing>("s").is_none() && registry.get::<Secret>("t").is_none());
    assert_eq!(registry.iter().map(|(id, _)| id).collect::<Vec<_>>(), ["t", "s"]);
    assert_eq!(registry.secret("t").unwrap_err().to_string(), "Object with id 't' is not a secret");
    let e = registry.add("secret,id=u,keyid=t,data=x").unwrap_err();
    assert_eq!(e.to_string(), "Object with id 't' is not a secret");
}

#[test]
fn a_secret_knows_where_it_came_from() {
    let inline = registry(&["secret,id=a,data=x"]).unwrap();
    assert_eq!(*inline.secret("a").unwrap().source(), Source::Inline);
    assert!(inline.exposure().unwrap().starts_with("secret 'a' is on the command line"));
    let file = file(b"9miloPQCzGy+TL6aonfzVcptibCmCIhKzrnlfwiWivk=");
    let path = file.path().to_str().unwrap();
    let key = format!("secret,id=master,format=base64,file={path}");
    let encrypted = format!("secret,id=s,keyid=master,format=base64,data=zL/3CUYZC1IqOrRrzXqwsA==,iv={IV}");
    let scheme = registry(&[&key, &encrypted]).unwrap();
    assert_eq!(*scheme.secret("master").unwrap().source(), Source::File(path.to_owned()));
    assert_eq!(*scheme.secret("s").unwrap().source(), Source::InlineEncrypted);
    assert_eq!(scheme.exposure(), None);
}

#[test]
fn a_line_end_is_part_of_the_secret_and_can_be_told() {
    for (contents, line) in [
        (&b"pw\n"[..], Some(&b"pw"[..])),
        (b"pw\r\n", Some(b"pw")),
        (b"\n", Some(b"")),
        (b"pw", None),
        (b"", None),
    ] {
        assert_eq!(from_file(contents, "").unwrap().secret("sec0").unwrap().without_line_end(), line);
    }
}

#[test]
fn secrets_are_not_printed() {
    let registry = registry(&[MASTER, "secret,id=a,data=swordfish"]).unwrap();
    let printed = format!("{registry:?}");
    assert!(printed.contains("master") && !printed.contains("swordfish"), "{printed}");
    assert!(registry.secret("a").unwrap().ct_eq(b"swordfish"));
    assert!(!registry.secret("a").unwrap().ct_eq(b"swordfisH"));
}

/// A user key in the keyring of this process; `None` where the machine has no keyrings.
fn user_key(description: &str, payload: &[u8]) -> Option<Key> {
    let ring = KeyRing::from_special_id(KeyRingIdentifier::Process, true);
    match ring.and_then(|ring| ring.add_key(description, payload)) {
        Ok(key) => Some(key),
        Err(KeyError::PermissionDenied | KeyError::Unknown(nix::libc::ENOSYS)) => {
            eprintln!("skipped: this machine forbids keyrings");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn a_key_of_the_kernel_is_copied_when_the_object_is_made() {
    let Some(key) = user_key("good", b"Test Payload") else { return };
    let serial = key.get_id().as_raw_id();
    for spelling in [format!("{serial}"), format!("0x{serial:08x}")] {
        assert_eq!(text(&[&format!("secret_keyring,id=a,serial={spelling}")], "a"), "Test Payload");
    }
    let made = registry(&[&format!("secret_keyring,id=a,serial={serial}")]).unwrap();
    key.invalidate().unwrap();
    let secret = made.secret("a").unwrap();
    assert_eq!((secret.as_bytes(), secret.source()), (&b"Test Payload"[..], &Source::Keyring(serial)));
}

#[test]
fn a_key_that_cannot_be_read_says_why() {
    let Some(revoked) = user_key("revoked", b"x") else { return };
    let unreadable = user_key("unreadable", b"x").unwrap();
    let long = user_key("long", &[b'x'; 5000]).unwrap();
    revoked.revoke().unwrap();
    unreadable.set_perms(KeyPermissionsBuilder::builder().posessor(Permission::VIEW).build()).unwrap();
    for (key, want) in [(revoked, "Key has been revoked"), (unreadable, "Permission denied")] {
        let serial = key.get_id().as_raw_id();
        let want = format!("Unable to read serial key {serial:08x}: {want}");
        assert_eq!(error(&[&format!("secret_keyring,id=a,serial={serial}")]), want);
    }
    let serial = long.get_id().as_raw_id();
    assert_eq!(text(&[&format!("secret_keyring,id=a,serial={serial}")], "a").len(), 5000);
    check(&[
        ("secret_keyring,id=a,serial=1", "Unable to read serial key 00000001: Required key not available"),
        ("secret_keyring,id=a,serial=-1", "Unable to read serial key ffffffff: Required key not available"),
    ]);
}

#[test]
fn a_serial_is_a_number_other_than_zero() {
    check(&[
        ("secret_keyring,id=a", "Parameter 'serial' is missing"),
        ("secret_keyring,id=a,serial=0", "'serial' should not be equal to 0"),
        ("secret_keyring,id=a,serial=x", "Parameter 'serial' expects integer"),
        ("secret_keyring,id=a,serial=08", "Parameter 'serial' expects integer"),
        ("secret_keyring,id=a,serial=0x80000000", "Parameter 'serial' expects int32_t"),
        ("secret_keyring,id=a,serial=5,data=x", "Parameter 'data' is unexpected"),
    ]);
}
