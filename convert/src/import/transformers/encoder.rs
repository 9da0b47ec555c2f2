//! What encoders like BERT have in common: inputs, the mask, layers that normalise behind each residual, outputs.

use whit::DType;

use super::blocks::{Block, Blocks};
use super::config::Config;
use crate::dim::Dim;
use crate::error::ImportError;
use crate::graph::{Attention, BinaryKind, CompareKind, ValueId};

/// Texts per run unless the caller chose otherwise.
const MAX_BATCH: i64 = 8;

/// Tokens per text at most, for models without learned positions that would limit them.
const MAX_SEQ: usize = 512;

/// The largest f32, which hides a score when it is taken away from it.
const HIDDEN: f64 = f32::MAX as f64;

/// Sizes of an encoder.
pub(super) struct Sizes {
    pub(super) vocab: usize,
    pub(super) width: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) inner: usize,
    /// Rows of the table of positions.
    pub(super) positions: usize,
    pub(super) epsilon: f32,
}

impl Sizes {
    /// Under BERT's names.
    pub(super) fn new(config: &Config) -> Result<Sizes, ImportError> {
        let sizes = Sizes {
            vocab: config.size("vocab_size")?,
            width: config.size("hidden_size")?,
            layers: config.size("num_hidden_layers")?,
            heads: config.size("num_attention_heads")?,
            inner: config.size("intermediate_size")?,
            positions: config.size_or("max_position_embeddings", MAX_SEQ)?,
            epsilon: config.float_or("layer_norm_eps", 1e-12)?,
        };
        sizes.checked(config, "num_attention_heads")
    }

    /// Refuses heads that don't divide the width; `key` is that of their number.
    pub(super) fn checked(self, config: &Config, key: &str) -> Result<Sizes, ImportError> {
        if !self.width.is_multiple_of(self.heads) {
            let (heads, width) = (self.heads, self.width);
            return Err(config.wrong(key, format!("is {heads}, which {width} isn't a multiple of")));
        }
        Ok(self)
    }
}

/// The inputs of an encoder.
pub(super) struct Inputs {
    /// i32 `[batch, seq]`.
    pub(super) ids: ValueId,
    /// i32 `[batch, seq]`, 1 for a token and 0 for padding.
    pub(super) mask: ValueId,
    /// i32 `[batch, seq]`, when the model distinguishes segments.
    pub(super) types: Option<ValueId>,
}

impl Inputs {
    /// Adds them. `offset` positions at the front of the table stand for no token.
    pub(super) fn add(
        blocks: &mut Blocks<'_>,
        sizes: &Sizes,
        offset: usize,
        has_types: bool,
    ) -> Result<Inputs, ImportError> {
        let Some(positions) = sizes.positions.checked_sub(offset).filter(|count| *count > 0) else {
            let problem = format!("is {}, of which {offset} are no tokens'", sizes.positions);
            return Err(blocks.config.wrong("max_position_embeddings", problem));
        };
        let most = blocks.sentences.and_then(|s| s.max_tokens).unwrap_or(positions);
        let most = i64::try_from(most.min(positions)).unwrap_or(i64::MAX);
        let (axes, sizes): (&[&str], &[i64]) = (&["batch", "seq"], &[]);
        let mut inputs = vec![
            ("input_ids", DType::I32, axes, sizes),
            ("attention_mask", DType::I32, axes, sizes),
        ];
        if has_types {
            inputs.push(("token_type_ids", DType::I32, axes, sizes));
        }
        let ids = blocks.inputs(&inputs, &[("batch", 1, MAX_BATCH), ("seq", 1, most)])?;
        let seq = blocks.shape(ids[0])[1].clone();
        let most = blocks.at("inputs", |c| c.largest(&seq))?;
        if most > positions {
            return Err(ImportError::DimChoice {
                name: "seq".to_owned(),
                problem: format!("the model knows {positions} positions at most"),
            });
        }
        blocks.metadata("model.context", most);
        Ok(Inputs { ids: ids[0], mask: ids[1], types: ids.get(2).copied() })
    }

    /// The first rows of the table of positions, `[seq, width]`, from row `offset` on.
    pub(super) fn positions(
        &self,
        blocks: &mut Blocks<'_>,
        name: &str,
        (rows, width): (usize, usize),
    ) -> Block {
        let table = blocks.parameter(&format!("{name}.weight"), &[rows, width])?;
        let seq = blocks.shape(self.ids)[1].clone();
        blocks.at(name, |c| c.main().part_of(table, 0, &Dim::from(0i64), &seq))
    }

    /// Positions of tokens that aren't padding counted from `padding + 1`, those of padding `padding`,
    /// `[batch, seq]`.
    pub(super) fn counted_positions(&self, blocks: &mut Blocks<'_>, padding: usize) -> Block {
        blocks.at("embeddings.positions", |c| {
            let id = c.scalar(DType::I32, padding as f64)?;
            let is_padding = c.compare(CompareKind::Equal, self.ids, id)?;
            let (none, one) = (c.scalar(DType::I32, 0.0)?, c.scalar(DType::I32, 1.0)?);
            let token = c.select(is_padding, none, one)?;
            let count = c.cumulative_sum(token, 1)?;
            let count = c.mul(count, token)?;
            c.with_number(BinaryKind::Add, count, padding as f64)
        })
    }

    /// What is added to scores `[batch, heads, seq, seq]`: 0 for tokens, the lowest number for padding.
    pub(super) fn additive_mask(&self, blocks: &mut Blocks<'_>) -> Block {
        blocks.at("mask", |c| {
            let mask = c.cast(self.mask, DType::F32)?;
            let mask = c.with_number(BinaryKind::Sub, mask, 1.0)?;
            let mask = c.with_number(BinaryKind::Mul, mask, HIDDEN)?;
            let mask = c.unsqueeze(mask, 1)?;
            c.unsqueeze(mask, 2)
        })
    }
}

/// Tells the user when the model is one with a head, which isn't part of the encoder.
pub(super) fn note_head(blocks: &mut Blocks<'_>) -> Result<(), ImportError> {
    let config = blocks.config;
    if let Some(class) = config.texts("architectures")?.first()
        && class.contains("For")
    {
        blocks.note(format!("only the encoder of {class} is converted, without its head"));
    }
    Ok(())
}

/// Names of a layer's modules and of the function between its two linear layers.
pub(super) struct Layer<'n> {
    pub(super) q: &'n str,
    pub(super) k: &'n str,
    pub(super) v: &'n str,
    pub(super) output: &'n str,
    pub(super) attention_norm: &'n str,
    pub(super) up: &'n str,
    pub(super) down: &'n str,
    pub(super) norm: &'n str,
    /// The key of the configuration that names the activation.
    pub(super) activation: &'n str,
}

/// `norm(x + attention(x))`, then `norm(y + down(activation(up(y))))`. `layer` stands before the names of modules.
pub(super) fn layer(
    blocks: &mut Blocks<'_>,
    x: ValueId,
    mask: ValueId,
    layer: &str,
    names: &Layer<'_>,
    sizes: &Sizes,
) -> Block {
    let (width, inner, heads) = (sizes.width, sizes.inner, sizes.heads);
    let name = |module: &str| format!("{layer}.{module}");
    let (q, k, v) = (name(names.q), name(names.k), name(names.v));
    let modules = [(q.as_str(), width), (k.as_str(), width), (v.as_str(), width)];
    let qkv = blocks.linears(x, &name("attention.qkv"), &modules, width)?;
    let parts = blocks.heads(qkv, &name("attention.heads"), 3, heads, width / heads)?;
    let scale = 1.0 / ((width / heads) as f32).sqrt();
    let attention = Attention { scale, softcap: 0.0, causal: None, zero_rows: false };
    let qkv = [parts[0], parts[1], parts[2]];
    let y = blocks.attention(&name("attention"), qkv, Some(mask), attention)?;
    let y = blocks.linear(y, &name(names.output), width, width)?;
    let y = blocks.at(&name("attention.residual"), |c| c.main().add(y, x))?;
    let x = blocks.layer_norm(y, &name(names.attention_norm), sizes.epsilon)?;
    let y = blocks.linear(x, &name(names.up), width, inner)?;
    let y = blocks.activation(y, &name("activation"), names.activation)?;
    let y = blocks.linear(y, &name(names.down), inner, width)?;
    let y = blocks.at(&name("residual"), |c| c.main().add(y, x))?;
    blocks.layer_norm(y, &name(names.norm), sizes.epsilon)
}
