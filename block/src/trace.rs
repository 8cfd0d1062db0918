//! Tracing (`-T`): a line for each request that a node is given, on standard error or in a file.
//!
//! What is traced is said once, by [`start`], before the first image is opened, and holds for the process: a node cannot
//! know which program it is in. While nothing is traced, a request pays for one look at that.

use crate::tool::{self, Out};
use crate::{Context, Error, NodeName, Result};
use secret::options::glob;
use secret::options::keyval::Bare;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

/// What can be traced: the name of each event is that of its [`Operation`].
const EVENTS: [&str; 10] = [
    "node_open",
    "node_close",
    "node_read",
    "node_write",
    "node_write_zeroes",
    "node_copy",
    "node_discard",
    "node_flush",
    "node_map",
    "node_truncate",
];

static TRACE: OnceLock<Trace> = OnceLock::new();

/// What happens to a node, in the order of [`EVENTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Open,
    Close,
    Read,
    Write,
    WriteZeroes,
    Copy,
    Discard,
    Flush,
    Map,
    Truncate,
}

/// What the command line asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Which events there are; they have been printed.
    Help,
    /// Nothing else: what is to be traced is, from now on.
    Trace,
}

/// What is traced, and where to.
struct Trace {
    enabled: [bool; EVENTS.len()],
    log: Mutex<Box<dyn Write + Send>>,
}

/// Does what the values of `-T` say: `[enable=]PATTERN`, `events=FILE` and `file=FILE`, in lists.
///
/// # Errors
/// Another option, or a file that cannot be read or made.
pub fn start(out: &Out, specs: &[String]) -> Result<Asked> {
    let mut enabled = [false; EVENTS.len()];
    let mut log = None;
    for spec in specs {
        let spec = Spec::parse(spec)?;
        if matches!(spec.enable.as_deref(), Some("help" | "?")) {
            EVENTS.iter().for_each(|event| out.line(event));
            return Ok(Asked::Help);
        }
        if let Some(path) = &spec.events {
            enable_listed(out, &mut enabled, path)?;
        }
        if let Some(pattern) = &spec.enable {
            enable(&mut enabled, pattern).unwrap_or_else(|warning| out.error_text(&warning));
        }
        log = spec.file.or(log);
    }
    let log = log.as_deref().map(open_log).transpose()?;
    if enabled.contains(&true) {
        // A process has one command line.
        let _ = TRACE.set(Trace { enabled, log: Mutex::new(log.unwrap_or_else(|| Box::new(io::stderr()))) });
    }
    Ok(Asked::Trace)
}

/// One value of `-T`; of what it says twice, the last.
#[derive(Debug, Default)]
struct Spec {
    enable: Option<String>,
    events: Option<String>,
    file: Option<String>,
}

impl Spec {
    fn parse(text: &str) -> Result<Self> {
        let mut spec = Spec::default();
        for (key, value) in tool::pairs(text, Bare::Switch("enable"))? {
            let member = match key.as_str() {
                "enable" => &mut spec.enable,
                "events" => &mut spec.events,
                "file" => &mut spec.file,
                _ => return Err(Error::invalid(format!("Invalid parameter '{key}'"))),
            };
            *member = Some(value);
        }
        Ok(spec)
    }
}

fn open_log(path: &str) -> Result<Box<dyn Write + Send>> {
    let file = File::create(path);
    Ok(Box::new(file.map_err(Error::from).context(|| format!("Error opening logfile {path}"))?))
}

/// Enables what a file lists, one pattern a line.
fn enable_listed(out: &Out, enabled: &mut [bool; EVENTS.len()], path: &str) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(Error::from).context(|| path)?;
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Err(warning) = enable(enabled, line) {
            out.to_stderr(&format!("{}:{path}:{number}: {warning}\n", out.program()));
        }
    }
    Ok(())
}

/// Enables, or after a minus disables, the events that fit a pattern. The error is a warning about a name that is none.
fn enable(enabled: &mut [bool; EVENTS.len()], pattern: &str) -> std::result::Result<(), String> {
    let (pattern, on) = match pattern.strip_prefix('-') {
        Some(pattern) => (pattern, false),
        None => (pattern, true),
    };
    let mut known = pattern.contains(['*', '?']);
    for (_, enabled) in EVENTS.iter().zip(enabled).filter(|(event, _)| glob::fits(pattern, event)) {
        *enabled = on;
        known = true;
    }
    if known { Ok(()) } else { Err(format!("warning: trace event '{pattern}' does not exist")) }
}

/// Tells the trace, if it is to hear of it, what happened to a node; the details follow its name.
pub(crate) fn tell(operation: Operation, name: &NodeName, details: impl FnOnce() -> String) {
    if let Some(trace) = TRACE.get().filter(|trace| trace.enabled[operation as usize]) {
        trace.line(operation, name, &details());
    }
}

impl Trace {
    fn line(&self, operation: Operation, name: &NodeName, details: &str) {
        let event = EVENTS[operation as usize];
        let line = format!("{event} node {} driver {}{details}\n", name.node, name.driver);
        // What cannot be told does not stop the request.
        let _ = self.log.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enabled_by(patterns: &[&str]) -> Vec<&'static str> {
        let mut enabled = [false; EVENTS.len()];
        for pattern in patterns {
            enable(&mut enabled, pattern).unwrap();
        }
        EVENTS.into_iter().zip(enabled).filter_map(|(event, on)| on.then_some(event)).collect()
    }

    #[test]
    fn patterns_enable_and_disable_events() {
        for (patterns, events) in [
            (&["node_read"][..], &["node_read"][..]),
            (&["node_re?d"], &["node_read"]),
            (&["*_write*", "-node_write"], &["node_write_zeroes"]),
            (&["nothing*"], &[]),
        ] {
            assert_eq!(enabled_by(patterns), events);
        }
    }

    #[test]
    fn a_name_that_is_no_event_is_warned_of() {
        for name in ["node_reads", "", "NODE_READ", "-nothing"] {
            let warning = enable(&mut [false; EVENTS.len()], name).unwrap_err();
            assert_eq!(
                warning,
                format!("warning: trace event '{}' does not exist", name.trim_start_matches('-'))
            );
        }
    }
}
