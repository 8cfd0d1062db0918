//! `img amend`.

use super::Tool;
use crate::cli::{Input, Objects, Run, cache_mode};
use crate::options::{check_lists, format_row, help_table, wants_help};
use crate::progress::{Progress, Show};
use block::amend::AmendCtx;
use block::graph::{self, CreateOptions, DriverRow, OpenFlags};
use block::{Error, Image, Result};
use clap::Args;
use secret::options::keyval::{self, Bare};
use std::process::ExitCode;

/// The smallest step of the progress, in percent.
const PROGRESS_STEP: f64 = 1.0;

/// Options of `amend`.
#[derive(Debug, Args)]
pub(crate) struct AmendArgs {
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
    /// Cache mode of the image
    #[arg(short = 't', long, value_name = "CACHE", default_value = "writeback")]
    cache: String,
    /// Options to change, key=value,…; `help` lists them; may repeat
    #[arg(short = 'o', long = "options", value_name = "OPTS")]
    options: Vec<String>,
    /// Also do what may make data unreadable, such as erasing the last key
    #[arg(long)]
    force: bool,
    /// The image
    #[arg(value_name = "FILE", num_args = 0..)]
    words: Vec<String>,
}

impl Run for AmendArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        check_lists(&self.options)?;
        if self.options.is_empty() {
            return Err(tool.usage_error("Must specify options (-o)"));
        }
        let words = std::mem::take(&mut self.words);
        if let Some(format) = self.input.format.as_deref().filter(|_| wants_help(&self.options)) {
            // Help on a format needs no image.
            print_help(tool, format_row(tool.env(), format)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        if words.len() + self.input.sources.len() != 1 {
            return Err(Error::invalid("Expecting one image file name"));
        }
        let source = self.input.source(tool, words)?;
        let cache = cache_mode(&self.cache, "")?;
        let flags = OpenFlags { writable: true, resize: true, cache, ..self.input.flags() };
        let image = graph::open(tool.env(), &source, self.input.format.as_deref(), flags)?;
        let row = format_row(tool.env(), image.node().name().driver)?;
        match wants_help(&self.options) {
            true => print_help(tool, row)?,
            false => self.amend(tool, &image, row)?,
        }
        image.close()?;
        Ok(ExitCode::SUCCESS)
    }
}

impl AmendArgs {
    fn amend(&self, tool: &Tool<'_>, image: &Image, row: &'static DriverRow) -> Result<()> {
        let options = options(row, &self.options)?;
        let progress = Progress::start(tool.out, Show::new(self.progress, self.quiet), PROGRESS_STEP)?;
        let mut advance = |done, total| progress.set(done, total);
        let mut ctx = AmendCtx { env: tool.env(), force: self.force, progress: &mut advance };
        let done = image.node().amend(&options, &mut ctx);
        // The real tool counts an operation that failed as ended too.
        progress.finish();
        done
    }
}

/// The options that can be changed, as the lists set them.
fn options(row: &'static DriverRow, lists: &[String]) -> Result<CreateOptions> {
    check_amendable(row)?;
    let mut options = CreateOptions::amending(row);
    for list in lists {
        for (key, value) in keyval::pairs(list, Bare::Always)? {
            options.set(&key, &value).map_err(|e| explain(e, row, &key))?;
        }
    }
    Ok(options)
}

/// Says of an option that it can be given, but only to `create`.
fn explain(error: Error, row: &DriverRow, key: &str) -> Error {
    let known = |table: &[graph::CreateOption]| table.iter().any(|o| o.name == key);
    let creation = !known(row.amend) && row.create.is_some_and(|create| known(create.options));
    if creation { error.with_hint("This option is only supported for image creation") } else { error }
}

fn check_amendable(row: &DriverRow) -> Result<()> {
    match row.amend {
        [] => {
            Err(Error::unsupported(format!("Format driver '{}' does not support option amendment", row.name)))
        }
        _ => Ok(()),
    }
}

fn print_help(tool: &Tool<'_>, row: &DriverRow) -> Result<()> {
    check_amendable(row)?;
    tool.out.line(format_args!("Amend options for '{}':", row.name));
    help_table(tool.out, row.amend);
    Ok(())
}
