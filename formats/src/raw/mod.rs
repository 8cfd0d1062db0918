//! Raw images: the bytes of the file, or a part of it.

mod create;

use block::graph::{DriverKind, DriverRow, DriverTable, OpenCtx, Probe, ReopenCtx};
use block::{
    Child, Driver, Error, Event, IoVec, IoVecMut, Level, Limits, Mapping, Node, Perm, Perms, Quiesced,
    Resize, Result, SECTOR, Want, WriteFlags, ZeroFlags,
};
use secret::options::Size;
use serde::Deserialize;
use std::ops::Range;
use std::sync::Arc;

/// The `raw` driver.
pub static ROW: DriverRow = DriverRow {
    // Everything is a raw image, if it is nothing else.
    probe: |_| 1,
    children: &["file"],
    strong_options: &["offset", "size"],
    create: Some(&create::ROW),
    ..DriverRow::new("raw", DriverKind::Format, open)
};

#[derive(Debug, Deserialize)]
struct RawOptions {
    /// First byte of the part.
    offset: Option<Size>,
    /// Length of the part in bytes.
    size: Option<Size>,
}

#[derive(Debug)]
struct Raw {
    file: Child,
    children: Arc<[Child]>,
    offset: u64,
    size: Option<u64>,
    /// When the format was guessed: what could be guessed the next time.
    guesses: Option<DriverTable>,
}

fn open(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    let options = ctx.options::<RawOptions>();
    // That there is no file, or what it is, is said before what is wrong with the options.
    let perms = options.as_ref().map_or(ctx.perms, |options| options.perms(ctx.perms));
    let file = ctx.child("file", perms)?;
    if ctx.guessed && ctx.flags.writable {
        ctx.warn(&warning(&file.node().name().filename));
    }
    let (options, guesses) = (options?, ctx.guessed.then_some(ctx.env.drivers));
    Ok(Box::new(Raw::new(file, &options, guesses)?))
}

/// A guest that can write the first sector of a raw image can make it look like another format.
fn warning(name: &str) -> String {
    format!(
        "WARNING: Image format was not specified for '{name}' and probing guessed raw.\n         \
         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n         \
         Specify the 'raw' format explicitly to remove the restrictions.\n"
    )
}

impl RawOptions {
    /// What is wanted of the file by a parent that wants `perms`.
    fn perms(&self, perms: Perms) -> Perms {
        match (self.offset, self.size) {
            (None, None) => perms,
            // The part must stay where it is.
            _ => Perms { own: perms.own, shared: perms.shared - Perm::RESIZE },
        }
    }
}

fn check_part(file: &Child, offset: u64, size: Option<u64>) -> Result<()> {
    if (offset, size) == (0, None) {
        // All of it, even if it has no length now, as a drive without a disc.
        return Ok(());
    }
    let len = file.len()?;
    if offset > len {
        return Err(Error::invalid(format!(
            "Offset ({offset}) cannot be greater than size of the containing file ({len})"
        )));
    }
    match size {
        Some(size) if !size.is_multiple_of(SECTOR) => {
            Err(Error::invalid(format!("Specified size is not multiple of {SECTOR}")))
        }
        Some(size) if size > len - offset => Err(Error::invalid(format!(
            "The sum of offset ({offset}) and size ({size}) has to be smaller or equal to the  actual size of the containing file ({len})"
        ))),
        _ => Ok(()),
    }
}

impl Raw {
    fn new(file: Child, options: &RawOptions, guesses: Option<DriverTable>) -> Result<Self> {
        let offset = options.offset.map_or(0, |o| o.0);
        let size = options.size.map(|s| s.0);
        check_part(&file, offset, size)?;
        Ok(Raw { children: Arc::from([file.clone()]), file, offset, size, guesses })
    }

    fn shift(&self, at: u64) -> Result<u64> {
        at.checked_add(self.offset).ok_or_else(|| Error::from_errno(nix::libc::EFBIG))
    }

    /// Refuses to turn an image whose format was guessed into one of another format: whoever writes the guest's first
    /// sector would otherwise choose what the host opens the next time.
    fn keep_raw(&self, at: u64, from: &IoVec<'_>) -> Result<()> {
        let Some(drivers) = self.guesses.filter(|_| at == 0) else { return Ok(()) };
        let first = from.slice(0, SECTOR as usize);
        let mut head = [0; SECTOR as usize];
        let head = &mut head[..first.len()];
        first.copy_to_slice(head);
        match drivers.probe(&Probe { head }) {
            Some(row) if row.name != ROW.name => Err(Error::from_errno(nix::libc::EPERM)),
            _ => Ok(()),
        }
    }

    /// Refuses changes past the end of a part of fixed length, where something else may be.
    fn keep_inside(&self, end: u64) -> Result<()> {
        match self.size {
            Some(size) if end > size => Err(Error::from_errno(nix::libc::ENOSPC)),
            _ => Ok(()),
        }
    }

    fn shift_range(&self, range: Range<u64>) -> Result<Range<u64>> {
        Ok(self.shift(range.start)?..self.shift(range.end)?)
    }
}

impl Driver for Raw {
    fn len(&self) -> Result<u64> {
        match self.size {
            Some(size) => Ok(size),
            None => Ok(self.file.len()?.saturating_sub(self.offset)),
        }
    }

    fn limits(&self) -> Limits {
        let below = self.file.node().limits();
        Limits {
            // A guessed format's first sector is looked at as a whole; otherwise alignment is the file's own business.
            request_align: if self.guesses.is_some() { SECTOR as u32 } else { 1 },
            cluster_size: None,
            write_flags: below.write_flags - WriteFlags::COMPRESSED,
            ..below
        }
    }

    fn children(&self) -> Arc<[Child]> {
        Arc::clone(&self.children)
    }

    fn maps_below(&self) -> bool {
        true
    }

    fn map(&self, at: u64, max: u64, want: Want) -> Result<Mapping> {
        self.file.map(self.shift(at)?, max, want)
    }

    fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        self.file.node().event(Event("read_aio"));
        self.file.read(self.shift(at)?, to)
    }

    fn write(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags) -> Result<()> {
        self.keep_inside(at.saturating_add(from.len() as u64))?;
        self.keep_raw(at, from)?;
        self.file.node().event(Event("write_aio"));
        self.file.node().write(self.shift(at)?, from, flags)
    }

    fn copy_in(&self, at: u64, from: &Node, from_at: u64, len: u64) -> Result<()> {
        self.keep_inside(at.saturating_add(len))?;
        if self.guesses.is_some() && at < SECTOR {
            // What is written there has to be looked at.
            return Err(Error::from_errno(nix::libc::ENOTSUP));
        }
        self.file.node().event(Event("write_aio"));
        self.file.copy_in(self.shift(at)?, from, from_at, len)
    }

    fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        self.keep_inside(range.end)?;
        self.file.node().write_zeroes(self.shift_range(range)?, flags)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.keep_inside(range.end)?;
        self.file.discard(self.shift_range(range)?)
    }

    fn flush(&self, level: Level) -> Result<()> {
        self.file.flush(level)
    }

    fn truncate(&self, _q: &Quiesced<'_>, to: Resize) -> Result<()> {
        if self.size.is_some() {
            return Err(Error::unsupported("Cannot resize fixed-size raw disks"));
        }
        let size =
            self.shift(to.size).map_err(|_| Error::invalid("Disk size too large for the chosen offset"))?;
        self.file.node().truncate(Resize { size, ..to })
    }

    fn reopen(&self, ctx: &mut ReopenCtx<'_>) -> Result<Box<dyn Driver>> {
        let options: RawOptions = ctx.options(&["offset", "size"])?;
        let file = ctx.child("file", options.perms(ctx.perms))?;
        Ok(Box::new(Raw::new(file, &options, self.guesses)?))
    }
}
