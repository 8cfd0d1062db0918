//! What O_DIRECT asks for: the alignment of requests and of memory.

use super::FileKind;
use crate::buffer::{ALIGN, Buffer};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

/// The alignment assumed where nothing can be found out: the largest sector there is.
const SAFE: u32 = 4096;

/// What requests and their buffers must be aligned to, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Alignment {
    /// Offsets and lengths.
    pub(super) request: u32,
    /// Memory.
    pub(super) memory: u32,
}

impl Alignment {
    /// Through the page cache everything goes.
    pub(super) const NONE: Self = Alignment { request: 1, memory: 1 };

    /// What `file`, opened with O_DIRECT, asks for.
    pub(super) fn direct(file: &File, kind: FileKind) -> Self {
        if let Some((memory, request)) = crate::sys::direct_alignment(file.as_fd())
            && memory.is_power_of_two()
            && request.is_power_of_two()
            && request <= SAFE
        {
            return Alignment { request, memory };
        }
        let request = match kind {
            FileKind::BlockDevice => crate::sys::device_sector(file.as_fd()).unwrap_or(SAFE),
            _ => probe(file),
        };
        Alignment { request, memory: SAFE }
    }
}

/// The smallest length that a read is accepted with. A hole, an empty file and some file systems accept a single byte,
/// which proves nothing about the next request.
fn probe(file: &File) -> u32 {
    let mut buffer = Buffer::zeroed(ALIGN);
    let mut accepts = |n: u32| file.read_at(&mut buffer[..n as usize], 0).is_ok();
    if accepts(1) {
        return SAFE;
    }
    [512, 1024, 2048].into_iter().find(|n| accepts(*n)).unwrap_or(SAFE)
}
