//! Hardening of the whole process against leaks that no single buffer can prevent.

use crate::{Context, Result};

/// Makes sure that no core file of this process holds key material. Binaries call it before they make the first object.
///
/// Passphrases and keys live in [`SecretBytes`](crate::SecretBytes), which core files leave out. But `data=` secrets
/// also stand in the argument vector, and expanded keys in the heap and in registers, which every core file holds.
/// So the process is made undumpable: a fatal signal still ends it as that signal (`abort` dies of SIGABRT), but
/// without a core file. This also holds where cores go to a program (`|` in `core_pattern`), which a zero `RLIMIT_CORE`
/// does not, and it keeps other processes of the same user from reading our memory. For `gcore`, with which root
/// can still make a core file, the core filter is emptied as well: what it writes has no memory in it.
///
/// Children inherit both; `/dev/fd/N` keeps working for ourselves.
///
/// # Errors
/// The system refuses to make the process undumpable.
pub fn forbid_core_dump() -> Result<()> {
    // First, because an undumpable process owns its files in /proc no longer. Kernels without the file have no filter.
    let _ = std::fs::write("/proc/self/coredump_filter", "0");
    nix::sys::prctl::set_dumpable(false).context(|| "Could not forbid core files")
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    const CHILD: &str = "SECRET_TEST_ABORT";

    /// Not a test of its own: what the other test runs in a child process.
    #[test]
    fn abort_when_told() {
        let Ok(how) = std::env::var(CHILD) else { return };
        let (_, hard) = getrlimit(Resource::RLIMIT_CORE).unwrap();
        setrlimit(Resource::RLIMIT_CORE, hard, hard).unwrap();
        if how == "forbidden" {
            super::forbid_core_dump().unwrap();
            assert!(std::fs::read_dir("/proc/self/fd").unwrap().count() >= 3);
        }
        std::process::abort();
    }

    fn abort(how: &str) -> (ExitStatus, usize) {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "process::tests::abort_when_told"]).env(CHILD, how).current_dir(dir.path());
        let status = child.output().unwrap().status;
        (status, std::fs::read_dir(dir.path()).unwrap().count())
    }

    #[test]
    fn a_process_that_forbids_core_files_dies_of_sigabrt_and_leaves_none() {
        let (status, files) = abort("forbidden");
        assert_eq!((status.signal(), status.core_dumped(), files), (Some(nix::libc::SIGABRT), false, 0));
        // Where the machine writes core files beside the process at all, it leaves one when it does not.
        let (_, hard) = getrlimit(Resource::RLIMIT_CORE).unwrap();
        let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        if hard > 0 && !pattern.starts_with(['|', '/']) {
            assert!(abort("allowed").0.core_dumped());
        }
    }
}
