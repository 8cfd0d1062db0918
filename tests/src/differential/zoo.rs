//! The files that random command lines meet, made once by the real tool and copied for every sequence.

use crate::{Pair, Whose};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How the real tool makes them. The key of all is `abc`.
const RECIPES: [&str; 47] = [
    "qemu-img create -q -f raw a.raw 1M",
    "qemu-io -f raw a.raw -c 'write -q -P 17 0 300k' -c 'write -q -P 18 700k 1k'",
    "qemu-img convert -f raw -O raw a.raw copy.raw",
    "qemu-img create -q -f raw h.raw 2M",
    // Where a file begins with a hole the real tool does not find out what O_DIRECT asks for.
    "qemu-io -f raw h.raw -c 'write -q -P 9 0 4k'",
    "qemu-img create -q -f raw empty.raw 0",
    "qemu-img create -q -f qcow2 q.qcow2 1M",
    "qemu-io -f qcow2 q.qcow2 -c 'write -q -P 33 64k 200k' -c 'write -q -z 512k 64k'",
    "qemu-img create -q -f qcow2 -b a.raw -F raw b.qcow2",
    "qemu-io -f qcow2 b.qcow2 -c 'write -q -P 49 128k 70k' -c 'write -q -z 0 64k'",
    "qemu-img create -q -f qcow2 -o compat=0.10,cluster_size=4k v.qcow2 700k",
    "qemu-io -f qcow2 v.qcow2 -c 'write -q -P 65 5k 9k'",
    "qemu-img convert -c -f raw -O qcow2 a.raw c.qcow2",
    "qemu-img convert -c -f raw -O qcow2 -o compression_type=zstd,cluster_size=16k a.raw z.qcow2",
    "qemu-img create -q -f qcow2 -o extended_l2=on e.qcow2 1M",
    "qemu-io -f qcow2 e.qcow2 -c 'write -q -P 81 6k 4k'",
    "qemu-img create -q -f qcow2 -o extended_l2=on -b a.raw -F raw f.qcow2",
    "qemu-io -f qcow2 f.qcow2 -c 'write -q -P 82 70k 5k' -c 'write -q -z 4k 6k'",
    "qemu-img create -q -f qcow2 -b b.qcow2 -F qcow2 t.qcow2 2M",
    "qemu-io -f qcow2 t.qcow2 -c 'write -q -P 97 1M 64k'",
    "qemu-img create -q -f qcow2 -u -b gone -F raw i.qcow2 1M",
    "qemu-img create -q -f qcow2 -o data_file=d.raw,data_file_raw=on d.qcow2 512k",
    "qemu-io -f qcow2 d.qcow2 -c 'write -q -P 113 64k 64k'",
    "qemu-img create -q -f qcow2 -o data_file=o.data o.qcow2 1M",
    "qemu-io -f qcow2 o.qcow2 -c 'write -q -P 114 100k 64k'",
    "qemu-img create -q -f qcow2 g.qcow2 1M",
    "qemu-io -f qcow2 g.qcow2 -c 'write -q -P 115 64k 100k'",
    "qemu-img snapshot -c one g.qcow2",
    "qemu-io -f qcow2 g.qcow2 -c 'write -q -P 116 100k 200k'",
    "qemu-img snapshot -c two g.qcow2",
    "qemu-io -f qcow2 g.qcow2 -c 'write -q -P 117 0 80k'",
    "qemu-img create -q -f qcow2 bm.qcow2 1M",
    "qemu-img bitmap --add -f qcow2 bm.qcow2 m1",
    "qemu-io -f qcow2 bm.qcow2 -c 'write -q -P 121 64k 100k'",
    "qemu-img bitmap --add --disable -g 32k -f qcow2 bm.qcow2 m2",
    "qemu-io -f qcow2 bm.qcow2 -c 'write -q -P 122 500k 80k'",
    "qemu-img create -q -f qcow2 -o refcount_bits=1,cluster_size=512 r1.qcow2 100k",
    "qemu-io -f qcow2 r1.qcow2 -c 'write -q -P 118 1k 20k'",
    "qemu-img create -q -f qcow w.qcow 1M",
    "qemu-io -f qcow w.qcow -c 'write -q -P 119 6k 100k'",
    "qemu-img create -q -f qcow -b a.raw -F raw wb.qcow",
    "qemu-io -f qcow wb.qcow -c 'write -q -P 120 100k 9k'",
    "qemu-img create -q -f luks --object secret,id=s,data=abc -o key-secret=s,iter-time=10 l.luks 256k",
    "qemu-io --object secret,id=s,data=abc --image-opts driver=luks,key-secret=s,file.filename=l.luks -c 'write -q -P 5 0 9k'",
    "qemu-img create -q -f qcow2 --object secret,id=s,data=abc -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 k.qcow2 1M",
    "qemu-io --object secret,id=s,data=abc --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=k.qcow2 -c 'write -q -P 6 3k 90k'",
    "qemu-img create -q -f qcow2 --object secret,id=s,data=abc -o encrypt.format=aes,encrypt.key-secret=s y.qcow2 200k",
];

/// The unit in which holes are looked for when files are copied, in bytes.
const BLOCK: usize = 4096;

/// See the module documentation.
#[derive(Debug)]
pub struct Zoo {
    files: BTreeMap<String, Vec<u8>>,
}

impl Zoo {
    /// Makes the files.
    ///
    /// # Panics
    /// They cannot be made.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        for line in RECIPES {
            Whose::Real.run(dir.path(), line).ok();
        }
        let read = |name: String| {
            let bytes = fs::read(dir.path().join(&name)).expect("a file made a moment ago can be read");
            (name, bytes)
        };
        let mut files: BTreeMap<_, _> = names(dir.path()).into_iter().map(read).collect();
        let mut add = |name: &str, bytes| files.insert(name.to_owned(), bytes);
        add("s.raw", vec![7; 1000]);
        add("p.raw", vec![8; 200_000]);
        add("pattern", b"0123456789".repeat(70));
        add("rules.conf", b"[inject-error]\nevent = \"write_aio\"\nerrno = \"28\"\nonce = \"on\"\n".to_vec());
        files.insert("p.header".to_owned(), detached(&files["l.luks"]));
        files.extend(damaged(&files["q.qcow2"]));
        Zoo { files }
    }

    /// Two directories with all the files.
    ///
    /// # Panics
    /// They cannot be written.
    pub fn fill(&self) -> Pair {
        let pair = Pair::new();
        for whose in [Whose::Ours, Whose::Real] {
            for (name, bytes) in &self.files {
                let path = pair.dir(whose).join(name);
                write_sparse(&path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            }
        }
        pair
    }
}

impl Default for Zoo {
    fn default() -> Self {
        Self::new()
    }
}

/// The header of a LUKS1 image, for a payload in a file of its own, which `qemu-img create` cannot make.
fn detached(image: &[u8]) -> Vec<u8> {
    let mut header = image[..image.len() - (256 << 10)].to_vec();
    // payload-offset (LUKS1 specification, 2.3).
    header[104..108].fill(0);
    header
}

/// A qcow2 image of 64 KiB clusters, damaged in several ways.
fn damaged(image: &[u8]) -> Vec<(String, Vec<u8>)> {
    let number = |at: usize| {
        let bytes: [u8; 8] = image[at..at + 8].try_into().expect("the slice is eight bytes long");
        // Without the flags of table entries, which are in the highest and lowest bits.
        usize::try_from(u64::from_be_bytes(bytes) & 0x00ff_ffff_ffff_fe00).expect("offsets in a small file")
    };
    let (l2, refcounts) = (number(number(40)), number(number(48)));
    let with = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = image.to_vec();
        change(&mut bytes);
        (name.to_owned(), bytes)
    };
    vec![
        // Its clusters would be larger than the format allows.
        with("x.qcow2", &|bytes| bytes[23] = 60),
        // A cluster that nobody uses.
        with("leak.qcow2", &|bytes| bytes[l2 + 8..l2 + 16].fill(0)),
        // A cluster that is used and counts as free.
        with("lost.qcow2", &|bytes| {
            let cluster = number(l2 + 16) >> 16;
            bytes[refcounts + 2 * cluster..][..2].fill(0);
        }),
        // Not closed, with reference counts that lag behind.
        with("dirty.qcow2", &|bytes| {
            bytes[79] |= 1;
            bytes[87] |= 1;
        }),
    ]
}

/// Writes what is not zero; the rest are holes.
fn write_sparse(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let file = File::create(path)?;
    file.set_len(bytes.len() as u64)?;
    for (n, block) in bytes.chunks(BLOCK).enumerate().filter(|(_, block)| block.iter().any(|b| *b != 0)) {
        file.write_all_at(block, (n * BLOCK) as u64)?;
    }
    Ok(())
}

/// The names of the files in a directory, in order.
pub(super) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory can be read").flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
