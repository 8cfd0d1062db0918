//! What some formats have beyond bytes: clusters, snapshots, dirty bitmaps, key slots and options that can be changed,
//! reached through filters.

use super::Node;
use crate::amend::AmendCtx;
use crate::bitmap::{Bitmaps, DirtyBitmap};
use crate::compressed::Packed;
use crate::graph::CreateOptions;
use crate::inflight::Mode;
use crate::keys::Keys;
use crate::overlay::BackingName;
use crate::snapshot::{NewSnapshot, Snapshot, SnapshotName, Snapshots, not_found};
use crate::{Context, Error, IoVec, Kind, Quiesced, Result, WriteFlags};
use std::sync::Arc;

impl Node {
    /// The node that knows how the bytes of this one are laid out, in clusters or just in a file; `None` where they are in
    /// neither.
    pub fn layout(self: &Arc<Self>) -> Option<Arc<Node>> {
        let node = self.laid_out();
        let is_known = node.limits().cluster_size.is_some() || node.name.description.contains_key("filename");
        is_known.then_some(node)
    }

    /// This node, or what is below filters and formats that have no clusters.
    fn laid_out(self: &Arc<Self>) -> Arc<Node> {
        // Of blkverify, the raw copy counts.
        match self.primary().or_else(|| self.child("raw")) {
            Some(below) if self.limits().cluster_size.is_none() => below.laid_out(),
            _ => Arc::clone(self),
        }
    }

    /// Whether the format can be given another backing file.
    pub fn has_overlay(&self) -> bool {
        self.state().driver.overlay().is_some()
    }

    /// Writes another backing file's name into the image.
    ///
    /// # Errors
    /// `ENOTSUP` in formats without backing files, or the driver's.
    pub fn set_backing(&self, to: Option<BackingName<'_>>) -> Result<()> {
        let state = self.state();
        let overlay = state.driver.overlay().ok_or_else(|| Error::from_errno(nix::libc::ENOTSUP))?;
        overlay.set_backing(&self.drain(), to)
    }

    /// Whether the format can give up its contents.
    pub fn can_be_emptied(&self) -> bool {
        self.state().driver.emptying().is_some()
    }

    /// Gives up everything stored, so that the backing file shows.
    ///
    /// # Errors
    /// `ENOTSUP` in formats that cannot, or the driver's.
    pub fn make_empty(&self) -> Result<()> {
        let state = self.state();
        let emptying = state.driver.emptying().ok_or_else(|| Error::from_errno(nix::libc::ENOTSUP))?;
        emptying.make_empty(&self.drain())
    }

    /// Compresses whole clusters (or up to the end of the image) without storing them, except those to `skip`; `None`
    /// where that is left to the write itself.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn pack(&self, bytes: &[u8], skip: impl Fn(&[u8]) -> bool) -> Result<Option<Packed>> {
        let state = self.state();
        let Some(compressor) = state.driver.compressor() else { return Ok(None) };
        let cluster = usize::try_from(compressor.cluster_size()).unwrap_or(usize::MAX);
        let pack = |bytes: &[u8]| match bytes {
            bytes if skip(bytes) => Ok(None),
            bytes if bytes.len() == cluster => compressor.compress(bytes),
            bytes => compressor.compress(&[bytes, &vec![0; cluster - bytes.len()]].concat()),
        };
        Ok(Some(Packed { cluster, clusters: bytes.chunks(cluster).map(pack).collect::<Result<_>>()? }))
    }

    /// Stores clusters that were compressed before; those it does not pay for as they are.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn write_packed(&self, at: u64, bytes: &[u8], packed: &[Option<Vec<u8>>]) -> Result<()> {
        let state = self.state();
        let compressor = state.driver.compressor().ok_or_else(|| Error::from_errno(nix::libc::ENOTSUP))?;
        let cluster = usize::try_from(compressor.cluster_size()).unwrap_or(usize::MAX);
        let _guard = self.inflight.begin(at..at + bytes.len() as u64, Mode::Plain);
        let mut place = at;
        for (bytes, packed) in bytes.chunks(cluster).zip(packed) {
            match packed {
                Some(packed) => compressor.store(place, packed)?,
                None => state.driver.write(place, &IoVec::from(bytes), WriteFlags::empty())?,
            }
            place += bytes.len() as u64;
        }
        Ok(())
    }

    /// Changes the format's own options in place, with nothing else in flight.
    ///
    /// # Errors
    /// `Unsupported` where the format has none to change; otherwise the driver's.
    pub fn amend(&self, options: &CreateOptions, ctx: &mut AmendCtx<'_>) -> Result<()> {
        let state = self.state();
        let amend = state.driver.amend().ok_or_else(|| Error::from_errno(nix::libc::ENOTSUP))?;
        amend.amend(&self.drain(), options, ctx)
    }

    /// Does something with the key slots, with nothing else in flight.
    ///
    /// # Errors
    /// `None` in formats without key slots; otherwise what `f` says.
    pub fn with_keys<T>(&self, f: impl FnOnce(&dyn Keys, &Quiesced<'_>) -> Result<T>) -> Option<Result<T>> {
        let state = self.state();
        let keys = state.driver.keys()?;
        Some(f(keys, &self.drain()))
    }

    /// The snapshots inside the image, oldest first; `None` in formats without.
    pub fn snapshots(&self) -> Option<Vec<Snapshot>> {
        self.state().driver.snapshots().map(Snapshots::list)
    }

    /// Keeps the contents as they are now, with nothing else in flight.
    ///
    /// # Errors
    /// `ENOTSUP` in formats without snapshots, or the driver's.
    pub fn create_snapshot(&self, new: &NewSnapshot) -> Result<()> {
        self.with_snapshots(|snapshots, q| snapshots.create(q, new))
    }

    /// Makes the contents those of the snapshot with that id.
    ///
    /// # Errors
    /// As for [`Node::create_snapshot`].
    pub fn apply_snapshot(&self, id: &str) -> Result<()> {
        self.with_snapshots(|snapshots, q| snapshots.apply(q, id))
    }

    /// Forgets the snapshot with that id.
    ///
    /// # Errors
    /// As for [`Node::create_snapshot`].
    pub fn delete_snapshot(&self, id: &str) -> Result<()> {
        self.with_snapshots(|snapshots, q| snapshots.delete(q, id))
    }

    /// Shows the contents of a snapshot in an image opened read-only, until it is closed: what `convert -l` copies and a
    /// server exports.
    ///
    /// # Errors
    /// A format without snapshots, no such snapshot, or the driver's.
    pub fn load_snapshot(&self, name: &SnapshotName) -> Result<()> {
        let Some(all) = self.snapshots() else {
            return Err(Error::unsupported(format!(
                "Block format '{}' used by device '' does not support temporarily loading internal snapshots",
                self.name.driver
            )));
        };
        let found = name.find(&all).ok_or_else(|| Error::new(Kind::NotFound, "Can't find snapshot"))?;
        self.with_snapshots(|snapshots, q| snapshots.load(q, &found.id))
    }

    /// The id of the snapshot meant.
    ///
    /// # Errors
    /// There is none.
    pub fn snapshot_id(&self, name: &SnapshotName) -> Result<String> {
        let all = self.snapshots().unwrap_or_default();
        name.find(&all).map(|s| s.id.clone()).ok_or_else(not_found)
    }

    fn with_snapshots<T>(&self, f: impl FnOnce(&dyn Snapshots, &Quiesced<'_>) -> Result<T>) -> Result<T> {
        let state = self.state();
        let snapshots = state.driver.snapshots().ok_or_else(|| Error::from_errno(nix::libc::ENOTSUP))?;
        f(snapshots, &self.drain())
    }

    /// The dirty bitmaps kept in the image; none in formats without.
    pub fn bitmaps(&self) -> Vec<Arc<DirtyBitmap>> {
        self.state().driver.bitmaps().map(Bitmaps::list).unwrap_or_default()
    }

    /// Whether the image can keep dirty bitmaps.
    pub fn has_bitmaps(&self) -> bool {
        self.state().driver.bitmaps().is_some_and(Bitmaps::can_keep)
    }

    /// Makes an empty bitmap that is kept in the image; the granularity is in bytes.
    ///
    /// # Errors
    /// A format that keeps none, or the driver's.
    pub fn add_bitmap(&self, name: &str, granularity: Option<u64>) -> Result<Arc<DirtyBitmap>> {
        let valid = |bytes: u64| bytes.is_power_of_two() && (512..1 << 32).contains(&bytes);
        if name.is_empty() {
            return Err(Error::invalid("Bitmap name cannot be empty"));
        }
        if self.bitmaps().iter().any(|bitmap| bitmap.name() == name) {
            return Err(Error::invalid(format!("Bitmap already exists: {name}")));
        }
        if !granularity.is_none_or(valid) {
            return Err(Error::invalid("Granularity must be power of 2 and at least 512"));
        }
        self.with_bitmaps(|bitmaps, q| {
            let what = || format!("Can't make bitmap '{name}' persistent in '{}'", self.name.node);
            bitmaps.add(q, name, granularity).context(what)
        })
    }

    /// Saves the bitmaps of an image that is about to be closed.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn store_bitmaps(&self) -> Result<()> {
        let what = || format!("Lost persistent bitmaps during inactivation of node '{}'", self.name.node);
        let state = self.state();
        let stored = state.driver.bitmaps().map_or(Ok(()), Bitmaps::store);
        stored.map_err(|e| e.context(what()).with_errno(nix::libc::EINVAL))
    }

    /// Removes a bitmap from the image.
    ///
    /// # Errors
    /// No such bitmap, or the driver's.
    pub fn remove_bitmap(&self, name: &str) -> Result<()> {
        self.bitmap(name)?;
        self.with_bitmaps(|bitmaps, q| bitmaps.remove(q, name))
    }

    /// The bitmap of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn bitmap(&self, name: &str) -> Result<Arc<DirtyBitmap>> {
        let found = self.bitmaps().into_iter().find(|bitmap| bitmap.name() == name);
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("Dirty bitmap '{name}' not found")))
    }

    fn with_bitmaps<T>(&self, f: impl FnOnce(&dyn Bitmaps, &Quiesced<'_>) -> Result<T>) -> Result<T> {
        let state = self.state();
        let bitmaps = state.driver.bitmaps().ok_or_else(|| {
            let text = format!("Can't store persistent bitmaps to {}", self.name.node);
            Error::from_errno(nix::libc::ENOTSUP).context(text)
        })?;
        f(bitmaps, &self.drain())
    }
}
