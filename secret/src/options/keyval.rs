//! `key=value,key=value` text. A comma inside a value is doubled (`,,`).
//!
//! There are two dialects. *Options* (`-o`, `--image-opts`) take any key, and a word without `=` is a switch.
//! *Objects* (`--object`) take only well-formed dotted keys, and a word without `=` is an error, unless it asks for help.

use super::{OWN, Options};
use crate::{Error, Result};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

/// What a word without `=` means.
#[derive(Debug, Clone, Copy)]
pub enum Bare<'a> {
    /// Nothing: it is an error, except for the first word, which is the value of this key (as in `--object`).
    First(&'a str),
    /// The first word is the value of this key, any other one is a switch (`foo` = `foo=on`, `nofoo` = `foo=off`).
    Switch(&'a str),
    /// Every one is a switch.
    Always,
}

/// Splits `text` into pairs, in order, undoing doubled commas.
///
/// # Errors
/// With [`Bare::First`]: a bare word, or a key that is not well-formed.
pub fn pairs(text: &str, bare: Bare<'_>) -> Result<Vec<(String, String)>> {
    words(text, bare)?
        .into_iter()
        .map(|word| match word {
            Word::Pair(key, mut value) => Ok((key, std::mem::take(&mut *value))),
            Word::Switch { word, .. } => {
                let (key, value) = switch(&word);
                Ok((key.to_owned(), value.to_owned()))
            }
            Word::Help(word) => Err(no_value(&word)),
        })
        .collect()
}

/// A warning for each switch without `=`, where the tools deprecate them.
pub fn short_forms(text: &str, bare: Bare<'_>) -> Vec<String> {
    let words = words(text, bare).unwrap_or_default();
    let switches = words.into_iter().filter_map(|word| match word {
        Word::Switch { word } => Some(word),
        Word::Pair(..) | Word::Help(_) => None,
    });
    switches
        .map(|word| {
            let (key, value) = switch(&word);
            format!("short-form boolean option '{word}' deprecated\nPlease use {key}={value} instead")
        })
        .collect()
}

/// The options of an object, and whether the user asked for help instead.
#[derive(Debug)]
pub(crate) struct ObjectText {
    pub(crate) options: Zeroizing<Options>,
    pub(crate) help: bool,
}

/// Parses the text of `--object`: well-formed dotted keys, groups and lists that hang together, `help` anywhere.
///
/// # Errors
/// A malformed or overlong key, a bare word, a key used both for a value and a group, a list with gaps.
pub(crate) fn object(text: &str, implied: &str) -> Result<ObjectText> {
    let mut options = Zeroizing::new(Options::new());
    let mut help = false;
    for word in words(text, Bare::First(implied))? {
        match word {
            Word::Pair(key, mut value) => options.set(&key, std::mem::take(&mut *value))?,
            Word::Switch { word } => return Err(no_value(&word)),
            Word::Help(_) => help = true,
        }
    }
    check_lists("", &options.0)?;
    Ok(ObjectText { options, help })
}

enum Word {
    /// Values may be secrets.
    Pair(String, Zeroizing<String>),
    Switch {
        word: String,
    },
    Help(String),
}

/// `nofoo` switches `foo` off, anything else is switched on.
fn switch(word: &str) -> (&str, &str) {
    match word.strip_prefix("no") {
        Some(name) => (name, "off"),
        None => (word, "on"),
    }
}

fn words(text: &str, bare: Bare<'_>) -> Result<Vec<Word>> {
    let mut rest = text;
    let mut words = Vec::new();
    while !rest.is_empty() {
        let (word, tail) = next(rest, words.is_empty(), bare)?;
        words.push(word);
        rest = tail;
    }
    Ok(words)
}

/// The first word of `text`, and what follows it.
fn next<'a>(text: &'a str, first: bool, bare: Bare<'_>) -> Result<(Word, &'a str)> {
    let end = text.find(['=', ',']).unwrap_or(text.len());
    let (key, tail) = text.split_at(end);
    if let Some(tail) = tail.strip_prefix('=') {
        if let Bare::First(_) = bare {
            check_key(key)?;
        }
        let (value, tail) = value(tail);
        return Ok((Word::Pair(key.to_owned(), value), tail));
    }
    let tail = tail.strip_prefix(',').unwrap_or(tail);
    match bare {
        Bare::First(_) if matches!(key, "help" | "?") => Ok((Word::Help(key.to_owned()), tail)),
        Bare::First(implied) if first && !key.is_empty() => {
            Ok((Word::Pair(implied.to_owned(), Zeroizing::new(key.to_owned())), tail))
        }
        Bare::First(_) => check_key(key).and_then(|()| Err(no_value(key))),
        Bare::Switch(implied) if first => {
            let (value, tail) = value(text);
            Ok((Word::Pair(implied.to_owned(), value), tail))
        }
        Bare::Switch(_) | Bare::Always => Ok((Word::Switch { word: key.to_owned() }, tail)),
    }
}

/// The value at the start of `text`, up to the first single comma, and what follows that comma.
fn value(text: &str) -> (Zeroizing<String>, &str) {
    // Room for all of it, so that growing leaves no copy of a secret behind.
    let mut value = Zeroizing::new(String::with_capacity(text.len()));
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c == ',' && chars.next_if(|&(_, next)| next == ',').is_none() {
            return (value, &text[at + 1..]);
        }
        value.push(c);
    }
    (value, "")
}

fn no_value(word: &str) -> Error {
    Error::invalid(format!("Expected '=' after parameter '{word}'"))
}

/// The longest part of a dotted key.
const MAX_FRAGMENT: usize = 127;

/// Parts joined by dots: names (a letter, then letters, digits, `-`, `_`) or, but for the first, list indices.
fn check_key(key: &str) -> Result<()> {
    for (i, part) in key.split('.').enumerate() {
        let name = part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        let index = i > 0 && is_index(part);
        if !(name || index) {
            return Err(Error::invalid(format!("Invalid parameter '{key}'")));
        }
        if part.len() > MAX_FRAGMENT {
            let fragment = if part.len() < key.len() { " fragment" } else { "" };
            return Err(Error::invalid(format!("Parameter{fragment} '{part}' is too long")));
        }
    }
    Ok(())
}

fn is_index(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())
}

/// A group with one index among its keys is a list: it has nothing but indices, from 0 without a gap. A group has no
/// value of its own.
fn check_lists(path: &str, map: &Map<String, Value>) -> Result<()> {
    for (key, value) in map {
        if let Value::Object(group) = value {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            check_lists(&path, group)?;
        }
    }
    let indices = map.keys().filter(|key| is_index(key)).count();
    if map.contains_key(OWN) || indices > 0 && indices < map.len() {
        return Err(inconsistent(path));
    }
    let index_of = |key: &String| key.parse::<usize>().ok();
    match (0..indices).find(|i| !map.keys().any(|key| index_of(key) == Some(*i))) {
        Some(gap) => Err(Error::invalid(format!("Parameter '{path}.{gap}' missing"))),
        None => Ok(()),
    }
}

/// The error for a key that is used in two ways that exclude each other.
fn inconsistent(key: &str) -> Error {
    Error::invalid(format!("Parameters '{key}.*' used inconsistently"))
}

/// Doubles the commas of `value`, so that it can stand in a `key=value` list.
pub fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn object_error(text: &str) -> String {
        object(text, "qom-type").unwrap_err().to_string()
    }

    #[test]
    fn doubled_commas_stay_in_the_value() {
        let got = pairs("secret,id=a,data=x,,y=z", Bare::First("qom-type")).unwrap();
        assert_eq!(got, owned(&[("qom-type", "secret"), ("id", "a"), ("data", "x,y=z")]));
        assert_eq!(
            pairs(&format!("a={}", escape("1,2,,3")), Bare::Always).unwrap(),
            owned(&[("a", "1,2,,3")])
        );
        for (text, want) in [("a=x,,,", "x,"), ("a=x,,", "x,"), ("a=x,", "x"), ("a=,,", ","), ("a==", "=")] {
            assert_eq!(pairs(text, Bare::Always).unwrap(), owned(&[("a", want)]), "{text}");
        }
    }

    #[test]
    fn bare_words_are_switches_only_where_asked() {
        assert!(pairs("secret,oops", Bare::First("qom-type")).is_err());
        let got = pairs("x.img,lazy,nocow", Bare::Switch("file")).unwrap();
        assert_eq!(got, owned(&[("file", "x.img"), ("lazy", "on"), ("cow", "off")]));
        assert_eq!(pairs("lazy,nocow", Bare::Always).unwrap(), owned(&[("lazy", "on"), ("cow", "off")]));
    }

    #[test]
    fn an_implied_file_name_may_hold_doubled_commas() {
        let got = pairs("a,,b.raw,size=1", Bare::Switch("file")).unwrap();
        assert_eq!(got, owned(&[("file", "a,b.raw"), ("size", "1")]));
        assert_eq!(pairs(",size=1", Bare::Switch("file")).unwrap(), owned(&[("file", ""), ("size", "1")]));
    }

    #[test]
    fn switches_are_deprecated_by_name() {
        let warnings = short_forms("x.img,lazy,nocow,a=b", Bare::Switch("file"));
        assert_eq!(
            warnings,
            [
                "short-form boolean option 'lazy' deprecated\nPlease use lazy=on instead",
                "short-form boolean option 'nocow' deprecated\nPlease use cow=off instead",
            ]
        );
    }

    #[test]
    fn keys_of_objects_are_well_formed() {
        for key in ["", "_x", "1x", "x$", ".x", "x.", "x..y", " id", "a b", "é", "0", "0.a", "x.0x", "x.-1"]
        {
            assert_eq!(object_error(&format!("secret,{key}=1")), format!("Invalid parameter '{key}'"));
        }
        for text in [",", ",,", "secret,,id=a", "=x"] {
            assert_eq!(object_error(text), "Invalid parameter ''", "{text}");
        }
        assert_eq!(object_error("secret,a b"), "Invalid parameter 'a b'");
        assert_eq!(object_error("secret,id"), "Expected '=' after parameter 'id'");
        let long = "a".repeat(128);
        assert_eq!(object_error(&format!("secret,{long}=x")), format!("Parameter '{long}' is too long"));
        assert_eq!(
            object_error(&format!("secret,x.{long}=x")),
            format!("Parameter fragment '{long}' is too long")
        );
        assert!(object(&format!("secret,{}.{}=x", &long[1..], &long[1..]), "qom-type").is_ok());
    }

    #[test]
    fn groups_and_lists_of_objects_hang_together() {
        for (text, want) in [
            ("x,d.foo=y,d=3", "Parameters 'd.*' used inconsistently"),
            ("x,d=3,d.foo=y", "Parameters 'd.*' used inconsistently"),
            ("x,d.0=3,d.b=y", "Parameters 'd.*' used inconsistently"),
            ("x,d.0.1=3,d.0.b=y", "Parameters 'd.0.*' used inconsistently"),
            ("x,a.1=y", "Parameter 'a.0' missing"),
            ("x,a.0=y,a.99999999999=y", "Parameter 'a.1' missing"),
            ("x,a.0.1=y,a.2=y", "Parameter 'a.0.0' missing"),
        ] {
            assert_eq!(object_error(text), want, "{text}");
        }
        assert!(object("x,a.00=y,a.1.b=z", "qom-type").is_ok());
    }

    #[test]
    fn help_may_stand_anywhere_without_a_value() {
        for text in ["help", "?", "secret,help", "secret,id=a,?", "help,secret=1"] {
            assert!(object(text, "qom-type").unwrap().help, "{text}");
        }
        assert!(!object("secret,id=help", "qom-type").unwrap().help);
        assert_eq!(object_error("secret,help,foo"), "Expected '=' after parameter 'foo'");
    }
}
