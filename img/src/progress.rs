//! A long operation: its progress, and what becomes of its target when the user interrupts it.
//!
//! On a terminal `-p` shows a bar; elsewhere lines as QEMU's tools print them. Without `-p`, SIGUSR1 asks for one line.
//! Signals are handled by a thread of their own, so that an interrupt is obeyed whatever the operation waits for: the
//! target is dealt with, and the process dies of the signal.

use crate::target::Unfinished;
use block::copy::Observer;
use block::tool::Out;
use block::{Error, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the bar shows.
const TEMPLATE: &str =
    "{percent:>3}% {bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}, {eta} left";

/// When progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// All the time.
    Always,
    /// One line for each SIGUSR1.
    OnRequest,
}

impl Show {
    /// What `-p` and `-q` say together.
    pub(crate) fn new(progress: bool, quiet: bool) -> Self {
        if progress && !quiet { Show::Always } else { Show::OnRequest }
    }
}

/// A running operation. Dropped without [`Progress::finish`], it has failed.
pub(crate) struct Progress(Arc<Shared>);

/// How far the operation is. Steps are counted and judged under one lock, so that the lines do not depend on which
/// worker is faster: each step that is worth a line gets one, with the sum after exactly that step.
#[derive(Debug, Default)]
struct Steps {
    /// Bytes that are dealt with.
    done: u64,
    /// The percentage printed last.
    printed: f64,
}

impl Steps {
    fn percent(&self, total: u64) -> f64 {
        if total == 0 { 0.0 } else { self.done.min(total) as f64 * 100.0 / total as f64 }
    }

    /// Counts `bytes` of `total`; gives the percentage if it is more than `step` further than the last one given.
    fn advance(&mut self, bytes: u64, total: u64, step: f64) -> Option<f64> {
        self.done += bytes;
        let percent = self.percent(total);
        let further = percent > self.printed + step || percent >= 100.0 && self.printed < 100.0;
        (bytes > 0 && further).then(|| {
            self.printed = percent;
            percent
        })
    }

    /// Says that `done` of `total` is done; gives the percentage if it is more than `step` away from the last one
    /// given, or at either end.
    fn set(&mut self, done: u64, total: u64, step: f64) -> Option<f64> {
        self.done = done;
        let percent = self.percent(total);
        let moved = (percent - self.printed).abs() > step || percent <= 0.0 || percent >= 100.0;
        moved.then(|| {
            self.printed = percent;
            percent
        })
    }
}

/// What the operation and the thread that handles signals share.
struct Shared {
    out: Arc<Out>,
    show: Show,
    /// How much further the next line must be, in percent.
    step: f64,
    /// The bar, on a terminal.
    bar: Option<ProgressBar>,
    total: AtomicU64,
    steps: Mutex<Steps>,
    target: Mutex<Option<Unfinished>>,
}

impl Progress {
    /// Starts an operation, and to handle signals. Progress of less than `step` percent is not worth a line.
    ///
    /// # Errors
    /// Signals cannot be handled.
    pub(crate) fn start(out: &Arc<Out>, show: Show, step: f64) -> Result<Self> {
        let bar = (show == Show::Always && out.is_terminal()).then(new_bar);
        let shared = Arc::new(Shared {
            out: Arc::clone(out),
            show,
            step,
            bar,
            total: AtomicU64::new(0),
            steps: Mutex::default(),
            target: Mutex::new(None),
        });
        let signals = Signals::new(handled_signals()).map_err(Error::from)?;
        let watched = Arc::clone(&shared);
        std::thread::spawn(move || watched.handle(signals));
        shared.print_line(0.0);
        Ok(Progress(shared))
    }

    /// Says how many bytes there are to do.
    pub(crate) fn expect(&self, total: u64) {
        self.0.total.store(total, Ordering::Relaxed);
        if let Some(bar) = &self.0.bar {
            bar.set_length(total);
        }
    }

    /// Says how far it is; unlike the bytes an [`Observer`] counts, that may go back.
    pub(crate) fn set(&self, done: u64, total: u64) {
        let shared = &self.0;
        shared.total.store(total, Ordering::Relaxed);
        if let Some(bar) = &shared.bar {
            bar.set_length(total);
            bar.set_position(done);
        }
        let mut steps = shared.steps();
        if let Some(percent) = steps.set(done, total, shared.step) {
            shared.print_line(percent);
        }
    }

    /// Prints a line on standard output.
    pub(crate) fn say(&self, text: &str) {
        let print = || self.0.out.line(text);
        match &self.0.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// From here on, an interrupt or a failure leaves this target incomplete.
    pub(crate) fn begin_target(&self, target: Unfinished) {
        *self.0.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(target);
    }

    /// Gives up the target and says what has become of it, for the user.
    pub(crate) fn abandon_target(&self) -> Option<String> {
        self.0.abandon_target()
    }

    /// Ends a successful operation: what the target is now is final.
    pub(crate) fn finish(self) {
        self.0.target.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.0.print_line(100.0);
        if let Some(bar) = &self.0.bar {
            bar.finish();
        }
        // Dropping ends the line.
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.end_line();
    }
}

impl Observer for Progress {
    fn advance(&self, bytes: u64) {
        self.0.advance(bytes);
        if let Some(bar) = &self.0.bar {
            bar.inc(bytes);
        }
    }

    fn status_failed(&self, at: u64, error: &Error) {
        self.0.warn(&format!("error while reading block status at offset {at}: {}", error.strerror()));
    }

    fn read_failed(&self, at: u64, error: &Error) {
        self.0.warn(&format!("error while reading offset {at}: {}", error.strerror()));
    }
}

impl Shared {
    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a step; its line is printed before the next step counts.
    fn advance(&self, bytes: u64) {
        let mut steps = self.steps();
        if let Some(percent) = steps.advance(bytes, self.total.load(Ordering::Relaxed), self.step) {
            self.print_line(percent);
        }
    }

    fn print_line(&self, percent: f64) {
        if self.show == Show::Always && self.bar.is_none() {
            self.out.print(format_args!("{}\r", line(percent)));
            self.out.flush();
        }
    }

    /// Leaves the line with the bar or the percentage.
    fn end_line(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
        if self.show == Show::Always {
            self.out.line("");
        }
    }

    fn warn(&self, text: &str) {
        let print = || self.out.error_text(&format!("warning: {text}"));
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn abandon_target(&self) -> Option<String> {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner).take();
        target.and_then(Unfinished::abandon)
    }

    fn handle(&self, mut signals: Signals) {
        for signal in signals.forever() {
            if signal == SIGUSR1 {
                self.out.to_stderr(&format!(
                    "{}\n",
                    line(self.steps().percent(self.total.load(Ordering::Relaxed)))
                ));
                continue;
            }
            if self.bar.is_some() {
                self.end_line();
            }
            if let Some(sentence) = self.abandon_target() {
                self.out.error_text(&sentence);
            }
            // Not caught by anybody, it ends the process; failing that, the operation goes on without a target.
            let _ = emulate_default_handler(signal);
        }
    }
}

fn line(percent: f64) -> String {
    format!("    ({percent:.2}/100%)")
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stdout());
    bar.with_style(ProgressStyle::with_template(TEMPLATE).expect("the template names what there is"))
}

/// SIGUSR1, and what interrupts us, unless whoever started us has it ignored (as `nohup` does, and shells for jobs in
/// the background).
fn handled_signals() -> Vec<i32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = ignored_signals(&status);
    let heeded = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
    heeded.chain([SIGUSR1]).collect()
}

/// The mask of ignored signals in a process's status file, signal 1 the lowest bit.
fn ignored_signals(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_wins_over_progress() {
        assert_eq!(Show::new(true, false), Show::Always);
        assert_eq!(Show::new(true, true), Show::OnRequest);
        assert_eq!(Show::new(false, false), Show::OnRequest);
    }

    #[test]
    fn every_step_worth_a_line_gets_one_with_the_sum_after_it() {
        let mut steps = Steps::default();
        let lines: Vec<_> = [1, 0, 9, 40, 50, 0].map(|bytes| steps.advance(bytes, 100, 1.0)).into();
        assert_eq!(lines, [None, None, Some(10.0), Some(50.0), Some(100.0), None]);
    }

    #[test]
    fn signals_ignored_by_the_parent_are_found() {
        let status = "Name:\timg\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000003\n";
        assert_eq!(ignored_signals(status), 1 << (SIGHUP - 1) | 1 << (SIGINT - 1));
        assert_eq!(ignored_signals(""), 0);
    }

    #[test]
    fn lines_look_as_scripts_expect() {
        assert_eq!(line(0.0), "    (0.00/100%)");
        assert_eq!(line(100.0 / 3.0), "    (33.33/100%)");
    }
}
