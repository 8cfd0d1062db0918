//! What the tests of this format share, and tests of images from creation to opening.

use super::area::Area;
use super::calibrate;
use super::derive::Bounds;
use super::head::Opened;
use super::header::{Digest, Header, Layout, Pbkdf2, Placement, SALT_BYTES, SLOTS, Slot};
use super::keys::{self, NewKey};
use super::keyslot::VolumeKey;
use super::options::{Luks2Options, NewImage, Version};
use super::v2;
use crate::crypto::{CipherSpec, HashAlg, SectorCipher, SectorSize};
use crate::{DRIVERS, crypto};
use block::graph::{self, Env, OpenFlags, Source};
use block::protocol::memory::Memory;
use block::{Image, Kind, Result};
use secret::Registry;
use std::num::NonZeroU32;
use std::path::PathBuf;

/// A header for keys of `key_bytes` with these slots in use, with salts that tell slots apart.
pub(super) fn header(cipher: &str, key_bytes: usize, used: &[usize]) -> Header {
    let cipher = CipherSpec::parse_dm(cipher, key_bytes).unwrap();
    let layout = Layout::new(cipher.key_bytes());
    let pbkdf2 = |salt: u8| Pbkdf2 { iterations: NonZeroU32::new(1000).unwrap(), salt: [salt; SALT_BYTES] };
    let slot = |index: usize| Slot {
        pbkdf2: used.contains(&index).then(|| pbkdf2(index as u8)),
        material: layout.material(index),
    };
    Header {
        cipher,
        hash: HashAlg::Sha256,
        payload: layout.end(),
        digest: Digest { pbkdf2: pbkdf2(0xdd), value: Default::default() },
        uuid: "5b8567b0-947d-44f5-9a23-684f11f1c39f".to_owned(),
        slots: std::array::from_fn::<_, SLOTS, _>(slot),
    }
}

/// A header file with passphrases in its slots.
pub(super) struct Slots {
    pub(super) header: Header,
    pub(super) key: VolumeKey,
    pub(super) file: Vec<u8>,
}

impl Slots {
    pub(super) fn new(cipher: &str, key_bytes: usize, passphrases: &[(usize, &[u8])]) -> Self {
        let used: Vec<_> = passphrases.iter().map(|(slot, _)| *slot).collect();
        let mut header = header(cipher, key_bytes, &used);
        let key = VolumeKey::generate(key_bytes).unwrap();
        for slot in &mut header.slots {
            slot.pbkdf2.iter_mut().for_each(|p| super::random(&mut p.salt).unwrap());
        }
        header.digest = Digest::of(&key, header.hash, header.digest.pbkdf2);
        let mut file = vec![0; header.payload.bytes() as usize];
        file[..super::header::BYTES].copy_from_slice(&header.to_bytes());
        for (slot, passphrase) in passphrases {
            let slot = header.key_slot(*slot, header.slots[*slot].pbkdf2.unwrap());
            let sealed = slot.seal(&key, passphrase).unwrap();
            let at = slot.at as usize;
            file[at..at + sealed.len()].copy_from_slice(&sealed);
        }
        Slots { header, key, file }
    }

    pub(super) fn read(&self, at: u64, to: &mut [u8]) -> Result<()> {
        let at = at as usize;
        to.copy_from_slice(&self.file[at..at + to.len()]);
        Ok(())
    }

    pub(super) fn cipher(&self) -> Box<dyn SectorCipher> {
        crypto::new(&self.header.cipher, self.key.as_bytes(), SectorSize::B512).unwrap()
    }
}

/// A LUKS2 file without payload with these passphrases in slots 0, 1, … of PBKDF2, as cheap as can be.
pub(super) fn luks2(passphrases: &[&[u8]]) -> Vec<u8> {
    luks2_with(passphrases, 5 << 20)
}

/// The same with so many bytes for key slots.
pub(super) fn luks2_with(passphrases: &[&[u8]], keyslots_size: u64) -> Vec<u8> {
    let key = NewKey {
        iterations: NonZeroU32::new(1000),
        derivation: Some(keys::Kind::Pbkdf2),
        ..NewKey::default()
    };
    let new = NewImage {
        size: 0,
        key_secret: String::new(),
        cipher: CipherSpec::parse_dm("aes-xts-plain64", 32).unwrap(),
        hash: HashAlg::Sha256,
        key,
        detached: false,
        version: Version::Two,
        luks2: Luks2Options { keyslots_size: Some(keyslots_size), ..Luks2Options::default() },
    };
    let child = Memory::child(vec![0; 6 << 20]);
    let area = Area::new(child.clone(), 0);
    let derivation = calibrate::luks2(new.hash, 32, &new.key).unwrap();
    let volume_key = v2::create::create(&area, &new, passphrases[0], derivation).unwrap();
    let mut keys = v2::Luks2Keys::load(&area, opened().bounds).unwrap();
    for (slot, passphrase) in passphrases.iter().enumerate().skip(1) {
        keys::KeyStore::fill(&mut keys, slot, &volume_key, passphrase, &new.key).unwrap();
    }
    let mut file = vec![0; 6 << 20];
    child.read_exact(0, &mut file).unwrap();
    file
}

/// How a header at the start of its file is opened.
pub(super) fn opened() -> Opened {
    Opened {
        placement: Placement::Attached,
        key_secret: None,
        bounds: Bounds::of(&OpenFlags::default()),
        payload_file: None,
        repair: false,
        alone: false,
    }
}

/// A directory with an image, and the secrets of one user.
struct Bench {
    dir: tempfile::TempDir,
    objects: Registry,
}

impl Bench {
    fn new(objects: &[&str]) -> Self {
        let mut registry = Registry::new([secret::OBJECT_TYPES]);
        objects.iter().for_each(|object| drop(registry.add(object).unwrap()));
        Bench { dir: tempfile::tempdir().unwrap(), objects: registry }
    }

    fn env(&self) -> Env<'_> {
        Env { drivers: DRIVERS, objects: &self.objects }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Creates `name` with `options`, as `-o` takes them.
    fn create(&self, name: &str, options: &str) -> Result<()> {
        let row = DRIVERS.find("luks").unwrap();
        let path = self.path(name);
        let path = path.to_str().unwrap();
        let mut values = graph::options_for(self.env(), row, Some(path)).unwrap();
        for option in options.split(',') {
            let (key, value) = option.split_once('=').unwrap();
            values.set(key, value)?;
        }
        graph::create(self.env(), row, path, &values)
    }

    /// Opens an image by its options; `DIR` stands for the directory.
    fn open(&self, options: &str, flags: OpenFlags) -> Result<Image> {
        let options = options.replace("DIR", self.dir.path().to_str().unwrap());
        graph::open_unnamed(self.env(), &Source::Options(options), None, flags)
    }
}

fn writable() -> OpenFlags {
    OpenFlags { writable: true, resize: true, ..OpenFlags::default() }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 512) as u8).collect()
}

const QUICK: &str = "key-secret=s,iter-time=1";
const OPTIONS: &str = "driver=luks,file.filename=DIR/a,key-secret=s";

#[test]
fn what_is_written_to_a_new_image_is_read_back() {
    let bench = Bench::new(&["secret,id=s,data=pw"]);
    for (index, more) in [
        "cipher-alg=aes-256",
        "cipher-alg=aes-192,cipher-mode=cbc,ivgen-alg=essiv",
        "cipher-alg=serpent-192,cipher-mode=lrw,ivgen-alg=benbi,hash-alg=whirlpool",
        "cipher-alg=cast5-128,cipher-mode=ctr,hash-alg=md5",
        "cipher-mode=ecb,ivgen-hash-alg=sha1",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("image{index}");
        bench.create(&name, &format!("{QUICK},size=100000,{more}")).unwrap();
        let options = format!("driver=luks,file.filename=DIR/{name},key-secret=s");
        let image = bench.open(&options, writable()).unwrap();
        assert_eq!(image.len().unwrap(), 100_352, "{more}");
        image.write(1000, &pattern(50_000)).unwrap();
        image.close().unwrap();
        let image = bench.open(&options, OpenFlags::default()).unwrap();
        let mut back = vec![0; 50_000];
        image.read(1000, &mut back).unwrap();
        assert!(back == pattern(50_000), "{more}");
        let file = std::fs::read(bench.path(&name)).unwrap();
        assert!(!file.windows(64).any(|window| window == &back[24_000..24_064]), "{more}");
    }
}

#[test]
fn the_key_is_needed_for_reading_but_not_for_reports() {
    let bench = Bench::new(&["secret,id=s,data=pw"]);
    bench.create("a", &format!("{QUICK},size=1M")).unwrap();
    let keyless = "driver=luks,file.filename=DIR/a";
    let error = bench.open(keyless, OpenFlags::default()).unwrap_err();
    assert_eq!(error.to_string(), "Parameter 'key-secret' is required for cipher");
    let image = bench.open(keyless, OpenFlags { no_io: true, ..OpenFlags::default() }).unwrap();
    assert!(image.node().info().encrypted);
    assert_eq!(image.len().unwrap(), 1 << 20);
    assert!(image.read(0, &mut [0; 512]).is_err());
}

#[test]
fn info_has_qemus_members_in_its_order() {
    let bench = Bench::new(&["secret,id=s,data=pw"]);
    bench.create("a", &format!("{QUICK},size=0,cipher-mode=cbc,ivgen-alg=essiv")).unwrap();
    let image = bench.open(OPTIONS, OpenFlags::default()).unwrap();
    let (kind, data) = image.node().info().specific.unwrap();
    let keys: Vec<_> = data.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(kind, "luks");
    let want = "ivgen-alg detached-header hash-alg cipher-alg uuid ivgen-hash-alg cipher-mode slots payload-offset master-key-iters";
    assert_eq!(keys, want.split(' ').collect::<Vec<_>>());
    assert_eq!(data["slots"][1], serde_json::json!({"active": false, "key-offset": 135_168}));
    assert_eq!(data["slots"][0]["stripes"], 4000);
    assert_eq!(data["payload-offset"], 1_052_672);
}

#[test]
fn a_wrong_passphrase_says_so() {
    let bench = Bench::new(&["secret,id=s,data=pw", "secret,id=wrong,data=pv"]);
    bench.create("a", &format!("{QUICK},size=1M")).unwrap();
    let error = bench.open(&OPTIONS.replace("=s", "=wrong"), OpenFlags::default()).unwrap_err();
    assert_eq!(error.to_string(), "Invalid password, cannot unlock any keyslot");
    assert_eq!((error.kind(), error.hint()), (Kind::WrongKey, None));
}

#[test]
fn a_passphrase_that_is_right_but_for_its_newline_says_so() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [("unix", "pw\n"), ("dos", "pw\r\n"), ("other", "px\n")] {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let object = |id: &str| format!("secret,id={id},file={}", dir.path().join(id).display());
    let bench = Bench::new(&["secret,id=s,data=pw", &object("unix"), &object("dos"), &object("other")]);
    bench.create("a", &format!("{QUICK},size=1M")).unwrap();
    let error = |id| bench.open(&OPTIONS.replace("=s", &format!("={id}")), OpenFlags::default()).unwrap_err();
    for id in ["unix", "dos"] {
        let want = format!(
            "Invalid password, cannot unlock any keyslot: the secret '{id}' matches without the newline at its end"
        );
        assert_eq!(error(id).to_string(), want);
        assert!(error(id).hint().unwrap().contains("printf %s"));
    }
    assert_eq!(error("other").to_string(), "Invalid password, cannot unlock any keyslot");
}

#[test]
fn slots_that_would_take_too_long_are_named() {
    let bench = Bench::new(&["secret,id=s,data=pw"]);
    let mut slots = Slots::new("aes-xts-plain64", 32, &[(2, b"pw")]);
    slots.header.slots[2].pbkdf2.as_mut().unwrap().iterations = NonZeroU32::MAX;
    slots.file[..super::header::BYTES].copy_from_slice(&slots.header.to_bytes());
    std::fs::write(bench.path("a"), &slots.file).unwrap();
    let flags = OpenFlags { max_kdf_seconds: 1, ..OpenFlags::default() };
    let error = bench.open(OPTIONS, flags).unwrap_err();
    assert_eq!(error.to_string(), "No key slot was tried");
    let hint = error.hint().unwrap();
    assert!(
        hint.contains("beyond that were skipped: 2 (about ") && hint.contains("--max-kdf-time"),
        "{hint}"
    );
}

#[test]
fn no_passphrase_opens_an_image_without_slots_in_use() {
    let bench = Bench::new(&["secret,id=s,data=pw"]);
    std::fs::write(bench.path("a"), Slots::new("aes-xts-plain64", 32, &[]).file).unwrap();
    let error = bench.open(OPTIONS, OpenFlags::default()).unwrap_err();
    assert_eq!(error.to_string(), "Invalid password, cannot unlock any keyslot");
    assert_eq!(error.hint(), None);
}

#[test]
fn a_file_is_probed_as_luks_whatever_its_version() {
    let bench = Bench::new(&["secret,id=s,data=pw"]);
    let mut file = Slots::new("aes-xts-plain64", 32, &[(0, b"pw")]).file;
    std::fs::write(bench.path("a"), &file).unwrap();
    let probed = "file.filename=DIR/a,key-secret=s";
    assert_eq!(bench.open(probed, OpenFlags::default()).unwrap().node().name().driver, "luks");
    file[7] = 2;
    std::fs::write(bench.path("a"), &file).unwrap();
    for options in [probed, "file.filename=DIR/a"] {
        let error = bench.open(options, OpenFlags { no_io: true, ..OpenFlags::default() }).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("The LUKS2 header cannot be used: "), "{text}");
    }
}

#[test]
fn a_detached_header_opens_a_payload_at_any_offset() {
    let bench = Bench::new(&["secret,id=s,data=pw"]);
    bench.create("header", &format!("{QUICK},detached-header=on")).unwrap();
    assert_eq!(std::fs::metadata(bench.path("header")).unwrap().len(), 2_068_480);
    std::fs::write(bench.path("payload"), vec![0; 65_536]).unwrap();
    let options = "driver=luks,file.filename=DIR/payload,header.filename=DIR/header,key-secret=s";
    for (offset, len) in [(0, 65_536), (16, 57_344), (128, 0)] {
        let mut header = std::fs::read(bench.path("header")).unwrap();
        header[104..108].copy_from_slice(&u32::to_be_bytes(offset));
        std::fs::write(bench.path("header"), header).unwrap();
        let image = bench.open(options, writable()).unwrap();
        assert_eq!(image.len().unwrap(), len);
        if len > 0 {
            image.write(0, &[7; 512]).unwrap();
            let payload = std::fs::read(bench.path("payload")).unwrap();
            let changed = payload.iter().position(|&byte| byte != 0).unwrap() as u32;
            assert_eq!(changed / 512, offset);
            image.close().unwrap();
            std::fs::write(bench.path("payload"), vec![0; 65_536]).unwrap();
        }
    }
    let alone = bench.open("driver=luks,file.filename=DIR/header", OpenFlags::default());
    assert!(alone.is_err());
}

#[test]
fn a_file_that_ends_before_its_payload_is_refused() {
    let bench = Bench::new(&["secret,id=s,data=pw"]);
    bench.create("a", &format!("{QUICK},size=0")).unwrap();
    assert_eq!(bench.open(OPTIONS, OpenFlags::default()).unwrap().len().unwrap(), 0);
    let file = std::fs::OpenOptions::new().write(true).open(bench.path("a")).unwrap();
    file.set_len(2_068_480 - 512).unwrap();
    let error = bench.open(OPTIONS, OpenFlags::default()).unwrap_err();
    assert_eq!(error.to_string(), "LUKS payload begins at byte 2068480, but the file ends at byte 2067968");
}

#[test]
fn a_new_image_has_the_length_asked_for_to_the_byte() {
    let bench = Bench::new(&["secret,id=s,data=pw"]);
    for size in [0, 1, 511, 513, 1 << 43] {
        bench.create("a", &format!("{QUICK},size={size}")).unwrap();
        assert_eq!(std::fs::metadata(bench.path("a")).unwrap().len(), 2_068_480 + size);
        let len = bench.open(OPTIONS, OpenFlags::default()).unwrap().len().unwrap();
        assert_eq!(len, size.next_multiple_of(512));
    }
}

#[test]
fn a_failed_creation_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("binary"), b"\xff\xfe").unwrap();
    let binary = format!("secret,id=binary,file={}", dir.path().join("binary").display());
    let bench = Bench::new(&["secret,id=s,data=pw", &binary]);
    std::fs::write(bench.path("a"), "old").unwrap();
    for (options, text) in [
        ("size=1M", "Parameter 'key-secret' is required for cipher"),
        ("size=1M,key-secret=none", "No secret with id 'none'"),
        ("size=1M,key-secret=s,cipher-alg=foo", "Parameter 'cipher-alg' does not accept value 'foo'"),
        ("size=1M,key-secret=s,cipher-alg=sm4", "Algorithm 'sm4' not supported"),
        ("size=1M,key-secret=s,cipher-alg=cast5-128", "Unsupported cipher mode xts"),
        (
            "size=1M,key-secret=s,ivgen-alg=essiv,ivgen-hash-alg=sha1",
            "No AES cipher with key size 20 available",
        ),
        ("size=18446744073709551615,key-secret=s,iter-time=1", "The requested file size is too large"),
    ] {
        assert_eq!(bench.create("a", options).unwrap_err().to_string(), text, "{options}");
        // Nothing was touched yet.
        assert_eq!(std::fs::read(bench.path("a")).unwrap(), b"old", "{options}");
    }
    let error = bench.create("a", "size=1M,key-secret=binary,iter-time=1").unwrap_err();
    assert_eq!(error.to_string(), "Data from secret binary is not valid UTF-8");
    assert!(!bench.path("a").exists());
}

#[test]
fn iterations_that_no_header_can_hold_are_refused() {
    let bench = Bench::new(&["secret,id=s,data=pw"]);
    let error = bench.create("a", "size=1M,key-secret=s,iter-time=99999999999").unwrap_err();
    assert!(error.to_string().starts_with("PBKDF iterations larger than 4294967295"), "{error}");
}

#[test]
fn preallocation_reaches_the_file() {
    let bench = Bench::new(&["secret,id=s,data=pw"]);
    let blocks = |mode: &str| {
        use std::os::unix::fs::MetadataExt;
        bench.create("a", &format!("{QUICK},size=4M,preallocation={mode}")).unwrap();
        let meta = std::fs::metadata(bench.path("a")).unwrap();
        assert_eq!(meta.len(), 2_068_480 + (4 << 20), "{mode}");
        meta.blocks() * 512
    };
    assert!(blocks("off") < 1 << 20);
    assert!(blocks("metadata") < 1 << 20);
    assert!(blocks("falloc") >= 2_068_480 + (4 << 20));
    assert!(blocks("full") >= 2_068_480 + (4 << 20));
}

#[test]
fn an_image_takes_its_header_and_its_size() {
    let bench = Bench::new(&["secret,id=s,data=pw"]);
    let row = DRIVERS.find("luks").unwrap();
    let measure = |more: &[(&str, &str)], source: Option<&Image>| {
        let mut options = graph::options_for(bench.env(), row, None).unwrap();
        options.set("key-secret", "s").unwrap();
        more.iter().for_each(|(key, value)| options.set(key, value).unwrap());
        let measure = row.create.unwrap().measure.unwrap()(bench.env(), &options, source).unwrap();
        assert_eq!(measure.required, measure.fully_allocated);
        measure.required
    };
    assert_eq!(measure(&[("size", "1000")], None), 2_069_480);
    assert_eq!(
        measure(&[("size", "1M"), ("cipher-alg", "aes-128"), ("cipher-mode", "ecb")], None),
        1_576_960
    );
    bench.create("a", &format!("{QUICK},size=1M")).unwrap();
    let image = bench.open(OPTIONS, OpenFlags::default()).unwrap();
    assert_eq!(measure(&[], Some(&image)), 3_117_056);
}
