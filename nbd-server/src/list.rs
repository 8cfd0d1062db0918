//! `--list`: the exports of another server.

use crate::plan::ListJob;
use block::channel::{ClientTls, Transport};
use block::nbd::client::{self, ExportInfo};
use block::nbd::wire::{Headers, TransmissionFlags};
use block::tool::Out;
use block::{Context, Result};
use secret::Registry;
use secret::tls::Endpoint;
use std::net::Shutdown;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How long the server may take for one answer.
const LIMIT: Duration = Duration::from_secs(30);

/// The flags, as they are printed.
const FLAGS: [(TransmissionFlags, &str); 12] = [
    (TransmissionFlags::READ_ONLY, "readonly"),
    (TransmissionFlags::SEND_FLUSH, "flush"),
    (TransmissionFlags::SEND_FUA, "fua"),
    (TransmissionFlags::ROTATIONAL, "rotational"),
    (TransmissionFlags::SEND_TRIM, "trim"),
    (TransmissionFlags::SEND_WRITE_ZEROES, "zeroes"),
    (TransmissionFlags::SEND_DF, "df"),
    (TransmissionFlags::CAN_MULTI_CONN, "multi"),
    (TransmissionFlags::SEND_RESIZE, "resize"),
    (TransmissionFlags::SEND_CACHE, "cache"),
    (TransmissionFlags::SEND_FAST_ZERO, "fast-zero"),
    (TransmissionFlags::BLOCK_STATUS_PAYLOAD, "block-status-payload"),
];

/// Connects and prints what there is.
///
/// # Errors
/// No server there, or one that does not tell.
pub(crate) fn run(job: &ListJob, objects: &Registry, out: &Out) -> Result<ExitCode> {
    let tls = job.tls_creds.as_deref().map(|id| tls(objects, id, job)).transpose()?;
    let socket = Arc::new(job.address.connect()?);
    socket.set_time_limit(LIMIT)?;
    let list = client::list(Arc::clone(&socket) as _, tls.as_ref())?;
    socket.shutdown(Shutdown::Both);
    out.line(format_args!("exports available: {}", list.len()));
    list.iter().for_each(|export| print(export, out));
    Ok(ExitCode::SUCCESS)
}

fn tls(objects: &Registry, id: &str, job: &ListJob) -> Result<ClientTls> {
    let credentials = objects.tls_credentials(id, Endpoint::Client).context(|| "Failed to get TLS creds")?;
    let host = job.address.host().map(str::to_owned);
    Ok(ClientTls { credentials, hostname: job.tls_hostname.clone().or(host) })
}

fn print(export: &ExportInfo, out: &Out) {
    out.line(format_args!(" export: '{}'", export.name));
    if let Some(text) = &export.description {
        out.line(format_args!("  description: {text}"));
    }
    if export.flags.contains(TransmissionFlags::HAS_FLAGS) {
        out.line(format_args!("  size:  {}", export.size));
        let set: String = FLAGS
            .iter()
            .filter(|(f, _)| export.flags.contains(*f))
            .map(|(_, name)| format!(" {name}"))
            .collect();
        out.line(format_args!("  flags: {:#x} ({set} )", export.flags.bits()));
    }
    if let Some([min, preferred, max]) = export.block_sizes {
        out.line(format_args!("  min block: {min}\n  opt block: {preferred}\n  max block: {max}"));
    }
    let bits = if export.headers == Headers::Extended { 64 } else { 32 };
    out.line(format_args!("  transaction size: {bits}-bit"));
    if !export.contexts.is_empty() {
        out.line(format_args!("  available meta contexts: {}", export.contexts.len()));
        export.contexts.iter().for_each(|(_, name)| out.line(format_args!("   {name}")));
    }
}
