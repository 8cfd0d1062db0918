//! Two processes and one image: what the real tools do among themselves is what ours do among themselves and with them.

#![forbid(unsafe_code)]

use std::path::Path;
use tests::nbd::Server;
use tests::{Ran, Whose};

/// What is tried while somebody holds the image `IMG` of the format `FMT`.
const ASKED: [&str; 12] = [
    "qemu-img info -f FMT IMG",
    "qemu-img info -U -f FMT IMG",
    "qemu-img check -f FMT IMG",
    "qemu-img check -U -f FMT IMG",
    "qemu-img map -f FMT IMG",
    "qemu-img convert -f FMT -O raw IMG out.raw",
    "qemu-img convert -U -f FMT -O raw IMG out.raw",
    "qemu-io -r -f FMT -c 'read -q 0 512' IMG",
    "qemu-io -f FMT -c 'write -q 0 512' IMG",
    "qemu-img create -q -f FMT IMG 4M",
    "qemu-img resize -q -f FMT IMG 8M",
    "qemu-img convert -f raw -O FMT in.raw IMG",
];

/// What everybody says to everything that is asked while `holder` serves the image.
fn while_held(holder: Whose, asker: Whose, format: &str, mode: &[&str]) -> Vec<(String, Ran)> {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let image = format!("held.{format}");
    let line = |text: &str| text.replace("FMT", format).replace("IMG", &image);
    Whose::Real.run(dir.path(), &line("qemu-img create -q -f FMT IMG 4M")).ok();
    Whose::Real.run(dir.path(), "qemu-img create -q -f raw in.raw 4M").ok();
    let mut args = vec!["-t", "-f", format];
    args.extend(mode);
    args.push(&image);
    let server = Server::start(holder, dir.path(), &args);
    let answers = ASKED.iter().map(|text| (line(text), ask(asker, dir.path(), &line(text)))).collect();
    server.stop();
    answers
}

/// Whether it was done, and what kept it from being done.
fn ask(asker: Whose, dir: &Path, line: &str) -> Ran {
    let mut ran = asker.run(dir, line);
    // The length on disk is the file system's.
    ran.stdout.clear();
    ran
}

#[track_caller]
fn everybody_agrees(format: &str, mode: &[&str]) {
    let real = while_held(Whose::Real, Whose::Real, format, mode);
    assert!(real.iter().any(|(_, ran)| ran.stderr.contains("Is another process using the image")));
    assert!(real.iter().any(|(_, ran)| ran.code == Some(0)));
    for (holder, asker) in
        [(Whose::Ours, Whose::Ours), (Whose::Real, Whose::Ours), (Whose::Ours, Whose::Real)]
    {
        let found = while_held(holder, asker, format, mode);
        for ((line, ran), (_, real)) in found.iter().zip(&real) {
            assert!(
                ran.agrees_with(real),
                "{line} ({asker:?}) while {holder:?} hold it {mode:?}: {ran}\n the real ones: {real}"
            );
        }
    }
}

#[test]
fn a_raw_image_held_for_writing_is_refused_to_whoever_needs_it_alone() {
    everybody_agrees("raw", &[]);
}

#[test]
fn a_raw_image_held_for_reading_is_refused_to_whoever_changes_its_length() {
    everybody_agrees("raw", &["-r"]);
}

#[test]
fn a_qcow2_image_held_for_writing_is_refused_to_all_who_do_not_insist() {
    everybody_agrees("qcow2", &[]);
}

#[test]
fn a_qcow2_image_held_for_reading_is_refused_to_writers() {
    everybody_agrees("qcow2", &["-r"]);
}

#[test]
fn a_refused_process_leaves_the_image_as_it_is() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let dir = dir.path();
    Whose::Real.run(dir, "qemu-img create -q -f qcow2 a.qcow2 4M").ok();
    Whose::Real.run(dir, "qemu-io -f qcow2 -c 'write -q -P 7 0 64k' a.qcow2").ok();
    let before = std::fs::read(dir.join("a.qcow2")).expect("the image is there");
    let server = Server::start(Whose::Real, dir, &["-t", "-f", "qcow2", "a.qcow2"]);
    for line in [
        "qemu-img create -q -f qcow2 a.qcow2 1M",
        "qemu-img create -q -f raw a.qcow2 1M",
        "qemu-img convert -f raw -O qcow2 a.qcow2 a.qcow2",
        "qemu-img amend -f qcow2 -o compat=0.10 a.qcow2",
        "qemu-img snapshot -c one a.qcow2",
        "qemu-img rebase -u -b '' -f qcow2 a.qcow2",
        "qemu-img check -r all -f qcow2 a.qcow2",
    ] {
        assert_eq!(Whose::Ours.run(dir, line).code, Some(1), "{line}");
    }
    server.stop();
    assert!(std::fs::read(dir.join("a.qcow2")).expect("the image is there") == before);
}
