//! `img`: create, convert, inspect, check and rescue disk images. Stands in for `qemu-img`.

#![forbid(unsafe_code)]

mod assertion;
mod bitmaps;
mod cli;
mod command;
mod names;
mod options;
mod output;
mod progress;
mod snapshot;
mod target;

use block::tool::{Out, program_name};
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let out = Arc::new(Out::new(program_name()).telling_places());
    let status = match cli::parse(std::env::args_os().collect(), &out) {
        Ok(command) => command.run(&out),
        Err(status) => status,
    };
    // A thread that waits for signals may keep its share of the output.
    out.flush();
    status
}
