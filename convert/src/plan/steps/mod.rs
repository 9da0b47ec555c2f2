//! From a node to its step: attribute record, packed constants, in-place candidates.

mod conv;
mod conv_i16;
mod data;
mod decoder;
mod elementwise;
mod float_weights;
mod indexing;
mod recurrent;
mod reduce;

use whit::DType;
use whit::format::Op as StepOp;

use crate::graph::{Clamp, Node, Op, Quant, Value};
use crate::plan::builder::unsupported;
use crate::plan::fuse::Activation;
use crate::plan::{Builder, PlanError};
use crate::quantize::limits;

pub(crate) use conv::packed_weights;
pub(super) use elementwise::unary_op;

/// Adds the steps of a node, which only a layer with packed weights may have an activation behind.
pub(super) fn lower(
    builder: &mut Builder<'_>,
    node: &Node,
    activation: Option<Activation>,
) -> Result<(), PlanError> {
    float_weights::check_groups(builder.graph, node)?;
    match &node.op {
        Op::Conv(conv) => conv::conv(builder, node, conv, activation),
        Op::MatMul(matmul) => conv::matmul(builder, node, matmul, activation),
        Op::Attention(attention) => conv::attention(builder, node, attention),
        Op::Embedding { scale } => decoder::embedding(builder, node, *scale),
        Op::Rotary(rotary) => decoder::rotary(builder, node, rotary),
        Op::CachedAttention(attention) => decoder::cached_attention(builder, node, attention),
        Op::CrossAttention(attention) => decoder::cross_attention(builder, node, attention),
        Op::Gated { kind } => decoder::gated(builder, node, *kind),
        Op::Pool(pool) => reduce::pool(builder, node, pool),
        Op::Reduce { kind, axes, .. } => reduce::reduce(builder, node, *kind, axes),
        Op::ArgReduce { axis, min, select_last, .. } => {
            reduce::arg_reduce(builder, node, *axis, *min, *select_last)
        }
        Op::Normalize { kind, axis, epsilon } => {
            reduce::normalize(builder, node, *kind, *axis, *epsilon)
        }
        Op::Interpolate { axis } => data::interpolate(builder, node, *axis),
        Op::Softmax { axis, log } => reduce::softmax(builder, node, *axis, *log),
        Op::Binary(kind) => elementwise::binary(builder, node, *kind),
        Op::Compare(kind) => elementwise::compare(builder, node, *kind),
        Op::Unary(kind) => elementwise::unary(builder, node, *kind),
        Op::Lut { table } => elementwise::lut_step(builder, node, table),
        Op::Where => elementwise::where_(builder, node),
        Op::Cast => elementwise::cast(builder, node),
        Op::Quantize => elementwise::quantize(builder, node),
        Op::Dequantize => elementwise::dequantize(builder, node),
        Op::Concat { axis } => data::concat(builder, node, *axis),
        Op::Slice { starts, steps } => data::slice(builder, node, starts, steps),
        Op::Transpose { perm } => data::transpose(builder, node, perm),
        Op::Reshape | Op::BitCast => data::reshape(builder, node),
        Op::Expand => data::expand(builder, node),
        Op::Pad { before, mode, .. } => data::pad(builder, node, before, *mode),
        Op::Resize { mode, coordinates, scales } => {
            data::resize(builder, node, *mode, *coordinates, scales)
        }
        Op::Gather { axis } => data::gather(builder, node, *axis),
        Op::Recurrent(layer) => recurrent::recurrent(builder, node, layer),
        Op::QuantizedLstm(layer) => recurrent::quantized_lstm(builder, node, layer),
        Op::GatherElements { axis } => indexing::gather_elements(builder, node, *axis),
        Op::GatherNd { batch_axes } => indexing::gather_nd(builder, node, *batch_axes),
        Op::ScatterElements { axis, reduction } => {
            indexing::scatter(builder, node, StepOp::ScatterElements, *axis, *reduction)
        }
        Op::ScatterNd { reduction } => {
            indexing::scatter(builder, node, StepOp::ScatterNd, 0, *reduction)
        }
        Op::TopK { axis, smallest } => indexing::top_k(builder, node, *axis, *smallest),
        Op::Cumulative { axis, product, exclusive, reverse } => {
            indexing::cumulative(builder, node, *axis, *product, [*exclusive, *reverse])
        }
        Op::GridSample(sample) => indexing::grid_sample(builder, node, sample),
        Op::RoiAlign(align) => indexing::roi_align(builder, node, align),
        Op::NonMaxSuppression(nms) => indexing::non_max_suppression(builder, node, nms),
        Op::ReverseSequence { time_axis } => indexing::reverse_sequence(builder, node, *time_axis),
        Op::BatchNorm { .. } => Err(unsupported(
            node,
            "its statistics aren't constants, so it could not be folded; export the model for inference",
        )),
    }
}

/// Spatial attributes as records of up to three axes hold them.
fn spatial(node: &Node, values: &[usize]) -> Result<[u32; 3], PlanError> {
    let mut three = [0; 3];
    if values.len() > three.len() {
        let why = format!("{} spatial axes; at most three are supported", values.len());
        return Err(unsupported(node, why));
    }
    for (to, from) in three.iter_mut().zip(values) {
        let large = |_| unsupported(node, format!("{values:?} is too large"));
        *to = u32::try_from(*from).map_err(large)?;
    }
    Ok(three)
}

/// The per-tensor quantization of an integer value.
fn quant_of<'g>(node: &Node, value: &'g Value) -> Result<&'g Quant, PlanError> {
    value
        .quant
        .as_ref()
        .filter(|quant| quant.axis.is_none())
        .ok_or_else(|| unsupported(node, format!("`{}` has no per-tensor scale", value.name)))
}

/// A clamp in real numbers as bounds on quantized values of a type.
fn clamp_q(clamp: &Clamp, quant: &Quant, dtype: DType) -> [i32; 2] {
    let [low, high] = limits(dtype);
    let of = |real: f32, limit: i32| {
        if real.is_infinite() {
            return limit;
        }
        let q = (f64::from(real) / f64::from(quant.scale[0])).round_ties_even()
            + f64::from(quant.zero_point[0]);
        q.clamp(f64::from(low), f64::from(high)) as i32
    };
    [of(clamp.min, low), of(clamp.max, high)]
}

/// The ratio of two scales, rounded once.
fn ratio(numerator: f64, denominator: f32) -> f32 {
    (numerator / f64::from(denominator)) as f32
}

/// Whether a value is a quantized i8 tensor.
fn is_i8(value: &Value) -> bool {
    value.dtype == DType::I8
}

/// Whether a value is a quantized i8 or i16 tensor.
fn is_quantized(value: &Value) -> bool {
    value.dtype == DType::I8 || (value.dtype == DType::I16 && value.quant.is_some())
}
