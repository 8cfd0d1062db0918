//! Sector ciphers, hashes, key derivation and the anti-forensic splitter that LUKS, qcow2 and qcow share.
//!
//! Lives here: the names of algorithms ([`Cipher`], [`Mode`], [`IvGen`], [`HashAlg`], [`support`]), their combination
//! ([`CipherSpec`]), whole sectors encrypted and decrypted ([`SectorCipher`]), PBKDF2 with its calibration ([`kdf`]) and
//! AFsplit/AFmerge ([`af`]). Not here: headers, key slots, where secrets come from, and block ciphers and hashes
//! themselves, which are RustCrypto's (but twofish, whose crate is a hundred times too slow for disks).
//!
//! Invariant: sector numbers count 512-byte units whatever the cipher's sector size, as LUKS and dm-crypt number IVs;
//! the caller chooses whether number 0 is the start of the payload (LUKS), of the file or of the guest disk (qcow2).

pub mod af;
mod algorithms;
mod cbc;
mod ctr;
mod ecb;
mod hash;
mod ivgen;
pub mod kdf;
mod lrw;
mod sectors;
mod serpent;
mod spec;
mod twofish;
mod wide;
mod xex;
mod xts;

pub use algorithms::{Category, Cipher, IvGen, Mode, Support, support};
pub use hash::HashAlg;
pub use sectors::{Direction, SectorCipher, SectorSize, new};
pub use spec::CipherSpec;

#[cfg(test)]
mod tests;
