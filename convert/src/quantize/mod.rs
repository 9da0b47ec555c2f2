//! From real numbers to integers.
//!
//! There is one way to an integer program: a graph with explicit quantize and dequantize nodes,
//! which [`integers::lower`] turns into nodes on i8 and i16. A QDQ model arrives in that form. For a float
//! model, [`calibrate`] finds ranges on data, a [`Quantization`](quantization::Quantization) holds what is
//! decided, [`improve`] makes it better, and [`insert`] puts the nodes in.

pub mod calibrate;
pub mod codebook;
pub mod diagnose;
pub mod improve;
mod insert;
pub mod integers;
pub mod lut;
pub mod measure;
pub mod numbers;
pub mod quantization;
pub mod search;
pub(crate) mod smooth;
pub(crate) mod split;
pub(crate) mod spread;
pub mod weights;

use whit::DType;
use whit::kernels::attention_i8::{MOST_CHANNELS, MOST_KEYS};

use crate::graph::{Graph, Op, Quant, UnaryKind, ValueId};

/// Scale and zero point of an i8 tensor that covers a range; the range is widened to hold 0, which
/// must be exact.
///
/// Asymmetric quantization as in Jacob et al. 2018 (arXiv:1712.05877), section 2.1.
pub fn asymmetric(min: f32, max: f32) -> Quant {
    let (min, max) = (f64::from(min.min(0.0)), f64::from(max.max(0.0)));
    let mut scale = (max - min) / 255.0;
    // A tensor that is always 0 (or almost) is exact at any scale that f32 holds.
    if scale < f64::from(f32::MIN_POSITIVE) * 256.0 {
        scale = 1.0;
    }
    let zero_point = (-128.0 - min / scale).round_ties_even().clamp(-128.0, 127.0);
    Quant::per_tensor(scale as f32, zero_point as i32)
}

/// Scale of an i16 tensor that covers a range, around 0.
pub fn symmetric(min: f32, max: f32) -> Quant {
    let largest = f64::from(min.abs().max(max.abs()));
    let scale = largest / 32767.0;
    let scale = if scale < f64::from(f32::MIN_POSITIVE) { 1.0 } else { scale };
    Quant::per_tensor(scale as f32, 0)
}

/// The types that integer nodes compute in.
pub(crate) fn is_quantized_type(dtype: DType) -> bool {
    matches!(dtype, DType::I8 | DType::I16)
}

/// The smallest and the largest number of a type that integer nodes compute in.
pub(crate) fn limits(dtype: DType) -> [i32; 2] {
    match dtype {
        DType::I16 => [-32768, 32767],
        _ => [-128, 127],
    }
}

/// The reals that a quantized tensor can hold.
pub fn representable(dtype: DType, quant: &Quant) -> (f64, f64) {
    let (scale, zero_point) = (f64::from(quant.scale[0]), quant.zero_point[0]);
    let [low, high] = limits(dtype);
    (scale * f64::from(low - zero_point), scale * f64::from(high - zero_point))
}

/// Nodes that move or pick elements without computing: they work on integers as on reals.
fn moves_elements(op: &Op) -> bool {
    use crate::graph::{PoolKind, ReduceKind, ResizeMode};
    match op {
        Op::Reshape | Op::Transpose { .. } | Op::Slice { .. } | Op::Expand | Op::Concat { .. } => {
            true
        }
        Op::Gather { .. } | Op::Pad { .. } | Op::Resize { mode: ResizeMode::Nearest(_), .. } => {
            true
        }
        Op::GatherElements { .. } | Op::GatherNd { .. } | Op::ReverseSequence { .. } => true,
        Op::Pool(pool) => pool.kind == PoolKind::Max,
        Op::Reduce { kind, .. } => matches!(kind, ReduceKind::Max | ReduceKind::Min),
        _ => false,
    }
}

/// Nodes whose integer result has the scale of their input: those that move elements, and linear
/// interpolation, whose result lies between the elements it blends.
fn keeps_scale(op: &Op) -> bool {
    moves_elements(op) || matches!(op, Op::Resize { mode: crate::graph::ResizeMode::Linear, .. })
}

/// Which inputs of a node are activations that an integer form reads as integers; `None` when the node
/// has no integer form. Weights and biases are not among them.
pub fn integer_inputs(graph: &Graph, node: &crate::graph::Node) -> Option<Vec<usize>> {
    use crate::graph::{BinaryKind, PoolKind, ReduceKind, ResizeMode};
    let constant = |operand: usize| {
        node.inputs.get(operand).copied().flatten().is_some_and(|id| is_constant_source(graph, id))
    };
    let present = |operand: usize| node.inputs.get(operand).copied().flatten().is_some();
    match &node.op {
        Op::Conv(conv)
            if conv.kernel.len() <= 2
                && constant(1)
                && (!present(2) || constant(2))
                && !present(3) =>
        {
            Some(vec![0])
        }
        Op::Pool(pool)
            if pool.kernel.len() > 2
                || node.outputs.len() > 1
                || matches!(pool.kind, PoolKind::Norm { .. }) =>
        {
            None
        }
        Op::MatMul(matmul) => {
            let rank_2 = node
                .inputs
                .get(1)
                .copied()
                .flatten()
                .is_some_and(|b| graph.value(b).shape.len() == 2);
            let fits = constant(1) && rank_2 && !matmul.transpose_a && (!present(2) || constant(2));
            (fits && !present(3)).then(|| vec![0])
        }
        Op::Binary(
            BinaryKind::Add | BinaryKind::Sub | BinaryKind::Mul | BinaryKind::Min | BinaryKind::Max,
        ) => Some(vec![0, 1]),
        Op::Unary(UnaryKind::Not | UnaryKind::BitNot | UnaryKind::RoundNarrow { .. }) => None,
        Op::Unary(_) | Op::Pool(_) | Op::Softmax { log: false, .. } => Some(vec![0]),
        Op::Reduce { kind: ReduceKind::Mean, .. } => Some(vec![0]),
        Op::Resize { mode: ResizeMode::Linear, .. } => Some(vec![0]),
        Op::Concat { .. } => Some((0..node.inputs.len()).collect()),
        Op::Attention(attention) if attention.softcap == 0.0 => {
            let largest: Vec<i64> = graph.symbols.iter().map(|symbol| symbol.max).collect();
            let key = &graph.value((*node.inputs.get(1)?)?).shape;
            let at_most = |axis: usize, most: usize| {
                let size = key.get(axis).and_then(|dim| dim.eval(&largest));
                size.and_then(|size| usize::try_from(size).ok()).is_some_and(|size| size <= most)
            };
            let fits = at_most(2, MOST_KEYS) && at_most(3, MOST_CHANNELS);
            fits.then(|| vec![0, 1, 2])
        }
        op if moves_elements(op) => Some(vec![0]),
        _ => None,
    }
}

/// Whether a value is a constant, or a dequantized constant.
fn is_constant_source(graph: &Graph, id: ValueId) -> bool {
    graph.value(id).constant.is_some()
        || graph.nodes.iter().find(|node| node.outputs.contains(&id)).is_some_and(|node| {
            node.op == Op::Dequantize
                && node.inputs[0].is_some_and(|source| graph.value(source).constant.is_some())
        })
}

/// A Relu or Clip as bounds.
fn clamp_of(op: &Op) -> Option<(f64, f64)> {
    match op {
        Op::Unary(UnaryKind::Relu) => Some((0.0, f64::INFINITY)),
        Op::Unary(UnaryKind::Clip { min, max }) => Some((f64::from(*min), f64::from(*max))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_exact_and_the_range_is_covered() {
        for (min, max) in [(0.0, 6.0), (-1.0, 1.0), (2.0, 5.0), (-3.0, -1.0), (-0.1, 20.0)] {
            let quant = asymmetric(min, max);
            let (low, high) = representable(DType::I8, &quant);
            let step = f64::from(quant.scale[0]);
            assert!(
                low <= f64::from(min) + step / 2.0 && high >= f64::from(max) - step / 2.0,
                "{min} {max}"
            );
            assert!((-128..=127).contains(&quant.zero_point[0]));
        }
        assert_eq!(asymmetric(0.0, 0.0).scale, [1.0]);
    }
}
