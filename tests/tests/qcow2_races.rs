//! Two requests on the same qcow2 cluster at the same time: one is held at each of its accesses to the file while the other
//! goes as far as it can. Afterwards each sector holds what one of the two orders leaves, and no cluster is lost or leaked.

#![forbid(unsafe_code)]

use block::Image;
use block::graph::OpenFlags;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tests::Whose;
use tests::disk::{self, Disk, Files, Kind};
use tests::random::{Model, Op};

/// An image with clusters in every state the requests may find.
struct Shape {
    options: &'static str,
    cluster: u64,
    backing: bool,
}

const SHAPES: [Shape; 4] = [
    Shape { options: "cluster_size=16k", cluster: 16384, backing: false },
    Shape { options: "cluster_size=16k", cluster: 16384, backing: true },
    Shape { options: "cluster_size=16k,extended_l2=on", cluster: 16384, backing: false },
    Shape { options: "cluster_size=16k,extended_l2=on", cluster: 16384, backing: true },
];

const DISK: u64 = 1 << 20;

/// States a cluster can be in, each made by the real `qemu-io`; the cluster's number is where it stands here.
const STATES: [&str; 6] = [
    "",
    "write -q -P 11 {at} {len}",
    "write -q -z {at} {len}",
    "write -q -c -P 12 {at} {len}",
    "write -q -P 13 {at} 2k",
    "write -q -P 14 {at} {len}' -c 'write -q -z -u {at} {len}",
];

/// The request that is held.
fn held(at: u64, cluster: u64) -> Vec<Op> {
    vec![
        Op::Write { at: at + 1024, len: 3072, byte: 101 },
        Op::Write { at, len: cluster, byte: 102 },
        // Into the next cluster.
        Op::Write { at: at + cluster / 2, len: cluster, byte: 103 },
        Op::Zero { at, len: cluster, unmap: true },
        Op::Zero { at: at + 512, len: 5120, unmap: false },
        Op::Discard { at, len: cluster },
        Op::Compressed { at, len: cluster, byte: 104 },
    ]
}

/// What comes meanwhile: several requests, one after the other.
fn meanwhile(at: u64, cluster: u64) -> Vec<Vec<Op>> {
    let elsewhere = Op::Write { at: 40 * cluster, len: 2 * cluster, byte: 201 };
    vec![
        vec![Op::Write { at: at + 2048, len: 4096, byte: 202 }, Op::Flush],
        vec![Op::Write { at: at + 8192, len: 512, byte: 203 }, elsewhere],
        vec![Op::Write { at, len: cluster, byte: 204 }, elsewhere],
        vec![Op::Zero { at, len: cluster, unmap: true }, elsewhere],
        vec![Op::Zero { at, len: cluster, unmap: false }, Op::Flush, elsewhere],
        vec![Op::Discard { at, len: cluster }, elsewhere, Op::Flush],
        vec![Op::Compressed { at, len: cluster, byte: 205 }, elsewhere],
    ]
}

/// What the disk may hold after both: in either order, with or without each compressed write.
fn outcomes(before: &[u8], cluster: u64, first: Op, second: &[Op]) -> Vec<Vec<u8>> {
    let orders = [[&[first], second].concat(), [second, &[first]].concat()];
    let choices = orders.iter().flat_map(|order| (0..4).map(move |choice| (order, choice)));
    choices
        .map(|(order, choice)| {
            let mut model = Model::new(before.to_vec(), cluster, true);
            let mut compressed = 0;
            for op in order {
                let is_compressed = matches!(op, Op::Compressed { .. });
                if !is_compressed || choice >> compressed & 1 == 0 {
                    model.run(*op);
                }
                compressed += u32::from(is_compressed);
            }
            model.bytes().to_vec()
        })
        .collect()
}

/// A cluster of the image with a disk that has a template's files.
struct Race<'a> {
    shape: &'a Shape,
    files: &'a Files,
    before: &'a [u8],
    name: String,
}

/// A template image for a shape: its files, made by the real tools.
fn template(dir: &std::path::Path, shape: &Shape) -> Files {
    let mut backing = String::new();
    if shape.backing {
        Whose::Real.run(dir, "qemu-img create -q -f raw base.raw 1M").ok();
        Whose::Real.run(dir, "qemu-io -f raw base.raw -c 'write -q -P 77 0 1M'").ok();
        backing = format!("-b {} -F raw", dir.join("base.raw").display());
    }
    let create = format!("qemu-img create -q -f qcow2 -o {} {backing} t.qcow2 {DISK}", shape.options);
    Whose::Real.run(dir, &create).ok();
    for (n, state) in STATES.iter().enumerate().skip(1) {
        let at = at(n, shape.cluster);
        let commands = state.replace("{at}", &at.to_string()).replace("{len}", &shape.cluster.to_string());
        Whose::Real.run(dir, &format!("qemu-io -f qcow2 t.qcow2 -c '{commands}'")).ok();
    }
    let bytes = std::fs::read(dir.join("t.qcow2")).expect("the image was just made");
    Files::from([("t.qcow2".to_owned(), bytes)])
}

/// Where the cluster in that state is. Neighbours are left alone.
fn at(state: usize, cluster: u64) -> u64 {
    state as u64 * 4 * cluster
}

fn open(name: &str) -> Image {
    let options = format!("driver=qcow2,file.driver=journal,file.disk={name},file.file=t.qcow2");
    let flags = OpenFlags { writable: true, resize: true, discard: true, ..OpenFlags::default() };
    disk::open(&options, flags).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn read(image: &Image) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(DISK).expect("it is small")];
    image.read(0, &mut bytes).expect("an open image can be read");
    bytes
}

/// Waits, within reason, until `done`; whether it came to that.
fn wait_for(done: &AtomicBool, limit: Duration) -> bool {
    let start = Instant::now();
    while !done.load(Ordering::Acquire) && start.elapsed() < limit {
        std::thread::sleep(Duration::from_micros(200));
    }
    done.load(Ordering::Acquire)
}

/// Does a request. A compressed write of a cluster that is stored uncompressed fails and changes nothing, as with the real
/// tool; which one that is depends on who was first.
fn perform(op: Op, image: &Image, context: &str) {
    if let Err(e) = op.run(image) {
        assert!(matches!(op, Op::Compressed { .. }), "{context}: {op:?}: {e}");
    }
}

/// Sets a flag when it is dropped: a thread that fails is done, too.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Race<'_> {
    /// Holds `first` at its `n`-th access of that kind while `second` runs. False when it has no such access.
    fn run(&self, first: Op, second: &[Op], kind: Kind, n: usize) -> bool {
        let context = format!("{} {first:?} held at {kind:?} {n}, meanwhile {second:?}", self.name);
        let disk = Disk::insert(&self.name, self.files.clone());
        let image = open(&self.name);
        disk.hold(kind, n);
        let (first_done, second_done) = (AtomicBool::new(false), AtomicBool::new(false));
        let was_held = std::thread::scope(|scope| {
            scope.spawn(|| {
                let _done = Done(&first_done);
                perform(first, &image, &context);
            });
            if !disk.wait_held(|| first_done.load(Ordering::Acquire)) {
                disk.release();
                return false;
            }
            scope.spawn(|| {
                let _done = Done(&second_done);
                second.iter().for_each(|op| perform(*op, &image, &context));
            });
            // What must wait for the held request does not get further in any time.
            wait_for(&second_done, Duration::from_millis(4));
            disk.release();
            let both = [&first_done, &second_done].map(|done| wait_for(done, Duration::from_secs(20)));
            assert!(both == [true, true], "{context}: they wait for each other");
            true
        });
        if was_held {
            self.judge(first, second, image, &disk, &context);
        }
        was_held
    }

    fn judge(&self, first: Op, second: &[Op], image: Image, disk: &Arc<Disk>, context: &str) {
        let candidates = outcomes(self.before, self.shape.cluster, first, second);
        let found = read(&image);
        for (n, sector) in found.chunks(512).enumerate() {
            let fits = candidates.iter().any(|bytes| sector == &bytes[n * 512..(n + 1) * 512]);
            let expected: Vec<u8> = candidates.iter().map(|bytes| bytes[n * 512]).collect();
            assert!(fits, "{context}: sector {n} holds {}, not one of {expected:?}", sector[0]);
        }
        image.close().unwrap_or_else(|e| panic!("{context}: {e}"));
        let image = open(&self.name);
        assert!(read(&image) == found, "{context}: it reads differently after closing");
        let check = image.node().check(block::check::Repair::No, &mut |line| println!("{context}: {line}"));
        let check = check.unwrap_or_else(|e| panic!("{context}: {e}"));
        assert_eq!((check.corruptions, check.leaks, check.check_errors), (0, 0, 0), "{context}");
        self.real_check(disk, context);
    }

    /// The real tool agrees that it is clean. It is asked about all in the long run, else about some.
    fn real_check(&self, disk: &Disk, context: &str) {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let n = ASKED.fetch_add(1, Ordering::Relaxed);
        if std::env::var_os("BLOCKIMG_LONG").is_some() || n.is_multiple_of(20) {
            let dir = tempfile::tempdir().expect("a temporary directory can be made");
            std::fs::write(dir.path().join("t.qcow2"), &disk.files()["t.qcow2"]).expect("there is room");
            let check = Whose::Real.run(dir.path(), "qemu-img check -f qcow2 t.qcow2");
            assert_eq!(check.code, Some(0), "{context}: {check}");
        }
    }
}

/// Runs `body` for every shape and state; gives how often it says it did something.
fn everywhere(name: &str, body: impl Fn(&Race<'_>, u64) -> usize) -> usize {
    let mut done = 0;
    for shape in &SHAPES {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let files = template(dir.path(), shape);
        for state in 0..STATES.len() {
            let name =
                format!("{name} {} backing {} state {state}", shape.options.replace(',', ";"), shape.backing);
            Disk::insert(&name, files.clone());
            let image = open(&name);
            let before = read(&image);
            image.close().expect("an untouched image closes");
            let race = Race { shape, files: &files, before: &before, name };
            done += body(&race, at(state, shape.cluster));
        }
    }
    done
}

#[test]
fn nothing_is_lost_or_leaked_when_a_request_meets_one_that_is_half_done() {
    let races = everywhere("lease", |race, at| {
        let cluster = race.shape.cluster;
        let mut races = 0;
        for first in held(at, cluster) {
            for second in meanwhile(at, cluster) {
                races += (0..).take_while(|n| race.run(first, &second, Kind::Change, *n)).count();
                races += (0..).take_while(|n| race.run(first, &second, Kind::Read, *n)).count();
            }
        }
        races
    });
    println!("{races} races");
    assert!(races > 1000, "only {races} races came about");
}

#[test]
fn a_cluster_that_is_being_read_is_not_reused() {
    let races = everywhere("pin", |race, at| {
        meanwhile(at, race.shape.cluster).iter().map(|second| pinned(race, at, second)).sum()
    });
    println!("{races} races");
    assert!(races > 50, "only {races} races came about");
}

/// Holds a read of the whole cluster at each of its accesses; how many there were.
fn pinned(race: &Race<'_>, at: u64, second: &[Op]) -> usize {
    let cluster = usize::try_from(race.shape.cluster).expect("it is small");
    let start = usize::try_from(at).expect("it is small");
    (0..)
        .take_while(|n| {
            let context = format!("{} read held at {n}, meanwhile {second:?}", race.name);
            let disk = Disk::insert(&race.name, race.files.clone());
            let image = open(&race.name);
            disk.hold(Kind::Read, *n);
            let done = AtomicBool::new(false);
            let (was_held, got) = std::thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    let _done = Done(&done);
                    let mut got = vec![0; cluster];
                    image.read(at, &mut got).unwrap_or_else(|e| panic!("{context}: {e}"));
                    got
                });
                let was_held = disk.wait_held(|| done.load(Ordering::Acquire));
                if was_held {
                    let writer_done = AtomicBool::new(false);
                    std::thread::scope(|inner| {
                        inner.spawn(|| {
                            let _done = Done(&writer_done);
                            second.iter().for_each(|op| perform(*op, &image, &context));
                        });
                        wait_for(&writer_done, Duration::from_millis(4));
                        disk.release();
                    });
                }
                disk.release();
                (was_held, reader.join().expect("the reader ends"))
            });
            if was_held {
                let mut candidates = vec![race.before.to_vec()];
                let nothing = Op::Flush;
                candidates.extend(outcomes(race.before, race.shape.cluster, nothing, second));
                for (n, sector) in got.chunks(512).enumerate() {
                    let range = start + n * 512..start + (n + 1) * 512;
                    let fits = candidates.iter().any(|bytes| sector == &bytes[range.clone()]);
                    assert!(fits, "{context}: sector {n} of the cluster reads as {}", sector[0]);
                }
                image.close().unwrap_or_else(|e| panic!("{context}: {e}"));
            }
            was_held
        })
        .count()
}
