//! How nodes are called: file names, protocol prefixes, and `json:{…}` where a name does not say it all.

use crate::Options;
use serde_json::{Map, Value};

/// The protocol prefix of a file name: the part before the first colon, if no slash comes earlier.
pub fn has_protocol(filename: &str) -> Option<&str> {
    let colon = filename.find([':', '/'])?;
    filename[colon..].starts_with(':').then(|| &filename[..colon])
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

/// The tree as `json:{…}` on one line, members in [`hash_order`].
pub fn json_name(options: &Options) -> String {
    let mut text = String::from("json:");
    write_compact(&Value::Object(options.clone().into_map()), &mut text);
    text
}

fn write_compact(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let members = hash_order(map);
            write_list(out, ('{', '}'), members.into_iter(), |(key, value), out| {
                out.push_str(&Value::from(key).to_string());
                out.push_str(": ");
                write_compact(value, out);
            });
        }
        Value::Array(list) => write_list(out, ('[', ']'), list.iter(), write_compact),
        scalar => out.push_str(&scalar.to_string()),
    }
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
        assert_eq!(json_name(&options.unwrap()), want);
    }

    #[test]
    fn a_colon_after_a_slash_is_no_protocol() {
        assert_eq!(has_protocol("nbd:unix:/x"), Some("nbd"));
        assert_eq!(has_protocol("./a:b"), None);
        assert_eq!(has_protocol("plain"), None);
    }
}
