//! Creating LUKS1 images, and the space they take.

use super::header::{DIGEST_BYTES, Digest, Header, Layout, Pbkdf2, SLOTS, Sectors, Slot};
use super::keyslot::VolumeKey;
use super::options::{self, NewImage};
use super::secret as passphrase;
use crate::crypto::kdf::{MIN_ITERATIONS, Rate};
use block::graph::{CreateCtx, CreateOptions, CreateRow, Measure, prealloc};
use block::{Child, Error, Image, Kind, Prealloc, Resize, Result, ZeroFlags};
use std::num::NonZeroU32;
use std::time::Duration;
use uuid::Builder;

/// How LUKS images are created.
pub(super) static ROW: CreateRow = CreateRow { options: &options::CREATE, create, measure: Some(measure) };

fn create(ctx: &mut CreateCtx<'_>, options: &CreateOptions) -> Result<()> {
    let new = NewImage::new(options)?;
    let secret = passphrase::find(ctx.env, Some(&new.key_secret))?;
    let cost = Cost::calibrate(&new)?;
    let layout = Layout::new(new.cipher.key_bytes());
    let size = file_size(&new, layout)?;
    let file = create_file(ctx, options, size, layout)?;
    // Only now: where there is no UTF-8, QEMU's suite expects a file that existed before to be gone.
    let passphrase = secret.as_utf8()?.as_bytes();
    let key = VolumeKey::generate(new.cipher.key_bytes())?;
    let header = header(&new, layout, &cost, &key)?;
    for slot in header.key_slots() {
        file.write_all(slot.at, &slot.seal(&key, passphrase)?)?;
    }
    // Last, so that what looks like an image is one.
    file.write_all(0, &header.to_bytes())?;
    file.node().close()
}

/// Iterations of the two key derivations that opening an image takes.
struct Cost {
    slot: NonZeroU32,
    digest: NonZeroU32,
}

/// The longest the calibration takes; short iteration times are calibrated in a quarter of what they ask for.
const CALIBRATION: Duration = Duration::from_millis(200);

/// The digest takes this fraction of the time that a slot takes.
const DIGEST_SHARE: u32 = 8;

impl Cost {
    fn calibrate(new: &NewImage) -> Result<Self> {
        let rate = Rate::measure(new.hash, CALIBRATION.min(Duration::from_millis(new.iter_time / 4)))?;
        let slot = rate.iterations(new.cipher.key_bytes(), new.iter_time);
        if slot == NonZeroU32::MAX {
            let text = format!("PBKDF iterations larger than {}: Numerical result out of range", u32::MAX);
            return Err(Error::invalid(text).with_hint("The option iter-time counts milliseconds."));
        }
        let digest = NonZeroU32::new(rate.iterations(DIGEST_BYTES, new.iter_time).get() / DIGEST_SHARE);
        Ok(Cost { slot, digest: digest.map_or(MIN_ITERATIONS, |n| n.max(MIN_ITERATIONS)) })
    }
}

/// Bytes of the file that holds the header, and the payload unless that is elsewhere.
fn file_size(new: &NewImage, layout: Layout) -> Result<u64> {
    let payload = if new.detached { 0 } else { new.size };
    layout.end().bytes().checked_add(payload).ok_or_else(|| {
        Error::new(Kind::NoSpace, "The requested file size is too large").with_errno(nix::libc::EFBIG)
    })
}

/// Makes the file under the image, with nothing but zeroes before the payload.
fn create_file(ctx: &mut CreateCtx<'_>, options: &CreateOptions, size: u64, layout: Layout) -> Result<Child> {
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
        file.write_zeroes(0..layout.end().bytes(), ZeroFlags::empty())?;
    }
    Ok(file)
}

fn header(new: &NewImage, layout: Layout, cost: &Cost, key: &VolumeKey) -> Result<Header> {
    let digest = Digest::of(key, new.hash, Pbkdf2::new(cost.digest)?);
    let mut slots: [Slot; SLOTS] =
        std::array::from_fn(|index| Slot { pbkdf2: None, material: layout.material(index) });
    slots[0].pbkdf2 = Some(Pbkdf2::new(cost.slot)?);
    let mut uuid = [0; 16];
    super::random(&mut uuid)?;
    Ok(Header {
        cipher: new.cipher,
        hash: new.hash,
        payload: if new.detached { Sectors(0) } else { layout.end() },
        digest,
        uuid: Builder::from_random_bytes(uuid).into_uuid().to_string(),
        slots,
    })
}

fn measure(options: &CreateOptions, source: Option<&Image>) -> Result<Measure> {
    let mut new = NewImage::new(options)?;
    if let Some(image) = source {
        new.size = image.len()?;
    }
    let bytes = file_size(&new, Layout::new(new.cipher.key_bytes()))?;
    Ok(Measure { required: bytes, fully_allocated: bytes, bitmaps: None })
}
