//! Seeded random sequences of requests, and the two ways to carry them out: the real `qemu-io` and our image handle.

use crate::{Ran, Whose};
use block::graph::{self, Env, OpenFlags, Source};
use block::{Image, IoVec, WriteFlags, ZeroFlags};
use std::path::Path;

/// A small generator of pseudo-random numbers (xorshift): the same seed gives the same sequence everywhere.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator; seeds differ in what they give.
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound.max(1)
    }

    /// One of the choices.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let index = self.below(choices.len() as u64);
        &choices[usize::try_from(index).unwrap_or(0)]
    }
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Writes one byte value all over a range.
    Write { at: u64, len: u64, byte: u8 },
    /// Writes it compressed.
    Compressed { at: u64, len: u64, byte: u8 },
    /// Writes zeroes.
    Zero { at: u64, len: u64, unmap: bool },
    /// Discards.
    Discard { at: u64, len: u64 },
    /// Flushes.
    Flush,
}

/// What a sequence is made of.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Length of the disk in bytes.
    pub disk: u64,
    /// Bytes in a cluster.
    pub cluster: u64,
    /// Whether there are compressed writes.
    pub compressed: bool,
}

impl Op {
    /// A random request.
    pub fn random(random: &mut Random, shape: Shape) -> Self {
        let Shape { disk, cluster, compressed } = shape;
        let at = random.below(disk / 512) * 512;
        let max = match random.below(4) {
            0 => 512,
            1 => cluster,
            _ => 5 * cluster,
        };
        let len = (random.below(max / 512) + 1) * 512;
        let len = len.min(disk - at);
        let byte = u8::try_from(random.below(255)).unwrap_or(0) + 1;
        match random.below(12) {
            0..=5 => Op::Write { at, len, byte },
            6..=7 => Op::Zero { at, len, unmap: random.below(2) == 0 },
            8 => Op::Discard { at, len },
            9 => Op::Discard { at: at - at % cluster, len: cluster.min(disk - (at - at % cluster)) },
            10 if compressed => {
                let at = at - at % cluster;
                Op::Compressed { at, len: cluster.min(disk - at), byte }
            }
            10 => Op::Write { at: at - at % cluster, len: cluster.min(disk - (at - at % cluster)), byte },
            _ => Op::Flush,
        }
    }

    /// The command of `qemu-io`.
    pub fn command(self) -> String {
        match self {
            Op::Write { at, len, byte } => format!("write -q -P {byte} {at} {len}"),
            Op::Compressed { at, len, byte } => format!("write -q -c -P {byte} {at} {len}"),
            Op::Zero { at, len, unmap: false } => format!("write -q -z {at} {len}"),
            Op::Zero { at, len, unmap: true } => format!("write -q -z -u {at} {len}"),
            Op::Discard { at, len } => format!("discard -q {at} {len}"),
            Op::Flush => "flush".to_owned(),
        }
    }

    /// Does it on `image`.
    ///
    /// # Errors
    /// The image's.
    pub fn run(self, image: &Image) -> block::Result<()> {
        let bytes = |len: u64, byte| vec![byte; usize::try_from(len).unwrap_or(usize::MAX)];
        match self {
            Op::Write { at, len, byte } => image.write(at, &bytes(len, byte)),
            Op::Compressed { at, len, byte } => {
                image.writev(at, &IoVec::from(&*bytes(len, byte)), WriteFlags::COMPRESSED)
            }
            Op::Zero { at, len, unmap } => {
                let flags = if unmap { ZeroFlags::MAY_UNMAP } else { ZeroFlags::empty() };
                image.write_zeroes(at..at + len, flags)
            }
            Op::Discard { at, len } => image.discard(at..at + len),
            Op::Flush => image.flush(),
        }
    }
}

/// A qcow2 image to start from.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// Creation options.
    pub options: &'static str,
    /// Bytes in a cluster.
    pub cluster: u64,
    /// Bytes in the backing file.
    pub backing: Option<u64>,
    /// Whether it takes compressed writes.
    pub compressed: bool,
}

const fn start(options: &'static str, cluster: u64) -> Start {
    Start { options, cluster, backing: None, compressed: true }
}

/// The kinds of image that random sequences are tried on.
pub const STARTS: [Start; 16] = [
    start("cluster_size=512", 512),
    start("cluster_size=512,compat=0.10", 512),
    start("cluster_size=512,refcount_bits=64", 512),
    start("cluster_size=1k,refcount_bits=1", 1024),
    start("cluster_size=4k", 4096),
    start("cluster_size=64k", 65536),
    start("cluster_size=64k,compression_type=zstd", 65536),
    start("cluster_size=2M", 2 << 20),
    start("cluster_size=4k,lazy_refcounts=on", 4096),
    start("cluster_size=16k,extended_l2=on", 16384),
    Start { backing: Some(3 << 20), ..start("cluster_size=64k", 65536) },
    Start { backing: Some(1 << 20), ..start("cluster_size=4k,compat=0.10", 4096) },
    Start { backing: Some(3 << 20), ..start("cluster_size=64k,extended_l2=on", 65536) },
    Start { backing: Some(999_936), ..start("cluster_size=512,refcount_bits=8", 512) },
    Start { compressed: false, ..start("cluster_size=64k,data_file=d.raw", 65536) },
    Start { compressed: false, ..start("cluster_size=64k,data_file=d.raw,data_file_raw=on", 65536) },
];

/// What a disk holds after a sequence of requests, without any image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    bytes: Vec<u8>,
    /// Discards count for whole clusters only.
    cluster: u64,
    /// Discarded clusters read as zeroes; else they are left alone.
    discards: bool,
}

impl Model {
    /// A disk that holds `bytes`.
    pub fn new(bytes: Vec<u8>, cluster: u64, discards: bool) -> Self {
        Model { bytes, cluster, discards }
    }

    /// What it holds.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Carries out a request.
    pub fn run(&mut self, op: Op) {
        let disk = self.bytes.len() as u64;
        let (at, end, byte) = match op {
            Op::Write { at, len, byte } | Op::Compressed { at, len, byte } => (at, at + len, byte),
            Op::Zero { at, len, .. } => (at, at + len, 0),
            Op::Discard { at, len } if self.discards => {
                let end = at + len;
                let whole = if end == disk { disk } else { end - end % self.cluster };
                (at.next_multiple_of(self.cluster), whole, 0)
            }
            Op::Discard { .. } | Op::Flush => return,
        };
        if at < end {
            let range = [at, end].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
            self.bytes[range[0]..range[1]].fill(byte);
        }
    }
}

/// Carries out a sequence with the real `qemu-io`, in one session.
///
/// # Panics
/// It fails to start or to open the image. Requests may fail.
pub fn run_real(image: &Path, ops: &[Op]) -> Ran {
    let mut command = Whose::Real.command("qemu-io");
    command.args(["--cache", "writeback", "-d", "unmap", "-f", "qcow2"]).arg(image);
    for op in ops {
        command.args(["-c", &op.command()]);
    }
    Ran::of(&mut command)
}

/// Opens an image with our drivers.
///
/// # Errors
/// It cannot be opened.
pub fn open(image: &Path, format: Option<&str>, flags: OpenFlags) -> block::Result<Image> {
    let objects = secret::Registry::default();
    let env = Env { drivers: formats::DRIVERS, objects: &objects };
    graph::open(env, &Source::Name(image.display().to_string()), format, flags)
}

/// Opens an image to be changed, discards passed on.
///
/// # Errors
/// It cannot be opened.
pub fn open_writable(image: &Path) -> block::Result<Image> {
    let flags = OpenFlags { writable: true, resize: true, discard: true, ..OpenFlags::default() };
    open(image, Some("qcow2"), flags)
}

/// Everything that can be read from an image through our drivers.
///
/// # Errors
/// The image's.
pub fn contents(image: &Path) -> block::Result<Vec<u8>> {
    let image = open(image, Some("qcow2"), OpenFlags::default())?;
    let mut bytes = vec![0; usize::try_from(image.len()?).unwrap_or(usize::MAX)];
    image.read(0, &mut bytes)?;
    image.close()?;
    Ok(bytes)
}
