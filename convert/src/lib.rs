//! Converts trained models to `.whit`: import, rewrite, quantize, plan, emit.
#![forbid(unsafe_code)]

pub mod dim;
pub mod graph;
pub mod passes;
pub mod tensor;
