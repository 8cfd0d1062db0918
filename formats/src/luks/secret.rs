//! How the passphrase is obtained, and what to say when it does not fit.
//!
//! A passphrase for *opening* is the secret's bytes as they are, so that cryptsetup's binary key files work; for
//! *creating* it must be text ([`Secret::as_utf8`]), so that every other program can be given it.

use super::derive::Excess;
use super::search::{Found, Search, Skipped};
use block::graph::Env;
use secret::{Error, Kind, Result, Secret, Source};

/// The sentence for every passphrase that opens no slot.
pub(super) const WRONG: &str = "Invalid password, cannot unlock any keyslot";

/// The secret that the option `key-secret` names.
///
/// # Errors
/// No such option, or no such secret.
pub(super) fn find<'a>(env: Env<'a>, id: Option<&str>) -> Result<&'a Secret> {
    env.objects.secret(id.ok_or_else(missing)?)
}

/// No secret was named.
pub(super) fn missing() -> Error {
    Error::invalid("Parameter 'key-secret' is required for cipher")
        .with_hint("Make a secret with --object secret,id=ID,file=PATH and name it with key-secret=ID")
}

/// The slot that the secret opens, and the volume key in it.
///
/// # Errors
/// It opens none, with the reason as far as it can be known; or key material cannot be read.
pub(super) fn unlock(search: &Search<'_>, secret: &Secret) -> Result<Found> {
    if search.is_empty() {
        return Err(nothing_to_try(search));
    }
    if let Some(found) = search.run(secret.as_bytes())? {
        return Ok(found);
    }
    let error = wrong(search);
    match secret.without_line_end() {
        Some(_) if !search.affords_two() => Err(line_end_untried(error, secret)),
        Some(line) if search.run(line)?.is_some() => Err(line_end(secret)),
        _ => Err(error),
    }
}

/// The passphrase opened none of the slots that were tried.
pub(super) fn wrong(search: &Search<'_>) -> Error {
    if search.is_empty() {
        return nothing_to_try(search);
    }
    let error = Error::new(Kind::WrongKey, WRONG);
    match skipped(search) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// Fails if there are slots that were left out, where all must be known.
///
/// # Errors
/// Which, and how they can be tried.
pub(super) fn check_all_tried(search: &Search<'_>) -> Result<()> {
    let error = |hint| {
        let text = "Not all key slots were tried, so it is not known which of them the passphrase opens";
        Error::new(Kind::WrongKey, text).with_hint(hint)
    };
    skipped(search).map_or(Ok(()), |hint| Err(error(hint)))
}

fn nothing_to_try(search: &Search<'_>) -> Error {
    match skipped(search) {
        Some(hint) => Error::new(Kind::WrongKey, "No key slot was tried").with_hint(hint),
        // QEMU's suite compares what is said about an image without keys, so there is no hint.
        None => Error::new(Kind::WrongKey, WRONG),
    }
}

/// The secret would match but for a newline, as editors and `echo` add it.
fn line_end(secret: &Secret) -> Error {
    let hint = match secret.source() {
        Source::File(path) => format!("Remove it: head -c -1 '{path}' > NEWFILE, or write it with printf %s"),
        _ => "Remove it: printf %s writes a passphrase without one, where echo adds it".to_owned(),
    };
    let text = format!("the secret '{}' matches without the newline at its end", secret.id());
    Error::new(Kind::WrongKey, text).with_hint(hint).context(WRONG)
}

/// Says that a newline may be all that is wrong, where finding out would take longer than unlocking may.
fn line_end_untried(error: Error, secret: &Secret) -> Error {
    let more = error.hint().map(|hint| format!(" {hint}")).unwrap_or_default();
    error.with_hint(format!("The secret '{}' ends in a newline, which counts.{more}", secret.id()))
}

/// What to say about the slots that would have cost too much, if there are any.
fn skipped(search: &Search<'_>) -> Option<String> {
    let slots = search.skipped().iter();
    let slots: Vec<_> = slots
        .map(|Skipped { slot, excess }| match excess {
            Excess::Time(time) => format!("{slot} (about {} s)", time.as_secs_f64().ceil()),
            Excess::More(time) => format!("{slot} (about {} s more)", time.as_secs_f64().ceil()),
            Excess::Memory(kib) => format!("{slot} ({kib} KiB)"),
        })
        .collect();
    let bounds = search.bounds();
    (!slots.is_empty()).then(|| {
        format!(
            "Unlocking may take {} s, all key slots together, and {} KiB of memory; key slots beyond that were skipped: {}. \
             --max-kdf-time SECONDS allows more time, --max-kdf-memory KIB more memory.",
            bounds.time.as_secs(),
            bounds.memory,
            slots.join(", ")
        )
    })
}
