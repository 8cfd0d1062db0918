//! JSON as QEMU's tools print it: four spaces, empty containers on two lines, members in hash order.

use crate::graph::{hash_order, json_string};
use serde_json::Value;
use std::fmt::{self, Display, Formatter};

/// `value` in QEMU's layout, without a final newline.
pub fn pretty(value: &Value) -> impl Display + '_ {
    fmt::from_fn(|out| write(value, 0, out))
}

fn write(value: &Value, depth: usize, out: &mut Formatter<'_>) -> fmt::Result {
    match value {
        Value::Object(map) => {
            let members = hash_order(map);
            write_items(('{', '}'), depth, out, members.into_iter(), |(key, value), out| {
                write!(out, "{}: ", json_string(key))?;
                write(value, depth + 1, out)
            })
        }
        Value::Array(list) => {
            write_items(('[', ']'), depth, out, list.iter(), |value, out| write(value, depth + 1, out))
        }
        Value::String(text) => out.write_str(&json_string(text)),
        scalar => write!(out, "{scalar}"),
    }
}

fn write_items<T>(
    (open, close): (char, char),
    depth: usize,
    out: &mut Formatter<'_>,
    items: impl Iterator<Item = T>,
    mut write_item: impl FnMut(T, &mut Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    write!(out, "{open}")?;
    for (i, item) in items.enumerate() {
        let comma = if i > 0 { "," } else { "" };
        writeln!(out, "{comma}")?;
        indent(depth + 1, out)?;
        write_item(item, out)?;
    }
    writeln!(out)?;
    indent(depth, out)?;
    write!(out, "{close}")
}

fn indent(depth: usize, out: &mut Formatter<'_>) -> fmt::Result {
    (0..depth).try_for_each(|_| out.write_str("    "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn containers_are_laid_out_as_by_the_real_tools() {
        let value = json!({"children": [], "virtual-size": 1, "format": {"x": {}}});
        let want = "{\n    \"children\": [\n    ],\n    \"virtual-size\": 1,\n    \"format\": {\n        \"x\": {\n        }\n    }\n}";
        assert_eq!(pretty(&value).to_string(), want);
    }
}
