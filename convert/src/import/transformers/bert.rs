//! BERT and the encoders that differ from it in the names of parameters or the numbering of positions.

use super::Architecture;
use super::blocks::{Block, Blocks};
use super::encoder::{self, Inputs, Layer, Sizes};
use super::pooling;
use crate::error::ImportError;

/// By `model_type`.
pub(super) const ARCHITECTURES: &[(&str, Architecture)] = &[
    ("bert", |blocks| bert(blocks, &["", "bert."], Positions::FromZero)),
    ("electra", |blocks| bert(blocks, &["", "electra."], Positions::FromZero)),
    ("roberta", |blocks| bert(blocks, &["", "roberta."], Positions::BehindPadding)),
    ("xlm-roberta", |blocks| bert(blocks, &["", "roberta."], Positions::BehindPadding)),
    ("camembert", |blocks| bert(blocks, &["", "roberta."], Positions::BehindPadding)),
];

/// Where a text's first token is in the table of positions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Positions {
    FromZero,
    /// Behind the number of the padding token; only tokens are counted.
    BehindPadding,
}

const LAYER: Layer<'_> = Layer {
    q: "attention.self.query",
    k: "attention.self.key",
    v: "attention.self.value",
    output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    norm: "output.LayerNorm",
    activation: "hidden_act",
};

/// `BertModel`, `ElectraModel`, `RobertaModel`: embeddings of words, positions and segments, then layers.
fn bert(
    blocks: &mut Blocks<'_>,
    prefixes: &[&str],
    positions: Positions,
) -> Result<(), ImportError> {
    let config = blocks.config;
    let sizes = Sizes::new(config)?;
    let kind = config.text_or("position_embedding_type", "absolute")?;
    if kind != "absolute" {
        let problem = format!("is `{kind}`; only absolute is supported");
        return Err(config.wrong("position_embedding_type", problem));
    }
    if config.flag_or("is_decoder", false)? {
        return Err(config.wrong("is_decoder", "is true; only encoders are supported"));
    }
    blocks.find_prefix(prefixes, "embeddings.word_embeddings.weight");
    encoder::note_head(blocks)?;
    let padding = match positions {
        Positions::FromZero => None,
        Positions::BehindPadding => Some(config.count_or("pad_token_id", 1)?),
    };
    // Positions up to that of padding are no token's.
    let offset = padding.map_or(0, |padding| padding + 1);
    let has_segments = config.size_or("type_vocab_size", 2)? > 1;
    let inputs = Inputs::add(blocks, &sizes, offset, has_segments)?;
    let embedded = config.size_or("embedding_size", sizes.width)?;
    let mut x = embeddings(blocks, &inputs, &sizes, embedded, padding)?;
    if embedded != sizes.width {
        x = blocks.linear(x, "embeddings_project", embedded, sizes.width)?;
    }
    let mask = inputs.additive_mask(blocks)?;
    for at in 0..sizes.layers {
        let layer = format!("encoder.layer.{at}");
        x = encoder::layer(blocks, x, mask, &layer, &LAYER, &sizes)?;
    }
    pooling::output(blocks, x, &inputs)
}

/// The normalised sum of the embeddings of words, segments and positions, `[batch, seq, width]`. With the number of
/// the padding token, positions are counted behind it.
pub(super) fn embeddings(
    blocks: &mut Blocks<'_>,
    inputs: &Inputs,
    sizes: &Sizes,
    width: usize,
    padding: Option<usize>,
) -> Block {
    const POSITIONS: &str = "embeddings.position_embeddings";
    const SEGMENTS: &str = "embeddings.token_type_embeddings";
    let word =
        blocks.embedding(inputs.ids, "embeddings.word_embeddings", (sizes.vocab, width), 1.0)?;
    let segments = blocks.config.size_or("type_vocab_size", 2)?;
    let segment = match inputs.types {
        Some(types) => blocks.embedding(types, SEGMENTS, (segments, width), 1.0)?,
        // The one that there is.
        None => blocks.parameter(&format!("{SEGMENTS}.weight"), &[segments, width])?,
    };
    let rows = sizes.positions;
    let position = match padding {
        None => inputs.positions(blocks, POSITIONS, (rows, width))?,
        Some(padding) => {
            let at = inputs.counted_positions(blocks, padding)?;
            blocks.embedding(at, POSITIONS, (rows, width), 1.0)?
        }
    };
    let x = blocks.at("embeddings", |c| {
        let x = c.add(word, segment)?;
        c.add(x, position)
    })?;
    blocks.layer_norm(x, "embeddings.LayerNorm", sizes.epsilon)
}
