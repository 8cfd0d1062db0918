//! Options of an open image.

use crate::encrypt::EncryptOptions;
use serde::Deserialize;

/// Options of the `qcow` driver beyond those of its children.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct QcowOptions {
    pub(super) encrypt: Option<EncryptOptions>,
    /// Lets an image with legacy AES be written.
    pub(super) legacy_aes_write: bool,
}
