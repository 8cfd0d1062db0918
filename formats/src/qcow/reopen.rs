//! Reopening: the same image with other rights or another cache mode.
//!
//! What was written is brought to the file first and the tables are read again, so nothing is shared with the old
//! driver but the key and the children.

use super::image::{Parts, Qcow};
use super::open::{read_header, sole_writer};
use super::options::QcowOptions;
use crate::encrypt;
use crate::mapped::MappedFormat;
use block::Result;
use block::graph::ReopenCtx;

impl Qcow {
    /// The driver that takes this one's place.
    pub(super) fn reopened(&self, ctx: &mut ReopenCtx<'_>) -> Result<Self> {
        let options: QcowOptions = ctx.options(&[])?;
        let writable = ctx.flags.writable;
        if self.encrypted && writable {
            encrypt::may_write(options.legacy_aes_write)?;
        }
        MappedFormat::close(self)?;
        let file = ctx.child("file", sole_writer(ctx.perms, ctx.flags))?;
        let parts = Parts {
            header: read_header(&file)?,
            file,
            backing: MappedFormat::backing(self).cloned(),
            backing_file: self.backing_file.clone(),
            cipher: self.cipher.clone(),
            writable,
        };
        Qcow::new(parts)
    }
}
