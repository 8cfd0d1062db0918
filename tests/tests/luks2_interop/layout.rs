//! What we make is what cryptsetup makes, member for member.

use crate::shape::{Kdf, Shape, shapes};
use crate::{bench, create_ours, create_theirs};
use tests::Whose::Ours;
use tests::luks::Bench;

/// Both copies of the header with what is different each time taken out: salts, digests, checksums, the UUID.
fn masked(bytes: &[u8]) -> [Vec<u8>; 2] {
    [0, 16384].map(|at| {
        let mut copy = bytes[at..at + 16384].to_vec();
        for field in [104..168, 168..208, 448..512] {
            copy[field].fill(b'x');
        }
        let text = String::from_utf8(copy.split_off(4096)).unwrap();
        let mut words: Vec<_> = text.split('"').map(str::to_owned).collect();
        for at in 2..words.len() {
            if matches!(words[at - 2].as_str(), "salt" | "digest") {
                words[at] = words[at].chars().map(|_| 'x').collect();
            }
        }
        copy.extend(words.join("\"").bytes());
        copy
    })
}

fn header(bench: &Bench, shape: &Shape) -> Vec<u8> {
    bench.bytes(if shape.detached { "a.header" } else { "a" })
}

#[test]
fn headers_are_the_same_but_for_what_is_random() {
    let bench = bench();
    for shape in shapes() {
        create_ours(&bench, &shape);
        let ours = header(&bench, &shape);
        create_theirs(&bench, &shape);
        let theirs = header(&bench, &shape);
        assert_eq!(ours.len(), theirs.len(), "{shape:?}");
        let [ours, theirs] = [ours, theirs].map(|bytes| masked(&bytes));
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\0', "");
            assert!(ours == theirs, "{shape:?}:\n{}\n{}", text(ours), text(theirs));
        }
    }
}

#[test]
fn names_and_sizes_go_where_cryptsetup_puts_them() {
    let bench = bench();
    let (ours, theirs) = (
        "label=L,subsystem=S,uuid=12345678-1234-1234-1234-123456789abc,metadata-size=64k,keyslots-size=1M,hash-alg=sha512",
        "--label L --subsystem S --uuid 12345678-1234-1234-1234-123456789abc --luks2-metadata-size 64k \
         --luks2-keyslots-size 1M --hash sha512",
    );
    let shape = Shape { kdf: Kdf::Pbkdf2, sector: 4096, detached: false, ..shapes()[0] };
    let options = shape.options();
    bench.ok(Ours, &format!("qemu-img create -q SECRET -f luks -o key-secret=s,{options},{ours} a 4M"));
    bench.truncate("b", 6 << 20);
    crate::cryptsetup(&bench, &format!("luksFormat -q --key-file pw {} {theirs} b", shape.format()));
    assert_eq!(bench.len("a"), bench.len("b"));
    let dump = |name: &str| {
        let text = bench.cryptsetup(&format!("luksDump {name}")).ok();
        let random = |line: &&str| {
            !line.starts_with("\t            ") && !line.contains("Salt") && !line.contains("Digest:")
        };
        text.lines().filter(random).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(dump("a"), dump("b"));
}
