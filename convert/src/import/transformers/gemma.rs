//! Gemma 2 and 3: norms before and behind each branch, windows in most layers, bent scores.

use super::Architecture;
use super::blocks::Blocks;
use super::decoder::{Decoder, LLAMA_NAMES, Names, ONE_ROPE};
use super::llama::windows;
use super::rope::Layers;
use crate::error::ImportError;
use crate::graph::UnaryKind;

/// By `model_type`.
pub(super) const ARCHITECTURES: &[(&str, Architecture)] =
    &[("gemma2", gemma2), ("gemma3_text", gemma3), ("gemma3", gemma3)];

const NAMES: Names = Names {
    attention_post_norm: Some("post_attention_layernorm"),
    mlp_norm: "pre_feedforward_layernorm",
    mlp_post_norm: Some("post_feedforward_layernorm"),
    ..LLAMA_NAMES
};

/// Layers with windows have angles of their own.
const GEMMA3_ROPES: &[(Layers, f32)] = &[(Layers::Full, 1e6), (Layers::Sliding, 10000.0)];

fn common(blocks: &Blocks<'_>, turning: &[(Layers, f32)]) -> Result<Decoder, ImportError> {
    let config = blocks.config;
    let mut decoder = Decoder::new(blocks, turning)?;
    decoder.names = NAMES;
    decoder.norm_offset = config.float_or("norm_offset", 1.0)?;
    decoder.embedding_scale = (decoder.width as f32).sqrt();
    let size = decoder.heads.size as f32;
    decoder.scale = 1.0 / config.float_or("query_pre_attn_scalar", size)?.sqrt();
    decoder.softcap = config.float_or("attn_logit_softcapping", 0.0)?;
    decoder.final_softcap = config.float_or("final_logit_softcapping", 0.0)?;
    if config.get("hidden_activation").is_none() && config.get("hidden_act").is_none() {
        decoder.activation = UnaryKind::GeluTanh;
    }
    Ok(decoder)
}

fn gemma2(blocks: &mut Blocks<'_>) -> Result<(), ImportError> {
    let mut decoder = common(blocks, ONE_ROPE)?;
    windows(blocks.config, &mut decoder.layers, |at| at.is_multiple_of(2))?;
    decoder.build(blocks)
}

fn gemma3(blocks: &mut Blocks<'_>) -> Result<(), ImportError> {
    let config = blocks.config;
    if config.get("text_config").is_some() {
        let problem =
            "describes a model of text and images; convert the text model (gemma3_text) alone";
        return Err(config.wrong("text_config", problem));
    }
    if config.flag_or("use_bidirectional_attention", false)? {
        let problem = "is true: that is a model of embeddings, which isn't supported";
        return Err(config.wrong("use_bidirectional_attention", problem));
    }
    let mut decoder = common(blocks, GEMMA3_ROPES)?;
    let every = config.size_or("sliding_window_pattern", 6)?;
    windows(config, &mut decoder.layers, |at| !(at + 1).is_multiple_of(every))?;
    for layer in &mut decoder.layers {
        layer.rope = Some(usize::from(layer.window.is_some()));
    }
    decoder.build(blocks)
}
