//! What `info` prints about an image, with QEMU's member names and in its order.

use super::header::{Header, Pbkdf2, Sectors, Slot};
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

/// The key slots in use, each with its number.
pub(super) fn luks1_slots(header: &Header) -> Value {
    let one = |(number, used, material): (usize, Pbkdf2, Sectors)| {
        json!({
            "slot": number,
            "type": "luks1",
            "kdf": "pbkdf2",
            "hash": header.hash.name(),
            "iters": used.iterations,
            "key-offset": material.bytes(),
        })
    };
    header.active().map(one).collect()
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
