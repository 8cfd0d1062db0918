//! `help`.

use super::{CommandRow, Count, Failure, Needs, Outcome, all, find};
use crate::args::Words;
use crate::session::Session;

/// `help`.
pub(super) static HELP: CommandRow = CommandRow {
    short: Some("?"),
    operands: "[command]",
    words: Count::Between(0, 1),
    needs: Needs::Nothing,
    summary: "say what a command does, or all",
    ..CommandRow::new("help", help)
};

fn help(session: &mut Session<'_>, words: Words<'_>) -> Outcome {
    match words.operands_as_given()[..] {
        [name] => {
            let row = find(name).ok_or_else(|| Failure::Said(format!("command {name} not found")))?;
            session.out.print(explain(row, name));
        }
        _ => {
            all().for_each(|row| session.out.line(row.usage(row.name)));
            session.out.print("\nUse 'help commandname' for extended help.\n");
        }
    }
    Ok(())
}

fn explain(row: &CommandRow, name: &str) -> String {
    let mut text = format!("{}\n", row.usage(name));
    if !row.detail.is_empty() {
        text.push_str(&format!("\n {}\n", row.detail));
    }
    for option in row.options {
        text.push_str(&format!(" -{}, -- {}\n", option.letter, option.help));
    }
    text
}
