//! The engine over a driver in memory that has holes and fails where it is told to.

#![expect(clippy::single_range_in_vec_init, reason = "lists of ranges, often of one")]

use super::*;
use crate::node::{NodeFlags, NodeName};
use crate::{
    Child, Driver, IoVec, IoVecMut, Level, Limits, Mapping, Node, Result, Want, WriteCache, WriteFlags,
    ZeroFlags,
};
use std::sync::{Arc, Condvar, Mutex};

/// What happened to the driver, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Done {
    Write(u64, u64),
    Zero(u64, u64),
}

#[derive(Debug, Default)]
struct Scripted {
    bytes: Mutex<Vec<u8>>,
    holes: Vec<Range<u64>>,
    /// Offsets of sectors that cannot be read, and of those whose status cannot be had.
    bad_reads: Vec<u64>,
    bad_status: Vec<u64>,
    full_at: Option<u64>,
    log: Arc<Mutex<Vec<Done>>>,
}

impl Driver for Scripted {
    fn len(&self) -> Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn children(&self) -> Arc<[Child]> {
        Arc::default()
    }

    fn map(&self, at: u64, max: u64, _want: Want) -> Result<Mapping> {
        if self.bad_status.iter().any(|bad| (at..at + max).contains(bad)) {
            return Err(Error::from_errno(nix::libc::EIO));
        }
        let hole = self.holes.iter().find(|hole| hole.end > at);
        Ok(match hole {
            Some(hole) if hole.start <= at => Mapping::zero(max.min(hole.end - at)),
            Some(hole) => Mapping::data(max.min(hole.start - at)),
            None => Mapping::data(max),
        })
    }

    fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        let range = at..at + to.len() as u64;
        if self.bad_reads.iter().any(|bad| range.contains(bad)) {
            return Err(Error::from_errno(nix::libc::EIO));
        }
        to.copy_from_slice(&self.bytes.lock().unwrap()[range.start as usize..range.end as usize]);
        Ok(())
    }

    fn write(&self, at: u64, from: &IoVec<'_>, _flags: WriteFlags) -> Result<()> {
        let end = at + from.len() as u64;
        if self.full_at.is_some_and(|full| end > full) {
            return Err(Error::from_errno(nix::libc::ENOSPC));
        }
        self.log.lock().unwrap().push(Done::Write(at, from.len() as u64));
        from.copy_to_slice(&mut self.bytes.lock().unwrap()[at as usize..end as usize]);
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>, _flags: ZeroFlags) -> Result<()> {
        self.log.lock().unwrap().push(Done::Zero(range.start, range.end - range.start));
        self.bytes.lock().unwrap()[range.start as usize..range.end as usize].fill(0);
        Ok(())
    }

    fn flush(&self, _level: Level) -> Result<()> {
        Ok(())
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }
}

fn image(driver: impl Driver + 'static) -> Image {
    Image::new(Node::new(Box::new(driver), NodeName::default(), NodeFlags::default()), WriteCache::Back)
}

fn source(bytes: Vec<u8>, holes: Vec<Range<u64>>) -> Segment {
    let range = 0..bytes.len() as u64;
    Segment { image: image(Scripted { bytes: bytes.into(), holes, ..Scripted::default() }), range }
}

/// A target full of 0xAA, and its log.
fn target(len: u64) -> (Image, Arc<Mutex<Vec<Done>>>) {
    let driver = Scripted { bytes: vec![0xaa; len as usize].into(), ..Scripted::default() };
    let log = Arc::clone(&driver.log);
    (image(driver), log)
}

const PLAIN: CopyOptions = CopyOptions {
    workers: 1,
    order: Order::Any,
    sparse: 4096,
    target_is_zero: false,
    backing: None,
    backing_depth: 1,
    rate: None,
    salvage: false,
    compressed: None,
    offload: false,
};

fn contents(image: &Image) -> Vec<u8> {
    let mut bytes = vec![0; image.len().unwrap() as usize];
    image.read(0, &mut bytes).unwrap();
    bytes
}

/// Bytes that differ from sector to sector, none of them zero.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 512 % 255 + 1) as u8).collect()
}

#[derive(Default)]
struct Diary {
    advanced: Mutex<u64>,
    reads: Mutex<Vec<u64>>,
    statuses: Mutex<Vec<u64>>,
}

impl Observer for Diary {
    fn advance(&self, bytes: u64) {
        *self.advanced.lock().unwrap() += bytes;
    }
    fn status_failed(&self, at: u64, _error: &Error) {
        self.statuses.lock().unwrap().push(at);
    }
    fn read_failed(&self, at: u64, _error: &Error) {
        self.reads.lock().unwrap().push(at);
    }
}

#[test]
fn sources_follow_each_other_in_the_target_whatever_the_number_of_workers() {
    for (workers, order) in [(1, Order::Any), (4, Order::Any), (4, Order::Sequential)] {
        let (first, second) = (pattern((3 << 20) + 512), pattern(5 << 20));
        let sources = [source(first.clone(), vec![]), source(second.clone(), vec![])];
        let (to, log) = target((8 << 20) + 512);
        copy(&sources, &to, &CopyOptions { workers, order, ..PLAIN }, &Unobserved).unwrap();
        assert!(contents(&to) == [first, second].concat());
        if order == Order::Sequential {
            let log = log.lock().unwrap();
            assert!(log.is_sorted_by_key(|done| match done {
                Done::Write(at, _) | Done::Zero(at, _) => *at,
            }));
        }
    }
}

/// A driver that gives each write its place at once and writes when the next one has its place too.
#[derive(Debug, Default)]
struct Placing {
    len: u64,
    places: Arc<(Mutex<Vec<u64>>, Condvar)>,
}

impl Driver for Placing {
    fn len(&self) -> Result<u64> {
        Ok(self.len)
    }

    fn map(&self, _at: u64, max: u64, _want: Want) -> Result<Mapping> {
        Ok(Mapping::data(max))
    }

    fn read(&self, _at: u64, _to: &mut IoVecMut<'_>) -> Result<()> {
        unreachable!("it is a target")
    }

    fn write(&self, _at: u64, _from: &IoVec<'_>, _flags: WriteFlags) -> Result<()> {
        unreachable!("writes in turn say when they have their place")
    }

    fn write_placed(&self, at: u64, from: &IoVec<'_>, placed: &dyn Fn()) -> Result<()> {
        let (places, changed) = &*self.places;
        let mut places = places.lock().unwrap();
        places.push(at);
        let next = places.len() + 1;
        changed.notify_all();
        placed();
        if at + (from.len() as u64) < self.len {
            let (limit, alone) = (Duration::from_secs(60), |places: &mut Vec<u64>| places.len() < next);
            let (_places, waited) = changed.wait_timeout_while(places, limit, alone).unwrap();
            assert!(!waited.timed_out(), "the next write waits for the end of this one");
        }
        Ok(())
    }

    fn flush(&self, _level: Level) -> Result<()> {
        Ok(())
    }
}

#[test]
fn in_order_places_are_taken_one_after_the_other_while_earlier_writes_go_on() {
    let driver = Placing { len: 8 << 20, ..Placing::default() };
    let log = Arc::clone(&driver.places);
    let to = image(driver);
    let options = CopyOptions { workers: 4, order: Order::Sequential, ..PLAIN };
    copy(&[source(pattern(8 << 20), vec![])], &to, &options, &Unobserved).unwrap();
    let places = log.0.lock().unwrap();
    assert!(places.is_sorted() && places.len() == 8, "{places:?}");
}

#[test]
fn holes_and_runs_of_zeroes_become_zeroes_over_what_the_target_had() {
    let mut bytes = vec![0; 1 << 20];
    bytes[..100].fill(1);
    bytes[65536..65636].fill(2);
    let sources = [source(bytes.clone(), vec![131_072..1 << 20])];
    let (to, log) = target(1 << 20);
    copy(&sources, &to, &PLAIN, &Unobserved).unwrap();
    assert!(contents(&to) == bytes);
    let want = [
        Done::Write(0, 4096),
        Done::Zero(4096, 61440),
        Done::Write(65536, 4096),
        Done::Zero(69632, 61440),
        Done::Zero(131_072, (1 << 20) - 131_072),
    ];
    assert_eq!(*log.lock().unwrap(), want);
}

#[test]
fn zeroes_are_left_out_of_a_target_that_is_zero_and_written_when_everything_is() {
    let sources = [source(vec![0; 2 << 20], vec![1 << 20..2 << 20])];
    let (to, log) = target(2 << 20);
    copy(&sources, &to, &CopyOptions { target_is_zero: true, ..PLAIN }, &Unobserved).unwrap();
    assert_eq!(*log.lock().unwrap(), []);
    copy(&sources, &to, &CopyOptions { target_is_zero: true, sparse: 0, ..PLAIN }, &Unobserved).unwrap();
    assert_eq!(*log.lock().unwrap(), [Done::Write(0, 1 << 20), Done::Write(1 << 20, 1 << 20)]);
}

#[test]
fn progress_counts_what_is_copied_and_ends_at_the_work_foretold() {
    for sparse in [0, 4096] {
        let sources = [source(pattern(3 << 20), vec![1 << 20..2 << 20])];
        let options = CopyOptions { workers: 3, sparse, ..PLAIN };
        let diary = Diary::default();
        let work = work(&sources, &options, &diary).unwrap();
        assert_eq!(work, if sparse == 0 { 3 << 20 } else { 2 << 20 });
        let (to, _) = target(3 << 20);
        copy(&sources, &to, &options, &diary).unwrap();
        assert_eq!(*diary.advanced.lock().unwrap(), work);
    }
}

#[test]
fn what_the_backing_file_has_is_left_out_but_zeroes_over_it_are_written() {
    /// A layer that has only its second quarter, and zeroes in the third.
    #[derive(Debug)]
    struct Overlay(Arc<[Child]>);
    impl Driver for Overlay {
        fn len(&self) -> Result<u64> {
            Ok(4 << 20)
        }
        fn children(&self) -> Arc<[Child]> {
            Arc::clone(&self.0)
        }
        fn map(&self, at: u64, max: u64, _want: Want) -> Result<Mapping> {
            let mut mapping = Mapping::data(max.min((1 << 20) - at % (1 << 20)));
            mapping.kind = [crate::MapKind::Absent, crate::MapKind::Data, crate::MapKind::Zero]
                [(at >> 20).min(2) as usize];
            Ok(mapping)
        }
        fn read(&self, _at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
            to.fill(7);
            Ok(())
        }
        fn write(&self, _at: u64, _from: &IoVec<'_>, _flags: WriteFlags) -> Result<()> {
            Err(Error::from_errno(nix::libc::EPERM))
        }
        fn flush(&self, _level: Level) -> Result<()> {
            Ok(())
        }
    }
    let below = Child::new("backing", Arc::clone(source(vec![7; 4 << 20], vec![]).image.node()), false);
    let options = CopyOptions { backing: Some(3 << 20), target_is_zero: true, ..PLAIN };
    let written = [Done::Write(1 << 20, 1 << 20), Done::Zero(2 << 20, 1 << 20)];
    // What no layer of the source has reads as zeroes, and has to over the target's backing file.
    let without = [&[Done::Zero(0, 1 << 20)], &written[..]].concat();
    for (children, wanted) in [(vec![below], written.to_vec()), (vec![], without)] {
        let node = Node::new(Box::new(Overlay(children.into())), NodeName::default(), NodeFlags::default());
        let sources = [Segment { image: Image::new(node, WriteCache::Back), range: 0..4 << 20 }];
        let (to, log) = target(4 << 20);
        copy(&sources, &to, &options, &Unobserved).unwrap();
        assert_eq!(*log.lock().unwrap(), wanted);
    }
}

#[test]
fn a_failed_read_or_write_names_its_offset_in_the_whole() {
    let bad =
        Scripted { bytes: pattern(2 << 20).into(), bad_reads: vec![(1 << 20) + 512], ..Scripted::default() };
    let sources = [source(pattern(512), vec![]), Segment { image: image(bad), range: 0..2 << 20 }];
    let (to, _) = target((2 << 20) + 512);
    for workers in [1, 4] {
        let failed = copy(&sources, &to, &CopyOptions { workers, ..PLAIN }, &Unobserved);
        assert!(matches!(failed, Err(CopyError::Read(0x10_0000, _))), "{failed:?}");
    }
    let full =
        image(Scripted { bytes: vec![0; 4 << 20].into(), full_at: Some(3 << 20), ..Scripted::default() });
    for order in [Order::Any, Order::Sequential] {
        let options = CopyOptions { workers: 4, order, ..PLAIN };
        let failed = copy(&[source(pattern(4 << 20), vec![])], &full, &options, &Unobserved);
        assert!(matches!(failed, Err(CopyError::Write(0x30_0000, _))), "{failed:?}");
    }
}

#[test]
fn salvaging_loses_the_bad_sectors_and_nothing_else() {
    let bytes = pattern(4 << 20);
    let bad = Scripted {
        bytes: bytes.clone().into(),
        bad_reads: vec![1024, 2 << 20],
        bad_status: vec![8192, 3 << 20],
        ..Scripted::default()
    };
    let sources = [Segment { image: image(bad), range: 0..4 << 20 }];
    let (to, _) = target(4 << 20);
    let plain = copy(&sources, &to, &PLAIN, &Unobserved);
    assert!(matches!(plain, Err(CopyError::Status(0, _))), "{plain:?}");
    let diary = Diary::default();
    copy(&sources, &to, &CopyOptions { salvage: true, ..PLAIN }, &diary).unwrap();
    assert_eq!(*diary.statuses.lock().unwrap(), [8192, 3 << 20]);
    assert_eq!(*diary.reads.lock().unwrap(), [1024, 2 << 20]);
    let mut want = bytes;
    want[1024..1536].fill(0);
    want[2 << 20..(2 << 20) + 512].fill(0);
    assert!(contents(&to) == want);
}

#[test]
fn the_rate_spaces_chunks_out() {
    let mut throttle = Throttle::new(1 << 20);
    let start = throttle.next;
    assert_eq!(throttle.book(start, 1 << 20), Duration::ZERO);
    assert_eq!(throttle.book(start, 1 << 19), Duration::from_secs(1));
    let later = start + Duration::from_secs(5);
    assert_eq!(throttle.book(later, 1 << 20), Duration::ZERO, "time not used is not saved up");
    assert_eq!(throttle.book(later, 1 << 20), Duration::from_secs(1));
}
