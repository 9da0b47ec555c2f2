//! Whisper: an encoder of 30 seconds of sound, and a decoder that attends to it and writes what was said.
//!
//! One program has both. A run with a window of sound computes the encoder and keeps the keys and values that the decoder makes of
//! its rows; runs without one go on from there.

use std::path::Path;

use whit::DType;

use super::Architecture;
use super::blocks::{Block, Blocks};
use super::config::Config;
use super::decoder::{Cross, Decoder, LayerKind, Names, activation};
use super::decoder_inputs::Room;
use super::optional_config;
use crate::dim::Dim;
use crate::error::ImportError;
use crate::graph::{Attention, Clamp, Conv, Heads, NormKind, Op, UnaryKind, ValueId};

/// By `model_type`.
pub(super) const ARCHITECTURES: &[(&str, Architecture)] = &[("whisper", whisper)];

const NAMES: Names = Names {
    embedding: "decoder.embed_tokens",
    positions: Some("decoder.embed_positions"),
    layers: "decoder.layers",
    attention_norm: "self_attn_layer_norm",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    output: "self_attn.out_proj",
    attention_post_norm: None,
    mlp_norm: "final_layer_norm",
    up: &["fc1"],
    down: "fc2",
    mlp_post_norm: None,
    norm: "decoder.layer_norm",
    // Always the table of embeddings.
    head: "decoder.proj_out",
};

/// Of all layer norms; no configuration has it.
const EPSILON: f32 = 1e-5;

/// Metadata: the heads whose attention to the sound says when a word is spoken, `layer.head` with spaces between them.
const ALIGNMENT_HEADS: &str = "speech.alignment_heads";

/// Frames of the spectrogram for each row of the encoder: the stride of its second convolution.
const STRIDE: usize = 2;

fn whisper(blocks: &mut Blocks<'_>) -> Result<(), ImportError> {
    let config = blocks.config;
    for (key, usual) in [("scale_embedding", false), ("tie_word_embeddings", true)] {
        if config.flag_or(key, usual)? != usual {
            return Err(config.wrong(key, format!("is {}, which isn't supported", !usual)));
        }
    }
    let width = config.size("d_model")?;
    let activation = activation(config, &["activation_function"], "gelu")?;
    let (vocab, mels) = (config.size("vocab_size")?, config.size_or("num_mel_bins", 80)?);
    let positions = config.size_or("max_target_positions", 448)?;
    let encoder = Encoder {
        width,
        mels,
        positions: config.size_or("max_source_positions", 1500)?,
        layers: layers(config, "encoder_layers")?,
        heads: heads(config, "encoder_attention_heads", width)?,
        inner: config.size("encoder_ffn_dim")?,
        activation,
    };
    let decoder_layers = layers(config, "decoder_layers")?;
    let decoder_heads = heads(config, "decoder_attention_heads", width)?;
    blocks.find_prefix(&["model.", ""], "encoder.conv1.weight");

    let room = Room::of(blocks, positions)?;
    let frames = encoder.positions * STRIDE;
    let sizes = [frames as i64, mels as i64];
    let mel = ("mel", DType::F32, &["windows"][..], &sizes[..]);
    let (inputs, others) = room.inputs(blocks, &[mel], &[("windows", 0, 1)])?;
    let encoded = encoder.build(blocks, others[0])?;
    let size = width / decoder_heads;
    let decoder = Decoder {
        names: NAMES,
        vocab,
        width,
        inner: config.size("decoder_ffn_dim")?,
        layers: vec![LayerKind::default(); decoder_layers],
        heads: Heads { heads: decoder_heads, kv_heads: decoder_heads, size },
        positions,
        ropes: Vec::new(),
        norm: NormKind::Layer,
        norm_offset: 0.0,
        epsilon: EPSILON,
        embedding_scale: 1.0,
        scale: 1.0 / (size as f32).sqrt(),
        softcap: 0.0,
        final_softcap: 0.0,
        activation,
        is_transposed: false,
        cross: Some(Cross {
            alignment: alignment_heads(blocks, decoder_layers, decoder_heads)?,
            encoded,
            norm: "encoder_attn_layer_norm",
            q: "encoder_attn.q_proj",
            kv: ["encoder_attn.k_proj", "encoder_attn.v_proj"],
            output: "encoder_attn.out_proj",
        }),
    };
    decoder.logits(blocks, inputs, room)?;
    blocks.output("encoder_output", encoded);
    Ok(())
}

/// The heads of each layer that look at the sound of the word being written, if times of words are wanted: those that the model's
/// generation_config.json names, else all of the upper half of the layers.
fn alignment_heads(
    blocks: &mut Blocks<'_>,
    layers: usize,
    heads: usize,
) -> Result<Vec<Vec<i32>>, ImportError> {
    let mut chosen = vec![Vec::new(); layers];
    if !blocks.options.word_times {
        return Ok(chosen);
    }
    let metadata = &blocks.builder.graph.metadata;
    let Some((_, named)) = metadata.iter().find(|(key, _)| key == ALIGNMENT_HEADS) else {
        blocks.note(
            "no alignment_heads in a generation_config.json: times of words follow all heads of the upper half of the layers, which is less exact"
                .to_owned(),
        );
        chosen[layers / 2..].fill((0..heads as i32).collect());
        return Ok(chosen);
    };
    for name in named.split(' ') {
        let place = name.split_once('.').and_then(|(layer, head)| {
            let (layer, head) = (layer.parse::<usize>().ok()?, head.parse::<usize>().ok()?);
            (layer < layers && head < heads).then_some((layer, head as i32))
        });
        let Some((layer, head)) = place else {
            let problem = format!("there is no head {name} of {layers} layers with {heads} heads");
            return Err(ImportError::Model(format!("alignment_heads: {problem}")));
        };
        chosen[layer].push(head);
    }
    Ok(chosen)
}

/// What speech needs to know besides the graph: how sound becomes a spectrogram, and which tokens are never written.
pub(super) fn metadata(
    folder: &Path,
    config: &Config,
) -> Result<Vec<(String, String)>, ImportError> {
    const PREPROCESSOR: &str = "preprocessor_config.json";
    let mels = config.size_or("num_mel_bins", 80)?;
    let empty = Config::new(PREPROCESSOR, serde_json::Map::new());
    let features = optional_config(folder, PREPROCESSOR)?.unwrap_or(empty);
    let features_mels = features.size_or("feature_size", mels)?;
    if features_mels != mels {
        let problem = format!("is {features_mels}, and the model has {mels} mel bins");
        return Err(features.wrong("feature_size", problem));
    }
    let generation = optional_config(folder, "generation_config.json")?;
    let configs = || generation.iter().chain([config]);
    // Models of one language have one token less than the first of many languages had.
    const MULTILINGUAL_VOCAB: usize = 51865;
    let many = config.size("vocab_size")? >= MULTILINGUAL_VOCAB;
    let many = generation.as_ref().map_or(Ok(many), |g| g.flag_or("is_multilingual", many))?;
    let frames = STRIDE * config.size_or("max_source_positions", 1500)?;
    let mut metadata = vec![
        ("audio.sample_rate", features.size_or("sampling_rate", 16000)?.to_string()),
        ("audio.fft", features.size_or("n_fft", 400)?.to_string()),
        ("audio.hop", features.size_or("hop_length", 160)?.to_string()),
        ("audio.mels", mels.to_string()),
        ("audio.frames", frames.to_string()),
        ("speech.multilingual", u8::from(many).to_string()),
    ];
    if let Some(pairs) = generation.as_ref().and_then(|g| g.get("alignment_heads")) {
        let wrong = || {
            let problem = "isn't a list of pairs of a layer and a head";
            generation.as_ref().expect("it has the key").wrong("alignment_heads", problem)
        };
        let pairs: Vec<[u16; 2]> = serde_json::from_value(pairs.clone()).map_err(|_| wrong())?;
        if pairs.is_empty() {
            return Err(wrong());
        }
        let names = pairs.iter().map(|[layer, head]| format!("{layer}.{head}"));
        metadata.push((ALIGNMENT_HEADS, names.collect::<Vec<_>>().join(" ")));
    }
    let mut is_suppressing = false;
    for (key, from) in
        [("speech.suppress", "suppress_tokens"), ("speech.begin_suppress", "begin_suppress_tokens")]
    {
        let Some(config) = configs().find(|config| config.get(from).is_some()) else { continue };
        let ids = config.counts(from)?;
        let ids: Vec<String> = ids.iter().map(usize::to_string).collect();
        metadata.push((key, ids.join(" ")));
        is_suppressing = true;
    }
    if !is_suppressing {
        let note = "no generation_config.json with suppress_tokens: transcripts may have marks that aren't spoken";
        metadata.push(("note", note.to_owned()));
    }
    Ok(metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// A number of layers, of which no model has as many as a list of them could not hold.
fn layers(config: &Config, key: &str) -> Result<usize, ImportError> {
    let layers = config.size(key)?;
    match layers {
        ..=0x1_0000 => Ok(layers),
        _ => Err(config.wrong(key, format!("is {layers}"))),
    }
}

fn heads(config: &Config, key: &str, width: usize) -> Result<usize, ImportError> {
    let heads = config.size(key)?;
    match width.is_multiple_of(heads) {
        true => Ok(heads),
        false => Err(config.wrong(key, format!("is {heads}, which {width} isn't a multiple of"))),
    }
}

/// The encoder, as its configuration describes it.
struct Encoder {
    width: usize,
    mels: usize,
    positions: usize,
    layers: usize,
    heads: usize,
    inner: usize,
    activation: UnaryKind,
}

impl Encoder {
    /// `mel` `[windows, frames, mels]` as rows `[windows, positions, width]`.
    fn build(&self, blocks: &mut Blocks<'_>, mel: ValueId) -> Block {
        let Encoder { width, positions, .. } = *self;
        let x = self.convolution(blocks, mel, "encoder.conv1", self.mels, 1)?;
        let x = self.convolution(blocks, x, "encoder.conv2", width, STRIDE)?;
        let name = "encoder.embed_positions";
        let learned = blocks.parameter(&format!("{name}.weight"), &[positions, width])?;
        let mut x = blocks.at(name, |c| c.add(x, learned))?;
        for layer in 0..self.layers {
            x = self.layer(blocks, x, &format!("encoder.layers.{layer}"))?;
        }
        blocks.layer_norm(x, "encoder.layer_norm", EPSILON)
    }

    /// A convolution of three frames along time, `[windows, frames, inputs]`, and gelu, whatever activation the layers have.
    fn convolution(
        &self,
        blocks: &mut Blocks<'_>,
        x: ValueId,
        name: &str,
        inputs: usize,
        stride: usize,
    ) -> Block {
        let width = self.width;
        let weight = blocks.stored(&format!("{name}.weight"), &[width, inputs, 3])?.tensor;
        let weight = weight.transposed(&[0, 2, 1]);
        let weight = blocks.builder.constant(format!("{name}.weight"), weight);
        let weight = blocks.at(name, |c| c.cast(weight, DType::F32))?;
        let bias = blocks.parameter(&format!("{name}.bias"), &[width])?;
        let op = Op::Conv(Conv {
            kernel: vec![3],
            stride: vec![stride],
            dilation: vec![1],
            pad_before: vec![1],
            pad_after: vec![1],
            groups: 1,
            clamp: Clamp::NONE,
            inner_quant: None,
        });
        let mut shape = blocks.shape(x);
        let frames = shape[1].as_const().expect("a spectrogram's length is fixed") as usize;
        (shape[1], shape[2]) = (Dim::from(frames / stride), Dim::from(width));
        let x =
            blocks.at(name, |c| c.main().emit("", op, &[x, weight, bias], DType::F32, shape))?;
        blocks.at(&format!("{name}.activation"), |c| c.main().unary(UnaryKind::Gelu, x))
    }

    fn layer(&self, blocks: &mut Blocks<'_>, x: ValueId, layer: &str) -> Block {
        let Encoder { width, heads, inner, .. } = *self;
        let name = |module: &str| format!("{layer}.{module}");
        let h = blocks.layer_norm(x, &name("self_attn_layer_norm"), EPSILON)?;
        let modules = NAMES.qkv.iter().map(|module| name(module)).collect::<Vec<_>>();
        let modules: Vec<(&str, usize)> = modules.iter().map(|m| (m.as_str(), width)).collect();
        let qkv = blocks.linears(h, &name("qkv"), &modules, width)?;
        let parts = blocks.heads(qkv, &name("heads"), 3, heads, width / heads)?;
        let scale = 1.0 / ((width / heads) as f32).sqrt();
        let attention = Attention { scale, softcap: 0.0, causal: None, zero_rows: false };
        let qkv = [parts[0], parts[1], parts[2]];
        let y = blocks.attention(&name("attention"), qkv, None, attention)?;
        let y = blocks.linear(y, &name("self_attn.out_proj"), width, width)?;
        let x = blocks.at(&name("attention.residual"), |c| c.main().add(x, y))?;
        let h = blocks.layer_norm(x, &name("final_layer_norm"), EPSILON)?;
        let h = blocks.linear(h, &name("fc1"), width, inner)?;
        let h = blocks.at(&name("activation"), |c| c.main().unary(self.activation, h))?;
        let h = blocks.linear(h, &name("fc2"), inner, width)?;
        blocks.at(&name("residual"), |c| c.main().add(x, h))
    }
}
