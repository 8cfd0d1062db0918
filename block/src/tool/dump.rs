//! Any value as lines for people, as `info` prints what only one format has.

use crate::graph::hash_order;
use serde_json::Value;
use std::fmt::{self, Display, Formatter};

/// `value`, one line for each member (in [`hash_order`], `-` turned into a blank) or item, each after `indent`.
pub fn lines<'a>(value: &'a Value, indent: &'a str) -> impl Display + 'a {
    fmt::from_fn(|out| dump(value, indent, out))
}

fn dump(value: &Value, indent: &str, out: &mut Formatter<'_>) -> fmt::Result {
    match value {
        Value::Object(map) => {
            let mut members = hash_order(map).into_iter();
            members.try_for_each(|(k, v)| dump_item(&k.replace('-', " "), v, indent, out))
        }
        Value::Array(list) => {
            let mut items = list.iter().enumerate();
            items.try_for_each(|(i, v)| dump_item(&format!("[{i}]"), v, indent, out))
        }
        _ => Ok(()),
    }
}

fn dump_item(label: &str, value: &Value, indent: &str, out: &mut Formatter<'_>) -> fmt::Result {
    match value {
        Value::Object(_) | Value::Array(_) => {
            writeln!(out, "{indent}{label}:")?;
            dump(value, &format!("{indent}    "), out)
        }
        Value::String(text) => writeln!(out, "{indent}{label}: {text}"),
        scalar => writeln!(out, "{indent}{label}: {scalar}"),
    }
}
