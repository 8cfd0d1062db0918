//! Reports: what `info` says about a node, for programs and for people.

use block::tool::size::human;
use block::{Node, Result};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What is known about `node` and the nodes below it, with QEMU's member names.
pub(crate) fn node_info(node: &Arc<Node>) -> Result<Value> {
    let name = node.name();
    let info = node.info();
    let mut map = Map::new();
    let mut set = |key: &str, value: Value| drop(map.insert(key.to_owned(), value));
    set("filename", json!(name.filename));
    set("format", json!(name.driver));
    set("virtual-size", json!(node.len()?));
    set("dirty-flag", json!(info.dirty));
    if let Some(bytes) = node.allocated() {
        set("actual-size", json!(bytes));
    }
    if info.encrypted {
        set("encrypted", json!(true));
    }
    if let Some(bytes) = node.limits().cluster_size {
        set("cluster-size", json!(bytes));
    }
    if let Some((kind, data)) = info.specific {
        set("format-specific", json!({"type": kind, "data": data}));
    }
    let children = node.children();
    let below = children.iter().filter(|c| c.role() != "backing");
    let below = below.map(|c| Ok(json!({"name": c.role(), "info": node_info(c.node())?})));
    set("children", Value::Array(below.collect::<Result<_>>()?));
    Ok(Value::Object(map))
}

/// The same for people.
pub(crate) fn human_info(info: &Value) -> String {
    let mut text = String::new();
    describe(info, "", "/", &mut text);
    text
}

fn describe(info: &Value, indent: &str, path: &str, out: &mut String) {
    let get = |key: &str| info.get(key).cloned().unwrap_or_default();
    let text = |key: &str| get(key).as_str().unwrap_or_default().to_owned();
    let children = get("children");
    let children = children.as_array().map_or(&[][..], Vec::as_slice);
    let leaf = !indent.is_empty() && children.is_empty();
    let labels = match leaf {
        false => ["image", "file format", "virtual size"],
        true => ["filename", "protocol type", "file length"],
    };
    let mut line = |label: &str, value: String| out.push_str(&format!("{indent}{label}: {value}\n"));
    line(labels[0], text("filename"));
    line(labels[1], text("format"));
    let bytes = get("virtual-size").as_u64().unwrap_or(0);
    line(labels[2], format!("{} ({bytes} bytes)", human(bytes)));
    line("disk size", get("actual-size").as_u64().map_or_else(|| "unavailable".to_owned(), human));
    if get("encrypted") == true {
        line("encrypted", "yes".to_owned());
    }
    if let Some(bytes) = get("cluster-size").as_u64() {
        line("cluster_size", bytes.to_string());
    }
    for child in children {
        let name = child["name"].as_str().unwrap_or_default();
        let path = format!("{path}{name}");
        out.push_str(&format!("{indent}Child node '{path}':\n"));
        describe(&child["info"], &format!("{indent}    "), &format!("{path}/"), out);
    }
}
