//! The commands for zoned devices, of which no driver here has one: they judge their operands and refuse.

use super::{CommandRow, Count, Failure, Outcome};
use crate::args::{Words, number, switch};
use crate::session::Session;
use nix::libc::{EIO, ENOTSUP};
use secret::strerror;

/// `zone_report`.
pub(super) static ZONE_REPORT: CommandRow = CommandRow {
    short: Some("zrp"),
    operands: "off count",
    words: Count::Exactly(2),
    summary: "list the zones from an offset on",
    ..CommandRow::new("zone_report", report)
};

/// `zone_open`.
pub(super) static ZONE_OPEN: CommandRow = CommandRow {
    short: Some("zo"),
    summary: "open the zones of a range",
    ..manage("zone_open", |session, words| refuse("open", session, words))
};

/// `zone_close`.
pub(super) static ZONE_CLOSE: CommandRow = CommandRow {
    short: Some("zc"),
    summary: "close the zones of a range",
    ..manage("zone_close", |session, words| refuse("close", session, words))
};

/// `zone_finish`.
pub(super) static ZONE_FINISH: CommandRow = CommandRow {
    short: Some("zf"),
    summary: "make the zones of a range full",
    ..manage("zone_finish", |session, words| refuse("finish", session, words))
};

/// `zone_reset`.
pub(super) static ZONE_RESET: CommandRow = CommandRow {
    short: Some("zrs"),
    summary: "make the zones of a range empty",
    ..manage("zone_reset", |session, words| refuse("reset", session, words))
};

/// `zone_append`.
pub(super) static ZONE_APPEND: CommandRow = CommandRow {
    short: Some("zap"),
    options: &[switch('p', "accepted and ignored")],
    operands: "off len [len...]",
    words: Count::Between(3, 4),
    summary: "write some bytes where a zone ends",
    ..CommandRow::new("zone_append", append)
};

const fn manage(name: &'static str, run: fn(&mut Session<'_>, Words<'_>) -> Outcome) -> CommandRow {
    CommandRow { operands: "off len", words: Count::Exactly(2), ..CommandRow::new(name, run) }
}

fn refuse(what: &str, session: &Session<'_>, words: Words<'_>) -> Outcome {
    let operands = words.operands_as_given();
    let end = number(operands[0])? + number(operands[1])?;
    let inside = end <= session.image()?.len()?;
    Err(failed(what, if inside { ENOTSUP } else { EIO }))
}

fn failed(what: &str, errno: i32) -> Failure {
    Failure::Said(format!("zone {what} failed: {}", strerror(errno)))
}

fn report(_: &mut Session<'_>, words: Words<'_>) -> Outcome {
    let operands = words.operands_as_given();
    number(operands[0])?;
    if u32::try_from(number(operands[1])?).is_err() {
        return Err(Failure::Said("Number of zones must be less than 2^32".into()));
    }
    Err(failed("report", ENOTSUP))
}

fn append(_: &mut Session<'_>, mut words: Words<'_>) -> Outcome {
    while words.next_option()?.is_some() {}
    words.vector()?;
    Err(failed("append", ENOTSUP))
}
