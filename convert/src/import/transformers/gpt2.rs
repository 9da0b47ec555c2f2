//! GPT-2: learned positions, layer norms, no gates; weights are stored `[inputs, outputs]`.

use super::Architecture;
use super::blocks::Blocks;
use super::decoder::{Decoder, LayerKind, Names, activation};
use crate::error::ImportError;
use crate::graph::{Heads, NormKind};

/// By `model_type`.
pub(super) const ARCHITECTURES: &[(&str, Architecture)] = &[("gpt2", gpt2)];

const NAMES: Names = Names {
    embedding: "wte",
    positions: Some("wpe"),
    layers: "h",
    attention_norm: "ln_1",
    qkv: &["attn.c_attn"],
    q_norm: "attn.q_norm",
    k_norm: "attn.k_norm",
    output: "attn.c_proj",
    attention_post_norm: None,
    mlp_norm: "ln_2",
    up: &["mlp.c_fc"],
    down: "mlp.c_proj",
    mlp_post_norm: None,
    norm: "ln_f",
    head: "lm_head",
};

fn gpt2(blocks: &mut Blocks<'_>) -> Result<(), ImportError> {
    let config = blocks.config;
    let (width, heads) = (config.size("n_embd")?, config.size("n_head")?);
    if !width.is_multiple_of(heads) {
        return Err(
            config.wrong("n_head", format!("is {heads}, which {width} isn't a multiple of"))
        );
    }
    for (key, usual) in [("scale_attn_weights", true), ("scale_attn_by_inverse_layer_idx", false)] {
        if config.flag_or(key, usual)? != usual {
            return Err(config.wrong(key, format!("is {}, which isn't supported", !usual)));
        }
    }
    let size = width / heads;
    let layers = config.size("n_layer")?;
    if layers > 1 << 16 {
        return Err(config.wrong("n_layer", format!("is {layers}")));
    }
    blocks.find_prefix(&["", "transformer."], "wte.weight");
    Decoder {
        names: NAMES,
        vocab: config.size("vocab_size")?,
        width,
        inner: config.size_or("n_inner", 4 * width)?,
        layers: vec![LayerKind::default(); layers],
        heads: Heads { heads, kv_heads: heads, size },
        positions: config.size_or("n_positions", 1024)?,
        ropes: Vec::new(),
        norm: NormKind::Layer,
        norm_offset: 0.0,
        epsilon: config.float_or("layer_norm_epsilon", 1e-5)?,
        embedding_scale: 1.0,
        scale: 1.0 / (size as f32).sqrt(),
        softcap: 0.0,
        final_softcap: 0.0,
        activation: activation(config, &["activation_function"], "gelu_new")?,
        is_transposed: config.flag_or("is_transposed", true)?,
        cross: None,
    }
    .build(blocks)
}
