//! The console as devices and firmware hold it: shared, and ending the run when the expected text has come.

use crate::console::Console;
use crate::machine::Outcome;
use std::io::{self, Write};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

/// A shared console.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    console: Arc<Mutex<Console>>,
    end: Sender<Outcome>,
}

impl Screen {
    /// Shares `console`; `end` is told when the expected text was seen.
    pub(super) fn new(console: Console, end: Sender<Outcome>) -> Self {
        Screen { console: Arc::new(Mutex::new(console)), end }
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut console = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        console.print(bytes)?;
        if console.has_seen() {
            // Said once is enough; afterwards nobody listens.
            let _ = self.end.send(Outcome::Seen);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
