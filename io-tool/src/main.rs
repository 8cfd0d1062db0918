//! `io-tool`: scripted reads and writes on a disk image. Stands in for `qemu-io`.

#![forbid(unsafe_code)]

fn main() {}
