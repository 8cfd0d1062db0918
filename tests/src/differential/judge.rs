//! What counts as a difference.

use super::zoo::names;
use super::{Zoo, generate};
use crate::{Pair, Ran, Whose};
use std::path::Path;

/// What a qcow2 image begins with, whatever its name.
const QCOW2: &[u8] = b"QFI\xfb";

/// The outcome of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing differs.
    Same,
    /// Not compared, see the module above.
    LeftOut,
    /// What differs.
    Differs(String),
}

/// Compares what the two did and what they left behind.
pub(super) fn differs(zoo: &Zoo, pair: &Pair, line: &str, [ours, real]: &[Ran; 2]) -> Verdict {
    if real.code.is_none() || is_usage(real) {
        return if ours.code == real.code || real.code.is_none() {
            Verdict::LeftOut
        } else {
            Verdict::Differs("exit status of a usage error".into())
        };
    }
    if ours.code != real.code {
        return Verdict::Differs("exit status".into());
    }
    let (out, expected) = (filtered(&ours.stdout), filtered(&real.stdout));
    if out != expected {
        return Verdict::Differs("standard output".into());
    }
    if class(ours) != class(real) {
        return Verdict::Differs("class of the complaint".into());
    }
    // A target that could not be made may be there or not: ours is checked for before anything is touched.
    let makes = ["qemu-img create", "qemu-img convert", "qemu-img dd"];
    if real.code != Some(0) && makes.iter().any(|start| line.starts_with(start)) {
        return Verdict::LeftOut;
    }
    files_differ(zoo, pair, line).map_or(Verdict::Same, Verdict::Differs)
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

/// Standard output without what differs from run to run or with the file system.
fn filtered(text: &str) -> String {
    text.replace('\r', "\n").lines().filter_map(filtered_line).collect::<Vec<_>>().join("\n")
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
        [bytes, count, time, ..] if time.starts_with("0:0") => format!("{bytes},{count}"),
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

/// What differs in the files, if anything does.
fn files_differ(zoo: &Zoo, pair: &Pair, line: &str) -> Option<String> {
    let [ours, real] = [Whose::Ours, Whose::Real].map(|whose| pair.dir(whose));
    let (mine, theirs) = (names(ours), names(real));
    if mine != theirs {
        return Some(format!("files: {mine:?}, not {theirs:?}"));
    }
    mine.iter().find_map(|name| file_differs(zoo, ours, real, name, line))
}

fn file_differs(zoo: &Zoo, ours: &Path, real: &Path, name: &str, line: &str) -> Option<String> {
    let (a, b) = (ours.join(name), real.join(name));
    if zoo.is_unchanged(&a) && zoo.is_unchanged(&b) {
        return None;
    }
    let [mine, theirs] = [&a, &b].map(|path| std::fs::read(path).unwrap_or_default());
    if mine == theirs {
        return None;
    }
    let both_qcow2 = [mine, theirs].iter().all(|bytes| bytes.starts_with(QCOW2));
    let format = if both_qcow2 { "qcow2" } else { generate::format_of(name, line) };
    if format == "raw" {
        return Some(format!("contents of {name}"));
    }
    let describe = |path: &Path| match format {
        "luks" => format!("driver=luks,key-secret=s,file.filename={}", path.display()),
        _ => format!("driver={format},file.filename={}", path.display()),
    };
    let mut compare = Whose::Real.command("qemu-img");
    compare.args(["compare", "-q", "--object", "secret,id=s,data=abc", "--image-opts"]);
    let ran = Ran::of(compare.args([describe(&a), describe(&b)]).current_dir(ours));
    (ran.code != Some(0)).then(|| format!("contents of {name}: compare says {ran}"))
}
