//! Consistency checks: what a format that has one implements, and what it answers.
//!
//! The counts are those of `check --output=json` (options.md 4.3). A check never stops at the first thing that is
//! wrong: it counts, and says each in a line of text as it finds it.

use crate::{Quiesced, Result};

/// What a check may mend on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Repair {
    /// Nothing.
    #[default]
    No,
    /// Clusters that are marked as used and are not.
    Leaks,
    /// Everything that can be mended.
    All,
}

/// What a check found and mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckResult {
    /// Parts of the image that could not be checked, because of an error that is no finding.
    pub check_errors: u64,
    /// Contradictions that endanger data and are still there.
    pub corruptions: u64,
    /// Clusters allocated for nothing, still there.
    pub leaks: u64,
    /// Contradictions mended.
    pub corruptions_fixed: u64,
    /// Leaked clusters given back.
    pub leaks_fixed: u64,
    /// End of the last used cluster in the file, in bytes; 0 where it is not known.
    pub image_end_offset: u64,
    /// What the clusters are made of, where the format counts them.
    pub clusters: Clusters,
}

/// What the guest's clusters are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clusters {
    /// How many there are.
    pub total: u64,
    /// How many of them are stored.
    pub allocated: u64,
    /// How many do not follow their predecessor in the file.
    pub fragmented: u64,
    /// How many are stored compressed.
    pub compressed: u64,
}

/// A format that can tell whether an image contradicts itself; see [`Driver::check`](crate::Driver::check).
pub trait Check {
    /// Checks the whole image and mends what `repair` allows. `report` is given a line of text (without newline) for
    /// each finding, which the caller prints on standard error.
    ///
    /// # Errors
    /// The check itself could not be done. Findings are no errors.
    fn check(&self, q: &Quiesced<'_>, repair: Repair, report: &mut dyn FnMut(&str)) -> Result<CheckResult>;
}
