//! `img snapshot`.

use super::Tool;
use crate::cli::{Input, Objects, Run, Share};
use crate::output;
use block::graph::{self, OpenFlags};
use block::snapshot::{NewSnapshot, SnapshotName};
use block::{Error, Image, Kind, Result};
use clap::Args;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// Options of `snapshot`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    share: Share,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// List the snapshots
    #[arg(short, long)]
    list: bool,
    /// Make the contents those of this snapshot
    #[arg(short, long, value_name = "SNAPSHOT")]
    apply: Option<String>,
    /// Take a snapshot of this name
    #[arg(short, long, value_name = "SNAPSHOT")]
    create: Option<String>,
    /// Delete this snapshot
    #[arg(short, long, value_name = "SNAPSHOT")]
    delete: Option<String>,
    /// The image
    #[arg(value_name = "FILE", num_args = 0..)]
    words: Vec<String>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    List,
    Apply(String),
    Create(String),
    Delete(String),
}

impl Run for SnapshotArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        let action = self.action(tool)?;
        let source = self.input.source(tool, std::mem::take(&mut self.words))?;
        let changes = action != Action::List;
        let flags = OpenFlags {
            writable: changes,
            resize: changes,
            discard: true,
            force_share: self.share.force_share,
            ..self.input.flags()
        };
        let image = graph::open(tool.env(), &source, self.input.format.as_deref(), flags)?;
        let done = act(tool, &image, &action);
        // What was wrong before it was closed is what is reported.
        done.and(image.close()).map(|()| ExitCode::SUCCESS)
    }
}

impl SnapshotArgs {
    fn action(&mut self, tool: &Tool<'_>) -> Result<Action> {
        let given = [
            self.list.then_some(Action::List),
            self.apply.take().map(Action::Apply),
            self.create.take().map(Action::Create),
            self.delete.take().map(Action::Delete),
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (None, _) => Ok(Action::List),
            (Some(action), None) => Ok(action),
            (Some(_), Some(_)) => Err(tool.usage_error("Cannot mix '-l', '-a', '-c', '-d'")),
        }
    }
}

fn act(tool: &Tool<'_>, image: &Image, action: &Action) -> Result<()> {
    let node = image.node();
    match action {
        Action::List => {
            let all = node.snapshots().filter(|all| !all.is_empty());
            all.iter().for_each(|all| tool.out.print(output::snapshot_list(all)));
            Ok(())
        }
        Action::Create(name) => node
            .create_snapshot(&new_snapshot(name))
            .map_err(|e| failure(tool, &format!("Could not create snapshot '{name}'"), &e)),
        Action::Apply(name) => {
            let what = format!("Could not apply snapshot '{name}'");
            if node.snapshots().is_none() {
                return Err(Error::unsupported("Block driver does not support snapshots").context(what));
            }
            let what = format!("{what}: Failed to load snapshot");
            let id = node.snapshot_id(&SnapshotName::Either(name.clone()));
            id.and_then(|id| node.apply_snapshot(&id)).map_err(|e| failure(tool, &what, &e))
        }
        Action::Delete(name) => {
            let exact = SnapshotName::Exact { id: None, name: Some(name.clone()) };
            let done = node.snapshot_id(&exact).and_then(|id| node.delete_snapshot(&id));
            done.map_err(|e| e.context(format!("Could not delete snapshot '{name}'")))
        }
    }
}

/// A failure told by its number; a sentence of its own stands on a line before.
fn failure(tool: &Tool<'_>, what: &str, e: &Error) -> Error {
    if e.to_string() != e.strerror() && e.kind() != Kind::NotFound {
        tool.out.error(e);
    }
    Error::from_errno(e.errno()).context(what.to_owned())
}

fn new_snapshot(name: &str) -> NewSnapshot {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    NewSnapshot {
        name: name.to_owned(),
        date_sec: u32::try_from(now.as_secs()).unwrap_or(u32::MAX),
        date_nsec: now.subsec_nanos(),
    }
}
