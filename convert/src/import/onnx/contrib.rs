//! Operators of the domain `com.microsoft` that optimised transformers are exported with, in the
//! forms of float encoders. Meanings: docs/ContribOperators.md of ONNX Runtime.

use whit::DType;

use super::attention::{
    Bias, Frontier, attend, both, default_scale, frontier_bias, join_heads, split_heads,
};
use super::builder::{Builder, Outcome};
use super::compose::{Compose, Made};
use super::dims;
use super::elementwise::unary;
use super::failure::{FIX_THE_DIM, Failure, invalid, unsupported};
use super::node::OnnxNode;
use super::transformer::{layer_norm, rotate};
use crate::dim::Dim;
use crate::graph::{CompareKind, ReduceKind, UnaryKind, ValueId};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("Attention", attention),
    ("MultiHeadAttention", multi_head_attention),
    ("GroupQueryAttention", |_, _| {
        Err(unsupported(
            "it writes a key-value cache in place, as decoders do",
            "export the model with ONNX's own Attention, past and present as inputs and outputs",
        ))
    }),
    ("RotaryEmbedding", rotary_embedding),
    ("EmbedLayerNormalization", embed_layer_norm),
    ("Gelu", |b, n| unary(b, n, UnaryKind::Gelu)),
    ("FastGelu", |b, n| bias_gelu(b, n, UnaryKind::GeluTanh)),
    ("BiasGelu", |b, n| bias_gelu(b, n, UnaryKind::Gelu)),
];

/// Of the sum with an optional bias.
fn bias_gelu(b: &mut Builder, node: &OnnxNode<'_>, kind: UnaryKind) -> Outcome {
    node.at_most(2)?;
    let c = &mut Compose::new(b, node);
    let given = node.required(0, "X")?;
    let (dtype, mut x) = (c.dtype(given), c.real(given)?);
    if let Some(bias) = node.input(1) {
        let bias = c.real(bias)?;
        x = c.add(x, bias)?;
    }
    let y = c.unary(kind, x)?;
    Ok(vec![c.cast(y, dtype)?])
}

/// The head count, and the attributes that all attentions have.
struct Heads {
    count: i64,
    scale: Option<f32>,
    causal: bool,
    /// What is added to the score of a key that the mask hides.
    filter: f32,
}

fn heads(node: &OnnxNode<'_>) -> Result<Heads, Failure> {
    let a = &node.attributes;
    let count = a.optional_int("num_heads")?.filter(|n| *n > 0);
    let scale = match a.float("scale", 0.0)? {
        0.0 => None,
        scale => Some(scale),
    };
    Ok(Heads {
        count: count.ok_or_else(|| invalid("attribute `num_heads` is missing"))?,
        scale,
        causal: a.flag("unidirectional", false)?,
        filter: a.float("mask_filter_value", -10000.0)?,
    })
}

/// The mask `[batch, keys]` of integers, or the number of valid keys `[batch]`, as what is added to
/// the scores.
fn padding_bias(c: &mut Compose<'_, '_>, mask: ValueId, keys: &Dim, filter: f32) -> Made {
    let shape = c.shape(mask);
    if !matches!(c.dtype(mask), DType::I32 | DType::I64 | DType::Bool) {
        return Err(invalid(format!("a mask of type {}", c.dtype(mask))));
    }
    let one = Dim::from(1i64);
    let mask = c.cast(mask, DType::I64)?;
    let valid = match shape.as_slice() {
        [batch] => {
            let lengths = vec![batch.clone(), one.clone(), one.clone(), one.clone()];
            let lengths = c.reshape(mask, lengths)?;
            let key = c.range(keys)?;
            c.compare(CompareKind::Less, key, lengths)?
        }
        [batch, length] if c.same(length, keys) => {
            let apart = vec![batch.clone(), one.clone(), one, length.clone()];
            let mask = c.reshape(mask, apart)?;
            let none = c.ints("none", &[], |_| 0)?;
            c.compare(CompareKind::Greater, mask, none)?
        }
        _ => {
            return Err(unsupported(
                format!(
                    "a mask of {}; one number per sample and key is supported",
                    c.b.text(&shape)
                ),
                "export the model with the attention mask as it is given to the tokenizer",
            ));
        }
    };
    let (zero, hidden) = (c.scalar(DType::F32, 0.0)?, c.scalar(DType::F32, f64::from(filter))?);
    c.select(valid, zero, hidden)
}

/// Attention over `[batch, heads, sequence, size]`, joined to `[batch, sequence, channels]`.
fn attend_masked(
    c: &mut Compose<'_, '_>,
    qkv: [ValueId; 3],
    heads: &Heads,
    mask: Option<ValueId>,
    bias: Option<ValueId>,
) -> Made {
    let (queries, keys) = (c.shape(qkv[0])[2].clone(), c.shape(qkv[1])[2].clone());
    let frontier = Frontier { causal: heads.causal, ..Frontier::CAUSAL };
    let mut all = frontier_bias(c, &frontier, &Dim::from(0i64), &queries, &keys)?;
    let mask = mask.map(|mask| padding_bias(c, mask, &keys, heads.filter)).transpose()?;
    let bias = bias.map(|bias| c.real(bias)).transpose()?;
    let given = both(c, mask, bias)?;
    all.value = both(c, given, all.value)?;
    // As ONNX Runtime does, a query without keys isn't treated apart.
    let all = Bias { may_mask_rows: false, ..all };
    let scale = match heads.scale {
        Some(scale) => scale,
        None => default_scale(c, qkv[0])?,
    };
    let y = attend(c, qkv, scale, 0.0, &all)?.output;
    join_heads(c, y)
}

/// Refuses the inputs of decoders.
fn refuse_inputs(node: &OnnxNode<'_>, from: usize) -> Result<(), Failure> {
    match (from..node.inputs.len()).any(|index| node.input(index).is_some()) {
        true => Err(unsupported(
            "the inputs of a key-value cache",
            "export the model with ONNX's own Attention, past and present as inputs and outputs",
        )),
        false => Ok(()),
    }
}

/// The projection to queries, keys and values is part of it.
fn attention(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    let heads = heads(node)?;
    let sizes = node.attributes.ints("qkv_hidden_sizes")?;
    for (name, plain) in [("do_rotary", 0), ("past_present_share_buffer", 0)] {
        if node.attributes.int(name, plain)? != plain {
            return Err(unsupported(format!("attribute `{name}`"), ""));
        }
    }
    if node.input(4).is_some() {
        return Err(unsupported("the input past", "export the model without a key-value cache"));
    }
    refuse_inputs(node, 6)?;
    let c = &mut Compose::new(b, node);
    let given = node.required(0, "input")?;
    let (x, w) = (c.real(given)?, c.real(node.required(1, "weights")?)?);
    let dtype = c.dtype(given);
    if c.rank(x) != 3 || c.rank(w) != 2 {
        return Err(invalid("input has 3 axes and weights have 2"));
    }
    let mut y = c.matmul(x, w)?;
    if let Some(bias) = node.input(2) {
        let bias = c.real(bias)?;
        y = c.add(y, bias)?;
    }
    let total = c.shape(w)[1].clone();
    let sizes: Vec<Dim> = match sizes {
        Some(sizes) if sizes.len() == 3 => sizes.iter().map(|s| Dim::from(*s)).collect(),
        Some(_) => return Err(invalid("qkv_hidden_sizes are three")),
        None => vec![dims::floor_div_by(&total, 3); 3],
    };
    let mut start = Dim::from(0i64);
    let mut qkv = [y; 3];
    for (part, size) in qkv.iter_mut().zip(&sizes) {
        if dims::bounds(size, &c.graph().symbols).is_none_or(|(low, _)| low < 1) {
            return Err(invalid("qkv_hidden_sizes are positive"));
        }
        let end = dims::sum(&start, size).ok_or_else(|| invalid("the sizes overflow"))?;
        if !dims::at_most(&end, &total, &c.graph().symbols) {
            return Err(invalid("qkv_hidden_sizes are more than the weights have"));
        }
        *part = c.part_of(y, 2, &start, size)?;
        *part = split_heads(c, *part, heads.count)?;
        start = end;
    }
    if !c.same(&start, &total) {
        return Err(invalid("the weights don't divide into queries, keys and values"));
    }
    let y = attend_masked(c, qkv, &heads, node.input(3), node.input(5))?;
    Ok(vec![c.cast(y, dtype)?])
}

fn multi_head_attention(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    let heads = heads(node)?;
    refuse_inputs(node, 6)?;
    let c = &mut Compose::new(b, node);
    let given = node.required(0, "query")?;
    let dtype = c.dtype(given);
    let (Some(key), Some(value)) = (node.input(1), node.input(2)) else {
        return Err(unsupported(
            "queries, keys and values packed in one input",
            "split them before the node",
        ));
    };
    let mut qkv = [given, key, value];
    let mut start = Dim::from(0i64);
    for x in &mut qkv {
        *x = c.real(*x)?;
        let shape = c.shape(*x);
        if shape.len() != 3 {
            // [batch, heads, sequence, size]: keys and values of a cross attention, without bias.
            if shape.len() == 4 && shape[1].is(heads.count) && node.input(3).is_none() {
                continue;
            }
            return Err(unsupported(format!("an operand of {}", c.b.text(&shape)), ""));
        }
        if let Some(bias) = node.input(3) {
            let bias = c.real(bias)?;
            let end = dims::sum(&start, &shape[2]).ok_or_else(|| invalid("the sizes overflow"))?;
            let fits =
                c.rank(bias) == 1 && dims::at_most(&end, &c.shape(bias)[0], &c.graph().symbols);
            if !fits {
                return Err(invalid("the bias is not one number per channel"));
            }
            let part = c.part_of(bias, 0, &start, &shape[2])?;
            *x = c.add(*x, part)?;
            start = end;
        }
        *x = split_heads(c, *x, heads.count)?;
    }
    let y = attend_masked(c, qkv, &heads, node.input(4), node.input(5))?;
    Ok(vec![c.cast(y, dtype)?])
}

fn rotary_embedding(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(4)?;
    if node.attributes.int("is_packed_batching", 0)? != 0 {
        return Err(unsupported("packed batching", ""));
    }
    if node.attributes.float("scale", 1.0)? != 1.0 {
        return Err(unsupported("a scale", "scale the input or the caches"));
    }
    let c = &mut Compose::new(b, node);
    let x = node.required(0, "input")?;
    let mut positions = node.required(1, "position_ids")?;
    let shape = c.shape(x);
    let sequence = match shape.len() {
        3 => shape[1].clone(),
        4 => shape[2].clone(),
        rank => return Err(invalid(format!("an input of {rank} axes"))),
    };
    if c.rank(positions) == 1 {
        // The position of the first element.
        if !c.shape(positions)[0].is(1) || c.dtype(positions) != DType::I64 {
            return Err(invalid("position_ids is not one i64"));
        }
        let steps = c.range(&sequence)?;
        let all = c.add(steps, positions)?;
        positions = c.unsqueeze(all, 0)?;
    }
    let mut caches = [node.required(2, "cos_cache")?, node.required(3, "sin_cache")?];
    for cache in &mut caches {
        *cache = c.real(*cache)?;
        if c.rank(*cache) != 2 {
            return Err(invalid("a cache has 2 axes"));
        }
        *cache = c.gather(*cache, positions, 0)?;
    }
    rotate(c, node, x, caches[0], caches[1])
}

fn embed_layer_norm(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(9)?;
    let epsilon = node.attributes.float("epsilon", 1e-12)?;
    let index_type = node.attributes.int("mask_index_type", 1)?;
    let c = &mut Compose::new(b, node);
    let ids = node.required(0, "input_ids")?;
    let of_ids = c.shape(ids);
    let [_, sequence] = of_ids.as_slice() else {
        return Err(invalid("input_ids has 2 axes"));
    };
    let table = |c: &mut Compose<'_, '_>, index: usize, what: &str| -> Made {
        let table = node.required(index, what)?;
        let table = c.real(table)?;
        if c.rank(table) == 2 { Ok(table) } else { Err(invalid(format!("{what} has 2 axes"))) }
    };
    let words = table(c, 2, "word_embedding")?;
    let mut sum = c.gather(words, ids, 0)?;
    let positions = table(c, 3, "position_embedding")?;
    let positions = match node.input(8) {
        Some(ids) => c.gather(positions, ids, 0)?,
        None => {
            if !dims::at_most(sequence, &c.shape(positions)[0], &c.graph().symbols) {
                return Err(unsupported("more positions than are embedded", FIX_THE_DIM));
            }
            c.part_of(positions, 0, &Dim::from(0i64), sequence)?
        }
    };
    sum = c.add(sum, positions)?;
    if let (Some(ids), Some(_)) = (node.input(1), node.input(4)) {
        let segments = table(c, 4, "segment_embedding")?;
        let segments = c.gather(segments, ids, 0)?;
        sum = c.add(sum, segments)?;
    }
    let (gamma, beta) = (node.required(5, "gamma")?, node.required(6, "beta")?);
    let dtype = c.dtype(gamma);
    let (gamma, beta) = (c.real(gamma)?, c.real(beta)?);
    let y = layer_norm(c, sum, gamma, Some(beta), epsilon)?;
    let mut outputs = vec![c.cast(y, dtype)?];
    if node.wants(1) || node.wants(2) {
        // The number of valid elements per sample; 0 when there is no mask.
        if index_type == 0 {
            return Err(unsupported("mask_index_type 0", ""));
        }
        outputs.push(match node.input(7) {
            Some(mask) => {
                let mask = c.cast(mask, DType::I32)?;
                c.reduce(ReduceKind::Sum, mask, &[1], false)?
            }
            None => {
                let zero = c.scalar(DType::I32, 0.0)?;
                c.expand(zero, vec![of_ids[0].clone()])?
            }
        });
        outputs.push(c.cast(sum, dtype)?);
    }
    Ok(outputs)
}
