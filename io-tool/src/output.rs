//! Reports: the texts in which the outcome of a request is told.

use std::ops::Range;
use std::time::Duration;

/// How a finished request is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Style {
    /// Two lines for people.
    #[default]
    Full,
    /// One line of comma-separated values.
    Csv,
    /// Nothing.
    Quiet,
}

impl Style {
    /// This style, unless quiet, with values for programs.
    pub(crate) fn csv(self) -> Self {
        if self == Style::Quiet { self } else { Style::Csv }
    }
}

/// A request that was carried out.
#[derive(Debug)]
pub(crate) struct Transfer {
    /// What was done: `read`, `wrote` or `discard`.
    pub(crate) verb: &'static str,
    /// Where, in bytes.
    pub(crate) offset: u64,
    /// How many bytes.
    pub(crate) bytes: u64,
    /// How long it took.
    pub(crate) elapsed: Duration,
}

impl Transfer {
    /// The report.
    pub(crate) fn report(&self, style: Style) -> String {
        let Transfer { verb, offset, bytes, elapsed } = self;
        let seconds = elapsed.as_secs_f64();
        let (rate, ops) = (*bytes as f64 / seconds, 1.0 / seconds);
        match style {
            Style::Quiet => String::new(),
            Style::Csv => format!("{bytes},1,{},{rate:.3},{ops:.3}\n", clock(*elapsed)),
            Style::Full => format!(
                "{verb} {bytes}/{bytes} bytes at offset {offset}\n{}, 1 ops; {} ({}/sec and {ops:.4} ops/sec)\n",
                size(*bytes),
                short_clock(*elapsed),
                scaled(rate)
            ),
        }
    }
}

/// What a read brought, and what is to be told about it.
#[derive(Debug)]
pub(crate) struct Received<'a> {
    /// The request.
    pub(crate) transfer: Transfer,
    /// The bytes.
    pub(crate) bytes: &'a [u8],
    /// The byte that part of them should be equal to.
    pub(crate) expected: Option<(u8, Range<usize>)>,
    /// Whether to print them.
    pub(crate) dump: bool,
    /// How to report.
    pub(crate) style: Style,
}

impl Received<'_> {
    /// What is said, and whether the bytes were as expected.
    pub(crate) fn report(&self) -> (String, bool) {
        let offset = self.transfer.offset;
        let wrong =
            self.expected.as_ref().filter(|(byte, part)| self.bytes[part.clone()].iter().any(|b| b != byte));
        let mut text = wrong.map_or_else(String::new, |(_, part)| {
            let (at, n) = (offset + part.start as u64, part.len());
            format!("Pattern verification failed at offset {at}, {n} bytes\n")
        });
        if self.dump && self.style != Style::Quiet {
            dump(offset, self.bytes, &mut text);
        }
        text.push_str(&self.transfer.report(self.style));
        (text, wrong.is_none())
    }
}

/// Sixteen bytes a line, in hexadecimal and as characters.
fn dump(offset: u64, bytes: &[u8], out: &mut String) {
    for (at, line) in (offset..).step_by(16).zip(bytes.chunks(16)) {
        let hex: String = line.iter().map(|byte| format!("{byte:02x} ")).collect();
        out.push_str(&format!("{at:08x}:  {hex} "));
        out.extend(line.iter().map(|&b| if b.is_ascii_alphanumeric() { char::from(b) } else { '.' }));
        out.push('\n');
    }
}

/// A number of bytes, with three decimals above 1 KiB if they say anything.
pub(crate) fn size(bytes: u64) -> String {
    scaled(bytes as f64)
}

fn scaled(value: f64) -> String {
    const UNITS: [(&str, u32); 6] =
        [("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let large = UNITS.iter().find(|(_, shift)| value >= (1u64 << shift) as f64);
    let (text, unit) = match large {
        Some((unit, shift)) => (format!("{:.3}", value / (1u64 << shift) as f64), *unit),
        None => (format!("{value:.6}"), "bytes"),
    };
    let zeroes = if large.is_some() { ".000" } else { ".000000" };
    format!("{} {unit}", text.strip_suffix(zeroes).unwrap_or(&text))
}

/// Hours, minutes, seconds and hundredths.
fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hours}:{minutes:02}:{seconds:02}.{:02}", elapsed.subsec_millis() / 10)
}

/// Seconds alone where it took less than one.
fn short_clock(elapsed: Duration) -> String {
    match elapsed.as_secs() {
        0 => format!("{:05.2} sec", f64::from(elapsed.subsec_millis() / 10) / 100.0),
        _ => clock(elapsed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_drop_decimals_that_say_nothing() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (1536, "1.500 KiB"),
            (126 << 20, "126 MiB"),
            (i64::MAX as u64, "8 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(scaled(528.761_171), "528.761171 bytes");
    }

    #[test]
    fn a_dump_shows_what_is_left_of_the_last_line() {
        let mut text = String::new();
        dump(5, b"abcdefghijklmnop~ 1", &mut text);
        let want = "00000005:  61 62 63 64 65 66 67 68 69 6a 6b 6c 6d 6e 6f 70  abcdefghijklmnop\n\
                    00000015:  7e 20 31  ..1\n";
        assert_eq!(text, want);
    }

    #[test]
    fn times_from_a_second_on_have_hours() {
        let transfer =
            |ms| Transfer { verb: "read", offset: 3, bytes: 512, elapsed: Duration::from_millis(ms) };
        let full = transfer(250).report(Style::Full);
        assert_eq!(
            full,
            "read 512/512 bytes at offset 3\n512 bytes, 1 ops; 00.25 sec (2 KiB/sec and 4.0000 ops/sec)\n"
        );
        assert_eq!(transfer(250).report(Style::Csv), "512,1,0:00:00.25,2048.000,4.000\n");
        assert!(transfer(3_725_040).report(Style::Full).contains("; 1:02:05.04 ("));
    }
}
