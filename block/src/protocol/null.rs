//! An image of nothing, for measuring what is above it: writes vanish, reads give zeroes.

use crate::graph::{DriverKind, DriverRow, OpenCtx, ReopenCtx};
use crate::{
    Child, Driver, Error, IoVec, IoVecMut, Level, Limits, MapKind, Mapping, Options, Result, Want, WriteFlags,
};
use secret::options::Size;
use serde::Deserialize;
use std::ops::Range;
use std::time::Duration;

const STRONG: [&str; 2] = ["size", "read-zeroes"];

/// The `null-co` driver.
pub static NULL_CO: DriverRow =
    row("null-co", &["null-co"], |name| parse_filename("null-co", name), |o, _| filename("null-co", o));

/// The `null-aio` driver, which is the same.
pub static NULL_AIO: DriverRow =
    row("null-aio", &["null-aio"], |name| parse_filename("null-aio", name), |o, _| filename("null-aio", o));

const fn row(
    name: &'static str,
    prefixes: &'static [&'static str],
    parse_filename: fn(&str) -> Result<Options>,
    filename: fn(&Options, &[Child]) -> Option<String>,
) -> DriverRow {
    DriverRow {
        prefixes,
        parse_filename,
        filename,
        strong_options: &STRONG,
        ..DriverRow::new(name, DriverKind::Protocol, open)
    }
}

fn parse_filename(driver: &str, name: &str) -> Result<Options> {
    if name == format!("{driver}://") {
        return Ok(Options::new());
    }
    Err(Error::invalid(format!("The only allowed filename for this driver is '{driver}://'")))
}

fn filename(driver: &str, options: &Options) -> Option<String> {
    let plain = STRONG.iter().all(|key| options.get(key).is_none());
    plain.then(|| format!("{driver}://"))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct NullOptions {
    size: Option<Size>,
    #[serde(default)]
    latency_ns: i64,
    #[serde(default)]
    read_zeroes: bool,
}

#[derive(Debug)]
struct Null {
    size: u64,
    latency: Duration,
    read_zeroes: bool,
}

fn open(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    Ok(Box::new(Null::new(&ctx.options()?)?))
}

impl Null {
    fn new(options: &NullOptions) -> Result<Self> {
        let latency =
            u64::try_from(options.latency_ns).map_err(|_| Error::invalid("latency-ns is invalid"))?;
        Ok(Null {
            size: options.size.map_or(1 << 30, |s| s.0),
            latency: Duration::from_nanos(latency),
            read_zeroes: options.read_zeroes,
        })
    }

    fn wait(&self) -> Result<()> {
        if !self.latency.is_zero() {
            std::thread::sleep(self.latency);
        }
        Ok(())
    }
}

impl Driver for Null {
    fn len(&self) -> Result<u64> {
        Ok(self.size)
    }

    fn limits(&self) -> Limits {
        Limits { write_flags: WriteFlags::FUA, ..Limits::default() }
    }

    fn map(&self, at: u64, max: u64, _want: Want) -> Result<Mapping> {
        let zero = Mapping::zero(max);
        Ok(if self.read_zeroes { zero.at(None, at) } else { Mapping { kind: MapKind::Absent, ..zero } })
    }

    fn read(&self, _at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        to.fill(0);
        self.wait()
    }

    fn write(&self, _at: u64, _from: &IoVec<'_>, _flags: WriteFlags) -> Result<()> {
        self.wait()
    }

    fn discard(&self, _range: Range<u64>) -> Result<()> {
        self.wait()
    }

    fn flush(&self, _level: Level) -> Result<()> {
        self.wait()
    }

    fn reopen(&self, ctx: &mut ReopenCtx<'_>) -> Result<Box<dyn Driver>> {
        Ok(Box::new(Null::new(&ctx.options(&[])?)?))
    }

    fn allocated(&self) -> Option<u64> {
        Some(0)
    }
}
