//! The real kernel as a peer: its dm-crypt and its NBD client in front of our images and our server, and a system that
//! boots from every form of its disk. The kernel is Debian's, in software emulation (see [`tests::guest`]).
//!
//! `BLOCKIMG_LONG=1` runs the whole matrix (`scripts/boot`). Where emulator or kernel are missing nothing is run, and
//! said so by name.

#![forbid(unsafe_code)]

mod luks;
mod machine;
mod nbd;
mod system;

use tests::guest::Guest;

/// The guest; where there is none, that is said.
fn guest() -> Option<&'static Guest> {
    Guest::find().inspect_err(|why| tests::not_run(why)).ok()
}
