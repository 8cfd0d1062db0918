//! `nbd-server`: serve a disk image over NBD. Stands in for `qemu-nbd`.

#![forbid(unsafe_code)]

fn main() {}
