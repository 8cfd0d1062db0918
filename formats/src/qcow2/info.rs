//! What `info` prints about an image.

use super::features::{Compatible, Incompatible};
use super::header::{Compression, CryptMethod, Version};
use super::image::Qcow2;
use block::FormatInfo;
use serde_json::{Map, Value, json};

impl Qcow2 {
    /// What the image tells about itself.
    pub(super) fn format_info(&self) -> FormatInfo {
        let meta = self.lock();
        let header = &meta.header;
        let v3 = header.version >= Version::V3;
        let mut data = Map::new();
        let mut set = |key: &str, value: Value| drop(data.insert(key.to_owned(), value));
        set("compat", json!(if v3 { "1.1" } else { "0.10" }));
        set("compression-type", json!(match header.compression {
            Compression::Zlib => "zlib",
            Compression::Zstd => "zstd",
        }));
        if v3 {
            set("lazy-refcounts", json!(header.compatible.contains(Compatible::LAZY_REFCOUNTS)));
        }
        set("refcount-bits", json!(header.geometry.refcount_bits()));
        if header.has(Incompatible::DATA_FILE) {
            if let Some(name) = &header.extensions.data_file {
                set("data-file", json!(name));
            }
            set("data-file-raw", json!(header.raw_data_file()));
        }
        match header.crypt {
            CryptMethod::None => {}
            CryptMethod::Aes => set("encrypt", json!({"format": "aes"})),
            CryptMethod::Luks => set("encrypt", json!({"format": "luks"})),
        }
        if v3 {
            set("corrupt", json!(header.has(Incompatible::CORRUPT)));
            set("extended-l2", json!(header.geometry.extended_l2));
        }
        FormatInfo {
            encrypted: header.crypt != CryptMethod::None,
            dirty: header.has(Incompatible::DIRTY),
            backing_file: header.backing_file.clone(),
            backing_format: header.extensions.backing_format.clone(),
            specific: Some(("qcow2", Value::Object(data))),
        }
    }
}
