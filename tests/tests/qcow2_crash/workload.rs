//! A random workload on a qcow2 image of ours, and what the guest may find after each part of it.

use block::graph::OpenFlags;
use block::snapshot::{NewSnapshot, SnapshotName};
use block::{Image, Resize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tests::Whose;
use tests::disk::{self, Disk, Files, Step};
use tests::random::{Model, Op, Random, Shape, Start};

const SECTOR: u64 = 512;

/// One thing that is done to the image.
#[derive(Debug, Clone)]
enum Act {
    Io(Op),
    Resize(u64),
    /// Takes a snapshot of that name.
    Snapshot(String),
    /// Goes back to one.
    Apply(String),
    /// Forgets one.
    Delete(String),
    /// Closes the image properly and opens it again.
    Reopen,
}

impl Act {
    /// A random act after `moment`; without version 3 an image over a backing file cannot grow, and with an external data
    /// file there are no snapshots.
    fn random(random: &mut Random, shape: Shape, moment: &Moment, can: Can) -> Self {
        let taken: Vec<&String> = moment.snapshots.keys().collect();
        match random.below(20) {
            0 => Act::Reopen,
            1 if can.resize => {
                Act::Resize((random.below(shape.disk / SECTOR) + shape.disk / SECTOR / 2) * SECTOR)
            }
            2 if can.snapshot => Act::Snapshot(format!("at step {}", moment.end)),
            3 if !taken.is_empty() && can.resize => Act::Apply((*random.pick(&taken)).clone()),
            4 if !taken.is_empty() => Act::Delete((*random.pick(&taken)).clone()),
            _ => Act::Io(Op::random(random, shape)),
        }
    }

    /// Whether an unfinished one may leave copied flags that are off.
    fn is_of_snapshots(&self) -> bool {
        matches!(self, Act::Snapshot(_) | Act::Apply(_) | Act::Delete(_))
    }
}

/// What a kind of image can do.
#[derive(Debug, Clone, Copy)]
struct Can {
    resize: bool,
    snapshot: bool,
}

/// What each snapshot holds.
pub(crate) type Kept = BTreeMap<String, Vec<u8>>;

/// What has happened up to a place in the journal.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    act: Act,
    /// Steps of the journal before the act and after it.
    pub(crate) begin: usize,
    end: usize,
    /// What the guest reads then: the byte each sector is full of.
    pub(crate) sectors: Vec<u8>,
    /// The snapshots there are then.
    pub(crate) snapshots: Kept,
    /// Everything up to here is durable.
    durable: bool,
    /// Sectors from here on may hold anything until the next durable moment: the disk was cut off there.
    pub(crate) loose: u64,
}

impl Moment {
    /// What is there after an act that succeeded.
    fn after(&self, act: Act, cluster: u64, discards: bool, begin: usize, end: usize) -> Moment {
        let durable = matches!(act, Act::Io(Op::Flush) | Act::Reopen);
        let mut after = Moment { begin, end, durable, loose: u64::MAX, act: act.clone(), ..self.clone() };
        match &act {
            Act::Io(op) => {
                let mut model = Model::new(spread(&self.sectors), cluster, discards);
                model.run(*op);
                after.sectors = gather(model.bytes());
            }
            Act::Resize(size) => after.resize(usize::try_from(size / SECTOR).unwrap_or(0)),
            Act::Snapshot(name) => {
                after.snapshots.insert(name.clone(), self.sectors.clone());
            }
            Act::Apply(name) => {
                let kept = &self.snapshots[name];
                after.resize(kept.len());
                after.sectors.clone_from(kept);
            }
            Act::Delete(name) => {
                after.snapshots.remove(name);
            }
            Act::Reopen => {}
        }
        after
    }

    fn resize(&mut self, sectors: usize) {
        self.loose = sectors.min(self.sectors.len()) as u64;
        self.sectors.resize(sectors, 0);
    }

    /// Whether the power is cut in the middle of something done to snapshots.
    pub(crate) fn leaves_copied_flags(&self, done: usize) -> bool {
        self.act.is_of_snapshots() && self.begin < done && done < self.end
    }
}

/// An act that failed has changed nothing that is read.
fn continue_unchanged(moments: &mut Vec<Moment>, act: Act, begin: usize, end: usize) {
    let last = moments.last().expect("the first moment is there from the start");
    let moment = Moment { act, begin, end, durable: false, loose: u64::MAX, ..last.clone() };
    moments.push(moment);
}

fn perform(act: &Act, image: &Image) -> block::Result<()> {
    let node = image.node();
    let id = |name: &String| node.snapshot_id(&SnapshotName::Exact { id: None, name: Some(name.clone()) });
    match act {
        Act::Io(op) => op.run(image),
        Act::Resize(size) => image.truncate(Resize::to(*size)),
        Act::Snapshot(name) => {
            node.create_snapshot(&NewSnapshot { name: name.clone(), date_sec: 1, date_nsec: 0 })
        }
        Act::Apply(name) => id(name).and_then(|id| node.apply_snapshot(&id)),
        Act::Delete(name) => id(name).and_then(|id| node.delete_snapshot(&id)),
        Act::Reopen => Ok(()),
    }
}

/// What every snapshot of an image holds. The image shows the last of them afterwards.
pub(crate) fn read_snapshots(image: &Image) -> block::Result<Kept> {
    let node = image.node();
    let all = node.snapshots().unwrap_or_default();
    let contents = all.iter().map(|snapshot| {
        node.load_snapshot(&SnapshotName::Exact { id: Some(snapshot.id.clone()), name: None })?;
        Ok((snapshot.name.clone(), read(image)))
    });
    contents.collect()
}

/// An image that went through a random workload.
pub(crate) struct Workload {
    dir: tempfile::TempDir,
    disk: Arc<Disk>,
    /// The files as they were at the beginning.
    pub(crate) before: Files,
    /// What happened, beginning with nothing.
    moments: Vec<Moment>,
    data_file: bool,
}

impl Workload {
    /// Creates an image as `start` says and does `acts` random things to it.
    pub(crate) fn run(start: &Start, seed: u64, acts: usize) -> Self {
        let mut random = Random::new(seed);
        let size = (random.below(3) + 1) * (1 << 20) - random.below(4) * SECTOR;
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let before = create(dir.path(), start, size);
        let name = format!("crash-{}", dir.path().display());
        let disk = Disk::insert(&name, before.clone());
        let data_file = start.options.contains("data_file");
        let mut this = Workload { dir, disk, before, moments: Vec::new(), data_file };
        let image = open(&name, data_file, writable()).expect("a fresh image opens");
        let sectors = read(&image);
        let snapshots = Kept::new();
        let start_of_all =
            Moment { act: Act::Reopen, begin: 0, end: 0, sectors, snapshots, durable: true, loose: u64::MAX };
        this.moments.push(start_of_all);
        this.go_on(start, &mut random, acts, &name, image);
        this
    }

    fn go_on(&mut self, start: &Start, random: &mut Random, acts: usize, name: &str, mut image: Image) {
        let grows = start.backing.is_none() || !start.options.contains("compat=0.10");
        let can = Can { resize: grows, snapshot: !self.data_file };
        for n in 0..acts {
            let last = &self.moments[n];
            let disk = last.sectors.len() as u64 * SECTOR;
            let shape = Shape { disk, cluster: start.cluster, compressed: start.compressed };
            let act = Act::random(random, shape, last, can);
            let begin = self.disk.changes();
            if matches!(act, Act::Reopen) {
                image.close().expect("an image that is in order closes");
                image = open(name, self.data_file, writable()).expect("it opens again");
            } else if let Err(e) = perform(&act, &image) {
                // A cluster that is stored uncompressed stays so, as with the real tool; and one bit counts one reference.
                // Version 2 does not say how long a snapshot's disk is, so the disk stays as long.
                let refused = match act {
                    Act::Io(Op::Compressed { .. }) => true,
                    Act::Resize(_) => !last.snapshots.is_empty() && start.options.contains("compat=0.10"),
                    _ => act.is_of_snapshots(),
                };
                assert!(refused, "{}: {act:?}: {e}", start.options);
                continue_unchanged(&mut self.moments, act, begin, self.disk.changes());
                continue;
            }
            let moment = last.after(act, start.cluster, grows, begin, self.disk.changes());
            self.moments.push(moment);
        }
        let found = read(&image);
        assert!(found == self.moments[acts].sectors, "{}: we do not read what we wrote", start.options);
    }

    /// All changes of the disk.
    pub(crate) fn journal(&self) -> Vec<Step> {
        self.disk.journal()
    }

    /// What the guest may find when the power is cut after `done` steps: each sector as at one of these moments.
    pub(crate) fn possible(&self, done: usize) -> &[Moment] {
        let first = self.moments.iter().rposition(|m| m.durable && m.end <= done).unwrap_or(0);
        let last = self.moments.iter().rposition(|m| m.begin < done).unwrap_or(0);
        &self.moments[first..=last.max(first)]
    }

    /// The last acts begun before the cut, for messages.
    pub(crate) fn history(&self, done: usize) -> String {
        let acts = self.possible(done).iter().rev().take(6).map(|m| format!("{:?}", m.act));
        acts.collect::<Vec<_>>().join(" <- ")
    }

    /// Where the image and its data file may be put for the real tool, which finds them by name.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// Opens what a cut left.
    pub(crate) fn open_left(&self, name: &str, flags: OpenFlags) -> block::Result<Image> {
        open(name, self.data_file, flags)
    }
}

fn writable() -> OpenFlags {
    OpenFlags { writable: true, resize: true, discard: true, ..OpenFlags::default() }
}

fn open(disk: &str, data_file: bool, flags: OpenFlags) -> block::Result<Image> {
    let data = if data_file {
        format!(",data-file.driver=journal,data-file.disk={disk},data-file.file=d.raw")
    } else {
        String::new()
    };
    disk::open(&format!("driver=qcow2,file.driver=journal,file.disk={disk},file.file=t.qcow2{data}"), flags)
}

/// Makes the image with the real tool and gives the bytes of its files.
fn create(dir: &Path, start: &Start, size: u64) -> Files {
    if let Some(len) = start.backing {
        Whose::Real.run(dir, &format!("qemu-img create -q -f raw base.raw {len}")).ok();
        Whose::Real
            .run(dir, "qemu-io -f raw base.raw -c 'write -q -P 77 0 64k' -c 'write -q -P 78 200k 300k'")
            .ok();
    }
    let options = start.options.replacen("data_file=", &format!("data_file={}/", dir.display()), 1);
    let base = dir.join("base.raw");
    let backing =
        if start.backing.is_some() { format!("-b {} -F raw", base.display()) } else { String::new() };
    Whose::Real.run(dir, &format!("qemu-img create -q -f qcow2 -o {options} {backing} t.qcow2 {size}")).ok();
    let bytes = |name: &str| Some((name.to_owned(), std::fs::read(dir.join(name)).ok()?));
    ["t.qcow2", "d.raw"].into_iter().filter_map(bytes).collect()
}

/// Everything the guest reads, sector by sector.
///
/// # Panics
/// The image cannot be read, or a sector holds bytes that nobody wrote together.
pub(crate) fn read(image: &Image) -> Vec<u8> {
    let len = usize::try_from(image.len().expect("an open image has a length")).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len];
    image.read(0, &mut bytes).expect("an image can be read");
    gather(&bytes)
}

fn gather(bytes: &[u8]) -> Vec<u8> {
    let sectors = bytes.chunks(SECTOR as usize).enumerate();
    sectors
        .map(|(n, sector)| {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "sector {n} is a mixture");
            sector[0]
        })
        .collect()
}

fn spread(sectors: &[u8]) -> Vec<u8> {
    sectors.iter().flat_map(|byte| [*byte; SECTOR as usize]).collect()
}
