//! `break`, `remove_break`, `resume` and `wait_break`: requests that stop at an event until they are resumed.

use super::{CommandRow, Count, Failure, Outcome};
use crate::args::Words;
use crate::session::Session;

/// `break`.
pub(super) static BREAK: CommandRow = CommandRow {
    operands: "event tag",
    words: Count::Exactly(2),
    summary: "stop the next request at an event and call it by the tag",
    ..CommandRow::new("break", set)
};

/// `remove_break`.
pub(super) static REMOVE_BREAK: CommandRow = CommandRow {
    operands: "tag",
    words: Count::Exactly(1),
    summary: "take a breakpoint back, resuming the request it stopped",
    ..CommandRow::new("remove_break", remove)
};

/// `resume`.
pub(super) static RESUME: CommandRow = CommandRow {
    operands: "tag",
    words: Count::Exactly(1),
    summary: "let a stopped request go on",
    ..CommandRow::new("resume", resume)
};

/// `wait_break`.
pub(super) static WAIT_BREAK: CommandRow = CommandRow {
    operands: "tag",
    words: Count::Exactly(1),
    summary: "wait until a request has stopped",
    ..CommandRow::new("wait_break", wait)
};

fn set(session: &mut Session<'_>, words: Words<'_>) -> Outcome {
    let [event, tag] = words.operands_as_given()[..] else { return Err(Failure::Usage) };
    let tell = session.notices();
    let done = session.image()?.node().with_breakpoints(|points| points.set(event, tag, tell));
    done.map_err(|e| Failure::Said(format!("Could not set breakpoint: {}", e.strerror())))
}

fn remove(session: &mut Session<'_>, words: Words<'_>) -> Outcome {
    let tag = words.operands_as_given()[0];
    let done = session.image()?.node().with_breakpoints(|points| points.remove(tag));
    session.tell_notices();
    done.map_err(|e| Failure::Said(format!("Could not remove breakpoint {tag}: {}", e.strerror())))
}

fn resume(session: &mut Session<'_>, words: Words<'_>) -> Outcome {
    let tag = words.operands_as_given()[0];
    let done = session.image()?.node().with_breakpoints(|points| points.resume(tag));
    session.tell_notices();
    done.map_err(|e| Failure::Said(format!("Could not resume request: {}", e.strerror())))
}

fn wait(session: &mut Session<'_>, words: Words<'_>) -> Outcome {
    let tag = words.operands_as_given()[0];
    let done = session.image()?.node().with_breakpoints(|points| {
        points.wait(tag);
        Ok(())
    });
    session.tell_notices();
    done.map_err(|e| Failure::Said(format!("Could not wait for request: {}", e.strerror())))
}
