//! A JSON value with the way that leads to it, so that whatever is wrong can be named.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use block::{Error, Result};
use serde_json::Value;

/// A value, and where it is.
#[derive(Debug, Clone)]
pub(super) struct At<'a> {
    path: String,
    value: &'a Value,
}

impl<'a> At<'a> {
    /// The whole document.
    pub(super) fn root(value: &'a Value) -> Self {
        At { path: String::new(), value }
    }

    /// What is wrong with this value.
    pub(super) fn wrong(&self, what: &str) -> Error {
        Error::corrupt(format!("LUKS2 metadata: {} {what}", self.path))
    }

    fn below(&self, name: &str, value: &'a Value) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        At { path, value }
    }

    /// The member of that name, if there is one.
    pub(super) fn optional(&self, name: &str) -> Option<Self> {
        self.value.get(name).map(|value| self.below(name, value))
    }

    /// The member of that name.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn member(&self, name: &str) -> Result<Self> {
        self.optional(name).ok_or_else(|| {
            Error::corrupt(format!("LUKS2 metadata: {} is missing", self.below(name, self.value).path))
        })
    }

    /// All members of an object.
    ///
    /// # Errors
    /// It is no object.
    pub(super) fn members(&self) -> Result<Vec<Self>> {
        let map = self.value.as_object().ok_or_else(|| self.wrong("is no object"))?;
        Ok(map.iter().map(|(name, value)| self.below(name, value)).collect())
    }

    /// The number that this member has for its name.
    ///
    /// # Errors
    /// The name is no number as numbers of objects are written.
    pub(super) fn id(&self) -> Result<u32> {
        let name = self.path.rsplit('.').next().unwrap_or_default();
        id(name).ok_or_else(|| self.wrong("has a name that is no number"))
    }

    /// A text.
    ///
    /// # Errors
    /// It is something else.
    pub(super) fn text(&self) -> Result<&'a str> {
        self.value.as_str().ok_or_else(|| self.wrong("is no text"))
    }

    /// Checks for the one text that is known here.
    ///
    /// # Errors
    /// It is another.
    pub(super) fn must_be(&self, known: &str) -> Result<()> {
        match self.text()? {
            text if text == known => Ok(()),
            other => Err(self.wrong(&format!("is '{other}', which is not known"))),
        }
    }

    /// A number that is written as one.
    ///
    /// # Errors
    /// It is something else, or negative.
    pub(super) fn number(&self) -> Result<u64> {
        self.value.as_u64().ok_or_else(|| self.wrong("is no whole number"))
    }

    /// A number of 64 bits, which is written as a text.
    ///
    /// # Errors
    /// It is something else.
    pub(super) fn size(&self) -> Result<u64> {
        let text = self.text()?;
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        number.ok_or_else(|| self.wrong("is no whole number in quotes"))
    }

    /// A list of texts.
    ///
    /// # Errors
    /// It is something else.
    pub(super) fn texts(&self) -> Result<Vec<String>> {
        let list = self.value.as_array().ok_or_else(|| self.wrong("is no list"))?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        list.iter()
            .map(|value| text(value).ok_or_else(|| self.wrong("has a member that is no text")))
            .collect()
    }

    /// A list of numbers of objects.
    ///
    /// # Errors
    /// It is something else.
    pub(super) fn ids(&self) -> Result<Vec<u32>> {
        let texts = self.texts()?;
        texts
            .iter()
            .map(|text| id(text).ok_or_else(|| self.wrong("has a member that is no number")))
            .collect()
    }

    /// Bytes in base64.
    ///
    /// # Errors
    /// It is something else.
    pub(super) fn base64(&self) -> Result<Vec<u8>> {
        STANDARD.decode(self.text()?).map_err(|_| self.wrong("is no base64"))
    }
}

fn id(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}
