//! How nodes are called: file names, protocol prefixes, and `json:{…}` where a name does not say it all.

use crate::{Error, Result};
use serde_json::{Map, Value};

/// The protocol prefix of a file name: the part before the first colon, if no slash comes earlier.
pub fn has_protocol(filename: &str) -> Option<&str> {
    let colon = filename.find([':', '/'])?;
    filename[colon..].starts_with(':').then(|| &filename[..colon])
}

/// The file that `name` means when it stands in the image `base`: a relative name starts in the directory of `base`.
///
/// # Errors
/// A relative name in an image that is no file.
pub fn resolve(base: &str, name: &str) -> Result<String> {
    if name.is_empty() || name.starts_with('/') || has_protocol(name).is_some() {
        return Ok(name.to_owned());
    }
    if base.starts_with("json:") {
        let text = format!("Cannot use relative backing file names for '{base}'");
        return Err(Error::invalid(text));
    }
    let prefix = has_protocol(base).map_or(0, |p| p.len() + 1);
    let dir = base.rfind('/').map_or(prefix, |slash| slash + 1);
    Ok(format!("{}{name}", &base[..dir]))
}

/// The members of an object in the order in which QEMU's tools print them.
///
/// They keep objects in a hash table of 512 buckets and print it bucket by bucket, the latest insertion first, so the
/// order looks random but is fixed; scripts and tests compare it.
pub fn hash_order(map: &Map<String, Value>) -> Vec<(&str, &Value)> {
    let mut members: Vec<_> = map.iter().map(|(k, v)| (k.as_str(), v)).rev().collect();
    members.sort_by_key(|(key, _)| bucket(key));
    members
}

/// The bucket of a key: the string hash of the TDB database library, modulo 512.
fn bucket(key: &str) -> u32 {
    let bytes = key.as_bytes();
    let start = 0x238F_13AF_u32.wrapping_mul(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    let sum = bytes
        .iter()
        .zip(0u32..)
        .fold(start, |value, (byte, i)| value.wrapping_add(u32::from(*byte) << ((i * 5) % 24)));
    sum.wrapping_mul(1_103_515_243).wrapping_add(12345) % 512
}

/// A JSON string as QEMU's tools print it: everything outside printable ASCII is escaped.
pub fn json_string(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04X}"))),
        }
    }
    out.push('"');
    out
}

/// A description as `json:{…}` on one line, members in [`hash_order`].
pub fn json_name(description: Map<String, Value>) -> String {
    let mut text = String::from("json:");
    write_compact(&Value::Object(description), &mut text);
    text
}

fn write_compact(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) if is_list(map) => {
            let items = (0..map.len()).filter_map(|i| map.get(&i.to_string()));
            write_list(out, ('[', ']'), items, write_compact);
        }
        Value::Object(map) => {
            let members = hash_order(map);
            write_list(out, ('{', '}'), members.into_iter(), |(key, value), out| {
                out.push_str(&json_string(key));
                out.push_str(": ");
                write_compact(value, out);
            });
        }
        Value::Array(list) => write_list(out, ('[', ']'), list.iter(), write_compact),
        Value::String(text) => out.push_str(&json_string(text)),
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// Whether a group is a list: its names are the numbers from 0 on.
fn is_list(map: &Map<String, Value>) -> bool {
    !map.is_empty() && (0..map.len()).all(|i| map.contains_key(&i.to_string()))
}

fn write_list<T>(
    out: &mut String,
    (open, close): (char, char),
    items: impl Iterator<Item = T>,
    mut write: impl FnMut(T, &mut String),
) {
    out.push(open);
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        write(item, out);
    }
    out.push(close);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    fn ordered(names: &[&str]) -> Vec<String> {
        let map: Map<String, Value> = names.iter().map(|n| ((*n).to_owned(), Value::Null)).collect();
        hash_order(&map).into_iter().map(|(k, _)| k.to_owned()).collect()
    }

    #[test]
    fn members_come_in_the_order_the_real_tools_print() {
        let node = [
            "compressed",
            "children",
            "backing-filename-format",
            "snapshots",
            "virtual-size",
            "filename",
            "cluster-size",
            "format",
            "actual-size",
            "format-specific",
            "full-backing-filename",
            "encrypted",
            "backing-filename",
            "dirty-flag",
        ];
        let mut shuffled = node;
        // children and backing-filename-format share a bucket: the later insertion comes first.
        shuffled.sort_unstable();
        assert_eq!(ordered(&shuffled), node);
        let luks = [
            "ivgen-alg",
            "detached-header",
            "hash-alg",
            "cipher-alg",
            "uuid",
            "ivgen-hash-alg",
            "format",
            "cipher-mode",
            "slots",
            "payload-offset",
            "master-key-iters",
        ];
        let mut shuffled = luks;
        shuffled.sort_unstable();
        assert_eq!(ordered(&shuffled), luks);
    }

    #[test]
    fn json_names_are_one_line() {
        let options = Options::from_pairs([
            ("driver", "raw"),
            ("offset", "512"),
            ("file.driver", "file"),
            ("file.filename", "a.raw"),
        ]);
        let want =
            r#"json:{"offset": "512", "driver": "raw", "file": {"driver": "file", "filename": "a.raw"}}"#;
        assert_eq!(json_name(options.unwrap().into_map()), want);
    }

    #[test]
    fn json_strings_are_plain_ascii() {
        assert_eq!(json_string("a\"b\\c\té\u{7f}😀"), r#""a\"b\\c\t\u00E9\u007F\uD83D\uDE00""#);
    }

    #[test]
    fn relative_names_start_beside_the_image_they_stand_in() {
        let cases = [
            ("top", "base", "base"),
            ("dir/top", "base", "dir/base"),
            ("dir/top", "../base", "dir/../base"),
            ("/a/top", "/b/base", "/b/base"),
            ("file:top", "base", "file:base"),
            ("dir/top", "nbd:unix:/x", "nbd:unix:/x"),
            ("dir/top", "json:{}", "json:{}"),
        ];
        for (base, name, want) in cases {
            assert_eq!(resolve(base, name).unwrap(), want, "{name} in {base}");
        }
        assert!(resolve("json:{}", "base").is_err());
    }

    #[test]
    fn a_colon_after_a_slash_is_no_protocol() {
        assert_eq!(has_protocol("nbd:unix:/x"), Some("nbd"));
        assert_eq!(has_protocol("./a:b"), None);
        assert_eq!(has_protocol("plain"), None);
    }
}
