//! `sleep`, `quit`, `abort` and `sigraise`: what concerns the process more than the image.

use super::{CommandRow, Count, Failure, Needs, Outcome};
use crate::args::{Words, c_number, number};
use crate::session::Session;
use block::Error;
use nix::sys::signal::{Signal, raise};
use std::time::Duration;

/// `sleep`.
pub(super) static SLEEP: CommandRow = CommandRow {
    operands: "milliseconds",
    words: Count::Exactly(1),
    needs: Needs::Nothing,
    summary: "let requests in flight go on for some time",
    ..CommandRow::new("sleep", sleep)
};

/// `quit`.
pub(super) static QUIT: CommandRow = CommandRow {
    short: Some("q"),
    words: Count::Any,
    needs: Needs::Nothing,
    summary: "end the program",
    ..CommandRow::new("quit", |session, _| {
        session.quit();
        Ok(())
    })
};

/// `abort`.
pub(super) static ABORT: CommandRow = CommandRow {
    needs: Needs::Nothing,
    summary: "crash: die of SIGABRT, with what was printed last still in the buffer",
    ..CommandRow::new("abort", |_, _| std::process::abort())
};

/// `sigraise`.
pub(super) static SIGRAISE: CommandRow = CommandRow {
    operands: "signal",
    words: Count::Exactly(1),
    needs: Needs::Nothing,
    summary: "raise a signal",
    detail: "'sigraise 9' dies of SIGKILL.",
    ..CommandRow::new("sigraise", sigraise)
};

/// Signals that the main loop of the tool we replace keeps blocked, so that raising them does nothing.
const BLOCKED: [Signal; 4] = [Signal::SIGBUS, Signal::SIGUSR1, Signal::SIGALRM, Signal::SIGIO];

fn sleep(session: &mut Session<'_>, words: Words<'_>) -> Outcome {
    let text = words.operands_as_given()[0];
    let ms = c_number(text).ok_or_else(|| Failure::Said(format!("{text} is not a valid number")))?;
    std::thread::sleep(Duration::from_millis(ms));
    session.tell_notices();
    Ok(())
}

fn sigraise(session: &mut Session<'_>, words: Words<'_>) -> Outcome {
    let text = words.operands_as_given()[0];
    let number = number(text)?;
    if number == 0 {
        return Ok(());
    }
    let signal = i32::try_from(number).ok().and_then(|n| Signal::try_from(n).ok());
    let signal = signal.ok_or_else(|| {
        Failure::Said(format!("signal argument '{text}' is too large to be a valid signal"))
    })?;
    session.out.flush();
    if !BLOCKED.contains(&signal) {
        raise(signal).map_err(Error::from)?;
    }
    Ok(())
}
