//! What is served: exports and their meta contexts.

use super::super::wire::{BASE_ALLOCATION, MAX_PAYLOAD, TransmissionFlags};
use crate::bitmap::DirtyBitmap;
use crate::{Error, Image, Result};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Something about the blocks of an export that clients can ask for. Its place in [`Export::contexts`] is its id.
#[derive(Debug, Clone)]
pub enum MetaContext {
    /// `base:allocation`: what is stored, what reads as zeroes.
    Allocation,
    /// `qemu:allocation-depth`: which layer of a chain has it.
    AllocationDepth,
    /// `qemu:dirty-bitmap:NAME`: what was written since the bitmap was made or cleared.
    DirtyBitmap(Arc<DirtyBitmap>),
}

impl MetaContext {
    /// The name on the wire.
    pub fn name(&self) -> Cow<'static, str> {
        match self {
            MetaContext::Allocation => BASE_ALLOCATION.into(),
            MetaContext::AllocationDepth => "qemu:allocation-depth".into(),
            MetaContext::DirtyBitmap(bitmap) => format!("qemu:dirty-bitmap:{}", bitmap.name()).into(),
        }
    }
}

/// An image that is served under a name.
#[derive(Debug)]
pub struct Export {
    /// The name clients ask for.
    pub name: String,
    /// Text for people.
    pub description: Option<String>,
    /// The image.
    pub image: Image,
    /// What the image is, besides its bytes.
    pub contexts: Vec<MetaContext>,
    /// Several clients may use it at the same time.
    pub shared: bool,
    /// Clients are asked to align to this many bytes (a power of two), and told of nothing smaller.
    pub min_block: u32,
    base: u64,
    size: u64,
    read_only: bool,
}

impl Export {
    /// Serves `image` from byte `base` on under `name`, with `base:allocation` as its only context.
    ///
    /// # Errors
    /// The image does not tell its length, or ends before `base`.
    pub fn new(name: impl Into<String>, image: Image, base: u64) -> Result<Self> {
        let len = image.len()?;
        let size = len.checked_sub(base).ok_or_else(|| {
            let text = format!("Offset ({base}) cannot be greater than size of the containing file ({len})");
            Error::invalid(text)
        })?;
        let read_only = image.is_read_only();
        Ok(Export {
            name: name.into(),
            description: None,
            image,
            contexts: vec![MetaContext::Allocation],
            shared: false,
            min_block: 1,
            base,
            size,
            read_only,
        })
    }

    /// The length clients see, in bytes. It does not change while the image is served.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The context with that id.
    pub(super) fn context(&self, id: u32) -> Option<&MetaContext> {
        self.contexts.get(id as usize)
    }

    /// The contexts there are, with their ids.
    pub(super) fn numbered_contexts(&self) -> impl Iterator<Item = (u32, &MetaContext)> {
        (0..).zip(&self.contexts)
    }

    /// The bytes of the image that a range of the export is.
    pub(super) fn locate(&self, range: &Range<u64>) -> Range<u64> {
        range.start + self.base..range.end + self.base
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The flags every client sees; what depends on its negotiation is added there.
    pub fn flags(&self) -> TransmissionFlags {
        use TransmissionFlags as F;
        let mut flags = F::HAS_FLAGS | F::SEND_FLUSH | F::SEND_FUA | F::SEND_CACHE;
        if self.read_only {
            flags |= F::READ_ONLY;
        } else {
            flags |= F::SEND_TRIM | F::SEND_WRITE_ZEROES | F::SEND_FAST_ZERO;
        }
        // All connections share one image, so a flush on any covers the writes of all.
        flags.set(F::CAN_MULTI_CONN, self.shared);
        flags
    }

    /// Minimum, preferred and maximum block size in bytes.
    pub fn block_sizes(&self) -> [u32; 3] {
        let align = self.image.limits().request_align.max(self.min_block);
        // From an odd offset on, nothing is aligned for the client either.
        let min = if self.base.is_multiple_of(align.into()) { align } else { 1 };
        [min, min.max(4096), MAX_PAYLOAD]
    }
}

/// All exports of a server.
#[derive(Debug)]
pub struct Exports(pub Vec<Arc<Export>>);

impl Exports {
    /// The export of that name.
    pub fn find(&self, name: &str) -> Option<&Arc<Export>> {
        self.0.iter().find(|e| e.name == name)
    }
}
