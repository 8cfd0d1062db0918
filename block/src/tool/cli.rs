//! What the programs' clap tables have in common: the customs of the tools we replace, and their words for what is
//! wrong with a command line.

use super::{Out, version};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Error};
use std::process::ExitCode;

/// Lets every option take any word as its value, one that looks like an option included.
pub fn any_value(command: Command) -> Command {
    let options = |arg: Arg| {
        // Some are repeated like values and take none.
        let empty = arg.get_num_args().is_some_and(|range| !range.takes_values());
        let takes = !arg.is_positional() && arg.get_action().takes_values() && !empty;
        if takes { arg.allow_hyphen_values(true) } else { arg }
    };
    command.mut_args(options).mut_subcommands(any_value)
}

/// Prints what clap has to say about a command line whose last word is `last`: help, the version, or what is wrong with
/// it. Gives the exit status.
pub fn report(e: &Error, last: &str, out: &Out) -> ExitCode {
    match e.kind() {
        ErrorKind::DisplayHelp => out.print(e),
        ErrorKind::DisplayVersion => out.line(format_args!("{} version {}", out.program(), version())),
        _ => {
            let hint = format!("Try '{} --help' for more information", out.program());
            out.error(&crate::Error::invalid(complaint(e, last)).with_hint(hint));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// What is wrong with a command line whose last word is `last`, as that is where a value is missing.
pub fn complaint(e: &Error, last: &str) -> String {
    let context = |kind| match e.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let option = context(ContextKind::InvalidArg);
    let name = option.split([' ', '=']).next().unwrap_or_default();
    match e.kind() {
        ErrorKind::UnknownArgument => unknown(name),
        ErrorKind::TooManyValues => format!("option '{name}' doesn't allow an argument"),
        ErrorKind::InvalidValue if context(ContextKind::InvalidValue).is_empty() => missing_value(name, last),
        _ => e.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    }
}

fn unknown(name: &str) -> String {
    match name.strip_prefix('-') {
        Some(short) if !short.starts_with('-') => {
            format!("invalid option -- '{}'", short.chars().next().unwrap_or_default())
        }
        Some(_) => format!("unrecognized option '{name}'"),
        None => format!("unexpected argument '{name}'"),
    }
}

fn missing_value(name: &str, last: &str) -> String {
    match last.strip_prefix('-') {
        Some(short) if !short.starts_with('-') => {
            format!("option requires an argument -- '{}'", short.chars().next_back().unwrap_or_default())
        }
        _ => format!("option '{name}' requires an argument"),
    }
}
