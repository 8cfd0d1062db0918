//! `img map`.

use super::Tool;
use crate::cli::{Input, Objects, Report, Run, Share};
use block::extents::{Extent, Extents};
use block::graph::{self, OpenFlags};
use block::tool::Out;
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
    let flags = OpenFlags { force_share: args.share.force_share, one_pass: true, ..args.input.flags() };
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

/// Text on its way out. Of some images there are millions of lines: they go out many at a time, and no formatting machinery
/// makes them. What is left goes out at the end, also where that is an error.
struct Text<'a> {
    out: &'a Out,
    text: String,
}

impl<'a> Text<'a> {
    /// How much is collected, in bytes.
    const MANY: usize = 64 << 10;

    fn new(out: &'a Out) -> Self {
        Text { out, text: String::with_capacity(Self::MANY + 1024) }
    }

    /// The text, to be added to.
    fn more(&mut self) -> &mut String {
        if self.text.len() >= Self::MANY {
            self.out.print(&self.text);
            self.text.clear();
        }
        &mut self.text
    }
}

impl Drop for Text<'_> {
    fn drop(&mut self) {
        self.out.print(&self.text);
    }
}

fn human(tool: &Tool<'_>, extents: Extents) -> Result<()> {
    let mut text = Text::new(tool.out);
    text.more().push_str(&format!("{:<16}{:<16}{:<16}File\n", "Offset", "Length", "Mapped to"));
    for extent in extents {
        let extent = extent?;
        if !extent.data || extent.zero {
            continue;
        }
        let Some((node, offset)) = extent.host.as_ref().filter(|_| !extent.compressed) else {
            return Err(Error::unsupported("File contains external, encrypted or compressed clusters."));
        };
        let text = text.more();
        [extent.start, extent.len, *offset].iter().for_each(|value| push_hex(text, *value));
        text.push_str(&node.name().filename);
        text.push('\n');
    }
    Ok(())
}

/// Adds a column of 16: hexadecimal, with `0x` in front of all but zero.
fn push_hex(text: &mut String, value: u64) {
    let start = text.len();
    if value > 0 {
        text.push_str("0x");
    }
    let digits = value.max(1).ilog2() / 4;
    for shift in (0..=digits).rev() {
        let digit = (value >> (4 * shift)) & 15;
        text.push(char::from(b"0123456789abcdef"[digit as usize]));
    }
    let width = text.len() - start;
    text.push_str(&"                "[width.min(16)..]);
}

fn json(tool: &Tool<'_>, mut extents: Extents, start: u64) -> Result<()> {
    // There is always an entry: where there is nothing to list, an empty one.
    let nothing = Extent { present: false, zero: false, ..Extent::absent(start, 0, 0) };
    let first = extents.next().unwrap_or(Ok(nothing))?;
    let mut text = Text::new(tool.out);
    text.more().push('[');
    push_json(text.more(), &first);
    for extent in extents {
        let text = text.more();
        text.push_str(",\n");
        push_json(text, &extent?);
    }
    text.more().push_str("]\n");
    Ok(())
}

fn push_json(text: &mut String, extent: &Extent) {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_16_wide_or_as_wide_as_the_number() {
        for (value, want) in [
            (0, "0               "),
            (1, "0x1             "),
            (0xa0_0000, "0xa00000        "),
            (u64::MAX, "0xffffffffffffffff"),
        ] {
            let mut text = String::new();
            push_hex(&mut text, value);
            assert_eq!(text, want);
        }
    }
}
