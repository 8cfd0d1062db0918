//! What `info` prints about an image.

use super::bitmap::{BitmapEntry, BitmapFlags};
use super::features::{Compatible, Incompatible};
use super::header::{Compression, CryptMethod, Version};
use super::image::Qcow2;
use super::meta::Meta;
use block::FormatInfo;
use serde_json::{Map, Value, json};

/// The bitmaps that can be listed; `None` without any.
fn bitmaps(meta: &Meta) -> Option<Value> {
    let entries = meta.bitmaps().ok().filter(|entries| !entries.is_empty())?;
    let describe = |bitmap: BitmapEntry| {
        let flags = [(BitmapFlags::IN_USE, "in-use"), (BitmapFlags::AUTO, "auto")];
        let flags: Vec<_> =
            flags.iter().filter(|(f, _)| bitmap.flags.contains(*f)).map(|(_, n)| *n).collect();
        json!({"flags": flags, "name": &*bitmap.name, "granularity": 1u64 << bitmap.granularity_bits.min(63)})
    };
    Some(entries.into_iter().map(describe).collect())
}

impl Qcow2 {
    /// What the image tells about itself.
    pub(super) fn format_info(&self) -> FormatInfo {
        let meta = self.lock();
        let header = &meta.header;
        let v3 = header.version >= Version::V3;
        let mut data = Map::new();
        let mut set = |key: &str, value: Value| drop(data.insert(key.to_owned(), value));
        set("compat", json!(if v3 { "1.1" } else { "0.10" }));
        set(
            "compression-type",
            json!(match header.compression {
                Compression::Zlib => "zlib",
                Compression::Zstd => "zstd",
            }),
        );
        if v3 {
            set("lazy-refcounts", json!(header.compatible.contains(Compatible::LAZY_REFCOUNTS)));
        }
        if let Some(bitmaps) = bitmaps(&meta) {
            set("bitmaps", bitmaps);
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
            CryptMethod::Luks => {
                let luks = self.luks.as_ref().map(|luks| luks.info());
                set("encrypt", luks.unwrap_or_else(|| json!({"format": "luks"})));
            }
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
