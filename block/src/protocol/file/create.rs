//! Creating and resizing regular files.

use super::lock::{Locking, Locks};
use super::parse_filename;
use crate::graph::{CreateCtx, CreateKind, CreateOption, CreateOptions, CreateRow, prealloc};
use crate::{Context, Error, Perm, Perms, Prealloc, Resize, Result, SECTOR};
use nix::errno::Errno;
use nix::fcntl::posix_fallocate;
use nix::unistd::ftruncate;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

/// How regular files are created.
pub(super) static ROW: CreateRow = CreateRow { options: &OPTIONS, create, measure: None };

static OPTIONS: [CreateOption; 4] = [
    CreateOption { name: "size", kind: CreateKind::Size, help: "Virtual disk size", default: None },
    CreateOption {
        name: "nocow",
        kind: CreateKind::Bool,
        help: "Turn off copy-on-write (valid only on btrfs)",
        default: None,
    },
    CreateOption {
        name: "preallocation",
        kind: CreateKind::Str,
        help: "Preallocation mode (allowed values: off, falloc, full)",
        default: None,
    },
    CreateOption {
        name: "extent_size_hint",
        kind: CreateKind::Size,
        help: "Extent size hint for the image file, 0 to disable",
        default: None,
    },
];

/// How much of a new file is allocated at once, in bytes, so that a later opener can find out the alignment O_DIRECT
/// needs: an empty or all-hole file accepts every alignment.
const FIRST_BLOCK: u64 = 4096;

/// The extent size hint of a new file unless another is asked for, in bytes: images grow in small steps, and small
/// extents make them slow.
const EXTENT_SIZE_HINT: u64 = 1 << 20;

/// What the options say.
#[derive(Debug)]
struct Plan {
    size: u64,
    prealloc: Prealloc,
    nocow: bool,
    extent_size_hint: ExtentSizeHint,
}

/// How long extents of the new file are to be.
#[derive(Debug)]
struct ExtentSizeHint {
    /// In bytes; 0 leaves it to the file system.
    bytes: u32,
    /// The user asked for it, and is told when it cannot be had.
    asked: bool,
}

impl ExtentSizeHint {
    fn new(given: Option<u64>) -> Result<Self> {
        let bytes = u32::try_from(given.unwrap_or(EXTENT_SIZE_HINT))
            .map_err(|_| Error::invalid("Extent size hint is too large"))?;
        Ok(ExtentSizeHint { bytes, asked: given.is_some() })
    }

    fn set(&self, file: &File) {
        if self.bytes == 0 {
            return;
        }
        if let Err(e) = crate::sys::set_extent_size_hint(file.as_fd(), self.bytes)
            && self.asked
        {
            crate::tool::warning(&format!("Failed to set extent size hint: {}", secret::strerror(e as i32)));
        }
    }
}

impl Plan {
    fn new(options: &CreateOptions) -> Result<Self> {
        let number = |name| options.get(name).and_then(|v| v.as_u64());
        let size = number("size").unwrap_or(0).checked_next_multiple_of(SECTOR);
        Ok(Plan {
            size: size.ok_or_else(|| Error::from_errno(nix::libc::EFBIG))?,
            prealloc: prealloc(options)?,
            nocow: options.is_on("nocow"),
            extent_size_hint: ExtentSizeHint::new(number("extent_size_hint"))?,
        })
    }

    fn carry_out(&self, file: &File) -> Result<()> {
        file.set_len(0).context(|| "Could not resize file")?;
        // Both only make the file faster; most file systems have neither.
        if self.nocow {
            let _ = crate::sys::set_nocow(file.as_fd());
        }
        self.extent_size_hint.set(file);
        resize(file, 0, Resize { prealloc: self.prealloc, ..Resize::to(self.size) })
    }
}

fn create(ctx: &mut CreateCtx<'_>, options: &CreateOptions) -> Result<()> {
    let plan = Plan::new(options)?;
    let parsed = parse_filename("file:", ctx.filename)?;
    let path = parsed.get_str("filename").unwrap_or_default();
    let mut open = OpenOptions::new();
    // Not truncated yet: the file may be in use.
    open.read(true).write(true).create(true).truncate(false);
    let file = open.open(path).context(|| format!("Could not create '{path}'"))?;
    let wanted = Perms { own: Perm::WRITE | Perm::RESIZE, shared: Perm::all() - Perm::RESIZE };
    Locks::new(Locking::Auto).change(&file, path, wanted)?;
    plan.carry_out(&file)
}

/// Sets the length of `file`, now `old` bytes, allocating as asked.
pub(super) fn resize(file: &File, old: u64, to: Resize) -> Result<()> {
    if to.size < old && to.prealloc != Prealloc::Off {
        return Err(Error::invalid("Cannot use preallocation for shrinking files"));
    }
    let result = match to.prealloc {
        Prealloc::Off => set_len(file, to.size),
        Prealloc::Metadata => {
            let mode = to.prealloc.name();
            return Err(Error::unsupported(format!("Unsupported preallocation mode: {mode}")));
        }
        Prealloc::Falloc => allocate(file, old, to.size),
        Prealloc::Full => fill(file, old, to.size),
    };
    let result = result.and_then(|()| if old == 0 { write_first_block(file, to.size) } else { Ok(()) });
    if result.is_err() {
        // Leave the file as long as it was; the first error matters more.
        let _ = file.set_len(old);
    }
    result
}

fn set_len(file: &File, size: u64) -> Result<()> {
    let size = i64::try_from(size).map_err(|_| Errno::EINVAL);
    size.and_then(|size| ftruncate(file, size)).context(|| "Could not resize file")
}

fn write_first_block(file: &File, size: u64) -> Result<()> {
    const ZEROES: [u8; FIRST_BLOCK as usize] = [0; FIRST_BLOCK as usize];
    let len = if size >= FIRST_BLOCK { FIRST_BLOCK } else { SECTOR.min(size) };
    Ok(file.write_all_at(&ZEROES[..len as usize], 0)?)
}

fn allocate(file: &File, old: u64, size: u64) -> Result<()> {
    if old == size {
        return Ok(());
    }
    let offset = |at: u64| i64::try_from(at).map_err(|_| Error::from_errno(nix::libc::EFBIG));
    let (start, len) = (offset(old)?, offset(size - old)?);
    posix_fallocate(file, start, len).context(|| "Could not preallocate new data")
}

/// Writes zeroes from `old` to `size`.
fn fill(file: &File, old: u64, size: u64) -> Result<()> {
    set_len(file, size)?;
    let zeroes = vec![0; 1 << 20];
    let mut at = old;
    while at < size {
        let n = usize::try_from(size - at).unwrap_or(zeroes.len()).min(zeroes.len());
        file.write_all_at(&zeroes[..n], at).context(|| "Could not write zeros for preallocation")?;
        at += n as u64;
    }
    file.sync_all().context(|| "Could not flush file to disk")
}
