//! `img key lint`: what is wrong with a header, or could be better.
//!
//! The checks are those that opening makes, so what opens has no errors here, and what has no errors opens. On top of
//! them come costs that are too low to keep a guesser out, which nothing refuses.

use super::area::Area;
use super::container::{self, Container};
use super::derive::{Bounds, Derivation, Excess};
use super::keyslot::KeySlot;
use super::search::{Search, Skipped};
use crate::crypto::Mode;
use block::Result;
use block::keys::{Finding, LintBounds, Severity};
use std::time::Duration;

/// What there is to say about `container`.
///
/// # Errors
/// The processor-time clock cannot be read, or the layer below.
pub(super) fn lint(
    container: &Container,
    area: &Area,
    payload_file: Option<u64>,
    bounds: &LintBounds,
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if let Container::Broken(why) = container {
        let null = names_null_cipher(area)?;
        findings.push(error(if null { "null-cipher" } else { "header" }, why.clone()));
        return Ok(findings);
    }
    if let Some(len) = payload_file
        && let Err(e) = container::check_length(&container.place(), len)
    {
        findings.push(error("payload-outside-file", e.to_string()));
    }
    findings.extend(container.complaints());
    lint_cipher(container, &mut findings);
    let slots = container.key_slots();
    if slots.is_empty() {
        findings.push(error("no-key-slot", "No key slot opens the image".to_owned()));
    }
    findings.extend(slots.iter().filter_map(|slot| weak(slot, bounds)));
    let most = Bounds { time: Duration::from_secs(bounds.max_seconds), memory: bounds.max_memory };
    let search = Search::new(slots, |at, to: &mut [u8]| area.read(at, to), most)?;
    findings.extend(search.skipped().iter().map(excessive));
    Ok(findings)
}

fn error(code: &'static str, text: String) -> Finding {
    Finding { severity: Severity::Error, code, slot: None, text }
}

/// Whether the header is a LUKS1 one that names the cipher that does nothing.
fn names_null_cipher(area: &Area) -> Result<bool> {
    let mut head = [0; 40];
    area.read(0, &mut head)?;
    Ok(head.starts_with(b"LUKS") && head[8..].starts_with(b"cipher_null"))
}

fn lint_cipher(container: &Container, findings: &mut Vec<Finding>) {
    match container.cipher() {
        Err(e) if e.to_string().contains("null") => findings.push(error("null-cipher", e.to_string())),
        Err(e) => findings.push(error("unusable", e.to_string())),
        Ok(cipher) if cipher.mode() == Mode::Ecb => findings.push(Finding {
            severity: Severity::Warning,
            code: "weak-cipher",
            slot: None,
            text: format!("{cipher} shows which blocks are alike"),
        }),
        Ok(_) => {}
    }
}

/// A slot that is too cheap.
fn weak(slot: &KeySlot, bounds: &LintBounds) -> Option<Finding> {
    let weakness = weakness(&slot.derivation, bounds)?;
    Some(Finding {
        severity: Severity::Warning,
        code: "weak-kdf",
        slot: Some(slot.number),
        text: format!("Key slot {}: {weakness}", slot.number),
    })
}

/// A slot that is too dear, so that opening does not try it.
fn excessive(Skipped { slot, excess }: &Skipped) -> Finding {
    let cost = match excess {
        Excess::Time(time) => format!("a derivation takes about {} s", time.as_secs_f64().ceil()),
        Excess::More(time) => {
            format!("a derivation takes about {} s on top of those of the others", time.as_secs_f64().ceil())
        }
        Excess::Memory(kib) => format!("a derivation takes {kib} KiB of memory"),
    };
    let text = format!("Key slot {slot}: {cost}");
    Finding { severity: Severity::Error, code: "excessive-kdf", slot: Some(*slot), text }
}

/// Why the derivation is too cheap, if it is.
fn weakness(derivation: &Derivation, bounds: &LintBounds) -> Option<String> {
    match derivation {
        Derivation::Pbkdf2 { iterations, .. } => {
            let (have, want) = (u64::from(iterations.get()), bounds.min_iterations);
            (have < want).then(|| format!("{have} iterations of pbkdf2 are fewer than {want}"))
        }
        Derivation::Argon2 { cost, .. } => {
            let (memory, time) = (u64::from(cost.memory), u64::from(cost.time));
            if memory < bounds.min_memory {
                return Some(format!("{memory} KiB of memory are less than {}", bounds.min_memory));
            }
            (time < bounds.min_time_cost)
                .then(|| format!("{time} passes over the memory are fewer than {}", bounds.min_time_cost))
        }
    }
}
