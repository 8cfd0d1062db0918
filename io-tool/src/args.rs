//! The words of a command: what a command line is split into, and the options among them.
//!
//! Options follow getopt's customs: bundled, values joined or separate, anywhere between the operands until `--`. They
//! are handed out one by one, so that what is wrong with the first is said before what is wrong with the second.

use crate::command::Failure;
use secret::options::size::{self, SizeError};

/// One option of a command.
#[derive(Debug)]
pub(crate) struct Opt {
    /// Its letter.
    pub(crate) letter: char,
    /// What its value is called in help; `None` for a switch.
    pub(crate) value: Option<&'static str>,
    /// One line of help.
    pub(crate) help: &'static str,
}

/// An option without a value.
pub(crate) const fn switch(letter: char, help: &'static str) -> Opt {
    Opt { letter, value: None, help }
}

/// An option with a value.
pub(crate) const fn valued(letter: char, value: &'static str, help: &'static str) -> Opt {
    Opt { letter, value: Some(value), help }
}

/// The words after a command's name.
#[derive(Debug)]
pub(crate) struct Words<'a> {
    command: &'a str,
    options: &'static [Opt],
    rest: std::vec::IntoIter<&'a str>,
    /// What is left of a word of bundled options.
    bundle: &'a str,
    ended: bool,
    operands: Vec<&'a str>,
}

impl<'a> Words<'a> {
    /// The words given to the command that was called `command` and takes `options`.
    pub(crate) fn new(command: &'a str, words: Vec<&'a str>, options: &'static [Opt]) -> Self {
        let rest = words.into_iter();
        Words { command, options, rest, bundle: "", ended: false, operands: Vec::new() }
    }

    /// The next option with its value (empty for a switch); `None` after the last.
    ///
    /// # Errors
    /// An option the command does not have, or a value that is missing.
    pub(crate) fn next_option(&mut self) -> Result<Option<(char, &'a str)>, Failure> {
        while self.bundle.is_empty() {
            match self.rest.next() {
                None => return Ok(None),
                Some("--") if !self.ended => self.ended = true,
                Some(word) => match word.strip_prefix('-') {
                    Some(bundle) if !bundle.is_empty() && !self.ended => self.bundle = bundle,
                    _ => self.operands.push(word),
                },
            }
        }
        let mut letters = self.bundle.chars();
        let letter = letters.next().unwrap_or_default();
        self.bundle = letters.as_str();
        let option = self.options.iter().find(|o| o.letter == letter);
        let option = option.ok_or_else(|| self.complain("invalid option", letter))?;
        match option.value {
            None => Ok(Some((letter, ""))),
            Some(_) => self.value(letter).map(|value| Some((letter, value))),
        }
    }

    fn value(&mut self, letter: char) -> Result<&'a str, Failure> {
        match std::mem::take(&mut self.bundle) {
            "" => self.rest.next().ok_or_else(|| self.complain("option requires an argument", letter)),
            joined => Ok(joined),
        }
    }

    fn complain(&self, what: &str, letter: char) -> Failure {
        Failure::Option(format!("{}: {what} -- '{letter}'", self.command))
    }

    /// All words as they were given: the operands of a command that does not look for options.
    pub(crate) fn operands_as_given(self) -> Vec<&'a str> {
        self.rest.collect()
    }

    /// The operands, when all options have been handed out.
    pub(crate) fn operands(self) -> Vec<&'a str> {
        self.operands
    }

    /// The operands, when all options have been handed out and there are exactly `N`.
    ///
    /// # Errors
    /// Any other number.
    pub(crate) fn exactly<const N: usize>(self) -> Result<[&'a str; N], Failure> {
        self.operands.try_into().map_err(|_| Failure::Usage)
    }

    /// The offset and the lengths of a vectored request, when all options have been handed out.
    ///
    /// # Errors
    /// Not a number, or lengths that are together longer than a request may be.
    pub(crate) fn vector(self) -> Result<(u64, Vec<usize>), Failure> {
        let (offset, lengths) = self.operands.split_first().ok_or(Failure::Usage)?;
        if lengths.is_empty() {
            return Err(Failure::Usage);
        }
        let offset = number(offset)?;
        let mut total = 0;
        let lengths = lengths.iter().map(|text| {
            let len = number(text)?;
            if len > MAX_REQUEST {
                return Err(Failure::Said(format!("Argument '{text}' exceeds maximum size {MAX_REQUEST}")));
            }
            total += len;
            if total > MAX_REQUEST {
                let text = format!("The total number of bytes exceed the maximum size {MAX_REQUEST}");
                return Err(Failure::Said(text));
            }
            Ok(len as usize)
        });
        Ok((offset, lengths.collect::<Result<_, _>>()?))
    }
}

/// The longest request, in bytes: what fits a signed 32-bit number of bytes in whole sectors.
pub(crate) const MAX_REQUEST: u64 = (1 << 31) - 512;

/// An offset or a length in bytes, with suffix.
///
/// # Errors
/// Text that is no size, or one above 2^63 - 1.
pub(crate) fn number(text: &str) -> Result<u64, Failure> {
    let why = match size::parse(text) {
        Ok(bytes) if i64::try_from(bytes).is_ok() => return Ok(bytes),
        Ok(_) | Err(SizeError::Range) => "argument too large",
        Err(SizeError::Malformed) => "non-numeric argument, or extraneous/unrecognized suffix",
    };
    Err(Failure::Said(format!("Parsing error: {why} -- {text}")))
}

/// A byte to fill buffers with, in C's notation for numbers.
///
/// # Errors
/// Anything but 0 to 255.
pub(crate) fn pattern(text: &str) -> Result<u8, Failure> {
    let byte = c_number(text).and_then(|n| u8::try_from(n).ok());
    byte.ok_or_else(|| Failure::Said(format!("{text} is not a valid pattern byte")))
}

/// A number in C's notation: decimal, `0x` hexadecimal or `0` octal.
pub(crate) fn c_number(text: &str) -> Option<u64> {
    let text = text.trim_start_matches(|c: char| c.is_ascii_whitespace());
    let text = text.strip_prefix('+').unwrap_or(text);
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // The conversion itself would take a second sign.
    if digits.starts_with(['+', '-']) { None } else { u64::from_str_radix(digits, radix).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &[Opt] = &[switch('p', ""), switch('q', ""), valued('P', "BYTE", "")];

    fn parse(line: &str) -> Result<(String, Vec<String>), String> {
        let mut words = Words::new("cmd", line.split(' ').collect(), OPTIONS);
        let mut seen = String::new();
        loop {
            match words.next_option() {
                Ok(Some((letter, value))) => seen.push_str(&format!("{letter}{value} ")),
                Ok(None) => break,
                Err(Failure::Option(text)) => return Err(text),
                Err(_) => unreachable!("options fail in no other way"),
            }
        }
        Ok((seen, words.operands.iter().map(|w| (*w).to_owned()).collect()))
    }

    #[test]
    fn options_are_bundled_joined_and_mixed_with_operands() {
        let parsed = |line| parse(line).unwrap();
        let owned = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(parsed("-pP0xa 0 -q - 1k"), ("p P0xa q ".into(), owned(&["0", "-", "1k"])));
        assert_eq!(parsed("-P -1 -- -p 2"), ("P-1 ".into(), owned(&["-p", "2"])));
    }

    #[test]
    fn what_is_wrong_with_an_option_names_the_command() {
        assert_eq!(parse("-px"), Err("cmd: invalid option -- 'x'".into()));
        assert_eq!(parse("--p"), Err("cmd: invalid option -- '-'".into()));
        assert_eq!(parse("0 -qP"), Err("cmd: option requires an argument -- 'P'".into()));
    }

    #[test]
    fn numbers_are_those_of_c() {
        for (text, want) in [("010", Some(8)), ("0x1F", Some(31)), ("+7", Some(7)), (" 0", Some(0))] {
            assert_eq!(c_number(text), want);
        }
        for text in ["", "08", "0x", "-1", "+-1", "1k", "0b1"] {
            assert_eq!(c_number(text), None, "{text}");
        }
    }
}
