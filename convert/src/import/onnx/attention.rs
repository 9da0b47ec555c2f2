//! Attention: products, masks and softmax in their plain form, which the pass `attention` fuses.

use whit::DType;

use super::builder::{Builder, Outcome};
use super::compose::{Compose, Made};
use super::dims;
use super::failure::{FIX_THE_DIM, Failure, invalid, unsupported};
use super::node::OnnxNode;
use super::proto::data_type;
use crate::dim::Dim;
use crate::graph::{BinaryKind, CompareKind, ReduceKind, UnaryKind, ValueId};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[("Attention", attention)];

/// Of the domain `ai.onnx.preview`.
pub(super) const PREVIEW_OPERATORS: &[(&str, super::Importer)] =
    &[("FlexAttention", flex_attention)];

/// What a query may see of the keys, by position: query `i` is at position `offset + i`.
pub(super) struct Frontier {
    /// Keys behind the query's position aren't seen.
    pub(super) causal: bool,
    /// Keys further back than this aren't seen.
    pub(super) left: Option<i64>,
    /// Keys further ahead than this aren't seen.
    pub(super) right: Option<i64>,
}

impl Frontier {
    pub(super) const CAUSAL: Frontier = Frontier { causal: true, left: None, right: None };

    fn sees_all(&self) -> bool {
        !self.causal && self.left.is_none() && self.right.is_none()
    }

    fn sees(&self, position: i64, key: i64) -> bool {
        (!self.causal || key <= position)
            && self.left.is_none_or(|left| position - key <= left)
            && self.right.is_none_or(|right| key - position <= right)
    }
}

/// A bias that is added to the scores, and whether it may leave a query nothing to see.
pub(super) struct Bias {
    pub(super) value: Option<ValueId>,
    pub(super) may_mask_rows: bool,
}

/// The stages of an attention, for operators that hand them out.
pub(super) struct Stages {
    pub(super) output: ValueId,
    scores: ValueId,
    capped: ValueId,
    biased: ValueId,
    probabilities: ValueId,
}

/// `[b, s, heads * d]` as `[b, heads, s, d]`.
pub(super) fn split_heads(c: &mut Compose<'_, '_>, x: ValueId, heads: i64) -> Made {
    let shape = c.shape(x);
    let [batch, length, width] = shape.as_slice() else {
        return Err(invalid(format!("{} axes instead of 3", shape.len())));
    };
    let size = dims::floor_div_by(width, heads);
    if heads < 1 || !c.same(&size.mul(&Dim::from(heads)), width) {
        let width = width.display(&c.graph().symbols);
        return Err(invalid(format!("{width} channels don't divide into {heads} heads")));
    }
    let apart = vec![batch.clone(), length.clone(), Dim::from(heads), size];
    let x = c.reshape(x, apart)?;
    c.transpose(x, &[0, 2, 1, 3])
}

/// The reverse of [`split_heads`].
pub(super) fn join_heads(c: &mut Compose<'_, '_>, x: ValueId) -> Made {
    let x = c.transpose(x, &[0, 2, 1, 3])?;
    let shape = c.shape(x);
    let width = dims::product(&shape[2..])?;
    c.reshape(x, vec![shape[0].clone(), shape[1].clone(), width])
}

/// Every head repeated for the query heads that share it.
fn repeat_heads(c: &mut Compose<'_, '_>, x: ValueId, heads: &Dim) -> Made {
    let shape = c.shape(x);
    if c.same(&shape[1], heads) {
        return Ok(x);
    }
    let (Some(of_x), Some(heads)) = (shape[1].as_const(), heads.as_const()) else {
        return Err(unsupported("a dynamic number of heads", FIX_THE_DIM));
    };
    if of_x < 1 || heads % of_x != 0 {
        return Err(invalid(format!("{heads} query heads share {of_x} key heads")));
    }
    let x = c.unsqueeze(x, 2)?;
    let mut repeated = c.shape(x);
    repeated[2] = Dim::from(heads / of_x);
    let x = c.expand(x, repeated)?;
    c.reshape(x, vec![shape[0].clone(), Dim::from(heads), shape[2].clone(), shape[3].clone()])
}

/// `softmax(softcap(q · kᵀ * scale) + bias) · v` over `[b, heads, s, d]`.
pub(super) fn attend(
    c: &mut Compose<'_, '_>,
    [q, k, v]: [ValueId; 3],
    scale: f32,
    softcap: f32,
    bias: &Bias,
) -> Result<Stages, Failure> {
    let heads = c.shape(q)[1].clone();
    let (k, v) = (repeat_heads(c, k, &heads)?, repeat_heads(c, v, &heads)?);
    let q = c.scaled(q, scale)?;
    let scores = c.matmul_transposed(q, k)?;
    let mut capped = scores;
    if softcap > 0.0 {
        let cap = c.scalar(DType::F32, f64::from(softcap))?;
        let inner = c.div(scores, cap)?;
        let bent = c.unary(UnaryKind::Tanh, inner)?;
        capped = c.mul(bent, cap)?;
    }
    let biased = match bias.value {
        Some(bias) => c.add(capped, bias)?,
        None => capped,
    };
    if c.shape(biased) != c.shape(capped) {
        let (bias, scores) = (c.b.text(&c.shape(biased)), c.b.text(&c.shape(capped)));
        return Err(invalid(format!("a bias makes scores of {scores} to {bias}")));
    }
    let mut probabilities = c.softmax(biased, 3, false)?;
    if let Some(bias) = bias.value.filter(|_| bias.may_mask_rows) {
        // Softmax over nothing but -inf is not a number; a query that sees nothing gives zeros.
        let most = c.reduce(ReduceKind::Max, bias, &[c.rank(bias) - 1], true)?;
        let nothing = c.scalar(DType::F32, f64::NEG_INFINITY)?;
        let blind = c.compare(CompareKind::Equal, most, nothing)?;
        let zero = c.scalar(DType::F32, 0.0)?;
        probabilities = c.select(blind, zero, probabilities)?;
    }
    let output = c.matmul(probabilities, v)?;
    Ok(Stages { output, scores, capped, biased, probabilities })
}

/// 0 where the condition holds, else −∞.
pub(super) fn additive(c: &mut Compose<'_, '_>, condition: ValueId) -> Made {
    let (zero, nothing) = (c.scalar(DType::F32, 0.0)?, c.scalar(DType::F32, f64::NEG_INFINITY)?);
    c.select(condition, zero, nothing)
}

/// The bias `[queries, keys]` of a frontier whose offset is the same for every sample. Where sizes are
/// symbolic it is a part of the largest one.
pub(super) fn frontier_bias(
    c: &mut Compose<'_, '_>,
    frontier: &Frontier,
    offset: &Dim,
    queries: &Dim,
    keys: &Dim,
) -> Result<Bias, Failure> {
    if frontier.sees_all() {
        return Ok(Bias { value: None, may_mask_rows: false });
    }
    let (first, start) = match offset.as_const() {
        Some(offset) => (offset, Dim::from(0i64)),
        None => (0, offset.clone()),
    };
    let end = dims::sum(&start, queries).ok_or_else(|| invalid("the sizes overflow"))?;
    let (rows, columns) = (c.largest(&end)?, c.largest(keys)?);
    let all = c.reals("frontier", &[rows, columns], |i| {
        let (row, key) = ((i / columns) as i64, (i % columns) as i64);
        let seen = frontier.sees(first.saturating_add(row), key);
        if seen { 0.0 } else { f32::NEG_INFINITY }
    })?;
    let values = c.graph().constant(all).map(|t| t.to_f32()).unwrap_or_default();
    let is_static = queries.as_const().is_some() && keys.as_const().is_some() && start.is(0);
    if is_static && values.iter().all(|v| *v == 0.0) {
        return Ok(Bias { value: None, may_mask_rows: false });
    }
    // The first key is seen by all from its own position on; a window leaves it behind.
    let may_mask_rows = match is_static {
        true => values.chunks_exact(columns.max(1)).any(|row| row.iter().all(|v| *v != 0.0)),
        false => frontier.left.is_some() || first < 0,
    };
    let rows = c.part_of(all, 0, &start, queries)?;
    let value = Some(c.part_of(rows, 1, &Dim::from(0i64), keys)?);
    Ok(Bias { value, may_mask_rows })
}

/// The bias `[batch, 1, queries or 1, keys]` of the first `lengths[b]` keys being valid, the last query
/// at the last of them.
fn length_bias(
    c: &mut Compose<'_, '_>,
    frontier: &Frontier,
    lengths: ValueId,
    queries: &Dim,
    keys: &Dim,
) -> Made {
    let batch = c.shape(lengths)[0].clone();
    let one = Dim::from(1i64);
    let lengths = c.cast(lengths, DType::I64)?;
    let lengths = c.reshape(lengths, vec![batch, one.clone(), one.clone(), one.clone()])?;
    let key = c.range(keys)?;
    let key = c.reshape(key, vec![one.clone(), one.clone(), one.clone(), keys.clone()])?;
    let mut seen = c.compare(CompareKind::Less, key, lengths)?;
    if !frontier.sees_all() {
        // i - queries, the end of a constant that counts up to -1.
        let most = c.largest(queries)?;
        let from_end = c.ints("from_end", &[most], |i| i as i64 - most as i64)?;
        let start = Dim::from(most).sub(queries);
        let from_end = c.part_of(from_end, 0, &start, queries)?;
        let from_end = c.reshape(from_end, vec![one.clone(), one.clone(), queries.clone(), one])?;
        let position = c.add(lengths, from_end)?;
        let (mut low, mut high) = (None, None);
        if let Some(left) = frontier.left {
            let left = c.scalar(DType::I64, left as f64)?;
            low = Some(c.sub(position, left)?);
        }
        if frontier.causal {
            high = Some(position);
        } else if let Some(right) = frontier.right {
            let right = c.scalar(DType::I64, right as f64)?;
            high = Some(c.add(position, right)?);
        }
        if let Some(low) = low {
            let inside = c.compare(CompareKind::GreaterOrEqual, key, low)?;
            seen = c.binary(BinaryKind::And, seen, inside)?;
        }
        if let Some(high) = high {
            let inside = c.compare(CompareKind::LessOrEqual, key, high)?;
            seen = c.binary(BinaryKind::And, seen, inside)?;
        }
    }
    additive(c, seen)
}

/// A mask as what is added to the scores, padded to all keys.
fn mask_bias(c: &mut Compose<'_, '_>, mask: ValueId, keys: &Dim) -> Made {
    let bias = match c.dtype(mask) {
        DType::Bool => additive(c, mask)?,
        _ => c.real(mask)?,
    };
    let Some(last) = c.shape(bias).last().cloned() else {
        return Err(invalid("the mask is a scalar"));
    };
    if c.same(&last, keys) {
        return Ok(bias);
    }
    match (last.as_const(), keys.as_const()) {
        (Some(last), Some(keys)) if last < keys => {
            let (axis, count) = (c.rank(bias) - 1, (keys - last) as usize);
            c.pad_after(bias, axis, count, f32::NEG_INFINITY)
        }
        (Some(last), Some(keys)) => Err(invalid(format!("a mask of {last} keys, not {keys}"))),
        _ => Err(unsupported("a mask that may be shorter than the keys", FIX_THE_DIM)),
    }
}

pub(super) fn both(
    c: &mut Compose<'_, '_>,
    a: Option<ValueId>,
    b: Option<ValueId>,
) -> Result<Option<ValueId>, Failure> {
    Ok(match (a, b) {
        (Some(a), Some(b)) => Some(c.add(a, b)?),
        (a, b) => a.or(b),
    })
}

/// Refuses what isn't a float type; the computation is in f32, which is at least as precise as asked.
fn check_precision(node: &OnnxNode<'_>) -> Result<(), Failure> {
    let precision = node.attributes.optional_int("softmax_precision")?;
    match precision.map(i32::try_from) {
        None
        | Some(Ok(
            data_type::FLOAT | data_type::FLOAT16 | data_type::BFLOAT16 | data_type::DOUBLE,
        )) => Ok(()),
        _ => Err(invalid("attribute `softmax_precision` is not a float type")),
    }
}

pub(super) fn default_scale(c: &Compose<'_, '_>, q: ValueId) -> Result<f32, Failure> {
    match c.shape(q).last().and_then(Dim::as_const) {
        Some(size) if size > 0 => Ok((1.0 / (size as f64).sqrt()) as f32),
        _ => Err(unsupported("a dynamic head size", FIX_THE_DIM)),
    }
}

fn attention(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(if node.opset < 24 { 6 } else { 7 })?;
    let a = &node.attributes;
    check_precision(node)?;
    let causal = a.flag("is_causal", false)?;
    let softcap = a.float("softcap", 0.0)?;
    let scale = if a.has("scale") { Some(a.float("scale", 0.0)?) } else { None };
    let mode = a.int("qk_matmul_output_mode", 0)?;
    let heads = [a.optional_int("q_num_heads")?, a.optional_int("kv_num_heads")?];
    let mut window = [None; 2];
    if node.opset >= 25 {
        for (side, name) in window.iter_mut().zip(["left_window_size", "right_window_size"]) {
            *side = match a.int(name, -1)? {
                -1 => None,
                size if (0..1 << 40).contains(&size) => Some(size),
                size => return Err(invalid(format!("attribute `{name}` is {size}"))),
            };
        }
    }
    let frontier = Frontier { causal, left: window[0], right: window[1] };
    if !(0..=3).contains(&mode) {
        return Err(invalid(format!("qk_matmul_output_mode {mode} is not defined")));
    }

    let c = &mut Compose::new(b, node);
    let given = [node.required(0, "Q")?, node.required(1, "K")?, node.required(2, "V")?];
    let dtypes = given.map(|x| c.dtype(x));
    if dtypes.contains(&DType::BF16) {
        // Its seven bits make every intermediate rounding visible, and the standard rounds them all.
        return Err(unsupported(
            "attention in bfloat16 is defined with every step rounded",
            "export the model in float32 or float16",
        ));
    }
    let rank = c.rank(given[0]);
    let mut qkv = given;
    for (index, x) in qkv.iter_mut().enumerate() {
        *x = c.real(*x)?;
        if c.rank(*x) != rank || !(3..=4).contains(&rank) {
            return Err(invalid("Q, K and V are not all of 3 or all of 4 axes"));
        }
        if rank == 3 {
            let count = heads[usize::from(index > 0)].ok_or_else(|| {
                invalid("attributes `q_num_heads` and `kv_num_heads` are missing")
            })?;
            *x = split_heads(c, *x, count)?;
        }
    }
    let [q, mut k, mut v] = qkv;

    let (past, nonpad) = ([node.input(4), node.input(5)], node.input(6));
    if past[0].is_some() != past[1].is_some() || (past[0].is_some() && nonpad.is_some()) {
        return Err(invalid("past_key, past_value and nonpad_kv_seqlen don't fit together"));
    }
    let mut offset = Dim::from(0i64);
    if let [Some(past_k), Some(past_v)] = past {
        offset = c.shape(past_k).get(2).cloned().ok_or_else(|| invalid("past_key has 4 axes"))?;
        let (past_k, past_v) = (c.real(past_k)?, c.real(past_v)?);
        k = c.concat(&[past_k, k], 2)?;
        v = c.concat(&[past_v, v], 2)?;
    }

    let (queries, keys) = (c.shape(q)[2].clone(), c.shape(k)[2].clone());
    let mask = node.input(3).map(|mask| mask_bias(c, mask, &keys)).transpose()?;
    let mut bias = match nonpad {
        None => frontier_bias(c, &frontier, &offset, &queries, &keys)?,
        Some(lengths) => {
            if c.rank(lengths) != 1 || !matches!(c.dtype(lengths), DType::I32 | DType::I64) {
                return Err(invalid("nonpad_kv_seqlen is not a vector of integers"));
            }
            let value = Some(length_bias(c, &frontier, lengths, &queries, &keys)?);
            Bias { value, may_mask_rows: true }
        }
    };
    bias.value = both(c, mask, bias.value)?;
    bias.may_mask_rows |= mask.is_some();

    let scale = match scale {
        Some(scale) => scale,
        None => default_scale(c, q)?,
    };
    let stages = attend(c, [q, k, v], scale, softcap, &bias)?;
    let mut y = stages.output;
    if rank == 3 {
        y = join_heads(c, y)?;
    }
    let mut outputs = vec![c.cast(y, dtypes[0])?];
    if node.wants(1) || node.wants(2) || node.wants(3) {
        let tapped = match mode {
            0 => stages.scores,
            1 => stages.capped,
            2 => stages.biased,
            _ => stages.probabilities,
        };
        outputs.extend([c.cast(k, dtypes[1])?, c.cast(v, dtypes[2])?, c.cast(tapped, dtypes[0])?]);
    }
    Ok(outputs)
}

/// Without the subgraphs that modify scores and probabilities.
fn flex_attention(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    check_precision(node)?;
    if node.attributes.has("score_mod") || node.attributes.has("prob_mod") {
        return Err(unsupported(
            "a subgraph that modifies scores or probabilities",
            "export the model with plain attention operators",
        ));
    }
    let scale = match node.attributes.has("scale") {
        true => Some(node.attributes.float("scale", 0.0)?),
        false => None,
    };
    let c = &mut Compose::new(b, node);
    let mut qkv = [node.required(0, "Q")?, node.required(1, "K")?, node.required(2, "V")?];
    let dtype = c.dtype(qkv[0]);
    for x in &mut qkv {
        if c.rank(*x) != 4 {
            return Err(invalid("Q, K and V need 4 axes"));
        }
        *x = c.real(*x)?;
    }
    let scale = match scale {
        Some(scale) => scale,
        None => default_scale(c, qkv[0])?,
    };
    let none = Bias { value: None, may_mask_rows: false };
    let y = attend(c, qkv, scale, 0.0, &none)?.output;
    Ok(vec![c.cast(y, dtype)?])
}
