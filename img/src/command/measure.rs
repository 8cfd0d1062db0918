//! `img measure`.

use super::Tool;
use crate::cli::{Input, Objects, Report, Run, Share};
use crate::options::{check_lists, format_row, set_all};
use crate::snapshot;
use block::graph::{self, CreateOptions, DriverRow, Measure, MeasureFn, OpenFlags, Source};
use block::snapshot::SnapshotName;
use block::tool::json;
use block::{Error, Image, Result};
use clap::Args;
use serde_json::{Map, Value};
use std::process::ExitCode;

/// Options of `measure`.
#[derive(Debug, Args)]
pub(crate) struct MeasureArgs {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    share: Share,
    #[command(flatten)]
    report: Report,
    /// The format of the image that is to be measured
    #[arg(short = 'O', long = "target-format", value_name = "FMT", default_value = "raw")]
    target_format: String,
    /// Options of that format, key=value,…; may repeat
    #[arg(short = 'o', long = "options", value_name = "OPTS")]
    options: Vec<String>,
    /// Measure an empty image of this size
    #[arg(long, value_name = "SIZE")]
    size: Option<String>,
    /// The snapshot of FILE that is measured
    #[arg(short = 'l', long = "snapshot", value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// Measure an image with the contents of this one
    #[arg(value_name = "FILE", num_args = 0..)]
    words: Vec<String>,
}

impl Run for MeasureArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        check_lists(&self.options)?;
        let snapshot = self.snapshot.as_deref().map(|text| snapshot::parse(tool, text)).transpose()?;
        let size = self.size.take().map(|text| tool.parse_size(&text, "image size")).transpose()?;
        let source = self.source(size)?;
        let (row, measure) = measuring(tool, &self.target_format)?;
        let image = source.map(|source| self.open(tool, &source, snapshot.as_ref())).transpose()?;
        let options = self.options(tool, row, &image, size)?;
        let result = measure(tool.env(), &options, image.as_ref())?;
        match self.report.is_json() {
            true => tool.out.line(json::pretty(&machine_report(&result))),
            false => tool.out.print(human_report(&result)),
        }
        image.map_or(Ok(()), Image::close)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl MeasureArgs {
    /// The image to measure for, if it is not just a size.
    fn source(&mut self, size: Option<u64>) -> Result<Option<Source>> {
        let words = std::mem::take(&mut self.words);
        let count = words.len() + self.input.sources.len();
        let needs_file = self.input.image_opts || self.input.format.is_some() || self.snapshot.is_some();
        Err(Error::invalid(match (count, size) {
            (2.., _) => "At most one filename argument is allowed.",
            (0, _) if needs_file => "--image-opts, -f, and -l require a filename argument.",
            (0, None) => "Either --size N or one filename must be specified.",
            (1, Some(_)) => "--size N cannot be used together with a filename.",
            _ => return Ok(self.input.sources(words)?.pop()),
        }))
    }

    fn open(&self, tool: &Tool<'_>, source: &Source, snapshot: Option<&SnapshotName>) -> Result<Image> {
        let flags = OpenFlags { force_share: self.share.force_share, one_pass: true, ..self.input.flags() };
        let image = graph::open(tool.env(), source, self.input.format.as_deref(), flags)?;
        snapshot.map_or(Ok(()), |name| snapshot::load(&image, name))?;
        Ok(image)
    }

    fn options(
        &self,
        tool: &Tool<'_>,
        row: &'static DriverRow,
        image: &Option<Image>,
        size: Option<u64>,
    ) -> Result<CreateOptions> {
        // Any file: what matters is that its protocol's options are known too.
        let mut options = graph::options_for(tool.env(), row, Some("file"))?;
        if let Err(e) = set_all(&mut options, &self.options) {
            tool.out.error(&e);
            return Err(Error::invalid(format!("Invalid options for file format '{}'", row.name)));
        }
        let bytes = match image {
            Some(image) => image.len()?,
            None => size.unwrap_or(0),
        };
        options.set("size", &bytes.to_string())?;
        Ok(options)
    }
}

/// The format of that name and how it measures.
fn measuring(tool: &Tool<'_>, format: &str) -> Result<(&'static DriverRow, MeasureFn)> {
    let row = format_row(tool.env(), format)?;
    graph::options_for(tool.env(), row, Some("file"))?;
    let measure = row.create.and_then(|create| create.measure);
    let lacking = || Error::unsupported(format!("Block driver '{format}' does not support size measurement"));
    Ok((row, measure.ok_or_else(lacking)?))
}

fn human_report(measure: &Measure) -> String {
    let bitmaps = measure.bitmaps.map_or_else(String::new, |bytes| format!("bitmaps size: {bytes}\n"));
    let Measure { required, fully_allocated, .. } = measure;
    format!("required size: {required}\nfully allocated size: {fully_allocated}\n{bitmaps}")
}

fn machine_report(measure: &Measure) -> Value {
    let mut members = Map::new();
    members.insert("required".to_owned(), measure.required.into());
    members.insert("fully-allocated".to_owned(), measure.fully_allocated.into());
    if let Some(bytes) = measure.bitmaps {
        members.insert("bitmaps".to_owned(), bytes.into());
    }
    Value::Object(members)
}
