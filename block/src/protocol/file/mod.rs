//! Files and block devices.
//!
//! The driver keeps the length in memory, so that a request costs one system call. After one failed flush all later
//! ones fail: the kernel forgets which pages it could not write, so a second flush that succeeds proves nothing.

mod create;
mod io;
mod lock;

use crate::graph::{DriverKind, DriverRow, OpenCtx, OpenFlags};
use crate::{Context, Driver, Error, Options, Perms, Result};
use nix::fcntl::OFlag;
use serde::Deserialize;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// Regular files.
pub static FILE: DriverRow = DriverRow {
    prefixes: &["file"],
    parse_filename,
    strong_options: &["filename"],
    create: Some(&create::ROW),
    ..DriverRow::new("file", DriverKind::Protocol, open_file)
};

/// Block and character devices of the host.
pub static HOST_DEVICE: DriverRow = DriverRow {
    prefixes: &["host_device"],
    parse_filename,
    strong_options: &["filename"],
    create: Some(&create::DEVICE_ROW),
    ..DriverRow::new("host_device", DriverKind::Protocol, open_device)
};

/// The driver for a plain file name: devices have their own.
pub fn driver_for(filename: Option<&str>) -> &'static str {
    let kind = filename.and_then(|name| std::fs::metadata(name).ok()).map(|m| m.file_type());
    match kind {
        Some(kind) if kind.is_block_device() || kind.is_char_device() => HOST_DEVICE.name,
        _ => FILE.name,
    }
}

fn parse_filename(filename: &str) -> Result<Options> {
    let path = ["file:", "host_device:"].iter().find_map(|prefix| filename.strip_prefix(prefix));
    Options::from_pairs([("filename", path.unwrap_or(filename))])
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct FileOptions {
    filename: Option<String>,
    #[serde(default)]
    locking: Locking,
    // Accepted because scripts give them; the way requests reach the kernel is ours to choose.
    #[serde(rename = "aio")]
    _aio: Option<Aio>,
    #[serde(rename = "aio-max-batch")]
    _aio_max_batch: Option<u64>,
    #[serde(rename = "drop-cache")]
    _drop_cache: Option<bool>,
    #[serde(rename = "x-check-cache-dropped")]
    _x_check_cache_dropped: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Locking {
    On,
    Off,
    #[default]
    Auto,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Aio {
    Threads,
    Native,
    #[serde(rename = "io_uring")]
    IoUring,
}

/// What kind of file it is, as far as requests differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Regular,
    BlockDevice,
    CharDevice,
}

#[derive(Debug)]
struct FileDriver {
    file: File,
    path: String,
    kind: FileKind,
    /// Length in bytes.
    len: AtomicU64,
    /// Alignment of requests and buffers in bytes; 1 without O_DIRECT.
    align: u32,
    no_flush: bool,
    flush_failed: AtomicBool,
    /// `None`: no locks are taken.
    locks: Option<Mutex<Perms>>,
}

fn open_file(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    let (options, path) = options(ctx, "file")?;
    let file = open_path(&path, ctx.flags)?;
    let kind = kind_of(&file)?;
    if kind != FileKind::Regular {
        return Err(Error::invalid(format!("'file' driver requires '{path}' to be a regular file")));
    }
    Ok(Box::new(FileDriver::new(file, path, kind, &options, ctx.flags)?))
}

fn open_device(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    let (options, path) = options(ctx, "host_device")?;
    let file = open_path(&path, ctx.flags)?;
    let kind = kind_of(&file)?;
    if kind == FileKind::Regular {
        let text = format!("'host_device' driver requires '{path}' to be either a character or block device");
        return Err(Error::invalid(text));
    }
    Ok(Box::new(FileDriver::new(file, path, kind, &options, ctx.flags)?))
}

fn options(ctx: &OpenCtx<'_>, driver: &str) -> Result<(FileOptions, String)> {
    let mut options: FileOptions = ctx.options()?;
    match options.filename.take() {
        Some(path) if !path.is_empty() => Ok((options, path)),
        _ => Err(Error::invalid(format!("The '{driver}' block driver requires a file name"))),
    }
}

fn open_path(path: &str, flags: OpenFlags) -> Result<File> {
    let mut custom = OFlag::O_CLOEXEC;
    custom.set(OFlag::O_DIRECT, flags.cache.direct);
    let mut options = OpenOptions::new();
    options.read(true).write(flags.writable).custom_flags(custom.bits());
    options.open(path).context(|| format!("Could not open '{path}'"))
}

fn kind_of(file: &File) -> Result<FileKind> {
    let kind = file.metadata()?.file_type();
    Ok(match kind {
        _ if kind.is_block_device() => FileKind::BlockDevice,
        _ if kind.is_char_device() => FileKind::CharDevice,
        _ if kind.is_dir() => return Err(Error::from_errno(nix::libc::EISDIR)),
        _ => FileKind::Regular,
    })
}

impl FileDriver {
    fn new(
        file: File,
        path: String,
        kind: FileKind,
        options: &FileOptions,
        flags: OpenFlags,
    ) -> Result<Self> {
        let len = length(&file, kind)?;
        let align = if flags.cache.direct { io::direct_align(&file, kind) } else { 1 };
        let locking = options.locking != Locking::Off && kind == FileKind::Regular && !flags.force_share;
        let none = Perms { own: crate::Perm::empty(), shared: crate::Perm::all() };
        Ok(FileDriver {
            file,
            path,
            kind,
            len: AtomicU64::new(len),
            align,
            no_flush: flags.cache.no_flush,
            flush_failed: AtomicBool::new(false),
            locks: locking.then(|| Mutex::new(none)),
        })
    }
}

fn length(file: &File, kind: FileKind) -> Result<u64> {
    match kind {
        FileKind::Regular => Ok(file.metadata()?.size()),
        FileKind::BlockDevice => Ok(crate::sys::device_size(file.as_fd())?),
        FileKind::CharDevice => Ok(0),
    }
}
