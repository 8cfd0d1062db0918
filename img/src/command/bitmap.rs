//! `img bitmap`.

use super::Tool;
use crate::cli::{Input, Objects, Run};
use block::graph::{self, OpenFlags, Source};
use block::{Context, Error, Image, Result};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use std::process::ExitCode;

/// Options of `bitmap`.
#[derive(Debug, Args)]
// The long spelling of -f in other commands is that of -F here.
#[command(mut_arg("format", |format| format.alias(None)))]
pub(crate) struct BitmapArgs {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    actions: Actions,
    /// How many bytes one bit of a new bitmap stands for
    #[arg(short, long, value_name = "SIZE")]
    granularity: Option<String>,
    /// The image that has the bitmap to merge
    #[arg(short = 'b', long, value_name = "FILE")]
    source_file: Option<String>,
    /// The format of that image
    #[arg(short = 'F', long = "source-format", value_name = "FMT")]
    source_format: Option<String>,
    /// The image and the name of its bitmap
    #[arg(value_name = "FILE BITMAP", num_args = 0..)]
    words: Vec<String>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Add,
    Remove,
    Clear,
    Enable,
    Disable,
    /// Mark as dirty what is dirty in the bitmap of that name.
    Merge(String),
}

impl Action {
    fn name(&self) -> &'static str {
        match self {
            Action::Add => "add",
            Action::Remove => "remove",
            Action::Clear => "clear",
            Action::Enable => "enable",
            Action::Disable => "disable",
            Action::Merge(_) => "merge",
        }
    }
}

/// The actions, in the order of the command line.
#[derive(Debug)]
struct Actions(Vec<Action>);

/// Actions without an operand, with what help says about them.
const SIMPLE: [(Action, &str); 5] = [
    (Action::Add, "Make the bitmap"),
    (Action::Remove, "Remove the bitmap"),
    (Action::Clear, "Mark nothing as dirty"),
    (Action::Enable, "Record writes from now on"),
    (Action::Disable, "Record writes no longer"),
];

impl Args for Actions {
    fn augment_args(command: Command) -> Command {
        let simple = SIMPLE.iter().map(|(action, help)| {
            let arg = Arg::new(action.name()).long(action.name()).help(*help);
            arg.action(ArgAction::Append).num_args(0).default_missing_value("on")
        });
        let merge = Arg::new("merge").long("merge").value_name("BITMAP").action(ArgAction::Append);
        command.args(simple).arg(merge.help("Mark as dirty what is dirty in this other bitmap"))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Actions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut found = Vec::new();
        for (action, _) in SIMPLE {
            let places = matches.indices_of(action.name()).into_iter().flatten();
            found.extend(places.map(|place| (place, action.clone())));
        }
        let names = matches.get_many::<String>("merge").into_iter().flatten();
        let places = matches.indices_of("merge").into_iter().flatten();
        found.extend(places.zip(names).map(|(place, name)| (place, Action::Merge(name.clone()))));
        found.sort_by_key(|(place, _)| *place);
        Ok(Actions(found.into_iter().map(|(_, action)| action).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Run for BitmapArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        let granularity = self.granularity.take().map(|text| tool.parse_size(&text, "granularity"));
        // 0 is the default, whatever that is.
        let granularity = granularity.transpose()?.filter(|size| *size > 0);
        let mut words = std::mem::take(&mut self.words);
        let expected = 2 - self.input.sources.len().min(1);
        let name = match words.pop() {
            Some(name) if words.len() + 1 == expected => name,
            _ => return Err(tool.usage_error("Expecting filename and bitmap name")),
        };
        self.check(tool, granularity)?;
        let source = self.input.source(tool, words)?;
        let flags = OpenFlags { writable: true, resize: true, discard: true, ..self.input.flags() };
        let image = graph::open(tool.env(), &source, self.input.format.as_deref(), flags)?;
        let other = match self.other(tool) {
            Ok(other) => other,
            Err(e) => {
                let _ = image.close();
                return Err(e);
            }
        };
        let done = self.actions.0.iter().try_for_each(|action| {
            act(&image, other.as_ref(), &name, action, granularity)
                .context(|| format!("Operation {} on bitmap {name} failed", action.name()))
        });
        if done.is_err() {
            // What was done before is kept; left open, all bitmaps would count as inconsistent.
            let _ = image.close();
            return done.map(|()| ExitCode::FAILURE);
        }
        other.map_or(Ok(()), Image::close)?;
        close(tool, &image)
    }
}

impl BitmapArgs {
    fn check(&self, tool: &Tool<'_>, granularity: Option<u64>) -> Result<()> {
        let actions = &self.actions.0;
        let merges = actions.iter().any(|action| matches!(action, Action::Merge(_)));
        let problem = if actions.is_empty() {
            "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge"
        } else if granularity.is_some() && !actions.contains(&Action::Add) {
            "granularity only supported with --add"
        } else if self.source_format.is_some() && self.source_file.is_none() {
            "-F only supported with -b"
        } else if self.source_file.is_some() && !merges {
            "Merge bitmap source file only supported with --merge"
        } else {
            return Ok(());
        };
        Err(if actions.is_empty() { tool.usage_error(problem) } else { Error::invalid(problem) })
    }

    /// The image whose bitmaps are merged, where it is another one. Its backing file, which may be the image that is changed,
    /// has no part in it.
    fn other(&self, tool: &Tool<'_>) -> Result<Option<Image>> {
        let Some(name) = &self.source_file else { return Ok(None) };
        let source = Source::Name(name.clone());
        let flags = OpenFlags { no_backing: true, ..self.input.flags() };
        graph::open(tool.env(), &source, self.source_format.as_deref(), flags).map(Some)
    }
}

fn act(
    image: &Image,
    other: Option<&Image>,
    name: &str,
    action: &Action,
    granularity: Option<u64>,
) -> Result<()> {
    let node = image.node();
    match action {
        Action::Add => node.add_bitmap(name, granularity).map(drop),
        Action::Remove => node.remove_bitmap(name),
        Action::Clear => node.bitmap(name)?.clear(),
        Action::Enable => node.bitmap(name)?.set_enabled(true),
        Action::Disable => node.bitmap(name)?.set_enabled(false),
        Action::Merge(from) => {
            let target = node.bitmap(name)?;
            let (theirs, ours) = (other.unwrap_or(image), image.len()?);
            let source = theirs.node().bitmap(from)?;
            if theirs.len()? != ours {
                let theirs = theirs.len()?;
                return Err(Error::invalid(format!(
                    "Bitmaps are of different sizes (destination size is {ours}, source size is {theirs}) and can't be merged"
                )));
            }
            target.merge(&source)
        }
    }
}

/// Closes the image. What cannot be saved is said, tried once more, and said again, as scripts expect it.
fn close(tool: &Tool<'_>, image: &Image) -> Result<ExitCode> {
    let Err(e) = image.node().close() else { return Ok(ExitCode::SUCCESS) };
    tool.out.error(&e);
    tool.out.error_text(&format!("Error while closing the image: {}", e.strerror()));
    image.node().close().map(|()| ExitCode::FAILURE)
}
