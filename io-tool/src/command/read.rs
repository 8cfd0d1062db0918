//! `read` and `readv`.

use super::{CommandRow, Count, Failure, Needs, Outcome};
use crate::args::{MAX_REQUEST, Opt, Words, number, pattern, switch, valued};
use crate::output::{Received, Style, Transfer};
use crate::session::{IoBuffer, Session};
use block::{Image, IoVecMut, Result};
use std::ops::Range;
use std::time::Instant;

const CSV: Opt = switch('C', "report as comma-separated values");
const PATTERN: Opt = valued('P', "BYTE", "check that every byte read is this one");
const QUIET: Opt = switch('q', "report nothing but failures");
const REGISTER: Opt = switch('r', "accepted; buffers need no registration");
const DUMP: Opt = switch('v', "print what was read");

/// `read`.
pub(super) static READ: CommandRow = CommandRow {
    short: Some("r"),
    options: &[
        switch('b', "read the state of a machine kept in the image, not the disk"),
        CSV,
        switch('p', "accepted and ignored"),
        QUIET,
        REGISTER,
        DUMP,
        valued('l', "LEN", "with -P: how many bytes to check"),
        PATTERN,
        valued('s', "OFF", "with -P: where in what was read to start checking"),
    ],
    operands: "off len",
    words: Count::AtLeast(2),
    needs: Needs::Image,
    summary: "read some bytes at an offset",
    detail: "'read -v 512 1k' prints the kilobyte that begins 512 bytes into the image.",
    ..CommandRow::new("read", read)
};

/// `readv`.
pub(super) static READV: CommandRow = CommandRow {
    options: &[CSV, QUIET, REGISTER, DUMP, PATTERN],
    operands: "off len [len...]",
    words: Count::AtLeast(2),
    needs: Needs::Image,
    summary: "read some bytes at an offset into several buffers at once",
    detail: "'readv -v 512 1k 1k' is one request for two kilobytes, into two buffers.",
    ..CommandRow::new("readv", readv)
};

/// What the options of the reading commands come to.
#[derive(Debug, Default)]
pub(super) struct ReadOptions {
    pub(super) style: Style,
    pub(super) dump: bool,
    pub(super) pattern: Option<u8>,
}

impl ReadOptions {
    /// Takes note of an option that all reading commands have.
    ///
    /// # Errors
    /// A pattern that is none.
    pub(super) fn set(&mut self, letter: char, value: &str) -> Outcome {
        match letter {
            'C' => self.style = self.style.csv(),
            'q' => self.style = Style::Quiet,
            'v' => self.dump = true,
            'P' => self.pattern = Some(pattern(value)?),
            _ => {}
        }
        Ok(())
    }
}

fn read(session: &mut Session<'_>, mut words: Words<'_>) -> Outcome {
    let mut options = ReadOptions::default();
    let (mut vmstate, mut from, mut len) = (false, None, None);
    while let Some((letter, value)) = words.next_option()? {
        match letter {
            'b' => vmstate = true,
            'l' => len = Some(number(value)?),
            's' => from = Some(number(value)?),
            _ => options.set(letter, value)?,
        }
    }
    let [offset, count] = words.exactly()?;
    let (offset, count) = (number(offset)?, length(count)?);
    let expected = match options.pattern {
        None if from.is_some() || len.is_some() => return Err(Failure::Usage),
        None => None,
        Some(byte) => Some((byte, part(from, len, count)?)),
    };
    if vmstate {
        whole_sectors(offset, count as u64)?;
    }
    let mut buffer = session.buffer(count, 0);
    let image = session.image()?;
    let started = Instant::now();
    let done = match vmstate {
        true => image.node().read_vmstate(offset, &mut IoVecMut::from(&mut *buffer)),
        false => image.read(offset, &mut buffer),
    };
    done.map_err(|e| Failure::Said(format!("read failed: {}", e.strerror())))?;
    let transfer = Transfer { verb: "read", offset, bytes: count as u64, elapsed: started.elapsed() };
    let received = Received { transfer, bytes: &buffer, expected, dump: options.dump, style: options.style };
    let (report, right) = received.report();
    session.out.print(report);
    if right { Ok(()) } else { Err(Failure::Told) }
}

/// Refuses what some requests cannot be cut to.
///
/// # Errors
/// An offset or a length that is not whole sectors.
pub(super) fn whole_sectors(offset: u64, count: u64) -> Result<(), Failure> {
    let mut named = [(offset, "offset"), (count, "count")].into_iter();
    match named.find(|(n, _)| !n.is_multiple_of(block::SECTOR)) {
        Some((n, name)) => Err(Failure::Said(format!("{n} is not a sector-aligned value for '{name}'"))),
        None => Ok(()),
    }
}

/// The length of one request.
///
/// # Errors
/// Not a number, or more than a request may have.
pub(super) fn length(text: &str) -> Result<usize, Failure> {
    match number(text)? {
        len if len <= MAX_REQUEST => Ok(len as usize),
        _ => Err(Failure::Said(format!("length cannot exceed {MAX_REQUEST}, given {text}"))),
    }
}

/// The part of `count` bytes that is to be checked.
fn part(from: Option<u64>, len: Option<u64>, count: usize) -> Result<Range<usize>, Failure> {
    let start = from.unwrap_or(0);
    let end = len.map_or(Some(count as u64), |len| start.checked_add(len));
    match end {
        Some(end) if start <= end && end <= count as u64 => Ok(start as usize..end as usize),
        _ => Err(Failure::Said("pattern verification range exceeds end of read data".into())),
    }
}

fn readv(session: &mut Session<'_>, mut words: Words<'_>) -> Outcome {
    let mut options = ReadOptions::default();
    while let Some((letter, value)) = words.next_option()? {
        options.set(letter, value)?;
    }
    let (offset, lengths) = words.vector()?;
    let buffer = session.buffer(lengths.iter().sum(), 0);
    let (report, right) = VectoredRead { offset, lengths, buffer, options }.run(session.image()?);
    session.out.print(report);
    if right { Ok(()) } else { Err(Failure::Told) }
}

/// One vectored read.
#[derive(Debug)]
pub(super) struct VectoredRead {
    pub(super) offset: u64,
    pub(super) lengths: Vec<usize>,
    pub(super) buffer: IoBuffer,
    pub(super) options: ReadOptions,
}

impl VectoredRead {
    /// Carries it out; what is to be said, and whether all was well.
    pub(super) fn run(mut self, image: &Image) -> (String, bool) {
        let started = Instant::now();
        if let Err(e) = image.readv(self.offset, &mut scatter(&mut self.buffer, &self.lengths)) {
            return (format!("readv failed: {}\n", e.strerror()), false);
        }
        let bytes = &*self.buffer;
        let transfer = Transfer {
            verb: "read",
            offset: self.offset,
            bytes: bytes.len() as u64,
            elapsed: started.elapsed(),
        };
        let expected = self.options.pattern.map(|byte| (byte, 0..bytes.len()));
        Received { transfer, bytes, expected, dump: self.options.dump, style: self.options.style }.report()
    }
}

fn scatter<'a>(buffer: &'a mut [u8], lengths: &[usize]) -> IoVecMut<'a> {
    let mut parts = IoVecMut::new();
    let mut rest = buffer;
    for len in lengths {
        let (part, after) = rest.split_at_mut(*len);
        parts.push(part);
        rest = after;
    }
    parts
}
