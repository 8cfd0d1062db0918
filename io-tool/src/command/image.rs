//! `open`, `close` and `reopen`.

use super::{CommandRow, Count, Failure, Needs, Outcome};
use crate::args::{Words, switch, valued};
use crate::session::{OpenArgs, Session, cache_mode};
use block::graph::{Reopen, Source};
use block::{Error, Options};
use secret::options::keyval::Bare;

/// `open`.
pub(super) static OPEN: CommandRow = CommandRow {
    short: Some("o"),
    options: &[
        switch('r', "without the right to write"),
        switch('s', "write to a throw-away overlay"),
        switch('C', "keep in the image what is read from its backing file"),
        switch('n', "the same as -t none"),
        switch('k', "the same as -i native"),
        switch('U', "even when another process holds it"),
        valued('i', "MODE", "how requests reach the kernel: threads, native or io_uring"),
        valued('t', "MODE", "the cache mode"),
        valued('d', "MODE", "what happens to discards: ignore or unmap"),
        valued('o', "OPTS", "options for the driver"),
    ],
    operands: "[file]",
    words: Count::AtLeast(1),
    needs: Needs::Nothing,
    summary: "open an image",
    detail: "'open -n -o driver=raw /tmp/data' opens a raw image past the page cache.",
    ..CommandRow::new("open", open)
};

/// `close`.
pub(super) static CLOSE: CommandRow = CommandRow {
    short: Some("c"),
    summary: "close the image",
    ..CommandRow::new("close", |session, _| Ok(session.close()?))
};

/// `reopen`.
pub(super) static REOPEN: CommandRow = CommandRow {
    options: &[
        switch('r', "without the right to write"),
        switch('w', "with the right to write"),
        valued('c', "MODE", "the cache mode"),
        valued('o', "OPTS", "options for the driver"),
    ],
    words: Count::Any,
    summary: "change the options of the open image",
    detail: "'reopen -o lazy-refcounts=on' lets a qcow2 image write its reference counts back late.",
    ..CommandRow::new("reopen", reopen)
};

fn open(session: &mut Session<'_>, mut words: Words<'_>) -> Outcome {
    let mut args = OpenArgs::default();
    while let Some((letter, value)) = words.next_option()? {
        match letter {
            'r' => args.read_only = true,
            's' => args.snapshot = true,
            'C' => args.copy_on_read = true,
            'n' => args.set_cache("none")?,
            'k' => args.set_aio(Some("native"))?,
            'U' => args.force_share = true,
            'i' => args.set_aio(Some(value))?,
            't' => args.set_cache(value)?,
            'd' => args.set_discard(value)?,
            _ if session.image_opts => {
                return Err(Failure::Said("--image-opts and 'open -o' are mutually exclusive".into()));
            }
            _ => args.options.overlay(options(value)?)?,
        }
    }
    match words.operands()[..] {
        [] if args.options.is_empty() => return Err(Failure::Usage),
        [] => {}
        [text] if session.image_opts => args.source = Source::Options(text.to_owned()),
        [name] => args.source = Source::Name(name.to_owned()),
        _ => return Err(Failure::Usage),
    }
    Ok(session.open(&args)?)
}

fn options(text: &str) -> block::Result<Options> {
    Options::from_pairs(block::tool::pairs(text, Bare::Always)?)
}

fn reopen(session: &mut Session<'_>, mut words: Words<'_>) -> Outcome {
    let mut change = Reopen::default();
    while let Some((letter, value)) = words.next_option()? {
        match letter {
            'r' | 'w' if change.writable.is_some() => {
                return Err(Error::invalid("Only one -r/-w option may be given").into());
            }
            'r' | 'w' => change.writable = Some(letter == 'w'),
            'c' => change.cache = Some(cache_mode(value)?),
            _ => change.options.overlay(options(value)?)?,
        }
    }
    if !words.operands().is_empty() {
        return Err(Failure::Usage);
    }
    if change.writable.is_some() && change.options.get("read-only").is_some() {
        return Err(Error::invalid("Cannot set both -r/-w and 'read-only'").into());
    }
    if change.cache.is_some() && change.options.get("cache").is_some() {
        return Err(Error::invalid("Cannot set both -c and the cache options").into());
    }
    session.reopen(change)
}
