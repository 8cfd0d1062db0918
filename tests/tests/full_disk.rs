//! Writes into a file system that is full: what does not fit is told as what it is, what was written can be read, and the image stays
//! sound.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;
use tests::Whose::{Ours, Real};
use tests::{Ran, not_run};

/// Writes to a new image where there are `room` KiB left, in a file system of its own; the image is then in `dir`. Each command's
/// answer.
fn write(dir: &Path, room: u32) -> Vec<Ran> {
    let program = |name| Ours.command(name).get_program().to_owned();
    let script = "mkdir m && mount -t tmpfs -o size=1m none m && $1 create -q -f qcow2 m/a 64M || exit 9
        left=$(df --output=avail -k m | tail -n 1)
        head -c $(( (left - $3) * 1024 )) /dev/zero > m/fill
        $2 -f qcow2 -c 'write -P 1 0 64k' m/a > 1 2>&1
        $2 -f qcow2 -c 'write -P 2 32M 300k' m/a > 2 2>&1
        $2 -f qcow2 -c 'write -P 3 100k 20k' -c flush m/a > 3 2>&1
        cp m/a a";
    let mut apart = Command::new("unshare");
    apart.args(["-r", "-m", "sh", "-c", script, "sh"]).args([program("qemu-img"), program("qemu-io")]);
    let ran = Ran::of(apart.arg(room.to_string()).current_dir(dir));
    let said = |n: u32| std::fs::read_to_string(dir.join(n.to_string())).unwrap_or_default();
    (1..=3).map(|n| Ran { stdout: said(n), ..ran.clone() }).collect()
}

/// What failed failed for want of room; the real tool reads back everything else.
fn reads_back(dir: &Path, answers: &[Ran]) {
    let reads = ["read -P 1 0 64k", "read -P 2 32M 300k", "read -P 3 100k 20k"];
    for (answer, read) in answers.iter().zip(reads) {
        let failed = answer.stdout.contains("failed");
        assert!(!failed || answer.stdout.contains("No space left on device"), "{answer}");
        if !failed {
            let said = Real.run(dir, &format!("qemu-io -f qcow2 -c '{read}' a")).ok();
            assert!(!said.contains("failed"), "{said}");
        }
    }
}

#[test]
fn what_does_not_fit_is_told_and_the_image_stays_sound() {
    let mut complete = 0;
    for room in [0, 4, 60, 64, 70, 128, 132, 200, 260, 330, 400, 480, 600, 700] {
        let dir = tempfile::tempdir().unwrap();
        let answers = write(dir.path(), room);
        if !dir.path().join("a").exists() {
            return not_run(&format!("no file system of one's own can be had: {}", answers[0].stderr));
        }
        let check = Real.run(dir.path(), "qemu-img check a");
        assert!(matches!(check.code, Some(0 | 3)), "{room} KiB left: {check}");
        reads_back(dir.path(), &answers);
        complete += usize::from(answers.iter().all(|answer| answer.stdout.contains("wrote")));
    }
    assert!((1..14).contains(&complete), "{complete}");
}
