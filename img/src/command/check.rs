//! `img check`.

use super::Tool;
use crate::cli::{Input, Objects, Report, Run, Share, cache_mode};
use block::check::{CheckResult, Repair};
use block::graph::{self, OpenFlags};
use block::tool::json;
use block::{Error, Image, Result};
use clap::Args;
use serde_json::{Map, Value};
use std::fmt::Write;
use std::process::ExitCode;

/// Exit status: something is wrong with the image.
const CORRUPT: u8 = 2;
/// Exit status: nothing but wasted space.
const LEAKS: u8 = 3;
/// Exit status: the format has no check.
const NO_CHECK: u8 = 63;

/// Options of `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    share: Share,
    #[command(flatten)]
    report: Report,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Mend what can be mended
    #[arg(short, long, value_name = "leaks|all")]
    repair: Option<String>,
    /// Cache mode of the image
    #[arg(short = 'T', long = "cache", value_name = "CACHE", default_value = "writeback")]
    cache: String,
    /// The image
    #[arg(value_name = "FILE", num_args = 0..)]
    words: Vec<String>,
}

impl Run for CheckArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn run(self, tool: &Tool<'_>) -> Result<ExitCode> {
        let repair = self.repair(tool)?;
        let source = self.input.source(tool, self.words)?;
        let flags = OpenFlags {
            writable: repair != Repair::No,
            cache: cache_mode(&self.cache, "source ")?,
            repair: true,
            force_share: self.share.force_share,
            ..self.input.flags()
        };
        let image = graph::open(tool.env(), &source, self.input.format.as_deref(), flags)?;
        if !image.node().has_check() {
            tool.out.error_text("This image format does not support checks");
            return Ok(NO_CHECK.into());
        }
        let silent = self.quiet || self.report.is_json();
        let result = check(tool, &image, repair, silent)?;
        match self.report.is_json() {
            _ if self.quiet => {}
            true => {
                let format = image.node().name().driver;
                tool.out.line(json::pretty(&machine_report(&result, source.text(), format)));
            }
            false => tool.out.print(human_report(&result)),
        }
        image.close()?;
        if result.check_errors > 0 {
            tool.out.error_text("Check failed");
        }
        Ok(status(&result))
    }
}

impl CheckArgs {
    fn repair(&self, tool: &Tool<'_>) -> Result<Repair> {
        match self.repair.as_deref() {
            None => Ok(Repair::No),
            Some("leaks") => Ok(Repair::Leaks),
            Some("all") => Ok(Repair::All),
            Some(other) => {
                Err(tool.usage_error(format!("--repair (-r) expects 'leaks' or 'all' not '{other}'")))
            }
        }
    }
}

/// Checks, and once more where something was mended: the counts of what is left are those of the second look.
fn check(tool: &Tool<'_>, image: &Image, repair: Repair, silent: bool) -> Result<CheckResult> {
    let run = |repair| {
        let mut say = |line: &str| tool.out.to_stderr(&format!("{line}\n"));
        let result = image.node().check(repair, &mut say);
        result.map_err(|e| Error::from_errno(e.errno()).context("Check failed"))
    };
    let first = run(repair)?;
    let CheckResult { leaks_fixed, corruptions_fixed, .. } = first;
    if (leaks_fixed, corruptions_fixed) == (0, 0) {
        return Ok(first);
    }
    if !silent {
        tool.out.print(format_args!(
            "The following inconsistencies were found and repaired:\n\n    {leaks_fixed} leaked clusters\n    \
             {corruptions_fixed} corruptions\n\nDouble checking the fixed image now...\n"
        ));
    }
    Ok(CheckResult { leaks_fixed, corruptions_fixed, ..run(Repair::No)? })
}

fn status(result: &CheckResult) -> ExitCode {
    match result {
        CheckResult { check_errors: 1.., .. } => ExitCode::FAILURE,
        CheckResult { corruptions: 1.., .. } => CORRUPT.into(),
        CheckResult { leaks: 1.., .. } => LEAKS.into(),
        _ => ExitCode::SUCCESS,
    }
}

fn human_report(result: &CheckResult) -> String {
    let CheckResult { corruptions, leaks, check_errors, clusters, image_end_offset, .. } = *result;
    let mut text = String::new();
    if (corruptions, leaks, check_errors) == (0, 0, 0) {
        text.push_str("No errors were found on the image.\n");
    }
    let mut finding = |count: u64, what: &str| {
        if count > 0 {
            let _ = write!(text, "\n{count} {what}\n");
        }
    };
    finding(
        corruptions,
        "errors were found on the image.\n\
         Data may be corrupted, or further writes to the image may corrupt it.",
    );
    finding(
        leaks,
        "leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.",
    );
    finding(check_errors, "internal errors have occurred during the check.");
    if clusters.total > 0 && clusters.allocated > 0 {
        let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole as f64;
        let _ = writeln!(
            text,
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters",
            clusters.allocated,
            clusters.total,
            percent(clusters.allocated, clusters.total),
            percent(clusters.fragmented, clusters.allocated),
            percent(clusters.compressed, clusters.allocated),
        );
    }
    if image_end_offset > 0 {
        let _ = writeln!(text, "Image end offset: {image_end_offset}");
    }
    text
}

/// Counts of nothing are left out, but for those of the check's own errors.
fn machine_report(result: &CheckResult, filename: &str, format: &str) -> Value {
    let counts = [
        ("image-end-offset", result.image_end_offset),
        ("corruptions", result.corruptions),
        ("leaks", result.leaks),
        ("corruptions-fixed", result.corruptions_fixed),
        ("leaks-fixed", result.leaks_fixed),
        ("total-clusters", result.clusters.total),
        ("allocated-clusters", result.clusters.allocated),
        ("fragmented-clusters", result.clusters.fragmented),
        ("compressed-clusters", result.clusters.compressed),
    ];
    let known = counts.into_iter().filter(|(_, count)| *count > 0).map(|(name, count)| (name, count.into()));
    let always: [(&str, Value); 3] = [
        ("filename", filename.into()),
        ("format", format.into()),
        ("check-errors", result.check_errors.into()),
    ];
    let members: Map<String, Value> =
        always.into_iter().chain(known).map(|(name, value)| (name.to_owned(), value)).collect();
    Value::Object(members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::check::Clusters;

    const CLUSTERS: Clusters = Clusters { total: 16, allocated: 1, fragmented: 0, compressed: 0 };

    #[test]
    fn a_clean_image_is_said_to_be_clean() {
        let result = CheckResult { image_end_offset: 262_144, ..CheckResult::default() };
        let text = "No errors were found on the image.\nImage end offset: 262144\n";
        assert_eq!((human_report(&result), status(&result)), (text.to_owned(), ExitCode::SUCCESS));
    }

    #[test]
    fn findings_are_counted_and_decide_the_status() {
        let leaks = CheckResult { leaks: 2, clusters: CLUSTERS, ..CheckResult::default() };
        let text = "\n2 leaked clusters were found on the image.\nThis means waste of disk space, but no harm to \
                    data.\n1/16 = 6.25% allocated, 0.00% fragmented, 0.00% compressed clusters\n";
        assert_eq!((human_report(&leaks), status(&leaks)), (text.to_owned(), LEAKS.into()));
        let both = CheckResult { corruptions: 8, ..leaks };
        let text = "\n8 errors were found on the image.\nData may be corrupted, or further writes to the image may \
                    corrupt it.\n";
        assert!(human_report(&both).starts_with(text));
        assert_eq!(status(&both), CORRUPT.into());
        assert_eq!(status(&CheckResult { check_errors: 1, ..both }), ExitCode::FAILURE);
    }

    #[test]
    fn counts_of_nothing_are_left_out_for_programs() {
        let result = CheckResult { leaks_fixed: 2, clusters: CLUSTERS, ..CheckResult::default() };
        let text = json::pretty(&machine_report(&result, "a.qcow2", "qcow2")).to_string();
        let want = "{\n    \"total-clusters\": 16,\n    \"check-errors\": 0,\n    \"leaks-fixed\": 2,\n    \
                    \"allocated-clusters\": 1,\n    \"filename\": \"a.qcow2\",\n    \"format\": \"qcow2\"\n}";
        assert_eq!(text, want);
    }
}
