//! The source of random numbers (section 5.4).

use super::Device;
use block::{Context, Result};
use std::fs::File;
use std::io::{self, Read};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_queue::{Reader, Writer};

/// The most a request gets; a device may give less than was asked.
const MAX_BYTES: u64 = 64 << 10;

/// See the module documentation.
#[derive(Debug)]
pub(in crate::kvm) struct Rng {
    source: File,
}

impl Rng {
    /// A source that takes its numbers from the system's.
    ///
    /// # Errors
    /// There is none.
    pub(in crate::kvm) fn new() -> Result<Self> {
        let source = File::open("/dev/urandom").context(|| "Could not open '/dev/urandom'")?;
        Ok(Rng { source })
    }
}

impl Device for Rng {
    fn name(&self) -> String {
        "virtio-rng".to_owned()
    }

    fn id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> &[u8] {
        &[]
    }

    fn serve(&mut self, _from: Reader<'_>, mut to: Writer<'_>) -> Result<u32> {
        let wanted = (to.available_bytes() as u64).min(MAX_BYTES);
        let given = io::copy(&mut (&self.source).take(wanted), &mut to)?;
        Ok(given.try_into().unwrap_or(0))
    }
}
