//! A session's memory on a device: constants, arena and state as the file plans them, and the word in which
//! kernels leave an error.

use std::sync::Arc;

use super::driver::{Driver, Handle, Pinned};
use crate::error::DeviceError;
use crate::format::Storage;
use crate::memory::Place;

/// Memory of a device, given back when dropped.
pub(crate) struct Buffer {
    driver: Arc<dyn Driver>,
    address: u64,
    bytes: usize,
}

impl Buffer {
    /// At least one byte, so that the address is one.
    pub(crate) fn new(driver: &Arc<dyn Driver>, bytes: usize) -> Result<Buffer, DeviceError> {
        let address = driver.allocate(bytes.max(1))?;
        Ok(Buffer { driver: Arc::clone(driver), address, bytes })
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.driver.release(self.address);
    }
}

/// A stream, given back when dropped.
pub(crate) struct Stream {
    driver: Arc<dyn Driver>,
    pub(crate) handle: Handle,
}

impl Stream {
    pub(crate) fn new(driver: &Arc<dyn Driver>) -> Result<Stream, DeviceError> {
        Ok(Stream { driver: Arc::clone(driver), handle: driver.stream()? })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.driver.release_stream(self.handle);
    }
}

/// A graph, given back when dropped.
pub(crate) struct Graph {
    driver: Arc<dyn Driver>,
    pub(crate) handle: Handle,
}

impl Graph {
    pub(crate) fn new(driver: &Arc<dyn Driver>, handle: Handle) -> Graph {
        Graph { driver: Arc::clone(driver), handle }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.driver.release_graph(self.handle);
    }
}

/// Where the parts of a file's memory lie on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bases {
    pub(crate) constants: u64,
    pub(crate) arena: u64,
    pub(crate) state: u64,
    /// What the kernels of a step leave for each other.
    pub(crate) scratch: u64,
    /// A word: 0, or 1 plus the index of a step whose data were out of range.
    pub(crate) status: u64,
}

impl Bases {
    /// The address of a tensor.
    pub(crate) fn address(&self, place: &Place) -> u64 {
        let base = match place.storage {
            Storage::Constant => self.constants,
            Storage::Arena => self.arena,
            Storage::State => self.state,
        };
        base + place.offset as u64
    }
}

/// The memory of a session.
pub(crate) struct Memory {
    constants: Buffer,
    arena: Buffer,
    state: Buffer,
    scratch: Buffer,
    status: Buffer,
    /// Inputs, outputs, and the status, on the host.
    pub(crate) staging: Box<dyn Pinned>,
}

/// Bytes of the status.
pub(crate) const STATUS_BYTES: usize = 4;

impl Memory {
    pub(crate) fn new(
        driver: &Arc<dyn Driver>,
        constants: &[u8],
        arena_bytes: usize,
        state_bytes: usize,
        scratch_bytes: usize,
        staging_bytes: usize,
    ) -> Result<Memory, DeviceError> {
        let memory = Memory {
            constants: Buffer::new(driver, constants.len())?,
            arena: Buffer::new(driver, arena_bytes)?,
            state: Buffer::new(driver, state_bytes)?,
            scratch: Buffer::new(driver, scratch_bytes)?,
            status: Buffer::new(driver, STATUS_BYTES)?,
            staging: driver.pinned(staging_bytes)?,
        };
        driver.write(memory.constants.address(), constants)?;
        Ok(memory)
    }

    pub(crate) fn bases(&self) -> Bases {
        Bases {
            constants: self.constants.address(),
            arena: self.arena.address(),
            state: self.state.address(),
            scratch: self.scratch.address(),
            status: self.status.address(),
        }
    }

    /// Bytes on the device.
    pub(crate) fn device_bytes(&self) -> usize {
        let buffers = [&self.constants, &self.arena, &self.state, &self.scratch, &self.status];
        buffers.map(Buffer::bytes).iter().sum()
    }

    /// Bytes of scratch.
    pub(crate) fn scratch_bytes(&self) -> usize {
        self.scratch.bytes()
    }
}
