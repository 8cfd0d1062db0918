//! Creating images, laid out as QEMU lays them out: header, backing file name, L1 table.

use super::header::{BYTES, Geometry, Header, MAX_BACKING_NAME};
use crate::encrypt;
use block::graph::{CreateCtx, CreateKind, CreateOption, CreateOptions, CreateRow};
use block::{Error, Resize, Result, SECTOR, ZeroFlags};
use secret::options::Size;
use serde::Deserialize;

/// How qcow images are created.
pub(super) static ROW: CreateRow = CreateRow { options: &OPTIONS, create, measure: None };

const fn option(name: &'static str, kind: CreateKind, help: &'static str) -> CreateOption {
    CreateOption { name, kind, help, default: None }
}

/// In the order in which `create` prints them.
static OPTIONS: [CreateOption; 7] = [
    option("size", CreateKind::Size, "Virtual disk size"),
    option("backing_file", CreateKind::Str, "File name of a base image"),
    option("backing_fmt", CreateKind::Str, "Format of the backing image"),
    option(
        "encryption",
        CreateKind::Bool,
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
    ),
    option("encrypt.format", CreateKind::Str, "Encrypt the image, format choices: 'aes'"),
    option("encrypt.key-secret", CreateKind::Str, "ID of the secret that provides the AES encryption key"),
    encrypt::LEGACY_WRITE,
];

/// The options as given.
#[derive(Debug, Deserialize)]
struct Given {
    size: Size,
    backing_file: Option<String>,
    #[serde(rename = "backing_fmt")]
    _backing_fmt: Option<String>,
    #[serde(default)]
    encryption: bool,
    encrypt: Option<encrypt::EncryptOptions>,
    #[serde(default, rename = "legacy-aes-write")]
    legacy_aes_write: bool,
}

fn create(ctx: &mut CreateCtx<'_>, options: &CreateOptions) -> Result<()> {
    let given: Given = options.parse()?;
    let encrypted = encrypted(ctx, &given)?;
    let size = given.size.0.next_multiple_of(SECTOR);
    if size == 0 {
        return Err(Error::invalid("Image size is too small, cannot be zero length"));
    }
    let name = given.backing_file.unwrap_or_default();
    let len = u32::try_from(name.len()).ok().filter(|len| *len <= MAX_BACKING_NAME);
    let len = len.ok_or_else(|| Error::invalid("Backing file name too long"))?;
    let header = Header {
        geometry: geometry(len > 0),
        size,
        encrypted,
        l1_offset: (BYTES as u64 + u64::from(len)).next_multiple_of(8),
        backing: if len > 0 { (BYTES as u64, len) } else { (0, 0) },
    };
    let l1 = header.geometry.l1_bytes(size).next_multiple_of(SECTOR);
    let file = ctx.create_file(0, options)?;
    // A device has its length already, and may hold anything.
    let fresh = file.len()? == 0;
    file.truncate(Resize { exact: false, ..Resize::to(header.l1_offset + l1) })?;
    if !fresh {
        file.write_zeroes(header.l1_offset..header.l1_offset + l1, ZeroFlags::empty())?;
    }
    file.write_all(BYTES as u64, name.as_bytes())?;
    // Last, so that what looks like an image is one.
    file.write_all(0, &header.to_bytes())?;
    file.node().close()
}

/// With a backing file, clusters are single sectors, so that nothing has to be copied around a write.
fn geometry(backed: bool) -> Geometry {
    match backed {
        true => Geometry { cluster_bits: 9, l2_bits: 12 },
        false => Geometry { cluster_bits: 12, l2_bits: 9 },
    }
}

/// Whether the image is to be encrypted, which takes more than asking for it.
fn encrypted(ctx: &CreateCtx<'_>, given: &Given) -> Result<bool> {
    let format = given.encrypt.as_ref().and_then(|e| e.format.as_deref());
    match (encrypt::legacy_switch(given.encryption, format)?, format) {
        (true, _) | (false, Some("aes")) => {}
        (false, Some("luks")) => return Err(Error::unsupported("Unsupported encryption format")),
        (false, Some(other)) => {
            return Err(Error::invalid(format!("Parameter 'format' does not accept value '{other}'")));
        }
        (false, None) if given.encrypt.is_some() => {
            return Err(Error::invalid("Parameter 'encrypt.format' is missing"));
        }
        (false, None) => return Ok(false),
    }
    encrypt::may_create(ctx.env, given.encrypt.as_ref(), given.legacy_aes_write)?;
    Ok(true)
}
