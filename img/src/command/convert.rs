//! `img convert`.

use super::Tool;
use crate::cli::{Input, Objects, Run, Share, cache_mode};
use block::copy::{self, CopyError, CopyOptions, Segment};
use block::graph::{self, OpenFlags, Source};
use block::{Context, Error, Image, Result};
use clap::Args;
use std::process::ExitCode;

/// Options of `convert`.
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    share: Share,
    /// The format of the target
    #[arg(short = 'O', long = "target-format", value_name = "FMT", default_value = "raw")]
    target_format: String,
    /// Options of the target's format
    #[arg(short = 'o', long = "target-options", value_name = "OPTS")]
    options: Vec<String>,
    /// The target exists; do not create it
    #[arg(short = 'n', long)]
    no_create: bool,
    /// The target's name is an option string
    #[arg(long)]
    target_image_opts: bool,
    /// The target reads as zeroes already
    #[arg(long)]
    target_is_zero: bool,
    /// How many chunks are worked on at once
    #[arg(short = 'm', long = "parallel", value_name = "N", default_value = "8")]
    parallel: usize,
    /// Write out of order
    #[arg(short = 'W')]
    out_of_order: bool,
    /// The shortest run of zeroes left out
    #[arg(short = 'S', long = "sparse-size", value_name = "SIZE", default_value = "4k")]
    sparse_size: String,
    /// Cache mode of the target
    #[arg(short = 't', value_name = "CACHE", default_value = "unsafe")]
    cache: String,
    /// Cache mode of the source
    #[arg(short = 'T', value_name = "CACHE", default_value = "writeback")]
    source_cache: String,
    /// The sources and the target
    #[arg(value_name = "FILE", num_args = 0..)]
    words: Vec<String>,
}

impl Run for ConvertArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn run(self, tool: &Tool<'_>) -> Result<ExitCode> {
        convert(tool, self)
    }
}

fn convert(tool: &Tool<'_>, mut args: ConvertArgs) -> Result<ExitCode> {
    let target_name = args.words.pop().ok_or_else(|| Error::invalid("Must specify image file name"))?;
    let sources = open_sources(tool, &args)?;
    let size = sources.iter().map(|s| s.range.end).sum();
    let (target, target_is_zero) = open_target(tool, &args, &target_name, size)?;
    let options = CopyOptions {
        workers: args.parallel.min(std::thread::available_parallelism().map_or(1, Into::into)),
        sparse: tool.parse_size(&args.sparse_size, "buffer size for sparse output")?,
        target_is_zero,
        rate: None,
        salvage: false,
        compressed: false,
    };
    copy::copy(&sources, &target, &options, &copy::Unobserved).map_err(copy_error)?;
    target.close()?;
    Ok(ExitCode::SUCCESS)
}

fn open_sources(tool: &Tool<'_>, args: &ConvertArgs) -> Result<Vec<Segment>> {
    let flags = OpenFlags {
        no_share: true,
        force_share: args.share.force_share,
        cache: cache_mode(&args.source_cache, "source ")?,
        ..args.input.flags()
    };
    let sources = args.input.sources(args.words.clone())?;
    let open = |source: &Source| {
        let image = graph::open(tool.env(), source, args.input.format.as_deref(), flags)?;
        let range = 0..image.len()?;
        Ok(Segment { image, range })
    };
    sources.iter().map(open).collect()
}

/// Opens the target, creating it first where asked; tells whether it is known to read as zeroes.
fn open_target(tool: &Tool<'_>, args: &ConvertArgs, name: &str, size: u64) -> Result<(Image, bool)> {
    let env = tool.env();
    let row = crate::options::format_row(env, &args.target_format)?;
    if !args.no_create {
        let mut options = graph::options_for(env, row, Some(name))?;
        crate::options::set_all(&mut options, &args.options)?;
        options.set("size", &size.to_string())?;
        graph::create(env, row, name, &options)
            .context(|| format!("error while converting {}", row.name))
            .context(|| name.to_owned())?;
    }
    let flags = OpenFlags {
        writable: true,
        resize: true,
        discard: true,
        cache: cache_mode(&args.cache, "")?,
        ..args.input.flags()
    };
    let (source, format) = match args.target_image_opts {
        true => (Source::Options(name.to_owned()), None),
        false => (Source::Name(name.to_owned()), Some(row.name)),
    };
    let target = graph::open(env, &source, format, flags)?;
    let zero = args.target_is_zero || !args.no_create && target.limits().zero_init;
    Ok((target, zero))
}

fn copy_error(error: CopyError) -> Error {
    match error {
        CopyError::Map(e) => e.context("error while reading block status"),
        CopyError::Read(at, e) => {
            Error::from_errno(e.errno()).context(format!("error while reading at byte {at}"))
        }
        CopyError::Write(at, e) => {
            Error::from_errno(e.errno()).context(format!("error while writing at byte {at}"))
        }
        CopyError::Stopped => Error::new(block::Kind::Interrupted, "interrupted"),
    }
}
