//! The commands that sequences are made of, and how often each was seen to work.

use crate::kind::{Backing, Kind};
use crate::start::SECTOR;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use tests::random::{Op, Random, Shape};

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Requests, in one session.
    Requests(Vec<Op>),
    Create(String),
    Apply(String),
    Delete(String),
    Grow(u64),
    Shrink(u64),
    Commit,
    /// To another file, or to none.
    Rebase(Option<&'static str>),
}

impl Command {
    /// What may come next when the disk is `disk` bytes long and `names` snapshots have been made.
    pub(crate) fn random(random: &mut Random, kind: &Kind, disk: u64, names: usize) -> Self {
        // A name may be gone: then both refuse.
        let name = |n: u64| format!("s{n}");
        let old = |random: &mut Random| name(random.below(names as u64) + 1);
        match random.below(11) {
            0 | 1 => Command::Create(name(names as u64 + 1)),
            2 if names > 0 => Command::Apply(old(random)),
            3 if names > 0 => Command::Delete(old(random)),
            4 => {
                let sectors = disk / SECTOR;
                match (sectors / 2 + random.below(sectors)) * SECTOR {
                    size if size < disk => Command::Shrink(size),
                    size => Command::Grow(size),
                }
            }
            5 if kind.backing != Backing::None => Command::Commit,
            6 if kind.backing != Backing::None => {
                Command::Rebase(*random.pick(&[Some("base"), Some("other"), Some("other"), None]))
            }
            7 => Command::Requests((0..6).map(|_| compressed(random, kind.cluster, disk)).collect()),
            _ => {
                let shape = Shape { disk, cluster: kind.cluster, compressed: false };
                Command::Requests((0..6).map(|_| Op::random(random, shape)).collect())
            }
        }
    }

    /// What is run. `{dir}` stands for the directory it is run in.
    pub(crate) fn line(&self, kind: &Kind) -> String {
        let image = kind.image();
        match self {
            Command::Requests(ops) => {
                let commands = ops.iter().map(|op| format!(" -c '{}'", op.command())).collect::<String>();
                format!("qemu-io --cache writeback -d unmap {image}{commands}")
            }
            Command::Create(name) => snapshot("-c", name, &image),
            Command::Apply(name) => snapshot("-a", name, &image),
            Command::Delete(name) => snapshot("-d", name, &image),
            Command::Grow(size) => format!("qemu-img resize -q {image} {size}"),
            Command::Shrink(size) => format!("qemu-img resize -q --shrink {image} {size}"),
            Command::Commit => format!("qemu-img commit -q {image}"),
            Command::Rebase(None) => format!("qemu-img rebase -q -b '' {image}"),
            // An image opened by options is no place that a relative name could start from.
            Command::Rebase(Some(base)) => {
                format!("qemu-img rebase -q -b {{dir}}/{base} -F {} {image}", kind.backing.format())
            }
        }
    }

    /// The operations in it, as they are counted.
    fn operations(&self) -> Vec<&'static str> {
        match self {
            Command::Requests(ops) => ops.iter().map(|op| operation(*op)).collect(),
            Command::Create(_) => vec!["snapshot -c"],
            Command::Apply(_) => vec!["snapshot -a"],
            Command::Delete(_) => vec!["snapshot -d"],
            Command::Grow(_) => vec!["resize up"],
            Command::Shrink(_) => vec!["resize down"],
            Command::Commit => vec!["commit"],
            Command::Rebase(Some(_)) => vec!["rebase"],
            Command::Rebase(None) => vec!["rebase to nothing"],
        }
    }
}

/// A compressed write of one cluster: of more than one, some are written when it fails. Sessions have these or others:
/// mixed, the real tool may write over what it has just written (docs/differences.md).
fn compressed(random: &mut Random, cluster: u64, disk: u64) -> Op {
    let at = random.below(disk.div_ceil(cluster)) * cluster;
    let byte = u8::try_from(random.below(255)).unwrap_or(0) + 1;
    Op::Compressed { at, len: cluster.min(disk - at), byte }
}

/// It has no `-f`.
fn snapshot(action: &str, name: &str, image: &str) -> String {
    format!("qemu-img snapshot {action} {name} {}", image.trim_start_matches("-f qcow2 "))
}

fn operation(op: Op) -> &'static str {
    match op {
        Op::Write { .. } => "write",
        Op::Compressed { .. } => "write -c",
        Op::Zero { unmap: false, .. } => "write -z",
        Op::Zero { unmap: true, .. } => "write -z -u",
        Op::Discard { .. } => "discard",
        Op::Flush => "flush",
    }
}

/// How often each operation and each feature of images was seen to work.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<BTreeMap<String, u64>>);

impl Tally {
    /// Operations that must have worked in any run that is long enough to tell something.
    pub(crate) const OPERATIONS: [&'static str; 14] = [
        "write",
        "write -c",
        "write -z",
        "write -z -u",
        "discard",
        "flush",
        "snapshot -c",
        "snapshot -a",
        "snapshot -d",
        "resize up",
        "resize down",
        "commit",
        "rebase",
        "rebase to nothing",
    ];

    pub(crate) fn count(&self, what: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += 1;
    }

    /// Counts what is in a command that worked.
    pub(crate) fn worked(&self, command: &Command) {
        command.operations().into_iter().for_each(|operation| self.count(operation.into()));
    }

    /// The operations that never worked.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Self::OPERATIONS.into_iter().filter(|operation| !counts.contains_key(*operation)).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().try_for_each(|(what, count)| writeln!(f, "{count:8} {what}"))
    }
}
