//! `key=value,key=value` text. A comma inside a value is doubled (`,,`).

use crate::{Error, Result};

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
/// A bare word where none is allowed, or an empty key.
pub fn pairs(text: &str, bare: Bare<'_>) -> Result<Vec<(String, String)>> {
    let words = split(text);
    words.into_iter().enumerate().map(|(index, word)| pair(word, index == 0, bare)).collect()
}

/// Splits at single commas; a trailing comma ends the last word and does not begin another.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ',' if chars.next_if_eq(&',').is_some() => word.push(','),
            ',' => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn pair(word: String, first: bool, bare: Bare<'_>) -> Result<(String, String)> {
    let Some((key, value)) = word.split_once('=') else {
        return match bare {
            Bare::First(key) | Bare::Switch(key) if first => Ok((key.to_owned(), word)),
            Bare::First(_) => Err(Error::invalid(format!("Expected '=' after parameter '{word}'"))),
            Bare::Switch(_) | Bare::Always => Ok(match word.strip_prefix("no") {
                Some(name) if !name.is_empty() => (name.to_owned(), "off".to_owned()),
                _ => (word, "on".to_owned()),
            }),
        };
    };
    if key.is_empty() {
        return Err(Error::invalid(format!("Invalid parameter '{word}'")));
    }
    Ok((key.to_owned(), value.to_owned()))
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

    #[test]
    fn doubled_commas_stay_in_the_value() {
        let got = pairs("secret,id=a,data=x,,y=z", Bare::First("qom-type")).unwrap();
        assert_eq!(got, owned(&[("qom-type", "secret"), ("id", "a"), ("data", "x,y=z")]));
        assert_eq!(
            pairs(&format!("a={}", escape("1,2,,3")), Bare::Always).unwrap(),
            owned(&[("a", "1,2,,3")])
        );
    }

    #[test]
    fn bare_words_are_switches_only_where_asked() {
        assert!(pairs("secret,oops", Bare::First("qom-type")).is_err());
        let got = pairs("x.img,lazy,nocow", Bare::Switch("file")).unwrap();
        assert_eq!(got, owned(&[("file", "x.img"), ("lazy", "on"), ("cow", "off")]));
    }
}
