//! `img create`.

use super::Tool;
use crate::cli::{Objects, Run};
use crate::options::{self, check_lists, wants_help};
use block::graph::{self, CreateOptions, DriverRow, OpenFlags, Source};
use block::{Context, Error, Kind, Result};
use clap::Args;
use nix::libc;
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
    #[command(flatten)]
    backing: Backing,
    /// Do not open the backing file
    #[arg(short = 'u', long = "backing-unsafe")]
    unsafe_backing: bool,
    /// The new image and its size
    #[arg(value_name = "FILE [SIZE]", num_args = 0..)]
    words: Vec<String>,
}

/// The image that holds what the new one does not have.
#[derive(Debug, Args)]
pub(crate) struct Backing {
    /// The backing file, by its name as seen from the new image
    #[arg(id = "backing", short = 'b', long = "backing", value_name = "FILE")]
    file: Option<String>,
    /// The format of the backing file
    #[arg(id = "backing-format", short = 'F', long = "backing-format", value_name = "FMT")]
    format: Option<String>,
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
        self.backing.set(&mut options, row)?;
        let backing = self.backing_size(tool, filename, &options)?;
        match backing {
            Some(bytes) => options.set_default("size", &bytes.to_string())?,
            None if options.get("size").is_some() || has_no_payload(&options) => {}
            None => return Err(Error::invalid("Image creation needs a size parameter")),
        }
        if !self.quiet {
            tool.out.line(&format!("Formatting '{filename}', fmt={}{}", self.format, options.describe()));
            tool.out.flush();
        }
        graph::create(env, row, filename, &options).map_err(|e| match e.errno() {
            libc::EFBIG => too_large(row, &options),
            _ => e,
        })
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
        // Its name is in the message already.
        let image = graph::open_unnamed(tool.env(), &source, format.as_deref(), OpenFlags::default())
            .map_err(|e| e.with_hint("Could not open backing image."))?;
        let (bytes, found) = (image.len()?, image.node().name().driver);
        image.close()?;
        match format {
            Some(_) => Ok(Some(bytes)),
            None => Err(without_format().with_hint(format!("Detected format of {found}."))),
        }
    }
}

fn too_large(row: &DriverRow, options: &CreateOptions) -> Error {
    let clusters = options.table().iter().any(|option| option.name == "cluster_size");
    let advice = if clusters { " (try using a larger cluster size)" } else { "" };
    let text = format!("The image size is too large for file format '{}'{advice}", row.name);
    Error::new(Kind::NoSpace, text).with_errno(libc::EFBIG)
}

impl Backing {
    /// Whether neither option was given.
    pub(crate) fn is_none(&self) -> bool {
        self.file.is_none() && self.format.is_none()
    }

    /// Puts the backing file and its format among the options of an image in the format `row`.
    ///
    /// # Errors
    /// A format without backing files.
    pub(crate) fn set(&self, options: &mut CreateOptions, row: &DriverRow) -> Result<()> {
        let unsupported =
            |what: &str| Error::unsupported(format!("{what} not supported for file format '{}'", row.name));
        if let Some(name) = &self.file {
            options.set("backing_file", name).map_err(|_| unsupported("Backing file"))?;
        }
        if let Some(format) = &self.format {
            options.set("backing_fmt", format).map_err(|_| unsupported("Backing file format"))?;
        }
        Ok(())
    }
}

/// Whether what is created is only a header, which has no size.
fn has_no_payload(options: &CreateOptions) -> bool {
    options.is_on("detached-header")
}
