//! DistilBERT: BERT without segments, under names of its own.

use super::Architecture;
use super::blocks::Blocks;
use super::encoder::{self, Inputs, Layer, Sizes};
use super::pooling;
use crate::error::ImportError;

/// By `model_type`.
pub(super) const ARCHITECTURES: &[(&str, Architecture)] = &[("distilbert", distilbert)];

const LAYER: Layer<'_> = Layer {
    q: "attention.q_lin",
    k: "attention.k_lin",
    v: "attention.v_lin",
    output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    norm: "output_layer_norm",
    activation: "activation",
};

/// `DistilBertModel`.
fn distilbert(blocks: &mut Blocks<'_>) -> Result<(), ImportError> {
    let config = blocks.config;
    let sizes = Sizes {
        vocab: config.size("vocab_size")?,
        width: config.size("dim")?,
        layers: config.size("n_layers")?,
        heads: config.size("n_heads")?,
        inner: config.size("hidden_dim")?,
        positions: config.size("max_position_embeddings")?,
        epsilon: 1e-12,
    };
    let sizes = sizes.checked(config, "n_heads")?;
    blocks.find_prefix(&["", "distilbert."], "embeddings.word_embeddings.weight");
    encoder::note_head(blocks)?;
    let inputs = Inputs::add(blocks, &sizes, 0, false)?;
    let (words, width) = ((sizes.vocab, sizes.width), sizes.width);
    let x = blocks.embedding(inputs.ids, "embeddings.word_embeddings", words, 1.0)?;
    let table = (sizes.positions, width);
    let position = inputs.positions(blocks, "embeddings.position_embeddings", table)?;
    let x = blocks.at("embeddings", |c| c.add(x, position))?;
    let mut x = blocks.layer_norm(x, "embeddings.LayerNorm", sizes.epsilon)?;
    let mask = inputs.additive_mask(blocks)?;
    for at in 0..sizes.layers {
        x = encoder::layer(blocks, x, mask, &format!("transformer.layer.{at}"), &LAYER, &sizes)?;
    }
    pooling::output(blocks, x, &inputs)
}
