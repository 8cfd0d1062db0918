//! Object types that QEMU's tools know and we do not have, each with what there is instead.

use crate::{Error, Kind};

/// Names, and what to do without them. A row goes when some crate's table has its names.
const UNAVAILABLE: &[(&[&str], &str)] = &[
    (&["tls-creds-psk", "tls-creds-anon"], crate::tls::WITHOUT_OPENSSL),
    (
        &["authz-pam"],
        "This program was built without the feature authz-pam, which has it; authz-list-file can do without PAM.",
    ),
    (
        &["iothread", "main-loop", "thread-context"],
        "Threads are started as they are needed; leave the object out. To bind them to processors, use taskset.",
    ),
    (&["pr-manager-helper"], "Persistent reservations are not managed here; make them with sg_persist."),
];

/// The error for a type that is in none of the tables; `have` lists the types that are.
pub(super) fn refuse(name: &str, have: &str) -> Error {
    match UNAVAILABLE.iter().find(|(names, _)| names.contains(&name)) {
        Some((_, instead)) => Error::new(Kind::Unsupported, format!("Object type '{name}' is not available"))
            .with_hint(*instead),
        None => Error::invalid(format!("Parameter 'qom-type' does not accept value '{name}'"))
            .with_hint(format!("There are: {have}")),
    }
}
