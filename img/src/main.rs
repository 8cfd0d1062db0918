//! `img`: create, convert, inspect, check and rescue disk images. Stands in for `qemu-img`.

#![forbid(unsafe_code)]

mod cli;
mod command;
mod options;
mod output;
mod progress;

use block::tool::{Out, program_name};
use std::process::ExitCode;

fn main() -> ExitCode {
    let out = Out::new(program_name());
    match cli::parse(std::env::args_os().collect(), &out) {
        Ok(command) => command.run(&out),
        Err(status) => status,
    }
}
