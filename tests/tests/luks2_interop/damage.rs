//! Headers that are wrong, one generated from a good one for each way to be wrong, put before cryptsetup and us.
//!
//! Whatever cryptsetup refuses we refuse, by name, and what it repairs we repair. Where we refuse more, that is said.

use crate::shape::{Kdf, Shape, shapes};
use crate::{bench, create_ours};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tests::Whose::Ours;
use tests::luks::Bench;

const COPY: usize = 16384;

/// A header, as bytes of the whole file.
pub(crate) struct Image(pub(crate) Vec<u8>);

impl Image {
    /// The metadata.
    pub(crate) fn json(&self) -> Value {
        let area = &self.0[4096..COPY];
        serde_json::from_slice(area.split(|byte| *byte == 0).next().unwrap()).unwrap()
    }

    /// Puts a JSON area into both copies, with right checksums.
    pub(crate) fn put(&mut self, text: &[u8]) {
        for at in [0, COPY] {
            let area = &mut self.0[at + 4096..at + COPY];
            area.fill(0);
            let len = text.len().min(area.len());
            area[..len].copy_from_slice(&text[..len]);
        }
        self.seal();
    }

    /// Makes both checksums right.
    fn seal(&mut self) {
        [0, COPY].into_iter().for_each(|at| self.seal_at(at));
    }

    fn seal_at(&mut self, at: usize) {
        self.0[at + 448..at + 512].fill(0);
        let sum = Sha256::digest(&self.0[at..at + COPY]);
        self.0[at + 448..at + 480].copy_from_slice(&sum);
    }
}

/// What is to become of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// As cryptsetup has it: both open it, or neither does.
    Same,
    /// We refuse what cryptsetup takes.
    Stricter,
}
use Verdict::{Same, Stricter};

type Edit = Box<dyn Fn(&mut Value)>;

fn edits() -> Vec<(&'static str, Verdict, Edit)> {
    let mut list: Vec<(&'static str, Verdict, Edit)> = Vec::new();
    let mut set = |what, verdict, pointer: &'static str, value: Value| {
        list.push((
            what,
            verdict,
            Box::new(move |json: &mut Value| {
                let (parent, name) = pointer.rsplit_once('/').unwrap();
                json.pointer_mut(parent).unwrap()[name] = value.clone();
            }),
        ));
    };
    set("offset no text", Same, "/segments/0/offset", json!(16_777_216));
    set("offset with sign", Same, "/segments/0/offset", json!("+16777216"));
    set("offset in hex", Same, "/segments/0/offset", json!("0x1000000"));
    set("offset with zeroes", Same, "/segments/0/offset", json!("016777216"));
    set("offset odd", Same, "/segments/0/offset", json!("16777217"));
    set("offset in the header", Same, "/segments/0/offset", json!("4096"));
    set("offset behind the file", Stricter, "/segments/0/offset", json!("167772160000"));
    set("offset behind all files", Stricter, "/segments/0/offset", json!("18446744073709551104"));
    set("offset beyond 64 bits", Same, "/segments/0/offset", json!("18446744073709551616"));
    set("size 0", Same, "/segments/0/size", json!("0"));
    set("size no sectors", Same, "/segments/0/size", json!("512"));
    set("size behind the file", Stricter, "/segments/0/size", json!("1099511627776"));
    set("size overflowing", Stricter, "/segments/0/size", json!("18446744073709547520"));
    set("sector 3", Same, "/segments/0/sector_size", json!(3));
    set("sector 0", Same, "/segments/0/sector_size", json!(0));
    set("sector 8192", Stricter, "/segments/0/sector_size", json!(8192));
    set("segment type", Stricter, "/segments/0/type", json!("foo"));
    set("no cipher", Same, "/segments/0/encryption", json!(""));
    set("unknown cipher", Stricter, "/segments/0/encryption", json!("foo-bar"));
    set("null cipher", Stricter, "/segments/0/encryption", json!("cipher_null-ecb"));
    set(
        "integrity",
        Stricter,
        "/segments/0/integrity",
        json!({"type": "hmac(sha256)", "journal_encryption": "none", "journal_integrity": "none"}),
    );
    set("IV offset a number", Same, "/segments/0/iv_tweak", json!(0));
    set("digest without segment", Same, "/digests/0/segments", json!([]));
    set("digest without slot", Same, "/digests/0/keyslots", json!([]));
    set("digest of a slot that is not", Same, "/digests/0/keyslots", json!(["0", "7"]));
    set("digest of a segment that is not", Same, "/digests/0/segments", json!(["0", "7"]));
    set("digest without iterations", Same, "/digests/0/iterations", json!(0));
    set("digest salt", Same, "/digests/0/salt", json!("???"));
    set("digest type", Same, "/digests/0/type", json!("foo"));
    set("slot type", Same, "/keyslots/0/type", json!("foo"));
    set("splitter hash", Same, "/keyslots/0/af/hash", json!("foo"));
    set("splitter type", Same, "/keyslots/0/af/type", json!("foo"));
    set("area at 0", Same, "/keyslots/0/area/offset", json!("0"));
    set("area over the payload", Same, "/keyslots/0/area/offset", json!("16777216"));
    set("area beyond all files", Same, "/keyslots/0/area/offset", json!("18446744073709551104"));
    set("area too small", Stricter, "/keyslots/0/area/size", json!("4096"));
    set("area key size", Same, "/keyslots/0/area/key_size", json!(7));
    set("area type", Same, "/keyslots/0/area/type", json!("foo"));
    set("no key", Same, "/keyslots/0/key_size", json!(0));
    set("short key", Same, "/keyslots/0/key_size", json!(32));
    set("huge key", Same, "/keyslots/0/key_size", json!(u32::MAX));
    set("priority 3", Same, "/keyslots/0/priority", json!(3));
    set("priority 0", Same, "/keyslots/0/priority", json!(0));
    set("priority 2", Same, "/keyslots/0/priority", json!(2));
    set("unknown KDF", Same, "/keyslots/0/kdf/type", json!("foo"));
    set("no passes", Same, "/keyslots/0/kdf/time", json!(0));
    set("little memory", Same, "/keyslots/0/kdf/memory", json!(1));
    set("4 TiB of memory", Same, "/keyslots/0/kdf/memory", json!(u32::MAX));
    set("no lanes", Same, "/keyslots/0/kdf/cpus", json!(0));
    set("short salt", Same, "/keyslots/0/kdf/salt", json!("AAAA"));
    set("json_size", Same, "/config/json_size", json!("12289"));
    set("keyslots_size odd", Same, "/config/keyslots_size", json!("4095"));
    set("keyslots_size huge", Same, "/config/keyslots_size", json!("134221824"));
    set("keyslots_size over the payload", Same, "/config/keyslots_size", json!("16748544"));
    set("unknown flag", Same, "/config/flags", json!(["foo"]));
    set("optional requirement", Same, "/config/requirements", json!({"optional": ["foo"]}));
    set("unknown requirement", Stricter, "/config/requirements", json!({"mandatory": ["foo"]}));
    set("unknown token", Same, "/tokens/0", json!({"type": "foo", "keyslots": ["0"]}));
    set("token of a slot that is not", Same, "/tokens/0", json!({"type": "foo", "keyslots": ["9"]}));
    set("token without type", Same, "/tokens/0", json!({"keyslots": []}));
    set("unknown member", Same, "/foo", json!({"a": [1]}));
    set(
        "slot twice in the area",
        Same,
        "/keyslots/1",
        json!({"type": "luks2", "key_size": 64, "af": {"type": "luks1", "stripes": 4000, "hash": "sha256"}, "area": {"type": "raw", "offset": "32768", "size": "258048", "encryption": "aes-xts-plain64", "key_size": 64}, "kdf": {"type": "pbkdf2", "hash": "sha256", "iterations": 1000, "salt": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}}),
    );
    for section in ["keyslots", "tokens", "segments", "digests", "config"] {
        list.push((
            "a section missing",
            Same,
            Box::new(move |json| drop(json.as_object_mut().unwrap().remove(section))),
        ));
    }
    list.push(("no segment", Same, Box::new(|json| json["segments"] = json!({}))));
    list.push(("segment 01", Same, Box::new(|json| json["segments"] = json!({"01": json["segments"]["0"]}))));
    list.push((
        "segments with a gap",
        Same,
        Box::new(|json| {
            json["segments"] = json!({"1": json["segments"]["0"]});
            json["digests"]["0"]["segments"] = json!(["1"]);
        }),
    ));
    list.push((
        "slot in two digests",
        Same,
        Box::new(|json| {
            json["digests"]["1"] = json["digests"]["0"].clone();
            json["digests"]["1"]["segments"] = json!([]);
        }),
    ));
    list
}

/// Texts in the JSON area, made from the right one.
fn texts(good: &str) -> Vec<(&'static str, Verdict, Vec<u8>)> {
    let nested = |levels: usize| {
        let nest = format!("\"x\":{}{}", "[".repeat(levels), "]".repeat(levels));
        format!("{},{nest}}}", &good[..good.len() - 1]).into_bytes()
    };
    let padded = |len: usize| {
        let mut text = good.as_bytes().to_vec();
        text.resize(len, b' ');
        text
    };
    vec![
        ("text unchanged", Same, good.as_bytes().to_vec()),
        ("31 levels", Same, nested(31)),
        ("32 levels", Same, nested(32)),
        ("4000 levels", Same, nested(4000)),
        ("text behind", Same, format!("{good}x").into_bytes()),
        ("text behind a NUL", Same, format!("{good}\0x").into_bytes()),
        ("blank in front", Same, format!(" {good}").into_bytes()),
        ("no NUL", Same, padded(12288)),
        ("one NUL", Same, padded(12287)),
        ("cut off", Same, good.as_bytes()[..good.len() / 2].to_vec()),
        ("empty", Same, Vec::new()),
        ("a list", Same, b"[]".to_vec()),
        (
            "a size with a fraction",
            Same,
            good.replacen("\"key_size\":64", "\"key_size\":64.0", 1).into_bytes(),
        ),
        (
            "a name twice",
            Stricter,
            good.replacen("\"key_size\":64", "\"key_size\":64,\"key_size\":64", 1).into_bytes(),
        ),
        ("a section twice", Stricter, format!("{},\"tokens\":{{}}}}", &good[..good.len() - 1]).into_bytes()),
        ("a comment", Stricter, good.replacen('{', "{/*x*/", 1).into_bytes()),
        ("not UTF-8", Same, good.replacen("sha256", "sha25\u{1}", 1).into_bytes()),
    ]
}

/// Whether cryptsetup opens a key slot of the image.
pub(crate) fn their_verdict(bench: &Bench) -> bool {
    bench.cryptsetup("open --test-passphrase --key-file pw bad").code == Some(0)
}

/// Whether we open the payload; our first line, if we refuse.
pub(crate) fn our_verdict(bench: &Bench) -> (bool, String) {
    let ours = bench.run(
        Ours,
        "qemu-io SECRET -r -c 'read -q 0 4096' --image-opts driver=luks,file.filename=bad,key-secret=s",
    );
    let said = ours.stderr.clone();
    assert!(!said.contains("panicked"), "{ours}");
    (ours.code == Some(0) && said.is_empty(), said.lines().next().unwrap_or_default().to_owned())
}

/// Both, cryptsetup's first.
fn judge(bench: &Bench) -> (bool, bool, String) {
    let theirs = their_verdict(bench);
    let (ours, said) = our_verdict(bench);
    (theirs, ours, said)
}

fn check(bench: &Bench, what: &str, verdict: Verdict) -> Option<String> {
    let (theirs, ours, said) = judge(bench);
    let expected = if verdict == Same { theirs } else { false };
    match ours == expected && (ours || said.len() > "qemu-io: can't open: ".len()) {
        true => None,
        false => Some(format!("{what}: cryptsetup {theirs}, we {ours} ({said})\n")),
    }
}

/// A header with nothing wrong.
pub(crate) fn good(bench: &Bench) -> Image {
    let shape = Shape { kdf: Kdf::Argon2id, sector: 4096, detached: false, ..shapes()[0] };
    create_ours(bench, &shape);
    Image(bench.bytes("a"))
}

#[test]
fn every_wrong_member_is_refused_where_cryptsetup_refuses_it() {
    let bench = bench();
    let good = good(&bench);
    let mut wrong = String::new();
    for (what, verdict, edit) in edits() {
        let mut image = Image(good.0.clone());
        let mut json = image.json();
        edit(&mut json);
        image.put(json.to_string().as_bytes());
        bench.write("bad", &image.0);
        wrong.extend(check(&bench, what, verdict));
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_wrong_text_is_refused_where_cryptsetup_refuses_it() {
    let bench = bench();
    let good = good(&bench);
    let text = good.json().to_string();
    let mut wrong = String::new();
    for (what, verdict, text) in texts(&text) {
        let mut image = Image(good.0.clone());
        image.put(&text);
        bench.write("bad", &image.0);
        wrong.extend(check(&bench, what, verdict));
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Patches of the binary header: offset and bytes.
fn patches() -> Vec<(&'static str, usize, Vec<u8>)> {
    vec![
        ("magic", 0, b"X".to_vec()),
        ("version", 6, vec![0, 3]),
        ("size 0", 8, vec![0; 8]),
        ("size odd", 8, 20_000_u64.to_be_bytes().to_vec()),
        ("size huge", 8, u64::MAX.to_be_bytes().to_vec()),
        ("checksum algorithm", 72, b"foo\0".to_vec()),
        ("place", 256, 4096_u64.to_be_bytes().to_vec()),
        ("sequence id 0", 16, vec![0; 8]),
        ("sequence id at its end", 16, vec![0xff; 8]),
        ("label without end", 24, vec![b'x'; 48]),
        ("checksum algorithm without end", 72, vec![b'x'; 32]),
        ("no checksum algorithm", 72, vec![0; 32]),
        ("checksum algorithm sha1", 72, b"sha1\0\0".to_vec()),
        ("salt", 104, vec![0xff; 64]),
        ("UUID without end", 168, vec![b'x'; 40]),
        ("no UUID", 168, vec![0; 40]),
        ("UUID that is none", 168, b"x\0".to_vec()),
        ("subsystem without end", 208, vec![b'x'; 48]),
        ("padding", 264, vec![0xff; 184]),
        ("checksum", 448, vec![0xff; 64]),
        ("padding behind", 512, vec![0xff; 3584]),
    ]
}

#[test]
fn a_copy_that_is_damaged_is_repaired_from_the_other_and_two_are_refused() {
    let bench = bench();
    let good = good(&bench);
    let mut wrong = String::new();
    for (what, offset, bytes) in patches() {
        for (copies, sealed) in
            [(&[0][..], true), (&[COPY], true), (&[0, COPY], true), (&[0], false), (&[COPY], false)]
        {
            let mut image = Image(good.0.clone());
            for at in copies {
                image.0[at + offset..at + offset + bytes.len()].copy_from_slice(&bytes);
                if sealed {
                    image.seal_at(*at);
                }
            }
            bench.write("bad", &image.0);
            let name = format!("{what} in {copies:?}");
            wrong.extend(check(&bench, &name, Same));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn of_two_good_copies_the_newer_counts() {
    let bench = bench();
    let good = good(&bench);
    for (newer, older) in [(0, COPY), (COPY, 0)] {
        let mut image = Image(good.0.clone());
        image.0[newer + 23] += 1;
        image.0[older + 24..older + 27].copy_from_slice(b"old");
        image.0[newer + 24..newer + 27].copy_from_slice(b"new");
        image.seal();
        bench.write("bad", &image.0);
        bench.ok(Ours, "qemu-img info --assert label=new bad");
        let lint = bench.run(Ours, "qemu-img key lint bad");
        assert!(lint.stdout.contains("older than the other copy"), "{lint}");
        bench.ok(
            Ours,
            "qemu-io SECRET -c 'read -q 0 512' --image-opts driver=luks,file.filename=bad,key-secret=s",
        );
        let lint = bench.run(Ours, "qemu-img key lint bad");
        assert!(!lint.stdout.contains("older than the other copy"), "not repaired: {lint}");
        assert!(bench.cryptsetup("luksDump bad").ok().contains("Label:         \tnew"));
    }
}

#[test]
fn four_mebibytes_of_metadata_are_read_in_bounded_time_and_memory() {
    let bench = bench();
    let options = "key-secret=s,version=2,pbkdf=pbkdf2,pbkdf-iterations=1000,metadata-size=4M";
    bench.ok(Ours, &format!("qemu-img create -q SECRET -f luks -o {options} bad 1M"));
    let size = 4 << 20;
    let mut image = Image(bench.bytes("bad"));
    let area = &image.0[4096..size];
    let text = String::from_utf8(area.split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap();
    let filler = "[],".repeat((size - 4096 - text.len() - 100) / 3);
    let text = format!("{},\"x\":[{}0]}}", &text[..text.len() - 1], filler);
    for at in [0, size] {
        image.0[at + 4096..at + size].fill(0);
        image.0[at + 4096..at + 4096 + text.len()].copy_from_slice(text.as_bytes());
        image.0[at + 448..at + 512].fill(0);
        let sum = Sha256::digest(&image.0[at..at + size]);
        image.0[at + 448..at + 480].copy_from_slice(&sum);
    }
    bench.write("bad", &image.0);
    let (theirs, ours, said) = judge(&bench);
    assert!(theirs && ours, "{said}");
}

#[test]
fn sequence_ids_that_cross_are_read_as_cryptsetup_reads_them() {
    let bench = bench();
    let good = good(&bench);
    let mut wrong = String::new();
    for (primary, secondary) in [(0, 3), (3, 0), (3, 4), (4, 3), (u64::MAX, 3), (3, u64::MAX), (u64::MAX, 0)]
    {
        let mut image = Image(good.0.clone());
        for (at, seqid, label) in [(0, primary, b"first"), (COPY, secondary, b"other")] {
            image.0[at + 16..at + 24].copy_from_slice(&seqid.to_be_bytes());
            image.0[at + 24..at + 29].copy_from_slice(label);
        }
        image.seal();
        bench.write("bad", &image.0);
        let ours = bench.run(Ours, "qemu-img info --output json bad");
        let ours: Value = serde_json::from_str(&ours.stdout).unwrap_or_default();
        // It mends what is older, so it comes last.
        let theirs = bench.cryptsetup("luksDump bad").stdout;
        let label = ours["format-specific"]["data"]["label"].as_str().unwrap_or_default();
        if label.is_empty() || !theirs.contains(&format!("Label:         \t{label}")) {
            wrong += &format!("{primary} and {secondary}: we {label:?}, cryptsetup {theirs}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn many_slots_that_are_each_cheap_enough_are_not_all_paid_for() {
    let bench = bench();
    let mut image = good(&bench);
    let mut json = image.json();
    let slot = json["keyslots"]["0"].clone();
    let names: Vec<_> = (0..32).map(|id| id.to_string()).collect();
    for (index, name) in names.iter().enumerate() {
        let mut slot = slot.clone();
        slot["area"]["offset"] = json!((32768 + index * 258_048).to_string());
        slot["kdf"] = json!({"type": "pbkdf2", "hash": "sha256", "iterations": 4_000_000, "salt": "AAAA"});
        json["keyslots"][name] = slot;
    }
    json["digests"]["0"]["keyslots"] = json!(names);
    image.put(json.to_string().as_bytes());
    bench.write("bad", &image.0);
    let convert = "convert SECRET --image-opts -O raw driver=luks,file.filename=bad,key-secret=s b";
    let ran = bench.run(Ours, &format!("qemu-img {convert} --max-kdf-time 3"));
    assert!(ran.code == Some(1) && ran.stderr.contains("all key slots together"), "{ran}");
    assert!(ran.stderr.contains("--max-kdf-time SECONDS allows more time"), "{ran}");
    assert!(ran.stderr.contains("31 (about "), "{ran}");
    let lint = bench.run(Ours, "qemu-img key lint --max-kdf-time 3 bad");
    assert!(lint.stdout.contains("(excessive-kdf)"), "{lint}");
    for line in ["key remove --old-secret s", "amend -o state=inactive,old-secret=s"] {
        let (command, rest) = line.split_once(' ').unwrap();
        let ran = bench.run(Ours, &format!("qemu-img {command} {rest} SECRET --max-kdf-time 3 bad"));
        assert!(ran.code == Some(1), "{line}: {ran}");
    }
}

#[test]
fn memory_for_a_derivation_is_bounded_by_an_option() {
    let bench = bench();
    let good = good(&bench);
    bench.write("bad", &good.0);
    let convert = "qemu-img convert SECRET --image-opts -O raw driver=luks,file.filename=bad,key-secret=s b";
    let refused = bench.run(Ours, &format!("{convert} --max-kdf-memory 63"));
    assert!(refused.stderr.contains("skipped: 0 (64 KiB)"), "{refused}");
    assert!(refused.stderr.contains("--max-kdf-memory KIB more memory"), "{refused}");
    bench.ok(Ours, &format!("{convert} --max-kdf-memory 64"));
}

#[test]
fn what_a_derivation_costs_is_bounded() {
    let bench = bench();
    let good = good(&bench);
    for (member, value, says) in [("memory", json!(8 << 20), "KiB"), ("time", json!(u32::MAX), "skipped")] {
        let mut image = Image(good.0.clone());
        let mut json = image.json();
        json["keyslots"]["0"]["kdf"][member] = value;
        image.put(json.to_string().as_bytes());
        bench.write("bad", &image.0);
        let start = std::time::Instant::now();
        let ran = bench.run(
            Ours,
            "qemu-img convert SECRET --image-opts -O raw driver=luks,file.filename=bad,key-secret=s b",
        );
        assert!(ran.stderr.contains("No key slot was tried") && ran.stderr.contains(says), "{ran}");
        assert!(start.elapsed().as_secs() < 20);
        let lint = bench.run(Ours, "qemu-img key lint bad");
        assert!(lint.code == Some(2) && lint.stdout.contains("(excessive-kdf)"), "{lint}");
    }
}
