//! Converts trained models to `.whit`: import, rewrite, quantize, plan, emit.
#![forbid(unsafe_code)]

pub mod baseline;
pub mod dim;
pub mod dump;
pub mod emit;
pub mod error;
pub mod evaluate;
mod fixed_point;
pub mod graph;
pub mod import;
pub mod learn;
pub mod passes;
pub mod pipeline;
pub mod plan;
pub mod quantize;
pub mod statistics;
pub mod tensor;
