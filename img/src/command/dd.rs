//! `img dd`.

use super::Tool;
use crate::cli::{Input, Objects, Run, Share};
use crate::names::check_names;
use crate::progress::{Progress, Show};
use crate::target::Unfinished;
use block::copy::{self, CopyError, CopyOptions, Order, Segment};
use block::graph::{self, OpenFlags, Source};
use block::{Context, Error, Image, Result};
use clap::Args;
use secret::options::size::{self, SizeError};
use std::process::ExitCode;

/// The size of a block unless the user says otherwise, in bytes.
const BLOCK: u64 = 512;

/// Options of `dd`.
#[derive(Debug, Args)]
pub(crate) struct DdArgs {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    share: Share,
    /// The format of the new image
    #[arg(short = 'O', long = "output-format", value_name = "FMT", default_value = "raw")]
    output_format: String,
    /// if=FILE of=FILE [bs=SIZE] [count=BLOCKS] [skip=BLOCKS]
    #[arg(value_name = "OPERAND", num_args = 0..)]
    words: Vec<String>,
}

/// What the operands say.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Operands {
    input: Option<String>,
    output: Option<String>,
    /// Bytes.
    block: u64,
    /// Blocks.
    count: Option<u64>,
    /// Blocks.
    skip: u64,
}

impl Run for DdArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        let mut operands = Operands::parse(&self.words)?;
        self.words.clear();
        let missing = || Error::invalid("Must specify both input and output files");
        let output = operands.output.take().ok_or_else(missing)?;
        let sources = self.input.sources(operands.input.take().into_iter().collect())?;
        let one: Result<[Source; 1], _> = sources.try_into();
        let [source] = one.map_err(|_| missing())?;
        let flags = OpenFlags { force_share: self.share.force_share, ..self.input.flags() };
        let target = Source::Name(output.clone());
        check_names(std::slice::from_ref(&source), &target)?;
        let image = graph::open(tool.env(), &source, self.input.format.as_deref(), flags)?;
        let range = operands.range(image.len()?).unwrap_or_else(|| {
            // A sentence, and an empty image.
            tool.out.error_text(&format!("{}: cannot skip to specified offset", source.text()));
            0..0
        });
        let progress = Progress::start(tool.out, Show::OnRequest, 1.0)?;
        progress.expect(range.end - range.start);
        let done = self.copy(tool, Segment { image, range }, &output, &progress);
        if let Err(e) = done {
            let fate = progress.abandon_target();
            return Err(match fate {
                Some(sentence) => e.with_hint(sentence),
                None => e,
            });
        }
        progress.finish();
        Ok(ExitCode::SUCCESS)
    }
}

impl DdArgs {
    fn copy(&self, tool: &Tool<'_>, source: Segment, name: &str, progress: &Progress) -> Result<()> {
        let target = self.create(tool, name, source.range.end - source.range.start, progress)?;
        copy_all(source, &target, progress)?;
        target.close()
    }

    fn create(&self, tool: &Tool<'_>, name: &str, size: u64, progress: &Progress) -> Result<Image> {
        let env = tool.env();
        let row =
            env.drivers.find(&self.output_format).ok_or_else(|| Error::invalid("Unknown file format"))?;
        let mut options = graph::options_for(env, row, Some(name))?;
        options.set("size", &size.to_string())?;
        progress.begin_target(Unfinished::new(env, name));
        graph::create(env, row, name, &options)
            .context(|| format!("{name}: error while creating output image"))?;
        let flags = OpenFlags { writable: true, ..self.input.flags() };
        graph::open(env, &Source::Name(name.to_owned()), Some(row.name), flags)
    }
}

fn copy_all(source: Segment, target: &Image, progress: &Progress) -> Result<()> {
    let options = CopyOptions {
        workers: std::thread::available_parallelism().map_or(1, Into::into),
        order: Order::Sequential,
        // Everything is written, as by the dd that gives the command its name.
        sparse: 0,
        target_is_zero: false,
        backing: None,
        backing_depth: 1,
        rate: None,
        salvage: false,
        compressed: None,
        offload: false,
    };
    let failed = |e: &Error, what| Error::new(e.kind(), e.strerror()).with_errno(e.errno()).context(what);
    copy::copy(&[source], target, &options, progress).map_err(|e| match e {
        CopyError::Status(_, e) | CopyError::Read(_, e) => {
            failed(&e, "error while reading from input image file")
        }
        CopyError::Write(_, e) => failed(&e, "error while writing to output image file"),
    })
}

impl Operands {
    fn parse(words: &[String]) -> Result<Self> {
        let mut operands = Operands { input: None, output: None, block: BLOCK, count: None, skip: 0 };
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let number = |low, high| number(name, value, low, high);
            match name {
                "if" => operands.input = Some(value.to_owned()),
                "of" => operands.output = Some(value.to_owned()),
                "bs" => operands.block = number(1, i32::MAX.unsigned_abs().into())?,
                "count" => operands.count = Some(number(0, i64::MAX.unsigned_abs())?),
                "skip" => operands.skip = number(0, i64::MAX.unsigned_abs())?,
                _ => return Err(Error::invalid(format!("unrecognized operand {name}"))),
            }
        }
        Ok(operands)
    }

    /// The part of an image of `len` bytes that is copied; `None` when what is skipped goes beyond it. As in QEMU,
    /// `count` says where the part ends, not how long it is.
    fn range(&self, len: u64) -> Option<std::ops::Range<u64>> {
        let end = self.count.and_then(|count| count.checked_mul(self.block)).map_or(len, |end| end.min(len));
        let start = self.skip.checked_mul(self.block)?;
        (start <= end).then_some(start..end)
    }
}

fn number(name: &str, text: &str, low: u64, high: u64) -> Result<u64> {
    match size::parse(text) {
        Ok(value) if (low..=high).contains(&value) => Ok(value),
        Err(SizeError::Malformed) => Err(Error::invalid(format!("Invalid {name} specified: '{text}'."))),
        _ => Err(Error::invalid(format!("Invalid {name} specified. Must be between {low} and {high}."))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Operands> {
        Operands::parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_last_of_several_operands_counts() {
        let operands = parse("if=a of=b bs=1k bs=1.5k skip=2 count=30K if=c").unwrap();
        let want = Operands {
            input: Some("c".to_owned()),
            output: Some("b".to_owned()),
            block: 1536,
            count: Some(30 << 10),
            skip: 2,
        };
        assert_eq!(operands, want);
    }

    #[test]
    fn operands_out_of_range_are_refused() {
        for (line, text) in [
            ("bs=0", "Invalid bs specified. Must be between 1 and 2147483647."),
            ("bs=2G", "Invalid bs specified. Must be between 1 and 2147483647."),
            ("count=-1", "Invalid count specified. Must be between 0 and 9223372036854775807."),
            ("skip=foo", "Invalid skip specified: 'foo'."),
            ("bs", "Invalid bs specified: ''."),
            ("seek=1", "unrecognized operand seek"),
            ("=x", "unrecognized operand "),
        ] {
            assert_eq!(parse(line).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn count_and_skip_choose_a_part() {
        let range = |line| parse(line).unwrap().range(10240);
        assert_eq!(range("bs=512"), Some(0..10240));
        assert_eq!(range("bs=1000 count=3"), Some(0..3000));
        assert_eq!(range("bs=1000 skip=3"), Some(3000..10240));
        assert_eq!(range("bs=1000 skip=3 count=2"), None);
        assert_eq!(range("skip=20"), Some(10240..10240));
        assert_eq!(range("skip=21"), None);
        assert_eq!(range("skip=9223372036854775807"), None);
        assert_eq!(range("count=9223372036854775807"), Some(0..10240));
    }
}
