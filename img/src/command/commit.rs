//! `img commit`.

use super::Tool;
use crate::cli::{Input, Objects, Run, cache_mode};
use crate::progress::{Progress, Show};
use block::copy::{self, CopyError, CopyOptions, Order, Segment};
use block::graph::{self, OpenFlags, Reopen, has_protocol};
use block::{Context, Error, Image, Level, Node, Resize, Result, WriteCache};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// The smallest step of the progress, in percent.
const PROGRESS_STEP: f64 = 1.0;

/// The shortest run of zeroes that is made a hole, in bytes.
const SPARSE: u64 = 64 << 10;

/// Options of `commit`.
#[derive(Debug, Args)]
pub(crate) struct CommitArgs {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    input: Input,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Show progress
    #[arg(short, long)]
    progress: bool,
    /// Cache mode
    #[arg(short = 't', long, value_name = "CACHE", default_value = "writeback")]
    cache: String,
    /// Leave the image as it is instead of emptying it
    #[arg(short = 'd', long = "drop")]
    keep: bool,
    /// Commit down to this backing file, by its name as seen from the image; the image is not emptied then
    #[arg(short, long, value_name = "FILE")]
    base: Option<String>,
    /// Copy at most this many bytes a second
    #[arg(short, long, value_name = "RATE")]
    rate: Option<String>,
    /// The image
    #[arg(value_name = "FILE", num_args = 0..)]
    words: Vec<String>,
}

impl Run for CommitArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        let words = std::mem::take(&mut self.words);
        let rate = self.rate.as_deref().map(|text| tool.parse_size(text, "rate limit")).transpose()?;
        if words.len() + self.input.sources.len() != 1 {
            return Err(tool.usage_error("Expecting one image file name"));
        }
        let source = self.input.source(tool, words)?;
        let cache = cache_mode(&self.cache, "")?;
        let flags = OpenFlags { writable: true, resize: true, discard: true, cache, ..self.input.flags() };
        let image = graph::open(tool.env(), &source, self.input.format.as_deref(), flags)?;
        let progress = Progress::start(tool.out, Show::new(self.progress, self.quiet), PROGRESS_STEP)?;
        let (base, depth) = self.find_base(&image)?;
        graph::reopen(tool.env(), &base, Reopen { writable: Some(true), ..Reopen::default() })?;
        commit(&image, &base, depth, rate.filter(|rate| *rate > 0), &progress)?;
        if !self.keep && self.base.is_none() {
            empty(&image)?;
        }
        progress.finish();
        close(tool, &image)?;
        if !self.quiet {
            tool.out.line("Image committed.");
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl CommitArgs {
    /// The backing file that takes the contents, and how many layers down it is.
    fn find_base(&self, image: &Image) -> Result<(Arc<Node>, u32)> {
        let first = image.node().child("backing");
        let Some(name) = self.base.as_deref() else {
            let lacking = || Error::invalid("Image does not have a backing file");
            return first.map(|node| (node, 1)).ok_or_else(lacking);
        };
        let (mut overlay, mut below, mut depth) = (Arc::clone(image.node()), first, 1);
        while let Some(backing) = below {
            if is_called(&overlay, &backing, name) {
                return Ok((backing, depth));
            }
            below = backing.child("backing");
            (overlay, depth) = (backing, depth + 1);
        }
        let top = &image.node().name().filename;
        Err(Error::invalid(format!("Did not find '{name}' in the backing chain of '{top}'")))
    }
}

/// Whether `name` means the backing file of `overlay`, where names stand that are relative to it.
fn is_called(overlay: &Node, backing: &Node, name: &str) -> bool {
    let file = &backing.name().filename;
    if has_protocol(name).is_some() {
        return file == name;
    }
    let absolute = |name: &str| std::fs::canonicalize(name).unwrap_or_else(|_| PathBuf::from(name));
    graph::resolve(&overlay.base_name(), name).is_ok_and(|full| absolute(&full) == absolute(file))
}

/// Copies what the layers above `base` hold into it.
fn commit(image: &Image, base: &Arc<Node>, depth: u32, rate: Option<u64>, progress: &Progress) -> Result<()> {
    let (old, len) = (base.len()?, image.len()?);
    if old < len {
        base.truncate(Resize { exact: false, ..Resize::to(len) })
            .context(|| "Failed to resize the backing file")?;
    }
    let options = CopyOptions {
        workers: std::thread::available_parallelism().map_or(1, Into::into),
        order: Order::Sequential,
        sparse: SPARSE,
        target_is_zero: false,
        backing: Some(len),
        backing_depth: depth,
        rate,
        salvage: false,
        compressed: None,
        offload: false,
    };
    let sources = [Segment { image: image.clone(), range: 0..len }];
    progress.expect(copy::work(&sources, &options, progress).map_err(failed)?);
    copy::copy(&sources, &Image::new(Arc::clone(base), WriteCache::Back), &options, progress)
        .map_err(failed)?;
    base.flush(Level::Disk)
}

fn failed(error: CopyError) -> Error {
    let (CopyError::Status(_, e) | CopyError::Read(_, e) | CopyError::Write(_, e)) = error;
    Error::new(e.kind(), format!("Block job failed: {}", e.strerror())).with_errno(e.errno())
}

/// Closes the images. What cannot be saved is said, tried once more, and said again, as scripts expect it.
fn close(tool: &Tool<'_>, image: &Image) -> Result<()> {
    let Err(first) = image.node().close() else { return Ok(()) };
    tool.out.error(&first);
    if let Err(second) = image.node().close() {
        tool.out.error(&second);
    }
    Err(Error::from_errno(first.errno()).context("Error while closing the image"))
}

/// Gives up what was committed, where the format can.
fn empty(image: &Image) -> Result<()> {
    let node = image.node();
    if !node.can_be_emptied() {
        return Ok(());
    }
    node.make_empty().map_err(|e| {
        let text = format!("Failed to empty {}: {}", node.name().filename, e.strerror());
        Error::new(e.kind(), text).with_errno(e.errno())
    })
}
