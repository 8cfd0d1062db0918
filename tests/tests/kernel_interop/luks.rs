//! dm-crypt and we on the same images.

use crate::guest;
use std::fs;
use tests::Whose;
use tests::guest::{Machine, script};

use Form::{Long, Short};
use Header::{Attached, Detached};

/// Bytes of a payload.
const PAYLOAD: u64 = 16 << 20;

/// Parameters of an image: its name, what cryptsetup's luksFormat takes, the same for us, where the header is, and when it
/// is tried.
struct Shape {
    name: &'static str,
    format: &'static str,
    options: &'static str,
    header: Header,
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Header {
    Attached,
    Detached,
}

/// Which form of the matrix a case belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Both.
    Short,
    /// Only the whole one.
    Long,
}

impl Form {
    pub(crate) fn is_wanted(self) -> bool {
        self == Short || std::env::var_os("BLOCKIMG_LONG").is_some()
    }
}

const fn shape(
    name: &'static str,
    header: Header,
    form: Form,
    format: &'static str,
    options: &'static str,
) -> Shape {
    Shape { name, format, options, header, form }
}

const V1: &str = "--type luks1 --pbkdf-force-iterations 1000";
const V2: &str = "--type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000";
const V1_OURS: &str = "version=1,iter-time=1";
const V2_OURS: &str = "version=2,pbkdf=pbkdf2,pbkdf-iterations=1000";
const ARGON: &str = "--type luks2 --pbkdf-force-iterations 4 --pbkdf-memory 64 --pbkdf-parallel 2";
const ARGON_OURS: &str = "version=2,pbkdf-iterations=4,pbkdf-memory=64,pbkdf-parallel=2";

/// Every version, cipher, key size, sector size and derivation. With `-o cipher-mode=ecb` we write what QEMU does, a mode with
/// an IV generator that ECB has no use for; neither kernel nor cryptsetup takes it, so that only the other way is tried. In the short form: each version, each mode, both ends of
/// the sector sizes, both places of the header.
#[rustfmt::skip]
const SHAPES: &[Shape] = &[
    shape("xts512", Attached, Short,
        "V1 -c aes-xts-plain64 -s 512",
        "V1,cipher-alg=aes-256,cipher-mode=xts"),
    shape("xts256", Attached, Long,
        "V1 -c aes-xts-plain64 -s 256 -h sha512",
        "V1,cipher-alg=aes-128,cipher-mode=xts,hash-alg=sha512"),
    shape("essiv", Detached, Short,
        "V1 -c aes-cbc-essiv:sha256 -s 256",
        "V1,cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256"),
    shape("cbc192", Attached, Long,
        "V1 -c aes-cbc-plain64 -s 192",
        "V1,cipher-alg=aes-192,cipher-mode=cbc,ivgen-alg=plain64"),
    shape("ctr", Attached, Long,
        "V1 -c aes-ctr-plain64 -s 256",
        "V1,cipher-alg=aes-256,cipher-mode=ctr,ivgen-alg=plain64"),
    shape("ecb", Attached, Long,
        "V1 -c aes-ecb -s 256",
        ""),
    shape("serpent", Attached, Long,
        "V1 -c serpent-xts-plain64 -s 512 -h sha1",
        "V1,cipher-alg=serpent-256,cipher-mode=xts,hash-alg=sha1"),
    shape("serpent-cbc", Detached, Long,
        "V1 -c serpent-cbc-essiv:sha256 -s 256",
        "V1,cipher-alg=serpent-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256"),
    shape("twofish", Attached, Long,
        "V1 -c twofish-xts-plain64 -s 512",
        "V1,cipher-alg=twofish-256,cipher-mode=xts"),
    shape("twofish-cbc", Attached, Long,
        "V1 -c twofish-cbc-plain -s 128",
        "V1,cipher-alg=twofish-128,cipher-mode=cbc,ivgen-alg=plain"),
    shape("cast5", Attached, Long,
        "V1 -c cast5-cbc-plain64 -s 128",
        "V1,cipher-alg=cast5-128,cipher-mode=cbc,ivgen-alg=plain64"),
    shape("v2-512", Detached, Short,
        "V2 -c aes-xts-plain64 -s 512 --sector-size 512",
        "V2,cipher-alg=aes-256,cipher-mode=xts,sector-size=512"),
    shape("v2-1024", Attached, Long,
        "V2 -c aes-xts-plain64 -s 256 --sector-size 1024",
        "V2,cipher-alg=aes-128,cipher-mode=xts,sector-size=1024"),
    shape("v2-2048", Attached, Long,
        "V2 -c serpent-xts-plain64 -s 512 --sector-size 2048",
        "V2,cipher-alg=serpent-256,cipher-mode=xts,sector-size=2048"),
    shape("v2-4096", Attached, Short,
        "ARGON --pbkdf argon2id -c aes-xts-plain64 -s 512 --sector-size 4096",
        "ARGON,pbkdf=argon2id,cipher-alg=aes-256,cipher-mode=xts,sector-size=4096"),
    shape("v2-twofish", Detached, Short,
        "ARGON --pbkdf argon2i -c twofish-xts-plain64 -s 512 --sector-size 4096",
        "ARGON,pbkdf=argon2i,cipher-alg=twofish-256,cipher-mode=xts,sector-size=4096"),
    shape("v2-essiv", Attached, Long,
        "V2 -c aes-cbc-essiv:sha256 -s 256 --sector-size 4096",
        "V2,cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,sector-size=4096"),
    shape("v2-serpent", Attached, Short,
        "V2 -c serpent-cbc-essiv:sha256 -s 256 --sector-size 512",
        "V2,cipher-alg=serpent-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,sector-size=512"),
    shape("v2-ctr", Detached, Long,
        "V2 -c aes-ctr-plain64 -s 256 --sector-size 4096",
        "V2,cipher-alg=aes-256,cipher-mode=ctr,ivgen-alg=plain64,sector-size=4096"),
];

/// An image in the guest.
struct Case {
    name: String,
    shape: &'static Shape,
    /// We make and fill it; otherwise cryptsetup does, in the guest.
    ours: bool,
}

impl Case {
    fn all() -> Vec<Case> {
        let shapes = SHAPES.iter().filter(|shape| shape.form.is_wanted());
        let both = shapes.flat_map(|shape| [(shape, true), (shape, false)]);
        let both = both.filter(|(shape, ours)| !ours || !shape.options.is_empty());
        let name = |shape: &Shape, ours| format!("{}-{}", if ours { "ours" } else { "made" }, shape.name);
        both.map(|(shape, ours)| Case { name: name(shape, ours), shape, ours }).collect()
    }

    /// Its line of the job.
    fn line(&self) -> String {
        let Case { name, shape, .. } = self;
        let header = if shape.header == Detached { "detached" } else { "attached" };
        match self.ours {
            true => format!("check {name} ours {name} {header}\n"),
            false => {
                let format = shape.format.replace("ARGON", ARGON).replace("V1", V1).replace("V2", V2);
                format!("check {name} made {name} {header} {format}\n")
            }
        }
    }

    /// How we open it in `folder`.
    fn image(&self, folder: &str) -> String {
        let path = format!("{folder}/images/{}", self.name);
        let image = format!("driver=luks,key-secret=s,file.filename={path}");
        if self.shape.header == Detached { format!("{image},header.filename={path}.header") } else { image }
    }

    /// Makes it, and fills it with `payload.raw`.
    fn make(&self, machine: &Machine) {
        let path = format!("disk/images/{}", self.name);
        let options = self.shape.options.replace("ARGON", ARGON_OURS);
        let options = options.replace("V1", V1_OURS).replace("V2", V2_OURS);
        let create = |rest: &str| {
            ours(machine, &format!("qemu-img create -q SECRET -f luks -o key-secret=s,{options}{rest}"));
        };
        match self.shape.header {
            Detached => {
                machine.tool("truncate", &["-s", &PAYLOAD.to_string(), &path]);
                create(&format!(",detached-header=on {path}.header"));
            }
            Attached => create(&format!(" {path} {PAYLOAD}")),
        }
        let image = self.image("disk");
        ours(machine, &format!("qemu-img convert -n -f raw SECRET --target-image-opts payload.raw {image}"));
    }

    /// What the guest left in it is what we read.
    fn assert_read(&self, machine: &Machine) {
        let image = self.image("back");
        ours(machine, &format!("qemu-img convert SECRET --image-opts -O raw {image} read.raw"));
        assert_files(machine, "read.raw", &self.name);
    }
}

/// The image `name` holds a clean file system with exactly the files whose sums the guest left.
pub(crate) fn assert_files(machine: &Machine, image: &str, name: &str) {
    machine.tool("e2fsck", &["-fn", image]);
    let _ = fs::remove_dir_all(machine.path("files"));
    fs::create_dir(machine.path("files")).unwrap();
    machine.tool("debugfs", &["-R", "rdump / files", image]);
    let list = "cd files && find . -type f | LC_ALL=C sort | xargs sha256sum | diff - ../back/sums/";
    machine.tool("sh", &["-c", &format!("{list}{name}")]);
}

/// Runs a program of ours that must end well.
pub(crate) fn ours(machine: &Machine, line: &str) {
    let line = line.replace("SECRET", "--object secret,id=s,file=disk/pw");
    let ran = Whose::Ours.run(&machine.path(""), &line);
    assert_eq!(ran.code, Some(0), "{line}: {ran}");
}

/// A file system with files of all sizes, and their sums in it.
fn payload(machine: &Machine) {
    fs::create_dir_all(machine.path("tree/deep/er")).unwrap();
    for (i, size) in [1, 511, 4096, 65537, 1_234_567].into_iter().enumerate() {
        fs::write(machine.path(&format!("tree/deep/er/{i}")), tests::luks::payload(size)).unwrap();
    }
    machine.tool("sh", &["-c", "cd tree && find deep -type f | xargs sha256sum >SUMS"]);
    machine.tool("truncate", &["-s", &PAYLOAD.to_string(), "payload.raw"]);
    machine.tool("mke2fs", &["-q", "-t", "ext4", "-b", "4096", "-d", "tree", "payload.raw"]);
}

#[test]
fn the_kernel_reads_and_writes_what_we_encrypt_and_we_read_what_it_left() {
    let Some(guest) = guest() else { return };
    let machine = Machine::new(guest);
    for folder in ["disk/images", "disk/sums"] {
        fs::create_dir(machine.path(folder)).unwrap();
    }
    fs::write(machine.path("disk/pw"), "passphrase").unwrap();
    payload(&machine);
    let cases = Case::all();
    cases.iter().filter(|case| case.ours).for_each(|case| case.make(&machine));
    let job: String = cases.iter().map(Case::line).collect();
    let console = machine.run(&(script("luks.sh") + &job), 64 * cases.len() as u64 * (1 << 20));
    let names: Vec<String> = cases.iter().map(|case| case.name.clone()).collect();
    console.assert_passed(&names);
    for case in &cases {
        case.assert_read(&machine);
    }
}
