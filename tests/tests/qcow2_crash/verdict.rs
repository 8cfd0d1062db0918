//! The verdict on what a power cut left: it opens, flushed bytes are there, the real tool finds nothing but leaks (or what
//! the dirty bit excuses), and `check -r all` — ours and the real one — ends clean without changing a guest byte.

use crate::workload::{Kept, Moment, Workload, read, read_snapshots};
use block::check::Repair;
use block::graph::OpenFlags;
use std::path::Path;
use tests::disk::{Disk, Files};
use tests::{Ran, Whose};

/// Exit codes of `qemu-img check`.
const CLEAN: Option<i32> = Some(0);
const LEAKS: Option<i32> = Some(3);

/// Judges the cuts of one workload.
pub(crate) struct Judge<'a> {
    workload: &'a Workload,
    name: String,
    /// Where the images are put that the real tool looks at.
    disk: String,
    judged: usize,
}

impl<'a> Judge<'a> {
    /// A judge; `name` says in messages which workload it is.
    pub(crate) fn new(workload: &'a Workload, name: &str) -> Self {
        Judge { workload, name: name.to_owned(), disk: format!("left-{name}").replace(',', ";"), judged: 0 }
    }

    /// Judges what a cut after `done` steps of the journal left.
    ///
    /// # Panics
    /// A byte is lost, or the image is broken.
    pub(crate) fn judge(&mut self, done: usize, left: &Files) {
        let context = format!("{}, cut after {done} steps: {}", self.name, self.workload.history(done));
        let possible = self.workload.possible(done);
        let left_there = self.contents(left).unwrap_or_else(|e| panic!("{context}: it does not open: {e}"));
        let (found, kept) = &left_there;
        let compared = compare(found, possible).and_then(|()| compare_snapshots(kept, possible));
        compared.unwrap_or_else(|lost| panic!("{context}: {lost}"));
        let check = self.real_check(left, "");
        let dirty = left["t.qcow2"][79] & 1 != 0 && left["t.qcow2"][7] >= 3;
        let excused =
            dirty || possible.iter().any(|m| m.leaves_copied_flags(done)) && only_copied_flags(&check);
        assert!(matches!(check.code, CLEAN | LEAKS) || excused, "{context}: {check}");
        if check.code != CLEAN || dirty {
            self.judge_repair(left, &left_there, &context);
        }
        self.judged += 1;
        if self.judged.is_multiple_of(8) {
            let theirs = self.real_contents(left);
            assert!(theirs == *found, "{context}: the real tool reads something else");
        }
    }

    /// Both repairs end clean and change nothing that the guest reads.
    fn judge_repair(&self, left: &Files, found: &(Vec<u8>, Kept), context: &str) {
        let mended = self.mend(left).unwrap_or_else(|e| panic!("{context}: our repair fails: {e}"));
        let check = self.real_check(&mended, "");
        assert!(check.code == CLEAN, "{context}: after our repair {check}");
        let after = self.contents(&mended).unwrap_or_else(|e| panic!("{context}: after our repair: {e}"));
        assert!(after == *found, "{context}: our repair changes what the guest reads");
        let check = self.real_check(left, "-r all");
        assert!(check.code == CLEAN, "{context}: the real repair says {check}");
        let theirs = left.keys().map(|file| (file.clone(), read_file(&self.workload.path(file)))).collect();
        let after =
            self.contents(&theirs).unwrap_or_else(|e| panic!("{context}: after the real repair: {e}"));
        assert!(after == *found, "{context}: the real repair changes what the guest reads");
    }

    /// What the guest reads, and what each snapshot holds.
    fn contents(&self, left: &Files) -> block::Result<(Vec<u8>, Kept)> {
        Disk::insert(&self.disk, left.clone());
        let image = self.workload.open_left(&self.disk, OpenFlags::default())?;
        let found = (read(&image), read_snapshots(&image)?);
        image.close()?;
        Ok(found)
    }

    /// What our repair makes of it.
    fn mend(&self, left: &Files) -> block::Result<Files> {
        let disk = Disk::insert(&self.disk, left.clone());
        let flags = OpenFlags { writable: true, resize: true, repair: true, ..OpenFlags::default() };
        let image = self.workload.open_left(&self.disk, flags)?;
        image.node().check(Repair::All, &mut |_| ())?;
        image.close()?;
        Ok(disk.files())
    }

    fn real_check(&self, left: &Files, repair: &str) -> Ran {
        for (file, bytes) in left {
            std::fs::write(self.workload.path(file), bytes).expect("there is room for the image");
        }
        let dir = self.workload.path("");
        Whose::Real.run(&dir, &format!("qemu-img check -f qcow2 {repair} t.qcow2"))
    }

    fn real_contents(&self, left: &Files) -> Vec<u8> {
        for (file, bytes) in left {
            std::fs::write(self.workload.path(file), bytes).expect("there is room for the image");
        }
        Whose::Real.run(&self.workload.path(""), "qemu-img convert -f qcow2 -O raw t.qcow2 left.raw").ok();
        read_file(&self.workload.path("left.raw")).chunks(512).map(|sector| sector[0]).collect()
    }
}

fn read_file(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Whether every sector is as at one of the moments, and the disk as long as at one of them.
fn compare(found: &[u8], possible: &[Moment]) -> Result<(), String> {
    if possible.iter().all(|moment| moment.sectors.len() != found.len()) {
        return Err(format!("the disk has {} sectors", found.len()));
    }
    let loose = possible.iter().skip(1).map(|moment| moment.loose).min().unwrap_or(u64::MAX);
    let firm = found.iter().enumerate().take_while(|(n, _)| (*n as u64) < loose);
    for (n, byte) in firm {
        // Past the end of a shorter disk are zeroes, once it grows.
        let fits = |moment: &Moment| moment.sectors.get(n).copied().unwrap_or(0) == *byte;
        if !possible.iter().any(fits) {
            let expected: Vec<_> = possible.iter().map(|moment| moment.sectors.get(n)).collect();
            return Err(format!("sector {n} holds {byte}, expected {expected:?}"));
        }
    }
    Ok(())
}

/// Whether every listed snapshot holds what it was taken of, and none is missing that was there all the time.
fn compare_snapshots(kept: &Kept, possible: &[Moment]) -> Result<(), String> {
    for (name, sectors) in kept {
        if !possible.iter().any(|moment| moment.snapshots.get(name) == Some(sectors)) {
            return Err(format!(
                "snapshot '{name}' is not what it was taken of{}",
                difference(sectors, name, possible)
            ));
        }
    }
    let lost = |name: &&String| {
        possible.iter().all(|moment| moment.snapshots.contains_key(*name)) && !kept.contains_key(*name)
    };
    match possible[0].snapshots.keys().find(lost) {
        Some(name) => Err(format!("snapshot '{name}' is gone")),
        None => Ok(()),
    }
}

/// Where a snapshot differs from what it was last known to hold.
fn difference(found: &[u8], name: &str, possible: &[Moment]) -> String {
    let Some(expected) = possible.iter().rev().find_map(|moment| moment.snapshots.get(name)) else {
        return "; nobody took it".to_owned();
    };
    let place = found.iter().zip(expected).position(|(found, expected)| found != expected);
    match place {
        Some(n) => format!("; sector {n} holds {}, expected {}", found[n], expected[n]),
        None => format!("; it has {} sectors, expected {}", found.len(), expected.len()),
    }
}

/// Whether all that a check calls an error is the copied flag.
fn only_copied_flags(check: &Ran) -> bool {
    let said = format!("{}{}", check.stdout, check.stderr);
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("ERROR")).collect();
    !errors.is_empty() && errors.iter().all(|line| line.contains("OFLAG_COPIED"))
}
