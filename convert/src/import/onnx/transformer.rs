//! What transformers are made of besides attention: rotary embedding, gated units, linear attention.

use super::attention::{join_heads, split_heads};
use super::builder::{Builder, Outcome};
use super::compose::{Compose, Made};
use super::dims;
use super::failure::{FIX_THE_DIM, Failure, invalid, unsupported};
use super::node::OnnxNode;
use super::norm::normalized;
use crate::dim::Dim;
use crate::graph::{NormKind, UnaryKind, ValueId};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("RotaryEmbedding", rotary_embedding),
    ("SwiGLU", swiglu),
    ("LinearAttention", linear_attention),
];

/// Steps of a recurrence that are written out one after the other.
const MAX_STEPS: i64 = 64;

fn rotary_embedding(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(4)?;
    let c = &mut Compose::new(b, node);
    let given = node.required(0, "X")?;
    let (mut cos, mut sin) = (node.required(1, "cos_cache")?, node.required(2, "sin_cache")?);
    for cache in [&mut cos, &mut sin] {
        *cache = c.real(*cache)?;
        let rank = if node.input(3).is_some() { 2 } else { 3 };
        if c.rank(*cache) != rank {
            return Err(invalid(format!("a cache of {} axes, not {rank}", c.rank(*cache))));
        }
        if let Some(positions) = node.input(3) {
            *cache = c.gather(*cache, positions, 0)?;
        }
    }
    rotate(c, node, given, cos, sin)
}

/// Turns pairs of channels by the angles whose cosines and sines are `[batch, sequence, pairs]`.
pub(super) fn rotate(
    c: &mut Compose<'_, '_>,
    node: &OnnxNode<'_>,
    given: ValueId,
    mut cos: ValueId,
    mut sin: ValueId,
) -> Outcome {
    let a = &node.attributes;
    let interleaved = a.flag("interleaved", false)?;
    let heads = a.int("num_heads", 0)?;
    let turned = a.int("rotary_embedding_dim", 0)?;
    let (dtype, shape) = (c.dtype(given), c.shape(given));
    let mut x = c.real(given)?;
    // [batch, heads, sequence, size], or with 3 axes [batch, sequence, heads, size].
    let head_axis = match shape.len() {
        4 => 1,
        3 => {
            let size = dims::floor_div_by(&shape[2], heads);
            if heads < 1 || !c.same(&size.mul(&Dim::from(heads)), &shape[2]) {
                return Err(invalid(format!("num_heads {heads} for {}", c.b.text(&shape))));
            }
            let apart = vec![shape[0].clone(), shape[1].clone(), Dim::from(heads), size];
            x = c.reshape(x, apart)?;
            2
        }
        rank => return Err(invalid(format!("an input of {rank} axes"))),
    };
    let Some(size) = c.shape(x)[3].as_const() else {
        return Err(unsupported("a dynamic head size", FIX_THE_DIM));
    };
    let turned = if turned == 0 { size } else { turned };
    if turned < 2 || turned % 2 != 0 || turned > size {
        return Err(invalid(format!("rotary_embedding_dim {turned} of heads of {size}")));
    }
    let (half, start) = (Dim::from(turned / 2), Dim::from(0i64));
    for cache in [&mut cos, &mut sin] {
        *cache = c.unsqueeze(*cache, head_axis)?;
        if !c.shape(*cache)[3].is(turned / 2) {
            return Err(invalid(format!("a cache of {}", c.b.text(&c.shape(*cache)))));
        }
    }
    let rotated = c.part_of(x, 3, &start, &Dim::from(turned))?;
    let (x1, x2) = match interleaved {
        true => (
            c.stepped(rotated, 3, &start, &half, 2)?,
            c.stepped(rotated, 3, &Dim::from(1i64), &half, 2)?,
        ),
        false => (c.part_of(rotated, 3, &start, &half)?, c.part_of(rotated, 3, &half, &half)?),
    };
    let (a1, b2) = (c.mul(cos, x1)?, c.mul(sin, x2)?);
    let (b1, a2) = (c.mul(sin, x1)?, c.mul(cos, x2)?);
    let (real, imaginary) = (c.sub(a1, b2)?, c.add(b1, a2)?);
    let mut y = if interleaved {
        let whole = c.shape(rotated);
        let (real, imaginary) = (c.unsqueeze(real, 4)?, c.unsqueeze(imaginary, 4)?);
        let pairs = c.concat(&[real, imaginary], 4)?;
        c.reshape(pairs, whole)?
    } else {
        c.concat(&[real, imaginary], 3)?
    };
    if turned < size {
        let rest = c.part_of(x, 3, &Dim::from(turned), &Dim::from(size - turned))?;
        y = c.concat(&[y, rest], 3)?;
    }
    let y = c.reshape(y, shape)?;
    Ok(vec![c.cast(y, dtype)?])
}

/// `a * sigmoid(alpha * a)`.
pub(super) fn swish(c: &mut Compose<'_, '_>, x: ValueId, alpha: f32) -> Made {
    if alpha == 1.0 {
        return c.unary(UnaryKind::Silu, x);
    }
    let inner = c.scaled(x, alpha)?;
    let gate = c.unary(UnaryKind::Sigmoid, inner)?;
    c.mul(x, gate)
}

fn swiglu(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let alpha = node.attributes.float("alpha", 1.0)?;
    let c = &mut Compose::new(b, node);
    let (x, y) = (node.required(0, "A")?, node.required(1, "B")?);
    let dtype = c.dtype(x);
    if !c.same_shape(&c.shape(x), &c.shape(y)) || c.dtype(y) != dtype {
        return Err(invalid("A and B differ in type or shape"));
    }
    let (x, y) = (c.real(x)?, c.real(y)?);
    let gate = swish(c, x, alpha)?;
    let z = c.mul(gate, y)?;
    Ok(vec![c.cast(z, dtype)?])
}

/// The recurrence, step by step.
fn linear_attention(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(6)?;
    let a = &node.attributes;
    // A hint for parallel kernels.
    a.ignore("chunk_size");
    let heads = |name: &str| match a.optional_int(name)? {
        Some(heads) if heads > 0 => Ok(heads),
        _ => Err(invalid(format!("attribute `{name}` is missing or not positive"))),
    };
    let (q_heads, kv_heads) = (heads("q_num_heads")?, heads("kv_num_heads")?);
    if q_heads % kv_heads != 0 {
        return Err(invalid(format!("{q_heads} query heads share {kv_heads} key heads")));
    }
    let scale = a.float("scale", 0.0)?;
    let (gated, delta) = match a.string("update_rule", "gated_delta")? {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return Err(invalid(format!("update_rule `{other}` is not defined"))),
    };

    let c = &mut Compose::new(b, node);
    let given = [node.required(0, "query")?, node.required(1, "key")?, node.required(2, "value")?];
    let dtype = c.dtype(given[0]);
    let mut qkv = given;
    for (x, heads) in qkv.iter_mut().zip([q_heads, kv_heads, kv_heads]) {
        *x = c.real(*x)?;
        *x = split_heads(c, *x, heads)?;
    }
    let [q, k, v] = qkv;
    let (batch, steps) = (c.shape(k)[0].clone(), c.shape(k)[2].clone());
    let (size_k, size_v) = (c.shape(k)[3].clone(), c.shape(v)[3].clone());
    let Some(step_count) = steps.as_const().filter(|steps| (1..=MAX_STEPS).contains(steps)) else {
        let steps = steps.display(&c.graph().symbols);
        return Err(unsupported(
            format!("a recurrence over {steps} steps; 1 to {MAX_STEPS} are written out"),
            "export the model for single steps, with past_state",
        ));
    };
    let scale = match (scale, size_k.as_const()) {
        (0.0, Some(size)) if size > 0 => (1.0 / (size as f64).sqrt()) as f32,
        (0.0, _) => return Err(unsupported("a dynamic head size", FIX_THE_DIM)),
        (scale, _) => scale,
    };
    // [batch, heads, steps, size or 1].
    let gate = |c: &mut Compose<'_, '_>, index: usize, name: &str, used: bool| {
        let Some(x) = node.input(index).filter(|_| used) else {
            return match used || node.input(index).is_some() {
                true => Err(invalid(format!("input {name} doesn't fit the update rule"))),
                false => Ok(None),
            };
        };
        let x = c.real(x)?;
        let alone = c.shape(x).last().is_some_and(|size| size.is(1));
        split_heads(c, x, if alone { 1 } else { kv_heads }).map(Some)
    };
    let decay = gate(c, 4, "decay", gated)?;
    let beta = gate(c, 5, "beta", delta)?;

    let of_state = vec![batch, Dim::from(kv_heads), size_k, size_v];
    let (mut state, state_type) = match node.input(3) {
        Some(past) => {
            if c.shape(past) != of_state {
                return Err(invalid("past_state doesn't have one matrix per head"));
            }
            (Some(c.real(past)?), c.dtype(past))
        }
        None => (None, dtype),
    };
    let q = c.scaled(q, scale)?;
    let mut outputs = Vec::new();
    for step in 0..step_count {
        let (at, one) = (Dim::from(step), Dim::from(1i64));
        let row = |c: &mut Compose<'_, '_>, x: ValueId| c.part_of(x, 2, &at, &one);
        // Rows [batch, heads, 1, size].
        let (q, k, mut v) = (row(c, q)?, row(c, k)?, row(c, v)?);
        if let (Some(decay), Some(before)) = (decay, state) {
            let decay = row(c, decay)?;
            let kept = c.unary(UnaryKind::Exp, decay)?;
            let kept = c.transpose(kept, &[0, 1, 3, 2])?;
            state = Some(c.mul(before, kept)?);
        }
        if let Some(beta) = beta {
            if let Some(before) = state {
                let known = c.matmul(k, before)?;
                v = c.sub(v, known)?;
            }
            let beta = row(c, beta)?;
            v = c.mul(beta, v)?;
        }
        let column = c.transpose(k, &[0, 1, 3, 2])?;
        let written = c.mul(column, v)?;
        let now = match state {
            Some(before) => c.add(before, written)?,
            None => written,
        };
        state = Some(now);
        outputs.push(read(c, q, now, q_heads / kv_heads)?);
    }
    let y = c.concat(&outputs, 2)?;
    let y = join_heads(c, y)?;
    let mut results = vec![c.cast(y, dtype)?];
    if let Some(state) = state.filter(|_| node.wants(1)) {
        results.push(c.cast(state, state_type)?);
    }
    Ok(results)
}

/// `q · state`, where `group` query heads share a state.
fn read(
    c: &mut Compose<'_, '_>,
    q: ValueId,
    state: ValueId,
    group: i64,
) -> Result<ValueId, Failure> {
    if group == 1 {
        return c.matmul(q, state);
    }
    let (of_q, of_state) = (c.shape(q), c.shape(state));
    // The query heads of a group are rows that meet one state.
    let rows = vec![of_state[0].clone(), of_state[1].clone(), Dim::from(group), of_q[3].clone()];
    let q = c.reshape(q, rows)?;
    let y = c.matmul(q, state)?;
    c.reshape(y, vec![of_q[0].clone(), of_q[1].clone(), Dim::from(1i64), of_state[3].clone()])
}

/// Layer normalisation over the last axis: `(x - mean) / sqrt(variance + epsilon) * scale + bias`.
pub(super) fn layer_norm(
    c: &mut Compose<'_, '_>,
    x: ValueId,
    scale: ValueId,
    bias: Option<ValueId>,
    epsilon: f32,
) -> Made {
    let last = c.rank(x).checked_sub(1).ok_or_else(|| invalid("a scalar is normalised"))?;
    let how = (NormKind::Layer, last, epsilon);
    normalized(c, x, how, [Some(scale), bias])
}
