//! Options of an open image, as `--image-opts` and `json:` names take them.

use crate::encrypt::EncryptOptions;
use secret::options::Size;
use serde::Deserialize;
use serde_json::Value;

/// Options of the `qcow2` driver beyond those of its children.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Qcow2Options {
    pub(super) lazy_refcounts: Option<bool>,
    pub(super) pass_discard_request: Option<bool>,
    pub(super) pass_discard_snapshot: Option<bool>,
    pub(super) pass_discard_other: Option<bool>,
    pub(super) discard_no_unref: Option<bool>,
    pub(super) overlap_check: Option<Value>,
    pub(super) cache_size: Option<Size>,
    pub(super) l2_cache_size: Option<Size>,
    pub(super) l2_cache_entry_size: Option<Size>,
    pub(super) refcount_cache_size: Option<Size>,
    pub(super) cache_clean_interval: Option<u64>,
    pub(super) encrypt: Option<EncryptOptions>,
    /// Lets an image with legacy AES be written.
    pub(super) legacy_aes_write: Option<bool>,
}
