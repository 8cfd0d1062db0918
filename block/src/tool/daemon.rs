//! Going to the background: the parent waits until the child is ready and passes on what it complains about.

use crate::Result;
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Side {
    /// The one the user started; all that is left to do is to end with this status.
    Parent(ExitCode),
    /// The one in the background.
    Child(Daemon),
}

/// A process in the background whose parent still waits. Until [`Daemon::ready`], standard error goes to the parent.
#[derive(Debug)]
pub struct Daemon {
    stderr: OwnedFd,
}

/// Forks. Must be called before the first thread is started.
///
/// # Errors
/// The operating system's; `EBUSY` when there are several threads.
pub fn detach() -> Result<Side> {
    let (read, write) = io::pipe()?;
    match crate::sys::fork()? {
        ForkResult::Parent { .. } => {
            drop(write);
            Ok(Side::Parent(pass_on(read)))
        }
        ForkResult::Child => {
            drop(read);
            let stderr = io::stderr().as_fd().try_clone_to_owned()?;
            let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
            setsid()?;
            dup2_stdin(&null)?;
            dup2_stdout(&null)?;
            dup2_stderr(&write)?;
            Ok(Side::Child(Daemon { stderr }))
        }
    }
}

/// Prints what the child says until it is ready or gone; it failed if it said anything.
fn pass_on(mut from: io::PipeReader) -> ExitCode {
    let mut buffer = [0; 1024];
    let mut status = ExitCode::SUCCESS;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return status,
            Ok(n) => {
                status = ExitCode::FAILURE;
                // Nobody may be listening.
                let _ = io::stderr().write_all(&buffer[..n]);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

impl Daemon {
    /// Lets the parent go. From here on standard error goes where the parent's went, or nowhere.
    ///
    /// # Errors
    /// The operating system's.
    pub fn ready(self, keep_stderr: bool) -> Result<()> {
        if keep_stderr {
            dup2_stderr(&self.stderr)?;
        } else {
            dup2_stderr(io::stdout())?;
        }
        Ok(())
    }
}
