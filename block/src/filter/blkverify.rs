//! `blkverify`: an image and a raw copy of it, which must stay the same.
//!
//! Everything is done to both. Where they differ, in what is read or in what became of a request, the process ends on
//! the spot, so that both can be looked at as they are.

use super::diverged;
use crate::buffer::Buffer;
use crate::graph::{DriverKind, DriverRow, OpenCtx, ReopenCtx};
use crate::{
    Child, Driver, Error, IoVec, IoVecMut, Level, Limits, Mapping, Options, Result, Want, WriteFlags,
};
use serde::Deserialize;
use std::sync::Arc;

/// The `blkverify` driver.
pub static ROW: DriverRow = DriverRow {
    prefixes: &["blkverify"],
    parse_filename,
    filename,
    children: &["raw", "test"],
    ..DriverRow::new("blkverify", DriverKind::Protocol, open)
};

/// `blkverify:RAW:IMAGE`.
fn parse_filename(name: &str) -> Result<Options> {
    let Some(rest) = name.strip_prefix("blkverify:") else {
        return Options::from_pairs([("x-test", name)]);
    };
    let (raw, test) = rest
        .split_once(':')
        .ok_or_else(|| Error::invalid("blkverify requires raw copy and original image path"))?;
    Options::from_pairs([("x-raw", raw), ("x-test", test)])
}

fn filename(_: &Options, children: &[Child]) -> Option<String> {
    let name = |role| Some(&children.iter().find(|c| c.role() == role)?.node().name().filename);
    let (raw, test) = (name("raw")?, name("test")?);
    let plain = ![raw, test].iter().any(|name| name.starts_with("json:"));
    plain.then(|| format!("blkverify:{raw}:{test}"))
}

#[derive(Debug, Deserialize)]
struct NoOptions {}

#[derive(Debug)]
struct Blkverify {
    raw: Child,
    test: Child,
}

fn open(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    let perms = ctx.perms;
    let raw = ctx.child("raw", perms)?;
    let test = ctx.child("test", perms)?;
    let NoOptions {} = ctx.options()?;
    Ok(Box::new(Blkverify { raw, test }))
}

/// What the tool we replace calls the outcome of a request.
fn code(result: &Result<()>) -> i32 {
    result.as_ref().err().map_or(0, |e| -e.errno())
}

impl Blkverify {
    /// The outcome of a request that was made of both.
    fn same(&self, what: &str, at: u64, len: usize, test: Result<()>, raw: &Result<()>) -> Result<()> {
        let (a, b) = (code(&test), code(raw));
        if a != b {
            diverged(&format!("blkverify: {what} offset={at} bytes={len} return value mismatch {a} != {b}"));
        }
        test
    }
}

impl Driver for Blkverify {
    fn len(&self) -> Result<u64> {
        self.test.len()
    }

    fn limits(&self) -> Limits {
        Limits { memory_align: self.test.node().limits().memory_align, ..Limits::default() }
    }

    fn children(&self) -> Arc<[Child]> {
        Arc::from([self.test.clone(), self.raw.clone()])
    }

    fn map(&self, _at: u64, max: u64, _want: Want) -> Result<Mapping> {
        // Nobody may go past it to either of the two.
        Ok(Mapping::data(max))
    }

    fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        let mut copies = [Buffer::zeroed(to.len()), Buffer::zeroed(to.len())];
        let [test, raw] = &mut copies;
        let from_test = self.test.read_exact(at, test);
        let from_raw = self.raw.read_exact(at, raw);
        self.same("read", at, to.len(), from_test, &from_raw)?;
        if let Some(i) = (0..to.len()).find(|i| test[*i] != raw[*i]) {
            let (len, at_byte) = (to.len(), at + i as u64);
            diverged(&format!(
                "blkverify: read offset={at} bytes={len} contents mismatch at offset {at_byte}"
            ));
        }
        to.copy_from_slice(test);
        Ok(())
    }

    fn write(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags) -> Result<()> {
        let to_test = self.test.write(at, from, flags);
        let to_raw = self.raw.write(at, from, flags);
        self.same("write", at, from.len(), to_test, &to_raw)
    }

    fn flush(&self, level: Level) -> Result<()> {
        // The copy is only compared with: it need not last.
        self.test.flush(level)
    }

    fn reopen(&self, ctx: &mut ReopenCtx<'_>) -> Result<Box<dyn Driver>> {
        let NoOptions {} = ctx.options(&[])?;
        let perms = ctx.perms;
        Ok(Box::new(Blkverify { raw: ctx.child("raw", perms)?, test: ctx.child("test", perms)? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::memory::Memory;
    use crate::{Image, Node, NodeFlags, NodeName, WriteCache};

    #[test]
    fn both_copies_are_written_and_an_error_of_both_is_one_error() {
        let (raw, test) = (Memory::child(vec![1; 4096]), Memory::child(vec![1; 4096]));
        let driver = Blkverify { raw: raw.clone(), test };
        let node = Node::new(Box::new(driver), NodeName::default(), NodeFlags::default());
        let image = Image::new(node, WriteCache::Back);
        image.write(100, &[7; 1000]).unwrap();
        image.write_zeroes(0..10, crate::ZeroFlags::empty()).unwrap();
        let mut back = [0; 1200];
        image.read(0, &mut back).unwrap();
        assert_eq!((back[9], back[10], back[100], back[1100]), (0, 1, 7, 1));
        let mut copy = [0; 1200];
        raw.read_exact(0, &mut copy).unwrap();
        assert_eq!(copy, back);
    }

    #[test]
    fn a_file_name_is_the_copy_and_the_image() {
        let parse = |name| parse_filename(name).map(|o| serde_json::Value::Object(o.into_map()).to_string());
        assert_eq!(parse("blkverify:a.raw:b:c").unwrap(), r#"{"x-raw":"a.raw","x-test":"b:c"}"#);
        let error = parse("blkverify:a").unwrap_err().to_string();
        assert_eq!(error, "blkverify requires raw copy and original image path");
    }
}
