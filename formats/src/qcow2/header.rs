//! The header: bytes to a validated model and back (specification, "Header").
//!
//! A [`Header`] obeys every rule that can be checked without reading anything else of the image. What it points at is
//! checked by whoever follows the pointer.

use super::extension::Extensions;
use super::features::{Autoclear, Compatible, Incompatible, describe_unknown};
use super::geometry::Geometry;
use crate::field::{place, wrong};
use block::{Error, Result};

/// The first four bytes of the file.
pub(super) const MAGIC: u32 = 0x5146_49fb;
/// Length of a version 2 header.
pub(super) const V2_LEN: usize = 72;
/// Length of the shortest version 3 header.
const V3_MIN_LEN: usize = 104;
/// Length of a version 3 header with every field we know, padded.
pub(super) const V3_LEN: usize = 112;
/// The largest active L1 table, in bytes.
pub(super) const MAX_L1_BYTES: u64 = 32 << 20;
/// The largest refcount table, in bytes.
pub(super) const MAX_REFTABLE_BYTES: u64 = 8 << 20;
/// The most snapshots.
pub(super) const MAX_SNAPSHOTS: u32 = 65536;
/// The longest backing file name.
pub(super) const MAX_BACKING_NAME: usize = 1023;
/// The smallest cluster in which the feature name table is written.
const NAMES_FROM: u64 = 8192;
/// The smallest and the largest log2 of a cluster size.
pub(super) const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;

/// Where fields are, in bytes from the start of the file.
pub(super) mod field {
    pub(in crate::qcow2) const SNAPSHOTS: u64 = 60;
    pub(in crate::qcow2) const SIZE: u64 = 24;
    pub(in crate::qcow2) const L1_SIZE: u64 = 36;
    pub(in crate::qcow2) const L1_OFFSET: u64 = 40;
    pub(in crate::qcow2) const REFTABLE_OFFSET: u64 = 48;
    pub(in crate::qcow2) const INCOMPATIBLE: u64 = 72;
}

/// Version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    /// `compat=0.10`.
    V2,
    /// `compat=1.1`.
    V3,
}

/// How the payload is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CryptMethod {
    /// Not at all.
    None,
    /// AES-CBC, keyed by the passphrase itself.
    Aes,
    /// LUKS.
    Luks,
}

/// How compressed clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    /// Raw deflate.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// A contiguous table of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    /// Where it starts.
    pub(super) offset: u64,
    /// How much there is of it: entries, or clusters for the refcount table.
    pub(super) count: u32,
}

/// The header: see the module documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: Version,
    pub(super) geometry: Geometry,
    /// Virtual size in bytes.
    pub(super) size: u64,
    pub(super) crypt: CryptMethod,
    /// The active L1 table, counted in entries.
    pub(super) l1: Table,
    /// The refcount table, counted in clusters.
    pub(super) reftable: Table,
    /// The snapshot table, counted in snapshots.
    pub(super) snapshots: Table,
    pub(super) incompatible: Incompatible,
    pub(super) compatible: Compatible,
    pub(super) autoclear: Autoclear,
    pub(super) compression: Compression,
    /// Header bytes after those we know.
    pub(super) unknown_fields: Vec<u8>,
    pub(super) backing_file: Option<String>,
    pub(super) extensions: Extensions,
}

pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

pub(super) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

fn invalid<T>(text: impl Into<String>, field: &str, at: usize) -> Result<T> {
    Err(wrong(text, field, at))
}

/// The fixed part of the beginning, before anything is known to be right: as many bytes as the longest header we know.
#[derive(Debug)]
pub(super) struct Prologue {
    version: Version,
    cluster_bits: u32,
    header_len: usize,
    backing_offset: u64,
}

impl Prologue {
    /// Parses what says how long the header is, from the first [`V3_LEN`] bytes of the file.
    ///
    /// # Errors
    /// Another format, an unknown version, an impossible cluster size or header length.
    pub(super) fn parse(head: &[u8]) -> Result<Self> {
        if be32(head, 0) != MAGIC {
            return invalid("Image is not in qcow2 format", "magic", 0);
        }
        let version = match be32(head, 4) {
            2 => Version::V2,
            3 => Version::V3,
            other => {
                let error = Error::unsupported(format!("Unsupported qcow2 version {other}"));
                return Err(error.with_place(place("version", 4)));
            }
        };
        let cluster_bits = be32(head, 20);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return invalid(format!("Unsupported cluster size: 2^{cluster_bits}"), "cluster_bits", 20);
        }
        let header_len = match version {
            Version::V2 => V2_LEN,
            Version::V3 => be32(head, 100) as usize,
        };
        if version == Version::V3 && header_len < V3_MIN_LEN {
            return invalid("qcow2 header too short", "header_length", 100);
        }
        if header_len > 1 << cluster_bits {
            return invalid("qcow2 header exceeds cluster size", "header_length", 100);
        }
        let backing_offset = be64(head, 8);
        if backing_offset > 1 << cluster_bits {
            return invalid("Invalid backing file offset", "backing_file_offset", 8);
        }
        Ok(Prologue { version, cluster_bits, header_len, backing_offset })
    }

    /// Bytes of the first cluster, which hold the whole header.
    pub(super) fn cluster_len(&self) -> usize {
        1 << self.cluster_bits
    }
}

/// How strictly a header is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rules {
    /// Everything has to be right.
    All,
    /// What a check can mend may be wrong: the number of snapshots, a missing refcount table.
    Checking,
}

impl Header {
    /// Parses the first cluster of the file.
    ///
    /// # Errors
    /// The first rule of the specification that does not hold.
    pub(super) fn parse(prologue: &Prologue, cluster: &[u8], rules: Rules) -> Result<Self> {
        let fields = &cluster[..prologue.header_len];
        let v3 = prologue.version == Version::V3;
        let bits = |at| if v3 { be64(fields, at) } else { 0 };
        let incompatible = Incompatible::from_bits_retain(bits(72));
        let crypt_method = be32(fields, 32);
        let area = extension_area(prologue, cluster);
        check_features(incompatible, area)?;
        let compression = compression(incompatible, fields, v3)?;
        let geometry = geometry(prologue, incompatible, if v3 { be32(fields, 96) } else { 4 })?;
        let crypt = match crypt_method {
            0 => CryptMethod::None,
            1 => CryptMethod::Aes,
            2 => CryptMethod::Luks,
            other => return invalid(format!("Unsupported encryption method {other}"), "crypt_method", 32),
        };
        let header = Header {
            version: prologue.version,
            geometry,
            size: be64(fields, 24),
            crypt,
            l1: Table { offset: be64(fields, 40), count: be32(fields, 36) },
            reftable: Table { offset: be64(fields, 48), count: be32(fields, 56) },
            snapshots: Table { offset: be64(fields, 64), count: be32(fields, 60) },
            incompatible,
            compatible: Compatible::from_bits_retain(bits(80)),
            autoclear: Autoclear::from_bits_retain(bits(88)),
            compression,
            unknown_fields: fields.get(V3_LEN..).unwrap_or_default().to_vec(),
            backing_file: None,
            extensions: Extensions::default(),
        };
        header.check_tables(rules)?;
        let extensions = Extensions::parse(area, prologue.header_len, crypt)?;
        if crypt == CryptMethod::Luks && extensions.crypto.is_none() {
            return Err(Error::invalid("Missing CRYPTO header for crypt method 2"));
        }
        let backing_file = backing_name(prologue, cluster)?;
        Ok(Header { extensions, backing_file, ..header })
    }

    fn check_tables(&self, rules: Rules) -> Result<()> {
        let g = self.geometry;
        let reftable_bytes = u64::from(self.reftable.count) << g.cluster_bits;
        if self.reftable.count == 0 && rules == Rules::All {
            return invalid("Image does not contain a reference count table", "refcount_table_clusters", 56);
        }
        let counted = if rules == Rules::All { self.snapshots.count } else { 0 };
        let snapshot_bytes = u64::from(counted) * 40;
        let tables = [
            (self.reftable, reftable_bytes, MAX_REFTABLE_BYTES, "Reference count table", Fields::REFTABLE),
            (
                self.snapshots,
                snapshot_bytes,
                u64::from(MAX_SNAPSHOTS) * 40,
                "Snapshot table",
                Fields::SNAPSHOTS,
            ),
            (self.l1, u64::from(self.l1.count) * 8, MAX_L1_BYTES, "Active L1 table", Fields::L1),
        ];
        for (table, bytes, max, name, fields) in tables {
            check_table(table.offset, bytes, max, g, name).map_err(|e| fields.place(e))?;
        }
        let needed = g.l1_entries(self.size);
        if needed > i32::MAX as u64 {
            return Err(Error::invalid("Image is too big").with_errno(nix::libc::EFBIG));
        }
        if u64::from(self.l1.count) < needed {
            return Err(Error::invalid("L1 table is too small"));
        }
        Ok(())
    }

    /// Whether refcounts may be updated lazily.
    pub(super) fn has(&self, feature: Incompatible) -> bool {
        self.incompatible.contains(feature)
    }

    /// Whether the data file is a raw image by itself.
    pub(super) fn raw_data_file(&self) -> bool {
        self.autoclear.contains(Autoclear::RAW_DATA_FILE)
    }

    /// The header as it stands in the first cluster: fields, extensions and backing file name.
    ///
    /// # Errors
    /// `ENOSPC` when they do not fit.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        let v3 = self.version == Version::V3;
        let mut out = self.fields(v3);
        // The names are a courtesy; small clusters have better uses for the room.
        let names = v3 && self.geometry.cluster_size() >= NAMES_FROM;
        out.extend(self.extensions.to_bytes(names));
        if let Some(name) = &self.backing_file {
            let offset = out.len() as u64;
            out[8..16].copy_from_slice(&offset.to_be_bytes());
            out[16..20].copy_from_slice(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend(name.as_bytes());
        }
        if out.len() > self.geometry.cluster_len() {
            return Err(Error::from_errno(nix::libc::ENOSPC));
        }
        out.resize(self.geometry.cluster_len(), 0);
        Ok(out)
    }

    fn fields(&self, v3: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(V3_LEN);
        out.extend(MAGIC.to_be_bytes());
        out.extend(if v3 { 3u32 } else { 2 }.to_be_bytes());
        out.extend([0; 12]);
        out.extend(self.geometry.cluster_bits.to_be_bytes());
        out.extend(self.size.to_be_bytes());
        out.extend((self.crypt as u32).to_be_bytes());
        out.extend(self.l1.count.to_be_bytes());
        out.extend(self.l1.offset.to_be_bytes());
        out.extend(self.reftable.offset.to_be_bytes());
        out.extend(self.reftable.count.to_be_bytes());
        out.extend(self.snapshots.count.to_be_bytes());
        out.extend(self.snapshots.offset.to_be_bytes());
        debug_assert_eq!(out.len(), V2_LEN);
        if v3 {
            out.extend(self.incompatible.bits().to_be_bytes());
            out.extend(self.compatible.bits().to_be_bytes());
            out.extend(self.autoclear.bits().to_be_bytes());
            out.extend(self.geometry.refcount_order.to_be_bytes());
            let len = V3_LEN + self.unknown_fields.len();
            out.extend(u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
            out.extend([self.compression as u8, 0, 0, 0, 0, 0, 0, 0]);
            out.extend(&self.unknown_fields);
        }
        out
    }
}

/// The bytes between the header and the backing file name.
fn extension_area<'a>(prologue: &Prologue, cluster: &'a [u8]) -> &'a [u8] {
    let end = match prologue.backing_offset {
        0 => cluster.len(),
        offset => usize::try_from(offset).unwrap_or(cluster.len()),
    };
    cluster.get(prologue.header_len..end).unwrap_or_default()
}

fn check_features(incompatible: Incompatible, area: &[u8]) -> Result<()> {
    let unknown = incompatible.difference(Incompatible::KNOWN);
    if unknown.is_empty() {
        return Ok(());
    }
    // The table may be among extensions that are damaged; then the bits have no names.
    let names = Extensions::parse(area, 0, CryptMethod::Luks).map(|e| e.feature_names).unwrap_or_default();
    let features = describe_unknown(unknown, &names);
    let text = format!("Unsupported qcow2 feature(s): {features}");
    // The sentence names the field, and QEMU's suite compares the whole of what is said.
    Err(Error::unsupported(text))
}

fn compression(incompatible: Incompatible, fields: &[u8], v3: bool) -> Result<Compression> {
    let stored = if v3 { fields.get(V3_MIN_LEN).copied().unwrap_or(0) } else { 0 };
    let flagged = incompatible.contains(Incompatible::COMPRESSION);
    match (stored, flagged) {
        (0, false) => Ok(Compression::Zlib),
        (0, true) => invalid(
            "qcow2: Compression type incompatible feature bit must not be set",
            "compression_type",
            104,
        ),
        (1, true) => Ok(Compression::Zstd),
        (1, false) => {
            invalid("qcow2: Compression type incompatible feature bit must be set", "compression_type", 104)
        }
        (other, _) => invalid(format!("qcow2: unknown compression type: {other}"), "compression_type", 104),
    }
}

fn geometry(prologue: &Prologue, incompatible: Incompatible, refcount_order: u32) -> Result<Geometry> {
    let extended_l2 = incompatible.contains(Incompatible::EXTENDED_L2);
    let data_file = incompatible.contains(Incompatible::DATA_FILE);
    let geometry = Geometry { cluster_bits: prologue.cluster_bits, extended_l2, refcount_order, data_file };
    if geometry.subcluster_size() < 512 {
        let text = format!("Unsupported subcluster size: {}", geometry.subcluster_size());
        return invalid(text, "cluster_bits", 20);
    }
    if refcount_order > 6 {
        let text = "Reference count entry width too large; may not exceed 64 bits";
        return invalid(text, "refcount_order", 96);
    }
    Ok(geometry)
}

/// Checks that a table is not larger than it may be, starts at a cluster boundary and ends below 2^63.
pub(super) fn check_table(offset: u64, bytes: u64, max: u64, geometry: Geometry, name: &str) -> Result<()> {
    if bytes > max {
        return Err(Error::invalid(format!("{name} too large")).with_errno(nix::libc::EFBIG));
    }
    let end = offset.checked_add(bytes);
    if end.is_none_or(|end| end > i64::MAX as u64) || geometry.within(offset) != 0 {
        return Err(Error::invalid(format!("{name} offset invalid")));
    }
    Ok(())
}

/// The fields that say where a table is and how long: names, and offsets in the file.
struct Fields {
    offset: (&'static str, usize),
    /// QEMU's sentence is known to stand alone where there is none.
    count: Option<(&'static str, usize)>,
}

impl Fields {
    const REFTABLE: Self =
        Fields { offset: ("refcount_table_offset", 48), count: Some(("refcount_table_clusters", 56)) };
    const SNAPSHOTS: Self = Fields { offset: ("snapshots_offset", 64), count: None };
    const L1: Self = Fields { offset: ("l1_table_offset", 40), count: Some(("l1_size", 36)) };

    /// Adds to what [`check_table`] found which field that is.
    fn place(&self, error: Error) -> Error {
        let too_large = error.errno() == nix::libc::EFBIG;
        let field = if too_large { self.count } else { Some(self.offset) };
        match field {
            Some((name, at)) => error.with_place(place(name, at)),
            None => error,
        }
    }
}

fn backing_name(prologue: &Prologue, cluster: &[u8]) -> Result<Option<String>> {
    if prologue.backing_offset == 0 {
        return Ok(None);
    }
    let len = be32(cluster, 16) as usize;
    let start = usize::try_from(prologue.backing_offset).unwrap_or(cluster.len());
    let room = cluster.len() - start;
    if len > room.min(MAX_BACKING_NAME) {
        return invalid("Backing file name too long", "backing_file_size", 16);
    }
    // No file's name has a NUL in it: where one stands, the real tools take the name to end.
    let name = cluster[start..start + len].split(|byte| *byte == 0).next().unwrap_or_default();
    Ok((!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned()))
}
