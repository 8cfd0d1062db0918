//! Options tree to typed struct.
//!
//! The struct is the single list of names: a key it does not have is unknown, a field without a default that the tree
//! does not have is missing. Text becomes what the field asks for: `on`/`off`, numbers (decimal or `0x`), [`Size`],
//! enum names, lists (`name.0=…,name.1=…`).
//!
//! [`Size`]: super::Size

use super::size;
use crate::{Error, Kind};
use serde::de::{self, DeserializeOwned, DeserializeSeed, Error as _, IntoDeserializer, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// What is wrong with an options tree. Callers that have a better sentence for an unknown key match on it.
#[derive(Debug)]
pub enum OptionError {
    /// The type has no such key (its dotted name).
    Unknown(String),
    /// The type needs this key (its dotted name).
    Missing(String),
    /// Anything else: the whole sentence, and a hint.
    Malformed(String, Option<&'static str>),
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionError::Unknown(key) => write!(f, "Parameter '{key}' is unexpected"),
            OptionError::Missing(key) => write!(f, "Parameter '{key}' is missing"),
            OptionError::Malformed(text, _) => f.write_str(text),
        }
    }
}

impl std::error::Error for OptionError {}

impl de::Error for OptionError {
    fn custom<T: fmt::Display>(text: T) -> Self {
        OptionError::Malformed(text.to_string(), None)
    }

    fn missing_field(field: &'static str) -> Self {
        OptionError::Missing(field.to_owned())
    }
}

impl From<OptionError> for Error {
    fn from(e: OptionError) -> Self {
        let error = Error::new(Kind::Invalid, e.to_string());
        match e {
            OptionError::Malformed(_, Some(hint)) => error.with_hint(hint),
            _ => error,
        }
    }
}

pub(super) fn parse<T: DeserializeOwned>(map: &Map<String, Value>) -> Result<T, OptionError> {
    let value = Value::Object(map.clone());
    T::deserialize(Node { value: &value, path: String::new() })
}

/// A value and the dotted name it stands under.
struct Node<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> Node<'a> {
    fn expects(&self, what: &str) -> OptionError {
        OptionError::Malformed(format!("Parameter '{}' expects {what}", self.path), None)
    }

    fn child<'b>(&self, key: &str, value: &'b Value) -> Node<'b> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Node { value, path }
    }

    fn bool(&self) -> Result<bool, OptionError> {
        match self.value {
            Value::Bool(b) => Ok(*b),
            Value::String(s) => match s.as_str() {
                "on" | "yes" | "true" | "y" => Ok(true),
                "off" | "no" | "false" | "n" => Ok(false),
                _ => Err(self.expects("'on' or 'off'")),
            },
            _ => Err(self.expects("'on' or 'off'")),
        }
    }

    fn u64(&self) -> Result<u64, OptionError> {
        let parsed = match self.value {
            Value::Number(n) => n.as_u64(),
            Value::String(s) => match s.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16).ok(),
                None => s.parse().ok(),
            },
            _ => None,
        };
        parsed.ok_or_else(|| self.expects("a number"))
    }

    fn i64(&self) -> Result<i64, OptionError> {
        let negative = match self.value {
            Value::Number(n) => n.as_i64(),
            Value::String(s) => s.parse().ok(),
            _ => None,
        };
        match negative {
            Some(n) => Ok(n),
            None => self.u64().and_then(|n| n.try_into().map_err(|_| self.expects("a number"))),
        }
    }

    fn size(&self) -> Result<u64, OptionError> {
        let malformed = |text| OptionError::Malformed(text, Some(size::SUFFIX_HINT));
        match self.value {
            Value::String(s) => size::parse(s).map_err(|e| match e {
                size::SizeError::Malformed => malformed(format!("Parameter '{}' expects a size", self.path)),
                size::SizeError::Range => {
                    malformed(format!("Parameter '{}' expects a non-negative number below 2^64", self.path))
                }
            }),
            _ => self.u64(),
        }
    }

    fn str(&self) -> Result<&'a str, OptionError> {
        self.value.as_str().ok_or_else(|| self.expects("a string"))
    }

    /// The items of a list, whether a JSON array or numbered keys.
    fn items(&self) -> Result<Vec<Node<'a>>, OptionError> {
        match self.value {
            Value::Array(list) => {
                Ok(list.iter().enumerate().map(|(i, v)| self.child(&i.to_string(), v)).collect())
            }
            Value::Object(map) => (0..map.len())
                .map(|i| {
                    let key = i.to_string();
                    let value =
                        map.get(&key).ok_or_else(|| OptionError::Missing(format!("{}.{key}", self.path)))?;
                    Ok(self.child(&key, value))
                })
                .collect(),
            _ => Err(self.expects("a list")),
        }
    }

    fn fields(&self, known: &'static [&'static str]) -> Result<&'a Map<String, Value>, OptionError> {
        let map = self.value.as_object().ok_or_else(|| self.expects("a group of options"))?;
        match map.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            Some((key, value)) => Err(OptionError::Unknown(leaf(self.child(key, value)))),
            None => Ok(map),
        }
    }
}

/// The full name of the first value below an unknown key, which is what the user typed.
fn leaf(mut node: Node<'_>) -> String {
    while let Some((key, value)) = node.value.as_object().and_then(|map| map.iter().next()) {
        node = node.child(key, value);
    }
    node.path
}

macro_rules! integers {
    ($($method:ident $visit:ident $source:ident;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, OptionError> {
            visitor.$visit(self.$source()?.try_into().map_err(|_| self.expects("a smaller number"))?)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Node<'de> {
    type Error = OptionError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, OptionError> {
        self.value.clone().into_deserializer().deserialize_any(visitor).map_err(OptionError::custom)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, OptionError> {
        visitor.visit_bool(self.bool()?)
    }

    integers! {
        deserialize_u8 visit_u8 u64;
        deserialize_u16 visit_u16 u64;
        deserialize_u32 visit_u32 u64;
        deserialize_u64 visit_u64 u64;
        deserialize_i8 visit_i8 i64;
        deserialize_i16 visit_i16 i64;
        deserialize_i32 visit_i32 i64;
        deserialize_i64 visit_i64 i64;
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, OptionError> {
        visitor.visit_borrowed_str(self.str()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, OptionError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, OptionError> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, OptionError> {
        if name == size::MARKER {
            visitor.visit_u64(self.size()?)
        } else {
            visitor.visit_newtype_struct(self)
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, OptionError> {
        visitor.visit_seq(Items(self.items()?.into_iter()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, OptionError> {
        let map = self.value.as_object().ok_or_else(|| self.expects("a group of options"))?;
        visitor.visit_map(Fields::new(&self, map))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, OptionError> {
        let map = self.fields(fields)?;
        visitor.visit_map(Fields::new(&self, map)).map_err(|e| match e {
            OptionError::Missing(key) if fields.contains(&key.as_str()) && !self.path.is_empty() => {
                OptionError::Missing(format!("{}.{key}", self.path))
            }
            e => e,
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, OptionError> {
        let word = self.str()?;
        if !variants.contains(&word) {
            let text = format!("Parameter '{}' does not accept value '{word}'", self.path);
            return Err(OptionError::Malformed(text, None));
        }
        visitor.visit_enum(word.into_deserializer())
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Items<'a>(std::vec::IntoIter<Node<'a>>);

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = OptionError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, OptionError> {
        self.0.next().map(|node| seed.deserialize(node)).transpose()
    }
}

struct Fields<'a> {
    rest: std::vec::IntoIter<(&'a str, Node<'a>)>,
    value: Option<Node<'a>>,
}

impl<'a> Fields<'a> {
    fn new(parent: &Node<'a>, map: &'a Map<String, Value>) -> Self {
        let rest: Vec<_> = map.iter().map(|(k, v)| (k.as_str(), parent.child(k, v))).collect();
        Fields { rest: rest.into_iter(), value: None }
    }
}

impl<'de> de::MapAccess<'de> for Fields<'de> {
    type Error = OptionError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, OptionError> {
        let Some((key, node)) = self.rest.next() else { return Ok(None) };
        self.value = Some(node);
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, OptionError> {
        let node = self.value.take().ok_or_else(|| OptionError::custom("value asked for before its key"))?;
        seed.deserialize(node)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Options, Size};
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "kebab-case")]
    enum Mode {
        Cbc,
        Xts,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "kebab-case")]
    struct Typed {
        key_secret: String,
        size: Option<Size>,
        #[serde(default)]
        read_only: bool,
        mode: Option<Mode>,
        #[serde(default)]
        list: Vec<u32>,
    }

    fn parse(pairs: &[(&str, &str)]) -> Result<Typed, String> {
        Options::from_pairs(pairs.iter().copied()).unwrap().parse().map_err(|e| e.to_string())
    }

    #[test]
    fn text_becomes_what_the_field_asks_for() {
        let text =
            [("key-secret", "s"), ("size", "1.5k"), ("read-only", "on"), ("mode", "xts"), ("list.0", "0x10")];
        let json = r#"{"key-secret": "s", "size": 1536, "read-only": true, "mode": "xts", "list": [16]}"#;
        let want = Options::from_json(json).unwrap().parse::<Typed>().unwrap();
        assert_eq!(parse(&text).unwrap(), want);
        assert_eq!(want.size, Some(Size(1536)));
    }

    #[test]
    fn errors_name_the_key() {
        let check = |pairs: &[(&str, &str)], want: &str| assert_eq!(parse(pairs).unwrap_err(), want);
        check(&[], "Parameter 'key-secret' is missing");
        check(&[("key-secret", "s"), ("foo.bar", "1")], "Parameter 'foo.bar' is unexpected");
        check(&[("key-secret", "s"), ("read-only", "maybe")], "Parameter 'read-only' expects 'on' or 'off'");
        check(&[("key-secret", "s"), ("mode", "ecb")], "Parameter 'mode' does not accept value 'ecb'");
        check(&[("key-secret", "s"), ("size", "1x")], "Parameter 'size' expects a size");
        check(&[("key-secret", "s"), ("list.1", "1")], "Parameter 'list.0' is missing");
    }
}
