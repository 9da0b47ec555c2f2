//! What the backend asks of a device. Everything unsafe stands behind [`Driver`].
//!
//! Addresses are the device's: numbers here, never followed on the host. Implementations: `nvidia` over the CUDA
//! driver, `emulation` with the kernels compiled for the host, and in tests a recorder.

use super::error::Error;
use super::kernels::Kernel;
use crate::error::DeviceError;

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Its name.
    pub name: String,
    /// Major and minor number of its compute capability.
    pub architecture: [u32; 2],
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
}

/// A handle of a driver: a stream, a graph or a function.
pub(crate) type Handle = u64;

/// Memory of the host that a device reads and writes.
pub(crate) trait Pinned: Send + Sync {
    fn bytes(&self) -> &[u8];
    fn bytes_mut(&mut self) -> &mut [u8];
    /// As a command names it.
    fn address(&self) -> u64;
}

/// A call of a kernel.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) kernel: &'static Kernel,
    pub(crate) function: Handle,
    /// Blocks.
    pub(crate) grid: [u32; 3],
    /// The kernel's struct.
    pub(crate) arguments: Vec<u8>,
}

/// Work in the order of a stream.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    /// From pinned memory to the device.
    Upload {
        to: u64,
        from: u64,
        bytes: usize,
    },
    /// From the device to pinned memory.
    Download {
        to: u64,
        from: u64,
        bytes: usize,
    },
    /// From the device to the device.
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    /// Zeros.
    Clear {
        address: u64,
        bytes: usize,
    },
    Launch(Launch),
}

/// A device, or what stands for one.
pub(crate) trait Driver: Send + Sync {
    fn properties(&self) -> &Properties;
    /// Uninitialised memory at a multiple of 256.
    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError>;
    fn release(&self, address: u64);
    fn pinned(&self, bytes: usize) -> Result<Box<dyn Pinned>, DeviceError>;
    /// Copies to the device, and waits until it is done.
    fn write(&self, to: u64, bytes: &[u8]) -> Result<(), DeviceError>;
    /// Copies from the device, and waits until it is done.
    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError>;
    /// The function of a kernel; compiles its file at first use.
    fn function(&self, kernel: &'static Kernel) -> Result<Handle, Error>;
    fn stream(&self) -> Result<Handle, DeviceError>;
    fn release_stream(&self, stream: Handle);
    fn enqueue(&self, stream: Handle, command: &Command) -> Result<(), DeviceError>;
    /// From here on, what is enqueued is recorded instead of done.
    fn begin_capture(&self, stream: Handle) -> Result<(), DeviceError>;
    /// What was recorded, ready to be replayed.
    fn end_capture(&self, stream: Handle) -> Result<Handle, DeviceError>;
    fn replay(&self, stream: Handle, graph: Handle) -> Result<(), DeviceError>;
    fn release_graph(&self, graph: Handle);
    /// Waits until a stream's work is done; tells the first error of it.
    fn synchronize(&self, stream: Handle) -> Result<(), DeviceError>;
}
