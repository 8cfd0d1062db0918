//! `-o`: creation options from the command line, and their list for people.

use crate::command::Tool;
use block::graph::{self, CreateOption, CreateOptions, DriverRow, Env};
use block::tool::Out;
use block::{Error, Result};
use secret::options::keyval::{self, Bare};

/// The column at which an explanation starts.
const NAME_WIDTH: usize = 22;

/// Refuses lists that would not mean the same when joined with others.
///
/// # Errors
/// A list that is empty, or begins or ends with a comma that is not part of a value.
pub(crate) fn check_lists(lists: &[String]) -> Result<()> {
    for list in lists {
        let trailing = list.len() - list.trim_end_matches(',').len();
        if list.is_empty() || list.starts_with(',') || trailing % 2 == 1 {
            return Err(Error::invalid(format!("Invalid option list: {list}")));
        }
    }
    Ok(())
}

/// Whether one of the words is `help` or `?`.
pub(crate) fn wants_help(lists: &[String]) -> bool {
    // Doubled commas belong to a value; single ones part words.
    let words = |list: &String| list.replace(",,", "\0").split(',').any(|word| matches!(word, "help" | "?"));
    lists.iter().any(words)
}

/// The driver of the format of that name.
///
/// # Errors
/// No such format.
pub(crate) fn format_row(env: Env<'_>, name: &str) -> Result<&'static DriverRow> {
    env.drivers.find(name).ok_or_else(|| Error::invalid(format!("Unknown file format '{name}'")))
}

/// Sets every option of the lists, in order.
///
/// # Errors
/// An unknown option, or a value it does not take.
pub(crate) fn set_all(options: &mut CreateOptions, lists: &[String]) -> Result<()> {
    for list in lists {
        for (key, value) in keyval::pairs(list, Bare::Always)? {
            options.set(&key, &value)?;
        }
    }
    Ok(())
}

/// Puts a backing file and its format among the options of an image in the format `row`.
///
/// # Errors
/// A format without backing files.
pub(crate) fn set_backing(
    options: &mut CreateOptions,
    row: &DriverRow,
    file: Option<&str>,
    format: Option<&str>,
) -> Result<()> {
    for (key, value, what) in
        [("backing_file", file, "Backing file"), ("backing_fmt", format, "Backing file format")]
    {
        let Some(value) = value else { continue };
        options.set(key, value).map_err(|_| {
            Error::unsupported(format!("{what} not supported for file format '{}'", row.name))
        })?;
    }
    Ok(())
}

/// Prints the options there are for images of `format`, in `filename` if there is one.
///
/// # Errors
/// A format that cannot be created.
pub(crate) fn print_help(tool: &Tool<'_>, format: &str, filename: Option<&str>) -> Result<()> {
    let row = format_row(tool.env(), format)?;
    let options = graph::options_for(tool.env(), row, filename)?;
    match filename {
        Some(_) => tool.out.line("Supported options:"),
        None => tool.out.line(format_args!("Supported {format} options:")),
    }
    help_table(tool.out, options.table());
    if filename.is_none() {
        tool.out.print(
            "\nThe protocol level may support further options.\n\
             Specify the target filename to include those options.\n",
        );
    }
    Ok(())
}

/// Prints a line for each option, in the order of their names. Options without help are not advertised.
pub(crate) fn help_table(out: &Out, table: &[CreateOption]) {
    let mut table = table.to_vec();
    table.retain(|option| !option.help.is_empty());
    table.sort_by_key(|option| option.name);
    table.iter().for_each(|option| out.line(help_line(option)));
}

fn help_line(option: &CreateOption) -> String {
    let name = format!("{}={}", option.name, option.kind.name());
    format!("  {name:<NAME_WIDTH$} - {}", option.help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::graph::CreateKind;

    fn list(text: &str) -> [String; 1] {
        [text.to_owned()]
    }

    #[test]
    fn lists_that_cannot_be_joined_are_refused() {
        for text in ["", ",", ",,", ",x", "x,", "x,,,"] {
            assert!(check_lists(&list(text)).is_err(), "{text}");
        }
        for text in ["x", "x,,", "x=1,y", "x,,,,"] {
            assert!(check_lists(&list(text)).is_ok(), "{text}");
        }
    }

    #[test]
    fn help_is_a_word_of_its_own() {
        for text in ["help", "?", "a=b,help", "help,a=b", "a=b,,,help"] {
            assert!(wants_help(&list(text)), "{text}");
        }
        for text in ["a=help", "help=on", "a=b,,help", "helper"] {
            assert!(!wants_help(&list(text)), "{text}");
        }
    }

    #[test]
    fn explanations_line_up_unless_the_name_is_too_long() {
        let option = |name| CreateOption { name, kind: CreateKind::Size, help: "Text", default: None };
        assert_eq!(help_line(&option("size")), "  size=<size>            - Text");
        assert_eq!(help_line(&option("extent_size_hint")), "  extent_size_hint=<size> - Text");
    }
}
