//! The device, its queue, and what each request does.

use std::ops::Range;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_MEM;
use vm_memory::{GuestAddress, GuestMemory, Permissions};

use super::blocks::Blocks;
use super::control::MemControl;
use super::metrics::Metrics;
use super::options::{MemOptions, RegionError};
use super::plugged::Plugged;
use super::request::{self, BlockState, Request, Response};
use super::state::{RestoreError, State};
use crate::virtio::{Broken, Buffers, Device, DeviceMemory, Guest};

const QUEUE_SIZES: [u16; 1] = [128];
/// The feature that the guest leaves unplugged memory alone, reads included.
const UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;

/// A virtio-mem.
pub struct Mem {
    memory: Arc<dyn DeviceMemory>,
    blocks: Box<dyn Blocks>,
    options: MemOptions,
    control: MemControl,
    plugged: Plugged,
    metrics: Metrics,
}

impl Mem {
    /// Memory of which nothing is plugged yet, and the handle on it. The region is RAM to `memory`, but the guest
    /// cannot touch it: that is what `blocks` is told about.
    ///
    /// # Errors
    ///
    /// Options that cannot be.
    pub fn new(
        memory: Arc<dyn DeviceMemory>,
        blocks: Box<dyn Blocks>,
        options: MemOptions,
    ) -> Result<(Self, MemControl), RegionError> {
        let MemOptions {
            addr,
            region_size: size,
            block_size: block,
            requested,
        } = options;
        if !block.is_power_of_two() || block < 4096 {
            return Err(RegionError::BlockSize(block));
        }
        if size == 0 || !addr.is_multiple_of(block) || !size.is_multiple_of(block) {
            return Err(RegionError::NotBlocks { addr, size, block });
        }
        let access = Permissions::ReadWrite;
        if !memory
            .view()
            .check_range(GuestAddress(addr), size as usize, access)
        {
            return Err(RegionError::NotRam { addr, size });
        }
        let control = MemControl::new(size, block);
        control.set_requested_bytes(requested)?;
        let mem = Self {
            memory,
            blocks,
            options,
            control: control.clone(),
            plugged: Plugged::none_of((size / block) as usize),
            metrics: Metrics::default(),
        };
        Ok((mem, control))
    }

    /// What a snapshot needs.
    pub fn state(&self) -> State {
        let sizes = *self.control.lock();
        State {
            addr: self.options.addr,
            region_size: self.options.region_size,
            block_size: self.options.block_size,
            requested: sizes.requested,
            usable: sizes.usable,
            plugged: self.plugged.clone(),
        }
    }

    /// Goes on where another device was when it was saved: plugs the same blocks.
    ///
    /// # Errors
    ///
    /// A snapshot of something else, or a block that the monitor refuses; the device is of no use then.
    pub fn restore(&mut self, state: &State) -> Result<(), RestoreError> {
        let region = |addr, size, block| format!("{size:#x} bytes at {addr:#x} by {block:#x}");
        let options = &self.options;
        let found = region(state.addr, state.region_size, state.block_size);
        let expected = region(options.addr, options.region_size, options.block_size);
        if found != expected {
            return Err(RestoreError::OtherRegion { found, expected });
        }
        let blocks = (options.region_size / options.block_size) as usize;
        let usable = state.usable / options.block_size;
        if !state.plugged.fits(blocks) || state.plugged.any(usable as usize..blocks) {
            return Err(RestoreError::Damaged);
        }
        self.control
            .set_requested_bytes(state.requested)
            .map_err(|_| RestoreError::Damaged)?;
        let mut from = 0;
        while let Some(run) = state.plugged.run(from) {
            from = run.end;
            let (gpa, len) = self.range(&run);
            self.blocks
                .plug(gpa, len)
                .map_err(|cause| RestoreError::Plug { gpa, len, cause })?;
        }
        self.plugged = state.plugged.clone();
        let mut sizes = self.control.lock();
        sizes.usable = state.usable.min(options.region_size);
        sizes.plugged = self.plugged.count() * options.block_size;
        Ok(())
    }

    /// Does what the driver asks for.
    fn serve(&mut self, request: Request) -> Response {
        match request {
            Request::Plug(blocks) => self.plug(blocks),
            Request::Unplug(blocks) => match self.usable(blocks) {
                Some(blocks) if self.plugged.all(blocks.clone()) => self.unplug(blocks),
                _ => Response::Error,
            },
            Request::UnplugAll => self.unplug_all(),
            Request::State(blocks) => match self.usable(blocks) {
                Some(blocks) => Response::State(self.state_of(blocks)),
                None => Response::Error,
            },
            Request::Unknown => Response::Error,
        }
    }

    fn plug(&mut self, blocks: request::Blocks) -> Response {
        let Some(blocks) = self.usable(blocks) else {
            return Response::Error;
        };
        if self.plugged.any(blocks.clone()) {
            return Response::Error;
        }
        let (gpa, len) = self.range(&blocks);
        // The request may shrink meanwhile; what counts is what it was when the driver asked.
        let sizes = *self.control.lock();
        if sizes.plugged + len > sizes.requested {
            return Response::Nack;
        }
        if self.blocks.plug(gpa, len).is_err() {
            return Response::Busy;
        }
        self.metrics.plugged_blocks += blocks.len() as u64;
        self.note(blocks, true);
        Response::Ack
    }

    /// Takes blocks away that are all plugged, and frees them.
    fn unplug(&mut self, blocks: Range<usize>) -> Response {
        let (gpa, len) = self.range(&blocks);
        if self.blocks.unplug(gpa, len).is_err() {
            return Response::Busy;
        }
        self.metrics.unplugged_blocks += blocks.len() as u64;
        match self.memory.free(gpa, len) {
            Ok(()) => self.metrics.freed_bytes += len,
            // Out of the guest's reach all the same.
            Err(_) => self.metrics.not_freed_bytes += len,
        }
        self.note(blocks, false);
        Response::Ack
    }

    /// Takes all blocks away. If one has to stay, those before it are gone, and the driver tries again.
    fn unplug_all(&mut self) -> Response {
        let mut from = 0;
        while let Some(run) = self.plugged.run(from) {
            from = run.end;
            let response = self.unplug(run);
            if response != Response::Ack {
                return response;
            }
        }
        self.control.shrink_usable();
        Response::Ack
    }

    fn state_of(&self, blocks: Range<usize>) -> BlockState {
        if self.plugged.all(blocks.clone()) {
            BlockState::Plugged
        } else if self.plugged.any(blocks) {
            BlockState::Mixed
        } else {
            BlockState::Unplugged
        }
    }

    fn note(&mut self, blocks: Range<usize>, plugged: bool) {
        self.plugged.set(blocks, plugged);
        self.control.lock().plugged = self.plugged.count() * self.options.block_size;
    }

    /// The blocks that a request names, if they are whole ones within the usable region.
    fn usable(&self, blocks: request::Blocks) -> Option<Range<usize>> {
        let size = self.options.block_size;
        let offset = blocks.addr.checked_sub(self.options.addr)?;
        let end = offset.checked_add(u64::from(blocks.count) * size)?;
        let fits = end <= self.control.lock().usable;
        (blocks.count > 0 && offset.is_multiple_of(size) && fits)
            .then(|| (offset / size) as usize..(end / size) as usize)
    }

    /// Guest-physical address and length of `blocks`, bytes.
    fn range(&self, blocks: &Range<usize>) -> (u64, u64) {
        let size = self.options.block_size;
        let gpa = self.options.addr + blocks.start as u64 * size;
        (gpa, blocks.len() as u64 * size)
    }

    /// Serves one request: how many bytes were answered.
    fn handle(&mut self, buffers: &Buffers, guest: &Guest<'_>) -> Result<u32, Broken> {
        let request = request::parse(&buffers.readable, guest.memory())?;
        let response = self.serve(request);
        match response {
            Response::Ack | Response::State(_) => self.metrics.acknowledged += 1,
            Response::Nack => self.metrics.too_much += 1,
            Response::Busy => self.metrics.busy += 1,
            Response::Error => self.metrics.errors += 1,
        }
        request::answer(&buffers.writable, guest.memory(), response)
    }
}

impl Device for Mem {
    fn id(&self) -> u32 {
        VIRTIO_ID_MEM
    }

    fn features(&self) -> u64 {
        UNPLUGGED_INACCESSIBLE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> Vec<u8> {
        let sizes = *self.control.lock();
        [
            self.options.block_size,
            // The node, and padding: there is one node.
            0,
            self.options.addr,
            self.options.region_size,
            sizes.usable,
            sizes.plugged,
            sizes.requested,
        ]
        .into_iter()
        .flat_map(u64::to_le_bytes)
        .collect()
    }

    fn start(&mut self, features: u64, _guest: &mut Guest<'_>) -> Result<(), Broken> {
        match features & UNPLUGGED_INACCESSIBLE {
            0 => Err(Broken("the driver wants to read unplugged memory".into())),
            _ => Ok(()),
        }
    }

    fn notified(&mut self, queue: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        let mut given_back = false;
        loop {
            let Some(chain) = guest.pop(queue)? else {
                match guest.enable_notification(queue)? {
                    true => continue,
                    false => break,
                }
            };
            let buffers = Buffers::of(chain)?;
            let written = self.handle(&buffers, guest)?;
            guest.give_back(queue, buffers.head, written)?;
            given_back = true;
        }
        if given_back {
            guest.signal(queue)?;
        }
        Ok(())
    }

    // A reset changes no block: the next driver unplugs all, if it likes.

    fn metrics(&self) -> serde_json::Value {
        serde_json::to_value(self.metrics).unwrap_or_default()
    }
}
