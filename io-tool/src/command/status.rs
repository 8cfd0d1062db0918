//! `length`, `info`, `alloc` and `map`: what the image is and what its top layer holds.

use super::{CommandRow, Count, Failure, Outcome};
use crate::args::{Words, number};
use crate::output::size;
use crate::session::Session;
use block::{Error, Image, MapKind, Result, Want};

/// `length`.
pub(super) static LENGTH: CommandRow = CommandRow {
    short: Some("l"),
    summary: "print the length of the image",
    ..CommandRow::new("length", length)
};

/// `info`.
pub(super) static INFO: CommandRow =
    CommandRow { short: Some("i"), summary: "print what the image is", ..CommandRow::new("info", info) };

/// `alloc`.
pub(super) static ALLOC: CommandRow = CommandRow {
    short: Some("a"),
    operands: "off [len]",
    words: Count::Between(1, 2),
    summary: "print how many bytes from an offset on are in the top layer",
    ..CommandRow::new("alloc", alloc)
};

/// `map`.
pub(super) static MAP: CommandRow = CommandRow {
    summary: "print which parts of the image are in the top layer",
    ..CommandRow::new("map", map)
};

/// How many bytes `alloc` looks at unless told.
const ALLOC_BYTES: u64 = 512;

fn length(session: &mut Session<'_>, _: Words<'_>) -> Outcome {
    let len = session.image()?.len().map_err(|e| Failure::Said(format!("getlength: {}", e.strerror())))?;
    session.out.line(size(len));
    Ok(())
}

fn info(session: &mut Session<'_>, _: Words<'_>) -> Outcome {
    let out = session.out;
    let node = session.image()?.node();
    let driver = node.name().driver;
    out.line(format_args!("format name: {driver}"));
    // A protocol is both what interprets the image and what holds it.
    if formats::DRIVERS.find(driver).is_some_and(|row| !row.prefixes.is_empty()) {
        out.line(format_args!("format name: {driver}"));
    }
    let layout = node.layout().ok_or(Failure::Told)?;
    out.line(format_args!("cluster size: {}", size(layout.limits().cluster_size.unwrap_or(0).into())));
    out.line(format_args!("vm state offset: {}", size(layout.vmstate_offset())));
    let details = node.info().specific.map(|(_, data)| block::tool::dump::lines(&data, "    ").to_string());
    if let Some(text) = details.filter(|text| !text.is_empty()) {
        out.print(format_args!("Format specific information:\n{text}"));
    }
    Ok(())
}

fn alloc(session: &mut Session<'_>, words: Words<'_>) -> Outcome {
    let operands = words.operands_as_given();
    let start = number(operands[0])?;
    let count = operands.get(1).map_or(Ok(ALLOC_BYTES), |text| number(text))?;
    let image = session.image()?;
    let count = count.min(image.len()?.saturating_sub(start));
    let mut allocated = 0;
    let mut at = start;
    while at < start + count {
        let run = run_at(image, at, start + count - at)
            .map_err(|e| Failure::Said(format!("is_allocated failed: {}", e.strerror())))?;
        allocated += if run.allocated { run.len } else { 0 };
        at += run.len;
    }
    let at = size(start);
    session.out.line(format_args!("{allocated}/{count} bytes allocated at offset {at}"));
    Ok(())
}

fn map(session: &mut Session<'_>, _: Words<'_>) -> Outcome {
    let image = session.image()?;
    let len = image.len().map_err(|e| failed("Failed to query image length", &e))?;
    let mut at = 0;
    while at < len {
        let run = merged_at(image, at, len).map_err(|e| failed("Failed to get allocation status", &e))?;
        let what = if run.allocated { "    allocated" } else { "not allocated" };
        let (bytes, start) = (size(run.len), size(at));
        session.out.line(format_args!("{bytes} ({:#x}) bytes {what} at offset {start} ({at:#x})", run.len));
        at += run.len;
    }
    Ok(())
}

fn failed(what: &'static str, e: &Error) -> Failure {
    Failure::Error(Error::from_errno(e.errno()).context(what))
}

/// A run of one kind.
#[derive(Debug)]
struct Run {
    len: u64,
    allocated: bool,
}

fn run_at(image: &Image, at: u64, max: u64) -> Result<Run> {
    let mapping = image.map(at, max, Want::Exact)?;
    Ok(Run { len: mapping.len, allocated: !matches!(mapping.kind, MapKind::Absent | MapKind::Hole) })
}

/// The longest run from `at`, however the layer reports it.
fn merged_at(image: &Image, at: u64, end: u64) -> Result<Run> {
    let mut run = run_at(image, at, end - at)?;
    while at + run.len < end {
        let next = run_at(image, at + run.len, end - at - run.len)?;
        if next.allocated != run.allocated {
            break;
        }
        run.len += next.len;
    }
    Ok(run)
}
