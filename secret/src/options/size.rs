//! Sizes as users write them: bytes, decimal or `0x` hex, with an optional fraction and binary suffix.

use super::number;
use crate::{Error, Result};
use serde::{Deserialize, Deserializer};

/// A size option, in bytes. Deserialises from a number or from text such as `64k` or `1.5G`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// The name under which [`Size`] announces itself to the option deserialiser.
pub(super) const MARKER: &str = "$Size";

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Size;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a size in bytes")
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<Size, D::Error> {
                u64::deserialize(d).map(Size)
            }
            fn visit_u64<E>(self, v: u64) -> Result<Size, E> {
                Ok(Size(v))
            }
        }
        d.deserialize_newtype_struct(MARKER, Visitor)
    }
}

/// The remedy printed under an error about a size.
pub const SUFFIX_HINT: &str = "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
                               and exabytes, respectively.";

/// Why a text is not a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeError {
    /// Not a number, or followed by something that is no suffix.
    Malformed,
    /// Below zero, or 2^64 and more.
    Range,
}

impl From<SizeError> for Error {
    fn from(e: SizeError) -> Self {
        match e {
            SizeError::Malformed => Error::invalid("Invalid size").with_hint(SUFFIX_HINT),
            SizeError::Range => Error::from_errno(nix::libc::ERANGE),
        }
    }
}

/// Parses a size in bytes: leading blanks are skipped, suffixes `b k M G T P E` in either case.
///
/// A fraction needs a suffix above bytes; a hexadecimal number takes no suffix.
///
/// # Errors
/// See [`SizeError`].
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let text = number::trim_start(text);
    if let Some(digits) = text.strip_prefix('-') {
        let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        return Err(if number { SizeError::Range } else { SizeError::Malformed });
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => parse_hex(hex),
        None => parse_decimal(text),
    }
}

fn parse_hex(digits: &str) -> Result<u64, SizeError> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(SizeError::Malformed);
    }
    u64::from_str_radix(digits, 16).map_err(|_| SizeError::Range)
}

fn parse_decimal(text: &str) -> Result<u64, SizeError> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at(digits_end);
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(SizeError::Malformed);
    }
    let unit = unit(suffix).ok_or(SizeError::Malformed)?;
    if unit == 1 && fraction.bytes().any(|b| b != b'0') {
        return Err(SizeError::Malformed);
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| SizeError::Range)? };
    let whole = whole.checked_mul(unit).ok_or(SizeError::Range)?;
    whole.checked_add(fraction_of(fraction, unit)).ok_or(SizeError::Range)
}

fn unit(suffix: &str) -> Option<u64> {
    let shift = match suffix {
        "" | "b" | "B" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        "p" | "P" => 50,
        "e" | "E" => 60,
        _ => return None,
    };
    Some(1 << shift)
}

/// `0.digits` × unit, rounded to the nearest byte; in floating point, so that large units round as users see it
/// elsewhere.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn fraction_of(digits: &str, unit: u64) -> u64 {
    let fraction: f64 = format!("0.{digits}").parse().unwrap_or(0.0);
    (fraction * unit as f64 + 0.5) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_every_spelling() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("12b", 12),
            ("0x1fe", 0x1fe),
            ("64k", 65536),
            ("\t8k", 8192),
            ("1.5M", 3 << 19),
            ("0.25M", 1 << 18),
            ("1.0", 1),
            ("1.", 1),
            (".5k", 512),
            ("+0x10", 16),
            ("010", 10),
            ("0x10b", 0x10b),
            ("0.0005k", 1),
            ("1.99999999999999999999k", 2048),
            ("7.9E", 9_108_079_886_394_091_136),
            ("15E", 15 << 60),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_told_from_what_is_too_large() {
        for text in [
            "", "x", "1x", "1kk", "0x", "0x1k", "1.5", "1.5b", "-", "1 k", "1e3", "5 ", "1KB", "-1k", "-0.0",
            "+-1",
        ] {
            assert_eq!(parse(text), Err(SizeError::Malformed), "{text}");
        }
        for text in
            ["16E", "18446744073709551616", "0x10000000000000000", "-1", "-0", "15.99999999999999999999E"]
        {
            assert_eq!(parse(text), Err(SizeError::Range), "{text}");
        }
    }
}
