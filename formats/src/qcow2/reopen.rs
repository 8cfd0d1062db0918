//! Reopening: the same image with other rights, cache mode or runtime options.
//!
//! What was written is brought to the file first and the tables are read again, so nothing is shared with the old
//! driver but the key and the children.

use super::crypt::Encryption;
use super::header::{CryptMethod, Rules};
use super::image::Qcow2;
use super::open::{self, Parts};
use super::options::Qcow2Options;
use crate::encrypt;
use crate::mapped::MappedFormat;
use block::bitmap::Bitmaps;
use block::graph::ReopenCtx;
use block::{Perm, Perms, Result};

/// The options that may be changed.
const CHANGEABLE: [&str; 11] = [
    "lazy-refcounts",
    "pass-discard-request",
    "pass-discard-snapshot",
    "pass-discard-other",
    "discard-no-unref",
    "overlap-check",
    "cache-size",
    "l2-cache-size",
    "l2-cache-entry-size",
    "refcount-cache-size",
    "cache-clean-interval",
];

/// The options that divide memory among the caches.
const SIZES: [&str; 3] = ["cache-size", "l2-cache-size", "refcount-cache-size"];

impl Qcow2 {
    /// The driver that takes this one's place.
    pub(super) fn reopened(&self, ctx: &mut ReopenCtx<'_>) -> Result<Self> {
        ctx.replace_together(&SIZES);
        let options: Qcow2Options = ctx.options(&CHANGEABLE)?;
        let aes = self.lock().header.crypt == CryptMethod::Aes;
        if aes && ctx.flags.writable {
            encrypt::may_write(options.legacy_aes_write.unwrap_or(false))?;
        }
        if self.lock().writable {
            // The new driver reads them again.
            Bitmaps::store(self)?;
        }
        MappedFormat::close(self)?;
        let mut own = ctx.perms.own & Perm::READ;
        own.set(Perm::WRITE | Perm::RESIZE, ctx.flags.writable);
        let changes = Perm::WRITE | Perm::RESIZE;
        let shared = if ctx.flags.force_share { Perm::all() } else { Perm::all() - changes };
        let perms = Perms { own, shared };
        let file = ctx.child("file", perms)?;
        let data_file = match &self.data_file {
            Some(_) => Some(ctx.child("data-file", perms)?),
            None => None,
        };
        let header = open::read_header(&file, Rules::All)?;
        let parts = Parts {
            file,
            data_file,
            backing: self.backing.clone(),
            encryption: Encryption { cipher: self.cipher.clone(), luks: self.luks.clone() },
            writable: ctx.flags.writable,
            discard: ctx.flags.discard,
            checking: false,
            l2_cache: open::MAX_L2_CACHE,
        };
        open::check_corrupt(&header, ctx.flags)?;
        Qcow2::new(header, parts, &options)
    }
}
