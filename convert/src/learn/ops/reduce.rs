//! Reductions, softmax, normalisation.

use candle_core::Tensor;

use crate::graph::{NormKind, ReduceKind};
use crate::learn::LearnError;
use crate::learn::forward::Call;
use crate::learn::kernels::pointwise;

pub(crate) fn softmax(x: &Tensor, axis: usize, log: bool) -> Result<Tensor, LearnError> {
    // The largest is only there for the range of exp; it has no part in the gradient.
    let shifted = x.broadcast_sub(&x.detach().max_keepdim(axis)?)?;
    let exp = pointwise(&shifted, f32::exp, f32::exp)?;
    let sum = exp.sum_keepdim(axis)?;
    Ok(match log {
        true => shifted.broadcast_sub(&sum.log()?)?,
        false => exp.broadcast_div(&sum)?,
    })
}

pub(super) fn reduce(
    call: &Call<'_>,
    kind: ReduceKind,
    axes: &[usize],
    keep_dims: bool,
) -> Result<Tensor, LearnError> {
    let x = call.operand(0)?;
    let count: usize = axes.iter().map(|axis| x.dims()[*axis]).product();
    let abs = || pointwise(x, f32::abs, |x| if x < 0.0 { -1.0 } else { 1.0 });
    let y = match kind {
        ReduceKind::Sum => x.sum_keepdim(axes)?,
        ReduceKind::Mean => (x.sum_keepdim(axes)? / count.max(1) as f64)?,
        ReduceKind::L1 => abs()?.sum_keepdim(axes)?,
        ReduceKind::L2 => x.sqr()?.sum_keepdim(axes)?.sqrt()?,
        ReduceKind::SumSquare => x.sqr()?.sum_keepdim(axes)?,
        ReduceKind::LogSum => x.sum_keepdim(axes)?.log()?,
        ReduceKind::LogSumExp => {
            let largest = extreme(&x.detach(), axes, false)?;
            let exp = x.broadcast_sub(&largest)?.exp()?;
            (exp.sum_keepdim(axes)?.log()? + largest)?
        }
        ReduceKind::Max => extreme(x, axes, false)?,
        ReduceKind::Min => extreme(x, axes, true)?,
        ReduceKind::Prod => return Err(call.unsupported("a product over an axis")),
    };
    Ok(if keep_dims { y } else { y.reshape(call.out()?)? })
}

/// The largest or smallest element; the gradient goes to one of equal ones.
fn extreme(x: &Tensor, axes: &[usize], min: bool) -> candle_core::Result<Tensor> {
    axes.iter().try_fold(x.clone(), |x, axis| {
        let plain = x.detach();
        let at = if min { plain.argmin_keepdim(*axis)? } else { plain.argmax_keepdim(*axis)? };
        x.contiguous()?.gather(&at, *axis)
    })
}

pub(super) fn normalize(
    call: &Call<'_>,
    kind: NormKind,
    axis: usize,
    epsilon: f32,
) -> Result<Tensor, LearnError> {
    let x = call.operand(0)?;
    let len: usize = x.dims()[axis..].iter().product();
    let mut rows = x.reshape((x.elem_count() / len.max(1), len))?;
    if kind == NormKind::Layer {
        rows = rows.broadcast_sub(&(rows.sum_keepdim(1)? / len as f64)?)?;
    }
    let square = (rows.sqr()?.sum_keepdim(1)? / len as f64)?;
    let mut y = rows.broadcast_div(&(square + f64::from(epsilon))?.sqrt()?)?;
    if let Some(scale) = call.optional(1) {
        y = y.broadcast_mul(&scale.flatten_all()?)?;
    }
    if let Some(bias) = call.optional(2) {
        y = y.broadcast_add(&bias.flatten_all()?)?;
    }
    Ok(y.reshape(call.out()?)?)
}
