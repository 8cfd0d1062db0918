//! Options tree to typed struct.
//!
//! The struct is the single list of names: a key it does not have is unknown, a field without a default that the tree
//! does not have is missing. Text becomes what the field asks for: `on`/`off`, numbers (decimal or `0x`), [`Size`],
//! enum names, lists (`name.0=…,name.1=…`).
//!
//! [`Size`]: super::Size

use super::number::{self, NumberError};
use super::size::{self, SizeError};
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

/// Whose words an error uses, and how strict types are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Options of images and formats, in whatever spelling: text is converted.
    Opts,
    /// Objects in `key=value` text: text is converted.
    Keyval,
    /// Objects in JSON: values must have the right type.
    Json,
}

/// Turns the tree into `T`. Known keys are judged first, in the order of the type's fields, unknown ones last.
pub(crate) fn parse<T: DeserializeOwned>(
    map: &Map<String, Value>,
    dialect: Dialect,
) -> Result<T, OptionError> {
    let mut copy = Value::Object(map.clone());
    let parsed = T::deserialize(Node { value: &copy, path: String::new(), dialect });
    // Options of objects hold secrets.
    super::wipe(&mut copy);
    parsed
}

/// A switch that was given as text, for options that are not parsed into a type.
///
/// # Errors
/// Anything but `on`, `off` and their synonyms; the sentence names the parameter.
pub fn parse_bool(name: &str, text: &str) -> Result<bool, OptionError> {
    match text {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(malformed(format!("Parameter '{name}' expects 'on' or 'off'"))),
    }
}

/// A number that was given as text, for options that are not parsed into a type.
///
/// # Errors
/// See [`number::parse_u64`]; the sentence names the parameter.
pub fn parse_number(name: &str, text: &str) -> Result<u64, OptionError> {
    number::parse_u64(text).map_err(|e| number_error(name, text, e))
}

/// A size that was given as text, for options that are not parsed into a type.
///
/// # Errors
/// See [`size::parse`]; the sentence names the parameter.
pub fn parse_size(name: &str, text: &str) -> Result<u64, OptionError> {
    size::parse(text).map_err(|e| match e {
        SizeError::Malformed => OptionError::Malformed(
            format!("Parameter '{name}' expects a non-negative number below 2^64"),
            Some(size::SUFFIX_HINT),
        ),
        SizeError::Range => malformed(format!("Value '{text}' is out of range for parameter '{name}'")),
    })
}

fn number_error(name: &str, text: &str, e: NumberError) -> OptionError {
    malformed(match e {
        NumberError::Malformed => format!("Parameter '{name}' expects a number"),
        NumberError::TooLarge => format!("Value '{text}' is too large for parameter '{name}'"),
    })
}

fn malformed(text: String) -> OptionError {
    OptionError::Malformed(text, None)
}

/// The text that stands under `key`.
pub(crate) fn string(key: &str, value: &Value, dialect: Dialect) -> Result<String, OptionError> {
    Node { value, path: key.to_owned(), dialect }.str().map(str::to_owned)
}

/// A value and the dotted name it stands under.
struct Node<'a> {
    value: &'a Value,
    path: String,
    dialect: Dialect,
}

impl<'a> Node<'a> {
    fn expects(&self, what: &str) -> OptionError {
        malformed(format!("Parameter '{}' expects {what}", self.path))
    }

    /// The value has the wrong type, as JSON sees it.
    fn type_error(&self, want: &str) -> OptionError {
        match (self.dialect, self.value) {
            (Dialect::Opts, _) => OptionError::Unknown(leaf(self)),
            (Dialect::Keyval, Value::Object(_) | Value::Array(_)) if !matches!(want, "object" | "array") => {
                malformed(format!("Parameters '{}.*' are unexpected", self.path))
            }
            _ => malformed(format!("Invalid parameter type for '{}', expected: {want}", self.path)),
        }
    }

    fn child<'b>(&self, key: &str, value: &'b Value) -> Node<'b> {
        let path = match key {
            super::OWN => self.path.clone(),
            key if self.path.is_empty() => key.to_owned(),
            key => format!("{}.{key}", self.path),
        };
        Node { value, path, dialect: self.dialect }
    }

    fn item<'b>(&self, index: usize, value: &'b Value) -> Node<'b> {
        match self.dialect {
            Dialect::Json => Node { value, path: format!("{}[{index}]", self.path), dialect: self.dialect },
            Dialect::Opts | Dialect::Keyval => self.child(&index.to_string(), value),
        }
    }

    /// The text of a scalar that may be given as text.
    fn text(&self, want: &str) -> Result<&'a str, OptionError> {
        match self.value {
            Value::String(text) if self.dialect != Dialect::Json => Ok(text),
            Value::Object(_) | Value::Array(_) => Err(self.type_error(want)),
            // A scalar of another type is as wrong as text that says nothing.
            _ if self.dialect == Dialect::Opts => Ok(""),
            _ => Err(self.type_error(want)),
        }
    }

    fn bool(&self) -> Result<bool, OptionError> {
        if let Value::Bool(b) = self.value {
            return Ok(*b);
        }
        parse_bool(&self.path, self.text("boolean")?)
    }

    fn u64(&self) -> Result<u64, OptionError> {
        match self.value.as_number().map(|n| n.as_u64().or(n.as_i64().map(i64::cast_unsigned))) {
            Some(Some(n)) => Ok(n),
            _ => number::parse_u64(self.text("integer")?).map_err(|e| self.number_error(e)),
        }
    }

    fn i64(&self) -> Result<i64, OptionError> {
        match self.value.as_i64() {
            Some(n) => Ok(n),
            None => number::parse_i64(self.text("integer")?).map_err(|e| self.number_error(e)),
        }
    }

    fn number_error(&self, e: NumberError) -> OptionError {
        match self.dialect {
            Dialect::Opts => number_error(&self.path, &plain(self.value), e),
            Dialect::Keyval | Dialect::Json => self.expects("integer"),
        }
    }

    /// A number that does not fit the integer type called `name` in C.
    fn out_of_range(&self, name: &str) -> OptionError {
        match self.dialect {
            Dialect::Opts => self.number_error(NumberError::TooLarge),
            Dialect::Keyval | Dialect::Json => self.expects(name),
        }
    }

    fn size(&self) -> Result<u64, OptionError> {
        match self.value.as_u64() {
            Some(bytes) => Ok(bytes),
            None => parse_size(&self.path, self.text("integer")?),
        }
    }

    fn str(&self) -> Result<&'a str, OptionError> {
        match self.value {
            Value::String(text) => Ok(text),
            Value::Object(_) | Value::Array(_) => Err(self.type_error("string")),
            _ if self.dialect == Dialect::Opts => Err(self.expects("a string")),
            _ => Err(self.type_error("string")),
        }
    }

    /// The items of a list, whether a JSON array or numbered keys.
    fn items(&self) -> Result<Vec<Node<'a>>, OptionError> {
        match self.value {
            Value::Array(list) => Ok(list.iter().enumerate().map(|(i, v)| self.item(i, v)).collect()),
            Value::Object(map) if map.keys().all(|key| key.parse::<usize>().is_ok()) => {
                (0..map.len()).map(|i| self.numbered(map, i)).collect()
            }
            _ => Err(self.type_error("array")),
        }
    }

    /// The item whose key is the number `index`, however many zeroes it begins with.
    fn numbered(&self, map: &'a Map<String, Value>, index: usize) -> Result<Node<'a>, OptionError> {
        let value = map.iter().find(|(key, _)| key.parse() == Ok(index)).map(|(_, value)| value);
        let missing = || OptionError::Missing(format!("{}.{index}", self.path));
        Ok(self.item(index, value.ok_or_else(missing)?))
    }

    fn map(&self) -> Result<&'a Map<String, Value>, OptionError> {
        self.value.as_object().ok_or_else(|| self.type_error("object"))
    }

    /// Fails if the group has a key that is not among `known`.
    fn reject_unknown(&self, known: &[&str]) -> Result<(), OptionError> {
        match self.map()?.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            Some((key, value)) if self.dialect == Dialect::Opts => {
                Err(OptionError::Unknown(leaf(&self.child(key, value))))
            }
            Some((key, value)) => Err(OptionError::Unknown(self.child(key, value).path)),
            None => Ok(()),
        }
    }
}

/// A value as the user wrote it, but for JSON strings without their quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The full name of the first value below an unknown key, which is what the user typed.
fn leaf(node: &Node<'_>) -> String {
    let first = match node.value {
        Value::Object(map) => {
            map.iter().find(|(key, _)| *key != super::OWN).map(|(key, value)| node.child(key, value))
        }
        Value::Array(list) => list.first().map(|value| node.item(0, value)),
        _ => None,
    };
    first.map_or_else(|| node.path.clone(), |child| leaf(&child))
}

macro_rules! integers {
    ($($method:ident $visit:ident $source:ident $name:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, OptionError> {
            visitor.$visit(self.$source()?.try_into().map_err(|_| self.out_of_range($name))?)
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
        deserialize_u8 visit_u8 u64 "uint8_t";
        deserialize_u16 visit_u16 u64 "uint16_t";
        deserialize_u32 visit_u32 u64 "uint32_t";
        deserialize_u64 visit_u64 u64 "uint64_t";
        deserialize_i8 visit_i8 i64 "int8_t";
        deserialize_i16 visit_i16 i64 "int16_t";
        deserialize_i32 visit_i32 i64 "int32_t";
        deserialize_i64 visit_i64 i64 "int64_t";
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, OptionError> {
        visitor.visit_borrowed_str(self.str()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, OptionError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, OptionError> {
        let none = self.value.is_null() && self.dialect == Dialect::Opts;
        if none { visitor.visit_none() } else { visitor.visit_some(self) }
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
        visitor.visit_map(Fields::new(&self, self.map()?.iter()))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, OptionError> {
        let map = self.map()?;
        let known = fields.iter().filter_map(|field| map.get_key_value(*field));
        let visited = visitor.visit_map(Fields::new(&self, known)).map_err(|e| match e {
            OptionError::Missing(key) if fields.contains(&key.as_str()) && !self.path.is_empty() => {
                OptionError::Missing(format!("{}.{key}", self.path))
            }
            e => e,
        })?;
        self.reject_unknown(fields).map(|()| visited)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, OptionError> {
        let word = self.str()?;
        if !variants.contains(&word) {
            // The last part of the name alone, unlike everywhere else.
            let name = self.path.rsplit('.').next().unwrap_or_default();
            return Err(malformed(format!("Parameter '{name}' does not accept value '{word}'")));
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
    fn new(parent: &Node<'a>, fields: impl Iterator<Item = (&'a String, &'a Value)>) -> Self {
        let rest: Vec<_> = fields.map(|(k, v)| (k.as_str(), parent.child(k, v))).collect();
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
    use super::Dialect;
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

    #[derive(Debug, Deserialize, PartialEq)]
    struct Rule {
        policy: Mode,
        weight: i32,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Object {
        #[serde(default)]
        rules: Vec<Rule>,
        #[serde(default)]
        verify: bool,
        name: Option<String>,
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
        check(
            &[("key-secret", "s"), ("size", "1x")],
            "Parameter 'size' expects a non-negative number below 2^64",
        );
        check(&[("key-secret", "s"), ("size", "-1")], "Value '-1' is out of range for parameter 'size'");
        check(&[("key-secret", "s"), ("size.x", "1")], "Parameter 'size.x' is unexpected");
        check(&[("key-secret.x", "1")], "Parameter 'key-secret.x' is unexpected");
        check(&[("key-secret", "s"), ("list.0", "1k")], "Parameter 'list.0' expects a number");
        check(&[("key-secret", "s"), ("list.0", "-1")], "Value '-1' is too large for parameter 'list.0'");
        check(&[("key-secret", "s"), ("list.1", "1")], "Parameter 'list.0' is missing");
    }

    #[test]
    fn what_is_unknown_is_told_after_what_is_wrong() {
        let pairs = [("foo", "1"), ("read-only", "maybe"), ("key-secret", "s")];
        assert_eq!(parse(&pairs).unwrap_err(), "Parameter 'read-only' expects 'on' or 'off'");
        assert_eq!(parse(&[("foo", "1")]).unwrap_err(), "Parameter 'key-secret' is missing");
    }

    #[test]
    fn objects_in_key_value_text_have_their_own_words() {
        for (pair, want) in [
            (("rules", "x"), "Invalid parameter type for 'rules', expected: array"),
            (("rules.foo", "x"), "Invalid parameter type for 'rules', expected: array"),
            (("rules.0", "x"), "Invalid parameter type for 'rules.0', expected: object"),
            (("rules.0.policy", "foo"), "Parameter 'policy' does not accept value 'foo'"),
            (("rules.0.policy", "xts"), "Parameter 'rules.0.weight' is missing"),
            (("rules.0.weight", "1k"), "Parameter 'rules.0.weight' expects integer"),
            (("rules.0.weight", "2147483648"), "Parameter 'rules.0.weight' expects int32_t"),
            (("name.x", "y"), "Parameters 'name.*' are unexpected"),
            (("verify.x", "y"), "Parameters 'verify.*' are unexpected"),
            (("foo.bar", "x"), "Parameter 'foo' is unexpected"),
        ] {
            let options = Options::from_pairs([pair]).unwrap();
            assert_eq!(super::parse::<Object>(&options.0, Dialect::Keyval).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn objects_in_json_are_strict_about_types() {
        for (json, want) in [
            (r#"{"rules": 5}"#, "Invalid parameter type for 'rules', expected: array"),
            (r#"{"rules": [5]}"#, "Invalid parameter type for 'rules[0]', expected: object"),
            (
                r#"{"rules": [{"policy": 5}]}"#,
                "Invalid parameter type for 'rules[0].policy', expected: string",
            ),
            (r#"{"rules": [{"policy": "xts"}]}"#, "Parameter 'rules[0].weight' is missing"),
            (
                r#"{"rules": [{"weight": "5"}]}"#,
                "Invalid parameter type for 'rules[0].weight', expected: integer",
            ),
            (
                r#"{"rules": [{"weight": 1.5}]}"#,
                "Invalid parameter type for 'rules[0].weight', expected: integer",
            ),
            (r#"{"rules": [{"weight": 5000000000}]}"#, "Parameter 'rules[0].weight' expects int32_t"),
            (r#"{"verify": "on"}"#, "Invalid parameter type for 'verify', expected: boolean"),
            (r#"{"name": null}"#, "Invalid parameter type for 'name', expected: string"),
            (r#"{"name": 5}"#, "Invalid parameter type for 'name', expected: string"),
            (r#"{"name": {"x": 5}}"#, "Invalid parameter type for 'name', expected: string"),
        ] {
            let options = Options::from_json(json).unwrap();
            assert_eq!(
                super::parse::<Object>(&options.0, Dialect::Json).unwrap_err().to_string(),
                want,
                "{json}"
            );
        }
    }
}
