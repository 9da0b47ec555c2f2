//! Whit's runtime: opens a `.whit` file and runs it in place.
#![cfg_attr(not(feature = "std"), no_std)]
#![deny(clippy::undocumented_unsafe_blocks)]

pub mod dtype;
pub mod isa;
pub mod kernels;

pub use dtype::DType;
pub use isa::Isa;
