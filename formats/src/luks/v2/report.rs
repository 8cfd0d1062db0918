//! What `info` and `key list` say about LUKS2.

use super::binary::Which;
use super::load::{Header, State};
use super::metadata::{Id, Keyslot, Priority};
use crate::crypto::af::STRIPES;
use crate::luks::derive::Derivation;
use block::keys::{Finding, Severity};
use serde_json::{Map, Value, json};

impl Header {
    /// The members for `info`.
    pub(crate) fn info(&self, detached: bool) -> Value {
        let mut data = Map::new();
        let mut set = |key: &str, value: Value| drop(data.insert(key.to_owned(), value));
        let (_, segment) = self.segment();
        set("version", json!(2));
        set("uuid", json!(self.binary.uuid()));
        for (key, value) in [("label", self.binary.label()), ("subsystem", self.binary.subsystem())] {
            if !value.is_empty() {
                set(key, json!(value));
            }
        }
        set("detached-header", json!(detached));
        if !self.is_whole() {
            let [primary, secondary] = self.copies.each_ref().map(State::describe);
            set("primary-header", json!(primary));
            set("secondary-header", json!(secondary));
        }
        if self.in_reencryption() {
            set("in-reencryption", json!(true));
        }
        for (key, list) in [("requirements", &self.metadata.requirements), ("flags", &self.metadata.flags)] {
            if !list.is_empty() {
                set(key, json!(list));
            }
        }
        set("segment", json!(segment.kind));
        if let Some(crypt) = &segment.crypt {
            set("cipher", json!(crypt.encryption));
            set("sector-size", json!(crypt.sector_size));
            if let Some(kind) = &crypt.integrity {
                set("integrity", json!(kind));
            }
        }
        set("payload-offset", json!(segment.offset));
        set("header-size", json!(self.binary.size));
        set("epoch", json!(self.binary.seqid));
        set("slots", self.slots());
        if !self.metadata.tokens.is_empty() {
            set("tokens", self.tokens());
        }
        Value::Object(data)
    }

    /// What `lint` says about the header itself.
    pub(crate) fn complaints(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |severity, code, slot, text| findings.push(Finding { severity, code, slot, text });
        for (which, state) in [Which::Primary, Which::Secondary].into_iter().zip(&self.copies) {
            if *state != State::Good {
                let text = format!("The {} copy of the header is {}", which.name(), state.describe());
                add(Severity::Error, "header-copies-differ", None, text);
            }
        }
        for name in &self.metadata.requirements {
            add(Severity::Error, "requirement", None, format!("The container has the requirement '{name}'"));
        }
        for (id, slot) in &self.metadata.keyslots {
            let number = Some(*id as usize);
            if let (Err(why), "luks2") = (&slot.mechanism, slot.kind.as_str()) {
                add(Severity::Error, "key-slot", number, format!("Key slot {id} cannot be used: {why}"));
            }
            if let Some(stripes) = slot.stripes.filter(|stripes| *stripes != STRIPES as u64) {
                let text =
                    format!("Key slot {id} says that it has {stripes} stripes; programs go by {STRIPES}");
                add(Severity::Warning, "stripes", number, text);
            }
        }
        findings
    }

    /// The key slots, each with its number.
    pub(crate) fn slots(&self) -> Value {
        self.metadata.keyslots.iter().map(|(id, slot)| self.slot(*id, slot)).collect()
    }

    fn slot(&self, id: Id, slot: &Keyslot) -> Value {
        let mut data = Map::new();
        let mut set = |key: &str, value: Value| drop(data.insert(key.to_owned(), value));
        set("slot", json!(id));
        set("type", json!(slot.kind));
        let bound = self.payload_slots().any(|(payload, _)| payload == id);
        if !bound {
            set("unbound", json!(true));
        }
        if slot.priority != Priority::Normal {
            set("priority", json!(if slot.priority == Priority::Prefer { "prefer" } else { "ignore" }));
        }
        if let Some(kdf) = &slot.kdf {
            set("kdf", json!(kdf));
        }
        match &slot.mechanism {
            Ok((Derivation::Pbkdf2 { hash, iterations, .. }, _)) => {
                set("hash", json!(hash.name()));
                set("iters", json!(iterations));
            }
            Ok((Derivation::Argon2 { cost, .. }, _)) => {
                set("time", json!(cost.time));
                set("memory", json!(cost.memory));
                set("lanes", json!(cost.cpus));
            }
            Err(why) => set("unusable", json!(why)),
        }
        set("key-offset", json!(slot.area.start));
        Value::Object(data)
    }

    fn tokens(&self) -> Value {
        let tokens = self.metadata.tokens.iter();
        tokens.map(|(id, token)| json!({"token": id, "type": token.kind, "slots": token.keyslots})).collect()
    }
}
