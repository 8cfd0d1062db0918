//! Reports: what `info` says about a node, for programs and for people.

use block::graph::resolve;
use block::tool::{dump, size::human};
use block::{FormatInfo, Node, Result};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What is known about `node` and the nodes below it, with QEMU's member names.
///
/// # Errors
/// The drivers'.
pub(crate) fn node_info(node: &Arc<Node>) -> Result<Value> {
    let name = node.name();
    let info = node.info();
    let mut map = Map::new();
    map.insert("filename".into(), json!(name.filename));
    map.insert("format".into(), json!(name.driver));
    map.insert("virtual-size".into(), json!(node.len()?));
    map.insert("dirty-flag".into(), json!(info.dirty));
    if let Some(bytes) = node.allocated() {
        map.insert("actual-size".into(), json!(bytes));
    }
    if info.encrypted {
        map.insert("encrypted".into(), json!(true));
    }
    if let Some(bytes) = node.limits().cluster_size {
        map.insert("cluster-size".into(), json!(bytes));
    }
    add_backing(node, &info, &mut map);
    if let Some((kind, data)) = info.specific {
        map.insert("format-specific".into(), json!({"type": kind, "data": data}));
    }
    map.insert("children".into(), children_info(node)?);
    Ok(Value::Object(map))
}

fn add_backing(node: &Node, info: &FormatInfo, map: &mut Map<String, Value>) {
    let Some(stored) = &info.backing_file else { return };
    map.insert("backing-filename".into(), json!(stored));
    if let Some(format) = &info.backing_format {
        map.insert("backing-filename-format".into(), json!(format));
    }
    if let Ok(full) = resolve(&plain_name(node), stored) {
        map.insert("full-backing-filename".into(), json!(full));
    }
}

/// The file name of a node; where a description takes its place, that of the file below.
fn plain_name(node: &Node) -> String {
    let name = &node.name().filename;
    match node.child("file") {
        Some(file) if name.starts_with("json:") => plain_name(&file),
        _ => name.clone(),
    }
}

/// The nodes below; a backing file is an image of its own and not listed.
fn children_info(node: &Arc<Node>) -> Result<Value> {
    let children = node.children();
    let below = children.iter().filter(|c| c.role() != "backing");
    below.map(|c| Ok(json!({"name": c.role(), "info": node_info(c.node())?}))).collect()
}

/// The same for people.
pub(crate) fn human_info(info: &Value) -> String {
    let mut text = String::new();
    describe(info, "", "/", &mut text);
    text
}

fn describe(info: &Value, indent: &str, path: &str, out: &mut String) {
    let children = info["children"].as_array().map_or(&[][..], Vec::as_slice);
    let leaf = !indent.is_empty() && children.is_empty();
    for line in node_lines(info, leaf) {
        out.push_str(&format!("{indent}{line}\n"));
    }
    let data = &info["format-specific"]["data"];
    if data.as_object().is_some_and(|data| !data.is_empty()) {
        out.push_str(&format!("{indent}Format specific information:\n"));
        out.push_str(&dump::lines(data, &format!("{indent}    ")));
    }
    for child in children {
        let path = format!("{path}{}", child["name"].as_str().unwrap_or_default());
        out.push_str(&format!("{indent}Child node '{path}':\n"));
        describe(&child["info"], &format!("{indent}    "), &format!("{path}/"), out);
    }
}

/// One line for each thing known about a node; the labels of a `leaf` speak of a file, not of an image.
fn node_lines(info: &Value, leaf: bool) -> Vec<String> {
    let labels = match leaf {
        false => ["image", "file format", "virtual size"],
        true => ["filename", "protocol type", "file length"],
    };
    let text = |key: &str| info[key].as_str().unwrap_or_default();
    let bytes = info["virtual-size"].as_u64().unwrap_or(0);
    let used = info["actual-size"].as_u64().map_or_else(|| "unavailable".to_owned(), human);
    let mut lines = vec![
        format!("{}: {}", labels[0], text("filename")),
        format!("{}: {}", labels[1], text("format")),
        format!("{}: {} ({bytes} bytes)", labels[2], human(bytes)),
        format!("disk size: {used}"),
    ];
    if info["encrypted"] == true {
        lines.push("encrypted: yes".into());
    }
    if let Some(bytes) = info["cluster-size"].as_u64() {
        lines.push(format!("cluster_size: {bytes}"));
    }
    if info["dirty-flag"] == true {
        lines.push("cleanly shut down: no".into());
    }
    if let Some(stored) = info["backing-filename"].as_str() {
        lines.push(match info["full-backing-filename"].as_str() {
            Some(full) if full == stored => format!("backing file: {stored}"),
            Some(full) => format!("backing file: {stored} (actual path: {full})"),
            None => format!("backing file: {stored} (cannot determine actual path)"),
        });
    }
    if let Some(format) = info["backing-filename-format"].as_str() {
        lines.push(format!("backing file format: {format}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_details_are_indented_with_blanks_for_dashes() {
        let info = json!({
            "filename": "a", "format": "luks", "virtual-size": 1024, "actual-size": 0, "encrypted": true,
            "format-specific": {"type": "luks", "data": {"slots": [{"active": true}], "hash-alg": "sha1"}},
            "children": [{"name": "file", "info": {
                "filename": "a", "format": "file", "virtual-size": 2048, "children": []
            }}],
        });
        let want = "image: a\nfile format: luks\nvirtual size: 1 KiB (1024 bytes)\ndisk size: 0 B\nencrypted: yes\n\
                    Format specific information:\n    hash alg: sha1\n    slots:\n        [0]:\n            active: true\n\
                    Child node '/file':\n    filename: a\n    protocol type: file\n    \
                    file length: 2 KiB (2048 bytes)\n    disk size: unavailable\n";
        assert_eq!(human_info(&info), want);
    }
}
