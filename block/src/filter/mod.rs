//! Filters: drivers that pass requests on to one node or several, and do something with them on the way.
//!
//! Each is one row of the driver table and knows no format. What a filter does not concern itself with is the business
//! of the node below: the answer is passed up unchanged.

pub mod blkdebug;
