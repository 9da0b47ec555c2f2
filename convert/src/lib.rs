//! Converts trained models to `.whit`: import, rewrite, quantize, plan, emit.
#![forbid(unsafe_code)]

pub mod dim;
pub mod error;
pub mod graph;
pub mod import;
pub mod tensor;
