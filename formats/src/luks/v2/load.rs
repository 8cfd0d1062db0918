//! Reading the two copies of a LUKS2 header, choosing between them, and writing them again.
//!
//! A copy is good if its binary header is valid, the checksum over it and the JSON area is right, and the metadata in it
//! is valid. Of two good copies the one with the higher sequence id is the newer. The primary is written first and made
//! durable before the secondary is touched; so at any moment one of them is whole. A copy that is damaged is repaired
//! from the good one *before* a change, or a power cut in the change would leave none.

use super::binary::{BYTES, Binary, SIZES, Which};
use super::document::{self, Object};
use super::metadata::Metadata;
use crate::luks::area::Area;
use block::{Error, Result};

/// What became of one copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// As good as the other.
    Good,
    /// Older than the other.
    Stale,
    /// Cannot be used, for this reason.
    Damaged(String),
}

impl State {
    /// What a report says.
    pub(super) fn describe(&self) -> String {
        match self {
            State::Good => "good".to_owned(),
            State::Stale => "older than the other copy".to_owned(),
            State::Damaged(why) => format!("damaged: {why}"),
        }
    }
}

/// A valid header: the newest good copy.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(super) binary: Binary,
    pub(super) document: Object,
    pub(super) metadata: Metadata,
    /// Of the primary and of the secondary copy.
    pub(super) copies: [State; 2],
}

/// One copy.
struct Copy {
    binary: Binary,
    document: Object,
    metadata: Metadata,
}

impl Header {
    /// Reads the header that begins where `area` does.
    ///
    /// # Errors
    /// No copy is good: says what is wrong with the primary.
    pub(crate) fn read(area: &Area) -> Result<Self> {
        let primary = read_copy(area, Which::Primary, 0);
        let secondary = match &primary {
            Ok(copy) => read_copy(area, Which::Secondary, copy.binary.size),
            Err(_) => find_secondary(area),
        };
        choose(primary, secondary)
    }

    /// Whether both copies are as they should be.
    pub(crate) fn is_whole(&self) -> bool {
        self.copies == [State::Good, State::Good]
    }

    /// Writes what the good copy holds over one that is damaged or old.
    ///
    /// # Errors
    /// Those of the layer below.
    pub(crate) fn repair(&mut self, area: &Area) -> Result<()> {
        let text = self.document.to_text();
        for (index, which) in [Which::Primary, Which::Secondary].into_iter().enumerate() {
            if self.copies[index] != State::Good {
                write_copy(area, &self.binary, which, &text)?;
                self.copies[index] = State::Good;
            }
        }
        Ok(())
    }

    /// Writes the document, which was changed, to both copies.
    ///
    /// # Errors
    /// Those of the layer below, or it does not fit, or would not be valid; then nothing was written.
    pub(super) fn commit(&mut self, area: &Area, document: Object) -> Result<()> {
        let text = document.to_text();
        let mut binary = self.binary;
        binary.seqid += 1;
        let metadata = Metadata::parse(&document::parse(&text)?, &binary)?;
        check_room(&binary, &text)?;
        self.repair(area)?;
        write_copy(area, &binary, Which::Primary, &text)?;
        write_copy(area, &binary, Which::Secondary, &text)?;
        (self.binary, self.document, self.metadata) = (binary, document, metadata);
        Ok(())
    }

    /// Writes a header that was not there before, primary last: what looks like a header is one.
    ///
    /// # Errors
    /// Those of the layer below, or the metadata does not fit.
    pub(super) fn create(area: &Area, binary: Binary, document: Object) -> Result<Self> {
        let text = document.to_text();
        let metadata = Metadata::parse(&document::parse(&text)?, &binary)?;
        check_room(&binary, &text)?;
        write_copy(area, &binary, Which::Secondary, &text)?;
        write_copy(area, &binary, Which::Primary, &text)?;
        Ok(Header { binary, document, metadata, copies: [State::Good, State::Good] })
    }
}

pub(super) fn check_room(binary: &Binary, text: &str) -> Result<()> {
    // The text ends in a NUL.
    if text.len() as u64 >= binary.json_bytes() {
        let error = Error::invalid("The LUKS2 header has no room for more metadata");
        return Err(error.with_hint("Remove a key slot or a token first."));
    }
    Ok(())
}

pub(super) fn write_copy(area: &Area, binary: &Binary, which: Which, text: &str) -> Result<()> {
    let room = usize::try_from(binary.json_bytes()).expect("a header has at most 4 MiB");
    let mut json = text.as_bytes().to_vec();
    json.resize(room, 0);
    let mut copy = binary.to_bytes(which, &json)?;
    copy.append(&mut json);
    let at = if which == Which::Primary { 0 } else { binary.size };
    area.write(at, &copy)?;
    area.flush()
}

fn read_copy(area: &Area, which: Which, at: u64) -> Result<Copy> {
    let mut head = [0; BYTES];
    area.read(at, &mut head)?;
    let binary = Binary::parse(&head, which, at)?;
    if area.len()? < at + binary.size {
        return Err(Error::corrupt("the file ends in the middle of it"));
    }
    let mut json = vec![0; usize::try_from(binary.json_bytes()).expect("a header has at most 4 MiB")];
    area.read(at + BYTES as u64, &mut json)?;
    if !binary.verify(&head, &json) {
        return Err(Error::corrupt("the checksum is wrong"));
    }
    let text = metadata_text(&json)?;
    let metadata = Metadata::parse(&document::parse(text)?, &binary)?;
    Ok(Copy { binary, document: Object::parse(text)?, metadata })
}

/// The text in a JSON area: from the first byte to the first NUL, with nothing behind.
fn metadata_text(area: &[u8]) -> Result<&str> {
    let end = area.iter().position(|&byte| byte == 0);
    let end = end.ok_or_else(|| Error::corrupt("the metadata does not end in a NUL"))?;
    if area[end..].iter().any(|&byte| byte != 0) {
        return Err(Error::corrupt("there are bytes behind the metadata"));
    }
    let text = std::str::from_utf8(&area[..end]);
    let text = text.map_err(|_| Error::corrupt("the metadata is not UTF-8"))?;
    match text.starts_with('{') {
        true => Ok(text),
        false => Err(Error::corrupt("the metadata does not begin with an object")),
    }
}

/// The secondary copy of a header whose primary copy does not say where it is.
fn find_secondary(area: &Area) -> Result<Copy> {
    let mut found = Err(Error::corrupt("there is no LUKS2 header at any place where it could be"));
    for at in SIZES {
        let mut magic = [0; 8];
        area.read(at, &mut magic)?;
        if magic.starts_with(b"SKUL") {
            found = read_copy(area, Which::Secondary, at);
            if found.is_ok() {
                break;
            }
        }
    }
    found
}

fn choose(primary: Result<Copy>, secondary: Result<Copy>) -> Result<Header> {
    let damaged = |e: &Error| State::Damaged(e.to_string());
    match (primary, secondary) {
        (Ok(first), Ok(second)) if first.binary.seqid < second.binary.seqid => {
            Ok(second.chosen([State::Stale, State::Good]))
        }
        (Ok(first), Ok(second)) if first.binary.seqid > second.binary.seqid => {
            Ok(first.chosen([State::Good, State::Stale]))
        }
        (Ok(first), Ok(_)) => Ok(first.chosen([State::Good, State::Good])),
        (Ok(first), Err(e)) => Ok(first.chosen([State::Good, damaged(&e)])),
        (Err(e), Ok(second)) => Ok(second.chosen([damaged(&e), State::Good])),
        (Err(first), Err(second)) => Err(Error::corrupt(format!("The LUKS2 header cannot be used: {first}"))
            .with_hint(format!("Its {} copy cannot be used either: {second}", Which::Secondary.name()))),
    }
}

impl Copy {
    fn chosen(self, copies: [State; 2]) -> Header {
        let Copy { binary, document, metadata } = self;
        Header { binary, document, metadata, copies }
    }
}
