//! `io-tool`: scripted reads and writes on a disk image. Stands in for `qemu-io`.

#![forbid(unsafe_code)]

mod args;
mod cli;
mod command;
mod output;
mod pending;
mod prompt;
mod session;

use block::tool::{Out, program_name};
use std::process::ExitCode;

fn main() -> ExitCode {
    let out = Out::new(program_name());
    match cli::parse(std::env::args_os().collect(), &out) {
        Ok(cli) => cli.run(&out),
        Err(status) => status,
    }
}
