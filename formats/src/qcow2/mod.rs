//! qcow2 images, versions 2 and 3, as QEMU's public specification describes them.
//!
//! The rooms: `header`, `extension`, `features`, `entry`, `snapshot` turn bytes into values and back; `geometry` says how
//! offsets split; `cache` and `order` hold tables and know what must reach the disk before what; `overlap` keeps them from being written over; `refcount`, `alloc`,
//! `reftable`, `free` manage host clusters; `lookup`, `reserve`, `zero` manage guest clusters; `meta` is what
//! they all work on and `image` what the shared driver ([`crate::mapped`]) talks to; `open`, `create`, `resize`, `info`
//! `amend`,
//! `overlay`, `reopen` are what the user asks for.
//!
//! **Locks.** There is one, around [`meta::Meta`]. It is never held while guest data moves; a missing L2 slice is loaded
//! with it released. The pins have a small lock of their own, taken inside it. Waiting for a lease releases the lock,
//! and nobody waits for a lease while holding one, so there is no circle.

mod alloc;
mod amend;
mod bitmap;
mod cache;
mod check;
mod compress;
mod create;
mod crypt;
mod entry;
mod extension;
mod features;
mod free;
mod geometry;
mod header;
mod image;
mod info;
mod l1;
mod lookup;
mod measure;
mod meta;
mod open;
mod options;
mod order;
mod overlap;
mod overlay;
mod refcount;
mod reftable;
mod reopen;
mod reserve;
mod resize;
mod snapshot;
mod zero;

pub use image::Qcow2;

use block::graph::{DriverKind, DriverRow, Probe};

/// The `qcow2` driver.
pub static ROW: DriverRow = DriverRow {
    probe,
    children: &["file", "data-file", "backing"],
    strong_options: &["encrypt.key-secret"],
    compresses: true,
    create: Some(&create::ROW),
    amend: &amend::OPTIONS,
    ..DriverRow::new("qcow2", DriverKind::Format, open::open)
};

fn probe(probe: &Probe<'_>) -> u8 {
    let head = probe.head;
    let long_enough = head.len() >= header::V2_LEN;
    let known = header::be32(head, 0) == header::MAGIC && header::be32(head, 4) >= 2;
    if long_enough && known { 100 } else { 0 }
}
