//! What is left when `img` cannot finish: a full disk, an interrupt, a file that may not be read.

#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tests::{Ran, Whose, words};

const SECRET: &str = "--object secret,id=s,file=pw";

fn with_source() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("source"), vec![0x5a; 8 << 20]).unwrap();
    fs::write(dir.path().join("pw"), "letmein").unwrap();
    dir
}

fn ours(dir: &Path, line: &str) -> Ran {
    Whose::Ours.run(dir, &line.replace("SECRET", SECRET))
}

/// A file system of 4 MiB in the folder `small`, until this is dropped.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn new(dir: &'a Path) -> Option<Self> {
        let at = dir.join("small");
        fs::create_dir(&at).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4M", "tmpfs"]).arg(&at).output();
        if mount.is_ok_and(|done| done.status.success()) {
            return Some(Small(dir));
        }
        tests::not_run("this machine lets us mount nothing");
        None
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.join("small")).status();
    }
}

#[test]
fn a_target_on_a_full_disk_is_removed_or_called_incomplete_and_the_source_is_untouched() {
    let dir = with_source();
    let Some(_small) = Small::new(dir.path()) else { return };
    let target = dir.path().join("small/out");
    for line in [
        "qemu-img convert -f raw -O raw source small/out",
        "qemu-img convert -f raw -O qcow2 source small/out",
        "qemu-img convert SECRET -f raw -O luks -o key-secret=s,iter-time=10 source small/out",
        "qemu-img dd -f raw -O raw if=source of=small/out bs=1M",
    ] {
        let ran = ours(dir.path(), line);
        assert_eq!(ran.code, Some(1), "{line}: {ran}");
        assert!(
            ran.stderr.contains("No space left on device\nThe incomplete 'small/out' was removed\n"),
            "{ran}"
        );
        assert!(!target.exists(), "{line}");
    }
    fs::File::create(&target).unwrap().set_len(8 << 20).unwrap();
    let ran = ours(dir.path(), "qemu-img convert -n -f raw -O raw source small/out");
    let told = "No space left on device\n'small/out' holds an incomplete copy and must not be used\n";
    assert!(ran.code == Some(1) && ran.stderr.ends_with(told), "{ran}");
    assert!(fs::read(dir.path().join("source")).unwrap() == vec![0x5a; 8 << 20]);
}

/// A conversion that takes minutes, once its target has data in it.
fn slow(dir: &Path, more: &str) -> Child {
    let line = format!("convert -r 64k -f raw {more} source out").replace("SECRET", SECRET);
    // Whoever runs the tests in the background may have told us to ignore interrupts.
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(Whose::Ours.command("qemu-img").get_program()).args(words(&line));
    let child = command.current_dir(dir).stderr(Stdio::piped()).spawn().unwrap();
    while fs::read(dir.join("out")).ok().is_none_or(|bytes| bytes.iter().all(|b| *b == 0)) {
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

fn signal(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn an_interrupted_conversion_leaves_no_target_that_looks_complete() {
    for (name, number) in [("-INT", 2), ("-TERM", 15), ("-HUP", 1)] {
        for more in ["-O raw", "-O qcow2", "SECRET -O luks -o key-secret=s,iter-time=10"] {
            let dir = with_source();
            let child = slow(dir.path(), more);
            signal(&child, name);
            let done = child.wait_with_output().unwrap();
            assert_eq!(done.status.signal(), Some(number), "{more}");
            assert_eq!(String::from_utf8_lossy(&done.stderr), "img: The incomplete 'out' was removed\n");
            assert!(!dir.path().join("out").exists(), "{name} {more}");
        }
    }
    let dir = with_source();
    fs::File::create(dir.path().join("out")).unwrap().set_len(8 << 20).unwrap();
    let child = slow(dir.path(), "-O raw -n");
    signal(&child, "-INT");
    let done = child.wait_with_output().unwrap();
    let told = "img: 'out' holds an incomplete copy and must not be used\n";
    assert_eq!(String::from_utf8_lossy(&done.stderr), told);
    assert!(dir.path().join("out").exists());
}

#[test]
fn a_signal_asks_how_far_it_is() {
    let dir = with_source();
    let child = slow(dir.path(), "-O raw");
    signal(&child, "-USR1");
    let mut line = [0; 12];
    let mut child = child;
    std::io::Read::read_exact(child.stderr.as_mut().unwrap(), &mut line).unwrap();
    assert!(line.starts_with(b"    (") && child.try_wait().unwrap().is_none(), "{line:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_file_that_may_not_be_read_is_named_like_by_the_real_tool() {
    let dir = with_source();
    let chmod = |mode: &str, path: &Path| Command::new("chmod").arg(mode).arg(path).status().unwrap();
    chmod("000", &dir.path().join("source"));
    chmod("755", dir.path());
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let can = Command::new("setpriv").args(nobody).arg("true").output();
    let prefix: &[&str] = if can.is_ok_and(|done| done.status.success()) { &nobody } else { &[] };
    let run = |whose: Whose| {
        let program = whose.command("qemu-img").get_program().to_owned();
        let mut command = Command::new(if prefix.is_empty() { &*program } else { "setpriv".as_ref() });
        command.args(prefix);
        if !prefix.is_empty() {
            command.arg(&program);
        }
        let ran = Ran::of(command.args(["info", "source"]).current_dir(dir.path()).stdin(Stdio::null()));
        (ran.code, ran.stderr.replacen(&*program.to_string_lossy(), "qemu-img", 1))
    };
    let [ours, real] = [Whose::Ours, Whose::Real].map(run);
    if ours.1.contains("setpriv") {
        tests::not_run("another user may not even start our program");
        return;
    }
    assert_eq!(ours.0, Some(1));
    let cause = |text: &str| text.split_once(": ").map(|(_, rest)| rest.to_owned());
    assert_eq!(cause(&ours.1), cause(&real.1));
}
