//! Commands from standard input: with line editing, history and completion on a terminal, else line by line after a
//! prompt.

use crate::command;
use crate::session::Session;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use std::io::{self, BufRead, IsTerminal, Read};

/// The longest piece of a line that is one command, in bytes.
const MAX_LINE: u64 = 1023;

/// Runs the commands of standard input until its end or `quit`; whether all did what they were asked to.
pub(crate) fn run(session: &mut Session<'_>) -> bool {
    let prompt = format!("{}> ", session.out.program());
    if io::stdin().is_terminal() && session.out.is_terminal() {
        // A terminal that cannot be edited on is read like a file.
        let config = Config::builder().completion_type(CompletionType::List).build();
        if let Ok(mut editor) = Editor::with_config(config) {
            editor.set_helper(Some(CommandNames));
            return edited(session, editor, &prompt);
        }
    }
    plain(session, &prompt)
}

/// Completes the first word of a line.
struct CommandNames;

impl Completer for CommandNames {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..pos];
        let names = command::all().map(|row| row.name).filter(|name| name.starts_with(typed));
        Ok((0, names.map(|name| format!("{name} ")).collect()))
    }
}

impl Hinter for CommandNames {
    type Hint = String;
}

impl Highlighter for CommandNames {}
impl Validator for CommandNames {}
impl Helper for CommandNames {}

fn edited(session: &mut Session<'_>, mut editor: Editor<CommandNames, DefaultHistory>, prompt: &str) -> bool {
    let mut worked = true;
    while !session.has_quit() {
        match editor.readline(prompt) {
            Ok(line) => {
                // A line that is not kept can still be run.
                let _ = editor.add_history_entry(&line);
                worked &= session.run(&line);
            }
            Err(ReadlineError::Interrupted) => {}
            Err(_) => break,
        }
    }
    worked
}

fn plain(session: &mut Session<'_>, prompt: &str) -> bool {
    let mut worked = true;
    let mut input = io::stdin().lock();
    while !session.has_quit() {
        // Programs that drive this one wait for the prompt.
        session.out.print(prompt);
        session.out.flush();
        let mut line = Vec::new();
        match input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(1..) => worked &= session.run(String::from_utf8_lossy(&line).trim_end_matches('\n')),
            _ => break,
        }
    }
    worked
}
