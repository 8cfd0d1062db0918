//! JSON as QEMU's tools print it: four spaces, empty containers on two lines, members in hash order.

use crate::graph::{hash_order, json_string};
use serde_json::Value;

/// `value` in QEMU's layout, without a final newline.
pub fn pretty(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    out
}

fn write(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) => {
            let members = hash_order(map);
            write_items(('{', '}'), depth, out, members.into_iter(), |(key, value), out| {
                out.push_str(&json_string(key));
                out.push_str(": ");
                write(value, depth + 1, out);
            });
        }
        Value::Array(list) => {
            write_items(('[', ']'), depth, out, list.iter(), |value, out| write(value, depth + 1, out));
        }
        Value::String(text) => out.push_str(&json_string(text)),
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn write_items<T>(
    (open, close): (char, char),
    depth: usize,
    out: &mut String,
    items: impl Iterator<Item = T>,
    mut write_item: impl FnMut(T, &mut String),
) {
    out.push(open);
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push('\n');
        indent(depth + 1, out);
        write_item(item, out);
    }
    out.push('\n');
    indent(depth, out);
    out.push(close);
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("    ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn containers_are_laid_out_as_by_the_real_tools() {
        let value = json!({"children": [], "virtual-size": 1, "format": {"x": {}}});
        let want = "{\n    \"children\": [\n    ],\n    \"virtual-size\": 1,\n    \"format\": {\n        \"x\": {\n        }\n    }\n}";
        assert_eq!(pretty(&value), want);
    }
}
