//! Operators as tensor arithmetic, by families.

mod attention;
mod data;
mod elementwise;
mod layers;
mod reduce;

use candle_core::Tensor;

pub(super) use reduce::softmax;

use super::LearnError;
use super::forward::Call;
use super::kernels::fake_quantize;
use crate::graph::Op;
use crate::quantize::{is_quantized_type, limits};

/// The results of a node.
pub(super) fn run(call: &Call<'_>) -> Result<Vec<Tensor>, LearnError> {
    let result = match &call.node.op {
        Op::Conv(conv) => layers::conv(call, conv)?,
        Op::MatMul(matmul) => layers::matmul(call, matmul)?,
        Op::Pool(pool) => layers::pool(call, pool)?,
        Op::BatchNorm { epsilon } => layers::batch_norm(call, *epsilon)?,
        Op::Binary(kind) => elementwise::binary(call, *kind)?,
        Op::Compare(kind) => elementwise::compare(call, *kind)?,
        Op::Unary(kind) => elementwise::unary(call, *kind)?,
        Op::Where => elementwise::choose(call)?,
        Op::Softmax { axis, log } => reduce::softmax(call.operand(0)?, *axis, *log)?,
        Op::Reduce { kind, axes, keep_dims } => reduce::reduce(call, *kind, axes, *keep_dims)?,
        Op::Normalize { kind, axis, epsilon } => reduce::normalize(call, *kind, *axis, *epsilon)?,
        Op::Attention(attention) => attention::attention(call, attention)?,
        Op::Concat { axis } => data::concat(call, *axis)?,
        Op::Slice { starts, steps } => data::slice(call, starts, steps)?,
        Op::Transpose { perm } => call.operand(0)?.permute(perm.as_slice())?.contiguous()?,
        Op::Reshape => call.operand(0)?.reshape(call.out()?)?,
        Op::Expand => data::expand(call)?,
        Op::Pad { before, after, mode } => data::pad(call, before, after, *mode)?,
        Op::Gather { axis } => data::gather(call, *axis)?,
        Op::Interpolate { axis } => data::interpolate(call, *axis)?,
        Op::Cast => data::cast(call)?,
        Op::Quantize => quantize(call)?,
        // What stands on a grid is a real here.
        Op::Dequantize => call.operand(0)?.clone(),
        _ => return Err(call.unsupported("learning doesn't know this operator")),
    };
    if call.node.outputs.len() > 1 {
        return Err(call.unsupported("it has several results"));
    }
    Ok(vec![result])
}

/// Of the operators that `Forward` asks nothing more of: whether each sample of a batch is computed by itself.
pub(super) fn keeps_samples_apart(op: &Op) -> bool {
    matches!(
        op,
        Op::Pool(_)
            | Op::BatchNorm { .. }
            | Op::Binary(_)
            | Op::Compare(_)
            | Op::Unary(_)
            | Op::Where
            | Op::Attention(_)
            | Op::Reshape
            | Op::Expand
            | Op::Pad { .. }
            | Op::Cast
            | Op::Quantize
            | Op::Dequantize
    )
}

fn quantize(call: &Call<'_>) -> Result<Tensor, LearnError> {
    let value = call.forward.graph().value(call.node.outputs[0]);
    match &value.quant {
        Some(quant) if quant.axis.is_none() && is_quantized_type(value.dtype) => Ok(fake_quantize(
            call.operand(0)?,
            quant.scale[0],
            quant.zero_point[0],
            limits(value.dtype),
        )?),
        _ => Err(call.unsupported("its grid isn't one of i8 or i16 for the whole tensor")),
    }
}
