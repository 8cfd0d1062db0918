//! `img rebase`.

use super::Tool;
use crate::cli::{Input, Objects, Run, Share, cache_mode};
use crate::progress::{Progress, Show};
use block::copy::rebase::{Rebase, RebaseError};
use block::graph::{self, OpenFlags, Source};
use block::overlay::BackingName;
use block::{Context, Error, Image, Kind, Node, Result};
use clap::Args;
use std::process::ExitCode;
use std::sync::Arc;

/// The smallest step of the progress, in percent.
const PROGRESS_STEP: f64 = 1.0;

/// Options of `rebase`.
#[derive(Debug, Args)]
pub(crate) struct RebaseArgs {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    share: Share,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Show progress
    #[arg(short, long)]
    progress: bool,
    /// Cache mode of the image
    #[arg(short = 't', long, value_name = "CACHE", default_value = "writeback")]
    cache: String,
    /// Cache mode of the backing files
    #[arg(short = 'T', long, value_name = "CACHE", default_value = "writeback")]
    backing_cache: String,
    /// The new backing file, by its name as seen from the image; an empty name for none
    #[arg(short, long, value_name = "FILE")]
    backing: Option<String>,
    /// The format of the new backing file
    #[arg(short = 'F', long, alias = "backing-fmt", value_name = "FMT")]
    backing_format: Option<String>,
    /// Only write the new name: for a backing file that was renamed, or whose contents are the same
    #[arg(short = 'u', long = "backing-unsafe", alias = "unsafe")]
    unsafe_backing: bool,
    /// Store what is copied in compressed clusters
    #[arg(short, long)]
    compress: bool,
    /// The image
    #[arg(value_name = "FILE", num_args = 0..)]
    words: Vec<String>,
}

impl Run for RebaseArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        let words = std::mem::take(&mut self.words);
        if words.len() + self.input.sources.len() != 1 {
            return Err(tool.usage_error("Expecting one image file name"));
        }
        if !self.unsafe_backing && self.backing.is_none() {
            return Err(tool.usage_error("Must specify backing file (-b) or use unsafe mode (-u)"));
        }
        let source = self.input.source(tool, words)?;
        let progress = Progress::start(tool.out, Show::new(self.progress, self.quiet), PROGRESS_STEP)?;
        let cache = cache_mode(&self.cache, "")?;
        let flags = OpenFlags {
            writable: true,
            resize: true,
            discard: true,
            no_backing: self.unsafe_backing,
            cache,
            ..self.input.flags()
        };
        let base_flags = OpenFlags {
            force_share: self.share.force_share,
            cache: cache_mode(&self.backing_cache, "source ")?,
            ..self.input.flags()
        };
        let image = graph::open(tool.env(), &source, self.input.format.as_deref(), flags)?;
        self.check_format(tool, &image)?;
        let base = match self.unsafe_backing {
            true => None,
            false => self.open_base(tool, &image, base_flags)?,
        };
        if !self.unsafe_backing {
            self.copy(&image, base.as_ref(), &progress)?;
        }
        self.rename(&image)?;
        image.close()?;
        base.map_or(Ok(()), Image::close)?;
        progress.finish();
        Ok(ExitCode::SUCCESS)
    }
}

impl RebaseArgs {
    /// The name of the new backing file, if there is to be one.
    fn name(&self) -> Option<&str> {
        self.backing.as_deref().filter(|name| !name.is_empty())
    }

    fn check_format(&self, tool: &Tool<'_>, image: &Image) -> Result<()> {
        if let Some(format) =
            self.backing_format.as_deref().filter(|name| tool.env().drivers.find(name).is_none())
        {
            return Err(Error::invalid(format!("Invalid format name: '{format}'")));
        }
        let row = tool.env().drivers.find(image.node().name().driver);
        if self.compress && !row.is_some_and(|row| row.compresses) {
            return Err(Error::unsupported("Compression not supported for this file format"));
        }
        Ok(())
    }

    fn open_base(&self, tool: &Tool<'_>, image: &Image, flags: OpenFlags) -> Result<Option<Image>> {
        let Some(name) = self.name() else { return Ok(None) };
        let full = graph::resolve(&image.node().base_name(), name)
            .context(|| "Could not resolve backing filename")?;
        let base =
            graph::open_unnamed(tool.env(), &Source::Name(full), self.backing_format.as_deref(), flags)
                .context(|| format!("Could not open new backing file '{name}'"))?;
        Ok(Some(base))
    }

    fn copy(&self, image: &Image, base: Option<&Image>, progress: &Progress) -> Result<()> {
        let old = image.node().child("backing");
        let rebase = Rebase {
            top: image,
            old: old.as_ref(),
            new: base.map(Image::node),
            shared_from: base.and_then(|base| depth_of(image.node(), base.node())),
            compressed: self.compress,
        };
        progress.expect(image.len()?);
        rebase.run(progress).map_err(|e| match e {
            RebaseError::Status(at, e) => {
                say(&e, &format!("error while reading image metadata at offset {at}"))
            }
            RebaseError::Old(e) => say(&e, "error while reading from old backing file"),
            RebaseError::New(e) => say(&e, "error while reading from new backing file"),
            RebaseError::Write(e) => say(&e, "Error while writing to COW image"),
        })?;
        image.flush()
    }

    fn rename(&self, image: &Image) -> Result<()> {
        let name = self.name();
        let refused = |cause: String| {
            Error::invalid(format!(
                "Could not change the backing file to '{}': {cause}",
                name.unwrap_or_default()
            ))
        };
        let format = self.backing_format.as_deref();
        if !image.node().has_overlay() {
            return Err(refused(Error::from_errno(nix::libc::ENOTSUP).strerror()));
        }
        if name.is_some() && format.is_none() {
            return Err(refused("backing format must be specified".to_owned()));
        }
        let to = name.map(|file| BackingName { file, format });
        image.node().set_backing(to).map_err(|e| match e.kind() {
            Kind::NoSpace => refused("No space left in the file header".to_owned()),
            _ => refused(e.strerror()),
        })
    }
}

fn say(e: &Error, what: &str) -> Error {
    Error::new(e.kind(), format!("{what}: {}", e.strerror())).with_errno(e.errno())
}

/// How many layers below `top` the image `base` is among its backing files, told by name and format.
fn depth_of(top: &Arc<Node>, base: &Arc<Node>) -> Option<u32> {
    let (mut layer, mut depth) = (top.child("backing")?, 1);
    loop {
        let (a, b) = (layer.name(), base.name());
        if (a.driver, &a.filename) == (b.driver, &b.filename) {
            return Some(depth);
        }
        (layer, depth) = (layer.child("backing")?, depth + 1);
    }
}
