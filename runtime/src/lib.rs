//! Whit's runtime: opens a `.whit` file and runs it in place.
//!
//! [`Model::open`] validates a file's bytes, from a memory map ([`ModelFile`]) or from flash;
//! [`Session`] binds its steps to kernels and memory once; [`Session::run`] is a loop that
//! allocates nothing. Without the `std` feature the crate is `no_std` and takes a session's memory
//! from the caller.
#![cfg_attr(not(feature = "std"), no_std)]
// Unsafe code has a few addresses, allowed one by one below, in `format` and in `backend::cuda`.
#![deny(unsafe_code)]

mod backend;
mod dtype;
mod error;
pub mod format;
mod isa;
#[allow(unsafe_code, reason = "SIMD intrinsics and their pointers")]
pub mod kernels;
#[allow(unsafe_code, reason = "shares one block of memory between a step's operands")]
mod memory;
pub mod metrics;
#[cfg(feature = "std")]
#[allow(unsafe_code, reason = "mapping a file is unsafe")]
mod mmap;
mod model;
pub mod ops;
mod saved;
mod session;
mod tables;
#[cfg(feature = "std")]
#[allow(unsafe_code, reason = "lends a caller's closure and parts of its slices to other threads")]
mod threads;

pub use backend::Prepared;
#[cfg(any(feature = "cuda", feature = "cuda-emulation", all(test, feature = "std")))]
pub use backend::cuda;
pub use dtype::DType;
#[cfg(feature = "std")]
pub use error::DeviceError;
pub use error::{SessionError, StepErrorKind};
pub use isa::Isa;
pub use memory::{Context, Operands, Sink, Slot, Source};
#[cfg(feature = "std")]
pub use mmap::ModelFile;
pub use model::{MAX_DIMS, Model};
pub use saved::{RestoreError, SaveError};
#[cfg(feature = "std")]
pub use session::Precision;
pub use session::{Observed, Options, Probe, Session};
