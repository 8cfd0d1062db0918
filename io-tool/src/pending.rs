//! Asynchronous requests: each runs on a thread of its own, and what it has to say is printed by the main thread.
//!
//! Reports appear only where the main thread collects them, in the order in which the requests were submitted, so that
//! the output does not depend on which of two finished first.

use block::tool::Out;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

/// The requests in flight.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    requests: Vec<JoinHandle<String>>,
}

impl Pending {
    /// Starts a request; `run` carries it out and gives the report.
    pub(crate) fn submit(&mut self, run: impl FnOnce() -> String + Send + 'static) {
        self.requests.push(std::thread::spawn(run));
    }

    /// Prints the reports of those that have finished.
    pub(crate) fn collect(&mut self, out: &Out, notices: &Notices) {
        let (finished, running) =
            std::mem::take(&mut self.requests).into_iter().partition(JoinHandle::is_finished);
        self.requests = running;
        print(finished, out, notices);
    }

    /// Waits for all and prints their reports.
    pub(crate) fn finish(&mut self, out: &Out, notices: &Notices) {
        print(std::mem::take(&mut self.requests), out, notices);
    }
}

fn print(requests: Vec<JoinHandle<String>>, out: &Out, notices: &Notices) {
    for request in requests {
        let report = request.join();
        // What was said about a request that stopped comes before what became of it.
        out.print(notices.take());
        match report {
            Ok(report) => out.print(report),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    out.print(notices.take());
}

/// What drivers have to say while requests run.
#[derive(Debug, Default)]
pub(crate) struct Notices(Mutex<String>);

impl Notices {
    /// Leaves a line.
    pub(crate) fn leave(&self, line: &str) {
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text.push_str(line);
        text.push('\n');
    }

    /// Takes the lines that were left.
    pub(crate) fn take(&self) -> String {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
