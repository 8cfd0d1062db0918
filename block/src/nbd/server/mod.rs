//! The server: negotiation, requests, and the threads that serve them.
//!
//! One thread ([`Server::run`]) accepts clients and drives every negotiation; a client that reached transmission gets a
//! pool of threads of its own ([`connection`]). A request is validated first and then executed; nothing that a client
//! sends reaches the image unchecked.

mod batch;
mod budget;
mod connection;
mod export;
mod negotiation;
mod pace;
mod reply;
mod request;
mod serve;
mod status;

pub use export::{Export, Exports, MetaContext};
pub use negotiation::{Negotiation, Session, Step, Tls};
pub use serve::{Server, ServerOptions};

#[cfg(test)]
mod tests;
