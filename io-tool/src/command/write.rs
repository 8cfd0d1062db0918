//! `write`, `writev`, `discard`, `truncate` and `flush`.

use super::read::length;
use super::{CommandRow, Count, Failure, Needs, Outcome};
use crate::args::{MAX_REQUEST, Opt, Words, number, pattern, switch, valued};
use crate::output::{Style, Transfer};
use crate::session::{IoBuffer, Session};
use block::{Error, Image, IoVec, Prealloc, Resize, Result, WriteFlags, ZeroFlags};
use std::fs::File;
use std::io::Read;
use std::time::Instant;

/// What writes fill their buffers with unless told otherwise.
const FILL: u8 = 0xcd;

const CSV: Opt = switch('C', "report as comma-separated values");
const FUA: Opt = switch('f', "force unit access: return when the data is on stable storage");
const PATTERN: Opt = valued('P', "BYTE", "write this byte, not 0xcd");
const QUIET: Opt = switch('q', "report nothing but failures");
const REGISTER: Opt = switch('r', "accepted; buffers need no registration");

/// `write`.
pub(super) static WRITE: CommandRow = CommandRow {
    short: Some("w"),
    options: &[
        switch('b', "write the state of a machine kept in the image, not the disk"),
        switch('c', "store it compressed"),
        CSV,
        FUA,
        switch('n', "with -z: fail rather than write buffers of zeroes"),
        switch('p', "accepted and ignored"),
        QUIET,
        REGISTER,
        switch('u', "with -z: the range may be deallocated"),
        switch('z', "write zeroes without sending them, where the format can"),
        PATTERN,
        valued('s', "FILE", "write what is in this file, over and over"),
    ],
    operands: "off len",
    words: Count::AtLeast(2),
    needs: Needs::Writable,
    summary: "write some bytes at an offset",
    detail: "'write -P 0xaa 512 1k' fills the kilobyte that begins 512 bytes into the image.",
    ..CommandRow::new("write", write)
};

/// `writev`.
pub(super) static WRITEV: CommandRow = CommandRow {
    options: &[CSV, FUA, QUIET, REGISTER, PATTERN],
    operands: "off len [len...]",
    words: Count::AtLeast(2),
    needs: Needs::Writable,
    summary: "write some bytes at an offset from several buffers at once",
    detail: "'writev 512 1k 1k' is one request for two kilobytes, from two buffers.",
    ..CommandRow::new("writev", writev)
};

/// `discard`.
pub(super) static DISCARD: CommandRow = CommandRow {
    short: Some("d"),
    options: &[CSV, QUIET],
    operands: "off len",
    words: Count::AtLeast(2),
    needs: Needs::Writable,
    summary: "give some bytes at an offset up",
    detail: "'discard 512 1k' gives up the kilobyte that begins 512 bytes into the image.",
    ..CommandRow::new("discard", discard)
};

/// `truncate`.
pub(super) static TRUNCATE: CommandRow = CommandRow {
    short: Some("t"),
    options: &[valued('m', "MODE", "how to allocate what is added: off, metadata, falloc or full")],
    operands: "off",
    words: Count::Between(1, 3),
    needs: Needs::Writable,
    summary: "change the length of the image",
    ..CommandRow::new("truncate", truncate)
};

/// `flush`.
pub(super) static FLUSH: CommandRow = CommandRow {
    short: Some("f"),
    summary: "bring all completed writes to stable storage",
    // As in qemu-io, only the exit code tells.
    ..CommandRow::new("flush", |session, _| session.image()?.flush().map_err(|_| Failure::Told))
};

/// The complaint about a buffer for what has none.
pub(super) const ZERO_REGISTERED: &str = "cannot combine zero write with registered I/O buffer";

/// What the options of the writing commands come to.
#[derive(Debug, Default)]
pub(super) struct WriteOptions {
    pub(super) style: Style,
    pub(super) fua: bool,
    pub(super) pattern: Option<u8>,
    pub(super) registered: bool,
    pub(super) unmap: bool,
    pub(super) zero: bool,
}

impl WriteOptions {
    /// Takes note of an option that several writing commands have.
    ///
    /// # Errors
    /// A pattern that is none.
    pub(super) fn set(&mut self, letter: char, value: &str) -> Outcome {
        match letter {
            'C' => self.style = self.style.csv(),
            'f' => self.fua = true,
            'q' => self.style = Style::Quiet,
            'r' => self.registered = true,
            'u' => self.unmap = true,
            'z' => self.zero = true,
            'P' => self.pattern = Some(pattern(value)?),
            _ => {}
        }
        Ok(())
    }

    /// The byte to write.
    pub(super) fn fill(&self) -> u8 {
        self.pattern.unwrap_or(FILL)
    }

    /// How to write bytes.
    pub(super) fn flags(&self) -> WriteFlags {
        if self.fua { WriteFlags::FUA } else { WriteFlags::empty() }
    }

    /// How to write zeroes.
    pub(super) fn zero_flags(&self) -> ZeroFlags {
        let mut flags = ZeroFlags::empty();
        flags.set(ZeroFlags::FUA, self.fua);
        flags.set(ZeroFlags::MAY_UNMAP, self.unmap);
        flags
    }
}

/// The options that only `write` has.
#[derive(Debug, Default)]
struct Special<'a> {
    vmstate: bool,
    compressed: bool,
    no_fallback: bool,
    file: Option<&'a str>,
}

impl Special<'_> {
    /// # Errors
    /// Options that exclude each other.
    fn check(&self, options: &WriteOptions) -> Outcome {
        let complaints = [
            (self.vmstate && options.zero, "-b and -z cannot be specified at the same time"),
            (
                options.fua && (self.vmstate || self.compressed),
                "-f and -b or -c cannot be specified at the same time",
            ),
            (self.no_fallback && !options.zero, "-n requires -z to be specified"),
            (options.unmap && !options.zero, "-u requires -z to be specified"),
            (
                [options.zero, options.pattern.is_some(), self.file.is_some()].iter().filter(|x| **x).count()
                    > 1,
                "Only one of -z, -P, and -s can be specified at the same time",
            ),
        ];
        match complaints.iter().find(|(wrong, _)| *wrong) {
            Some((_, text)) => Err(Failure::Said((*text).to_owned())),
            None => Ok(()),
        }
    }
}

fn write(session: &mut Session<'_>, mut words: Words<'_>) -> Outcome {
    let mut options = WriteOptions::default();
    let mut special = Special::default();
    while let Some((letter, value)) = words.next_option()? {
        match letter {
            'b' => special.vmstate = true,
            'c' => special.compressed = true,
            'n' => special.no_fallback = true,
            's' => special.file = Some(value),
            _ => options.set(letter, value)?,
        }
    }
    let operands: [_; 2] = words.exactly()?;
    special.check(&options)?;
    let offset = number(operands[0])?;
    let count = number(operands[1])?;
    if count > MAX_REQUEST && !special.no_fallback {
        let text = format!("length cannot exceed {MAX_REQUEST} without -n, given {}", operands[1]);
        return Err(Failure::Said(text));
    }
    if special.vmstate || special.compressed {
        super::read::whole_sectors(offset, count)?;
    }
    if options.zero && options.registered {
        return Err(Failure::Said(ZERO_REGISTERED.into()));
    }
    let buffer = match options.zero {
        true => session.buffer(0, 0),
        false => contents(session, special.file, count as usize, options.fill())?,
    };
    let image = session.image()?;
    let started = Instant::now();
    let done = carry_out(image, offset, count, &buffer, &options, &special);
    done.map_err(|e| Failure::Said(format!("write failed: {}", e.strerror())))?;
    let transfer = Transfer { verb: "wrote", offset, bytes: count, elapsed: started.elapsed() };
    session.out.print(transfer.report(options.style));
    Ok(())
}

fn carry_out(
    image: &Image,
    offset: u64,
    count: u64,
    buffer: &[u8],
    options: &WriteOptions,
    special: &Special<'_>,
) -> Result<()> {
    if options.zero {
        let mut flags = options.zero_flags();
        flags.set(ZeroFlags::NO_FALLBACK, special.no_fallback);
        return image.write_zeroes(offset..offset + count, flags);
    }
    if special.vmstate {
        return image.write_vmstate(offset, &IoVec::from(buffer));
    }
    let mut flags = options.flags();
    flags.set(WriteFlags::COMPRESSED, special.compressed);
    image.writev(offset, &IoVec::from(buffer), flags)
}

/// What to write: `fill`, or what stands in a file, repeated.
fn contents(session: &Session<'_>, file: Option<&str>, len: usize, fill: u8) -> Result<IoBuffer, Failure> {
    let Some(path) = file else { return Ok(session.buffer(len, fill)) };
    let failed = |e: Error| Failure::Complaint(format!("{path}: {}", e.strerror()));
    let mut bytes = Vec::new();
    let mut file = File::open(path).map_err(|e| failed(e.into()))?;
    file.by_ref().take(len as u64).read_to_end(&mut bytes).map_err(|e| failed(e.into()))?;
    if bytes.is_empty() {
        return Err(Failure::Complaint(format!("{path}: file is empty")));
    }
    let mut buffer = session.buffer(len, 0);
    for piece in buffer.chunks_mut(bytes.len()) {
        piece.copy_from_slice(&bytes[..piece.len()]);
    }
    Ok(buffer)
}

fn writev(session: &mut Session<'_>, mut words: Words<'_>) -> Outcome {
    let mut options = WriteOptions::default();
    while let Some((letter, value)) = words.next_option()? {
        options.set(letter, value)?;
    }
    let (offset, lengths) = words.vector()?;
    let buffer = session.buffer(lengths.iter().sum(), options.fill());
    let report = VectoredWrite { offset, lengths, buffer, options }.run(session.image()?);
    match report {
        Ok(report) => session.out.print(report),
        Err(e) => return Err(Failure::Said(format!("writev failed: {}", e.strerror()))),
    }
    Ok(())
}

/// One vectored write.
#[derive(Debug)]
pub(super) struct VectoredWrite {
    pub(super) offset: u64,
    pub(super) lengths: Vec<usize>,
    pub(super) buffer: IoBuffer,
    pub(super) options: WriteOptions,
}

impl VectoredWrite {
    /// Carries it out and gives the report.
    ///
    /// # Errors
    /// The image's.
    pub(super) fn run(self, image: &Image) -> Result<String> {
        let started = Instant::now();
        image.writev(self.offset, &gather(&self.buffer, &self.lengths), self.options.flags())?;
        let bytes = self.buffer.len() as u64;
        let transfer = Transfer { verb: "wrote", offset: self.offset, bytes, elapsed: started.elapsed() };
        Ok(transfer.report(self.options.style))
    }
}

fn gather<'a>(buffer: &'a [u8], lengths: &[usize]) -> IoVec<'a> {
    let mut parts = IoVec::new();
    let mut rest = buffer;
    for len in lengths {
        let (part, after) = rest.split_at(*len);
        parts.push(part);
        rest = after;
    }
    parts
}

fn discard(session: &mut Session<'_>, mut words: Words<'_>) -> Outcome {
    let mut style = Style::default();
    while let Some((letter, _)) = words.next_option()? {
        style = if letter == 'C' { style.csv() } else { Style::Quiet };
    }
    let [offset, count] = words.exactly()?;
    let (offset, bytes) = (number(offset)?, length(count)? as u64);
    let started = Instant::now();
    let done = session.image()?.discard(offset..offset + bytes);
    done.map_err(|e| Failure::Said(format!("discard failed: {}", e.strerror())))?;
    let transfer = Transfer { verb: "discard", offset, bytes, elapsed: started.elapsed() };
    session.out.print(transfer.report(style));
    Ok(())
}

fn truncate(session: &mut Session<'_>, mut words: Words<'_>) -> Outcome {
    let mut prealloc = Prealloc::Off;
    while let Some((_, value)) = words.next_option()? {
        prealloc = match value {
            "off" => Prealloc::Off,
            "metadata" => Prealloc::Metadata,
            "falloc" => Prealloc::Falloc,
            "full" => Prealloc::Full,
            _ => return Err(Error::invalid(format!("Invalid preallocation mode '{value}'")).into()),
        };
    }
    let operands = words.operands();
    let size = number(operands.first().ok_or(Failure::Usage)?)?;
    Ok(session.image()?.truncate(Resize { size, prealloc, exact: false })?)
}
