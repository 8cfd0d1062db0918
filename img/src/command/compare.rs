//! `img compare`.

use super::Tool;
use crate::cli::{Input, Objects, Run, Share, cache_mode};
use crate::progress::{Progress, Show};
use block::compare::{self, CompareError, CompareOptions, Difference, Side};
use block::graph::{self, OpenFlags, Source};
use block::{Error, Image, Result};
use clap::Args;
use std::process::ExitCode;

/// Exit status: an image could not be opened.
const NOT_OPENED: u8 = 2;
/// Exit status: what an image is made of could not be found out.
const NO_STATUS: u8 = 3;
/// Exit status: an image could not be read.
const NOT_READ: u8 = 4;

/// The smallest step of the progress, in percent.
const PROGRESS_STEP: f64 = 2.0;

/// Options of `compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    share: Share,
    /// The format of the second image; probed unless given
    #[arg(short = 'F', long = "b-format", value_name = "FMT")]
    second_format: Option<String>,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Show how far it is
    #[arg(short, long)]
    progress: bool,
    /// Sizes and allocation must be the same too
    #[arg(short, long)]
    strict: bool,
    /// Cache mode of the images
    #[arg(short = 'T', long = "cache", value_name = "CACHE", default_value = "writeback")]
    cache: String,
    /// The two images
    #[arg(value_name = "FILE", num_args = 0..)]
    words: Vec<String>,
}

impl Run for CompareArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn failure(&self) -> ExitCode {
        NOT_OPENED.into()
    }

    fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        let words = std::mem::take(&mut self.words);
        if words.len() + self.input.sources.len() != 2 {
            tool.out.error(&tool.usage_error("Expecting two image file names"));
            return Ok(ExitCode::FAILURE);
        }
        let [first, second] = self.open(tool, words)?;
        let total = first.image.len()?.max(second.image.len()?);
        let progress = Progress::start(tool.out, Show::new(self.progress, self.quiet), PROGRESS_STEP)?;
        progress.expect(total);
        let comparison = Comparison { args: &self, tool, images: [&first, &second], progress: &progress };
        let status = comparison.run()?;
        drop(progress);
        first.image.close().and(second.image.close())?;
        Ok(status)
    }
}

/// An image and what the user calls it.
struct Named {
    source: Source,
    image: Image,
}

impl CompareArgs {
    fn open(&self, tool: &Tool<'_>, words: Vec<String>) -> Result<[Named; 2]> {
        let flags = OpenFlags {
            cache: cache_mode(&self.cache, "source ")?,
            force_share: self.share.force_share,
            one_pass: true,
            ..self.input.flags()
        };
        let open = |source: Source, format: Option<&str>| -> Result<Named> {
            let image = graph::open(tool.env(), &source, format, flags)?;
            Ok(Named { source, image })
        };
        if self.second_format.is_some() && self.input.image_opts {
            return Err(Error::invalid("--image-opts and --format are mutually exclusive"));
        }
        let mut sources = self.input.sources(words)?.into_iter();
        let mut next = || sources.next().ok_or_else(|| Error::invalid("Expecting two image file names"));
        let first = open(next()?, self.input.format.as_deref())?;
        Ok([first, open(next()?, self.second_format.as_deref())?])
    }
}

/// Both images, while they are compared.
struct Comparison<'a> {
    args: &'a CompareArgs,
    tool: &'a Tool<'a>,
    images: [&'a Named; 2],
    progress: &'a Progress,
}

impl Comparison<'_> {
    fn run(&self) -> Result<ExitCode> {
        let [first, second] = [self.images[0].image.len()?, self.images[1].image.len()?];
        if self.args.strict && first != second {
            return Ok(self.differ("Strict mode: Image size mismatch!"));
        }
        let common = first.min(second);
        let both = self.images.map(|named| Some(&named.image));
        if let Some(status) = self.part(both, 0..common) {
            return Ok(status);
        }
        if first != second {
            self.say("Warning: Image size mismatch!");
            // What the longer one has more must read as zeroes.
            let longer = if first > second { [both[0], None] } else { [None, both[1]] };
            if let Some(status) = self.part(longer, common..first.max(second)) {
                return Ok(status);
            }
        }
        self.say("Images are identical.");
        Ok(ExitCode::SUCCESS)
    }

    /// Compares a part and gives the exit status unless it is the same.
    fn part(&self, images: [Option<&Image>; 2], range: std::ops::Range<u64>) -> Option<ExitCode> {
        let workers = std::thread::available_parallelism().map_or(1, Into::into);
        let options = CompareOptions { workers, strict: self.args.strict };
        match compare::compare(images, range, options, self.progress) {
            Ok(None) => None,
            Ok(Some(Difference::Content(at))) => {
                Some(self.differ(&format!("Content mismatch at offset {at}!")))
            }
            Ok(Some(Difference::Status(at))) => {
                Some(self.differ(&format!("Strict mode: Offset {at} block status mismatch!")))
            }
            Err(e) => Some(self.fail(&e)),
        }
    }

    fn say(&self, text: &str) {
        if !self.args.quiet {
            self.progress.say(text);
        }
    }

    fn differ(&self, text: &str) -> ExitCode {
        self.say(text);
        ExitCode::FAILURE
    }

    fn fail(&self, error: &CompareError) -> ExitCode {
        let name = |side: &Side| self.images[usize::from(*side == Side::Second)].source.text();
        let (text, status) = match error {
            CompareError::Status(side, _) => {
                (format!("Sector allocation test failed for {}", name(side)), NO_STATUS)
            }
            CompareError::Read(side, at, e) => {
                (format!("Error while reading offset {at} of {}: {}", name(side), e.strerror()), NOT_READ)
            }
        };
        self.tool.out.error_text(&text);
        status.into()
    }
}
