//! Comparing two images, several workers at once.
//!
//! Workers take pieces in order from one walk over the extents of both images. What is zeroes on both sides is not
//! read; what is on one side is only looked through for something else. Whatever the workers find, the finding with the
//! smallest offset is the answer, so it does not depend on who was faster.

use crate::buffer::{Buffer, is_zero};
use crate::copy::Observer;
use crate::extents::{Extent, Extents};
use crate::{Error, Image, Result, Want};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The longest piece a worker takes at once, in bytes: two of them stay in a core's cache until they are compared.
const CHUNK: u64 = 256 << 10;

/// The unit in which a difference is located, in bytes.
const UNIT: usize = 512;

/// How two images are compared.
#[derive(Debug, Clone, Copy)]
pub struct CompareOptions {
    /// How many workers at most.
    pub workers: usize,
    /// Also what the extents are must be the same, not only what they read as.
    pub strict: bool,
}

/// The first difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// The sector at this offset has other contents.
    Content(u64),
    /// From this offset on, one is stored in another way than the other.
    Status(u64),
}

/// One of the two images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first.
    First,
    /// The second.
    Second,
}

/// Why a comparison came to no end.
#[derive(Debug)]
pub enum CompareError {
    /// Finding out what an image is made of failed.
    Status(Side, Error),
    /// A read of an image failed at this offset.
    Read(Side, u64, Error),
}

/// Compares `range` of two images; an image that is `None` is all zeroes. Gives the first difference, if any.
///
/// # Errors
/// The failure that comes before any difference.
pub fn compare(
    images: [Option<&Image>; 2],
    range: Range<u64>,
    options: CompareOptions,
    observer: &dyn Observer,
) -> Result<Option<Difference>, CompareError> {
    let want = if options.strict { Want::Exact } else { Want::Zeroes };
    let extents = images.map(|image| image.map(|i| Extents::new(i.node(), range.clone(), want)));
    let walk =
        Walk { extents, current: [None, None], at: range.start, end: range.end, strict: options.strict };
    let job = Job { images, walk: Mutex::new(walk), found: Mutex::new(None), observer };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..options.workers.max(1)).map(|_| scope.spawn(|| job.run())).collect();
        job.run();
        for helper in helpers {
            helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    let found = job.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.map(|(_, what)| what).transpose()
}

/// What was found: a difference or a failure.
type Finding = Result<Difference, CompareError>;

/// What the workers share.
struct Job<'a> {
    images: [Option<&'a Image>; 2],
    walk: Mutex<Walk>,
    /// The finding with the smallest offset so far.
    found: Mutex<Option<(u64, Finding)>>,
    observer: &'a dyn Observer,
}

impl Job<'_> {
    fn run(&self) {
        let mut buffers = [Buffer::default(), Buffer::default()];
        loop {
            let step = lock(&self.walk).next();
            let (at, finding) = match step {
                Step::End => return,
                Step::Found(at, finding) => (at, Some(finding)),
                // Somebody found something before this piece.
                Step::Piece(piece) if self.has_found_before(piece.at) => return,
                Step::Piece(piece) => (piece.at, self.look(&piece, &mut buffers)),
            };
            if let Some(finding) = finding {
                return self.found(at, finding);
            }
        }
    }

    fn has_found_before(&self, at: u64) -> bool {
        lock(&self.found).as_ref().is_some_and(|(offset, _)| *offset < at)
    }

    fn found(&self, at: u64, finding: Finding) {
        let mut found = lock(&self.found);
        if found.as_ref().is_none_or(|(offset, _)| at < *offset) {
            *found = Some((at, finding));
        }
    }

    /// Reads what has to be read of a piece and compares.
    fn look(&self, piece: &Piece, buffers: &mut [Buffer; 2]) -> Option<Finding> {
        let len = usize::try_from(piece.len).unwrap_or(usize::MAX);
        for (i, side) in [Side::First, Side::Second].into_iter().enumerate() {
            let Some(image) = self.images[i].filter(|_| piece.data[i]) else { continue };
            if buffers[i].is_empty() {
                buffers[i] = Buffer::zeroed(CHUNK as usize);
            }
            if let Err(e) = image.read(piece.at, &mut buffers[i][..len]) {
                return Some(Err(CompareError::Read(side, piece.at, e)));
            }
        }
        let [first, second] = buffers;
        let unit = match piece.data {
            [true, true] => first_difference(&first[..len], &second[..len]),
            [true, false] => first_not_zero(&first[..len]),
            [false, true] => first_not_zero(&second[..len]),
            [false, false] => None,
        };
        if unit.is_none() {
            self.observer.advance(piece.len);
        }
        unit.map(|unit| Ok(Difference::Content(piece.at + (unit * UNIT) as u64)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first unit in which two equally long buffers differ.
fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    if a == b {
        return None;
    }
    a.chunks(UNIT).zip(b.chunks(UNIT)).position(|(a, b)| a != b)
}

fn first_not_zero(bytes: &[u8]) -> Option<usize> {
    if is_zero(bytes) {
        return None;
    }
    bytes.chunks(UNIT).position(|unit| !is_zero(unit))
}

/// A part of both images that is of one kind in each.
struct Piece {
    at: u64,
    len: u64,
    /// Which of them must be read.
    data: [bool; 2],
}

enum Step {
    Piece(Piece),
    Found(u64, Finding),
    End,
}

/// Goes through the extents of both images at once.
struct Walk {
    extents: [Option<Extents>; 2],
    /// The extents at the present offset.
    current: [Option<Extent>; 2],
    at: u64,
    end: u64,
    strict: bool,
}

impl Walk {
    fn next(&mut self) -> Step {
        let at = self.at;
        if at >= self.end {
            return Step::End;
        }
        let [first, second] = match self.advance() {
            Ok(both) => both,
            Err(e) => {
                self.at = self.end;
                return Step::Found(at, Err(e));
            }
        };
        if self.strict && first.status != second.status {
            self.at = self.end;
            return Step::Found(at, Ok(Difference::Status(at)));
        }
        let data = [first.data, second.data];
        let mut len = first.end.min(second.end).min(self.end) - at;
        if data != [false, false] {
            len = len.min(CHUNK - at % CHUNK);
        }
        self.at += len;
        Step::Piece(Piece { at, len, data })
    }

    /// What both images are at the present offset.
    fn advance(&mut self) -> Result<[Here; 2], CompareError> {
        Ok([self.here(0, Side::First)?, self.here(1, Side::Second)?])
    }

    fn here(&mut self, i: usize, side: Side) -> Result<Here, CompareError> {
        let Some(extents) = &mut self.extents[i] else { return Ok(Here::zeroes(self.end)) };
        let over = |extent: &Extent| extent.start + extent.len <= self.at;
        if self.current[i].as_ref().is_none_or(over) {
            self.current[i] = extents.next().transpose().map_err(|e| CompareError::Status(side, e))?;
        }
        Ok(self.current[i].as_ref().map_or(Here::zeroes(self.end), |extent| Here::new(extent, self.end)))
    }
}

/// What one image is at some offset.
#[derive(Debug, Clone, Copy)]
struct Here {
    /// Where the run ends.
    end: u64,
    /// It must be read.
    data: bool,
    /// What a strict comparison looks at: present, zero, data, compressed, with an offset in a file, up to the end.
    status: [bool; 6],
}

impl Here {
    fn new(extent: &Extent, image_end: u64) -> Self {
        let end = extent.start + extent.len;
        let Extent { present, zero, data, compressed, .. } = *extent;
        let status = [present, zero, data, compressed, extent.host.is_some(), end == image_end];
        Here { end, data: !zero, status }
    }

    fn zeroes(end: u64) -> Self {
        Here { end, data: false, status: [false, true, false, false, false, true] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::Unobserved;
    use crate::protocol::memory::Memory;
    use crate::{Limits, WriteCache};

    fn image(bytes: Vec<u8>) -> Image {
        Image::new(Memory::node(bytes, Limits::default()), WriteCache::Back)
    }

    fn found(a: Option<&Image>, b: Option<&Image>, len: u64) -> Option<Difference> {
        let mut answers = (1..4).map(|workers| {
            let options = CompareOptions { workers, strict: false };
            compare([a, b], 0..len, options, &Unobserved).unwrap()
        });
        let first = answers.next().unwrap();
        assert!(answers.all(|other| other == first), "the answer depends on the number of workers");
        first
    }

    #[test]
    fn the_first_differing_sector_is_found_whoever_looks() {
        let a = vec![7; 5 << 20];
        let same = image(a.clone());
        assert_eq!(found(Some(&image(a.clone())), Some(&same), 5 << 20), None);
        for differing in [vec![0], vec![(5 << 20) - 1], vec![3_000_000, 4_000_000, 2_222_222]] {
            let mut b = a.clone();
            differing.iter().for_each(|&i| b[i] = 8);
            let first = differing.into_iter().min().unwrap() as u64;
            let want = Some(Difference::Content(first - first % 512));
            assert_eq!(found(Some(&same), Some(&image(b)), 5 << 20), want);
        }
    }

    #[test]
    fn what_is_missing_compares_as_zeroes() {
        let mut bytes = vec![0; 3 << 20];
        assert_eq!(found(Some(&image(bytes.clone())), None, 3 << 20), None);
        bytes[2_000_000] = 1;
        let image = image(bytes);
        let want = Some(Difference::Content(2_000_000 - 2_000_000 % 512));
        assert_eq!(found(None, Some(&image), 3 << 20), want);
        assert_eq!(found(Some(&image), None, 2_000_000), None);
    }
}
