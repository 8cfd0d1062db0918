//! Filters: drivers that pass requests on to one node or several, and do something with them on the way.
//!
//! Each is one row of the driver table and knows no format. What a filter does not concern itself with is the business
//! of the node below: the answer is passed up unchanged.

pub mod blkdebug;
pub mod blklogwrites;
pub mod blkverify;
pub mod compress;
pub mod copy_on_read;
mod pass;
pub mod preallocate;
pub mod quorum;
pub mod throttle;

use std::io::Write;

/// Ends the process because copies that must be the same differ: nothing may change before somebody has looked.
fn diverged(text: &str) -> ! {
    let _ = writeln!(std::io::stderr(), "{text}");
    std::process::exit(1)
}
