//! The one home of key material: passphrases, volume keys, key-slot contents.
//!
//! Every [`SecretBytes`] has memory pages of its own. They are excluded from core files, kept out of swap where the
//! process may lock memory, and overwritten before they are given back. What is computed *from* a key (an expanded
//! key schedule, the registers) cannot be kept there; [`forbid_core_dump`](crate::forbid_core_dump) covers it.

use crate::{Context, Result};
use memmap2::{Advice, MmapMut};
use std::fmt;
use std::io::Read;
use std::ops::{Deref, DerefMut};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// Bytes that must not leak. They are not cloned, not printed, and compared in constant time.
pub struct SecretBytes {
    pages: MmapMut,
    len: usize,
}

impl SecretBytes {
    /// `len` bytes of zeroes, to be filled in.
    ///
    /// # Errors
    /// The system has no memory left, or cannot exclude it from core files.
    pub fn zeroed(len: usize) -> Result<Self> {
        // The system maps whole pages, and none is not possible.
        let pages = MmapMut::map_anon(len.max(1)).context(|| "Could not allocate memory for a secret")?;
        pages.advise(Advice::DontDump).context(|| "Could not exclude a secret from core files")?;
        // Best effort: small limits on locked memory are common, and swap is not what most users fear.
        let _ = pages.lock();
        Ok(SecretBytes { pages, len })
    }

    /// A copy of `bytes`; wiping the original is up to the caller.
    ///
    /// # Errors
    /// As for [`SecretBytes::zeroed`].
    pub fn copy_of(bytes: &[u8]) -> Result<Self> {
        let mut copy = Self::zeroed(bytes.len())?;
        copy.copy_from_slice(bytes);
        Ok(copy)
    }

    /// Everything `source` has to give, at most `limit` bytes; `None` if there is more.
    ///
    /// # Errors
    /// Those of `source`, and as for [`SecretBytes::zeroed`].
    pub fn read_all(mut source: impl Read, limit: usize) -> Result<Option<Self>> {
        let mut bytes = Self::zeroed(limit.min(4096))?;
        let mut filled = 0;
        loop {
            if filled == bytes.len {
                // One byte more than the limit tells "just fits" from "too large".
                let mut larger = Self::zeroed((2 * bytes.len).clamp(1, limit + 1))?;
                larger[..filled].copy_from_slice(&bytes);
                bytes = larger;
            }
            match source.read(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
            if filled > limit {
                return Ok(None);
            }
        }
        bytes.truncate(filled);
        Ok(Some(bytes))
    }

    /// Drops, and wipes, all bytes from `len` on.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            self[len..].zeroize();
            self.len = len;
        }
    }

    /// Whether the bytes are equal, in a time that depends on the lengths alone.
    pub fn ct_eq(&self, other: &[u8]) -> bool {
        self.deref().ct_eq(other).into()
    }

    /// The bytes as text that can be a passphrase: UTF-8 without a NUL character.
    pub fn as_utf8(&self) -> Option<&str> {
        std::str::from_utf8(self).ok().filter(|text| !text.contains('\0'))
    }
}

impl Deref for SecretBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.pages[..self.len]
    }
}

impl DerefMut for SecretBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.pages[..self.len]
    }
}

impl AsRef<[u8]> for SecretBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for SecretBytes {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.pages.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags (`VmFlags` of smaps) of the mapping that holds `bytes`.
    fn flags(bytes: &SecretBytes) -> String {
        let at = bytes.as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let holds = |line: &&str| {
            let range = line.split(' ').next().unwrap_or_default();
            let number = |text: &str| usize::from_str_radix(text, 16).ok();
            let range = range.split_once('-').and_then(|(from, to)| Some(number(from)?..number(to)?));
            range.is_some_and(|range| range.contains(&at))
        };
        let tail = maps.lines().skip_while(|line| !holds(line));
        tail.skip(1).find_map(|line| line.strip_prefix("VmFlags:")).unwrap().to_owned()
    }

    #[test]
    fn the_pages_are_not_dumped() {
        let bytes = SecretBytes::copy_of(b"passphrase").unwrap();
        assert!(flags(&bytes).contains(" dd"), "{}", flags(&bytes));
    }

    #[test]
    fn a_reader_is_read_whole_up_to_the_limit() {
        let data: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
        for limit in [10_000, 10_001, 50_000] {
            assert!(SecretBytes::read_all(data.as_slice(), limit).unwrap().unwrap().ct_eq(&data), "{limit}");
        }
        for limit in [0, 1, 4096, 9_999] {
            assert!(SecretBytes::read_all(data.as_slice(), limit).unwrap().is_none(), "{limit}");
        }
        assert_eq!(SecretBytes::read_all(&b""[..], 0).unwrap().unwrap().len(), 0);
    }

    #[test]
    fn truncating_wipes_the_rest() {
        let mut bytes = SecretBytes::copy_of(b"abcdef").unwrap();
        bytes.truncate(2);
        assert_eq!(&*bytes, b"ab");
        assert_eq!(bytes.pages[..6], *b"ab\0\0\0\0");
        bytes.truncate(5);
        assert_eq!(bytes.len(), 2);
    }

    #[test]
    fn nothing_is_printed() {
        assert_eq!(format!("{:?}", SecretBytes::copy_of(b"swordfish").unwrap()), "SecretBytes(..)");
    }

    #[test]
    fn only_utf8_without_nul_is_text() {
        let text = |bytes: &[u8]| SecretBytes::copy_of(bytes).unwrap().as_utf8().map(str::to_owned);
        assert_eq!(text("pässword\n".as_bytes()).as_deref(), Some("pässword\n"));
        assert_eq!(text(b"").as_deref(), Some(""));
        for bytes in [&b"\xff"[..], b"a\0b", b"abc\0", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"] {
            assert_eq!(text(bytes), None, "{bytes:?}");
        }
    }
}
