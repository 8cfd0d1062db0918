//! What became of every image: a table for people, JSON for programs.

use super::judge::Judgement;
use super::look::Look;
use block::tool::size::human;
use serde_json::{Value, json};

/// How an image was rescued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// Now.
    Rescued,
    /// By an earlier run.
    Before,
}

/// What became of one image.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) source: String,
    /// What it is, where that could be found out.
    pub(super) look: Option<Look>,
    /// The id and name of the snapshot, where it is one.
    pub(super) snapshot: Option<(String, String)>,
    pub(super) judgement: Option<Judgement>,
    pub(super) target: Option<String>,
    pub(super) format: String,
    pub(super) notes: Vec<String>,
    /// Why it was not.
    pub(super) result: Result<Status, String>,
}

impl Row {
    fn status(&self) -> &'static str {
        match self.result {
            Ok(Status::Rescued) => "rescued",
            Ok(Status::Before) => "rescued before",
            Err(_) => "FAILED",
        }
    }
}

/// An array with an object for each image.
pub(super) fn json(rows: &[Row]) -> Value {
    rows.iter().map(object).collect()
}

fn object(row: &Row) -> Value {
    let mut object = json!({"source": row.source, "status": row.status(), "target-format": row.format});
    if let Some(look) = &row.look {
        object["format"] = json!(look.driver);
        object["virtual-size"] = json!(look.size);
        object["cluster-size"] = json!(look.cluster);
        object["internal-snapshots"] = json!(look.snapshots.len());
        object["backing-file"] = json!(look.backing.as_ref().map(|(name, _)| name));
    }
    if let Some((id, name)) = &row.snapshot {
        object["snapshot"] = json!({"id": id, "name": name});
    }
    if let Some(judgement) = &row.judgement {
        object["passphrase"] = json!({
            "certainty": judgement.word(),
            "signs": judgement.signs,
            "sectors-sampled": judgement.sampled,
            "sectors-ordered": judgement.ordered,
        });
    }
    if let Some(target) = &row.target {
        object["target"] = json!(target);
    }
    object["notes"] = json!(row.notes);
    if let Err(reason) = &row.result {
        object["reason"] = json!(reason);
    }
    object
}

/// A line for each image, with what is to be said about it below.
pub(super) fn table(rows: &[Row]) -> String {
    let head =
        ["source", "format", "size", "cluster", "passphrase", "result", "new image"].map(str::to_owned);
    let lines: Vec<_> = std::iter::once(head).chain(rows.iter().map(cells)).collect();
    let widths: Vec<_> =
        (0..7).map(|i| lines.iter().map(|cells| cells[i].chars().count()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for (i, cells) in lines.iter().enumerate() {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        out.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
        if let Some(row) = i.checked_sub(1).and_then(|i| rows.get(i)) {
            remarks(row).for_each(|text| out.push_str(&format!("    {text}\n")));
        }
    }
    let failed = rows.iter().filter(|row| row.result.is_err()).count();
    out.push_str(&format!("{} rescued, {failed} failed\n", rows.len() - failed));
    out
}

fn remarks(row: &Row) -> impl Iterator<Item = String> {
    let judgement = row.judgement.as_ref().map(ToString::to_string);
    let reason = row.result.as_ref().err().map(|reason| format!("not rescued: {reason}"));
    judgement.into_iter().chain(row.notes.clone()).chain(reason)
}

fn cells(row: &Row) -> [String; 7] {
    let look = row.look.as_ref();
    let dash = || "-".to_owned();
    let name = match &row.snapshot {
        Some((id, name)) => format!("{} (snapshot {id}: {name})", row.source),
        None => row.source.clone(),
    };
    [
        name,
        look.map_or_else(dash, |look| look.driver.to_owned()),
        look.map_or_else(dash, |look| human(look.size)),
        look.and_then(|look| look.cluster).map_or_else(dash, |bytes| human(bytes.into())),
        row.judgement.as_ref().map_or_else(dash, |judgement| judgement.word().to_owned()),
        row.status().to_owned(),
        row.target.clone().unwrap_or_else(dash),
    ]
}
