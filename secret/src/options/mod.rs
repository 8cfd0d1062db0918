//! Options as users write them, in every spelling, turned into one tree and from there into typed structs.
//!
//! `a.b=1,c=x,,y` ([`keyval`]) and `{"a": {"b": 1}}` (JSON) become the same [`Options`]; [`Options::parse`] turns it
//! into a type that derives `serde::Deserialize` ([`de`]). A key that the type does not have is an error naming it.

pub mod de;
pub mod glob;
pub(crate) mod json;
pub mod keyval;
pub mod number;
pub mod size;

use crate::{Error, Result};
use de::Dialect;
use serde_json::{Map, Value};
use zeroize::Zeroize;

pub use de::OptionError;
pub use size::Size;

/// A tree of options. Values that came from `key=value` text are strings; values from JSON keep their type. Where a key
/// is given a value and begins others too (`a=1,a.b=2`), the value stands in the group under [`OWN`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options(Map<String, Value>);

/// The name under which a group holds a value of its own.
pub const OWN: &str = "";

impl Options {
    /// No options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Builds the tree from dotted pairs, later pairs overriding earlier ones.
    ///
    /// # Errors
    /// An empty key part.
    pub fn from_pairs<K: AsRef<str>, V: Into<Value>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self> {
        let mut options = Self::new();
        for (key, value) in pairs {
            options.set(key.as_ref(), value)?;
        }
        Ok(options)
    }

    /// Parses a JSON object; keys may be dotted and nested at once (`{"file.driver": "raw", "file": {...}}`), and
    /// strings may stand in single quotes.
    ///
    /// # Errors
    /// Text that is not JSON or not an object, and malformed keys.
    pub fn from_json(text: &str) -> Result<Self> {
        match json::parse(text).map_err(|e| e.context("Could not parse the JSON options"))? {
            Value::Object(map) => Self::from_map(map),
            _ => Err(Error::invalid("Invalid JSON object given")),
        }
    }

    /// Takes a JSON object, expanding dotted keys; an array becomes a group with the keys `0`, `1`, ….
    ///
    /// # Errors
    /// Malformed keys.
    pub fn from_map(map: Map<String, Value>) -> Result<Self> {
        let mut options = Self::new();
        for (key, value) in map {
            match value {
                Value::Object(mut inner) => {
                    let has_own = inner.get(OWN).is_some_and(|own| !own.is_object());
                    let own = has_own.then(|| inner.shift_remove(OWN)).flatten();
                    options.merge(&key, Self::from_map(inner)?)?;
                    own.map_or(Ok(()), |own| options.set(&key, own))?;
                }
                Value::Array(list) => {
                    let numbered = list.into_iter().enumerate().map(|(i, value)| (i.to_string(), value));
                    options.merge(&key, Self::from_map(numbered.collect())?)?;
                }
                value => options.set(&key, value)?,
            }
        }
        Ok(options)
    }

    /// Sets one value; `key` may be dotted.
    ///
    /// # Errors
    /// An empty part of `key`.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> Result<()> {
        let (parents, last) = key.rsplit_once('.').map_or((None, key), |(p, l)| (Some(p), l));
        let map = self.subtree_mut(key, parents)?;
        if last.is_empty() {
            return Err(Error::invalid(format!("Invalid parameter '{key}'")));
        }
        match map.get_mut(last) {
            Some(Value::Object(group)) => group.insert(OWN.to_owned(), value.into()),
            _ => map.insert(last.to_owned(), value.into()),
        };
        Ok(())
    }

    /// Like [`Options::set`], for a value that must not override one the user gave.
    ///
    /// # Errors
    /// As for [`Options::set`].
    pub fn set_default(&mut self, key: &str, value: impl Into<Value>) -> Result<()> {
        if self.get(key).is_none() { self.set(key, value) } else { Ok(()) }
    }

    /// Puts a whole subtree under the dotted `key`, merging with what is there.
    ///
    /// # Errors
    /// As for [`Options::set`].
    pub fn merge(&mut self, key: &str, tree: Options) -> Result<()> {
        self.subtree_mut(key, Some(key))?;
        for (name, value) in tree.0 {
            if name == OWN {
                self.set(key, value)?;
                continue;
            }
            let path = format!("{key}.{name}");
            match value {
                Value::Object(inner) => self.merge(&path, Options(inner))?,
                value => self.set(&path, value)?,
            }
        }
        Ok(())
    }

    /// Lays `over` over this tree: its values win.
    ///
    /// # Errors
    /// As for [`Options::set`].
    pub fn overlay(&mut self, over: Options) -> Result<()> {
        for (name, value) in over.0 {
            match value {
                Value::Object(inner) => self.merge(&name, Options(inner))?,
                value => self.set(&name, value)?,
            }
        }
        Ok(())
    }

    /// The value at a dotted key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let mut parts = key.split('.');
        let first = self.0.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.as_object()?.get(part))
    }

    /// The text at a dotted key, if it is a string.
    pub fn get_str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// Takes the value of a dotted key out of the tree.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        match key.split_once('.') {
            None => self.0.shift_remove(key),
            Some((first, rest)) => {
                let map = self.0.get_mut(first)?.as_object_mut()?;
                let mut inner = Options(std::mem::take(map));
                let value = inner.take(rest);
                *map = inner.0;
                if map.is_empty() {
                    self.0.shift_remove(first);
                }
                value
            }
        }
    }

    /// Turns the tree into `T`, converting strings to numbers, sizes and booleans as the fields ask.
    ///
    /// # Errors
    /// An unknown, missing or malformed key, by its full dotted name.
    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, OptionError> {
        de::parse(&self.0, Dialect::Opts)
    }

    /// Whether there are no options.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names at the top level, in the order given.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Takes a JSON object as it is, dots in its keys and all.
    pub(crate) fn verbatim(map: Map<String, Value>) -> Self {
        Options(map)
    }

    /// The tree as a JSON object.
    pub(crate) fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The tree as a JSON object.
    pub fn into_map(self) -> Map<String, Value> {
        self.0
    }

    fn subtree_mut(&mut self, key: &str, path: Option<&str>) -> Result<&mut Map<String, Value>> {
        let mut map = &mut self.0;
        for part in path.into_iter().flat_map(|p| p.split('.')) {
            if part.is_empty() {
                return Err(Error::invalid(format!("Invalid parameter '{key}'")));
            }
            map = as_group(map.entry(part).or_insert_with(|| Value::Object(Map::new())));
        }
        Ok(map)
    }
}

/// The group a value is, or becomes.
fn as_group(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        let own = std::mem::take(value);
        *value = Value::Object(Map::from_iter([(OWN.to_owned(), own)]));
    }
    value.as_object_mut().expect("it was just made one")
}

/// Overwrites every value, for options that may hold a secret.
impl Zeroize for Options {
    fn zeroize(&mut self) {
        self.0.values_mut().for_each(wipe);
        self.0.clear();
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(list) => list.iter_mut().for_each(wipe),
        Value::Object(map) => map.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotted_keys_and_json_give_the_same_tree() {
        let dotted =
            Options::from_pairs([("driver", "raw"), ("file.filename", "a"), ("file.locking", "off")]);
        let json =
            Options::from_json(r#"{"driver": "raw", "file.filename": "a", "file": {"locking": "off"}}"#);
        assert_eq!(dotted.unwrap(), json.unwrap());
    }

    #[test]
    fn lists_are_groups_with_numbered_keys() {
        let dotted = [("rules.0.event", "a"), ("rules.0.at.x", "1"), ("rules.1", "b")];
        let json = r#"{"rules": [{"event": "a", "at.x": "1"}], "rules.1": "b"}"#;
        assert_eq!(Options::from_pairs(dotted).unwrap(), Options::from_json(json).unwrap());
    }

    #[test]
    fn json_that_is_no_object_is_named() {
        let error = |text| Options::from_json(text).unwrap_err().to_string();
        assert_eq!(error("{"), "Could not parse the JSON options: JSON parse error, premature EOI");
        assert_eq!(error("[]"), "Invalid JSON object given");
        assert_eq!(error(r#"{"": 1}"#), "Invalid parameter ''");
    }

    #[test]
    fn a_key_that_is_value_and_group_keeps_both() {
        for pairs in [[("x.a", "1"), ("x.a.b", "2")], [("x.a.b", "2"), ("x.a", "1")]] {
            let options = Options::from_pairs(pairs).unwrap();
            assert_eq!(options.get("x.a"), Some(&serde_json::json!({"": "1", "b": "2"})));
            assert_eq!(Options::from_map(options.clone().into_map()).unwrap(), options);
            let mut merged = Options::new();
            merged.overlay(options.clone()).unwrap();
            assert_eq!(merged, options);
        }
        assert!(Options::from_pairs([("file..driver", "raw")]).is_err());
    }

    #[test]
    fn take_removes_empty_groups() {
        let mut o = Options::from_pairs([("cache.direct", "on")]).unwrap();
        assert_eq!(o.take("cache.direct"), Some(Value::from("on")));
        assert!(o.is_empty());
    }
}
