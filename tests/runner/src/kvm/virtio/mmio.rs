//! The registers of a device (section 4.2, version 2), and its queue.

use super::{Device, broken};
use crate::kvm::memory::Memory;
use block::{Context, Result};
use std::sync::Arc;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_DEVICE_FEATURES, VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DEVICE_ID,
    VIRTIO_MMIO_DRIVER_FEATURES, VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INT_VRING,
    VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_MAGIC_VALUE,
    VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_DESC_HIGH,
    VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_NUM_MAX,
    VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW,
    VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VERSION,
};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vmm_sys_util::eventfd::EventFd;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
/// The most requests in flight.
pub(super) const QUEUE_SIZE: u16 = 256;

/// See the module documentation.
#[derive(Debug)]
pub(in crate::kvm) struct Mmio {
    device: Box<dyn Device>,
    memory: Arc<Memory>,
    queue: Queue,
    interrupt: EventFd,
    interrupt_status: u32,
    status: u32,
    queue_selected: u32,
    device_features_selected: u32,
    driver_features_selected: u32,
    driver_features: u64,
}

impl Mmio {
    /// The registers of `device`, which says by `interrupt` that a request is done.
    ///
    /// # Errors
    /// None for a queue of this size.
    pub(in crate::kvm) fn new(
        device: Box<dyn Device>,
        memory: Arc<Memory>,
        interrupt: EventFd,
    ) -> Result<Self> {
        let queue = Queue::new(QUEUE_SIZE).map_err(broken)?;
        Ok(Mmio {
            device,
            memory,
            queue,
            interrupt,
            interrupt_status: 0,
            status: 0,
            queue_selected: 0,
            device_features_selected: 0,
            driver_features_selected: 0,
            driver_features: 0,
        })
    }

    /// The line of its interrupt.
    pub(in crate::kvm) fn interrupt(&self) -> &EventFd {
        &self.interrupt
    }

    /// Reads from `register` on.
    pub(in crate::kvm) fn read(&self, register: u64, data: &mut [u8]) {
        data.fill(0);
        match register.checked_sub(VIRTIO_MMIO_CONFIG.into()) {
            Some(at) => {
                let config = usize::try_from(at).ok().and_then(|at| self.device.config().get(at..));
                data.iter_mut().zip(config.unwrap_or_default()).for_each(|(to, from)| *to = *from);
            }
            // All other registers have 32 bits and are read whole.
            None if data.len() == 4 => data.copy_from_slice(&self.register(register).to_le_bytes()),
            None => {}
        }
    }

    fn register(&self, register: u64) -> u32 {
        match register.try_into().unwrap_or(u32::MAX) {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => 2,
            VIRTIO_MMIO_DEVICE_ID => self.device.id(),
            VIRTIO_MMIO_DEVICE_FEATURES => half(self.features(), self.device_features_selected),
            VIRTIO_MMIO_QUEUE_NUM_MAX if self.queue_selected == 0 => QUEUE_SIZE.into(),
            VIRTIO_MMIO_QUEUE_READY if self.queue_selected == 0 => self.queue.ready().into(),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt_status,
            VIRTIO_MMIO_STATUS => self.status,
            _ => 0,
        }
    }

    /// Writes to `register`.
    ///
    /// # Errors
    /// A ring that cannot be one, or a request that cannot be one.
    pub(in crate::kvm) fn write(&mut self, register: u64, data: &[u8]) -> Result<()> {
        // No device has configuration that can be written.
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else { return Ok(()) };
        match register.try_into().unwrap_or(u32::MAX) {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_selected = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_selected = value,
            VIRTIO_MMIO_DRIVER_FEATURES => {
                set_half(&mut self.driver_features, self.driver_features_selected, value);
            }
            VIRTIO_MMIO_QUEUE_SEL => self.queue_selected = value,
            VIRTIO_MMIO_QUEUE_NOTIFY if value == 0 => return self.notify().context(|| self.device.name()),
            VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt_status &= !value,
            VIRTIO_MMIO_STATUS => self.set_status(value),
            register if self.queue_selected == 0 => self.write_queue(register, value),
            _ => {}
        }
        Ok(())
    }

    fn write_queue(&mut self, register: u32, value: u32) {
        let queue = &mut self.queue;
        match register {
            VIRTIO_MMIO_QUEUE_READY => queue.set_ready(value == 1),
            // A queue that is in use keeps its place.
            _ if queue.ready() => {}
            // What is no size changes nothing.
            VIRTIO_MMIO_QUEUE_NUM => queue.set_size(value.try_into().unwrap_or(0)),
            VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    fn features(&self) -> u64 {
        self.device.features() | 1 << VIRTIO_F_VERSION_1
    }

    fn set_status(&mut self, status: u32) {
        self.status = status;
        if status == 0 {
            self.queue.reset();
            self.interrupt_status = 0;
            self.driver_features = 0;
        }
        let agreed = self.driver_features & !self.features() == 0
            && self.driver_features >> VIRTIO_F_VERSION_1 & 1 == 1;
        if !agreed {
            self.status &= !VIRTIO_CONFIG_S_FEATURES_OK;
        }
    }

    /// Serves the requests that are in the queue now. A driver notifies after each it adds, so none is forgotten.
    fn notify(&mut self) -> Result<()> {
        if self.status & VIRTIO_CONFIG_S_DRIVER_OK == 0 || !self.queue.ready() {
            return Ok(());
        }
        let memory = Arc::clone(&self.memory);
        if !self.queue.is_valid(&*memory) {
            return Err(broken("its queue is not inside the memory"));
        }
        let chains: Vec<_> = self.queue.iter(&*memory).map_err(broken)?.collect();
        if chains.is_empty() {
            return Ok(());
        }
        for chain in chains {
            let head = chain.head_index();
            let written = self.serve(chain)?;
            self.queue.add_used(&*memory, head, written).map_err(broken)?;
        }
        self.interrupt_status |= VIRTIO_MMIO_INT_VRING;
        // A counter of 64 bits, which does not run full even where nobody reads it.
        Ok(self.interrupt.write(1)?)
    }

    fn serve(&mut self, chain: DescriptorChain<&Memory>) -> Result<u32> {
        match chain.clone().last() {
            None => return Err(broken("a request has no buffers")),
            Some(last) if last.has_next() => {
                return Err(broken("the buffers of a request loop or are too long"));
            }
            Some(_) => {}
        }
        let from = chain.clone().reader(&self.memory).map_err(|_| outside())?;
        let to = chain.writer(&self.memory).map_err(|_| outside())?;
        self.device.serve(from, to)
    }
}

fn outside() -> block::Error {
    broken("a buffer is not inside the memory")
}

/// The low (0) or high (1) half; beyond, there is nothing.
fn half(value: u64, which: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    match which {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

fn set_half(value: &mut u64, which: u32, to: u32) {
    let (low, high) = (u64::from(half(*value, 0)), u64::from(half(*value, 1)));
    match which {
        0 => *value = high << 32 | u64::from(to),
        1 => *value = u64::from(to) << 32 | low,
        _ => {}
    }
}
