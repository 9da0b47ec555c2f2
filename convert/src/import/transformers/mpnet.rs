//! MPNet: no segments, positions counted behind that of padding, and scores biased by the distance of two tokens.

use super::Architecture;
use super::blocks::{Block, Blocks};
use super::encoder::{self, Inputs, Layer, Sizes};
use super::pooling;
use crate::dim::Dim;
use crate::error::ImportError;
use crate::graph::ValueId;

/// By `model_type`.
pub(super) const ARCHITECTURES: &[(&str, Architecture)] = &[("mpnet", mpnet)];

const LAYER: Layer<'_> = Layer {
    q: "attention.attn.q",
    k: "attention.attn.k",
    v: "attention.attn.v",
    output: "attention.attn.o",
    attention_norm: "attention.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    norm: "output.LayerNorm",
    activation: "hidden_act",
};

/// The number of the padding token, which Hugging Face's implementation fixes.
const PADDING: usize = 1;

/// Distances from here on share a bucket.
const MAX_DISTANCE: f64 = 128.0;

/// `MPNetModel`.
fn mpnet(blocks: &mut Blocks<'_>) -> Result<(), ImportError> {
    let config = blocks.config;
    let sizes = Sizes::new(config)?;
    blocks.find_prefix(&["", "mpnet."], "embeddings.word_embeddings.weight");
    encoder::note_head(blocks)?;
    let inputs = Inputs::add(blocks, &sizes, PADDING + 1, false)?;
    let (words, width) = ((sizes.vocab, sizes.width), sizes.width);
    let x = blocks.embedding(inputs.ids, "embeddings.word_embeddings", words, 1.0)?;
    let at = inputs.counted_positions(blocks, PADDING)?;
    let position =
        blocks.embedding(at, "embeddings.position_embeddings", (sizes.positions, width), 1.0)?;
    let x = blocks.at("embeddings", |c| c.add(x, position))?;
    let mut x = blocks.layer_norm(x, "embeddings.LayerNorm", sizes.epsilon)?;
    let mask = inputs.additive_mask(blocks)?;
    let bias = distance_bias(blocks, inputs.ids, sizes.heads)?;
    let mask = blocks.at("mask.biased", |c| c.add(mask, bias))?;
    for at in 0..sizes.layers {
        x = encoder::layer(blocks, x, mask, &format!("encoder.layer.{at}"), &LAYER, &sizes)?;
    }
    pooling::output(blocks, x, &inputs)
}

/// What is added to the scores of a query and a key by how far they are apart, `[1, heads, seq, seq]`.
fn distance_bias(blocks: &mut Blocks<'_>, ids: ValueId, heads: usize) -> Block {
    const TABLE: &str = "encoder.relative_attention_bias";
    let buckets = blocks.config.size_or("relative_attention_num_buckets", 32)?;
    let table = blocks.parameter(&format!("{TABLE}.weight"), &[buckets, heads])?;
    let seq = blocks.shape(ids)[1].clone();
    blocks.at(TABLE, |c| {
        let most = c.largest(&seq)?;
        let between = |at: usize| {
            let (query, key) = (at / most, at % most);
            bucket(key as i64 - query as i64, buckets as i64)
        };
        let of_pairs = c.ints("buckets", &[most, most], between)?;
        let first = Dim::from(0i64);
        let of_pairs = c.part_of(of_pairs, 0, &first, &seq)?;
        let of_pairs = c.part_of(of_pairs, 1, &first, &seq)?;
        let bias = c.gather(table, of_pairs, 0)?;
        let bias = c.transpose(bias, &[2, 0, 1])?;
        c.unsqueeze(bias, 0)
    })
}

/// Half of the buckets are for keys ahead; in each half, one for every small distance, then ever wider ones
/// (Raffel et al., "Exploring the Limits of Transfer Learning", 2020, section 2.1).
fn bucket(ahead: i64, buckets: i64) -> i64 {
    let half = buckets / 2;
    let base = if ahead > 0 { half } else { 0 };
    let (distance, exact) = (ahead.abs(), half / 2);
    if distance < exact {
        return base + distance;
    }
    let share = (distance as f64 / exact as f64).ln() / (MAX_DISTANCE / exact as f64).ln();
    let wide = exact + (share * (half - exact) as f64) as i64;
    base + wide.min(half - 1)
}
