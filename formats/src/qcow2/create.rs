//! Creating images, laid out as QEMU lays them out: header, refcount table, refcount block, L1 table, in that order.

use super::crypt::{Encryption, NewEncryption, Wanted};
use super::features::{Autoclear, Compatible, Incompatible};
use super::geometry::Geometry;
use super::header::{CLUSTER_BITS, Compression, CryptMethod, Header, Table, Version};
use super::image::Qcow2;
use super::open::{self, Parts};
use crate::mapped::MappedFormat;
use block::graph::{CreateCtx, CreateKind, CreateOption, CreateOptions, CreateRow, Env};
use block::{Child, Context, Error, Level, Prealloc, Resize, Result, SECTOR};
use secret::options::Size;
use serde::Deserialize;

/// How qcow2 images are created.
pub(super) static ROW: CreateRow =
    CreateRow { options: &OPTIONS, create, measure: Some(super::measure::measure) };

const fn option(
    name: &'static str,
    kind: CreateKind,
    help: &'static str,
    default: Option<&'static str>,
) -> CreateOption {
    CreateOption { name, kind, help, default }
}

/// In the order in which `create` prints them.
static OPTIONS: [CreateOption; 23] = [
    option(
        "encryption",
        CreateKind::Bool,
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
        None,
    ),
    option("encrypt.format", CreateKind::Str, "Encrypt the image, format choices: 'aes', 'luks'", None),
    option(
        "encrypt.key-secret",
        CreateKind::Str,
        "ID of secret providing qcow AES key or LUKS passphrase",
        None,
    ),
    option("encrypt.cipher-alg", CreateKind::Str, "Name of encryption cipher algorithm", None),
    option("encrypt.cipher-mode", CreateKind::Str, "Name of encryption cipher mode", None),
    option("encrypt.ivgen-alg", CreateKind::Str, "Name of IV generator algorithm", None),
    option("encrypt.ivgen-hash-alg", CreateKind::Str, "Name of IV generator hash algorithm", None),
    option("encrypt.hash-alg", CreateKind::Str, "Name of encryption hash algorithm", None),
    option("encrypt.iter-time", CreateKind::Num, "Time to spend in PBKDF in milliseconds", None),
    option("cluster_size", CreateKind::Size, "qcow2 cluster size", Some("65536")),
    option("extended_l2", CreateKind::Bool, "Extended L2 tables", Some("off")),
    option(
        "preallocation",
        CreateKind::Str,
        "Preallocation mode (allowed values: off, metadata, falloc, full)",
        None,
    ),
    option(
        "compression_type",
        CreateKind::Str,
        "Compression method used for image cluster compression",
        Some("zlib"),
    ),
    option("size", CreateKind::Size, "Virtual disk size", None),
    option("compat", CreateKind::Str, "Compatibility level (v2 [0.10] or v3 [1.1])", None),
    option("backing_file", CreateKind::Str, "File name of a base image", None),
    option("backing_fmt", CreateKind::Str, "Image format of the base image", None),
    option("data_file", CreateKind::Str, "File name of an external data file", None),
    option("data_file_raw", CreateKind::Bool, "The external data file must stay valid as a raw image", None),
    option("lazy_refcounts", CreateKind::Bool, "Postpone refcount updates", Some("off")),
    option("refcount_bits", CreateKind::Num, "Width of a reference count entry in bits", Some("16")),
    // Not advertised: there is one version, and who asks for the other is told why not.
    option("encrypt.version", CreateKind::Num, "", None),
    crate::encrypt::LEGACY_WRITE,
];

/// The options as given.
#[derive(Debug, Deserialize)]
pub(super) struct Given {
    pub(super) size: Size,
    pub(super) cluster_size: Size,
    #[serde(default)]
    pub(super) extended_l2: bool,
    pub(super) compression_type: Option<String>,
    pub(super) compat: Option<String>,
    pub(super) backing_file: Option<String>,
    pub(super) backing_fmt: Option<String>,
    pub(super) data_file: Option<String>,
    #[serde(default)]
    pub(super) data_file_raw: bool,
    #[serde(default)]
    pub(super) encryption: bool,
    pub(super) encrypt: Option<serde_json::Value>,
    #[serde(default, rename = "legacy-aes-write")]
    pub(super) legacy_aes_write: bool,
    #[serde(default)]
    pub(super) lazy_refcounts: bool,
    pub(super) refcount_bits: u64,
    pub(super) preallocation: Option<String>,
}

/// What is to be created, checked.
#[derive(Debug)]
struct Plan {
    header: Header,
    size: u64,
    prealloc: Prealloc,
    data_file: Option<String>,
}

fn create(ctx: &mut CreateCtx<'_>, options: &CreateOptions) -> Result<()> {
    let mut given: Given = options.parse()?;
    let wanted = Wanted {
        encryption: given.encryption,
        encrypt: given.encrypt.take(),
        legacy_write: given.legacy_aes_write,
    };
    let mode = prealloc_mode(given.preallocation.as_deref())?;
    let plan = plan(given, mode)?;
    let encryption = wanted.plan(ctx.env)?;
    let file = ctx.create_file(0, &options.without("preallocation"))?;
    let data_file = match &plan.data_file {
        Some(name) => Some(ctx.create_other("data-file", name, 0)?),
        None => None,
    };
    lay_out(&file, &plan)?;
    fill(&file, data_file, plan, &encryption)
}

fn plan(given: Given, prealloc: Prealloc) -> Result<Plan> {
    let version = version(given.compat.as_deref())?;
    let geometry = geometry(&given, version)?;
    let compression = compression(given.compression_type.as_deref())?;
    check(&given, version, prealloc, compression)?;
    let mut incompatible = Incompatible::empty();
    incompatible.set(Incompatible::DATA_FILE, given.data_file.is_some());
    incompatible.set(Incompatible::COMPRESSION, compression != Compression::Zlib);
    incompatible.set(Incompatible::EXTENDED_L2, given.extended_l2);
    let mut compatible = Compatible::empty();
    compatible.set(Compatible::LAZY_REFCOUNTS, given.lazy_refcounts);
    let mut autoclear = Autoclear::empty();
    autoclear.set(Autoclear::RAW_DATA_FILE, given.data_file_raw);
    let mut header = Header {
        version,
        geometry,
        size: 0,
        crypt: CryptMethod::None,
        l1: Table { offset: 0, count: 0 },
        reftable: Table { offset: geometry.cluster_size(), count: 1 },
        snapshots: Table { offset: 0, count: 0 },
        incompatible,
        compatible,
        autoclear,
        compression,
        unknown_fields: Vec::new(),
        backing_file: given.backing_file,
        extensions: super::extension::Extensions::default(),
    };
    header.extensions.backing_format = given.backing_fmt;
    header.extensions.data_file.clone_from(&given.data_file);
    let raw = given.data_file_raw && prealloc == Prealloc::Off;
    Ok(Plan {
        header,
        size: given.size.0.next_multiple_of(SECTOR),
        prealloc: if raw { Prealloc::Metadata } else { prealloc },
        data_file: given.data_file,
    })
}

/// The version a compatibility level names.
pub(super) fn version(compat: Option<&str>) -> Result<Version> {
    match compat {
        Some("0.10" | "v2") => Ok(Version::V2),
        None | Some("1.1" | "v3") => Ok(Version::V3),
        Some(other) => Err(Error::invalid(format!("Parameter 'version' does not accept value '{other}'"))),
    }
}

pub(super) fn prealloc_mode(name: Option<&str>) -> Result<Prealloc> {
    let modes = [Prealloc::Off, Prealloc::Metadata, Prealloc::Falloc, Prealloc::Full];
    let name = name.unwrap_or("off");
    let found = modes.into_iter().find(|mode| mode.name() == name);
    found.ok_or_else(|| Error::invalid(format!("Parameter 'preallocation' does not accept value '{name}'")))
}

fn compression(name: Option<&str>) -> Result<Compression> {
    match name {
        None | Some("zlib") => Ok(Compression::Zlib),
        Some("zstd") => Ok(Compression::Zstd),
        Some(other) => {
            Err(Error::invalid(format!("Parameter 'compression-type' does not accept value '{other}'")))
        }
    }
}

pub(super) fn geometry(given: &Given, version: Version) -> Result<Geometry> {
    let size = given.cluster_size.0;
    let (least, most) = (1u64 << CLUSTER_BITS.start(), 1u64 << CLUSTER_BITS.end());
    if !size.is_power_of_two() || !(least..=most).contains(&size) {
        return Err(Error::invalid(format!(
            "Cluster size must be a power of two between {least} and {}k",
            most >> 10
        )));
    }
    if given.extended_l2 && version < Version::V3 {
        return Err(Error::invalid(
            "Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)",
        ));
    }
    if given.extended_l2 && size < 16384 {
        return Err(Error::invalid(
            "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
        ));
    }
    let refcount_order = refcount_order(given.refcount_bits)?;
    if version < Version::V3 && refcount_order != 4 {
        return Err(Error::invalid(
            "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)",
        ));
    }
    Ok(Geometry {
        cluster_bits: size.trailing_zeros(),
        extended_l2: given.extended_l2,
        refcount_order,
        data_file: given.data_file.is_some(),
    })
}

/// log2 of a refcount width in bits.
pub(super) fn refcount_order(bits: u64) -> Result<u32> {
    if bits > 64 || !bits.is_power_of_two() {
        return Err(Error::invalid("Refcount width must be a power of two and may not exceed 64 bits"));
    }
    Ok(bits.trailing_zeros())
}

/// Rules about which options go together.
fn check(given: &Given, version: Version, prealloc: Prealloc, compression: Compression) -> Result<()> {
    let v2 = version < Version::V3;
    let problem = if given.backing_file.is_some() && prealloc != Prealloc::Off && !given.extended_l2 {
        "Backing file and preallocation can only be used at the same time if extended_l2 is on"
    } else if given.backing_fmt.is_some() && given.backing_file.is_none() {
        "Backing format cannot be used without backing file"
    } else if v2 && given.lazy_refcounts {
        "Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)"
    } else if given.data_file_raw && given.data_file.is_none() {
        "data-file-raw requires data-file"
    } else if given.data_file_raw && given.backing_file.is_some() {
        "Backing file and data-file-raw cannot be used at the same time"
    } else if v2 && given.data_file.is_some() {
        "External data files are only supported with compatibility level 1.1 and above (use version=v3 or greater)"
    } else if v2 && compression != Compression::Zlib {
        "Non-zlib compression type is only supported with compatibility level 1.1 and above (use version=v3 or greater)"
    } else {
        return Ok(());
    };
    Err(Error::invalid(problem))
}

/// Bytes that the key slots of a new image take.
pub(super) fn key_area(env: Env<'_>, given: &Given) -> Result<u64> {
    let wanted = Wanted {
        encryption: given.encryption,
        encrypt: given.encrypt.clone(),
        legacy_write: given.legacy_aes_write,
    };
    wanted.key_area(env)
}

/// Writes the smallest valid image: a header, and a refcount table with one block that counts all three.
fn lay_out(file: &Child, plan: &Plan) -> Result<()> {
    let g = plan.header.geometry;
    let bare = Header {
        backing_file: None,
        extensions: super::extension::Extensions::default(),
        ..plan.header.clone()
    };
    file.write_all(0, &bare.to_bytes().context(|| "Could not write qcow2 header")?)?;
    let mut table = vec![0; g.cluster_len()];
    table[..8].copy_from_slice(&(2 * g.cluster_size()).to_be_bytes());
    file.write_all(g.cluster_size(), &table)?;
    file.write_all(2 * g.cluster_size(), &vec![0; g.cluster_len()])
}

/// Opens the smallest image and makes it what was asked for.
fn fill(file: &Child, data_file: Option<Child>, plan: Plan, encryption: &NewEncryption<'_>) -> Result<()> {
    let parts = Parts {
        file: file.clone(),
        data_file,
        backing: None,
        encryption: Encryption::default(),
        writable: true,
        discard: false,
        checking: false,
        l2_cache: open::MAX_L2_CACHE,
    };
    let header = Header { backing_file: None, ..plan.header.clone() };
    let image = open::over(header, parts)?;
    image.lock().allocate(3)?;
    image.write_full_header(None)?;
    if plan.size > 0 {
        let to = Resize { size: plan.size, prealloc: plan.prealloc, exact: true };
        image.grow_new(to).map_err(|e| match e.errno() {
            nix::libc::EFBIG => Error::invalid(
                "The image size is too large for file format 'qcow2' (try using a larger cluster size)",
            ),
            _ => e.context("Could not resize image"),
        })?;
    }
    if plan.header.backing_file.is_some() {
        image.write_full_header(plan.header.backing_file)?;
    }
    image.encrypt_new(encryption)?;
    MappedFormat::close(&*image)?;
    file.flush(Level::Os)
}

impl Qcow2 {
    fn write_full_header(&self, backing: Option<String>) -> Result<()> {
        let mut meta = self.lock();
        meta.header.backing_file = backing;
        meta.write_header().context(|| "Could not update qcow2 header")
    }
}
