//! qcow images, the first version of the format (QEMU's manual, "qcow"; no specification was ever written, the layout is
//! what the real tool reads and writes).
//!
//! The rooms: `header` turns bytes into values and back, `entry` does so for L2 entries; `tables` holds L1 and L2 and
//! knows what must reach the disk before what, and where new clusters go; `image` is what the shared driver
//! ([`crate::mapped`]) talks to; `open`, `create`, `options`, `reopen` are what the user asks for.
//!
//! Nothing counts clusters: new ones go to the end of the file and none is ever reused. There is one lock, around the
//! tables; it is held while tables move, never while guest data does.

mod create;
mod entry;
mod header;
mod image;
mod open;
mod options;
mod reopen;
mod tables;
#[cfg(test)]
mod tests;

use block::graph::{DriverKind, DriverRow, Probe};

/// The `qcow` driver.
pub static ROW: DriverRow = DriverRow {
    probe,
    children: &["file", "backing"],
    create: Some(&create::ROW),
    compresses: true,
    strong_options: &["encrypt.key-secret"],
    ..DriverRow::new("qcow", DriverKind::Format, open::open)
};

fn probe(probe: &Probe<'_>) -> u8 {
    if header::is_qcow(probe.head) { 100 } else { 0 }
}
