//! What `info` prints about an image, with QEMU's member names and in its order.

use super::header::{Header, Slot};
use crate::crypto::{IvGen, af};
use serde_json::{Map, Value, json};

/// The members for a LUKS1 image.
pub(super) fn luks1(header: &Header) -> Value {
    let cipher = &header.cipher;
    let ivgen = cipher.ivgen().unwrap_or(IvGen::Null);
    let mut data = Map::new();
    let mut set = |key: &str, value: Value| drop(data.insert(key.to_owned(), value));
    set("ivgen-alg", json!(ivgen.name()));
    set("detached-header", json!(header.payload.0 == 0));
    set("hash-alg", json!(header.hash.name()));
    set("cipher-alg", json!(cipher.cipher().name()));
    set("uuid", json!(header.uuid));
    if let (IvGen::Essiv, Some(hash)) = (ivgen, cipher.ivgen_hash()) {
        set("ivgen-hash-alg", json!(hash.name()));
    }
    set("cipher-mode", json!(cipher.mode().name()));
    set("slots", header.slots.iter().map(slot).collect());
    set("payload-offset", json!(header.payload.bytes()));
    set("master-key-iters", json!(header.digest.pbkdf2.iterations));
    Value::Object(data)
}

fn slot(slot: &Slot) -> Value {
    let offset = slot.material.bytes();
    match slot.pbkdf2 {
        Some(used) => json!({
            "active": true,
            "iters": used.iterations,
            "key-offset": offset,
            "stripes": af::STRIPES,
        }),
        None => json!({ "active": false, "key-offset": offset }),
    }
}
