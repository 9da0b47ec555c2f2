//! What the images share: the model in flash, the session's memory, counted instructions, stack.
#![no_std]

pub mod counter;
#[cfg(feature = "monitor")]
pub mod field;
pub mod model;
pub mod stack;
mod vectors;
#[cfg(feature = "monitor")]
pub mod watched;

use whit::ops::Operator;

/// The operators of the models that this image runs; the linker drops all others.
pub static OPERATORS: &[&Operator] = include!(concat!(env!("OUT_DIR"), "/operators.rs"));

/// Bytes set aside for a session.
pub const MEMORY_BYTES: usize = if cfg!(feature = "microbit") {
    8 << 10 // of 16 KB of RAM; the rest is for the stack
} else {
    192 << 10 // twice what the largest of the MLPerf Tiny models takes
};

/// A session's memory, which it wants at a multiple of 64.
#[repr(align(64))]
pub struct Memory(pub [u8; MEMORY_BYTES]);
