//! JSON that is changed in places, and otherwise kept to the letter as it was written.
//!
//! Other programs put members into LUKS2 headers that we know nothing of; a header that is written again must hold them
//! as they were: order, spelling of numbers, escapes. So an object is kept as pieces of text, and only the path to what
//! changes is taken apart.

use block::{Error, Result};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::fmt;

/// How deep objects and lists may be nested, as cryptsetup has it.
const MAX_DEPTH: usize = 32;

/// An object whose members keep their order.
#[derive(Debug, Clone)]
pub(super) struct Object(Vec<(String, Member)>);

#[derive(Debug, Clone)]
enum Member {
    /// As it was written.
    Text(Box<RawValue>),
    /// Taken apart.
    Object(Object),
}

impl Object {
    /// Takes one level of the text apart.
    ///
    /// # Errors
    /// It is no object.
    pub(super) fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| malformed(&e))
    }

    /// The object that is the member `name`.
    ///
    /// # Errors
    /// There is none, or it is something else.
    pub(super) fn object(&mut self, name: &str) -> Result<&mut Object> {
        let missing = || Error::corrupt(format!("LUKS2 metadata has no object '{name}'"));
        let member = self.0.iter_mut().find(|(key, _)| key == name).ok_or_else(missing)?;
        if let Member::Text(text) = &member.1 {
            member.1 = Member::Object(Object::parse(text.get())?);
        }
        match &mut member.1 {
            Member::Object(object) => Ok(object),
            Member::Text(_) => Err(missing()),
        }
    }

    /// Gives a member a value, in its place or behind the others.
    ///
    /// # Errors
    /// The value cannot be written.
    pub(super) fn set(&mut self, name: &str, value: &Value) -> Result<()> {
        let text = serde_json::value::to_raw_value(value).map_err(|e| malformed(&e))?;
        match self.0.iter_mut().find(|(key, _)| key == name) {
            Some((_, member)) => *member = Member::Text(text),
            None => self.0.push((name.to_owned(), Member::Text(text))),
        }
        Ok(())
    }

    /// Takes a member out.
    pub(super) fn remove(&mut self, name: &str) {
        self.0.retain(|(key, _)| key != name);
    }

    /// Gives a member another name, and the place of the member that had it.
    pub(super) fn rename(&mut self, from: &str, to: &str) {
        let Some(at) = self.0.iter().position(|(key, _)| key == from) else { return };
        let (_, member) = self.0.remove(at);
        match self.0.iter_mut().find(|(key, _)| key == to) {
            Some((_, old)) => *old = member,
            None => self.0.insert(at, (to.to_owned(), member)),
        }
    }

    /// The object as text, without blanks but those that were there.
    pub(super) fn to_text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        out.push('{');
        for (index, (name, member)) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            out.push_str(&Value::from(name.as_str()).to_string());
            out.push(':');
            match member {
                Member::Text(text) => out.push_str(text.get()),
                Member::Object(object) => object.write(out),
            }
        }
        out.push('}');
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Vec::new();
                while let Some((name, text)) = map.next_entry::<String, Box<RawValue>>()? {
                    members.push((name, Member::Text(text)));
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// The whole text as a value: no deeper than the format allows, and nothing in it named twice.
///
/// # Errors
/// What is wrong with the text.
pub(super) fn parse(text: &str) -> Result<Value> {
    check_depth(text)?;
    let mut json = serde_json::Deserializer::from_str(text);
    Unique { path: String::new() }.deserialize(&mut json).map_err(|e| malformed(&e))?;
    serde_json::from_str(text).map_err(|e| malformed(&e))
}

fn malformed(e: &serde_json::Error) -> Error {
    Error::corrupt(format!("LUKS2 metadata is no valid JSON: {e}"))
}

fn check_depth(text: &str) -> Result<()> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(Error::corrupt(format!("LUKS2 metadata is nested deeper than {MAX_DEPTH} levels")));
        }
    }
    Ok(())
}

/// Any value in which no object has two members of one name: programs differ in which of them they believe.
struct Unique {
    path: String,
}

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let path = if self.path.is_empty() { name.clone() } else { format!("{}.{name}", self.path) };
            if !seen.insert(name) {
                return Err(A::Error::custom(format!("'{path}' is there twice")));
            }
            map.next_value_seed(Unique { path })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Unique { path: format!("{}[]", self.path) })?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TEXT: &str = r#"{"a":{"0":{"x":1.50,"y":"\/"} ,"1":2e3},"b":[1, 2],"é":null}"#;

    #[test]
    fn what_is_not_changed_stays_to_the_letter() {
        let mut document = Object::parse(TEXT).unwrap();
        assert_eq!(document.to_text(), TEXT);
        document.object("a").unwrap().object("0").unwrap().set("z", &json!("new")).unwrap();
        document.object("a").unwrap().remove("1");
        assert_eq!(document.to_text(), r#"{"a":{"0":{"x":1.50,"y":"\/","z":"new"}},"b":[1, 2],"é":null}"#);
    }

    #[test]
    fn a_member_takes_the_name_and_place_of_another() {
        let mut document = Object::parse(r#"{"0":1,"1":2,"2":3}"#).unwrap();
        document.rename("2", "0");
        assert_eq!(document.to_text(), r#"{"0":3,"1":2}"#);
        document.rename("1", "7");
        assert_eq!(document.to_text(), r#"{"0":3,"7":2}"#);
    }

    #[test]
    fn a_name_twice_anywhere_is_refused_by_its_path() {
        let error = parse(r#"{"a":{"b":[{"c":1,"c":2}]}}"#).unwrap_err();
        assert!(error.to_string().contains("'a.b[].c' is there twice"), "{error}");
        assert!(parse(TEXT).is_ok());
    }

    #[test]
    fn depth_is_bounded_as_in_cryptsetup() {
        let nested = |levels: usize| format!("{{\"x\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(&nested(31)).is_ok());
        assert!(parse(&nested(32)).unwrap_err().to_string().contains("nested deeper than 32"));
        assert!(parse(&nested(1_000_000)).is_err());
        assert!(parse("{\"x\":\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"}").is_ok());
    }
}
