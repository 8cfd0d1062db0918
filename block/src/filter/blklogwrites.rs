//! `blklogwrites`: every write is also put into a log, in the format of Linux's dm-log-writes.
//!
//! The log begins with a superblock; then comes, for each operation, one sector that describes it and the sectors that
//! were written. Whoever replays a beginning of it has the image as it was at that moment.

use super::pass::{Filter, Filtered, pass_limits};
use crate::buffer::Buffer;
use crate::graph::{DriverKind, DriverRow, OpenCtx, Perm, Perms};
use crate::{Child, Driver, Error, IoVec, Level, Limits, Result, SECTOR, WriteFlags, ZeroFlags};
use secret::options::Size;
use serde::Deserialize;
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The `blklogwrites` driver.
pub static ROW: DriverRow = DriverRow {
    children: &["file", "log"],
    strong_options: &["log-append", "log-sector-size", "log-super-update-interval"],
    ..DriverRow::new("blklogwrites", DriverKind::Filter, open)
};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1 << 0;
const DISCARD: u64 = 1 << 2;

/// How long a sector of a log may be, in bytes: room for the description of an entry at least.
const SECTORS: RangeInclusive<u64> = 32..=1 << 23;

/// After how many entries the superblock is written, unless asked otherwise.
const INTERVAL: u64 = 4096;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct LogOptions {
    #[serde(default)]
    log_append: bool,
    log_sector_size: Option<Size>,
    log_super_update_interval: Option<u64>,
}

#[derive(Debug)]
struct LogWrites {
    file: Child,
    log: Child,
    sector: u64,
    interval: u64,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    entries: u64,
    /// Where the next entry goes, in sectors of the log.
    next: u64,
    /// The superblock on disk does not tell of all entries.
    dirty: bool,
    /// Something was written since the last flush.
    unflushed: bool,
}

fn open(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    let perms = ctx.perms;
    let file = ctx.child("file", perms)?;
    let own = if ctx.flags.writable { Perm::WRITE | Perm::RESIZE } else { Perm::empty() };
    let log = ctx.child("log", Perms { own, shared: Perm::all() - Perm::WRITE })?;
    let options: LogOptions = ctx.options()?;
    if options.log_append && options.log_sector_size.is_some() {
        return Err(Error::invalid("log-append and log-sector-size are mutually exclusive"));
    }
    let interval = options.log_super_update_interval.unwrap_or(INTERVAL);
    let (sector, state) = match options.log_append {
        true => resume(&log)?,
        false => (checked_sector(options.log_sector_size.map_or(SECTOR, |s| s.0))?, State::empty()),
    };
    if interval == 0 {
        return Err(Error::invalid("Invalid log superblock update interval 0"));
    }
    Ok(Box::new(Filtered(LogWrites { file, log, sector, interval, state: Mutex::new(state) })))
}

fn checked_sector(size: u64) -> Result<u64> {
    match size.is_power_of_two() && SECTORS.contains(&size) {
        true => Ok(size),
        false => Err(Error::invalid(format!("Invalid log sector size {size}"))),
    }
}

impl State {
    fn empty() -> Self {
        State { entries: 0, next: 1, dirty: false, unflushed: false }
    }
}

/// Where a log that is there already ends, and its sector size.
fn resume(log: &Child) -> Result<(u64, State)> {
    let mut head = [0; 28];
    if log.len()? == 0 {
        return Ok((SECTOR, State::empty()));
    }
    log.read_exact(0, &mut head)?;
    let word = |i: usize| u64::from_le_bytes(head[i..i + 8].try_into().expect("8 bytes"));
    if word(0) != MAGIC {
        return Err(Error::invalid("Invalid log superblock magic"));
    }
    if word(8) != VERSION {
        return Err(Error::invalid(format!("Unsupported log version {}", word(8))));
    }
    let sector = checked_sector(u32::from_le_bytes(head[24..28].try_into().expect("4 bytes")).into())?;
    let entries = word(16);
    let mut next = 1;
    for _ in 0..entries {
        let entry = entry_at(log, next * sector)?;
        let bad = || Error::corrupt("The log ends inside of an entry");
        next = next
            .checked_add(1 + entry)
            .filter(|n| n.saturating_mul(sector) <= log.len().unwrap_or(0))
            .ok_or_else(bad)?;
    }
    Ok((sector, State { entries, next, dirty: false, unflushed: false }))
}

/// How many sectors of data follow the entry at `at`.
fn entry_at(log: &Child, at: u64) -> Result<u64> {
    let mut entry = [0; 24];
    log.read_exact(at, &mut entry)?;
    let word = |i: usize| u64::from_le_bytes(entry[i..i + 8].try_into().expect("8 bytes"));
    Ok(if word(16) & DISCARD == 0 { word(8) } else { 0 })
}

impl LogWrites {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the place of an entry with so many sectors of data.
    fn place(&self, data: u64, flags: u64) -> (u64, bool) {
        let mut state = self.state();
        let at = state.next * self.sector;
        state.next += 1 + data;
        state.entries += 1;
        state.dirty = true;
        state.unflushed = flags & FLUSH == 0;
        (at, state.entries.is_multiple_of(self.interval))
    }

    /// Puts an operation into the log.
    fn log(&self, range: Range<u64>, flags: u64, data: Option<&IoVec<'_>>) -> Result<()> {
        let sectors = (range.end - range.start) / self.sector;
        let (at, due) = self.place(if data.is_some() { sectors } else { 0 }, flags);
        let mut entry = Buffer::zeroed(usize::try_from(self.sector).unwrap_or(usize::MAX));
        for (i, word) in [range.start / self.sector, sectors, flags].into_iter().enumerate() {
            entry[i * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        let mut whole = IoVec::from(&*entry);
        data.into_iter().flat_map(IoVec::parts).for_each(|part| whole.push(part));
        self.log.write(at, &whole, WriteFlags::empty())?;
        if due || flags & FLUSH != 0 { self.write_superblock() } else { Ok(()) }
    }

    fn write_superblock(&self) -> Result<()> {
        let mut state = self.state();
        let mut block = Buffer::zeroed(usize::try_from(self.sector).unwrap_or(usize::MAX));
        for (i, word) in [MAGIC, VERSION, state.entries, self.sector].into_iter().enumerate() {
            block[i * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        self.log.write_all(0, &block)?;
        state.dirty = false;
        drop(state);
        self.log.flush(Level::Disk)
    }
}

impl Filter for LogWrites {
    fn below(&self) -> &Child {
        &self.file
    }

    fn children(&self) -> Arc<[Child]> {
        Arc::from([self.log.clone(), self.file.clone()])
    }

    fn limits(&self) -> Limits {
        Limits {
            request_align: u32::try_from(self.sector).unwrap_or(u32::MAX),
            discards_parts: false,
            // A write that is to last is followed by a flush, which the log shows.
            write_flags: WriteFlags::empty(),
            ..pass_limits(&self.file)
        }
    }

    fn write(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags) -> Result<()> {
        self.file.write(at, from, flags)?;
        self.log(at..at + from.len() as u64, 0, Some(from))
    }

    fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        let zeroes = Buffer::zeroed(usize::try_from((range.end - range.start).min(1 << 20)).unwrap_or(0));
        self.file.write_zeroes(range.clone(), flags)?;
        let mut at = range.start;
        while at < range.end {
            let n = (range.end - at).min(zeroes.len() as u64);
            self.log(at..at + n, 0, Some(&IoVec::from(&zeroes[..usize::try_from(n).unwrap_or(0)])))?;
            at += n;
        }
        Ok(())
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.file.discard(range.clone())?;
        self.log(range, DISCARD, None)
    }

    fn flush(&self, level: Level) -> Result<()> {
        self.file.flush(level)?;
        // A flush of what is flushed already says nothing.
        if level == Level::Os || !self.state().unflushed {
            return Ok(());
        }
        self.log(0..0, FLUSH, None)
    }

    fn close(&self) -> Result<()> {
        let State { dirty, unflushed, .. } = *self.state();
        match (unflushed, dirty) {
            (true, _) => self.log(0..0, FLUSH, None),
            (false, true) => self.write_superblock(),
            (false, false) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::memory::Memory;

    #[test]
    fn operations_are_found_again_in_the_log() {
        let (file, log) = (Memory::child(vec![0; 8192]), Memory::child(Vec::new()));
        let state = Mutex::new(State::empty());
        let filter = LogWrites { file, log: log.clone(), sector: 512, interval: INTERVAL, state };
        filter.write(1024, &IoVec::from(&[7; 512][..]), WriteFlags::empty()).unwrap();
        filter.log(0..4096, DISCARD, None).unwrap();
        filter.flush(Level::Disk).unwrap();
        let mut entry = [0; 1024];
        log.read_exact(512, &mut entry).unwrap();
        assert_eq!((entry[0], entry[8], entry[16], entry[512]), (2, 1, 0, 7));
        let end = State { entries: 3, next: 5, dirty: false, unflushed: false };
        assert_eq!(resume(&log).unwrap(), (512, end));
        assert_eq!(filter.state().next, end.next);
    }

    #[test]
    fn what_is_no_log_is_not_appended_to() {
        let error = resume(&Memory::child(vec![b'x'; 512])).unwrap_err();
        assert_eq!(error.to_string(), "Invalid log superblock magic");
        assert!([0, 16, 1000, 1 << 24].into_iter().all(|size| checked_sector(size).is_err()));
    }
}
