//! The NBD protocol: its wire format, the cores of a server and of a client, and the kernel as a client.
//!
//! Negotiation is bytes in, bytes out on both sides and never sees a socket; transmission runs over any
//! [`Transport`](crate::channel::Transport). The specification is `doc/proto.md` of the NBD project, with its branch
//! `extension-ext-header`.

pub mod client;
pub mod kernel;
pub mod server;
pub mod wire;
