//! Guests without an operating system, made from the sources of `tests/runner/guests` by the system's assembler and linker.

use crate::Ran;
use std::path::Path;
use std::process::Command;

/// What a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A boot sector, and what it loads.
    Sector,
    /// An ELF file that is entered in 64-bit mode.
    Kernel,
}

/// Makes the guest of this name in `dir`, as the file `guest`, and gives it.
///
/// # Panics
/// It cannot be made.
pub fn assemble(dir: &Path, name: &str, shape: Shape) -> Vec<u8> {
    let (assembler, linker): (&str, &[&str]) = match shape {
        Shape::Sector => ("--32", &["-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary"]),
        Shape::Kernel => ("--64", &["-m", "elf_x86_64", "-Ttext", "0x100000"]),
    };
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("runner/guests");
    let source = sources.join(name).with_extension("s");
    let run = |command: &mut Command| Ran::of(command.current_dir(dir)).ok();
    run(Command::new("as").arg(assembler).arg("-I").arg(&sources).args(["-o", "guest.o"]).arg(source));
    run(Command::new("ld").args(linker).args(["-o", "guest", "guest.o"]));
    std::fs::read(dir.join("guest")).expect("the linker made it")
}
