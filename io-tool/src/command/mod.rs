//! The commands: one table, from which they are found, checked, explained and run.

mod aio;
mod breakpoint;
mod help;
mod image;
mod process;
mod read;
mod status;
mod write;
mod zone;

use crate::args::{Opt, Words};
use crate::session::Session;
use block::Error;

/// Why a command did not do what it was asked to. Where it is told is part of the behaviour: results and what is wrong
/// with an operand go to standard output.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Everything has been said.
    Told,
    /// A line for standard output.
    Said(String),
    /// A line for standard error.
    Complaint(String),
    /// An error, for standard error, with the program's name in front.
    Error(Error),
    /// The words make no sense; the usage says which would.
    Usage,
    /// A line for standard error, and then the usage.
    Option(String),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Error(e)
    }
}

/// What a command comes to.
pub(crate) type Outcome = Result<(), Failure>;

/// What must be open for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing.
    Nothing,
    /// An image.
    Image,
    /// An image that may be written.
    Writable,
}

/// How many words a command takes, options and their values included.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Count {
    /// Any number.
    Any,
    /// So many.
    Exactly(usize),
    /// So many and more.
    AtLeast(usize),
    /// From the first number to the second.
    Between(usize, usize),
}

impl Count {
    /// # Errors
    /// Another number of words.
    pub(crate) fn check(self, name: &str, words: usize) -> Outcome {
        let (good, expected) = match self {
            Count::Any => return Ok(()),
            Count::Exactly(n) => (words == n, n.to_string()),
            Count::AtLeast(n) => (words >= n, format!("at least {n}")),
            Count::Between(min, max) => ((min..=max).contains(&words), format!("between {min} and {max}")),
        };
        if good {
            return Ok(());
        }
        let text = format!("bad argument count {words} to {name}, expected {expected} arguments");
        Err(Failure::Complaint(text))
    }
}

/// One command.
#[derive(Debug)]
pub(crate) struct CommandRow {
    /// Its name.
    pub(crate) name: &'static str,
    /// A shorter name.
    pub(crate) short: Option<&'static str>,
    /// Its options.
    pub(crate) options: &'static [Opt],
    /// What its operands are called in help.
    pub(crate) operands: &'static str,
    /// How many words it takes.
    pub(crate) words: Count,
    /// What must be open.
    pub(crate) needs: Needs,
    /// What it does, in a line.
    pub(crate) summary: &'static str,
    /// More about it, with an example.
    pub(crate) detail: &'static str,
    /// Runs it.
    pub(crate) run: fn(&mut Session<'_>, Words<'_>) -> Outcome,
}

impl CommandRow {
    /// A row to start from: a command without options and operands that needs an image.
    const fn new(name: &'static str, run: fn(&mut Session<'_>, Words<'_>) -> Outcome) -> Self {
        CommandRow {
            name,
            short: None,
            options: &[],
            operands: "",
            words: Count::Exactly(0),
            needs: Needs::Image,
            summary: "",
            detail: "",
            run,
        }
    }

    /// Its words and what it does, in a line; it was called `name`.
    pub(crate) fn usage(&self, name: &str) -> String {
        let switches: String = self.options.iter().filter(|o| o.value.is_none()).map(|o| o.letter).collect();
        let mut text = name.to_owned();
        if !switches.is_empty() {
            text.push_str(&format!(" [-{switches}]"));
        }
        for option in self.options {
            if let Some(value) = option.value {
                text.push_str(&format!(" [-{} {value}]", option.letter));
            }
        }
        if !self.operands.is_empty() {
            text.push_str(&format!(" {}", self.operands));
        }
        format!("{text} -- {}", self.summary)
    }
}

/// The command of that name.
pub(crate) fn find(name: &str) -> Option<&'static CommandRow> {
    all().find(|row| row.name == name || row.short == Some(name))
}

/// All commands, in the order of their names.
pub(crate) fn all() -> impl Iterator<Item = &'static CommandRow> {
    COMMANDS.iter().copied()
}

static COMMANDS: [&CommandRow; 32] = [
    &process::ABORT,
    &aio::AIO_FLUSH,
    &aio::AIO_READ,
    &aio::AIO_WRITE,
    &status::ALLOC,
    &breakpoint::BREAK,
    &image::CLOSE,
    &write::DISCARD,
    &write::FLUSH,
    &help::HELP,
    &status::INFO,
    &status::LENGTH,
    &status::MAP,
    &image::OPEN,
    &process::QUIT,
    &read::READ,
    &read::READV,
    &breakpoint::REMOVE_BREAK,
    &image::REOPEN,
    &breakpoint::RESUME,
    &process::SIGRAISE,
    &process::SLEEP,
    &write::TRUNCATE,
    &breakpoint::WAIT_BREAK,
    &write::WRITE,
    &write::WRITEV,
    &zone::ZONE_APPEND,
    &zone::ZONE_CLOSE,
    &zone::ZONE_FINISH,
    &zone::ZONE_OPEN,
    &zone::ZONE_REPORT,
    &zone::ZONE_RESET,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_in_order_and_no_name_means_two() {
        let names: Vec<_> = all().map(|row| row.name).collect();
        assert!(names.is_sorted());
        let mut words: Vec<_> = all().flat_map(|row| [Some(row.name), row.short]).flatten().collect();
        let count = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), count);
    }

    #[test]
    fn the_usage_lists_every_option() {
        let usage = find("r").unwrap().usage("r");
        assert!(usage.starts_with("r [-bCpqrv] [-l LEN] [-P BYTE] [-s OFF] off len -- "), "{usage}");
    }
}
