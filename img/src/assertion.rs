//! `info --assert`: conditions that an image must meet, for scripts and policy gates.
//!
//! A condition is `name=value`. Names are the members of `info --output json`, those of the format-specific part
//! included, and a few words for what people ask: `encrypted` (`no`, or `aes`, `luks1`, `luks2`; `yes` and `luks` mean any
//! of them), `header` (`whole`, `damaged`), `reencryption` (`yes`, `no`).

use block::{Error, Result};
use secret::options::keyval::{self, Bare};
use serde_json::Value;

/// A condition.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Assertion {
    name: String,
    value: String,
}

impl Assertion {
    /// The conditions in a list, `name=value,…`.
    ///
    /// # Errors
    /// A list that is none.
    pub(crate) fn parse(list: &str) -> Result<Vec<Self>> {
        let pairs = keyval::pairs(list, Bare::Always)?;
        let one = |(name, value): (String, String)| Assertion { name, value };
        Ok(pairs.into_iter().map(one).collect())
    }

    /// Checks the condition against what is known about an image.
    ///
    /// # Errors
    /// It is not met, or nobody knows.
    pub(crate) fn check(&self, info: &Value) -> Result<()> {
        let Assertion { name, value } = self;
        let image = info["filename"].as_str().unwrap_or_default();
        let facts = facts(info, name);
        let Some(fact) = facts.first() else {
            return Err(Error::invalid(format!("{image}: {name} is not known, but was to be {value}")));
        };
        match facts.contains(value) {
            true => Ok(()),
            false => Err(Error::invalid(format!("{image}: {name} is {fact}, not {value}"))),
        }
    }
}

/// The values that `name` can be said to have, the most exact one first.
fn facts(info: &Value, name: &str) -> Vec<String> {
    let data = &info["format-specific"]["data"];
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match name {
        "encrypted" => words(encryption(info)),
        "header" => {
            let damaged =
                ["primary-header", "secondary-header", "damaged"].iter().any(|m| data.get(m).is_some());
            words(if damaged { &["damaged"] } else { &["whole"] })
        }
        "reencryption" => words(if data["in-reencryption"] == true { &["yes"] } else { &["no"] }),
        name => data.get(name).or_else(|| info.get(name)).map(text).into_iter().collect(),
    }
}

fn encryption(info: &Value) -> &'static [&'static str] {
    let specific = &info["format-specific"];
    let data = &specific["data"];
    let method = match specific["type"].as_str() {
        Some("luks") => "luks",
        _ => data["encrypt"]["format"].as_str().unwrap_or("aes"),
    };
    match (info["encrypted"] == true, method) {
        (true, "luks") if data["version"] == 2 => &["luks2", "luks", "yes"],
        (true, "luks") => &["luks1", "luks", "yes"],
        (true, _) => &["aes", "yes"],
        (false, _) => &["no"],
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn luks2() -> Value {
        json!({"filename": "a", "format": "luks", "encrypted": true,
            "format-specific": {"type": "luks", "data": {"version": 2, "cipher": "aes-xts-plain64", "sector-size": 4096}}})
    }

    fn check(info: &Value, list: &str) -> Result<(), String> {
        let all = Assertion::parse(list).unwrap();
        all.iter().try_for_each(|one| one.check(info)).map_err(|e| e.to_string())
    }

    #[test]
    fn encryption_can_be_asked_for_exactly_or_at_large() {
        for list in ["encrypted=luks2", "encrypted=luks", "encrypted=yes", "encrypted=luks2,sector-size=4096"]
        {
            assert_eq!(check(&luks2(), list), Ok(()), "{list}");
        }
        assert_eq!(check(&luks2(), "encrypted=luks1").unwrap_err(), "a: encrypted is luks2, not luks1");
        let luks1 = json!({"encrypted": true, "format-specific": {"type": "luks", "data": {}}});
        assert_eq!(check(&luks1, "encrypted=luks1,header=whole,reencryption=no"), Ok(()));
        let qcow2 = json!({"encrypted": true, "format-specific": {"type": "qcow2", "data": {"encrypt": {"format": "luks"}}}});
        assert_eq!(check(&qcow2, "encrypted=luks1"), Ok(()));
        assert_eq!(check(&json!({"encrypted": true, "format": "qcow"}), "encrypted=aes"), Ok(()));
        assert_eq!(check(&json!({"format": "raw"}), "encrypted=no,format=raw"), Ok(()));
        assert!(check(&json!({"format": "raw"}), "encrypted=yes").is_err());
    }

    #[test]
    fn what_is_not_known_is_not_met() {
        assert_eq!(check(&luks2(), "colour=red").unwrap_err(), "a: colour is not known, but was to be red");
    }
}
