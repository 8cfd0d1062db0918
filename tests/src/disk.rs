//! A disk in memory that keeps a journal of everything that changes it, for crash tests, and that can hold one request
//! while others go on, for race tests.
//!
//! It is a protocol driver like any other, `driver=journal,disk=NAME,file=NAME`, in a driver table of its own: the drivers
//! above it are the ones users get. A disk has several files (an image and its external data file) and one journal, so
//! that the order of changes across files is known.

use block::graph::{DriverKind, DriverRow, DriverTable, Env, OpenCtx, OpenFlags, Source};
use block::{
    Driver, Error, Image, IoVec, IoVecMut, Level, Limits, Mapping, Quiesced, Resize, Result, Want,
    WriteFlags, ZeroFlags,
};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One change of a file, or the promise that all earlier ones are on stable storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Bytes written at an offset.
    Write(u64, Vec<u8>),
    /// A range that was zeroed or discarded; both make a hole.
    Hole(Range<u64>),
    /// A new length.
    Truncate(u64),
    /// Earlier changes of this file are durable.
    Flush,
}

/// A change and the file it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The file.
    pub file: String,
    /// What happened to it.
    pub change: Change,
}

/// The bytes of all files of a disk.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Applies a change to the bytes of a file.
pub fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, data) => {
            let at = index(*at);
            if bytes.len() < at + data.len() {
                bytes.resize(at + data.len(), 0);
            }
            bytes[at..at + data.len()].copy_from_slice(data);
        }
        Change::Hole(range) => {
            let end = index(range.end).min(bytes.len());
            bytes[index(range.start).min(end)..end].fill(0);
        }
        Change::Truncate(len) => bytes.resize(index(*len), 0),
        Change::Flush => {}
    }
}

fn index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

/// Which requests of a file count when one is to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Read,
    /// Writes, zeroes and discards.
    Change,
}

#[derive(Debug, Default)]
struct State {
    files: Files,
    journal: Vec<Step>,
    /// How many more requests of this kind may pass before one is held.
    hold: Option<(Kind, usize)>,
    held: bool,
    released: bool,
}

/// A disk: see the module documentation.
#[derive(Debug, Default)]
pub struct Disk {
    state: Mutex<State>,
    changed: Condvar,
}

static DISKS: LazyLock<Mutex<HashMap<String, Arc<Disk>>>> = LazyLock::new(Mutex::default);

impl Disk {
    /// A disk with these files, to be found by drivers under `name` (in one test process, each name once at a time).
    pub fn insert(name: &str, files: Files) -> Arc<Self> {
        let state = State { files, ..State::default() };
        let disk = Arc::new(Disk { state: Mutex::new(state), changed: Condvar::new() });
        lock(&DISKS).insert(name.to_owned(), Arc::clone(&disk));
        disk
    }

    /// What the files hold now.
    pub fn files(&self) -> Files {
        lock(&self.state).files.clone()
    }

    /// The journal so far.
    pub fn journal(&self) -> Vec<Step> {
        lock(&self.state).journal.clone()
    }

    /// How many changes there have been.
    pub fn changes(&self) -> usize {
        lock(&self.state).journal.len()
    }

    /// Holds the request of that kind after the next `passing` ones.
    pub fn hold(&self, kind: Kind, passing: usize) {
        let mut state = lock(&self.state);
        (state.hold, state.held, state.released) = (Some((kind, passing)), false, false);
    }

    /// Waits until a request is held, or `done` says that none will be.
    pub fn wait_held(&self, done: impl Fn() -> bool) -> bool {
        let mut state = lock(&self.state);
        while !state.held && !done() {
            state = self.wait(state);
        }
        state.held
    }

    /// Lets the held request go on, and holds no more.
    pub fn release(&self) {
        let mut state = lock(&self.state);
        (state.hold, state.released) = (None, true);
        drop(state);
        self.changed.notify_all();
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, Duration::from_millis(5));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Passes the gate where a request may be held, before it takes effect.
    fn enter(&self, kind: Kind) -> MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        match state.hold {
            Some((wanted, 0)) if wanted == kind => (state.hold, state.held) = (None, true),
            Some((wanted, passing)) if wanted == kind => {
                state.hold = Some((wanted, passing - 1));
                return state;
            }
            _ => return state,
        }
        self.changed.notify_all();
        while !state.released {
            state = self.wait(state);
        }
        state
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The driver over one file of a disk.
#[derive(Debug)]
struct Journal {
    disk: Arc<Disk>,
    file: String,
}

#[derive(Debug, Deserialize)]
struct JournalOptions {
    disk: String,
    file: String,
}

/// The row of the `journal` driver.
static ROW: DriverRow =
    DriverRow { filename: |_, _| None, ..DriverRow::new("journal", DriverKind::Protocol, open_journal) };

fn open_journal(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    let JournalOptions { disk, file } = ctx.options()?;
    let missing = || Error::invalid(format!("no disk '{disk}'"));
    let disk = lock(&DISKS).get(&disk).cloned().ok_or_else(missing)?;
    Ok(Box::new(Journal { disk, file }))
}

/// All drivers, and `journal`.
fn drivers() -> DriverTable {
    static ROWS: LazyLock<Vec<&'static DriverRow>> =
        LazyLock::new(|| formats::DRIVERS.0.iter().copied().chain([&ROW]).collect());
    DriverTable(ROWS.as_slice())
}

/// Opens the graph that `options` describe, with the `journal` driver among the others.
///
/// # Errors
/// It cannot be opened.
pub fn open(options: &str, flags: OpenFlags) -> Result<Image> {
    let objects = secret::Registry::default();
    let env = Env { drivers: drivers(), objects: &objects };
    block::graph::open(env, &Source::Options(options.to_owned()), None, flags)
}

impl Journal {
    fn change(&self, change: Change) -> Result<()> {
        let mut state = self.disk.enter(Kind::Change);
        apply(state.files.entry(self.file.clone()).or_default(), &change);
        state.journal.push(Step { file: self.file.clone(), change });
        Ok(())
    }
}

impl Driver for Journal {
    fn len(&self) -> Result<u64> {
        Ok(lock(&self.disk.state).files.get(&self.file).map_or(0, |bytes| bytes.len() as u64))
    }

    fn limits(&self) -> Limits {
        Limits { zero_init: true, ..Limits::default() }
    }

    fn map(&self, at: u64, max: u64, _want: Want) -> Result<Mapping> {
        Ok(Mapping::data(max).at(None, at))
    }

    fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        let state = self.disk.enter(Kind::Read);
        let bytes = state.files.get(&self.file).map_or(&[][..], Vec::as_slice);
        let start = index(at).min(bytes.len());
        let inside = &bytes[start..bytes.len().min(start + to.len())];
        to.split_to(inside.len()).copy_from_slice(inside);
        to.fill(0);
        Ok(())
    }

    fn write(&self, at: u64, from: &IoVec<'_>, _flags: WriteFlags) -> Result<()> {
        let mut bytes = vec![0; from.len()];
        from.copy_to_slice(&mut bytes);
        self.change(Change::Write(at, bytes))
    }

    fn write_zeroes(&self, range: Range<u64>, _flags: ZeroFlags) -> Result<()> {
        let len = self.len()?;
        if range.end > len {
            let grown = vec![0; index(range.end - range.start)];
            return self.change(Change::Write(range.start, grown));
        }
        self.change(Change::Hole(range))
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.change(Change::Hole(range))
    }

    fn flush(&self, level: Level) -> Result<()> {
        match level {
            Level::Os => Ok(()),
            Level::Disk => {
                let mut state = lock(&self.disk.state);
                state.journal.push(Step { file: self.file.clone(), change: Change::Flush });
                Ok(())
            }
        }
    }

    fn truncate(&self, _q: &Quiesced<'_>, to: Resize) -> Result<()> {
        self.change(Change::Truncate(to.size))
    }
}
