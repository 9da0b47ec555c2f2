//! Whit's runtime: opens a `.whit` file and runs it in place.
//!
//! [`Model::open`] validates a file's bytes, from a memory map ([`ModelFile`]) or from flash;
//! [`Session`] binds its steps to kernels and memory once; [`Session::run`] is a loop that
//! allocates nothing. Without the `std` feature the crate is `no_std` and takes a session's memory
//! from the caller.
#![cfg_attr(not(feature = "std"), no_std)]

mod dtype;
mod error;
pub mod format;
mod isa;
pub mod kernels;
mod memory;
#[cfg(feature = "std")]
mod mmap;
mod model;
pub mod ops;
mod session;

pub use dtype::DType;
pub use error::{SessionError, StepErrorKind};
pub use isa::Isa;
pub use memory::{Context, Operands, Sink, Slot, Source};
#[cfg(feature = "std")]
pub use mmap::ModelFile;
pub use model::{MAX_DIMS, Model};
pub use session::{Observed, Options, Session};
