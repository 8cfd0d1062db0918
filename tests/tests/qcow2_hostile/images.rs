//! Images of every kind with something of everything in them, where their fields are, and what is put there.

use std::ops::Range;
use std::path::Path;
use tests::Whose;
use tests::random::Random;

/// A number in the image.
pub(crate) struct Field {
    pub(crate) name: String,
    /// Offset in the file.
    pub(crate) at: usize,
    /// Bytes, big-endian.
    pub(crate) width: usize,
}

fn field(name: impl Into<String>, at: usize, width: usize) -> Field {
    Field { name: name.into(), at, width }
}

/// A kind of image.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    format: &'static str,
    /// What it is created with.
    create: &'static str,
    /// How its contents came about.
    fill: &'static [&'static str],
    /// What is said beside the file's name to open it.
    open: &'static str,
}

/// What every kind is created with and opened with, harmless where it is of no use.
const SECRET: &str = "--object secret,id=s,file=pass";

const SNAPSHOTS_AND_BITMAP: &[&str] = &[
    "qemu-io IMG -c 'write -q -P 1 0 256k' -c 'write -q -c 1M 64k'",
    "qemu-img snapshot -c one IMG",
    "qemu-io IMG -c 'write -q -P 2 64k 256k'",
    "qemu-img snapshot -c two IMG",
    "qemu-img bitmap --add IMG b",
    "qemu-io IMG -c 'write -q -P 3 2M 64k' -c 'write -q -z 3M 64k'",
];
const SNAPSHOT: &[&str] = &[
    "qemu-io IMG -c 'write -q -P 1 0 256k' -c 'write -q -z 1M 64k'",
    "qemu-img snapshot -c one IMG",
    "qemu-io IMG -c 'write -q -P 2 64k 32k'",
];
const DATA: &[&str] = &["qemu-io IMG -c 'write -q -P 1 0 256k' -c 'write -q -z 1M 64k'"];
const COMPRESSED: &[&str] = &["qemu-io IMG -c 'write -q -P 1 0 256k' -c 'write -q -c 1M 64k'"];

pub(crate) const KINDS: [Kind; 6] = [
    Kind { name: "plain", format: "qcow2", create: "a.img 4M", fill: SNAPSHOTS_AND_BITMAP, open: "" },
    Kind {
        name: "encrypted",
        format: "qcow2",
        create: "-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 a.img 4M",
        fill: SNAPSHOT,
        open: ",encrypt.key-secret=s",
    },
    Kind {
        name: "data file",
        format: "qcow2",
        create: "-o data_file=data,extended_l2=on -b base -F qcow2 a.img 4M",
        fill: DATA,
        open: "",
    },
    Kind {
        name: "small clusters",
        format: "qcow2",
        create: "-o cluster_size=512,refcount_bits=64,compression_type=zstd a.img 4M",
        fill: SNAPSHOTS_AND_BITMAP,
        open: ",lazy-refcounts=on",
    },
    Kind {
        name: "version 2",
        format: "qcow2",
        create: "-o compat=0.10 -b base -F qcow2 a.img 4M",
        fill: SNAPSHOT,
        open: "",
    },
    Kind { name: "qcow", format: "qcow", create: "-b base -F qcow2 a.img 4M", fill: COMPRESSED, open: "" },
];

impl Kind {
    /// How a command line names the image.
    pub(crate) fn named(&self) -> String {
        format!("{SECRET} --image-opts driver={},file.filename=a.img{}", self.format, self.open)
    }

    /// Makes the image and what it needs, and gives its bytes.
    pub(crate) fn make(&self, dir: &Path) -> Vec<u8> {
        std::fs::write(dir.join("pass"), "a passphrase").unwrap();
        let run = |line: &str| Whose::Ours.run(dir, line).ok();
        run("qemu-img create -q -f qcow2 base 4M");
        run("qemu-io -f qcow2 base -c 'write -q -P 9 2M 64k'");
        run(&format!("qemu-img create -q {SECRET} -f {} {}", self.format, self.create));
        self.fill.iter().for_each(|line| drop(run(&line.replace("IMG", &self.named()))));
        for file in ["base", "data"].map(|name| dir.join(name)).iter().filter(|file| file.exists()) {
            std::fs::copy(file, file.with_extension("good")).unwrap();
        }
        std::fs::read(dir.join("a.img")).unwrap()
    }

    /// Puts the files back as they were, but for the image, which becomes `bad`.
    pub(crate) fn restore(&self, dir: &Path, bad: &[u8]) {
        std::fs::write(dir.join("a.img"), bad).unwrap();
        for good in ["base.good", "data.good"].map(|name| dir.join(name)).iter().filter(|f| f.exists()) {
            std::fs::copy(good, good.with_extension("")).unwrap();
        }
    }

    /// Every field of the header and of the tables it points at.
    pub(crate) fn fields(&self, image: &[u8]) -> Vec<Field> {
        match self.format {
            "qcow" => qcow_fields(image),
            _ => [header_fields(image), extension_fields(image), table_fields(image)]
                .into_iter()
                .flatten()
                .collect(),
        }
    }

    /// Where metadata is: the beginnings of the parts that have fields.
    pub(crate) fn metadata(&self, image: &[u8]) -> Vec<Range<usize>> {
        let part = |field: Field| field.at..(field.at + 256).min(image.len());
        self.fields(image).into_iter().map(part).collect()
    }
}

/// Illegal or at least remarkable numbers of that many bytes.
pub(crate) fn values(width: usize) -> Vec<u64> {
    let max = if width == 8 { u64::MAX } else { (1 << (8 * width)) - 1 };
    let top = max / 2 + 1;
    let mut all = vec![0, 1, 0x201 & max, top, max / 2, max, (top | 0x5_0000) & max, 0x7fff_ffff_0000 & max];
    all.sort_unstable();
    all.dedup();
    all
}

/// Changes some bytes of the metadata; gives where, and what is there now.
pub(crate) fn change(image: &mut [u8], places: &[Range<usize>], random: &mut Random) -> (usize, Vec<u8>) {
    let place = random.pick(places).clone();
    let reach = if random.below(2) == 0 { 24 } else { place.len() as u64 };
    let within = random.below(reach);
    let at = (place.start + usize::try_from(within).unwrap()).min(image.len() - 8);
    let len = match random.below(4) {
        0 => {
            image[at] ^= 1 << random.below(8);
            1
        }
        1 => {
            image[at] = u8::try_from(random.below(256)).unwrap();
            1
        }
        width => {
            let (at, width) = (at - at % 4, if width == 2 { 4 } else { 8 });
            let value = *random.pick(&values(width)) ^ random.below(2);
            image[at..at + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
            width + 4
        }
    };
    (at, image[at..(at + len).min(image.len())].to_vec())
}

pub(crate) fn be(image: &[u8], at: usize, width: usize) -> u64 {
    image[at..at + width].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// An offset stored at `at`, without flags.
fn offset(image: &[u8], at: usize) -> usize {
    usize::try_from(be(image, at, 8) & 0x00ff_ffff_ffff_fe00).unwrap()
}

fn header_fields(image: &[u8]) -> Vec<Field> {
    let v2 = [
        ("magic", 0, 4),
        ("version", 4, 4),
        ("backing_file_offset", 8, 8),
        ("backing_file_size", 16, 4),
        ("cluster_bits", 20, 4),
        ("size", 24, 8),
        ("crypt_method", 32, 4),
        ("l1_size", 36, 4),
        ("l1_table_offset", 40, 8),
        ("refcount_table_offset", 48, 8),
        ("refcount_table_clusters", 56, 4),
        ("nb_snapshots", 60, 4),
        ("snapshots_offset", 64, 8),
    ];
    let v3 = [
        ("incompatible_features", 72, 8),
        ("compatible_features", 80, 8),
        ("autoclear_features", 88, 8),
        ("refcount_order", 96, 4),
        ("header_length", 100, 4),
        ("compression_type", 104, 1),
        ("padding", 105, 1),
    ];
    let v3 = if be(image, 4, 4) == 3 { &v3[..] } else { &[] };
    v2.iter().chain(v3).map(|(name, at, width)| field(*name, *at, *width)).collect()
}

/// The header extensions: what each is, how long it is, and the fields in those that have any.
fn extension_fields(image: &[u8]) -> Vec<Field> {
    let mut found = Vec::new();
    for (at, magic, len) in extensions(image) {
        found.push(field(format!("type of extension {magic:#x}"), at, 4));
        found.push(field(format!("length of extension {magic:#x}"), at + 4, 4));
        found.extend(contents_of_extension(magic, at + 8, image));
        found.extend((len > 0).then(|| field(format!("last byte of extension {magic:#x}"), at + 7 + len, 1)));
    }
    let name = offset_of_name(image);
    found.extend((name > 0).then(|| field("backing file name", name, 2)));
    found
}

fn offset_of_name(image: &[u8]) -> usize {
    usize::try_from(be(image, 8, 8)).unwrap()
}

/// Where each extension is, its type and its length; the end marker included.
fn extensions(image: &[u8]) -> Vec<(usize, u64, usize)> {
    let mut at = if be(image, 4, 4) == 3 { usize::try_from(be(image, 100, 4)).unwrap() } else { 72 };
    let mut found = Vec::new();
    loop {
        let (magic, len) = (be(image, at, 4), usize::try_from(be(image, at + 4, 4)).unwrap());
        found.push((at, magic, len));
        if magic == 0 {
            return found;
        }
        at += 8 + len.next_multiple_of(8);
    }
}

fn contents_of_extension(magic: u64, at: usize, image: &[u8]) -> Vec<Field> {
    match magic {
        0x2385_2875 => [
            vec![
                field("nb_bitmaps", at, 4),
                field("reserved field of the bitmaps extension", at + 4, 4),
                field("bitmap_directory_size", at + 8, 8),
                field("bitmap_directory_offset", at + 16, 8),
            ],
            bitmap_fields(image, offset(image, at + 16)),
        ]
        .into_iter()
        .flatten()
        .collect(),
        0x0537_be77 => {
            let header = offset(image, at);
            let luks = [("LUKS magic", 0, 4), ("LUKS version", 6, 2), ("LUKS payload offset", 104, 4)];
            let keys = [("LUKS key bytes", 108, 4), ("iterations", 164, 4), ("key slot", 208, 4)];
            let keys = keys.into_iter().chain([
                ("slot iterations", 212, 4),
                ("slot offset", 248, 4),
                ("stripes", 252, 4),
            ]);
            let luks = luks.into_iter().chain(keys).map(|(name, n, width)| field(name, header + n, width));
            vec![field("crypto header offset", at, 8), field("crypto header length", at + 8, 8)]
                .into_iter()
                .chain(luks)
                .collect()
        }
        0x6803_f857 => vec![
            field("type of a feature", at, 1),
            field("bit of a feature", at + 1, 1),
            field("name of a feature", at + 2, 8),
        ],
        _ => vec![field(format!("text of extension {magic:#x}"), at, 2)],
    }
}

fn bitmap_fields(image: &[u8], directory: usize) -> Vec<Field> {
    let fixed = [
        ("bitmap_table_offset", 0, 8),
        ("bitmap_table_size", 8, 4),
        ("bitmap flags", 12, 4),
        ("bitmap type", 16, 1),
        ("bitmap granularity_bits", 17, 1),
        ("bitmap name_size", 18, 2),
        ("bitmap extra_data_size", 20, 4),
        ("bitmap name", 24, 1),
    ];
    let fixed = fixed.map(|(name, at, width)| field(name, directory + at, width));
    fixed.into_iter().chain([field("bitmap table entry", offset(image, directory), 8)]).collect()
}

/// The fields of the tables the header points at.
fn table_fields(image: &[u8]) -> Vec<Field> {
    let (l1, reftable) = (offset(image, 40), offset(image, 48));
    let (l2, block) = (offset(image, l1), offset(image, reftable));
    let mut found = vec![
        field("L1 entry", l1, 8),
        field("L2 entry", l2, 8),
        field("next L2 entry", l2 + 8, 8),
        field("refcount table entry", reftable, 8),
        field("next refcount table entry", reftable + 8, 8),
        field("refcount block entry", block, 2),
    ];
    let compressed = (0..64).map(|i| l2 + 8 * i).find(|at| image[*at] & 0x40 != 0);
    found.extend(compressed.map(|at| field("L2 entry of compressed data", at, 8)));
    if be(image, 60, 4) > 0 {
        found.extend(snapshot_fields(image, offset(image, 64)));
    }
    found
}

fn snapshot_fields(image: &[u8], table: usize) -> Vec<Field> {
    let fixed = [
        ("l1_table_offset", 0, 8),
        ("l1_size", 8, 4),
        ("id_str_size", 12, 2),
        ("name_size", 14, 2),
        ("date_sec", 16, 4),
        ("date_nsec", 20, 4),
        ("vm_clock_nsec", 24, 8),
        ("vm_state_size", 32, 4),
        ("extra_data_size", 36, 4),
        ("vm_state_size (64 bits)", 40, 8),
        ("disk_size", 48, 8),
        ("icount", 56, 8),
        ("id", 64, 1),
        ("name", 65, 1),
    ];
    let fixed = fixed.map(|(name, at, width)| field(format!("snapshot {name}"), table + at, width));
    let l1 = offset(image, table);
    let tables = [field("snapshot L1 entry", l1, 8), field("snapshot L2 entry", offset(image, l1), 8)];
    fixed.into_iter().chain(tables).collect()
}

/// The fields of an image of version 1.
fn qcow_fields(image: &[u8]) -> Vec<Field> {
    let header = [
        ("magic", 0, 4),
        ("version", 4, 4),
        ("backing_file_offset", 8, 8),
        ("backing_file_size", 16, 4),
        ("mtime", 20, 4),
        ("size", 24, 8),
        ("cluster_bits", 32, 1),
        ("l2_bits", 33, 1),
        ("padding", 34, 2),
        ("crypt_method", 36, 4),
        ("l1_table_offset", 40, 8),
    ];
    let header = header.map(|(name, at, width)| field(name, at, width));
    let l1 = usize::try_from(be(image, 40, 8)).unwrap();
    let l2 = usize::try_from(be(image, l1, 8)).unwrap();
    let compressed = (0..512).map(|i| l2 + 8 * i).find(|at| image[*at] & 0x80 != 0);
    let tables = [
        Some(field("L1 entry", l1, 8)),
        Some(field("L2 entry", l2, 8)),
        Some(field("backing file name", offset_of_name(image), 2)),
        compressed.map(|at| field("L2 entry of compressed data", at, 8)),
    ];
    header.into_iter().chain(tables.into_iter().flatten()).collect()
}
