//! What the host offers, and who therefore runs the machine.

use crate::console::Console;
use crate::machine::{Accel, Machine, Outcome};
use crate::tcg;
use block::tool::Out;
use block::{Context, Error, Image, Result};
use secret::{OBJECT_TYPES, Registry};
use std::fs::OpenOptions;
use std::process::ExitCode;

/// What KVM is on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// There is none, for this reason.
    None(String),
    /// KVM on a processor (or under a hypervisor) without virtualisation: real mode, 32-bit code without paging and small
    /// 64-bit programs run, by interpretation; a stock Linux hangs.
    Interpreted,
    /// KVM as one expects it.
    Hardware,
}

impl Host {
    fn detect() -> Self {
        if !cfg!(target_arch = "x86_64") {
            return Host::None("this is no x86-64 machine".to_owned());
        }
        if let Err(e) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
            return Host::None(format!("/dev/kvm: {}", Error::from(e)));
        }
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let has = flags.lines().filter(|line| line.starts_with("flags")).flat_map(str::split_whitespace);
        if has.into_iter().any(|flag| matches!(flag, "vmx" | "svm")) {
            Host::Hardware
        } else {
            Host::Interpreted
        }
    }
}

/// Runs the machine and gives the exit status.
///
/// # Errors
/// It cannot be started.
pub(crate) fn run(machine: &Machine, out: &Out) -> Result<ExitCode> {
    let by_kvm = by_kvm(machine, &Host::detect(), out)?;
    let Some(disks) = disks(machine, out)? else { return Ok(ExitCode::SUCCESS) };
    let console = Console::new(machine)?;
    let outcome = if by_kvm { run_kvm(machine, disks, console)? } else { tcg::run(machine, disks, console)? };
    let (status, text) = outcome.verdict(machine.expect.is_some());
    text.into_iter().for_each(|text| out.error_text(&text));
    Ok(status)
}

/// Whether KVM runs it.
///
/// # Errors
/// KVM was asked for and cannot run this guest here.
fn by_kvm(machine: &Machine, host: &Host, out: &Out) -> Result<bool> {
    let why = match (host, &machine.kernel) {
        _ if machine.accel == Accel::Tcg => return Ok(false),
        (Host::None(why), _) => format!("KVM is not available: {why}"),
        (Host::Interpreted, Some(kernel)) if is_bzimage(&kernel.image)? => {
            "this host's KVM works without hardware virtualisation, and a stock Linux hangs in it".to_owned()
        }
        (Host::Interpreted, Some(_)) => {
            // An ELF file may be smaller than Linux, which nobody can tell.
            out.error_text(
                "warning: this host's KVM works without hardware virtualisation: a stock Linux hangs in it",
            );
            return Ok(true);
        }
        _ => return Ok(true),
    };
    if machine.accel == Accel::Kvm {
        return Err(
            Error::unsupported(why).with_hint("Use --accel tcg, which emulates the machine in software")
        );
    }
    out.error_text(&format!("{why}; using --accel tcg"));
    Ok(false)
}

/// Whether a file is a Linux kernel as distributions ship it (boot protocol, "The real-mode kernel header").
pub(crate) fn is_bzimage(path: &std::path::Path) -> Result<bool> {
    use std::os::unix::fs::FileExt;
    let context = || format!("Could not open '{}'", path.display());
    let file = std::fs::File::open(path).context(context)?;
    let mut magic = [0; 4];
    Ok(file.read_exact_at(&mut magic, 0x202).is_ok() && &magic == b"HdrS")
}

/// Makes the objects and opens the disks; `None` when all that was asked for is help, which is printed.
fn disks(machine: &Machine, out: &Out) -> Result<Option<Vec<Image>>> {
    secret::forbid_core_dump()?;
    let mut objects = Registry::new([OBJECT_TYPES, block::OBJECT_TYPES]);
    for text in &machine.objects {
        if let secret::objects::Added::Help(text) = objects.add(text)? {
            out.print(&text);
            return Ok(None);
        }
    }
    machine.disks.iter().map(|disk| disk.open(&objects)).collect::<Result<Vec<_>>>().map(Some)
}

#[cfg(target_arch = "x86_64")]
fn run_kvm(machine: &Machine, disks: Vec<Image>, console: Console) -> Result<Outcome> {
    crate::kvm::run(machine, disks, console)
}

#[cfg(not(target_arch = "x86_64"))]
fn run_kvm(_machine: &Machine, _disks: Vec<Image>, _console: Console) -> Result<Outcome> {
    Err(Error::unsupported("KVM machines are PCs: this program runs them on x86-64 only"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_runs_what_it_can_on_this_host_and_nothing_is_run_by_another_when_it_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, magic: &[u8]| {
            let path = dir.path().join(name).to_str().unwrap().to_owned();
            std::fs::write(&path, [&[0; 0x202], magic].concat()).unwrap();
            path
        };
        let (linux, elf) = (file("bzImage", b"HdrS"), file("elf", b"none"));
        let out = Out::new("runner".into());
        let judge = |accel: &str, guest: &[&str], host: &Host| {
            let words = [&["runner", "--accel", accel], guest].concat();
            let machine = crate::cli::parse(words.iter().map(Into::into).collect(), &out).unwrap();
            by_kvm(&machine, host, &out).map_err(|e| e.hint().unwrap_or_default().to_owned())
        };
        let (sector, linux, elf) = (&["disk"][..], &["--kernel", &linux][..], &["--kernel", &elf][..]);
        let none = Host::None("for a test".into());
        for guest in [sector, linux, elf] {
            assert_eq!(judge("auto", guest, &Host::Hardware), Ok(true));
            assert_eq!(judge("tcg", guest, &Host::Hardware), Ok(false));
            assert_eq!(judge("auto", guest, &none), Ok(false));
            assert!(judge("kvm", guest, &none).unwrap_err().contains("--accel tcg"));
        }
        let interpreted = [sector, linux, elf].map(|guest| judge("auto", guest, &Host::Interpreted));
        assert_eq!(interpreted, [Ok(true), Ok(false), Ok(true)]);
        assert!(judge("kvm", linux, &Host::Interpreted).unwrap_err().contains("--accel tcg"));
    }
}
