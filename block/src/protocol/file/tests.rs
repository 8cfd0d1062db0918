//! Tests of the file driver on real files: locks, direct I/O, holes, sizes.

use super::*;
use crate::graph::{self, CacheMode, DriverTable, Env, Reopen};
use crate::{
    DetectZeroes, Image, IoVec, Level, MapKind, Perm, Perms, Prealloc, Resize, Want, WriteCache, WriteFlags,
    ZeroFlags,
};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use tempfile::TempDir;

const DRIVERS: DriverTable = DriverTable(&[&FILE, &HOST_DEVICE]);

struct Dir {
    dir: TempDir,
    objects: secret::Registry,
}

impl Dir {
    fn new() -> Self {
        Dir { dir: tempfile::tempdir().unwrap(), objects: secret::Registry::default() }
    }

    /// A directory in memory, where there is no zero-range operation.
    fn in_memory() -> Self {
        Dir { dir: tempfile::tempdir_in("/dev/shm").unwrap(), objects: secret::Registry::default() }
    }

    fn env(&self) -> Env<'_> {
        Env { drivers: DRIVERS, objects: &self.objects }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file of `len` bytes of 1.
    fn file(&self, name: &str, len: usize) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, vec![1; len]).unwrap();
        path
    }

    fn open_with(&self, path: &Path, more: &str, flags: OpenFlags) -> Result<Image> {
        let text = format!("driver=file,filename={}{more}", path.display());
        graph::open(self.env(), &graph::Source::Options(text), None, flags)
    }

    fn open(&self, path: &Path, flags: OpenFlags) -> Image {
        self.open_with(path, "", flags).unwrap()
    }
}

const READ: OpenFlags = OpenFlags {
    writable: false,
    resize: false,
    cache: CacheMode { direct: false, no_flush: false, write: WriteCache::Back },
    discard: false,
    detect_zeroes: DetectZeroes::Off,
    copy_on_read: false,
    force_share: false,
    withheld: Perm::empty(),
    native_aio: false,
    no_io: false,
    no_backing: false,
    one_pass: false,
    repair: false,
    max_kdf_seconds: 0,
    max_kdf_memory: 0,
};
const WRITE: OpenFlags = OpenFlags { writable: true, discard: true, ..READ };
const DIRECT: CacheMode = CacheMode { direct: true, ..READ.cache };

/// The bytes of the file that somebody holds a lock on, from the kernel's table.
fn locked_bytes(path: &Path) -> BTreeSet<u64> {
    let inode = path.metadata().unwrap().ino().to_string();
    let table = std::fs::read_to_string("/proc/locks").unwrap();
    let words = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = words.filter(|w| w[1] == "OFDLCK" && w[5].ends_with(&format!(":{inode}")));
    ours.flat_map(|w| w[6].parse().unwrap()..=w[7].parse().unwrap()).collect()
}

#[test]
fn the_bytes_locked_are_those_qemu_locks() {
    let dir = Dir::new();
    let path = dir.file("a", 512);
    let cases = [
        (READ, "", &[100][..]),
        (WRITE, "", &[100, 101]),
        (OpenFlags { resize: true, ..WRITE }, "", &[100, 101, 103]),
        (OpenFlags { withheld: Perm::CHANGES, ..READ }, "", &[100, 201, 203]),
        (OpenFlags { withheld: Perm::CHANGES, resize: true, ..WRITE }, "", &[100, 101, 103, 201, 203]),
        (OpenFlags { no_io: true, ..READ }, "", &[]),
        (OpenFlags { force_share: true, withheld: Perm::CHANGES, ..READ }, "", &[100]),
        (WRITE, ",locking=off", &[]),
        (WRITE, ",locking=on", &[100, 101]),
    ];
    for (flags, more, bytes) in cases {
        let image = dir.open_with(&path, more, flags).unwrap();
        assert_eq!(locked_bytes(&path), bytes.iter().copied().collect(), "{flags:?}{more}");
        drop(image);
        assert!(locked_bytes(&path).is_empty(), "{flags:?}{more}");
    }
}

#[test]
fn a_read_only_node_is_not_opened_for_writing() {
    let dir = Dir::new();
    let path = dir.file("a", 512);
    let e = dir.open_with(&path, ",read-only=on", WRITE).unwrap_err();
    assert_eq!(e.kind(), Kind::ReadOnly);
    assert!(e.to_string().ends_with("': Block node is read-only"), "{e}");
    dir.open_with(&path, ",read-only=on", READ).unwrap();
}

#[test]
fn who_conflicts_is_refused_with_the_name_of_the_lock() {
    let dir = Dir::new();
    let path = dir.file("a", 512);
    let alone = OpenFlags { withheld: Perm::CHANGES, ..READ };
    let refusal = |flags| {
        let e = dir.open_with(&path, "", flags).unwrap_err();
        assert_eq!(e.kind(), Kind::Locked);
        assert_eq!(e.hint(), Some(&*format!("Is another process using the image [{}]?", path.display())));
        let text = e.to_string();
        text.rsplit(": ").next().unwrap().to_owned()
    };
    let reader = dir.open(&path, alone);
    assert_eq!(refusal(WRITE), "Failed to get \"write\" lock");
    dir.open(&path, READ);
    dir.open(&path, alone);
    assert_eq!(locked_bytes(&path), BTreeSet::from([100, 201, 203]), "what was refused is undone");
    drop(reader);
    let _writer = dir.open(&path, OpenFlags { resize: true, ..WRITE });
    assert_eq!(refusal(alone), "Failed to get shared \"write\" lock");
    dir.open(&path, OpenFlags { force_share: true, ..alone });
    dir.open_with(&path, ",locking=off", alone).unwrap();
}

#[test]
fn permissions_that_are_refused_leave_the_old_ones() {
    let dir = Dir::new();
    let path = dir.file("a", 512);
    let image = dir.open(&path, WRITE);
    let _reader = dir.open(&path, READ);
    let wanted = Perms { own: Perm::READ, shared: Perm::all() - Perm::READ };
    assert_eq!(image.node().permit(wanted).unwrap_err().kind(), Kind::Locked);
    assert_eq!(locked_bytes(&path), BTreeSet::from([100, 101]));
    image.node().permit(Perms { own: Perm::READ, shared: Perm::all() - Perm::WRITE }).unwrap();
    assert_eq!(locked_bytes(&path), BTreeSet::from([100, 201]));
}

fn create(dir: &Dir, path: &Path, options: &[(&str, &str)]) -> Result<()> {
    let filename = path.to_str().unwrap();
    let mut values = graph::options_for(dir.env(), &FILE, Some(filename))?;
    options.iter().try_for_each(|(name, value)| values.set(name, value))?;
    graph::create(dir.env(), &FILE, filename, &values)
}

#[test]
fn a_file_in_use_is_not_truncated() {
    let dir = Dir::new();
    let path = dir.file("a", 512);
    let _holder = dir.open(&path, OpenFlags { withheld: Perm::CHANGES, ..READ });
    let e = create(&dir, &path, &[("size", "1M")]).unwrap_err();
    assert_eq!(e.to_string(), "Failed to get \"write\" lock");
    assert_eq!(std::fs::read(&path).unwrap(), [1; 512]);
}

#[test]
fn creation_allocates_what_was_asked() {
    let dir = Dir::new();
    for (mode, whole) in [("off", false), ("falloc", true), ("full", true)] {
        let path = dir.path(mode);
        create(&dir, &path, &[("size", "300k"), ("preallocation", mode), ("extent_size_hint", "0")]).unwrap();
        let metadata = path.metadata().unwrap();
        assert_eq!((metadata.len(), metadata.blocks() * 512 >= 300 << 10), (300 << 10, whole), "{mode}");
        assert!(metadata.blocks() > 0, "the first block is there");
    }
    let path = dir.path("rounded");
    create(&dir, &path, &[("size", "700")]).unwrap();
    assert_eq!(path.metadata().unwrap().len(), 1024);
    let metadata = create(&dir, &path, &[("size", "1M"), ("preallocation", "metadata")]).unwrap_err();
    assert_eq!(metadata.to_string(), "Unsupported preallocation mode: metadata");
}

#[test]
fn resizing_keeps_what_stays_and_undoes_what_fails() {
    let dir = Dir::new();
    let path = dir.file("a", 8192);
    let image = dir.open(&path, OpenFlags { resize: true, ..WRITE });
    for (size, prealloc) in [(12288, Prealloc::Falloc), (20480, Prealloc::Full), (24576, Prealloc::Off)] {
        image.truncate(Resize { prealloc, ..Resize::to(size) }).unwrap();
        assert_eq!((image.len().unwrap(), path.metadata().unwrap().len()), (size, size));
    }
    let mut bytes = vec![9; 24576];
    image.read(0, &mut bytes).unwrap();
    assert!(bytes[..8192].iter().all(|b| *b == 1) && bytes[8192..].iter().all(|b| *b == 0));
    let shrink = Resize { prealloc: Prealloc::Full, ..Resize::to(512) };
    assert!(image.truncate(shrink).is_err());
    let absurd = Resize { prealloc: Prealloc::Falloc, ..Resize::to(1 << 62) };
    assert!(image.truncate(absurd).is_err());
    assert_eq!((image.len().unwrap(), path.metadata().unwrap().len()), (24576, 24576));
}

#[test]
fn zeroes_keep_the_space_unless_it_may_be_given_up() {
    for dir in [Dir::new(), Dir::in_memory()] {
        let path = dir.file("a", 1 << 20);
        let blocks = || path.metadata().unwrap().blocks() * 512;
        let image = dir.open(&path, WRITE);
        image.write_zeroes(0..1 << 19, ZeroFlags::NO_FALLBACK).unwrap();
        assert_eq!(blocks(), 1 << 20);
        image.write_zeroes(0..1 << 18, ZeroFlags::MAY_UNMAP).unwrap();
        assert_eq!(blocks(), 3 << 18);
        image.discard(1 << 18..1 << 19).unwrap();
        assert_eq!(blocks(), 1 << 19);
        let mut bytes = vec![9; 1 << 20];
        image.read(0, &mut bytes).unwrap();
        assert!(bytes[..1 << 19].iter().all(|b| *b == 0) && bytes[1 << 19..].iter().all(|b| *b == 1));
        let without = dir.open(&path, OpenFlags { discard: false, ..WRITE });
        without.write_zeroes(1 << 19..1 << 20, ZeroFlags::MAY_UNMAP).unwrap();
        without.discard(1 << 19..1 << 20).unwrap();
        assert_eq!(blocks(), 1 << 19);
    }
}

fn kind_at(image: &Image, at: u64) -> (MapKind, u64) {
    let mapping = image.map(at, u64::MAX, Want::Exact).unwrap();
    (mapping.kind, mapping.len)
}

#[test]
fn holes_are_found_when_they_appear_and_data_too() {
    let dir = Dir::new();
    let path = dir.file("a", 1 << 20);
    File::options().write(true).open(&path).unwrap().set_len(2 << 20).unwrap();
    let image = dir.open(&path, WRITE);
    assert_eq!(kind_at(&image, 0), (MapKind::Data, 1 << 20));
    assert_eq!(kind_at(&image, 1000), (MapKind::Data, (1 << 20) - 1000));
    assert_eq!(kind_at(&image, 1 << 20), (MapKind::Zero, 1 << 20));
    image.write(3 << 19, &[1; 4096]).unwrap();
    assert_eq!(kind_at(&image, 1 << 20), (MapKind::Zero, 1 << 19));
    image.discard(0..65536).unwrap();
    assert_eq!(kind_at(&image, 0), (MapKind::Zero, 65536));
    assert_eq!(kind_at(&image, 65536), (MapKind::Data, (1 << 20) - 65536));
}

#[test]
fn a_last_partial_sector_reads_as_zeroes_and_can_be_written() {
    let dir = Dir::new();
    for cache in [WRITE.cache, DIRECT] {
        let path = dir.file("a", 1000);
        let image = dir.open(&path, OpenFlags { cache, resize: true, ..WRITE });
        assert_eq!(image.len().unwrap(), 1024);
        let mut bytes = [9; 1024];
        image.read(0, &mut bytes).unwrap();
        assert_eq!(bytes[998..1002], [1, 1, 0, 0]);
        image.write(999, &[2, 3]).unwrap();
        image.read(0, &mut bytes).unwrap();
        assert_eq!(bytes[998..1002], [1, 2, 3, 0]);
    }
}

#[test]
fn a_hole_in_the_last_partial_sector_leaves_the_length_alone() {
    for dir in [Dir::new(), Dir::in_memory()] {
        let path = dir.file("a", 1000);
        let image = dir.open(&path, OpenFlags { resize: true, ..WRITE });
        image.write_zeroes(512..1024, ZeroFlags::MAY_UNMAP).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [vec![1; 512], vec![0; 488]].concat());
        image.write_zeroes(512..1024, ZeroFlags::empty()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [vec![1; 512], vec![0; 512]].concat());
    }
}

#[test]
fn direct_io_takes_any_request() {
    for dir in [Dir::new(), Dir::in_memory()] {
        let path = dir.file("a", 1 << 20);
        let image = dir.open(&path, OpenFlags { cache: DIRECT, ..WRITE });
        let mut wanted = vec![1; 1 << 20];
        for (at, len) in [(0, 4096), (512, 512), (1000, 1), (4095, 2), (70_001, 300_003), (1_048_575, 1)] {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            image.write(at as u64, &bytes).unwrap();
            wanted[at..at + len].copy_from_slice(&bytes);
            let mut back = vec![0; len];
            image.read(at as u64, &mut back).unwrap();
            assert!(back == bytes, "{len} bytes at {at}");
        }
        let mut vector = IoVec::new();
        wanted[..8192].chunks(5).for_each(|part| vector.push(part));
        image.writev(0, &vector, WriteFlags::FUA).unwrap();
        assert!(std::fs::read(&path).unwrap() == wanted);
    }
}

#[test]
fn a_hole_does_not_fool_the_search_for_the_alignment() {
    let dir = Dir::new();
    let path = dir.path("a");
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let image = dir.open(&path, OpenFlags { cache: DIRECT, ..WRITE });
    let align = image.limits().request_align;
    assert!((512..=4096).contains(&align), "{align}");
    image.write(0, &[1; 100]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap()[..101], [&[1; 100][..], &[0]].concat());
}

#[test]
fn after_one_failed_flush_all_fail() {
    let dir = Dir::new();
    let path = dir.file("a", 512);
    let file = open_path(path.to_str().unwrap(), "", WRITE).unwrap();
    let driver = FileDriver::new(file, String::new(), FileKind::Regular, Locking::Off, WRITE).unwrap();
    driver.flush(Level::Disk).unwrap();
    driver.flush_failed.store(true, Ordering::Release);
    assert_eq!(driver.flush(Level::Disk).unwrap_err().errno(), libc::EIO);
    assert_eq!(driver.flush(Level::Disk).unwrap_err().errno(), libc::EIO);
    driver.flush(Level::Os).unwrap();
}

#[test]
fn more_buffers_than_one_system_call_takes_are_read_and_written() {
    let dir = Dir::new();
    let path = dir.file("a", 8192);
    let image = dir.open(&path, WRITE);
    let wanted: Vec<u8> = (0..5000).map(|i| (i % 251) as u8).collect();
    let mut vector = IoVec::new();
    wanted.chunks(1).for_each(|byte| vector.push(byte));
    image.writev(1, &vector, WriteFlags::empty()).unwrap();
    let mut back = vec![0; 5000];
    let mut parts = crate::IoVecMut::new();
    back.chunks_mut(1).for_each(|byte| parts.push(byte));
    image.readv(1, &mut parts).unwrap();
    drop(parts);
    assert!(back == wanted && std::fs::read(&path).unwrap()[1..5001] == wanted);
}

#[test]
fn a_full_device_says_so() {
    let full = FileDriver {
        len: Arc::new(AtomicU64::new(1 << 20)),
        ..FileDriver::new(
            File::options().read(true).write(true).open("/dev/full").unwrap(),
            String::new(),
            FileKind::CharDevice,
            Locking::Off,
            WRITE,
        )
        .unwrap()
    };
    let e = full.write(0, &IoVec::from(&[1; 512][..]), WriteFlags::empty()).unwrap_err();
    assert_eq!((e.kind(), e.to_string()), (Kind::NoSpace, "No space left on device".to_owned()));
}

#[test]
fn names_lose_the_prefix_and_nothing_else() {
    for (name, path) in
        [("a", "a"), ("file:a", "a"), ("file:a:b", "./a:b"), ("file:./a:b", "./a:b"), ("x:y", "x:y")]
    {
        let options = (FILE.parse_filename)(name).unwrap();
        assert_eq!(options.get_str("filename"), Some(path), "{name}");
    }
}

#[test]
fn reopening_moves_the_locks_and_the_right_to_write() {
    let dir = Dir::new();
    let path = dir.file("a", 512);
    let image = dir.open(&path, READ);
    let to = |writable| Reopen { writable: Some(writable), ..Reopen::default() };
    for writable in [true, false, true] {
        graph::reopen(dir.env(), image.node(), to(writable)).unwrap();
        let bytes: &[u64] = if writable { &[100, 101] } else { &[100] };
        assert_eq!(locked_bytes(&path), bytes.iter().copied().collect());
        assert_eq!(image.write(0, b"x").is_ok(), writable);
    }
    drop(image);
    assert!(locked_bytes(&path).is_empty());
}

#[test]
fn a_reopening_that_fails_changes_nothing() {
    let dir = Dir::new();
    let path = dir.file("a", 512);
    let image = dir.open(&path, READ);
    let before = locked_bytes(&path);
    let other = dir.open(&path, OpenFlags { withheld: Perm::CHANGES, ..READ });
    let change = || Reopen { writable: Some(true), ..Reopen::default() };
    let e = graph::reopen(dir.env(), image.node(), change()).unwrap_err();
    assert_eq!(e.to_string(), "Failed to get \"write\" lock");
    assert!(image.is_read_only());
    drop(other);
    assert_eq!(locked_bytes(&path), before);
    let options = Options::from_pairs([("locking", "off")]).unwrap();
    let e = graph::reopen(dir.env(), image.node(), Reopen { options, ..change() }).unwrap_err();
    assert_eq!(e.to_string(), "Cannot change the option 'locking'");
    assert!(image.is_read_only());
}

#[test]
fn a_file_that_lost_its_name_can_be_reopened() {
    let dir = Dir::new();
    let path = dir.file("a", 4096);
    let image = dir.open(&path, WRITE);
    std::fs::remove_file(&path).unwrap();
    let cache = Some(DIRECT);
    graph::reopen(dir.env(), image.node(), Reopen { cache, ..Reopen::default() }).unwrap();
    image.write(1, b"x").unwrap();
    let mut byte = [0; 2];
    image.read(0, &mut byte).unwrap();
    assert_eq!(byte, [1, b'x']);
}
