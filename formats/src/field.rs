//! Errors about fields of headers: beside the sentence that is known for each, where the field is.

use block::Error;

/// An error about the field `name`, which is at offset `at` of the file.
pub(crate) fn wrong(text: impl Into<String>, name: &str, at: usize) -> Error {
    Error::invalid(text).with_place(place(name, at))
}

/// Where a field is, as people are told.
pub(crate) fn place(name: &str, at: usize) -> String {
    format!("The field '{name}' is at offset {at} of the file.")
}
