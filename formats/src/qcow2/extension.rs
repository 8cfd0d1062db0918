//! Header extensions: what stands between the header and the backing file name.

use super::features;
use super::header::{CryptMethod, be32, be64};
use crate::field::place;
use block::{Error, Result};

const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const BITMAPS: u32 = 0x2385_2875;
const CRYPTO: u32 = 0x0537_be77;
const DATA_FILE: u32 = 0x4441_5441;

/// The longest backing format name there is room for, in bytes, plus one.
const MAX_FORMAT_NAME: usize = 16;

/// Where the encryption header is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CryptoHeader {
    /// Offset in the file.
    pub(super) offset: u64,
    /// Length in bytes.
    pub(super) len: u64,
}

/// Where the bitmap directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BitmapDirectory {
    /// How many bitmaps there are.
    pub(super) count: u32,
    /// Length of the directory in bytes.
    pub(super) size: u64,
    /// Offset in the file.
    pub(super) offset: u64,
}

/// What the header extensions say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Extensions {
    /// The format of the backing file.
    pub(super) backing_format: Option<String>,
    /// The name of the external data file.
    pub(super) data_file: Option<String>,
    /// Where the encryption header is.
    pub(super) crypto: Option<CryptoHeader>,
    /// The feature name table, as stored.
    pub(super) feature_names: Vec<u8>,
    /// Where the bitmap directory is.
    pub(super) bitmaps: Option<BitmapDirectory>,
    /// Extensions we do not know, in order.
    pub(super) unknown: Vec<(u32, Vec<u8>)>,
}

impl Extensions {
    /// Parses the extension area, `area`, which begins at offset `start` of the file and ends where the backing file name
    /// begins.
    ///
    /// # Errors
    /// An extension that does not fit, or whose contents make no sense.
    pub(super) fn parse(area: &[u8], start: usize, crypt: CryptMethod) -> Result<Self> {
        let mut found = Extensions::default();
        let mut rest = area;
        while !rest.is_empty() {
            let at = start + area.len() - rest.len();
            let (magic, len) = (be32(rest, 0), be32(rest, 4) as usize);
            let Some(data) = rest.get(8..).and_then(|data| data.get(..len)) else {
                let error = Error::corrupt("Header extension too large").with_errno(nix::libc::EINVAL);
                return Err(error.with_place(place("length of a header extension", at + 4)));
            };
            if magic == END {
                break;
            }
            let taken = found.take(magic, data, crypt);
            taken
                .map_err(|e| e.with_place(format!("The header extension is at offset {at} of the file.")))?;
            rest = rest[8..].get(len.next_multiple_of(8)..).unwrap_or_default();
        }
        Ok(found)
    }

    fn take(&mut self, magic: u32, data: &[u8], crypt: CryptMethod) -> Result<()> {
        let text = || String::from_utf8_lossy(data).into_owned();
        match magic {
            BACKING_FORMAT if data.len() >= MAX_FORMAT_NAME => {
                let len = data.len();
                return Err(Error::invalid(format!(
                    "ERROR: ext_backing_format: len={len} too large (>={MAX_FORMAT_NAME})"
                )));
            }
            BACKING_FORMAT => self.backing_format = Some(text()),
            DATA_FILE => self.data_file = Some(text()),
            FEATURE_NAMES => self.feature_names = data.to_vec(),
            CRYPTO => self.crypto = Some(parse_crypto(data, crypt)?),
            BITMAPS => self.bitmaps = Some(parse_bitmaps(data)?),
            other => self.unknown.push((other, data.to_vec())),
        }
        Ok(())
    }

    /// The extension area as written, end marker included.
    pub(super) fn to_bytes(&self, with_feature_names: bool) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(name) = &self.backing_format {
            push(&mut out, BACKING_FORMAT, name.as_bytes());
        }
        if let Some(name) = &self.data_file {
            push(&mut out, DATA_FILE, name.as_bytes());
        }
        if let Some(crypto) = self.crypto {
            push(&mut out, CRYPTO, &[crypto.offset.to_be_bytes(), crypto.len.to_be_bytes()].concat());
        }
        if with_feature_names {
            push(&mut out, FEATURE_NAMES, &features::name_table());
        }
        if let Some(bitmaps) = self.bitmaps {
            let count = u64::from(bitmaps.count) << 32;
            let fields = [count, bitmaps.size, bitmaps.offset].map(u64::to_be_bytes);
            push(&mut out, BITMAPS, &fields.concat());
        }
        self.unknown.iter().for_each(|(magic, data)| push(&mut out, *magic, data));
        push(&mut out, END, &[]);
        out
    }
}

fn push(out: &mut Vec<u8>, magic: u32, data: &[u8]) {
    out.extend(magic.to_be_bytes());
    out.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(data);
    out.resize(out.len().next_multiple_of(8), 0);
}

fn parse_crypto(data: &[u8], crypt: CryptMethod) -> Result<CryptoHeader> {
    if crypt != CryptMethod::Luks {
        return Err(Error::invalid("CRYPTO header extension only expected with LUKS encryption method"));
    }
    if data.len() != 16 {
        let len = data.len();
        return Err(Error::invalid(format!("CRYPTO header extension size {len}, but expected size 16")));
    }
    Ok(CryptoHeader { offset: be64(data, 0), len: be64(data, 8) })
}

fn parse_bitmaps(data: &[u8]) -> Result<BitmapDirectory> {
    const MAX_BITMAPS: u32 = 65535;
    const MAX_DIRECTORY: u64 = 1024 * MAX_BITMAPS as u64;
    if data.len() != 24 {
        return Err(Error::invalid("bitmaps_ext: Invalid extension length"));
    }
    let found = BitmapDirectory { count: be32(data, 0), size: be64(data, 8), offset: be64(data, 16) };
    let problem = match found {
        _ if be32(data, 4) != 0 => "bitmaps_ext: Reserved field is not zero".to_owned(),
        BitmapDirectory { count, .. } if count > MAX_BITMAPS => format!(
            "bitmaps_ext: image has {count} bitmaps, exceeding the QEMU supported maximum of {MAX_BITMAPS}"
        ),
        BitmapDirectory { count: 0, .. } => "found bitmaps extension with zero bitmaps".to_owned(),
        BitmapDirectory { size, .. } if size > MAX_DIRECTORY => format!(
            "bitmaps_ext: bitmap directory size ({size}) exceeds the maximum supported size ({MAX_DIRECTORY})"
        ),
        _ => return Ok(found),
    };
    Err(Error::invalid(problem))
}
