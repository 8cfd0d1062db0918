//! One sequence: an image is made, both sides get a copy, the same commands run on both, and what is left is compared.

use crate::kind::{Backing, Data, Kind};
use std::path::Path;
use tests::random::{Op, Random, Shape};
use tests::{Pair, Ran, Whose};

const SECTOR: u64 = 512;

/// One command of the sequence.
#[derive(Debug, Clone)]
enum Command {
    Requests(Vec<Op>),
    Snapshot(&'static str, String),
    Resize(u64),
    Commit,
    Rebase(&'static str),
}

/// A sequence about to run.
pub(crate) struct Sequence<'a> {
    kind: &'a Kind,
    random: Random,
    pair: Pair,
    /// Length of the disk now, in bytes.
    disk: u64,
    names: u32,
}

impl<'a> Sequence<'a> {
    /// Makes the image on both sides.
    pub(crate) fn new(kind: &'a Kind, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let disk = (random.below(3) + 1) * (1 << 20) + random.below(8) * SECTOR;
        let this = Sequence { kind, random, pair: Pair::new(), disk, names: 0 };
        this.prepare();
        this
    }

    fn prepare(&self) {
        let dir = self.pair.dir(Whose::Real);
        let real = |line: &str| Whose::Real.run(dir, line).ok();
        std::fs::write(dir.join("key"), "sesame").expect("there is room for the key");
        for (n, name) in ["base", "other"].iter().enumerate() {
            let format = if self.kind.backing == Backing::Qcow2 { "qcow2" } else { "raw" };
            let size = [2 << 20, (1 << 20) + 1024][n];
            real(&format!("qemu-img create -q -f {format} {name} {size}"));
            let byte = 77 + n;
            real(&format!(
                "qemu-io -f {format} {name} -c 'write -q -P {byte} 0 300k' -c 'write -q -P 79 700k 200k'"
            ));
            self.pair.share(name);
        }
        let backing = match self.kind.backing {
            Backing::None => "",
            Backing::Raw => "-b base -F raw",
            Backing::Qcow2 => "-b base -F qcow2",
        };
        let secret = self.secret();
        real(&format!(
            "qemu-img create -q -f qcow2 {secret} -o {} {backing} t {}",
            self.kind.options(),
            self.disk
        ));
        if self.kind.data != Data::Inside {
            self.pair.share("data");
        }
        self.pair.share("t");
        self.pair.share("key");
    }

    fn secret(&self) -> &'static str {
        if self.kind.encrypted { "--object secret,id=s,file=key" } else { "" }
    }

    /// The image, as a command takes it.
    fn image(&self) -> String {
        if self.kind.encrypted {
            format!("{} --image-opts driver=qcow2,file.filename=t,encrypt.key-secret=s", self.secret())
        } else {
            "-f qcow2 t".into()
        }
    }

    /// Runs `length` commands.
    ///
    /// # Errors
    /// What differs between the two sides.
    pub(crate) fn run(mut self, length: usize) -> Result<(), String> {
        for _ in 0..length {
            let command = self.command();
            let line = self.line(&command);
            let [ours, real] = [Whose::Ours, Whose::Real].map(|whose| {
                let dir = self.pair.dir(whose);
                whose.run(dir, &line.replace("{dir}", &dir.display().to_string()))
            });
            let differs = || format!("{line}: ours {ours} real {real}");
            // What requests print is about time, except for failures.
            if ours.code != real.code || failures(&ours) != failures(&real) {
                return Err(differs());
            }
            if let (Command::Resize(size), Some(0)) = (&command, real.code) {
                self.disk = *size;
            }
        }
        self.compare()
    }

    fn command(&mut self) -> Command {
        let random = &mut self.random;
        match random.below(10) {
            0 | 1 => {
                self.names += 1;
                Command::Snapshot("-c", format!("s{}", self.names))
            }
            // Of a name that may be gone: then both refuse.
            2 => Command::Snapshot(
                ["-a", "-d"][usize::from(random.below(2) == 0)],
                format!("s{}", random.below(4) + 1),
            ),
            3 => {
                let sectors = self.disk / SECTOR;
                Command::Resize((sectors / 2 + random.below(sectors)) * SECTOR)
            }
            4 if self.kind.backing != Backing::None => Command::Commit,
            5 if self.kind.backing != Backing::None => {
                Command::Rebase(["base", "other"][usize::from(random.below(2) == 0)])
            }
            _ => {
                let shape = Shape { disk: self.disk, cluster: self.kind.cluster, compressed: false };
                Command::Requests((0..6).map(|_| Op::random(random, shape)).collect())
            }
        }
    }

    fn line(&self, command: &Command) -> String {
        let image = self.image();
        match command {
            Command::Requests(ops) => {
                let commands = ops.iter().map(|op| format!(" -c '{}'", op.command())).collect::<String>();
                format!("qemu-io --cache writeback -d unmap {image}{commands}")
            }
            // It has no -f.
            Command::Snapshot(action, name) => {
                format!("qemu-img snapshot {action} {name} {}", image.replace("-f qcow2 ", ""))
            }
            Command::Resize(size) => format!("qemu-img resize -q --shrink {image} {size}"),
            Command::Commit => format!("qemu-img commit -q {image}"),
            Command::Rebase(base) => {
                let format = if self.kind.backing == Backing::Qcow2 { "qcow2" } else { "raw" };
                // An image opened by options is no place that a relative name could start from.
                format!("qemu-img rebase -q -b {{dir}}/{base} -F {format} {image}")
            }
        }
    }

    /// Both images are clean, and hold the same for both tools.
    fn compare(&self) -> Result<(), String> {
        for whose in [Whose::Ours, Whose::Real] {
            let check = Whose::Real.run(self.pair.dir(whose), &format!("qemu-img check -q {}", self.image()));
            // The real tool leaks a cluster now and then.
            let fine = check.code == Some(0) || whose == Whose::Real && check.code == Some(3);
            if !fine {
                return Err(format!("the image of {whose:?}: {check}"));
            }
        }
        let real = self.contents(Whose::Real, Whose::Real)?;
        for (reader, image) in
            [(Whose::Real, Whose::Ours), (Whose::Ours, Whose::Ours), (Whose::Ours, Whose::Real)]
        {
            let found = self.contents(reader, image)?;
            if let Some(at) = differs_at(&found, &real) {
                return Err(format!("{reader:?} read the image of {image:?} differently at {at}"));
            }
        }
        let base = |whose| std::fs::read(self.pair.dir(whose).join("base")).map(|bytes| bytes.len());
        match (self.kind.backing, base(Whose::Ours), base(Whose::Real)) {
            (Backing::Raw, Ok(ours), Ok(real)) if ours != real => {
                Err(format!("base has {ours} bytes, not {real}"))
            }
            _ => Ok(()),
        }
    }

    fn contents(&self, reader: Whose, image: Whose) -> Result<Vec<u8>, String> {
        let dir = self.pair.dir(image);
        let ran = reader.run(dir, &format!("qemu-img convert -O raw {} out", self.image()));
        if ran.code != Some(0) {
            return Err(format!("{reader:?} cannot read the image of {image:?}: {ran}"));
        }
        read(&dir.join("out"))
    }
}

/// Complaints of single requests, which go to standard output.
fn failures(ran: &Ran) -> Vec<&str> {
    ran.stdout.lines().filter(|line| line.contains("failed")).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Where two disks differ first.
fn differs_at(one: &[u8], other: &[u8]) -> Option<String> {
    if one.len() != other.len() {
        return Some(format!("their length, {} and {}", one.len(), other.len()));
    }
    let at = one.iter().zip(other).position(|(a, b)| a != b)?;
    Some(format!("{at}: {} and {}", one[at], other[at]))
}
