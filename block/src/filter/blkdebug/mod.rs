//! `blkdebug`: failures on demand, for tests of what is above.
//!
//! Other drivers announce what they are about to do ([`Driver::event`]). [`machine`] says which errors the requests
//! after an event meet, [`rules`] where the rules come from, [`stops`] how a request is held at an event. Limits of the
//! node can be made tighter than those of the node below.

mod machine;
mod rules;
mod stops;

use crate::graph::{DriverKind, DriverRow, OpenCtx, Perm, Perms, ReopenCtx};
use crate::{
    Breakpoints, Child, Driver, Error, Event, IoVec, IoVecMut, Level, Limits, Mapping, Options, Quiesced,
    Resize, Result, Want, WriteFlags, ZeroFlags,
};
use machine::{IoType, Machine};
use secret::options::Size;
use serde::Deserialize;
use serde_json::Value;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use stops::Stops;

/// The `blkdebug` driver.
pub static ROW: DriverRow = DriverRow {
    prefixes: &["blkdebug"],
    parse_filename,
    filename,
    children: &["image"],
    strong_options: &[
        "config",
        "align",
        "max-transfer",
        "opt-write-zero",
        "max-write-zero",
        "opt-discard",
        "max-discard",
        "inject-error",
        "set-state",
    ],
    ..DriverRow::new("blkdebug", DriverKind::Protocol, open)
};

/// The names of the events there are, in the order of the published schema.
pub const EVENTS: [&str; 48] = [
    "l1_update",
    "l1_grow_alloc_table",
    "l1_grow_write_table",
    "l1_grow_activate_table",
    "l2_load",
    "l2_update",
    "l2_update_compressed",
    "l2_alloc_cow_read",
    "l2_alloc_write",
    "read_aio",
    "read_backing_aio",
    "read_compressed",
    "write_aio",
    "write_compressed",
    "vmstate_load",
    "vmstate_save",
    "cow_read",
    "cow_write",
    "reftable_load",
    "reftable_grow",
    "reftable_update",
    "refblock_load",
    "refblock_update",
    "refblock_update_part",
    "refblock_alloc",
    "refblock_alloc_hookup",
    "refblock_alloc_write",
    "refblock_alloc_write_blocks",
    "refblock_alloc_write_table",
    "refblock_alloc_switch_table",
    "cluster_alloc",
    "cluster_alloc_bytes",
    "cluster_free",
    "flush_to_os",
    "flush_to_disk",
    "pwritev_rmw_head",
    "pwritev_rmw_after_head",
    "pwritev_rmw_tail",
    "pwritev_rmw_after_tail",
    "pwritev",
    "pwritev_zero",
    "pwritev_done",
    "empty_image_prepare",
    "l1_shrink_write_table",
    "l1_shrink_free_l2_clusters",
    "cor_write",
    "cluster_alloc_space",
    "none",
];

/// `blkdebug:CONFIG:IMAGE`; the configuration may be empty.
fn parse_filename(name: &str) -> Result<Options> {
    let mut options = Options::new();
    let Some(rest) = name.strip_prefix("blkdebug:") else {
        options.set("x-image", name)?;
        return Ok(options);
    };
    let (config, image) = rest
        .split_once(':')
        .ok_or_else(|| Error::invalid("blkdebug requires both config file and image path"))?;
    if !config.is_empty() {
        options.set("config", config)?;
    }
    options.set("x-image", image)?;
    Ok(options)
}

fn filename(options: &Options, children: &[Child]) -> Option<String> {
    let alone = ROW.strong_options.iter().all(|key| *key == "config" || options.get(key).is_none());
    let image = &children.first()?.node().name().filename;
    let config = options.get("config").map(text).unwrap_or_default();
    (alone && !image.starts_with("json:")).then(|| format!("blkdebug:{config}:{image}"))
}

/// An option that is text, and may be written as a JSON number or truth value.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "on".into(),
        Value::Bool(false) => "off".into(),
        other => other.to_string(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct BlkdebugOptions {
    config: Option<Value>,
    align: Option<Size>,
    max_transfer: Option<Size>,
    opt_write_zero: Option<Size>,
    max_write_zero: Option<Size>,
    opt_discard: Option<Size>,
    max_discard: Option<Size>,
    #[serde(default)]
    take_child_perms: Vec<PermName>,
    #[serde(default)]
    unshare_child_perms: Vec<PermName>,
    inject_error: Option<Value>,
    set_state: Option<Value>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PermName {
    ConsistentRead,
    Write,
    WriteUnchanged,
    Resize,
}

impl PermName {
    fn bit(self) -> Perm {
        match self {
            PermName::ConsistentRead => Perm::READ,
            PermName::Write => Perm::WRITE,
            PermName::WriteUnchanged => Perm::WRITE_UNCHANGED,
            PermName::Resize => Perm::RESIZE,
        }
    }
}

/// The limits that were asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Asked {
    align: Option<u32>,
    max_transfer: Option<u64>,
    opt_write_zero: Option<u32>,
    max_write_zero: Option<u64>,
    opt_discard: Option<u32>,
    max_discard: Option<u64>,
}

impl BlkdebugOptions {
    fn asked(&self) -> Result<Asked> {
        let align = match self.align.map_or(0, |size| size.0) {
            0 => None,
            align => Some(
                u32::try_from(align)
                    .ok()
                    .filter(|align| align.is_power_of_two() && *align <= i32::MAX.unsigned_abs())
                    .ok_or_else(|| refused("align", align))?,
            ),
        };
        let limit = |name, size| multiple(name, size, align.unwrap_or(1));
        Ok(Asked {
            align,
            max_transfer: limit("max-transfer", self.max_transfer)?.map(u64::from),
            opt_write_zero: limit("opt-write-zero", self.opt_write_zero)?,
            max_write_zero: limit("max-write-zero", self.max_write_zero)?.map(u64::from),
            opt_discard: limit("opt-discard", self.opt_discard)?,
            max_discard: limit("max-discard", self.max_discard)?.map(u64::from),
        })
    }

    fn perms(&self, perms: Perms) -> Perms {
        let union = |names: &[PermName]| names.iter().map(|name| name.bit()).collect::<Perm>();
        Perms {
            own: perms.own | union(&self.take_child_perms),
            shared: perms.shared - union(&self.unshare_child_perms),
        }
    }
}

fn refused(name: &str, value: u64) -> Error {
    Error::invalid(format!("Cannot meet constraints with {name} {value}"))
}

/// A limit that must be a multiple of the alignment; 0 is none.
fn multiple(name: &str, size: Option<Size>, align: u32) -> Result<Option<u32>> {
    let Some(Size(size @ 1..)) = size else { return Ok(None) };
    let fits = u32::try_from(size).ok().filter(|n| n.is_multiple_of(align) && *n <= i32::MAX.unsigned_abs());
    fits.map(Some).ok_or_else(|| refused(name, size))
}

#[derive(Debug)]
struct Blkdebug {
    image: Child,
    children: Arc<[Child]>,
    asked: Asked,
    /// What stays when the node is reopened.
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    machine: Mutex<Machine>,
    stops: Stops,
    /// Something was written since the last flush; a flush of nothing is no request.
    written: AtomicBool,
}

fn open(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    let options: BlkdebugOptions = ctx.options()?;
    let mut rules =
        options.config.as_ref().map_or(Ok(Vec::new()), |config| rules::from_file(&text(config)))?;
    rules.extend(rules::from_options("inject-error", options.inject_error.as_ref())?);
    rules.extend(rules::from_options("set-state", options.set_state.as_ref())?);
    let image = ctx.child("image", options.perms(ctx.perms))?;
    let shared = Shared {
        machine: Mutex::new(Machine::new(rules)),
        stops: Stops::default(),
        written: AtomicBool::new(false),
    };
    Ok(Box::new(Blkdebug::new(image, options.asked()?, Arc::new(shared))))
}

impl Blkdebug {
    fn new(image: Child, asked: Asked, shared: Arc<Shared>) -> Self {
        Blkdebug { children: Arc::from([image.clone()]), image, asked, shared }
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.shared.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails with the error that a request of this kind is to meet, if any.
    fn admit(&self, range: Range<u64>, kind: IoType) -> Result<()> {
        self.machine().error_for(range, kind).map_or(Ok(()), |errno| Err(Error::from_errno(errno)))
    }

    fn admit_change(&self, range: Range<u64>, kind: IoType) -> Result<()> {
        self.shared.written.store(true, Ordering::Release);
        self.admit(range, kind)
    }
}

impl Driver for Blkdebug {
    fn len(&self) -> Result<u64> {
        self.image.len()
    }

    fn limits(&self) -> Limits {
        let below = self.image.node().limits();
        let asked = self.asked;
        Limits {
            request_align: asked.align.unwrap_or(1),
            max_transfer: asked.max_transfer.or(below.max_transfer),
            zero_granularity: asked.opt_write_zero.unwrap_or(1),
            max_zero: asked.max_write_zero,
            discard_granularity: asked.opt_discard.unwrap_or(1),
            discards_parts: false,
            max_discard: asked.max_discard,
            write_flags: below.write_flags - WriteFlags::COMPRESSED,
            ..below
        }
    }

    fn children(&self) -> Arc<[Child]> {
        Arc::clone(&self.children)
    }

    fn filtered(&self) -> Option<&Child> {
        Some(&self.image)
    }

    fn map(&self, at: u64, max: u64, want: Want) -> Result<Mapping> {
        self.admit(at..at.saturating_add(max), IoType::BlockStatus)?;
        self.image.map(at, max, want)
    }

    fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        self.admit(at..at + to.len() as u64, IoType::Read)?;
        self.image.read(at, to)
    }

    fn write(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags) -> Result<()> {
        self.admit_change(at..at + from.len() as u64, IoType::Write)?;
        self.image.write(at, from, flags)
    }

    fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        // Less than the unit asked for has to be written, as on a disk that cannot do better.
        let Asked { align, opt_write_zero, .. } = self.asked;
        let unit = align.max(opt_write_zero).unwrap_or(1);
        if range.end - range.start < u64::from(unit) {
            return Err(Error::from_errno(nix::libc::ENOTSUP));
        }
        self.admit_change(range.clone(), IoType::WriteZeroes)?;
        self.image.write_zeroes(range, flags)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.admit_change(range.clone(), IoType::Discard)?;
        self.image.discard(range)
    }

    fn flush(&self, level: Level) -> Result<()> {
        if level == Level::Disk && self.shared.written.swap(false, Ordering::AcqRel) {
            self.admit(0..0, IoType::Flush)
                .inspect_err(|_| self.shared.written.store(true, Ordering::Release))?;
        }
        self.image.flush(level)
    }

    fn truncate(&self, _q: &Quiesced<'_>, to: Resize) -> Result<()> {
        self.image.node().truncate(to)
    }

    fn reopen(&self, ctx: &mut ReopenCtx<'_>) -> Result<Box<dyn Driver>> {
        let options: BlkdebugOptions = ctx.options(&[])?;
        let image = ctx.child("image", options.perms(ctx.perms))?;
        Ok(Box::new(Blkdebug::new(image, self.asked, Arc::clone(&self.shared))))
    }

    fn event(&self, event: Event) {
        self.machine().event(event.0);
        self.shared.stops.meet(event.0);
    }

    fn breakpoints(&self) -> Option<&dyn Breakpoints> {
        Some(&self.shared.stops)
    }
}

#[cfg(test)]
mod tests;
