//! ALBERT: narrow embeddings, and groups of layers that share their parameters.

use super::Architecture;
use super::bert::embeddings;
use super::blocks::Blocks;
use super::encoder::{self, Inputs, Layer, Sizes};
use super::pooling;
use crate::error::ImportError;

/// By `model_type`.
pub(super) const ARCHITECTURES: &[(&str, Architecture)] = &[("albert", albert)];

const LAYER: Layer<'_> = Layer {
    q: "attention.query",
    k: "attention.key",
    v: "attention.value",
    output: "attention.dense",
    attention_norm: "attention.LayerNorm",
    up: "ffn",
    down: "ffn_output",
    norm: "full_layer_layer_norm",
    activation: "hidden_act",
};

/// `AlbertModel`.
fn albert(blocks: &mut Blocks<'_>) -> Result<(), ImportError> {
    let config = blocks.config;
    let sizes = Sizes::new(config)?;
    blocks.find_prefix(&["", "albert."], "embeddings.word_embeddings.weight");
    encoder::note_head(blocks)?;
    let inputs = Inputs::add(blocks, &sizes, 0, true)?;
    let embedded = config.size_or("embedding_size", 128)?;
    let x = embeddings(blocks, &inputs, &sizes, embedded, None)?;
    let into = "encoder.embedding_hidden_mapping_in";
    let mut x = blocks.linear(x, into, embedded, sizes.width)?;
    let mask = inputs.additive_mask(blocks)?;
    let groups = config.size_or("num_hidden_groups", 1)?;
    let per_group = config.size_or("inner_group_num", 1)?;
    for at in 0..sizes.layers {
        let group = at as u64 * groups as u64 / sizes.layers as u64;
        for inner in 0..per_group {
            let layer = format!("encoder.albert_layer_groups.{group}.albert_layers.{inner}");
            x = encoder::layer(blocks, x, mask, &layer, &LAYER, &sizes)?;
        }
    }
    pooling::output(blocks, x, &inputs)
}
