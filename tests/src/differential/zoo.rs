//! The files that random command lines meet, made once by the real tool and copied for every sequence.

use crate::{Pair, Whose};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// How the real tool makes them.
const RECIPES: [&str; 19] = [
    "qemu-img create -q -f raw a.raw 1M",
    "qemu-io -f raw a.raw -c 'write -q -P 17 0 300k' -c 'write -q -P 18 700k 1k'",
    "qemu-img create -q -f raw h.raw 2M",
    // Where a file begins with a hole the real tool does not find out what O_DIRECT asks for.
    "qemu-io -f raw h.raw -c 'write -q -P 9 0 4k'",
    "qemu-img create -q -f qcow2 q.qcow2 1M",
    "qemu-io -f qcow2 q.qcow2 -c 'write -q -P 33 64k 200k' -c 'write -q -z 512k 64k'",
    "qemu-img create -q -f qcow2 -b a.raw -F raw b.qcow2",
    "qemu-io -f qcow2 b.qcow2 -c 'write -q -P 49 128k 70k' -c 'write -q -z 0 64k'",
    "qemu-img create -q -f qcow2 -o compat=0.10,cluster_size=4k v.qcow2 700k",
    "qemu-io -f qcow2 v.qcow2 -c 'write -q -P 65 5k 9k'",
    "qemu-img convert -c -f raw -O qcow2 a.raw c.qcow2",
    "qemu-img create -q -f qcow2 -o extended_l2=on e.qcow2 1M",
    "qemu-io -f qcow2 e.qcow2 -c 'write -q -P 81 6k 4k'",
    "qemu-img create -q -f qcow2 -b b.qcow2 -F qcow2 t.qcow2 2M",
    "qemu-io -f qcow2 t.qcow2 -c 'write -q -P 97 1M 64k'",
    "qemu-img create -q -f qcow2 -o data_file=d.raw,data_file_raw=on d.qcow2 512k",
    "qemu-io -f qcow2 d.qcow2 -c 'write -q -P 113 64k 64k'",
    "qemu-img create -q -f luks --object secret,id=s,data=abc -o key-secret=s,iter-time=10 l.luks 256k",
    "qemu-io --object secret,id=s,data=abc --image-opts driver=luks,key-secret=s,file.filename=l.luks -c 'write -q -P 5 0 9k'",
];

/// See the module documentation.
#[derive(Debug)]
pub struct Zoo {
    dir: TempDir,
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
        fs::write(dir.path().join("s.raw"), [7; 1000]).expect("a small file can be written");
        // A header that says its clusters are larger than the format allows.
        let mut bad = fs::read(dir.path().join("q.qcow2")).expect("it was made a moment ago");
        bad[23] = 60;
        fs::write(dir.path().join("x.qcow2"), bad).expect("a small file can be written");
        Zoo { dir }
    }

    /// Two directories with all the files.
    ///
    /// # Panics
    /// They cannot be copied.
    pub fn fill(&self) -> Pair {
        let pair = Pair::new();
        for whose in [Whose::Ours, Whose::Real] {
            for name in names(self.dir.path()) {
                copy(&self.dir.path().join(&name), &pair.dir(whose).join(&name));
            }
        }
        pair
    }

    /// Whether a file is as it was made.
    pub fn is_unchanged(&self, path: &Path) -> bool {
        let name = path.file_name().expect("files have names");
        fs::read(self.dir.path().join(name)).is_ok_and(|bytes| fs::read(path).is_ok_and(|now| now == bytes))
    }
}

impl Default for Zoo {
    fn default() -> Self {
        Self::new()
    }
}

/// Copies a file with its holes.
fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("--sparse=always").arg(from).arg(to).status();
    assert!(status.is_ok_and(|s| s.success()), "{} cannot be copied", from.display());
}

/// The names of the files in a directory, in order.
pub(super) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory can be read").flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
