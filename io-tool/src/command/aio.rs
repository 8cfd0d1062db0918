//! `aio_read`, `aio_write` and `aio_flush`.

use super::read::{ReadOptions, VectoredRead};
use super::write::{VectoredWrite, WriteOptions, ZERO_REGISTERED};
use super::{CommandRow, Count, Failure, Needs, Outcome};
use crate::args::{Words, number, switch, valued};
use crate::output::Transfer;
use crate::session::Session;
use block::Image;
use std::time::Instant;

/// `aio_read`.
pub(super) static AIO_READ: CommandRow = CommandRow {
    options: &[
        switch('C', "report as comma-separated values"),
        switch('i', "only count it as a request that makes no sense"),
        switch('q', "report nothing but failures"),
        switch('r', "accepted; buffers need no registration"),
        switch('v', "print what was read"),
        valued('P', "BYTE", "check that every byte read is this one"),
    ],
    operands: "off len [len...]",
    words: Count::AtLeast(2),
    needs: Needs::Image,
    summary: "start reading some bytes at an offset",
    detail: "The command is done when the request has started, whatever becomes of it; 'aio_flush' waits.",
    ..CommandRow::new("aio_read", aio_read)
};

/// `aio_write`.
pub(super) static AIO_WRITE: CommandRow = CommandRow {
    options: &[
        switch('C', "report as comma-separated values"),
        switch('f', "force unit access: finish when the data is on stable storage"),
        switch('i', "only count it as a request that makes no sense"),
        switch('q', "report nothing but failures"),
        switch('r', "accepted; buffers need no registration"),
        switch('u', "with -z: the range may be deallocated"),
        switch('z', "write zeroes without sending them, where the format can"),
        valued('P', "BYTE", "write this byte, not 0xcd"),
    ],
    operands: "off len [len...]",
    words: Count::AtLeast(2),
    needs: Needs::Writable,
    summary: "start writing some bytes at an offset",
    detail: "The command is done when the request has started, whatever becomes of it; 'aio_flush' waits.",
    ..CommandRow::new("aio_write", aio_write)
};

/// `aio_flush`.
pub(super) static AIO_FLUSH: CommandRow = CommandRow {
    summary: "wait until all requests that were started have finished",
    ..CommandRow::new("aio_flush", |session, _| {
        session.finish_pending();
        Ok(())
    })
};

fn aio_read(session: &mut Session<'_>, mut words: Words<'_>) -> Outcome {
    let mut options = ReadOptions::default();
    while let Some((letter, value)) = words.next_option()? {
        if letter == 'i' {
            session.out.line("injecting invalid read request");
            return Ok(());
        }
        options.set(letter, value)?;
    }
    let (offset, lengths) = words.vector()?;
    let buffer = session.buffer(lengths.iter().sum(), 0);
    let request = VectoredRead { offset, lengths, buffer, options };
    session.submit(move |image| request.run(image).0)
}

fn aio_write(session: &mut Session<'_>, mut words: Words<'_>) -> Outcome {
    let mut options = WriteOptions::default();
    while let Some((letter, value)) = words.next_option()? {
        if letter == 'i' {
            session.out.line("injecting invalid write request");
            return Ok(());
        }
        options.set(letter, value)?;
    }
    if options.zero {
        return aio_zero(session, words, options);
    }
    if options.unmap {
        return Err(Failure::Said("-u requires -z to be specified".into()));
    }
    let (offset, lengths) = words.vector()?;
    let buffer = session.buffer(lengths.iter().sum(), options.fill());
    let request = VectoredWrite { offset, lengths, buffer, options };
    session.submit(move |image| told(request.run(image)))
}

fn aio_zero(session: &mut Session<'_>, words: Words<'_>, options: WriteOptions) -> Outcome {
    let operands = words.operands();
    let &[offset, count] = &operands[..] else {
        let several = operands.len() > 2;
        let text = "-z supports only a single length parameter".into();
        return Err(if several { Failure::Said(text) } else { Failure::Usage });
    };
    if options.registered {
        return Err(Failure::Said(ZERO_REGISTERED.into()));
    }
    let (offset, bytes) = (number(offset)?, number(count)?);
    session.submit(move |image: &Image| {
        let started = Instant::now();
        let done = image.write_zeroes(offset..offset + bytes, options.zero_flags());
        told(done.map(|()| {
            let elapsed = started.elapsed();
            Transfer { verb: "wrote", offset, bytes, elapsed }.report(options.style)
        }))
    })
}

fn told(done: block::Result<String>) -> String {
    done.unwrap_or_else(|e| format!("aio_write failed: {}\n", e.strerror()))
}
