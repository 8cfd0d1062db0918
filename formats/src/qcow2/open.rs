//! Opening: header, tables, children, and what a writer has to do first.

use super::cache::TableCache;
use super::crypt::Encryption;
use super::features::{Autoclear, Compatible, Incompatible};
use super::free::Pending;
use super::header::{Header, Prologue, Rules, Version};
use super::image::Qcow2;
use super::meta::{Discards, Meta};
use super::options::Qcow2Options;
use super::order::Caches;
use super::overlap::{Guard, Overlap};
use super::snapshot::{self, Excess, SnapshotTable};
use crate::mapped::{ClusterIndex, Leases, Mapped, Pins};
use block::check::Repair;
use block::graph::{OpenCtx, OpenFlags};
use block::{Child, Context, Driver, Error, Perm, Perms, Result};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, RwLock};

/// The largest L2 cache without options, in bytes.
pub(super) const MAX_L2_CACHE: u64 = 32 << 20;
/// The same where tables are needed one after the other, by a few threads.
const ONE_PASS_L2_CACHE: u64 = 1 << 20;
/// The smallest refcount cache, in bytes.
const MIN_REFCOUNT_CACHE: u64 = 256 << 10;
/// How much of an L2 table is cached at once when the cache does not cover the disk, in bytes.
const SMALL_SLICE: u64 = 4096;

/// What an image is opened with, however it came about.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) file: Child,
    pub(super) data_file: Option<Child>,
    pub(super) backing: Option<Child>,
    pub(super) encryption: Encryption,
    pub(super) writable: bool,
    /// Discards of the guest are passed on unless options say otherwise.
    pub(super) discard: bool,
    /// It is opened to be checked.
    pub(super) checking: bool,
    /// The largest L2 cache without options, in bytes.
    pub(super) l2_cache: u64,
}

/// Opens an image, as the driver table does.
pub(super) fn open(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    let options: Qcow2Options = ctx.options()?;
    let perms = file_perms(ctx);
    let file = ctx.child("file", perms)?;
    let rules = if ctx.flags.repair { Rules::Checking } else { Rules::All };
    let header = read_header(&file, rules)?;
    check_corrupt(&header, ctx.flags)?;
    let data_file = open_data_file(ctx, &header, perms)?;
    let encryption = super::crypt::open(ctx, &options, &header, &file)?;
    let backing = ctx.backing(header.backing_file.as_deref(), header.extensions.backing_format.as_deref())?;
    let parts = Parts {
        file,
        data_file,
        backing,
        encryption,
        writable: ctx.flags.writable,
        discard: ctx.flags.discard,
        checking: ctx.flags.repair,
        l2_cache: if ctx.flags.one_pass { ONE_PASS_L2_CACHE } else { MAX_L2_CACHE },
    };
    let image = Qcow2::new(header, parts, &options)?;
    image.begin_use(ctx.flags.repair)?;
    Ok(Box::new(Mapped::new(image)))
}

/// Refuses options that are out of range, or need what version 2 of the format does not have.
fn check_options(header: &Header, options: &Qcow2Options) -> Result<()> {
    let v2 = header.version < Version::V3;
    if options.cache_clean_interval.is_some_and(|seconds| seconds > u32::MAX.into()) {
        return Err(Error::invalid("Cache clean interval too big"));
    }
    if v2 && options.lazy_refcounts == Some(true) {
        let text = "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level";
        return Err(Error::invalid(text));
    }
    if v2 && options.discard_no_unref == Some(true) {
        return Err(Error::invalid("discard-no-unref is only supported since qcow2 version 3"));
    }
    Ok(())
}

/// Refuses to write to an image that is marked as corrupt.
pub(super) fn check_corrupt(header: &Header, flags: OpenFlags) -> Result<()> {
    if header.has(Incompatible::CORRUPT) && flags.writable && !flags.repair {
        return Err(Error::new(
            block::Kind::ReadOnly,
            "qcow2: Image is corrupt; cannot be opened read/write",
        ));
    }
    Ok(())
}

/// Metadata must not change under us, and is ours to change.
fn file_perms(ctx: &OpenCtx<'_>) -> Perms {
    let mut own = ctx.perms.own & Perm::READ;
    let changes = Perm::WRITE | Perm::RESIZE;
    own.set(changes, ctx.flags.writable);
    let shared = if ctx.flags.force_share { Perm::all() } else { Perm::all() - changes };
    Perms { own, shared }
}

/// Reads and validates the header.
///
/// # Errors
/// What is wrong with it, or the file's.
pub(super) fn read_header(file: &Child, rules: Rules) -> Result<Header> {
    let mut head = [0; super::header::V3_LEN];
    file.read_exact(0, &mut head).context(|| "Could not read qcow2 header")?;
    let prologue = Prologue::parse(&head)?;
    let mut cluster = vec![0; prologue.cluster_len()];
    file.read_exact(0, &mut cluster).context(|| "Could not read qcow2 header")?;
    Header::parse(&prologue, &cluster, rules)
}

fn open_data_file(ctx: &mut OpenCtx<'_>, header: &Header, perms: Perms) -> Result<Option<Child>> {
    if ctx.flags.no_io {
        // Who only looks at an image does not touch files it names.
        ctx.forgo("data-file");
        return Ok(None);
    }
    if !header.has(Incompatible::DATA_FILE) {
        if ctx.has_child("data-file") {
            ctx.child("data-file", perms)?;
            return Err(Error::invalid("'data-file' can only be set for images with an external data file"));
        }
        if header.raw_data_file() {
            return Err(Error::invalid("data-file-raw requires a data file"));
        }
        return Ok(None);
    }
    match &header.extensions.data_file {
        Some(name) => ctx.child_named("data-file", name, perms).map(Some),
        None if ctx.has_child("data-file") => ctx.child("data-file", perms).map(Some),
        None => Err(Error::invalid("'data-file' is required for this image")),
    }
}

/// Reads a table of big-endian 64-bit numbers.
///
/// # Errors
/// The file's.
pub(super) fn read_numbers(file: &Child, offset: u64, count: u64) -> Result<Vec<u64>> {
    let len = usize::try_from(count * 8).map_err(|_| Error::from_errno(nix::libc::EFBIG))?;
    let mut bytes = vec![0; len];
    if len > 0 {
        file.read_exact(offset, &mut bytes)?;
    }
    let numbers = bytes.chunks_exact(8).map(|b| super::header::be64(b, 0));
    Ok(numbers.collect())
}

impl Qcow2 {
    /// An image over its parts.
    ///
    /// # Errors
    /// Tables that cannot be read, or options that cannot be met.
    pub(super) fn new(header: Header, parts: Parts, options: &Qcow2Options) -> Result<Self> {
        let g = header.geometry;
        let Parts { file, data_file, backing, encryption, writable, discard, checking, l2_cache } = parts;
        let l1 = read_numbers(&file, header.l1.offset, header.l1.count.into())
            .map_err(|e| Error::from_errno(e.errno()).context("Could not read L1 table"))?;
        let entries = u64::from(header.reftable.count) << (g.cluster_bits - 3);
        let reftable = read_numbers(&file, header.reftable.offset, entries)
            .map_err(|e| Error::from_errno(e.errno()).context("Could not initialize refcount handling"))?;
        // A check reads it for itself, and mends it.
        let snapshots = match checking {
            true => SnapshotTable::default(),
            false => snapshot::read_table(&file, header.snapshots, Excess::Refuse)?,
        };
        let (l2, refcounts) = caches(&header, options, l2_cache)?;
        let caches = Caches::new(file.clone(), data_file.clone(), l2, refcounts);
        check_options(&header, options)?;
        let lazy = options.lazy_refcounts.unwrap_or(header.compatible.contains(Compatible::LAZY_REFCOUNTS));
        let meta = Meta {
            geometry: g,
            l1,
            reftable,
            snapshot_bytes: snapshots.bytes,
            snapshots: snapshots.snapshots,
            snapshots_unread: checking,
            caches,
            guard: Guard::new(Overlap::from_options(options.overlap_check.as_ref())?),
            keep_discarded: options.discard_no_unref.unwrap_or(false),
            free_hint: ClusterIndex(0),
            free_bytes: None,
            pending: Pending::default(),
            pins: Pins::default(),
            discards: Discards {
                request: options.pass_discard_request.unwrap_or(discard),
                snapshot: options.pass_discard_snapshot.unwrap_or(true),
                other: options.pass_discard_other.unwrap_or(false),
            },
            leases: Leases::default(),
            writable,
            lazy_refcounts: writable && lazy,
            file_end: 0,
            external: header.has(Incompatible::DATA_FILE),
            header,
        };
        // Always, unless it is preallocated over a file that does not.
        let preallocated = meta.l1.first().is_some_and(|entry| *entry != 0);
        let data = data_file.as_ref().unwrap_or(&file).node();
        let zero_init = !preallocated || encryption.cipher.is_none() && data.limits().zero_init;
        let all = [Some(file.clone()), data_file.clone(), backing.clone()];
        Ok(Qcow2 {
            geometry: g,
            len: AtomicU64::new(meta.header.size),
            compression: meta.header.compression,
            zero_init,
            meta: Mutex::new(meta),
            changed: Condvar::new(),
            children: all.into_iter().flatten().collect::<Vec<_>>().into(),
            file,
            data_file,
            backing,
            bitmaps: RwLock::default(),
            recording: AtomicBool::new(false),
            unsaved: AtomicBool::new(false),
            cipher: encryption.cipher,
            luks: encryption.luks,
        })
    }

    /// What a writer does first: clear the autoclear features it does not know, bring a dirty image up to date.
    pub(super) fn begin_use(&self, repairing: bool) -> Result<()> {
        let mut meta = self.lock();
        meta.forget_stale_bitmaps();
        if !meta.writable {
            drop(meta);
            return self.start_bitmaps(false);
        }
        let unknown = meta.header.autoclear.difference(Autoclear::KNOWN);
        if !unknown.is_empty() {
            meta.header.autoclear -= unknown;
            meta.write_header().context(|| "Could not update qcow2 header")?;
        }
        if repairing {
            drop(meta);
            return self.start_bitmaps(false);
        }
        let dirty = meta.header.has(Incompatible::DIRTY);
        drop(meta);
        if dirty {
            self.check_quiesced(Repair::All, &mut |line| block::tool::notice(line))
                .context(|| "Could not repair dirty image")?;
        }
        self.start_bitmaps(true)
    }
}

impl Meta {
    /// Bitmaps that a program modified the image without knowing of are of no use to anybody.
    fn forget_stale_bitmaps(&mut self) {
        if self.header.extensions.bitmaps.is_some() && !self.header.autoclear.contains(Autoclear::BITMAPS) {
            block::tool::warning(
                "a program lacking bitmap support modified this file, so all bitmaps are now considered inconsistent",
            );
            block::tool::notice(
                "Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix.",
            );
            self.header.extensions.bitmaps = None;
        }
    }
}

/// The two caches in the sizes options ask for; an L2 cache of at most `l2_cache` bytes without.
fn caches(header: &Header, options: &Qcow2Options, l2_cache: u64) -> Result<(TableCache, TableCache)> {
    let g = header.geometry;
    let cover = g.l2_bytes(header.size);
    let size = |option: &Option<secret::options::Size>| option.as_ref().map(|s| s.0);
    let total = size(&options.cache_size);
    let refcount_bytes = size(&options.refcount_cache_size).unwrap_or(MIN_REFCOUNT_CACHE);
    let max = match (size(&options.l2_cache_size), total) {
        (Some(_), Some(_)) if options.refcount_cache_size.is_some() => {
            return Err(Error::invalid(
                "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time",
            ));
        }
        (Some(l2), Some(total)) if l2 > total => {
            return Err(Error::invalid("l2-cache-size may not exceed cache-size"));
        }
        (Some(l2), _) => l2,
        (None, Some(total)) if refcount_bytes > total && options.refcount_cache_size.is_some() => {
            return Err(Error::invalid("refcount-cache-size may not exceed cache-size"));
        }
        (None, Some(total)) => total,
        (None, None) => l2_cache,
    };
    let default_slice = if max < cover { SMALL_SLICE.min(g.cluster_size()) } else { g.cluster_size() };
    let slice = size(&options.l2_cache_entry_size).unwrap_or(default_slice);
    if slice < 512 || slice > g.cluster_size() || !slice.is_power_of_two() {
        return Err(Error::invalid(format!(
            "L2 cache entry size must be a power of two between 512 and the cluster size ({})",
            g.cluster_size()
        )));
    }
    if max.min(cover) / slice > i32::MAX as u64 {
        return Err(Error::invalid("L2 cache size too big"));
    }
    if refcount_bytes >> g.cluster_bits > i32::MAX as u64 {
        return Err(Error::invalid("Refcount cache size too big"));
    }
    let slice_len = usize::try_from(slice).unwrap_or(usize::MAX);
    let mut l2 = TableCache::new(slice_len, max);
    l2.fit(cover);
    Ok((l2, TableCache::new(g.cluster_len(), refcount_bytes.max(4 << g.cluster_bits))))
}

/// An image over its parts, shared: for creation, which works on it directly.
pub(super) fn over(header: Header, parts: Parts) -> Result<Arc<Qcow2>> {
    Qcow2::new(header, parts, &Qcow2Options::default()).map(Arc::new)
}
