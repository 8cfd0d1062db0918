//! `kvm-runner`: a small virtual machine whose disks are node graphs of ours. Tests boot images with it.
//!
//! The command line becomes a [`Machine`](machine::Machine); what the host offers decides who runs it: [`kvm`] here, or
//! QEMU's software emulation ([`tcg`]). Both print through one [`Console`](console::Console), which also watches for the
//! text a test waits for, and both end with an [`Outcome`](machine::Outcome), which is the exit status.

#![deny(unsafe_code)]

mod accel;
mod cli;
mod console;
#[cfg(target_arch = "x86_64")]
mod kvm;
mod machine;
mod tcg;

use block::tool::{Out, program_name};
use std::process::ExitCode;

fn main() -> ExitCode {
    let out = Out::new(program_name());
    match cli::parse(std::env::args_os().collect(), &out) {
        Ok(machine) => accel::run(&machine, &out).unwrap_or_else(|e| {
            out.error(&e);
            ExitCode::FAILURE
        }),
        Err(status) => status,
    }
}
