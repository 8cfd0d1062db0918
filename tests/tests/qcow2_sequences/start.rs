//! What a sequence starts from: an image and what may be below it, made by the real tools, the same for both sides.

use crate::kind::{Backing, Kind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::TempDir;
use tests::random::Random;
use tests::{Pair, Ran, Whose};

pub(crate) const SECTOR: u64 = 512;

/// A directory to be copied: the image `t`, its data file `data`, what it is or can be based on, the `key`.
pub(crate) struct Start {
    dir: TempDir,
    /// Length of the disk, in bytes.
    pub(crate) disk: u64,
}

impl Start {
    fn make(kind: &Kind, random: &mut Random) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let disk = (random.below(3) + 1) * (1 << 20) + random.below(8) * SECTOR;
        std::fs::write(dir.path().join("key"), "sesame").expect("there is room for the key");
        let real = |line: &str| Whose::Real.run(dir.path(), line).ok();
        let format = kind.backing.format();
        for (name, size, byte) in [("base", 2 << 20, 77), ("other", (1 << 20) + 1024, 78)] {
            real(&format!("qemu-img create -q -f {format} {name} {size}"));
            real(&format!(
                "qemu-io -f {format} {name} -c 'write -q -P {byte} 0 300k' -c 'write -q -P 79 700k 200k'"
            ));
        }
        let backing =
            if kind.backing == Backing::None { String::new() } else { format!("-b base -F {format}") };
        let (secret, options) = (kind.secret(), kind.options());
        real(&format!("qemu-img create -q -f qcow2 {secret} -o {options} {backing} t {disk}"));
        Start { dir, disk }
    }

    /// A copy for each side.
    pub(crate) fn copies(&self) -> Pair {
        let pair = Pair::new();
        for whose in [Whose::Ours, Whose::Real] {
            copy(self.dir.path(), pair.dir(whose));
        }
        pair
    }
}

/// Copies what is in a directory, holes included.
fn copy(from: &Path, to: &Path) {
    let mut cp = std::process::Command::new("cp");
    cp.arg("-R").arg(from.join(".")).arg(to);
    Ran::of(&mut cp).ok();
}

/// A start of the kind and which it was.
type Slot = Mutex<Option<(u64, Arc<Start>)>>;

/// The starts of all kinds. Each is used for some sequences: making a LUKS key slot takes longer than a whole sequence.
pub(crate) struct Starts<'a> {
    kinds: &'a [Kind],
    slots: Vec<Slot>,
}

impl<'a> Starts<'a> {
    pub(crate) fn new(kinds: &'a [Kind]) -> Self {
        Starts { kinds, slots: kinds.iter().map(|_| Mutex::new(None)).collect() }
    }

    /// Kind and start of a sequence.
    pub(crate) fn of(&self, seed: u64) -> (&'a Kind, Arc<Start>) {
        const USES: u64 = 8;
        let kinds = self.kinds.len() as u64;
        let place = usize::try_from(seed % kinds).expect("kinds are few");
        let number = seed / (kinds * USES) * kinds + seed % kinds;
        let kind = &self.kinds[place];
        let mut slot = self.slots[place].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, start)) = slot.as_ref().filter(|(of, _)| *of == number) {
            return (kind, Arc::clone(start));
        }
        let start = Arc::new(Start::make(kind, &mut Random::new(number)));
        *slot = Some((number, Arc::clone(&start)));
        (kind, start)
    }
}
