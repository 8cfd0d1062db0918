//! The snapshot table: entries to bytes and back (specification, "Snapshots").

use crate::qcow2::header::{Header, MAX_SNAPSHOTS, be32, be64};
use block::{Child, Error, Result};

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
    pub(in crate::qcow2) id: String,
    pub(in crate::qcow2) name: String,
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
    /// Parses the entry at the beginning of `bytes`; gives its length too. `None` when it does not fit.
    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let fixed = bytes.get(..FIXED)?;
        let be16 = |at: usize| usize::from(u16::from_be_bytes([fixed[at], fixed[at + 1]]));
        let (id_len, name_len, extra_len) = (be16(12), be16(14), be32(fixed, 36) as usize);
        let extra = bytes.get(FIXED..FIXED.checked_add(extra_len)?)?;
        let text = |at: usize, len: usize| {
            let at = FIXED + extra_len + at;
            bytes.get(at..at + len).map(|b| String::from_utf8_lossy(b).into_owned())
        };
        let known = |at: usize| (extra.len() >= at + 8).then(|| be64(extra, at));
        let snapshot = Snapshot {
            l1_offset: be64(fixed, 0),
            l1_size: be32(fixed, 8),
            id: text(0, id_len)?,
            name: text(id_len, name_len)?,
            date_sec: be32(fixed, 16),
            date_nsec: be32(fixed, 20),
            vm_clock_nsec: be64(fixed, 24),
            vm_state_size: known(0).unwrap_or(u64::from(be32(fixed, 32))),
            disk_size: known(8),
            icount: known(16),
            unknown_extra: extra.get(KNOWN_EXTRA..).unwrap_or_default().to_vec(),
        };
        Some((snapshot, (FIXED + extra_len + id_len + name_len).next_multiple_of(8)))
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
        out.extend(self.id.as_bytes());
        out.extend(self.name.as_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
        out
    }
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
}

/// Reads the snapshot table, a piece at a time, so that a false count costs no memory.
///
/// # Errors
/// A table too large, an entry with too much extra data, or the file's.
pub(in crate::qcow2) fn read_table(file: &Child, header: &Header) -> Result<SnapshotTable> {
    let mut table = SnapshotTable::default();
    let mut window = Vec::new();
    let mut start = 0;
    for index in 0..header.snapshots.count {
        let entry = loop {
            if let Some(entry) = Snapshot::parse(&window[start..]) {
                break entry;
            }
            check_extra(&window[start..], index)?;
            window.drain(..start);
            start = 0;
            let read = window.len();
            if read > MAX_EXTRA + FIXED + 2 * 65536 {
                return Err(Error::from_errno(nix::libc::EFBIG).context("Snapshot table is too large"));
            }
            window.resize(read + 65536, 0);
            let at = header.snapshots.offset + table.bytes + read as u64;
            file.read_exact(at, &mut window[read..])
                .map_err(|e| e.context("Failed to read snapshot table"))?;
        };
        check_extra(&window[start..], index)?;
        start += entry.1.min(window.len() - start);
        table.bytes += entry.1 as u64;
        table.snapshots.push(entry.0);
        if table.bytes > MAX_TABLE {
            return Err(Error::from_errno(nix::libc::EFBIG).context("Snapshot table is too large"));
        }
    }
    Ok(table)
}

fn check_extra(entry: &[u8], index: u32) -> Result<()> {
    if be32(entry, 36) as usize > MAX_EXTRA {
        return Err(Error::invalid(format!("Too much extra metadata in snapshot table entry {index}"))
            .with_hint("You can force-remove this extra metadata with qemu-img check -r all"));
    }
    Ok(())
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
        let (back, len) = Snapshot::parse(&bytes).unwrap();
        assert_eq!((back, len), (snapshot, bytes.len()));
        assert!(Snapshot::parse(&bytes[..60]).is_none());
    }
}
