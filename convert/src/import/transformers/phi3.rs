//! Phi-3: Llama with one module for queries, keys and values, and one for gates and values.

use super::Architecture;
use super::blocks::Blocks;
use super::decoder::{Decoder, LLAMA_NAMES, Names, ONE_ROPE};
use crate::error::ImportError;

/// By `model_type`.
pub(super) const ARCHITECTURES: &[(&str, Architecture)] = &[("phi3", phi3)];

const NAMES: Names =
    Names { qkv: &["self_attn.qkv_proj"], up: &["mlp.gate_up_proj"], ..LLAMA_NAMES };

fn phi3(blocks: &mut Blocks<'_>) -> Result<(), ImportError> {
    let mut decoder = Decoder::new(blocks, ONE_ROPE)?;
    decoder.names = NAMES;
    let window = blocks.config.optional_size("sliding_window")?;
    decoder.layers.iter_mut().for_each(|layer| layer.window = window);
    decoder.build(blocks)
}
