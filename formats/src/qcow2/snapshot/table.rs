//! The snapshot table: entries to bytes and back (specification, "Snapshots").

use crate::qcow2::header::{MAX_SNAPSHOTS, Table, be32, be64};
use block::{Child, Context, Error, Result};

/// Bytes of an entry before its variable part.
const FIXED: usize = 40;
/// Extra data we know: VM state size, disk size, instruction count.
const KNOWN_EXTRA: usize = 24;
/// The most extra data an entry may have, in bytes.
const MAX_EXTRA: usize = 1024;
/// The largest snapshot table, in bytes.
pub(super) const MAX_TABLE: u64 = 1024 * MAX_SNAPSHOTS as u64;

/// An entry of the snapshot table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::qcow2) struct Snapshot {
    /// Where its L1 table is.
    pub(in crate::qcow2) l1_offset: u64,
    /// Entries of its L1 table.
    pub(in crate::qcow2) l1_size: u32,
    /// As stored; [`Snapshot::id_text`] is what people see.
    pub(in crate::qcow2) id: Vec<u8>,
    /// As stored; [`Snapshot::name_text`] is what people see.
    pub(in crate::qcow2) name: Vec<u8>,
    pub(in crate::qcow2) date_sec: u32,
    pub(in crate::qcow2) date_nsec: u32,
    pub(in crate::qcow2) vm_clock_nsec: u64,
    pub(in crate::qcow2) vm_state_size: u64,
    /// Virtual size of the disk when it was taken; `None` where the entry does not say (version 2).
    pub(in crate::qcow2) disk_size: Option<u64>,
    /// Instruction count; `None` where the entry does not say.
    pub(in crate::qcow2) icount: Option<u64>,
    /// Extra data after what we know.
    pub(in crate::qcow2) unknown_extra: Vec<u8>,
}

impl Snapshot {
    /// Its id, as far as the first zero byte.
    pub(in crate::qcow2) fn id_text(&self) -> String {
        text(&self.id)
    }

    /// Its name, as far as the first zero byte.
    pub(in crate::qcow2) fn name_text(&self) -> String {
        text(&self.name)
    }

    /// An entry of which `extra` is what was read of its extra data.
    fn parse(fixed: &[u8], extra: &[u8], id: &[u8], name: &[u8]) -> Self {
        let known = |at: usize| (extra.len() >= at + 8).then(|| be64(extra, at));
        Snapshot {
            l1_offset: be64(fixed, 0),
            l1_size: be32(fixed, 8),
            id: id.to_vec(),
            name: name.to_vec(),
            date_sec: be32(fixed, 16),
            date_nsec: be32(fixed, 20),
            vm_clock_nsec: be64(fixed, 24),
            vm_state_size: known(0).unwrap_or(u64::from(be32(fixed, 32))),
            disk_size: known(8),
            icount: known(16),
            unknown_extra: extra.get(KNOWN_EXTRA..).unwrap_or_default().to_vec(),
        }
    }

    /// The entry as written, padded, for a disk of `disk_size` bytes unless it says otherwise.
    pub(in crate::qcow2) fn to_bytes(&self, disk_size: u64) -> Vec<u8> {
        let extra_len = KNOWN_EXTRA + self.unknown_extra.len();
        let mut out = Vec::new();
        out.extend(self.l1_offset.to_be_bytes());
        out.extend(self.l1_size.to_be_bytes());
        out.extend(short(self.id.len()));
        out.extend(short(self.name.len()));
        out.extend(self.date_sec.to_be_bytes());
        out.extend(self.date_nsec.to_be_bytes());
        out.extend(self.vm_clock_nsec.to_be_bytes());
        out.extend(u32::try_from(self.vm_state_size).unwrap_or(0).to_be_bytes());
        out.extend(u32::try_from(extra_len).unwrap_or(u32::MAX).to_be_bytes());
        out.extend(self.vm_state_size.to_be_bytes());
        out.extend(self.disk_size.unwrap_or(disk_size).to_be_bytes());
        out.extend(self.icount.unwrap_or(u64::MAX).to_be_bytes());
        out.extend(&self.unknown_extra);
        out.extend(&self.id);
        out.extend(&self.name);
        out.resize(out.len().next_multiple_of(8), 0);
        out
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

fn short(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes()
}

/// The snapshot table of an open image.
#[derive(Debug, Default)]
pub(in crate::qcow2) struct SnapshotTable {
    pub(in crate::qcow2) snapshots: Vec<Snapshot>,
    /// Bytes it takes in the file.
    pub(in crate::qcow2) bytes: u64,
    /// Snapshots left out because the table is too long.
    pub(in crate::qcow2) overhanging: u64,
    /// Entries of which extra data was left out.
    pub(in crate::qcow2) shortened: u64,
}

/// What to do with a table that is beyond the limits.
pub(in crate::qcow2) enum Excess<'a> {
    /// Refuse it.
    Refuse,
    /// Leave out what is too much, and say so.
    Discard(&'a mut dyn FnMut(&str)),
}

/// Reads small parts of a file, some more at a time.
struct Window<'a> {
    file: &'a Child,
    at: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// How much is read at a time, in bytes.
    const STEP: usize = 65536;

    fn part(&mut self, at: u64, len: usize) -> Result<&[u8]> {
        let end = self.at + self.bytes.len() as u64;
        if at < self.at || at + len as u64 > end {
            self.bytes.resize(len.max(Self::STEP), 0);
            self.file.read_exact(at, &mut self.bytes).context(|| "Failed to read snapshot table")?;
            self.at = at;
        }
        let start = usize::try_from(at - self.at).unwrap_or(usize::MAX);
        Ok(&self.bytes[start..start + len])
    }
}

/// Reads the snapshot table. A false count costs no memory: the table is read a piece at a time, up to its limit.
///
/// # Errors
/// A table too large, an entry with too much extra data, or the file's.
pub(in crate::qcow2) fn read_table(
    file: &Child,
    table: Table,
    mut excess: Excess<'_>,
) -> Result<SnapshotTable> {
    let mut found = SnapshotTable::default();
    let mut window = Window { file, at: 0, bytes: Vec::new() };
    // What the table takes without the extra data that is left out: that is what must not be too much.
    let mut kept = 0;
    for index in 0..table.count {
        let at = table.offset + found.bytes;
        let fixed: [u8; FIXED] = window.part(at, FIXED)?.try_into().unwrap_or([0; FIXED]);
        let extra_len = be32(&fixed, 36) as usize;
        if extra_len > MAX_EXTRA {
            found.shortened += excess.extra(index, extra_len)?;
        }
        let be16 = |at: usize| usize::from(u16::from_be_bytes([fixed[at], fixed[at + 1]]));
        let (id_len, name_len) = (be16(12), be16(14));
        let kept_extra = extra_len.min(MAX_EXTRA);
        let extra = window.part(at + FIXED as u64, kept_extra)?.to_vec();
        let names = window.part(at + (FIXED + extra_len) as u64, id_len + name_len)?;
        let snapshot = Snapshot::parse(&fixed, &extra, &names[..id_len], &names[id_len..]);
        let len = |extra: usize| (FIXED + extra + id_len + name_len).next_multiple_of(8) as u64;
        kept += len(kept_extra);
        if kept > MAX_TABLE {
            found.overhanging += excess.snapshots(table.count - index)?;
            break;
        }
        found.bytes += len(extra_len);
        found.snapshots.push(snapshot);
    }
    Ok(found)
}

impl Excess<'_> {
    /// An entry has `len` bytes of extra data.
    fn extra(&mut self, index: u32, len: usize) -> Result<u64> {
        match self {
            Excess::Refuse => {
                Err(Error::invalid(format!("Too much extra metadata in snapshot table entry {index}"))
                    .with_errno(nix::libc::EFBIG)
                    .with_hint("You can force-remove this extra metadata with qemu-img check -r all"))
            }
            Excess::Discard(say) => {
                say(&format!(
                    "Discarding too much extra metadata in snapshot table entry {index} ({len} > {MAX_EXTRA})"
                ));
                Ok(1)
            }
        }
    }

    /// There is no room in the table for the last `count` snapshots.
    fn snapshots(&mut self, count: u32) -> Result<u64> {
        match self {
            Excess::Refuse => Err(Error::invalid("Snapshot table is too big")
                .with_errno(nix::libc::EFBIG)
                .with_hint(format!(
                    "You can force-remove all {count} overhanging snapshots with qemu-img check -r all"
                ))),
            Excess::Discard(say) => {
                say(&format!("Discarding {count} overhanging snapshots (snapshot table is too big)"));
                Ok(count.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_back_with_what_we_do_not_know() {
        let snapshot = Snapshot {
            l1_offset: 0x50000,
            l1_size: 3,
            id: "1".into(),
            name: "näme".into(),
            date_sec: 1,
            date_nsec: 2,
            vm_clock_nsec: 3,
            vm_state_size: 1 << 33,
            disk_size: Some(1 << 20),
            icount: Some(7),
            unknown_extra: vec![9; 5],
        };
        let bytes = snapshot.to_bytes(0);
        assert_eq!(bytes.len() % 8, 0);
        let names = FIXED + KNOWN_EXTRA + 5;
        let back = Snapshot::parse(
            &bytes[..FIXED],
            &bytes[FIXED..names],
            &bytes[names..names + 1],
            &bytes[names + 1..names + 6],
        );
        assert_eq!(back, snapshot);
    }
}
