//! Creating LUKS images, and the space they take.

use super::area::Area;
use super::calibrate;
use super::derive::Derivation;
use super::header::{DIGEST_BYTES, Digest, Header, Layout, Pbkdf2, SLOTS, Sectors, Slot};
use super::keyslot::VolumeKey;
use super::options::{self, NewImage, Version};
use super::secret as passphrase;
use super::v2;
use crate::crypto::kdf::MIN_ITERATIONS;
use block::graph::{CreateCtx, CreateOptions, CreateRow, Env, Measure, prealloc};
use block::{Child, Error, Image, Kind, Prealloc, Resize, Result, ZeroFlags};
use std::num::NonZeroU32;
use uuid::Builder;

/// How LUKS images are created.
pub(super) static ROW: CreateRow = CreateRow { options: &options::CREATE, create, measure: Some(measure) };

fn create(ctx: &mut CreateCtx<'_>, options: &CreateOptions) -> Result<()> {
    let new = NewImage::new(options)?;
    let secret = passphrase::find(ctx.env, Some(&new.key_secret))?;
    let plan = Plan::new(&new)?;
    let size = file_size(&new)?;
    let file = create_file(ctx, options, size, header_bytes(&new)?)?;
    // Only now: where there is no UTF-8, QEMU's suite expects a file that existed before to be gone.
    let passphrase = secret.as_utf8()?.as_bytes();
    let area = Area::new(file.clone(), 0);
    match plan {
        Plan::Luks1(cost) => create_luks1(&area, &new, &cost, passphrase)?,
        Plan::Luks2(derivation) => drop(v2::create::create(&area, &new, passphrase, derivation)?),
    }
    file.node().close()
}

/// What is found out about an image before anything is written.
enum Plan {
    Luks1(Cost),
    Luks2(Derivation),
}

impl Plan {
    fn new(new: &NewImage) -> Result<Self> {
        match new.version {
            Version::One => Cost::calibrate(new).map(Plan::Luks1),
            Version::Two => {
                v2::create::sector_size(new.luks2.sector_size, new.size)?;
                calibrate::luks2(new.hash, new.cipher.key_bytes(), &new.key).map(Plan::Luks2)
            }
        }
    }
}

/// Writes a header of version 1 and its first key slot to an area that reads as zeroes.
///
/// # Errors
/// The layer's below, or the system has no random numbers.
pub(super) fn create_luks1(area: &Area, new: &NewImage, cost: &Cost, passphrase: &[u8]) -> Result<()> {
    let key = VolumeKey::generate(new.cipher.key_bytes())?;
    let header = header(new, cost, &key)?;
    for slot in header.key_slots() {
        area.write(slot.at, &slot.seal(&key, passphrase)?)?;
    }
    // Last, so that what looks like an image is one.
    area.write(0, &header.to_bytes())
}

/// Iterations of the two key derivations that opening an image takes.
pub(super) struct Cost {
    slot: NonZeroU32,
    digest: NonZeroU32,
}

/// The digest takes this fraction of the time that a slot takes.
const DIGEST_SHARE: u64 = 8;

impl Cost {
    pub(super) fn calibrate(new: &NewImage) -> Result<Self> {
        let slot = calibrate::pbkdf2_iterations(new.hash, new.cipher.key_bytes(), &new.key)?;
        // Both are in proportion to the digest-sized blocks they make.
        let blocks = |bytes: usize| bytes.div_ceil(new.hash.digest_bytes()) as u64;
        let total = u64::from(slot.get()) * blocks(new.cipher.key_bytes());
        let digest = match new.key.iterations {
            Some(_) => 0,
            None => u32::try_from(total / blocks(DIGEST_BYTES) / DIGEST_SHARE).unwrap_or(u32::MAX),
        };
        Ok(Cost { slot, digest: NonZeroU32::new(digest).map_or(MIN_ITERATIONS, |n| n.max(MIN_ITERATIONS)) })
    }
}

/// Bytes from the start of the header to where the payload would begin.
fn header_bytes(new: &NewImage) -> Result<u64> {
    match new.version {
        Version::One => Ok(Layout::new(new.cipher.key_bytes()).end().bytes()),
        Version::Two => v2::create::Layout::new(&new.luks2).map(|layout| layout.end),
    }
}

/// Bytes of the file that holds the header, and the payload unless that is elsewhere.
fn file_size(new: &NewImage) -> Result<u64> {
    let payload = if new.detached { 0 } else { new.size };
    header_bytes(new)?.checked_add(payload).ok_or_else(|| {
        Error::new(Kind::NoSpace, "The requested file size is too large").with_errno(nix::libc::EFBIG)
    })
}

/// Makes the file under the image, with nothing but zeroes before the payload.
fn create_file(ctx: &mut CreateCtx<'_>, options: &CreateOptions, size: u64, header: u64) -> Result<Child> {
    let prealloc = match prealloc(options)? {
        // There are no tables to allocate.
        Prealloc::Metadata => Prealloc::Off,
        mode => mode,
    };
    let mut below = options.clone();
    if below.get("preallocation").is_some() {
        // What is to be allocated is only known when the file gets its length, which need not be whole sectors.
        below.set("preallocation", "off")?;
    }
    let file = ctx.create_file(0, &below)?;
    // A device has its length already, and may hold anything.
    let fresh = file.len()? == 0;
    file.truncate(Resize { size, prealloc, exact: false })?;
    if !fresh {
        file.write_zeroes(0..header, ZeroFlags::empty())?;
    }
    Ok(file)
}

fn header(new: &NewImage, cost: &Cost, key: &VolumeKey) -> Result<Header> {
    let layout = Layout::new(new.cipher.key_bytes());
    let digest = Digest::of(key, new.hash, Pbkdf2::new(cost.digest)?);
    let mut slots: [Slot; SLOTS] =
        std::array::from_fn(|index| Slot { pbkdf2: None, material: layout.material(index) });
    slots[0].pbkdf2 = Some(Pbkdf2::new(cost.slot)?);
    let uuid = match &new.luks2.uuid {
        Some(uuid) if uuid.len() < 40 => uuid.clone(),
        Some(uuid) => return Err(Error::invalid(format!("The uuid '{uuid}' is longer than 39 bytes"))),
        None => random_uuid()?,
    };
    Ok(Header {
        cipher: new.cipher,
        hash: new.hash,
        payload: if new.detached { Sectors(0) } else { layout.end() },
        digest,
        uuid,
        slots,
    })
}

/// A new UUID.
///
/// # Errors
/// The system has no random numbers.
pub(super) fn random_uuid() -> Result<String> {
    let mut uuid = [0; 16];
    super::random(&mut uuid)?;
    Ok(Builder::from_random_bytes(uuid).into_uuid().to_string())
}

fn measure(env: Env<'_>, options: &CreateOptions, source: Option<&Image>) -> Result<Measure> {
    let mut new = NewImage::new(options)?;
    passphrase::find(env, Some(&new.key_secret))?;
    if let Some(image) = source {
        new.size = image.len()?;
    }
    let bytes = file_size(&new)?;
    Ok(Measure { required: bytes, fully_allocated: bytes, bitmaps: None })
}
