//! JSON as users write it: standard JSON, plus strings in single quotes, minus objects that repeat a key.

use crate::{Error, Result};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;
use zeroize::Zeroizing;

/// Parses one JSON value.
///
/// # Errors
/// The sentence says what is wrong with the text; it has no prefix.
pub(crate) fn parse(text: &str) -> Result<Value> {
    if text.trim().is_empty() {
        return Err(Error::invalid("Expecting a JSON value"));
    }
    let text = double_quoted(text);
    serde_json::from_str(&text).map(|Unrepeated(value)| value).map_err(|e| Error::invalid(sentence(&e)))
}

/// Turns strings in single quotes into strings in double quotes; the rest is left to the parser.
fn double_quoted(text: &str) -> Zeroizing<String> {
    // Room for the worst case, so that growing leaves no copy of a secret behind.
    let mut out = Zeroizing::new(String::with_capacity(2 * text.len()));
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') => {
                quote = Some(c);
                out.push('"');
            }
            (Some(q), c) if c == q => {
                quote = None;
                out.push('"');
            }
            (Some(_), '"') => out.push_str("\\\""),
            (Some(_), '\\') => match chars.next() {
                Some('\'') => out.push('\''),
                next => out.extend(std::iter::once('\\').chain(next)),
            },
            (_, c) => out.push(c),
        }
    }
    out
}

fn sentence(e: &serde_json::Error) -> String {
    let text = e.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    let what = match text {
        _ if e.is_eof() => "premature EOI",
        "trailing characters" => return "Expecting at most one JSON value".to_owned(),
        "trailing comma" => "expecting value",
        "expected `,` or `}`" => "expected separator in dict",
        "expected `,` or `]`" => "expected separator in list",
        "expected `:`" => "missing : in object pair",
        "key must be a string" => "key is not a string in object",
        "invalid escape" => "invalid escape sequence in string",
        text => text,
    };
    format!("JSON parse error, {what}")
}

/// A value none of whose objects repeats a key.
struct Unrepeated(Value);

impl<'de> Deserialize<'de> for Unrepeated {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(AnyValue)
    }
}

struct AnyValue;

macro_rules! scalars {
    ($($method:ident: $type:ty;)*) => {$(
        fn $method<E>(self, v: $type) -> Result<Unrepeated, E> {
            Ok(Unrepeated(Value::from(v)))
        }
    )*};
}

impl<'de> Visitor<'de> for AnyValue {
    type Value = Unrepeated;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    scalars! {
        visit_bool: bool;
        visit_i64: i64;
        visit_u64: u64;
        visit_f64: f64;
        visit_str: &str;
        visit_string: String;
    }

    fn visit_unit<E>(self) -> Result<Unrepeated, E> {
        Ok(Unrepeated(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Unrepeated, A::Error> {
        let mut list = Vec::new();
        while let Some(Unrepeated(value)) = seq.next_element()? {
            list.push(value);
        }
        Ok(Unrepeated(Value::Array(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Unrepeated, A::Error> {
        let mut map = Map::new();
        while let Some((key, Unrepeated(value))) = entries.next_entry::<String, _>()? {
            if map.insert(key, value).is_some() {
                return Err(A::Error::custom("duplicate key"));
            }
        }
        Ok(Unrepeated(Value::Object(map)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn single_quotes_are_as_good_as_double_ones() {
        assert_eq!(parse(r#"{'a': "it's", 'b': 'say "hi"', 'c': 'it\'s \u00e9 \n'}"#).unwrap(), {
            json!({"a": "it's", "b": "say \"hi\"", "c": "it's é \n"})
        });
        let nested = json!({"l": [1, -2, 1.5, true, null], "o": {}});
        assert_eq!(parse(&nested.to_string()).unwrap(), nested);
    }

    #[test]
    fn the_sentence_says_what_is_wrong() {
        for (text, want) in [
            ("", "Expecting a JSON value"),
            ("{", "JSON parse error, premature EOI"),
            ("{'a", "JSON parse error, premature EOI"),
            ("{} x", "Expecting at most one JSON value"),
            ("{'a':1,}", "JSON parse error, expecting value"),
            ("{'a':1 'b':2}", "JSON parse error, expected separator in dict"),
            ("[1 2]", "JSON parse error, expected separator in list"),
            ("{'a' 1}", "JSON parse error, missing : in object pair"),
            ("{'a':1,'b':{'c':1,'c':2}}", "JSON parse error, duplicate key"),
            (r#"{"a":"\x"}"#, "JSON parse error, invalid escape sequence in string"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), want, "{text}");
        }
    }
}
