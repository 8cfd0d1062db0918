//! `nbd-server`: serve disk images over NBD. Stands in for `qemu-nbd`.

#![forbid(unsafe_code)]

mod cli;
mod device;
mod list;
mod plan;
mod serve;

use block::tool::daemon::{self, Side};
use block::tool::{Out, program_name};
use block::trace::{self, Asked};
use plan::Job;
use secret::{OBJECT_TYPES, Registry};
use std::process::ExitCode;

fn main() -> ExitCode {
    let out = Out::new(program_name());
    match cli::parse(std::env::args_os().collect(), &out) {
        Ok(cli) => run(cli, &out).unwrap_or_else(|e| {
            out.error(&e);
            ExitCode::FAILURE
        }),
        Err(status) => status,
    }
}

fn run(cli: cli::Cli, out: &Out) -> block::Result<ExitCode> {
    if trace::start(out, &cli.trace)? == Asked::Help {
        return Ok(ExitCode::SUCCESS);
    }
    secret::forbid_core_dump()?;
    let mut objects = Registry::new([OBJECT_TYPES, block::OBJECT_TYPES]);
    for text in &cli.objects {
        if let secret::objects::Added::Help(text) = objects.add(text)? {
            out.print(text);
            return Ok(ExitCode::SUCCESS);
        }
    }
    match plan::plan(cli, out)? {
        Job::List(job) => list::run(&job, &objects, out),
        Job::Detach(path) => device::detach(&path, out),
        Job::Serve(job) if job.fork => match daemon::detach()? {
            Side::Parent(status) => Ok(status),
            Side::Child(daemon) => serve::run(&job, &objects, out, Some(daemon)),
        },
        Job::Serve(job) => serve::run(&job, &objects, out, None),
    }
}
