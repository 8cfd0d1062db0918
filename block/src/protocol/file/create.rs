//! Creating and resizing files.

use super::lock;
use crate::graph::{CreateCtx, CreateKind, CreateOption, CreateOptions, CreateRow, prealloc};
use crate::{Context, Error, Perm, Perms, Prealloc, Resize, Result};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate, posix_fallocate};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};

/// How regular files are created.
pub(super) static ROW: CreateRow = CreateRow { options: &OPTIONS, create, measure: None };

/// How devices are "created": they exist, and must be large enough.
pub(super) static DEVICE_ROW: CreateRow =
    CreateRow { options: &[SIZE], create: create_device, measure: None };

const SIZE: CreateOption =
    CreateOption { name: "size", kind: CreateKind::Size, help: "Virtual disk size", default: None };

static OPTIONS: [CreateOption; 4] = [
    SIZE,
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

/// How much of a new file is allocated at once, so that a later opener can find out the alignment O_DIRECT needs: an
/// empty or all-hole file accepts every alignment.
const FIRST_BLOCK: u64 = 4096;

fn create(ctx: &mut CreateCtx<'_>, options: &CreateOptions) -> Result<()> {
    let path = ctx.filename.strip_prefix("file:").unwrap_or(ctx.filename);
    let mode = prealloc(options)?;
    let size = options.get("size").and_then(|v| v.as_u64()).unwrap_or(0);
    let mut open = OpenOptions::new();
    // Not truncated yet: the file may be in use.
    open.read(true).write(true).create(true).truncate(false);
    let file = open.open(path).context(|| format!("Could not create '{path}'"))?;
    let none = Perms { own: Perm::empty(), shared: Perm::all() };
    let ours = Perms { own: Perm::WRITE | Perm::RESIZE, shared: Perm::all() - Perm::RESIZE };
    lock::change(&file, path, none, ours)?;
    let result = file.set_len(0).map_err(Error::from).and_then(|()| {
        let size = size.next_multiple_of(crate::SECTOR);
        resize(&file, 0, Resize { size, prealloc: mode })
    });
    result.context(|| format!("Could not resize file '{path}'"))
}

fn create_device(ctx: &mut CreateCtx<'_>, options: &CreateOptions) -> Result<()> {
    let path = ctx.filename.strip_prefix("host_device:").unwrap_or(ctx.filename);
    let wanted = options.get("size").and_then(|v| v.as_u64()).unwrap_or(0);
    let mut open = OpenOptions::new();
    let file = open.read(true).write(true).open(path).context(|| format!("Could not open '{path}'"))?;
    let kind = super::kind_of(&file)?;
    let size = super::length(&file, kind)?;
    if wanted > size {
        return Err(Error::new(
            crate::Kind::NoSpace,
            format!("Device '{path}' is too small: it has {size} bytes, the image needs {wanted}"),
        ));
    }
    Ok(())
}

/// Sets the length of `file`, now `old` bytes, allocating as asked.
pub(super) fn resize(file: &File, old: u64, to: Resize) -> Result<()> {
    let size = i64::try_from(to.size).map_err(|_| Error::from_errno(nix::libc::EFBIG))?;
    if to.size <= old && to.prealloc != Prealloc::Off {
        return Err(Error::unsupported("Preallocation can't be used for shrinking files"));
    }
    let result = match to.prealloc {
        Prealloc::Off => {
            file.set_len(to.size)?;
            if old == 0 { allocate_first_block(file, to.size) } else { Ok(()) }
        }
        Prealloc::Metadata => Err(Error::unsupported("Unsupported preallocation mode 'metadata'")),
        Prealloc::Falloc => preallocate(file, old, size),
        Prealloc::Full => fill(file, old, to.size),
    };
    if result.is_err() {
        // Leave the file as long as it was; the first error matters more.
        let _ = file.set_len(old);
    }
    result
}

fn allocate_first_block(file: &File, size: u64) -> Result<()> {
    let zeroes = [0; FIRST_BLOCK as usize];
    let len = usize::try_from(size.min(FIRST_BLOCK)).unwrap_or(zeroes.len());
    Ok(file.write_all_at(&zeroes[..len], 0)?)
}

#[expect(clippy::cast_possible_wrap, reason = "the old length of a file fits off_t")]
fn preallocate(file: &File, old: u64, size: i64) -> Result<()> {
    let old = old as i64;
    let done = match fallocate(file, FallocateFlags::empty(), old, size - old) {
        Err(Errno::EOPNOTSUPP) => posix_fallocate(file, old, size - old),
        done => done,
    };
    done.map_err(Error::from).context(|| "Could not preallocate data for the new file")
}

/// Writes zeroes from `old` to `size`.
fn fill(file: &File, old: u64, size: u64) -> Result<()> {
    let zeroes = vec![0; 1 << 16];
    let mut at = old;
    while at < size {
        let n = usize::try_from(size - at).unwrap_or(zeroes.len()).min(zeroes.len());
        file.write_all_at(&zeroes[..n], at).context(|| "Could not write zeros for preallocation")?;
        at += n as u64;
    }
    debug_assert!(file.metadata().map_or(true, |m| m.size() >= size));
    Ok(file.sync_all()?)
}
