//! `img create`.

use super::Tool;
use crate::cli::{Objects, Run};
use crate::options::{self, check_lists, wants_help};
use block::graph::{self, CreateOptions, OpenFlags, Source};
use block::{Context, Error, Result};
use clap::Args;
use std::process::ExitCode;

/// Options of `create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    objects: Objects,
    /// Print nothing
    #[arg(short, long)]
    quiet: bool,
    /// The format of the new image
    #[arg(short = 'f', long = "format", value_name = "FMT", default_value = "raw")]
    format: String,
    /// Options of the format, key=value,…; `help` lists them; may repeat
    #[arg(short = 'o', long = "options", value_name = "OPTS")]
    options: Vec<String>,
    /// The backing file, by its name as seen from the new image
    #[arg(short, long, value_name = "FILE")]
    backing: Option<String>,
    /// The format of the backing file
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<String>,
    /// Do not open the backing file
    #[arg(short = 'u', long = "backing-unsafe")]
    unsafe_backing: bool,
    /// The new image and its size
    #[arg(value_name = "FILE [SIZE]", num_args = 0..)]
    words: Vec<String>,
}

impl Run for CreateArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        check_lists(&self.options)?;
        let mut words = std::mem::take(&mut self.words).into_iter();
        let (filename, size) = (words.next(), words.next());
        if wants_help(&self.options) {
            options::print_help(tool, &self.format, filename.as_deref())?;
            return Ok(ExitCode::SUCCESS);
        }
        let filename = filename.ok_or_else(|| tool.usage_error("Expecting image file name"))?;
        let size = size.map(|text| tool.parse_size(&text, "image size")).transpose()?;
        if let Some(extra) = words.next() {
            return Err(tool.usage_error(format!("Unexpected argument: {extra}")));
        }
        self.create(tool, &filename, size).context(|| filename.clone())?;
        Ok(ExitCode::SUCCESS)
    }
}

impl CreateArgs {
    fn create(&self, tool: &Tool<'_>, filename: &str, size: Option<u64>) -> Result<()> {
        let env = tool.env();
        let row = options::format_row(env, &self.format)?;
        let mut options = graph::options_for(env, row, Some(filename))?;
        options::set_all(&mut options, &self.options)?;
        if let Some(bytes) = size {
            if options.get("size").is_some() {
                return Err(Error::invalid("The image size must be specified only once"));
            }
            options.set("size", &bytes.to_string())?;
        }
        options::set_backing(&mut options, row, self.backing.as_deref(), self.backing_format.as_deref())?;
        match self.backing_size(tool, filename, &options)? {
            Some(bytes) => options.set_default("size", &bytes.to_string())?,
            None if options.get("size").is_some() || has_no_payload(&options) => {}
            None => return Err(Error::invalid("Image creation needs a size parameter")),
        }
        if !self.quiet {
            tool.out.line(format_args!("Formatting '{filename}', fmt={}{}", self.format, options.describe()));
            tool.out.flush();
        }
        graph::create(env, row, filename, &options)
    }

    /// Opens the backing file, if there is one to look at, and gives its size in bytes.
    fn backing_size(&self, tool: &Tool<'_>, filename: &str, options: &CreateOptions) -> Result<Option<u64>> {
        let text = |name| options.get(name).and_then(|v| v.as_str().map(str::to_owned));
        let Some(name) = text("backing_file") else { return Ok(None) };
        let format = text("backing_fmt");
        if name.is_empty() {
            return Err(Error::invalid("Expected backing file name, got empty string"));
        }
        if name == filename {
            let text = "Error: Trying to create an image with the same filename as the backing file";
            return Err(Error::invalid(text));
        }
        let without_format = || Error::invalid("Backing file specified without backing format");
        if self.unsafe_backing {
            return if format.is_some() { Ok(None) } else { Err(without_format()) };
        }
        let source = Source::Name(graph::resolve(filename, &name)?);
        // Only its size is wanted, which takes no key. Its name is in the message already.
        let flags = OpenFlags { no_io: true, ..OpenFlags::default() };
        let image = graph::open_unnamed(tool.env(), &source, format.as_deref(), flags)
            .map_err(|e| e.with_hint("Could not open backing image."))?;
        let (bytes, found) = (image.len()?, image.node().name().driver);
        image.close()?;
        match format {
            Some(_) => Ok(Some(bytes)),
            None => Err(without_format().with_hint(format!("Detected format of {found}."))),
        }
    }
}

/// Whether what is created is only a header, which has no size.
fn has_no_payload(options: &CreateOptions) -> bool {
    options.is_on("detached-header")
}
