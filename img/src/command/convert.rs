//! `img convert`.

use super::Tool;
use crate::bitmaps;
use crate::cli::{Input, Objects, Run, Share, cache_mode};
use crate::names::check_names;
use crate::options::{self, check_lists, wants_help};
use crate::progress::{Progress, Show};
use crate::snapshot;
use crate::target::Unfinished;
use block::copy::{self, CopyError, CopyOptions, Order, Segment};
use block::graph::{self, CacheMode, CreateOptions, DriverRow, OpenFlags, Perm, Source};
use block::snapshot::SnapshotName;
use block::{Context, Error, Image, Kind, Options, Result, SECTOR};
use clap::Args;
use secret::options::number;
use serde_json::Value;
use std::process::ExitCode;

/// The smallest step of the progress, in percent.
const PROGRESS_STEP: f64 = 1.0;

/// The longest run of zeroes `-S` may ask for, in bytes.
const MAX_SPARSE: u64 = 16 << 20;

/// How many chunks may be worked on at once.
const MAX_PARALLEL: u64 = 16;

/// What `-S` is unless given, in bytes.
const SPARSE: u64 = 4096;

/// Options of `convert`.
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    share: Share,
    #[command(flatten)]
    target: TargetArgs,
    /// Print nothing
    #[arg(short, long)]
    quiet: bool,
    /// Show progress
    #[arg(short, long)]
    progress: bool,
    /// Cache mode of the sources
    #[arg(short = 'T', long, value_name = "CACHE", default_value = "writeback")]
    source_cache: String,
    /// Take the contents of this snapshot
    #[arg(short = 'l', long = "source-snapshot", alias = "snapshot", value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// The shortest run of zeroes left out; 0 writes everything
    #[arg(short = 'S', long, value_name = "SIZE")]
    sparse_size: Option<String>,
    /// How many chunks are worked on at once, at most
    #[arg(short = 'm', long, value_name = "N", default_value = "8")]
    parallel: String,
    /// Write chunks as they are ready, not from front to back
    #[arg(short = 'W', long, alias = "out-of-order")]
    oob_writes: bool,
    /// Let the host copy where it can
    #[arg(short = 'C', long)]
    copy_range_offloading: bool,
    /// Copy at most this many bytes a second
    #[arg(short, long)]
    rate: Option<String>,
    /// Go on after read errors; what cannot be read becomes zeroes
    #[arg(long)]
    salvage: bool,
    /// Copy bitmaps as well
    #[arg(long)]
    bitmaps: bool,
    /// Leave out bitmaps that are broken
    #[arg(long)]
    skip_broken_bitmaps: bool,
    /// The sources and the target
    #[arg(value_name = "SOURCE… TARGET", num_args = 0..)]
    words: Vec<String>,
}

/// What the target is and how it is written.
#[derive(Debug, Args)]
struct TargetArgs {
    /// The format of the target; raw unless given
    #[arg(id = "target-format", short = 'O', long = "target-format", value_name = "FMT")]
    format: Option<String>,
    /// Options of the target's format, key=value,…; `help` lists them; may repeat
    #[arg(id = "target-options", short = 'o', long = "target-options", value_name = "OPTS")]
    options: Vec<String>,
    /// Cache mode of the target
    #[arg(short = 't', long = "target-cache", value_name = "CACHE", default_value = "unsafe")]
    cache: String,
    /// The target exists; do not create it
    #[arg(short = 'n', long)]
    no_create: bool,
    /// The target's name is an option string (with -n)
    #[arg(long)]
    target_image_opts: bool,
    /// The target reads as zeroes already (with -n)
    #[arg(long)]
    target_is_zero: bool,
    /// The target's backing file, by its name as seen from the target
    #[arg(short = 'B', long, value_name = "FILE")]
    backing: Option<String>,
    /// The format of the backing file
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<String>,
    /// Store compressed clusters
    #[arg(short, long)]
    compress: bool,
}

impl Run for ConvertArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        check_lists(&self.target.options)?;
        let numbers = self.numbers(tool)?;
        self.check()?;
        let target = if self.words.len() + self.input.sources.len() > 1 { self.words.pop() } else { None };
        if wants_help(&self.target.options) {
            options::print_help(tool, self.target.format(), target.as_deref())?;
            return Ok(ExitCode::SUCCESS);
        }
        let target = target.ok_or_else(|| Error::invalid("Must specify image file name"))?;
        self.convert(tool, &target, &numbers)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What the options of a new target say about opening it.
struct Created {
    /// It has a backing file.
    backed: bool,
    /// The secrets it was made with.
    secrets: Options,
}

/// The numbers among the options.
struct Numbers {
    sparse: u64,
    parallel: usize,
    rate: Option<u64>,
    cache: CacheMode,
    source_cache: CacheMode,
}

impl ConvertArgs {
    fn numbers(&self, tool: &Tool<'_>) -> Result<Numbers> {
        let size = |text: &Option<String>, what| text.as_deref().map(|text| tool.parse_size(text, what));
        let sparse = size(&self.sparse_size, "buffer size for sparse output").transpose()?.unwrap_or(SPARSE);
        if sparse % SECTOR != 0 || sparse > MAX_SPARSE {
            return Err(Error::invalid(format!(
                "Invalid buffer size for sparse output specified. Valid sizes are multiples of {SECTOR} up to \
                 {MAX_SPARSE}. Select 0 to disable sparse detection (fully allocates output)."
            )));
        }
        Ok(Numbers {
            sparse,
            parallel: parse_parallel(&self.parallel)?,
            rate: size(&self.rate, "rate limit").transpose()?.filter(|rate| *rate > 0),
            cache: cache_mode(&self.target.cache, "")?,
            source_cache: cache_mode(&self.source_cache, "source ")?,
        })
    }

    /// Options that exclude or need each other.
    fn check(&self) -> Result<()> {
        let Self { target, .. } = self;
        let copy_range = self.copy_range_offloading;
        let wrong = [
            (self.skip_broken_bitmaps && !self.bitmaps, "Use of --skip-broken-bitmaps requires --bitmaps"),
            (copy_range && target.compress, "Cannot enable copy offloading when -c is used"),
            (copy_range && self.sparse_size.is_some(), "Cannot enable copy offloading when -S is used"),
            (copy_range && self.salvage, "Cannot use copy offloading in salvaging mode"),
            (target.no_create && !target.options.is_empty(), "-o has no effect when skipping image creation"),
            (target.target_image_opts && !target.no_create, "--target-image-opts requires use of -n flag"),
            (target.target_is_zero && !target.no_create, "--target-is-zero requires use of -n flag"),
            (
                target.target_is_zero && target.backing.is_some(),
                "Cannot use --target-is-zero when the destination image has a backing file",
            ),
        ];
        match wrong.iter().find(|(wrong, _)| *wrong) {
            Some((_, text)) => Err(Error::invalid(*text)),
            None => Ok(()),
        }
    }

    fn convert(self, tool: &Tool<'_>, target: &str, numbers: &Numbers) -> Result<()> {
        let progress = Progress::start(tool.out, Show::new(self.progress, self.quiet), PROGRESS_STEP)?;
        let sources = self.input.sources(self.words.clone())?;
        check_names(&sources, &self.target.source(target))?;
        let sources = self.open_sources(tool, &sources, numbers.source_cache)?;
        let done = self.copy(tool, &sources, target, numbers, &progress);
        if let Err(e) = done {
            let fate = progress.abandon_target();
            return Err(match fate {
                Some(sentence) if matches!(e.kind(), Kind::NoSpace | Kind::Io) => e.with_hint(sentence),
                _ => e,
            });
        }
        progress.finish();
        sources.into_iter().try_for_each(|s| s.image.close())
    }

    fn open_sources(&self, tool: &Tool<'_>, sources: &[Source], cache: CacheMode) -> Result<Vec<Segment>> {
        let flags = OpenFlags {
            withheld: Perm::CHANGES,
            force_share: self.share.force_share,
            one_pass: true,
            cache,
            ..self.input.flags()
        };
        let open = |source: &Source| graph::open(tool.env(), source, self.input.format.as_deref(), flags);
        let snapshot = self.snapshot.as_deref().map(|text| snapshot::parse(tool, text)).transpose()?;
        let images: Vec<_> = sources.iter().map(open).collect::<Result<_>>()?;
        snapshot.map_or(Ok(()), |name| load_snapshot(&images, &name))?;
        // A snapshot has a length of its own.
        let whole = |image: Image| image.len().map(|len| Segment { image, range: 0..len });
        let sources: Vec<_> = images.into_iter().map(whole).collect::<Result<_>>()?;
        if self.bitmaps {
            match &*sources {
                [source] => bitmaps::check_source(&source.image, self.skip_broken_bitmaps)?,
                _ => return Err(Error::unsupported("Copying bitmaps only possible with single source")),
            }
        }
        Ok(sources)
    }

    fn copy(
        &self,
        tool: &Tool<'_>,
        sources: &[Segment],
        name: &str,
        numbers: &Numbers,
        progress: &Progress,
    ) -> Result<()> {
        let size = sources.iter().map(|s| s.range.end).sum();
        let Created { backed, secrets } = self.create(tool, name, size, sources.len(), progress)?;
        let flags = OpenFlags { cache: numbers.cache, ..self.input.flags() };
        let target = self.target.open(tool, name, secrets, flags)?;
        if self.bitmaps {
            bitmaps::check_target(&target)?;
        }
        if target.len()? < size {
            return Err(Error::invalid("output file is smaller than input file"));
        }
        if self.target.no_create {
            progress.begin_target(Unfinished::Existing { name: name.to_owned() });
        }
        let options = self.copy_options(tool, &target, numbers, backed)?;
        progress.expect(copy::work(sources, &options, progress).map_err(copy_error)?);
        copy::copy(sources, &target, &options, progress).map_err(copy_error)?;
        if let ([source], true) = (sources, self.bitmaps) {
            bitmaps::copy(tool, &source.image, &target)?;
        }
        target.flush()?;
        target.close()
    }

    /// Creates the target, unless it exists.
    fn create(
        &self,
        tool: &Tool<'_>,
        name: &str,
        size: u64,
        sources: usize,
        progress: &Progress,
    ) -> Result<Created> {
        let made = if self.target.no_create { None } else { Some(self.target.settings(tool, name, size)?) };
        let backed = made.as_ref().map_or(self.target.backing.is_some(), |(_, all)| has_backing(all));
        if backed && sources > 1 {
            let text = "Having a backing file for the target makes no sense when concatenating multiple input images";
            return Err(Error::invalid(text));
        }
        let Some((row, all)) = made else { return Ok(Created { backed, secrets: Options::new() }) };
        check_backing_format(tool, name, row, &all)?;
        self.target.check_compression(row)?;
        self.target.check_encryption(&all)?;
        begin_creating(tool, name, progress);
        graph::create(tool.env(), row, name, &all)
            .context(|| format!("error while converting {}", row.name))
            .context(|| name.to_owned())?;
        Ok(Created { backed, secrets: all.secrets() })
    }

    fn copy_options(
        &self,
        tool: &Tool<'_>,
        target: &Image,
        numbers: &Numbers,
        backed: bool,
    ) -> Result<CopyOptions> {
        let encrypted = target.node().info().encrypted;
        let limits = target.limits();
        // In a format with tables, zeroes are in those; elsewhere a hole decrypts to garbage, and everything is written.
        let thin = !encrypted || limits.cluster_size.is_some();
        if !thin && self.target.target_is_zero && !self.quiet {
            tool.out.error_text(
                "warning: --target-is-zero does not apply to an encrypted target; zeroes are written as well",
            );
        }
        let fresh = !self.target.no_create && limits.zero_init;
        let backing = target.node().child("backing").filter(|_| backed);
        // What a failing disk is asked for, and in which order, matters more than speed.
        let workers = if self.salvage { 1 } else { numbers.parallel.min(useful_workers()) };
        let allocates = limits.cluster_size.is_some();
        Ok(CopyOptions {
            workers,
            order: if allocates && !self.oob_writes { Order::Sequential } else { Order::Any },
            sparse: if thin { numbers.sparse } else { 0 },
            target_is_zero: fresh || self.target.target_is_zero && thin,
            backing: backing.map(|node| node.len()).transpose()?,
            backing_depth: 1,
            rate: numbers.rate,
            salvage: self.salvage,
            compressed: self.target.compress.then(|| limits.cluster_size.map_or(SECTOR, u64::from)),
            offload: self.copy_range_offloading,
        })
    }
}

impl TargetArgs {
    /// The driver of a target to be created, and its options.
    fn settings(
        &self,
        tool: &Tool<'_>,
        name: &str,
        size: u64,
    ) -> Result<(&'static DriverRow, CreateOptions)> {
        let row = options::format_row(tool.env(), self.format())?;
        let mut all = graph::options_for(tool.env(), row, Some(name))?;
        options::set_all(&mut all, &self.options)?;
        options::set_backing(&mut all, row, self.backing.as_deref(), self.backing_format.as_deref())?;
        all.set("size", &size.to_string())?;
        Ok((row, all))
    }

    fn check_compression(&self, row: &DriverRow) -> Result<()> {
        if self.compress && !row.compresses {
            return Err(Error::unsupported("Compression not supported for this file format"));
        }
        Ok(())
    }

    /// Compressed clusters would not be encrypted.
    fn check_encryption(&self, options: &CreateOptions) -> Result<()> {
        if self.compress && (options.is_on("encryption") || options.get("encrypt.format").is_some()) {
            return Err(Error::unsupported("Compression and encryption not supported at the same time"));
        }
        Ok(())
    }

    /// Opens the target, with more `options` than its name says.
    fn open(&self, tool: &Tool<'_>, name: &str, mut options: Options, flags: OpenFlags) -> Result<Image> {
        let format = match self.target_image_opts {
            true if self.format.is_some() => {
                return Err(Error::invalid("--image-opts and --format are mutually exclusive"));
            }
            true => None,
            false => Some(self.format()),
        };
        let (filename, named) = self.source(name).resolve()?;
        options.overlay(named)?;
        if let Some(format) = format {
            options.set("driver", format)?;
        }
        let flags = OpenFlags { writable: true, resize: true, discard: true, ..flags };
        let image = graph::open_tree(tool.env(), filename.as_deref(), options, flags)
            .context(|| format!("Could not open '{name}'"))?;
        let row = tool.env().drivers.find(image.node().name().driver);
        row.map_or(Ok(()), |row| self.check_compression(row))?;
        Ok(image)
    }

    fn format(&self) -> &str {
        self.format.as_deref().unwrap_or("raw")
    }

    fn source(&self, name: &str) -> Source {
        if self.target_image_opts { Source::Options(name.to_owned()) } else { Source::Name(name.to_owned()) }
    }
}

/// Shows the snapshot asked for in the one source.
fn load_snapshot(images: &[Image], name: &SnapshotName) -> Result<()> {
    match images {
        [image] => snapshot::load(image, name),
        _ => Err(Error::unsupported("No support for concatenating multiple snapshot")),
    }
}

/// Who names a backing file for the target says its format, one that is known.
fn check_backing_format(tool: &Tool<'_>, name: &str, row: &DriverRow, all: &CreateOptions) -> Result<()> {
    if !has_backing(all) {
        return Ok(());
    }
    let Some(format) = all.get("backing_fmt").as_ref().and_then(Value::as_str).map(str::to_owned) else {
        return Err(Error::invalid("Use of backing file requires explicit backing format"));
    };
    match tool.env().drivers.find(&format) {
        Some(_) => Ok(()),
        None => Err(Error::invalid(format!("unrecognized backing format '{format}'"))
            .context(format!("error while converting {}", row.name))
            .context(name)),
    }
}

fn has_backing(options: &CreateOptions) -> bool {
    options.get("backing_file").is_some()
}

fn parse_parallel(text: &str) -> Result<usize> {
    let number = number::parse_u64(text)
        .map_err(|_| Error::invalid(format!("Invalid number of coroutines specified: '{text}'.")))?;
    match usize::try_from(number) {
        Ok(number) if (1..=MAX_PARALLEL).contains(&(number as u64)) => Ok(number),
        _ => {
            let text =
                format!("Invalid number of coroutines specified. Must be between 1 and {MAX_PARALLEL}.");
            Err(Error::invalid(text))
        }
    }
}

/// More workers than this only take memory: while some wait for the disk, the others keep all cores busy.
fn useful_workers() -> usize {
    2 * std::thread::available_parallelism().map_or(1, Into::into)
}

/// From here on the file of that name is ours to delete, if it is one.
fn begin_creating(tool: &Tool<'_>, name: &str, progress: &Progress) {
    progress.begin_target(match graph::file_path(tool.env(), name) {
        Some(path) => Unfinished::creating(path),
        None => Unfinished::Existing { name: name.to_owned() },
    });
}

fn copy_error(error: CopyError) -> Error {
    let say = |what: String, e: Error| {
        Error::new(e.kind(), format!("{what}: {}", e.strerror())).with_errno(e.errno())
    };
    match error {
        CopyError::Status(at, e) => say(format!("error while reading block status at offset {at}"), e),
        CopyError::Read(at, e) => say(format!("error while reading at byte {at}"), e),
        CopyError::Write(at, e) => say(format!("error while writing at byte {at}"), e),
    }
}
