//! What counts as a difference.

use super::contents;
use crate::{Pair, Ran};

/// The outcome of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing differs.
    Same,
    /// Nothing differs that was compared, but files that were not may.
    Unsure,
    /// What differs.
    Differs(String),
}

/// Compares what the two did at the last of `lines` and what they left behind.
pub(super) fn differs(pair: &Pair, lines: &[String], ran: &[Ran; 2]) -> Verdict {
    let [_, real] = ran;
    let line = lines.last().map_or("", String::as_str);
    if real.code.is_none() {
        return crashed(line, ran);
    }
    if differs_on_purpose(line, ran) {
        return Verdict::Unsure;
    }
    let moved = lines.iter().any(|line| line.starts_with("qemu-img snapshot") && line.contains("-a "));
    if let Some(what) = words_differ(ran, moved) {
        return Verdict::Differs(what);
    }
    let unfinished = is_unfinished(line, real);
    let left_out = |name: &str| unfinished && (line.contains(name) || name == "e.data");
    match contents::differ(pair, &left_out) {
        Some(what) => Verdict::Differs(what),
        None if unfinished => Verdict::Unsure,
        None => Verdict::Same,
    }
}

/// Whether what became of a line has a row of its own in docs/differences.md: a file that fails while clusters are given up,
/// an image that is reopened so that its last unit cannot be written, one that is copied into itself, what a change of its
/// length that failed half-way has done to it, where the state of a machine is in one that became shorter, and holes in a file
/// for data alone.
fn differs_on_purpose(line: &str, [ours, real]: &[Ran; 2]) -> bool {
    real.stderr.contains("qcow2_free_clusters failed")
        || ours.stderr.contains("is a source and the target at once")
        || resizes(line)
            && line.contains("inject-error")
            && [ours, real].iter().all(|ran| !ran.stderr.is_empty())
        || resizes(line) && line.contains(" -b ")
        || line.contains("-s ") && line.contains("d.qcow2") && line.contains("write -z -n ")
        || line.contains("reopen ") && ours.stderr.contains("Cannot get 'write' permission without 'resize'")
}

fn resizes(line: &str) -> bool {
    let is_resize =
        |command: &str| ["t ", "truncate "].iter().any(|name| command.trim_start().starts_with(name));
    line.split(['\'', ';']).any(is_resize)
}

/// Whether what is in the files that the line names, or in the data file of a new image, is nobody's business. One that could
/// not be made may be there or not: ours is checked for before anything is touched. What is in a new encrypted image
/// depends on a random key, and so does what is behind the end of one whose file has to end with a whole unit of O_DIRECT.
/// Of what fails half-way any part may have arrived.
fn is_unfinished(line: &str, real: &Ran) -> bool {
    let makes = ["qemu-img create", "qemu-img convert", "qemu-img dd", "qemu-img bench"];
    let not_made = real.code != Some(0) && makes.iter().any(|start| line.starts_with(start));
    let direct = ["-t none", "-t off", "-t directsync"].iter().any(|mode| line.contains(mode));
    let random = (line.starts_with("qemu-img create") || direct) && line.contains("key-secret");
    let fails = ["inject-error", "rules.conf", "driver=compress"].iter().any(|word| line.contains(word));
    let fails = fails || line.split(['\'', ';']).any(is_compressed_write);
    not_made || random || fails && (real.stdout.contains("failed: ") || real.code != Some(0))
}

/// Compressed clusters fail one by one, those that are stored already.
fn is_compressed_write(command: &str) -> bool {
    command.starts_with('w') && command.contains(" -c ")
}

/// The real one was ended by a signal: one that it was told to send itself, or it crashed.
fn crashed(line: &str, [ours, real]: &[Ran; 2]) -> Verdict {
    let told = ["abort", "sigraise 9", "sigraise 15"].iter().any(|command| line.contains(command));
    let told = told && !real.stderr.contains("Unexpected error in ");
    if told && ours.code.is_some() { Verdict::Differs("signal".into()) } else { Verdict::Unsure }
}

/// What differs in the exit status and in what was said. Where a snapshot was gone back to, tables have `moved` in ours
/// (docs/differences.md), and so may the end of the image have.
fn words_differ([ours, real]: &[Ran; 2], moved: bool) -> Option<String> {
    let said = |ran: &Ran| {
        let text = filtered(&ran.stdout);
        let is_end =
            |line: &&str| line.starts_with("Image end offset:") || line.contains("\"image-end-offset\":");
        text.lines().filter(|line| !moved || !is_end(line)).collect::<Vec<_>>().join("\n")
    };
    let what = if ours.code != real.code && !fails_closing(ours, real) {
        "exit status"
    } else if is_usage(real) {
        return None;
    } else if said(ours) != said(real) {
        "standard output"
    } else if class(ours) != class(real) {
        "class of the complaint"
    } else {
        return None;
    };
    Some(what.to_owned())
}

/// Both failed to write something back while they closed, which only ours has an exit status for (docs/differences.md).
fn fails_closing(ours: &Ran, real: &Ran) -> bool {
    (ours.code, real.code) == (Some(1), Some(0)) && real.stderr.contains("Failed to flush the")
}

/// A mistake in the command line itself, which the two explain each in their own words.
fn is_usage(real: &Ran) -> bool {
    let told = real.stderr.contains("Try 'qemu-") || real.stderr.contains("invalid option --");
    // The inner commands of qemu-io print their usage on standard output.
    told || real.stdout.contains(" -- ")
}

/// Whether there was any complaint, and whether it was one.
fn class(ran: &Ran) -> (bool, bool) {
    let complaint = |line: &str| line.starts_with("qemu-") && !line.contains("warning");
    (ran.stderr.is_empty() || !ran.stderr.contains("qemu-"), ran.stderr.lines().any(complaint))
}

/// Standard output without what differs from run to run or with the file system. Which parts of a write that failed have
/// arrived, and so what is allocated and read from then on, is nobody's business either.
fn filtered(text: &str) -> String {
    let text = text.replace('\r', "\n");
    let mut failed = false;
    let known = text.lines().filter(|line| {
        failed |= line.starts_with("write failed: ") || line.starts_with("writev failed: ");
        !(failed && tells_contents(line))
    });
    known.filter_map(filtered_line).collect::<Vec<_>>().join("\n")
}

/// Lines that depend on what is in an image: what is allocated, dumps, patterns that are not there.
fn tells_contents(line: &str) -> bool {
    let allocated = line.contains("allocated at offset") || line.contains(" bytes allocated at");
    let is_hex = |digits: &str| digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let dumped = line.split_once(":  ").is_some_and(|(at, _)| is_hex(at));
    allocated || dumped || line.starts_with("Pattern verification failed")
}

fn filtered_line(line: &str) -> Option<String> {
    let trimmed = line.trim_start();
    // How far a bar has come depends on how much is done at a time.
    if trimmed.starts_with('(') && trimmed.ends_with("/100%)") {
        return None;
    }
    let changing = ["disk size:", "\"actual-size\":", "uuid:", "\"uuid\":", "iters:", "\"iters\":"];
    let more = ["master key iters:", "\"master-key-iters\":", "Run completed in"];
    if changing.iter().chain(&more).any(|start| trimmed.starts_with(start)) {
        return None;
    }
    if let Some((size, _)) = line.split_once(" ops; ") {
        return Some(size.to_owned());
    }
    Some(without_rates(&without_times(line)))
}

/// The report of a transfer as values between commas, without how long it took.
fn without_rates(line: &str) -> String {
    match line.split(',').collect::<Vec<_>>()[..] {
        [bytes, count, time, ..] if time.matches(':').count() == 2 => format!("{bytes},{count}"),
        _ => line.to_owned(),
    }
}

/// A line without the moment at which a snapshot was made: the two run one after the other.
fn without_times(line: &str) -> String {
    let is_time = |word: &str| {
        let digits = word.bytes().filter(u8::is_ascii_digit).count();
        (word.len(), digits) == (10, 8) && word.matches('-').count() == 2
            || (word.len(), digits) == (8, 6) && word.matches(':').count() == 2
    };
    let seconds = ["\"date-sec\":", "\"date-nsec\":"];
    if seconds.iter().any(|start| line.trim_start().starts_with(start)) {
        return String::new();
    }
    line.split(' ').filter(|word| !is_time(word)).collect::<Vec<_>>().join(" ")
}
