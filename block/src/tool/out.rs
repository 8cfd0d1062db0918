//! Standard output and error, buffered and flushed as QEMU's tools do it.
//!
//! When standard output is not a terminal it is fully buffered and standard error is not, so that errors come first in
//! a log of both. Scripts and the upstream suite depend on that.

use crate::Error;
use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where a program prints.
#[derive(Debug)]
pub struct Out {
    program: String,
    terminal: bool,
    places: bool,
    stdout: Mutex<BufWriter<io::Stdout>>,
}

impl Out {
    /// Output of the program of this name.
    pub fn new(program: String) -> Self {
        let stdout = Mutex::new(BufWriter::with_capacity(4096, io::stdout()));
        Out { program, terminal: io::stdout().is_terminal(), places: false, stdout }
    }

    /// The same, telling with errors where in an image the cause is.
    #[must_use]
    pub fn telling_places(mut self) -> Self {
        self.places = true;
        self
    }

    /// The program's name, as messages carry it.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Whether standard output is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Prints `text`, piece by piece as it is made; to a terminal at once, else when the buffer is full or flushed.
    pub fn print(&self, text: impl Display) {
        let mut stdout = self.lock();
        // A reader that went away (`| head`) is no reason to fail.
        let _ = write!(stdout, "{text}");
        if self.terminal {
            let _ = stdout.flush();
        }
    }

    /// Prints `text` and a newline.
    pub fn line(&self, text: impl Display) {
        self.print(format_args!("{text}\n"));
    }

    /// Sends what is buffered on its way.
    pub fn flush(&self) {
        let _ = self.lock().flush();
    }

    /// Prints `PROGRAM: text` on standard error.
    pub fn error_text(&self, text: &str) {
        self.to_stderr(&format!("{}: {text}\n", self.program));
    }

    /// Prints an error with all its causes; where that is and its hint on lines of their own.
    pub fn error(&self, error: &Error) {
        self.error_text(&error.to_string());
        if let Some(place) = error.place().filter(|_| self.places) {
            self.to_stderr(&format!("{place}\n"));
        }
        self.hint(error);
    }

    /// Prints the hint of an error, if it has one.
    pub fn hint(&self, error: &Error) {
        if let Some(hint) = error.hint() {
            self.to_stderr(&format!("{hint}\n"));
        }
    }

    /// Prints `text` on standard error as it is.
    pub fn to_stderr(&self, text: &str) {
        let _ = io::stderr().write_all(text.as_bytes());
    }

    fn lock(&self) -> MutexGuard<'_, BufWriter<io::Stdout>> {
        self.stdout.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        self.flush();
    }
}
