//! A distinguished name as text, as authorisation rules are written against it: what QEMU makes of it through GnuTLS.
//!
//! Parts come in the order of their encoding, joined by `,` without blanks, those of a part with several values by `+`. What has
//! a meaning in this notation is escaped by a backslash; what cannot be text is `#` and its DER encoding in hexadecimal.

use std::fmt::Write;
use x509_parser::asn1_rs::{Any, Oid, Tag, ToDer};
use x509_parser::x509::X509Name;

/// The names of attributes; others go by their number.
const NAMES: [(&str, &str); 20] = [
    ("2.5.4.6", "C"),
    ("2.5.4.8", "ST"),
    ("2.5.4.7", "L"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.3", "CN"),
    ("1.2.840.113549.1.9.1", "EMAIL"),
    ("2.5.4.5", "serialNumber"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("2.5.4.9", "street"),
    ("2.5.4.12", "title"),
    ("2.5.4.4", "surName"),
    ("2.5.4.42", "givenName"),
    ("2.5.4.43", "initials"),
    ("2.5.4.65", "pseudonym"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.44", "generationQualifier"),
    ("2.5.4.15", "businessCategory"),
];

/// One more, whose line would be too long.
const INCORPORATION: (&str, &str) = ("1.3.6.1.4.1.311.60.2.1.3", "jurisdictionOfIncorporationCountryName");

/// The name as text; empty for a name without parts.
pub(super) fn text(name: &X509Name<'_>) -> String {
    let parts = name.iter().map(|part| {
        let values: Vec<String> = part.iter().map(|a| attribute(a.attr_type(), a.attr_value())).collect();
        values.join("+")
    });
    parts.collect::<Vec<_>>().join(",")
}

fn attribute(oid: &Oid<'_>, value: &Any<'_>) -> String {
    let number = oid.to_id_string();
    let known = NAMES.iter().chain([&INCORPORATION]).find(|(known, _)| *known == number);
    match known {
        Some((_, name)) => match decoded(value) {
            Some(text) => format!("{name}={}", escaped(&text)),
            None => format!("{name}={}", hexadecimal(value)),
        },
        None => format!("{number}={}", hexadecimal(value)),
    }
}

/// The text of a value, if it is one that can be shown.
fn decoded(value: &Any<'_>) -> Option<String> {
    let bytes = value.data;
    let text = match value.tag() {
        Tag::Utf8String => String::from_utf8(bytes.to_vec()).ok()?,
        Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            bytes.is_ascii().then(|| String::from_utf8_lossy(bytes).into_owned())?
        }
        // In practice everybody takes it for Latin-1.
        Tag::T61String => bytes.iter().map(|b| char::from(*b)).collect(),
        Tag::BmpString => {
            let (units, rest) = bytes.as_chunks::<2>();
            let units: Vec<u16> = units.iter().map(|unit| u16::from_be_bytes(*unit)).collect();
            rest.is_empty().then(|| String::from_utf16(&units).ok())??
        }
        Tag::UniversalString => {
            let (units, rest) = bytes.as_chunks::<4>();
            let text = units.iter().map(|unit| char::from_u32(u32::from_be_bytes(*unit)));
            rest.is_empty().then(|| text.collect::<Option<String>>())??
        }
        _ => return None,
    };
    // Whoever compares strings that end at a NUL would be told a different name.
    (!text.contains('\0')).then_some(text)
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (i, c) in text.chars().enumerate() {
        let special = matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || (i == 0 && matches!(c, '#' | ' '))
            || (i == last && c == ' ');
        if special {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn hexadecimal(value: &Any<'_>) -> String {
    let der = value.to_der_vec().unwrap_or_default();
    let mut out = String::from("#");
    for byte in der {
        // Writing to a String does not fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn what_has_a_meaning_is_escaped() {
        assert_eq!(escaped("R'lyeh"), "R'lyeh");
        assert_eq!(escaped("Dark, Lord \"Ent\" c1"), "Dark\\, Lord \\\"Ent\\\" c1");
        assert_eq!(escaped(" a b "), "\\ a b\\ ");
        assert_eq!(escaped("#1#"), "\\#1#");
        assert_eq!(escaped("a+b<c>d;e\\f=g/*?"), "a\\+b\\<c\\>d\\;e\\\\f=g/*?");
        assert_eq!(escaped(" "), "\\ ");
        assert_eq!(escaped(""), "");
    }
}
