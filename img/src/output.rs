//! Reports: what `info` says about a node, for programs and for people.

use block::graph::resolve;
use block::snapshot::Snapshot;
use block::tool::{dump, local_time, size::human};
use block::{FormatInfo, Node, Result};
use serde_json::{Map, Value, json};
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

/// Nanoseconds in a second.
const NSEC: u64 = 1_000_000_000;

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
    map.insert("virtual-size".into(), json!(len_or_nothing(node)?));
    if let Some(bytes) = node.allocated() {
        map.insert("actual-size".into(), json!(bytes));
    }
    if info.encrypted {
        map.insert("encrypted".into(), json!(true));
    }
    if let Some(layout) = node.layout() {
        map.insert("dirty-flag".into(), json!(info.dirty));
        if let Some(bytes) = layout.limits().cluster_size {
            map.insert("cluster-size".into(), json!(bytes));
        }
    }
    add_backing(node, &info, &mut map);
    if let Some(snapshots) = node.snapshots().filter(|all| !all.is_empty()) {
        map.insert("snapshots".into(), snapshots.iter().map(snapshot_info).collect());
    }
    if let Some((kind, data)) = info.specific {
        // Moved: the lists in it may be long.
        let specific = [("type".to_owned(), kind.into()), ("data".to_owned(), data)];
        map.insert("format-specific".into(), Map::from_iter(specific).into());
    }
    map.insert("children".into(), children_info(node)?);
    Ok(Value::Object(map))
}

/// A snapshot, with QEMU's member names.
fn snapshot_info(snapshot: &Snapshot) -> Value {
    let clock = snapshot.vm_clock_nsec;
    let mut info = json!({
        "id": snapshot.id,
        "name": snapshot.name,
        "vm-state-size": snapshot.vm_state_size,
        "date-sec": snapshot.date_sec,
        "date-nsec": snapshot.date_nsec,
        "vm-clock-sec": clock / NSEC,
        "vm-clock-nsec": clock % NSEC,
    });
    if let Some(icount) = snapshot.icount {
        info["icount"] = json!(icount);
    }
    info
}

/// Snapshots as a table for people.
pub(crate) fn snapshot_list(all: &[Snapshot]) -> String {
    let infos: Vec<_> = all.iter().map(snapshot_info).collect();
    snapshot_lines(&infos).map(|line| line + "\n").collect()
}

fn snapshot_lines(infos: &[Value]) -> impl Iterator<Item = String> {
    let heading = format!(
        "{:<7} {:<16} {:>8} {:>19} {:>15} {:>10}",
        "ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"
    );
    ["Snapshot list:".to_owned(), heading].into_iter().chain(infos.iter().map(snapshot_line))
}

fn snapshot_line(info: &Value) -> String {
    let number = |key: &str| info[key].as_u64().unwrap_or(0);
    let text = |key: &str| info[key].as_str().unwrap_or_default();
    let seconds = number("vm-clock-sec");
    let clock = format!(
        "{:04}:{:02}:{:02}.{:03}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        number("vm-clock-nsec") / 1_000_000
    );
    let icount = info["icount"].as_u64().map_or_else(|| "--".to_owned(), |n| n.to_string());
    format!(
        "{:<7} {:<16} {:>8} {:>19} {clock:>15} {icount:>10}",
        text("id"),
        text("name"),
        human(number("vm-state-size")),
        local_time(number("date-sec")),
    )
}

/// The length in bytes; a drive without a disc has none, which is no error in a report.
fn len_or_nothing(node: &Node) -> Result<u64> {
    node.len().or_else(|e| if e.errno() == nix::libc::ENOMEDIUM { Ok(0) } else { Err(e) })
}

fn add_backing(node: &Node, info: &FormatInfo, map: &mut Map<String, Value>) {
    let Some(stored) = &info.backing_file else { return };
    map.insert("backing-filename".into(), json!(stored));
    if let Some(format) = &info.backing_format {
        map.insert("backing-filename-format".into(), json!(format));
    }
    if let Ok(full) = resolve(&node.base_name(), stored) {
        map.insert("full-backing-filename".into(), json!(full));
    }
}

/// The nodes below. The backing file of the image itself is not among them: it is not opened.
fn children_info(node: &Arc<Node>) -> Result<Value> {
    let children = node.children();
    let below = children.iter();
    below.map(|c| Ok(json!({"name": c.role(), "info": node_info(c.node())?}))).collect()
}

/// The same for people.
pub(crate) fn human_info(info: &Value) -> impl Display + '_ {
    fmt::from_fn(|out| describe(info, "", "/", out))
}

fn describe(info: &Value, indent: &str, path: &str, out: &mut Formatter<'_>) -> fmt::Result {
    let children = info["children"].as_array().map_or(&[][..], Vec::as_slice);
    let leaf = !indent.is_empty() && children.is_empty();
    for line in node_lines(info, leaf) {
        writeln!(out, "{indent}{line}")?;
    }
    let data = &info["format-specific"]["data"];
    if data.as_object().is_some_and(|data| !data.is_empty()) {
        let inside = format!("{indent}    ");
        write!(out, "{indent}Format specific information:\n{}", dump::lines(data, &inside))?;
    }
    for child in children {
        let path = format!("{path}{}", child["name"].as_str().unwrap_or_default());
        writeln!(out, "{indent}Child node '{path}':")?;
        describe(&child["info"], &format!("{indent}    "), &format!("{path}/"), out)?;
    }
    Ok(())
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
    if let Some(snapshots) = info["snapshots"].as_array() {
        lines.extend(snapshot_lines(snapshots));
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
        assert_eq!(human_info(&info).to_string(), want);
    }
}
