//! Llama and the decoders that differ from it in a few numbers: Mistral, Qwen2, Qwen3, SmolLM3.

use super::Architecture;
use super::blocks::Blocks;
use super::config::Config;
use super::decoder::{Decoder, LayerKind, ONE_ROPE};
use crate::error::ImportError;

/// By `model_type`.
pub(super) const ARCHITECTURES: &[(&str, Architecture)] = &[
    ("llama", llama),
    ("mistral", mistral),
    ("qwen2", qwen),
    ("qwen3", qwen),
    ("smollm3", smollm3),
];

fn llama(blocks: &mut Blocks<'_>) -> Result<(), ImportError> {
    Decoder::new(blocks, ONE_ROPE)?.build(blocks)
}

/// Every layer sees a window, where there is one.
fn mistral(blocks: &mut Blocks<'_>) -> Result<(), ImportError> {
    let mut decoder = Decoder::new(blocks, ONE_ROPE)?;
    let window = blocks.config.optional_size("sliding_window")?;
    decoder.layers.iter_mut().for_each(|layer| layer.window = window);
    decoder.build(blocks)
}

/// `QwenForCausalLM` of the second and third generation: layers from `max_window_layers` on see a window, if windows are used.
fn qwen(blocks: &mut Blocks<'_>) -> Result<(), ImportError> {
    let mut decoder = Decoder::new(blocks, ONE_ROPE)?;
    if blocks.config.flag_or("use_sliding_window", false)? {
        let first = blocks.config.count_or("max_window_layers", decoder.layers.len())?;
        windows(blocks.config, &mut decoder.layers, |at| at >= first)?;
    }
    decoder.build(blocks)
}

/// Some layers have no positions; without a list, those see a window if windows are used.
fn smollm3(blocks: &mut Blocks<'_>) -> Result<(), ImportError> {
    let mut decoder = Decoder::new(blocks, ONE_ROPE)?;
    let config = blocks.config;
    let every = config.size_or("no_rope_layer_interval", 4)?;
    let listed = config.get("no_rope_layers").and_then(|list| list.as_array());
    for (at, layer) in decoder.layers.iter_mut().enumerate() {
        // 1 stands for a layer that has them.
        let has = match listed {
            Some(list) => list.get(at).and_then(|has| has.as_u64()) != Some(0),
            None => !(at + 1).is_multiple_of(every),
        };
        layer.rope = has.then_some(0);
    }
    if config.flag_or("use_sliding_window", false)? {
        let turns: Vec<bool> = decoder.layers.iter().map(|layer| layer.rope.is_some()).collect();
        windows(config, &mut decoder.layers, |at| !turns[at])?;
    }
    decoder.build(blocks)
}

/// Gives layers the window of the configuration: those that `layer_types` lists as sliding, or without a list those that
/// `is_sliding` names.
pub(super) fn windows(
    config: &Config,
    layers: &mut [LayerKind],
    is_sliding: impl Fn(usize) -> bool,
) -> Result<(), ImportError> {
    let window = config.optional_size("sliding_window")?;
    let listed = config.texts("layer_types")?;
    for (at, layer) in layers.iter_mut().enumerate() {
        let slides = match listed.get(at) {
            Some(kind) => *kind == "sliding_attention",
            None => is_sliding(at),
        };
        layer.window = window.filter(|_| slides);
    }
    Ok(())
}
