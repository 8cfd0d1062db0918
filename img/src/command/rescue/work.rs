//! Making one new image: judge, create, copy stretch by stretch, read back, publish.

use super::judge::{self, Judgement};
use super::look::{self, Behind, Encryption, Keys, Look};
use super::record::{self, Record};
use super::report::{Row, Status};
use crate::command::Tool;
use crate::options::format_row;
use block::compare::{CompareError, CompareOptions, Difference, compare};
use block::copy::{self, CopyError, CopyOptions, Order, Segment, Unobserved};
use block::graph::{self, OpenFlags, Perm};
use block::snapshot::{Snapshot, SnapshotName};
use block::{Context, Error, Image, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Bytes of the disk after which the new image is made durable and the record says so.
const STRETCH: u64 = 256 << 20;

/// What the user asked for.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) keys: Keys,
    pub(super) directory: PathBuf,
    pub(super) format: String,
    pub(super) snapshots: bool,
    pub(super) force: bool,
    pub(super) iter_time: Option<u64>,
}

/// The images of one run.
pub(super) struct Job<'a> {
    tool: &'a Tool<'a>,
    plan: Plan,
    rows: Vec<Row>,
    /// The rows of images, without their snapshots, by path.
    seen: BTreeMap<String, usize>,
}

/// An image on its way.
struct Item<'a> {
    look: &'a Look,
    snapshot: Option<&'a Snapshot>,
    /// What the new image has for a backing file, with its format.
    backing: Option<(String, String)>,
    target: PathBuf,
}

impl<'a> Job<'a> {
    pub(super) fn new(tool: &'a Tool<'a>, plan: Plan) -> Self {
        Job { tool, plan, rows: Vec::new(), seen: BTreeMap::new() }
    }

    pub(super) fn finish(self) -> Vec<Row> {
        self.rows
    }

    /// Notes an image that cannot even be looked at.
    pub(super) fn failed(&mut self, name: &str, error: &Error) {
        let mut row = self.row(name, None);
        row.result = Err(error.to_string());
        self.rows.push(row);
    }

    fn row(&self, source: &str, look: Option<&Look>) -> Row {
        Row {
            source: source.to_owned(),
            look: look.cloned(),
            snapshot: None,
            judgement: None,
            target: None,
            format: self.plan.format.clone(),
            notes: Vec::new(),
            result: Ok(Status::Rescued),
        }
    }

    /// Rescues an image, what it is backed by, and (if that was asked for) its snapshots.
    pub(super) fn rescue(&mut self, look: &Look) {
        if self.seen.contains_key(&look.path) {
            return;
        }
        // Before its backing file is dealt with, so that a circle ends.
        self.seen.insert(look.path.clone(), usize::MAX);
        let backing = self.backing(look).map_err(|e| e.to_string());
        self.rescue_one(look, None, backing.clone());
        self.seen.insert(look.path.clone(), self.rows.len() - 1);
        if self.plan.snapshots {
            for snapshot in &look.snapshots {
                self.rescue_one(look, Some(snapshot), backing.clone());
            }
        }
    }

    /// The backing file of the new image; legacy ones are rescued first.
    fn backing(&mut self, look: &Look) -> Result<Option<(String, String)>> {
        let Some((name, format)) = look.backing.as_ref().filter(|_| self.plan.format == "qcow2") else {
            return Ok(None);
        };
        let below = look::look(self.tool, name, format.as_deref())?;
        if below.encryption != Encryption::Legacy {
            return Ok(Some((below.path, below.driver.to_owned())));
        }
        let full = std::fs::canonicalize(name).ok().and_then(|path| path.into_os_string().into_string().ok());
        let below = Look { path: full.unwrap_or(below.path), ..below };
        self.rescue(&below);
        let row = self.seen.get(&below.path).and_then(|index| self.rows.get(*index));
        match row.map(|row| (&row.result, &row.target)) {
            Some((Ok(_), Some(target))) => {
                let name = Path::new(target).file_name().map(|name| name.to_string_lossy().into_owned());
                Ok(Some((name.unwrap_or_default(), "qcow2".to_owned())))
            }
            _ => Err(Error::invalid(format!("Its backing file '{name}' was not rescued"))),
        }
    }

    fn rescue_one(
        &mut self,
        look: &Look,
        snapshot: Option<&Snapshot>,
        backing: Result<Option<(String, String)>, String>,
    ) {
        let mut row = self.row(&look.path, Some(look));
        row.snapshot = snapshot.map(|s| (s.id.clone(), s.name.clone()));
        if snapshot.is_none() && !look.snapshots.is_empty() && !self.plan.snapshots {
            let count = look.snapshots.len();
            row.notes.push(format!("{count} internal snapshots exist and were not rescued (-l does)"));
        }
        if look.backing.is_some() && self.plan.format != "qcow2" {
            row.notes.push("the new image holds what the backing files held as well".to_owned());
        }
        if self.plan.format == "luks" {
            row.notes.push("raw LUKS has no holes: the new file has its full size".to_owned());
        }
        row.result = backing.and_then(|backing| {
            let target = self.plan.directory.join(self.name(look, snapshot));
            let item = Item { look, snapshot, backing, target };
            self.make(&item, &mut row).map_err(|e| match e.hint() {
                Some(hint) => format!("{e} ({hint})"),
                None => e.to_string(),
            })
        });
        self.rows.push(row);
    }

    /// The new image's file name.
    fn name(&self, look: &Look, snapshot: Option<&Snapshot>) -> String {
        let path = Path::new(&look.path);
        let images = ["qcow", "qcow2", "img"];
        let plain = path.extension().is_some_and(|ext| images.iter().any(|known| ext == *known));
        let stem = if plain { path.file_stem() } else { path.file_name() };
        let stem = stem.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let snapshot = snapshot.map(|s| format!(".snapshot-{}", s.id)).unwrap_or_default();
        format!("{stem}{snapshot}.{}", self.plan.format)
    }

    fn make(&self, item: &Item<'_>, row: &mut Row) -> Result<Status> {
        let print = record::fingerprint(&item.look.path)?;
        let what = json!({"format": self.plan.format, "snapshot": item.snapshot.map(|s| &s.id), "backing": item.backing});
        let record = Record::load(&item.target)?;
        row.target = Some(item.target.to_string_lossy().into_owned());
        if item.target.exists() {
            let ours = record.is_some_and(|record| record.is_complete() && record.is_about(&print, &what));
            return match ours {
                true => Ok(Status::Before),
                false => Err(Error::invalid(format!("'{}' exists already", item.target.display()))),
            };
        }
        let judgement = self.judge(item)?;
        row.judgement = Some(judgement.clone());
        self.accept(&judgement, row)?;
        let record = match record {
            Some(record) if !record.is_about(&print, &what) => return Err(foreign(&item.target)),
            Some(record) => record,
            None => Record::new(&item.target, &print, &what),
        };
        self.write(item, record, &print)?;
        Ok(Status::Rescued)
    }

    fn accept(&self, judgement: &Judgement, row: &mut Row) -> Result<()> {
        if judgement.accepts() {
            return Ok(());
        }
        if self.plan.force {
            row.notes.push("the passphrase could not be confirmed; --force went on".to_owned());
            return Ok(());
        }
        Err(Error::invalid(format!("the passphrase seems to be wrong: {judgement}")).with_hint(
            "with the right one, only contents that are themselves encrypted or random look like this; --force proceeds",
        ))
    }

    fn judge(&self, item: &Item<'_>) -> Result<Judgement> {
        let image = self.open_source(item, Behind::None)?;
        let judgement = judge::judge(&image)?;
        image.close()?;
        Ok(judgement)
    }

    /// The source, read-only.
    fn open_source(&self, item: &Item<'_>, behind: Behind) -> Result<Image> {
        let path = &item.look.path;
        let options = look::options(self.tool, path, Some(item.look.driver), &self.plan.keys, behind)?;
        let flags = OpenFlags { withheld: Perm::CHANGES, ..OpenFlags::default() };
        let image = graph::open_tree(self.tool.env(), None, options, flags)
            .context(|| format!("Could not open '{path}'"))?;
        if let Some(snapshot) = item.snapshot {
            let name = SnapshotName::Exact { id: Some(snapshot.id.clone()), name: None };
            image.node().load_snapshot(&name)?;
        }
        Ok(image)
    }

    fn open_new(&self, path: &Path, writable: bool) -> Result<Image> {
        let path = path.to_string_lossy();
        let format = Some(self.plan.format.as_str());
        let options = look::options(self.tool, &path, format, &self.plan.keys, Behind::All)?;
        let flags = OpenFlags { writable, resize: writable, discard: true, ..OpenFlags::default() };
        graph::open_tree(self.tool.env(), None, options, flags).context(|| format!("Could not open '{path}'"))
    }

    fn write(&self, item: &Item<'_>, mut record: Record, print: &Value) -> Result<()> {
        let partial = PathBuf::from(format!("{}.partial", item.target.display()));
        let source = self.open_source(item, Behind::All)?;
        if !record.is_created() {
            record.save()?;
            self.create(item, &partial, source.len()?)?;
            record.set("created", true)?;
        }
        self.fill(&source, &partial, &mut record)?;
        self.verify(&source, &partial)?;
        source.close()?;
        if record::fingerprint(&item.look.path)? != *print {
            return Err(Error::invalid("The source was changed meanwhile"));
        }
        record::publish(&partial, &item.target)?;
        record.set("complete", true)
    }

    fn create(&self, item: &Item<'_>, partial: &Path, size: u64) -> Result<()> {
        let (env, name) = (self.tool.env(), partial.to_string_lossy());
        let row = format_row(env, &self.plan.format)?;
        let mut options = graph::options_for(env, row, Some(&*name))?;
        options.set("size", &size.to_string())?;
        let prefix = match self.plan.format.as_str() {
            "qcow2" => "encrypt.",
            _ => "",
        };
        if self.plan.format == "qcow2" {
            options.set("encrypt.format", "luks")?;
            if let Some(cluster) = item.look.cluster.filter(|_| item.look.driver == "qcow2") {
                options.set("cluster_size", &cluster.to_string())?;
            }
            if let Some((file, format)) = &item.backing {
                options.set("backing_file", file)?;
                options.set("backing_fmt", format)?;
            }
        }
        if self.plan.format != "raw" {
            options.set(&format!("{prefix}key-secret"), &self.plan.keys.new)?;
            if let Some(ms) = self.plan.iter_time {
                options.set(&format!("{prefix}iter-time"), &ms.to_string())?;
            }
        }
        graph::create(env, row, &name, &options)
    }

    /// Copies what is missing.
    fn fill(&self, source: &Image, partial: &Path, record: &mut Record) -> Result<()> {
        let target = self.open_new(partial, true)?;
        let len = source.len()?;
        if target.len()? != len {
            return Err(Error::invalid("The partial image has another size than its source")
                .with_hint("Remove it and its record to begin anew."));
        }
        let options = copy_options(&target)?;
        let mut at = record.position();
        while at < len {
            let end = len.min(at + STRETCH);
            let segment = Segment { image: source.clone(), range: at..end };
            copy::copy_at(&[segment], &target, at, &options, &Unobserved).map_err(copy_error)?;
            target.flush()?;
            record.set("position", end)?;
            at = end;
        }
        target.close()
    }

    /// Reads the new image back and compares it with the source.
    fn verify(&self, source: &Image, partial: &Path) -> Result<()> {
        let target = self.open_new(partial, false)?;
        let options = CompareOptions { workers: workers(), strict: false };
        let found = compare([Some(source), Some(&target)], 0..source.len()?, options, &Unobserved);
        target.close()?;
        match found {
            Ok(None) => Ok(()),
            Ok(Some(Difference::Content(at) | Difference::Status(at))) => {
                Err(Error::corrupt(format!("The new image differs from its source at offset {at}")))
            }
            Err(CompareError::Status(_, e) | CompareError::Read(_, _, e)) => {
                Err(e.context("Could not compare the new image with its source"))
            }
        }
    }
}

fn foreign(target: &Path) -> Error {
    Error::invalid(format!(
        "'{}.partial' was begun for something else: another source (or this one before it changed), format or backing file",
        target.display()
    ))
    .with_hint("Remove it and its record to begin anew.")
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

fn copy_options(target: &Image) -> Result<CopyOptions> {
    let limits = target.limits();
    let thin = limits.zero_init;
    let backing = target.node().child("backing").map(|node| node.len()).transpose()?;
    Ok(CopyOptions {
        workers: workers(),
        order: if limits.cluster_size.is_some() { Order::Sequential } else { Order::Any },
        sparse: if thin { 4096 } else { 0 },
        target_is_zero: thin,
        backing,
        backing_depth: 1,
        rate: None,
        salvage: false,
        compressed: None,
        offload: false,
    })
}

fn copy_error(error: CopyError) -> Error {
    let (what, at, e) = match error {
        CopyError::Status(at, e) => ("reading block status", at, e),
        CopyError::Read(at, e) => ("reading", at, e),
        CopyError::Write(at, e) => ("writing", at, e),
    };
    e.context(format!("error while {what} at offset {at}"))
}
