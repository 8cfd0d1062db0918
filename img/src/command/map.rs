//! `img map`.

use super::Tool;
use crate::cli::{Input, Objects, Report, Run, Share};
use block::extents::{Extent, Extents};
use block::graph::{self, OpenFlags};
use block::{Error, Result, Want};
use clap::Args;
use std::process::ExitCode;

/// Options of `map`.
#[derive(Debug, Args)]
pub(crate) struct MapArgs {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    share: Share,
    #[command(flatten)]
    report: Report,
    /// Where to start, in bytes
    #[arg(short, long, value_name = "OFFSET")]
    start_offset: Option<String>,
    /// How much to list, in bytes
    #[arg(short = 'l', long, value_name = "LEN")]
    max_length: Option<String>,
    /// The image
    #[arg(value_name = "FILE", num_args = 0..)]
    words: Vec<String>,
}

impl Run for MapArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn run(self, tool: &Tool<'_>) -> Result<ExitCode> {
        map(tool, self)
    }
}

fn map(tool: &Tool<'_>, args: MapArgs) -> Result<ExitCode> {
    let source = args.input.source(tool, args.words)?;
    let size =
        |text: &Option<String>, what| text.as_deref().map(|text| tool.parse_size(text, what)).transpose();
    let start = size(&args.start_offset, "start offset")?.unwrap_or(0);
    let max = size(&args.max_length, "max length")?.unwrap_or(u64::MAX);
    let flags = OpenFlags { force_share: args.share.force_share, ..args.input.flags() };
    let image = graph::open(tool.env(), &source, args.input.format.as_deref(), flags)?;
    let len = image.len()?;
    let end = start.saturating_add(max).min(len);
    let extents = Extents::new(image.node(), start.min(end)..end, Want::Exact);
    if args.report.is_json() {
        json(tool, extents, start)?;
    } else {
        human(tool, extents)?;
    }
    image.close()?;
    Ok(ExitCode::SUCCESS)
}

fn human(tool: &Tool<'_>, extents: Extents) -> Result<()> {
    tool.out.line(&format!("{:<16}{:<16}{:<16}File", "Offset", "Length", "Mapped to"));
    for extent in extents {
        let extent = extent?;
        if !extent.data || extent.zero {
            continue;
        }
        let Some((node, offset)) = extent.host.as_ref().filter(|_| !extent.compressed) else {
            return Err(Error::unsupported("File contains external, encrypted or compressed clusters."));
        };
        let [start, len, offset] = [extent.start, extent.len, *offset].map(hex);
        tool.out.line(&format!("{start:<16}{len:<16}{offset:<16}{}", node.name().filename));
    }
    Ok(())
}

/// Hexadecimal, with `0x` in front of all but zero.
fn hex(value: u64) -> String {
    if value == 0 { "0".to_owned() } else { format!("{value:#x}") }
}

fn json(tool: &Tool<'_>, mut extents: Extents, start: u64) -> Result<()> {
    // There is always an entry: where there is nothing to list, an empty one.
    let nothing = Extent { present: false, zero: false, ..Extent::absent(start, 0, 0) };
    let first = extents.next().unwrap_or(Ok(nothing))?;
    tool.out.print(&format!("[{}", json_extent(&first)));
    for extent in extents {
        tool.out.print(",\n");
        tool.out.print(&json_extent(&extent?));
    }
    tool.out.print("]\n");
    Ok(())
}

/// Of some images there are millions: no formatting machinery.
fn json_extent(extent: &Extent) -> String {
    let mut text = String::with_capacity(160);
    let mut digits = itoa::Buffer::new();
    for (key, value) in [
        ("{ \"start\": ", extent.start),
        (", \"length\": ", extent.len),
        (", \"depth\": ", extent.depth.into()),
    ] {
        text.push_str(key);
        text.push_str(digits.format(value));
    }
    for (key, flag) in [
        (", \"present\": ", extent.present),
        (", \"zero\": ", extent.zero),
        (", \"data\": ", extent.data),
        (", \"compressed\": ", extent.compressed),
    ] {
        text.push_str(key);
        text.push_str(if flag { "true" } else { "false" });
    }
    if let Some((_, offset)) = extent.host.as_ref().filter(|_| !extent.compressed) {
        text.push_str(", \"offset\": ");
        text.push_str(digits.format(*offset));
    }
    text.push('}');
    text
}
