//! `img create`.

use super::Tool;
use crate::cli::{Objects, Run};
use block::graph::{self, CreateOptions};
use block::{Context, Error, Result};
use clap::Args;
use secret::options::keyval::{self, Bare};
use std::process::ExitCode;

/// Options of `create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) objects: Objects,
    /// Print nothing
    #[arg(short, long)]
    quiet: bool,
    /// The format of the new image
    #[arg(short = 'f', long = "format", value_name = "FMT", default_value = "raw")]
    format: String,
    /// Options of the format, key=value,…; `help` lists them
    #[arg(short = 'o', long = "options", value_name = "OPTS")]
    options: Vec<String>,
    /// The new image and its size
    #[arg(value_name = "FILE [SIZE]", num_args = 0..)]
    words: Vec<String>,
}

impl Run for CreateArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn run(self, tool: &Tool<'_>) -> Result<ExitCode> {
        run(tool, self)
    }
}

fn run(tool: &Tool<'_>, args: CreateArgs) -> Result<ExitCode> {
    let mut words = args.words.into_iter();
    let filename = words.next().ok_or_else(|| tool.usage_error("Expecting image file name"))?;
    let size = words.next().map(|text| tool.parse_size(&text, "image size")).transpose()?;
    if let Some(extra) = words.next() {
        return Err(tool.usage_error(format!("Unexpected argument: {extra}")));
    }
    create(tool, &args.format, &filename, size, &args.options, args.quiet).context(|| filename.clone())?;
    Ok(ExitCode::SUCCESS)
}

fn create(
    tool: &Tool<'_>,
    format: &str,
    filename: &str,
    size: Option<u64>,
    texts: &[String],
    quiet: bool,
) -> Result<()> {
    let env = tool.env();
    let row =
        env.drivers.find(format).ok_or_else(|| Error::invalid(format!("Unknown file format '{format}'")))?;
    let mut options = graph::options_for(env, row, Some(filename))?;
    set_all(&mut options, texts)?;
    match (size, options.get("size")) {
        (Some(_), Some(_)) => return Err(Error::invalid("The image size must be specified only once")),
        (Some(bytes), None) => options.set("size", &bytes.to_string())?,
        (None, Some(_)) => {}
        (None, None) => return Err(Error::invalid("Image creation needs a size parameter")),
    }
    if !quiet {
        tool.out.line(&format!("Formatting '{filename}', fmt={format}{}", options.describe()));
        tool.out.flush();
    }
    graph::create(env, row, filename, &options)
}

/// Sets every option of the `-o` texts, in order.
pub(crate) fn set_all(options: &mut CreateOptions, texts: &[String]) -> Result<()> {
    for text in texts {
        for (key, value) in keyval::pairs(text, Bare::Always)? {
            options.set(&key, &value)?;
        }
    }
    Ok(())
}
