//! Files and devices of the host.
//!
//! The driver keeps the length in memory, so that a request costs one system call. After one failed flush all later
//! ones fail: the kernel forgets which pages it could not write, so a second flush that succeeds proves nothing.

mod create;
mod direct;
mod io;
mod lock;
mod map;

use super::existing;
use crate::graph::{DriverKind, DriverRow, OpenCtx, OpenFlags, has_protocol, name_in};
use crate::{Context, Driver, Error, Kind, Options, Result};
use direct::Alignment;
use lock::{Locking, Locks};
use nix::fcntl::OFlag;
use nix::libc;
use serde::Deserialize;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

/// Regular files.
pub static FILE: DriverRow = DriverRow {
    prefixes: &["file"],
    parse_filename: |name| parse_filename("file:", name),
    strong_options: &["filename"],
    create: Some(&create::ROW),
    ..DriverRow::new("file", DriverKind::Protocol, |ctx| open(ctx, "file", Family::Regular))
};

/// Block and character devices of the host.
pub static HOST_DEVICE: DriverRow = DriverRow {
    prefixes: &["host_device"],
    parse_filename: |name| parse_filename("host_device:", name),
    strong_options: &["filename"],
    create: Some(&existing::ROW),
    ..DriverRow::new("host_device", DriverKind::Protocol, |ctx| open(ctx, "host_device", Family::Device))
};

/// CD drives of the host.
pub static HOST_CDROM: DriverRow = DriverRow {
    prefixes: &["host_cdrom"],
    parse_filename: |name| parse_filename("host_cdrom:", name),
    strong_options: &["filename"],
    create: Some(&existing::ROW),
    ..DriverRow::new("host_cdrom", DriverKind::Protocol, |ctx| open(ctx, "host_cdrom", Family::CdDrive))
};

/// The driver for a plain file name: devices have their own.
pub fn driver_for(filename: Option<&str>) -> &'static str {
    let kind = filename.and_then(|name| std::fs::metadata(name).ok()).map(|m| FileKind::of(&m));
    match kind {
        Some(FileKind::BlockDevice | FileKind::CharDevice) => HOST_DEVICE.name,
        _ => FILE.name,
    }
}

/// The path a file name of this protocol means: without the prefix, and so that what follows is no protocol again.
fn parse_filename(prefix: &str, filename: &str) -> Result<Options> {
    let path = match filename.strip_prefix(prefix) {
        Some(rest) if has_protocol(rest).is_some() => format!("./{rest}"),
        Some(rest) => rest.to_owned(),
        None => filename.to_owned(),
    };
    Options::from_pairs([("filename", path)])
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct FileOptions {
    filename: Option<String>,
    locking: Option<String>,
    aio: Option<String>,
    pr_manager: Option<String>,
    // Accepted because scripts give them; the way requests reach the kernel is ours to choose.
    #[serde(rename = "aio-max-batch")]
    _aio_max_batch: Option<u64>,
    #[serde(rename = "drop-cache")]
    _drop_cache: Option<bool>,
    #[serde(rename = "x-check-cache-dropped")]
    _x_check_cache_dropped: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Aio {
    Threads,
    Native,
    #[serde(rename = "io_uring")]
    IoUring,
}

/// What a driver of this module is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Regular,
    Device,
    CdDrive,
}

impl Family {
    fn accepts(self, kind: FileKind) -> bool {
        match self {
            Family::Regular => kind == FileKind::Regular,
            Family::Device | Family::CdDrive => matches!(kind, FileKind::BlockDevice | FileKind::CharDevice),
        }
    }

    fn refusal(self, driver: &str, path: &str) -> Error {
        let wanted = match self {
            Family::Regular => "a regular file",
            Family::Device | Family::CdDrive => "either a character or block device",
        };
        Error::invalid(format!("'{driver}' driver requires '{path}' to be {wanted}"))
    }
}

/// What kind of file it is, as far as requests differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Regular,
    BlockDevice,
    CharDevice,
    /// Directories, pipes, sockets: nothing that holds an image.
    Other,
}

impl FileKind {
    fn of(metadata: &Metadata) -> Self {
        match metadata.file_type() {
            kind if kind.is_file() => FileKind::Regular,
            kind if kind.is_block_device() => FileKind::BlockDevice,
            kind if kind.is_char_device() => FileKind::CharDevice,
            _ => FileKind::Other,
        }
    }
}

#[derive(Debug)]
struct FileDriver {
    file: Arc<File>,
    path: String,
    kind: FileKind,
    /// Length in bytes.
    len: Arc<AtomicU64>,
    /// A CD drive that is empty or does not answer: it can be opened, but has no length and nothing to read.
    no_medium: bool,
    align: Alignment,
    /// Logical sector of a block device in bytes; 1 for anything else.
    sector: u32,
    flush_failed: Arc<AtomicBool>,
    /// The file system has no operation that zeroes and keeps the space.
    no_zero_range: AtomicBool,
    /// The last run of stored bytes that was seen: see [`map`].
    data: Mutex<Range<u64>>,
    /// The file that the locks are on, which reopening does not change.
    locked: Arc<File>,
    locks: Arc<Locks>,
}

fn open(ctx: &mut OpenCtx<'_>, driver: &str, family: Family) -> Result<Box<dyn Driver>> {
    let mut options: FileOptions = ctx.options()?;
    let path = match options.filename.take() {
        Some(path) if !path.is_empty() => path,
        _ => return Err(Error::invalid(format!("The '{driver}' block driver requires a file name"))),
    };
    let locking = options.locking.as_deref().map(name_in).transpose()?.unwrap_or_default();
    options.check(ctx.flags)?;
    // Opening a pipe would wait for its other end.
    if std::fs::metadata(&path).is_ok_and(|m| m.file_type().is_fifo()) {
        return Err(family.refusal(driver, &path));
    }
    let file = open_path(&path, &path, ctx.flags)?;
    let kind = FileKind::of(&file.metadata()?);
    if !family.accepts(kind) {
        return Err(family.refusal(driver, &path));
    }
    let no_medium = family == Family::CdDrive && !crate::sys::is_cd_drive(file.as_fd());
    let driver = FileDriver::new(file, path, kind, locking, ctx.flags)?;
    Ok(Box::new(FileDriver { no_medium, ..driver }))
}

impl FileOptions {
    fn check(&self, flags: OpenFlags) -> Result<()> {
        let aio: Option<Aio> = self.aio.as_deref().map(name_in).transpose()?;
        let native = aio.map_or(flags.native_aio, |aio| aio == Aio::Native);
        if native && !flags.cache.direct {
            return Err(Error::invalid(
                "aio=native was specified, but it requires cache.direct=on, which was not specified.",
            ));
        }
        match &self.pr_manager {
            Some(id) => {
                Err(Error::new(Kind::NotFound, format!("No persistent reservation manager with id '{id}'")))
            }
            None => Ok(()),
        }
    }
}

/// Opens `path`; messages call it `name`.
fn open_path(path: &str, name: &str, flags: OpenFlags) -> Result<File> {
    let open = |custom: OFlag| {
        let mut options = OpenOptions::new();
        options.read(true).write(flags.writable).custom_flags((custom | OFlag::O_CLOEXEC).bits());
        options.open(path)
    };
    let custom = if flags.cache.direct { OFlag::O_DIRECT } else { OFlag::empty() };
    open(custom)
        .map_err(|e| match e.raw_os_error() {
            // The way a file system refuses O_DIRECT, when without it all is well.
            Some(libc::EINVAL) if flags.cache.direct && open(OFlag::empty()).is_ok() => {
                Error::invalid("filesystem does not support O_DIRECT")
            }
            _ => Error::from(e),
        })
        .context(|| format!("Could not open '{name}'"))
}

impl FileDriver {
    fn new(mut file: File, path: String, kind: FileKind, locking: Locking, flags: OpenFlags) -> Result<Self> {
        let device = kind == FileKind::BlockDevice;
        if device && flags.writable && crate::sys::device_is_read_only(file.as_fd())? {
            return Err(Error::from_errno(libc::EACCES).context("The device is not writable"));
        }
        let len = length(&mut file, kind)?;
        let align = if flags.cache.direct { Alignment::direct(&file, kind) } else { Alignment::NONE };
        let sector = if device { crate::sys::device_sector(file.as_fd())? } else { 1 };
        let file = Arc::new(file);
        Ok(FileDriver {
            locked: Arc::clone(&file),
            file,
            path,
            kind,
            len: Arc::new(AtomicU64::new(len)),
            no_medium: false,
            align,
            sector,
            flush_failed: Arc::default(),
            no_zero_range: AtomicBool::new(false),
            data: Mutex::default(),
            locks: Arc::new(Locks::new(locking)),
        })
    }

    /// The same file, open otherwise.
    fn reopened(&self, flags: OpenFlags) -> Result<Self> {
        // The path may lead to another file by now.
        let same = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let file = open_path(&same, &self.path, flags)?;
        let new = Self::new(file, self.path.clone(), self.kind, Locking::Off, flags)?;
        Ok(FileDriver {
            len: Arc::clone(&self.len),
            no_medium: self.no_medium,
            flush_failed: Arc::clone(&self.flush_failed),
            locked: Arc::clone(&self.locked),
            locks: Arc::clone(&self.locks),
            ..new
        })
    }
}

/// Length in bytes. The file position is of no further use: all requests are positioned.
fn length(file: &mut File, kind: FileKind) -> Result<u64> {
    match kind {
        FileKind::CharDevice => Ok(0),
        _ => Ok(file.seek(SeekFrom::End(0))?),
    }
}

#[cfg(test)]
mod tests;
