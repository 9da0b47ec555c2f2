//! The CUDA backend: a whole program on an NVIDIA GPU, one launch per run.
//!
//! [`Device::open`] takes a device, [`Session::new`] prepares a model for it, [`Session::run`] copies inputs in, replays
//! the program and copies outputs out. Integer programs give the bits of the CPU. Kernels are CUDA C++ (`kernels/`),
//! compiled by NVRTC for the device's architecture at first use and kept in a folder. The libraries of NVIDIA are
//! loaded when a device is asked for, so that a build with this backend starts everywhere.
//!
//! | file | what |
//! |---|---|
//! | `device.rs`, `session.rs` | what is public |
//! | `steps.rs`, `program/` | steps: checks, what is missing; steps → calls of kernels |
//! | `kernels.rs`, `arguments.rs`, `kernels/` | the table of kernels, their arguments; the kernels |
//! | `memory.rs` | constants, arena, state, staging |
//! | `driver.rs` | what is asked of a device |
//! | `nvidia.rs`, `compile.rs` | the CUDA driver; NVRTC and the folder of what it made |
//! | `emulation.rs` | the kernels compiled for the host, for tests |
//! | `recorder.rs` | records what a session asks for, and fails on demand, for tests |

mod arguments;
#[cfg(feature = "cuda")]
mod compile;
mod device;
mod driver;
#[cfg(any(test, feature = "cuda-emulation"))]
#[allow(unsafe_code, reason = "calls the kernels compiled for the host")]
mod emulation;
mod error;
#[cfg(test)]
mod kernel_tests;
mod kernels;
mod memory;
#[cfg(feature = "cuda")]
#[allow(unsafe_code, reason = "calls of the CUDA driver and of NVRTC")]
mod nvidia;
mod program;
#[cfg(test)]
mod recorder;
mod session;
#[cfg(test)]
mod session_tests;
mod steps;
#[cfg(test)]
pub(crate) mod tests;

pub use device::Device;
#[cfg(feature = "cuda")]
pub use device::devices;
pub use driver::Properties;
pub use error::{Error, MissingStep};
pub use session::{Options, Running, Session};
