//! Any value as lines for people, as `info` prints what only one format has.

use crate::graph::hash_order;
use serde_json::Value;

/// `value`, one line for each member (in [`hash_order`], `-` turned into a blank) or item, each after `indent`.
pub fn lines(value: &Value, indent: &str) -> String {
    let mut out = String::new();
    dump(value, indent, &mut out);
    out
}

fn dump(value: &Value, indent: &str, out: &mut String) {
    match value {
        Value::Object(map) => {
            hash_order(map).into_iter().for_each(|(k, v)| dump_item(&k.replace('-', " "), v, indent, out));
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, v)| dump_item(&format!("[{i}]"), v, indent, out));
        }
        _ => {}
    }
}

fn dump_item(label: &str, value: &Value, indent: &str, out: &mut String) {
    match value {
        Value::Object(_) | Value::Array(_) => {
            out.push_str(&format!("{indent}{label}:\n"));
            dump(value, &format!("{indent}    "), out);
        }
        Value::String(text) => out.push_str(&format!("{indent}{label}: {text}\n")),
        scalar => out.push_str(&format!("{indent}{label}: {scalar}\n")),
    }
}
