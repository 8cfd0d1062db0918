//! Tests of what a node does for every driver, against a driver that accepts nothing but what its limits allow.

use super::*;
use crate::buffer::ALIGN;
use std::sync::{Mutex, PoisonError, RwLock};

/// A driver in memory that insists on its limits and remembers what it was asked.
#[derive(Debug)]
struct Strict {
    bytes: RwLock<Vec<u8>>,
    limits: Limits,
    zeroes: bool,
    log: Arc<Mutex<Vec<String>>>,
}

impl Strict {
    fn node(bytes: Vec<u8>, limits: Limits, zeroes: bool, flags: NodeFlags) -> (Arc<Node>, Log) {
        let log = Log::default();
        let driver = Strict { bytes: RwLock::new(bytes), limits, zeroes, log: Arc::clone(&log.0) };
        (Node::new(Box::new(driver), NodeName::default(), flags), log)
    }

    fn accept(&self, what: &str, range: Range<u64>) {
        let unit =
            if self.limits.discards_parts && what == "discard" { 1 } else { self.limits.request_align };
        let align = u64::from(unit);
        let Range { start, end } = range;
        assert!(
            start < end && start % align == 0 && end % align == 0,
            "{what} {start}..{end}, align {align}"
        );
        self.log.lock().unwrap().push(format!("{what} {start}..{end}"));
    }

    fn accept_transfer(&self, what: &str, at: u64, len: usize, aligned: bool) {
        assert!(aligned, "{what}: buffers not aligned");
        assert!(self.limits.max_transfer.is_none_or(|max| len as u64 <= max), "{what}: {len} bytes");
        self.accept(what, at..at + len as u64);
        // Others get their turn between the read and the write of a read-modify-write.
        std::thread::yield_now();
    }
}

#[derive(Debug, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Driver for Strict {
    fn len(&self) -> Result<u64> {
        Ok(self.bytes.read().unwrap().len() as u64)
    }

    fn limits(&self) -> Limits {
        self.limits.clone()
    }

    fn map(&self, at: u64, max: u64, _want: Want) -> Result<Mapping> {
        // Runs of 1000 bytes, data and zeroes in turns: they end inside of units.
        let left = 1000 - at % 1000;
        let run = if (at / 1000).is_multiple_of(2) { Mapping::data(left) } else { Mapping::zero(left) };
        let end = self.len()?;
        Ok(Mapping { len: left.min(max).min(end - at), ..run.at(None, at) })
    }

    fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        self.accept_transfer("read", at, to.len(), to.is_aligned(self.limits.memory_align as usize));
        let bytes = self.bytes.read().unwrap();
        let start = (at as usize).min(bytes.len());
        let inside = &bytes[start..bytes.len().min(start + to.len())];
        to.split_to(inside.len()).copy_from_slice(inside);
        to.fill(0);
        Ok(())
    }

    fn write(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags) -> Result<()> {
        let what = if flags.contains(WriteFlags::FUA) { "write-fua" } else { "write" };
        self.accept_transfer(what, at, from.len(), from.is_aligned(self.limits.memory_align as usize));
        let mut bytes = self.bytes.write().unwrap();
        let (start, end) = (at as usize, at as usize + from.len());
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        from.copy_to_slice(&mut bytes[start..end]);
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        if !self.zeroes {
            return Err(Error::from_errno(nix::libc::ENOTSUP));
        }
        let unmap = flags.contains(ZeroFlags::MAY_UNMAP);
        self.accept(if unmap { "unmap" } else { "zero" }, range.clone());
        self.bytes.write().unwrap()[range.start as usize..range.end as usize].fill(0);
        Ok(())
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.accept("discard", range.clone());
        self.bytes.write().unwrap()[range.start as usize..range.end as usize].fill(0);
        Ok(())
    }

    fn flush(&self, level: Level) -> Result<()> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(format!("flush {level:?}"));
        Ok(())
    }

    fn event(&self, event: Event) {
        if event.0.starts_with("pwritev_rmw") {
            self.log.lock().unwrap().push(event.0.to_owned());
        }
    }
}

fn limits(request: u32, memory: u32) -> Limits {
    Limits { request_align: request, memory_align: memory, ..Limits::default() }
}

fn write(node: &Node, at: u64, bytes: &[u8]) {
    node.write(at, &IoVec::from(bytes), WriteFlags::empty()).unwrap();
}

fn read(node: &Node, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xab; len];
    node.read(at, &mut IoVecMut::from(&mut *bytes)).unwrap();
    bytes
}

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

/// `bytes` as a vector of pieces of changing, mostly odd lengths.
fn pieces<'a>(bytes: &'a [u8], numbers: &mut Numbers) -> IoVec<'a> {
    let mut vector = IoVec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at((1 + numbers.below(3000) as usize).min(rest.len()));
        vector.push(piece);
        rest = tail;
    }
    vector
}

fn assert_same(found: &[u8], wanted: &[u8], at: u64) {
    let different = found.iter().zip(wanted).position(|(a, b)| a != b);
    assert_eq!(different.map(|i| (at + i as u64, found[i], wanted[i])), None, "(byte, found, wanted)");
}

fn random_operation(node: &Node, model: &mut [u8], discarding: u64, numbers: &mut Numbers) {
    let len = model.len() as u64;
    let start = numbers.below(len);
    let end = (start + 1 + numbers.below(20_000)).min(len);
    let range = start as usize..end as usize;
    let kind = numbers.below(6);
    match kind {
        0 | 1 => {
            let bytes: Vec<u8> = range.clone().map(|_| numbers.below(256) as u8).collect();
            let vector = pieces(&bytes, numbers);
            let flags = if kind == 0 { WriteFlags::FUA } else { WriteFlags::empty() };
            node.write(start, &vector, flags).unwrap();
            model[range].copy_from_slice(&bytes);
        }
        2 => {
            node.write_zeroes(start..end, ZeroFlags::MAY_UNMAP).unwrap();
            model[range].fill(0);
        }
        3 => {
            node.discard(start..end).unwrap();
            let inside = start.next_multiple_of(discarding)..end - end % discarding;
            if !inside.is_empty() {
                model[inside.start as usize..inside.end as usize].fill(0);
            }
        }
        _ => assert_same(&read(node, start, range.len()), &model[range], start),
    }
}

#[test]
fn any_requests_give_what_they_give_without_alignment() {
    let mut numbers = Numbers(1);
    for (align, memory) in [(1, 1), (512, 1), (512, 512), (4096, 512), (4096, 4096)] {
        for max_transfer in [None, Some(8192), Some(70_000)] {
            for (zeroes, write_flags) in [(false, WriteFlags::empty()), (true, WriteFlags::FUA)] {
                let limits = Limits { max_transfer, write_flags, ..limits(align, memory) };
                let flags = NodeFlags { discard: true, ..NodeFlags::default() };
                let mut model = vec![7; 100 * 4096];
                let (node, log) = Strict::node(model.clone(), limits, zeroes, flags);
                for _ in 0..150 {
                    random_operation(&node, &mut model, u64::from(align), &mut numbers);
                    log.take();
                }
                assert_same(&read(&node, 0, model.len()), &model, 0);
            }
        }
    }
}

#[test]
fn unaligned_writes_of_several_threads_into_the_same_units_lose_nothing() {
    const THREADS: u64 = 4;
    const STRIPE: u64 = 700;
    let (node, _log) = Strict::node(vec![0; 64 * 4096], limits(4096, 512), true, NodeFlags::default());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let node = &node;
            scope.spawn(move || {
                let stripes = node.len().unwrap() / STRIPE;
                for stripe in (0..stripes).filter(|s| s % THREADS == thread) {
                    // In two parts, the second as zeroes first: every stripe shares units with its neighbours'.
                    write(node, stripe * STRIPE, &[thread as u8 + 1; 300]);
                    node.write_zeroes(stripe * STRIPE + 300..(stripe + 1) * STRIPE, ZeroFlags::empty())
                        .unwrap();
                    write(node, stripe * STRIPE + 300, &[thread as u8 + 1; STRIPE as usize - 300]);
                }
            });
        }
    });
    let bytes = read(&node, 0, (node.len().unwrap() / STRIPE * STRIPE) as usize);
    for (i, byte) in bytes.iter().enumerate() {
        assert_eq!(u64::from(*byte), i as u64 / STRIPE % THREADS + 1, "byte {i}");
    }
}

#[test]
fn both_ends_of_a_short_write_come_from_one_read_and_those_of_a_long_one_from_two() {
    let (node, log) = Strict::node(vec![1; 10 * 512], limits(512, 1), true, NodeFlags::default());
    write(&node, 100, &[2; 600]);
    let events = ["pwritev_rmw_head", "pwritev_rmw_tail", "read 0..1024"];
    let after = ["pwritev_rmw_after_head", "pwritev_rmw_after_tail", "write 0..1024"];
    assert_eq!(log.take(), [events, after].concat());
    write(&node, 500, &[2; 2000]);
    let head = ["pwritev_rmw_head", "read 0..512", "pwritev_rmw_after_head"];
    let tail = ["pwritev_rmw_tail", "read 2048..2560", "pwritev_rmw_after_tail", "write 0..2560"];
    assert_eq!(log.take(), [&head[..], &tail[..]].concat());
    write(&node, 512, &[2; 100]);
    assert_eq!(
        log.take(),
        ["pwritev_rmw_tail", "read 512..1024", "pwritev_rmw_after_tail", "write 512..1024"]
    );
}

#[test]
fn aligned_requests_reach_the_driver_as_they_are() {
    let (node, log) = Strict::node(vec![1; 8 * 4096], limits(4096, ALIGN as u32), true, NodeFlags::default());
    let mut buffer = crate::buffer::Buffer::zeroed(2 * ALIGN);
    node.read(4096, &mut IoVecMut::from(&mut *buffer)).unwrap();
    write(&node, 8192, &buffer);
    assert_eq!(log.take(), ["read 4096..12288", "write 8192..16384"]);
}

#[test]
fn more_buffers_than_one_system_call_takes_are_gathered_where_alignment_matters() {
    let (node, log) = Strict::node(vec![1; 3 * 4096], limits(512, 1), true, NodeFlags::default());
    let bytes = [3; 2048];
    let mut vector = IoVec::new();
    bytes.chunks(1).for_each(|byte| vector.push(byte));
    node.write(512, &vector, WriteFlags::empty()).unwrap();
    assert_eq!(log.take(), ["write 512..2560"]);
    assert_eq!(read(&node, 0, 4096)[512..2560], bytes);
}

#[test]
fn force_unit_access_is_the_drivers_or_a_flush() {
    let fua = WriteFlags::FUA;
    let (node, log) = Strict::node(vec![1; 4096], limits(1, 1), true, NodeFlags::default());
    node.write(0, &IoVec::from(&[0; 3][..]), fua).unwrap();
    node.write_zeroes(0..7, ZeroFlags::FUA).unwrap();
    assert_eq!(log.take(), ["write 0..3", "flush Disk", "zero 0..7", "flush Disk"]);
    let native = Limits { write_flags: fua, ..limits(1, 1) };
    let (node, log) = Strict::node(vec![1; 4096], native, true, NodeFlags::default());
    node.write(0, &IoVec::from(&[0; 3][..]), fua).unwrap();
    assert_eq!(log.take(), ["write-fua 0..3"]);
}

#[test]
fn where_nothing_need_last_flushes_end_at_the_operating_system() {
    let careless = NodeFlags { no_flush: true, ..NodeFlags::default() };
    for write_flags in [WriteFlags::empty(), WriteFlags::FUA] {
        let limits = Limits { write_flags, ..limits(1, 1) };
        let (node, log) = Strict::node(vec![1; 4096], limits, true, careless);
        node.write(0, &IoVec::from(&[0; 3][..]), WriteFlags::FUA).unwrap();
        node.flush(Level::Disk).unwrap();
        node.close().unwrap();
        assert_eq!(log.take(), ["write 0..3", "flush Os", "flush Os"]);
    }
}

#[test]
fn zeroes_are_written_in_whole_units_with_at_most_two_reads() {
    let (node, log) = Strict::node(vec![1; 4 << 20], limits(512, 1), false, NodeFlags::default());
    node.write_zeroes(100..(3 << 20) + 100, ZeroFlags::empty()).unwrap();
    let asked = log.take();
    assert_eq!(asked.iter().filter(|line| line.starts_with("read")).count(), 2, "{asked:?}");
    assert_eq!(read(&node, 0, 101)[99..], [1, 0]);
    assert_eq!(read(&node, (3 << 20) + 99, 2), [0, 1]);
}

#[test]
fn zeroes_without_fallback_are_refused_unless_the_driver_makes_them() {
    let flags = ZeroFlags::NO_FALLBACK;
    let (without, _) = Strict::node(vec![1; 4096], limits(512, 1), false, NodeFlags::default());
    assert_eq!(without.write_zeroes(0..512, flags).unwrap_err().kind(), Kind::Unsupported);
    let (with, _) = Strict::node(vec![1; 4096], limits(512, 1), true, NodeFlags::default());
    assert_eq!(with.write_zeroes(0..100, flags).unwrap_err().kind(), Kind::Unsupported);
    with.write_zeroes(0..512, flags).unwrap();
    assert_eq!(read(&with, 0, 513)[511..], [0, 1]);
}

#[test]
fn written_zeroes_are_detected_as_asked() {
    for (detect_zeroes, discard, want) in [
        (DetectZeroes::Off, true, "write 0..512"),
        (DetectZeroes::On, true, "zero 0..512"),
        (DetectZeroes::Unmap, true, "unmap 0..512"),
    ] {
        let flags = NodeFlags { detect_zeroes, discard, ..NodeFlags::default() };
        let (node, log) = Strict::node(vec![1; 4096], limits(1, 1), true, flags);
        write(&node, 0, &[0; 512]);
        assert_eq!(log.take(), [want]);
    }
}

#[test]
fn only_whole_units_are_discarded_unless_the_driver_takes_parts_and_only_where_that_is_on() {
    let on = NodeFlags { discard: true, ..NodeFlags::default() };
    let (node, log) = Strict::node(vec![1; 4096], limits(512, 1), true, on);
    node.discard(100..1600).unwrap();
    node.discard(100..600).unwrap();
    assert_eq!(log.take(), ["discard 512..1536"]);
    let parts = Limits { discards_parts: true, ..limits(512, 1) };
    let (node, log) = Strict::node(vec![1; 4096], parts, true, on);
    node.discard(100..1600).unwrap();
    assert_eq!(log.take(), ["discard 100..1600"]);
    let (node, log) = Strict::node(vec![1; 4096], limits(512, 1), true, NodeFlags::default());
    node.discard(0..4096).unwrap();
    node.write_zeroes(0..512, ZeroFlags::MAY_UNMAP).unwrap();
    assert_eq!(log.take(), ["zero 0..512"]);
}

#[test]
fn the_last_sector_is_whole_and_zeroes_follow_it() {
    let (node, _log) = Strict::node(vec![1; 1000], limits(1, 1), true, NodeFlags::default());
    assert_eq!(node.len().unwrap(), 1024);
    assert_eq!(read(&node, 998, 100)[..4], [1, 1, 0, 0]);
    assert_eq!(read(&node, 5000, 2), [0, 0]);
}

#[test]
fn the_last_unit_may_be_partial_unless_somebody_writes_without_the_right_to_grow() {
    let (node, _log) = Strict::node(vec![1; 4096 + 512], limits(4096, 1), true, NodeFlags::default());
    assert_eq!(read(&node, 4096, 600)[511..513], [1, 0]);
    let permit = |own| node.permit(Perms { own, shared: Perm::all() });
    assert!(permit(Perm::READ).is_ok());
    assert!(permit(Perm::WRITE | Perm::RESIZE).is_ok());
    assert_eq!(
        permit(Perm::WRITE).unwrap_err().to_string(),
        "Cannot get 'write' permission without 'resize': Image size is not a multiple of request alignment"
    );
    write(&node, 4200, &[2; 10]);
    assert_eq!(read(&node, 4199, 12), [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1]);
}

#[test]
fn a_map_covers_what_was_asked_whatever_the_units() {
    let (node, _log) = Strict::node(vec![1; 8192], limits(512, 1), true, NodeFlags::default());
    let at = |at, max| {
        let mapping = node.map(at, max, Want::Exact).unwrap();
        (mapping.kind, mapping.len)
    };
    assert_eq!(at(0, 8192), (MapKind::Data, 1000));
    assert_eq!(at(100, 50), (MapKind::Data, 50));
    // The unit from 512 is data up to 1000 and zeroes from there.
    assert_eq!(at(900, 3000), (MapKind::Data, 100));
    assert_eq!(at(1000, 3000), (MapKind::Zero, 1000));
    assert_eq!(at(1024, 3000), (MapKind::Zero, 976));
    let mut covered = 0;
    while covered < 8192 {
        covered += at(covered, 8192).1;
    }
    assert_eq!(covered, 8192);
}

#[test]
fn the_rest_of_the_last_unit_is_what_its_beginning_is() {
    for (align, want) in [(512, (MapKind::Zero, 512)), (1, (MapKind::Zero, 476))] {
        let (node, _log) = Strict::node(vec![1; 1500], limits(align, 1), true, NodeFlags::default());
        let mapping = node.map(1024, 4096, Want::Exact).unwrap();
        assert_eq!((mapping.kind, mapping.len), want, "{align}");
    }
}

#[test]
fn closing_makes_the_lowest_layer_durable_unless_it_is_read_only() {
    let (node, log) = Strict::node(vec![1; 512], limits(1, 1), true, NodeFlags::default());
    node.close().unwrap();
    assert_eq!(log.take(), ["flush Disk"]);
    let flags = NodeFlags { read_only: true, ..NodeFlags::default() };
    let (node, log) = Strict::node(vec![1; 512], limits(1, 1), true, flags);
    node.close().unwrap();
    assert!(log.take().is_empty());
}
