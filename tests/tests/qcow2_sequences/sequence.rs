//! One sequence: both sides get a copy of the start, the same commands run on both, and what is left is compared.

use crate::command::{Command, Tally};
use crate::kind::{Backing, Data, Kind};
use crate::start::Start;
use std::path::Path;
use tests::random::Random;
use tests::{Pair, Ran, Whose};

const BOTH: [Whose; 2] = [Whose::Ours, Whose::Real];

/// A sequence about to run.
pub(crate) struct Sequence<'a> {
    kind: &'a Kind,
    random: Random,
    pair: Pair,
    /// Length of the disk now, in bytes.
    disk: u64,
    /// How many snapshots were to be made.
    names: usize,
    /// Those that there are.
    snapshots: Vec<String>,
    /// The backing file was given up, and with it what it has behind the end of the disk, which growing may show with the real
    /// tool (docs/differences.md).
    bare: bool,
}

impl<'a> Sequence<'a> {
    pub(crate) fn new(kind: &'a Kind, start: &Start, seed: u64) -> Self {
        let (pair, disk) = (start.copies(), start.disk);
        Sequence { kind, random: Random::new(seed), pair, disk, names: 0, snapshots: Vec::new(), bare: false }
    }

    /// Runs `length` commands and compares what is left.
    ///
    /// # Errors
    /// What differs between the two sides, and after which commands.
    pub(crate) fn run(mut self, length: usize, tally: &Tally) -> Result<(), String> {
        let mut lines = Vec::new();
        let done = self.commands(length, &mut lines, tally).and_then(|()| self.compare());
        done.map_err(|differs| format!("{}\n  {differs}", lines.join("\n  ")))
    }

    fn commands(&mut self, length: usize, lines: &mut Vec<String>, tally: &Tally) -> Result<(), String> {
        for _ in 0..length {
            let command = Command::random(&mut self.random, self.kind, self.disk, self.names);
            if self.bare && matches!(command, Command::Grow(_)) {
                continue;
            }
            lines.push(command.line(self.kind));
            if self.step(&command)? {
                tally.worked(&command);
                self.note(&command);
            }
            self.names += usize::from(matches!(command, Command::Create(_)));
        }
        Ok(())
    }

    /// Runs one command on both sides; whether it worked.
    fn step(&self, command: &Command) -> Result<bool, String> {
        let line = command.line(self.kind);
        let [ours, real] = BOTH.map(|whose| {
            let dir = self.pair.dir(whose);
            whose.run(dir, &line.replace("{dir}", &dir.display().to_string()))
        });
        // What requests print is about time, except for failures.
        if ours.code != real.code || failures(&ours) != failures(&real) {
            return Err(format!("ours {ours}\n  real {real}"));
        }
        let worked = real.code == Some(0);
        if matches!(command, Command::Create(_) | Command::Apply(_)) && !worked {
            self.mend()?;
        }
        Ok(worked)
    }

    /// Undoes what the real tool leaves of a snapshot that it could not make or apply (docs/differences.md).
    fn mend(&self) -> Result<(), String> {
        let line = format!("qemu-img check -q -r all {}", self.kind.image());
        let mended = Whose::Real.run(self.pair.dir(Whose::Real), &line);
        if mended.code == Some(0) { Ok(()) } else { Err(format!("{line}: {mended}")) }
    }

    /// Notes what a command that worked changed.
    fn note(&mut self, command: &Command) {
        match command {
            Command::Grow(size) | Command::Shrink(size) => self.disk = *size,
            Command::Rebase(None) => self.bare = true,
            Command::Create(name) => self.snapshots.push(name.clone()),
            Command::Delete(name) => self.snapshots.retain(|left| left != name),
            _ => {}
        }
    }

    /// Both tools find both images clean and read the same from them, from their snapshots, and from what is below.
    fn compare(&self) -> Result<(), String> {
        self.check("t", &self.kind.image())?;
        let disk = self.same("t", &self.kind.image())?;
        self.snapshots.iter().try_for_each(|name| self.snapshot(name))?;
        if self.kind.data == Data::Raw {
            self.raw_data(&disk)?;
        }
        if self.kind.backing != Backing::None {
            ["base", "other"].into_iter().try_for_each(|name| self.below(name))?;
        }
        Ok(())
    }

    /// What may be committed into. Raw files need no tool to be read.
    fn below(&self, name: &str) -> Result<(), String> {
        let [ours, real] = BOTH.map(|whose| read(&self.pair.dir(whose).join(name)));
        let (ours, real) = (ours?, real?);
        match self.kind.backing {
            Backing::Qcow2 if ours != real => {
                let image = format!("-f qcow2 {name}");
                self.check(name, &image)?;
                self.same(name, &image).map(|_| ())
            }
            Backing::Raw => agree(name, &ours, &real),
            _ => Ok(()),
        }
    }

    /// Both tools find both sides clean.
    fn check(&self, name: &str, image: &str) -> Result<(), String> {
        for (reader, whose) in BOTH.into_iter().flat_map(|reader| BOTH.map(|whose| (reader, whose))) {
            let check = reader.run(self.pair.dir(whose), &format!("qemu-img check -q {image}"));
            if check.code != Some(0) {
                return Err(format!("{name} of {whose:?}, checked by {reader:?}: {check}"));
            }
        }
        Ok(())
    }

    /// What both tools read from both sides.
    fn same(&self, name: &str, image: &str) -> Result<Vec<u8>, String> {
        let expected = self.contents(Whose::Real, Whose::Real, image)?;
        for (reader, whose) in
            [(Whose::Real, Whose::Ours), (Whose::Ours, Whose::Ours), (Whose::Ours, Whose::Real)]
        {
            let found = self.contents(reader, whose, image)?;
            agree(&format!("{name} of {whose:?}, read by {reader:?}"), &found, &expected)?;
        }
        Ok(expected)
    }

    /// What both tools read from a snapshot. To the real one it is as long as the image is now.
    fn snapshot(&self, name: &str) -> Result<(), String> {
        let image = format!("-l snapshot.name={name} {}", self.kind.image());
        let all = BOTH.map(|whose| BOTH.map(|reader| self.contents(reader, whose, &image)));
        let [[our_ours, real_ours], [our_real, real_real]] = all;
        let (our_ours, expected) = (our_ours?, real_real?);
        agree(&format!("{name} of Ours, read by Real"), &real_ours?, &expected)?;
        agree(&format!("{name} of Real, read by Ours"), &our_real?, &our_ours)?;
        let common = our_ours.len().min(expected.len());
        agree(&format!("{name}, read by Ours"), &our_ours[..common], &expected[..common])
    }

    fn contents(&self, reader: Whose, whose: Whose, image: &str) -> Result<Vec<u8>, String> {
        let dir = self.pair.dir(whose);
        let ran = reader.run(dir, &format!("qemu-img convert -O raw {image} out"));
        if ran.code != Some(0) {
            return Err(format!("{reader:?} cannot read the image of {whose:?}: {ran}"));
        }
        read(&dir.join("out"))
    }

    /// A raw data file is the disk, but for the end of its last cluster.
    fn raw_data(&self, disk: &[u8]) -> Result<(), String> {
        let [ours, real] = BOTH.map(|whose| read(&self.pair.dir(whose).join("data")));
        let (ours, real) = (ours?, real?);
        agree("the raw data file", &ours, &real)?;
        agree("the disk in the raw data file", &ours[..disk.len().min(ours.len())], disk)
    }
}

/// Complaints of single requests, which go to standard output.
fn failures(ran: &Ran) -> Vec<&str> {
    ran.stdout.lines().filter(|line| line.contains("failed")).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Says where two disks differ first.
fn agree(what: &str, found: &[u8], expected: &[u8]) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{what} has {} bytes, not {}", found.len(), expected.len()));
    }
    match found.iter().zip(expected).position(|(a, b)| a != b) {
        Some(at) => Err(format!("{what} has {} at {at}, not {}", found[at], expected[at])),
        None => Ok(()),
    }
}
