//! `img resize`.

use super::Tool;
use crate::cli::{Input, Objects, Run};
use block::graph::{self, OpenFlags};
use block::{Error, Image, Prealloc, Resize, Result};
use clap::Args;
use secret::options::de;
use std::process::ExitCode;

/// Options of `resize`.
#[derive(Debug, Args)]
pub(crate) struct ResizeArgs {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    input: Input,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Allow the image to become smaller
    #[arg(long)]
    shrink: bool,
    /// How to allocate what is added
    #[arg(long, value_name = "off|metadata|falloc|full", default_value = "off")]
    preallocation: String,
    /// The image and its new size, or how much larger or smaller it gets
    #[arg(value_name = "FILE [+|-]SIZE", num_args = 0..)]
    words: Vec<String>,
}

/// What the size operand says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    To(u64),
    By(i64),
}

impl Run for ResizeArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        let mode = prealloc(&self.preallocation)?;
        if self.words.len() + self.input.sources.len() > 2 {
            return Err(tool.usage_error("Extra argument(s) in command line"));
        }
        let words = (self.words.len() + self.input.sources.len() == 2).then(|| self.words.pop()).flatten();
        let size = words.ok_or_else(|| tool.usage_error("Expecting image file name and size"))?;
        let change = parse(&size)?;
        let source = self.input.source(tool, std::mem::take(&mut self.words))?;
        let flags = OpenFlags { writable: true, resize: true, ..self.input.flags() };
        let image = graph::open(tool.env(), &source, self.input.format.as_deref(), flags)?;
        let resized = self
            .new_size(tool, &image, change, mode)
            .and_then(|size| image.truncate(Resize { prealloc: mode, ..Resize::to(size) }));
        if let Err(e) = resized {
            // Left open, its bitmaps would count as inconsistent.
            let _ = image.close();
            return Err(e);
        }
        if !self.quiet {
            tool.out.line("Image resized.");
        }
        image.close()?;
        Ok(ExitCode::SUCCESS)
    }
}

impl ResizeArgs {
    fn new_size(&self, tool: &Tool<'_>, image: &Image, change: Change, mode: Prealloc) -> Result<u64> {
        let old = image.len()?;
        let size = changed(old, change).ok_or_else(|| Error::invalid("New image size must be positive"))?;
        if size <= old && mode != Prealloc::Off {
            return Err(Error::invalid("Preallocation can only be used for growing images"));
        }
        if size < old && !self.shrink {
            tool.out.error_text("Use the --shrink option to perform a shrink operation.");
            return Err(Error::invalid(
                "warning: Shrinking an image will delete all data beyond the shrunken image's end. Before performing \
                 such an operation, make sure there is no important data there.",
            ));
        }
        Ok(size)
    }
}

fn prealloc(name: &str) -> Result<Prealloc> {
    let modes = [Prealloc::Off, Prealloc::Metadata, Prealloc::Falloc, Prealloc::Full];
    let found = modes.into_iter().find(|mode| mode.name() == name);
    found.ok_or_else(|| Error::invalid(format!("Invalid preallocation mode '{name}'")))
}

fn parse(text: &str) -> Result<Change> {
    let amount = |text: &str| {
        let bytes = de::parse_size("size", text)?;
        i64::try_from(bytes).map_err(|_| Error::invalid("New image size must be positive"))
    };
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(more), _) => Ok(Change::By(amount(more)?)),
        (_, Some(less)) => Ok(Change::By(-amount(less)?)),
        _ => Ok(Change::To(amount(text)?.unsigned_abs())),
    }
}

/// The new size, if there is a positive one.
fn changed(old: u64, change: Change) -> Option<u64> {
    let size = match change {
        Change::To(size) => Some(size),
        Change::By(amount) => old.checked_add_signed(amount),
    };
    size.filter(|size| (1..=i64::MAX.unsigned_abs()).contains(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_absolute_or_relative() {
        for (text, change) in [
            ("2M", Change::To(2 << 20)),
            ("+1k", Change::By(1024)),
            ("-256K", Change::By(-(256 << 10))),
            ("-0", Change::By(0)),
            ("+ 1M", Change::By(1 << 20)),
        ] {
            assert_eq!(parse(text).unwrap(), change, "{text}");
        }
        for text in ["", "+", "foo", "+-1M", "9E", "99999999999999999999"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_new_size_is_positive_and_fits_a_file_offset() {
        assert_eq!(changed(4096, Change::By(-4095)), Some(1));
        assert_eq!(changed(4096, Change::By(-4096)), None);
        assert_eq!(changed(4096, Change::By(-8192)), None);
        assert_eq!(changed(4096, Change::To(0)), None);
        assert_eq!(changed(1 << 62, Change::By(i64::MAX)), None);
    }
}
