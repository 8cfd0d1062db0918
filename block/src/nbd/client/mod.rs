//! The client: negotiation with a server, and requests to it.

mod connection;
mod negotiation;

pub use connection::{Connection, Failure, Sink};
pub use negotiation::{ExportInfo, Wanted, list, negotiate};
