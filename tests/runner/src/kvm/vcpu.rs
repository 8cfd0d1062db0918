//! A processor: runs the guest, and takes what it cannot do itself to the board.

use super::bios::Registers;
use super::board::{Board, Flow, SERVICE_PORT};
use super::lock;
use crate::machine::Outcome;
use block::{Error, Result};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Vcpu {
    fd: VcpuFd,
    board: Arc<Mutex<Board>>,
}

/// What a guest's exit asks for, when it is not done already.
enum Step {
    Done(Flow),
    Service,
}

impl Vcpu {
    /// A processor whose registers are set, on this board.
    pub(super) fn new(fd: VcpuFd, board: Arc<Mutex<Board>>) -> Self {
        Vcpu { fd, board }
    }

    /// Runs until something ends the run.
    pub(super) fn run(mut self) -> Outcome {
        loop {
            let flow = match self.step() {
                Ok(Step::Done(flow)) => Ok(flow),
                Ok(Step::Service) => self.serve(),
                Err(e) => Err(e),
            };
            match flow {
                Ok(Flow::End(outcome)) => return outcome,
                Ok(_) => {}
                Err(e) => return self.crash(&e.to_string()),
            }
        }
    }

    /// Runs to the next exit.
    fn step(&mut self) -> Result<Step> {
        let board = &self.board;
        let exit = match self.fd.run() {
            Ok(exit) => exit,
            // A signal for this thread, or a processor that was not started yet.
            Err(e) if is_passing(e) => return Ok(Step::Done(Flow::Go)),
            Err(e) => return Err(kvm_error("KVM cannot run it", e)),
        };
        Ok(Step::Done(match exit {
            VcpuExit::IoOut(SERVICE_PORT, _) => return Ok(Step::Service),
            VcpuExit::IoOut(port, data) => lock(board).write_port(port, data),
            VcpuExit::IoIn(port, data) => {
                lock(board).read_port(port, data);
                Flow::Go
            }
            VcpuExit::MmioWrite(address, data) => lock(board).write_register(address, data),
            VcpuExit::MmioRead(address, data) => {
                lock(board).read_register(address, data);
                Flow::Go
            }
            // Without interrupt controllers, halting is for good; with them, KVM waits for interrupts itself.
            VcpuExit::Hlt => Flow::End(Outcome::Ended),
            VcpuExit::Intr => Flow::Go,
            VcpuExit::Shutdown => return Err(Error::invalid("triple fault")),
            exit => return Err(Error::invalid(format!("KVM stopped it: {exit:?}"))),
        }))
    }

    /// Serves a call of the firmware, which the registers say more about.
    fn serve(&self) -> Result<Flow> {
        let mut registers = Registers {
            regs: self.fd.get_regs().map_err(|e| kvm_error("Could not read its registers", e))?,
            segments: self.fd.get_sregs().map_err(|e| kvm_error("Could not read its registers", e))?,
        };
        let mut flow = lock(&self.board).serve(&mut registers);
        while flow == Flow::Wait {
            std::thread::sleep(Duration::from_millis(10));
            flow = lock(&self.board).serve(&mut registers);
        }
        self.fd.set_regs(&registers.regs).map_err(|e| kvm_error("Could not set its registers", e))?;
        Ok(flow)
    }

    fn crash(&self, why: &str) -> Outcome {
        let place = match (self.fd.get_regs(), self.fd.get_sregs()) {
            (Ok(regs), Ok(segments)) => format!(" at {:04x}:{:x}", segments.cs.selector, regs.rip),
            _ => String::new(),
        };
        Outcome::Crashed(format!("{why}{place}"))
    }
}

fn is_passing(e: kvm_ioctls::Error) -> bool {
    matches!(io::Error::from(e).kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// What KVM refused, in words.
pub(super) fn kvm_error(what: &str, e: kvm_ioctls::Error) -> Error {
    Error::from_errno(e.errno()).context(what)
}
