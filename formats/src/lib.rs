//! Image formats: raw, qcow, qcow2 and LUKS, and the sector ciphers they share.
//!
//! Every format has the same rooms: `mod` (row and driver), `header` (on-disk bytes to a validated model), `create`,
//! and what else it needs.

#![forbid(unsafe_code)]

pub mod bochs;
pub mod crypto;
mod deflate;
mod encrypt;
mod field;
pub mod luks;
pub mod mapped;
pub mod qcow;
pub mod qcow2;
pub mod raw;
pub mod throwaway;

use block::filter::{
    blkdebug, blklogwrites, blkverify, compress, copy_on_read, preallocate, quorum, throttle,
};
use block::graph::DriverTable;
use block::protocol::{file, nbd, null, ssh};

/// Every driver there is: protocols, filters and formats. Of formats that probe equally well, the first wins.
pub const DRIVERS: DriverTable = DriverTable(&[
    &raw::ROW,
    &luks::ROW,
    &qcow::ROW,
    &qcow2::ROW,
    &bochs::ROW,
    &file::FILE,
    &file::HOST_DEVICE,
    &file::HOST_CDROM,
    &nbd::NBD,
    &ssh::SSH,
    &null::NULL_CO,
    &null::NULL_AIO,
    &blkdebug::ROW,
    &blklogwrites::ROW,
    &blkverify::ROW,
    &compress::ROW,
    &copy_on_read::ROW,
    &preallocate::ROW,
    &quorum::ROW,
    &throttle::ROW,
]);
