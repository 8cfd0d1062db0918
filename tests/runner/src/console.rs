//! What the guest prints: on standard output, in the screen file, and past the eye of who waits for a text.

use crate::machine::Machine;
use block::{Context, Result};
use std::fs::File;
use std::io::{self, Write};

/// Where the guest's output goes.
#[derive(Debug)]
pub(crate) struct Console {
    screen: Option<File>,
    expect: Option<Vec<u8>>,
    /// The end of what was printed, shorter than the expected text.
    tail: Vec<u8>,
    seen: bool,
}

impl Console {
    /// A console for this machine; its screen file is made anew.
    ///
    /// # Errors
    /// The screen file cannot be made.
    pub(crate) fn new(machine: &Machine) -> Result<Self> {
        let create = |path: &std::path::PathBuf| {
            File::create(path).context(|| format!("Could not create '{}'", path.display()))
        };
        let screen = machine.screen.as_ref().map(create).transpose()?;
        let expect = machine.expect.clone().map(String::into_bytes);
        Ok(Console { screen, expect, tail: Vec::new(), seen: false })
    }

    /// Prints.
    ///
    /// # Errors
    /// Nobody takes the output.
    pub(crate) fn print(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()?;
        if let Some(screen) = &mut self.screen {
            screen.write_all(bytes)?;
        }
        self.watch(bytes);
        Ok(())
    }

    /// Whether the expected text has been printed.
    pub(crate) fn has_seen(&self) -> bool {
        self.seen
    }

    fn watch(&mut self, bytes: &[u8]) {
        let Some(expect) = &self.expect else { return };
        self.tail.extend_from_slice(bytes);
        self.seen |= self.tail.windows(expect.len().max(1)).any(|window| window == expect.as_slice());
        let keep = expect.len().saturating_sub(1);
        self.tail.drain(..self.tail.len().saturating_sub(keep));
    }
}

#[cfg(test)]
mod tests {
    use super::Console;

    fn watching(expect: &str) -> Console {
        Console { screen: None, expect: Some(expect.into()), tail: Vec::new(), seen: false }
    }

    #[test]
    fn a_text_is_seen_in_pieces_and_only_when_whole() {
        let mut console = watching("ready");
        for piece in ["re", "rea", "d"] {
            console.watch(piece.as_bytes());
            assert!(!console.has_seen(), "{piece}");
        }
        console.watch(b"y.");
        assert!(console.has_seen());
        assert!(console.tail.len() < 5);
    }
}
