//! Operators that move elements.

use candle_core::{DType, Tensor};

use crate::dim::Dim;
use crate::graph::PadMode;
use crate::learn::LearnError;
use crate::learn::forward::Call;

/// The places of an axis in another order; places may come several times or not at all.
fn select(x: &Tensor, axis: usize, places: Vec<i64>) -> candle_core::Result<Tensor> {
    let places = Tensor::from_vec(places.clone(), places.len(), x.device())?;
    x.contiguous()?.index_select(&places, axis)
}

pub(super) fn concat(call: &Call<'_>, axis: usize) -> Result<Tensor, LearnError> {
    let out = call.out()?;
    let part = |operand: usize| -> Result<Tensor, LearnError> {
        let x = call.operand(operand)?;
        let mut shape = out.clone();
        shape[axis] = x.dim(axis)?;
        // A constant part is the same for every sample.
        Ok(if x.dims() == shape { x.clone() } else { x.broadcast_as(shape)?.contiguous()? })
    };
    let parts = (0..call.inputs.len()).map(part).collect::<Result<Vec<_>, _>>()?;
    Ok(Tensor::cat(&parts, axis)?)
}

pub(super) fn slice(call: &Call<'_>, starts: &[Dim], steps: &[i64]) -> Result<Tensor, LearnError> {
    let (mut x, out) = (call.operand(0)?.clone(), call.out()?);
    for (axis, (start, step)) in starts.iter().zip(steps).enumerate() {
        if x.dims()[axis] == out[axis] && *step == 1 {
            continue;
        }
        let start = call
            .forward
            .number(start)
            .ok_or_else(|| call.unsupported("where it begins isn't known"))?;
        x = match usize::try_from(start) {
            Ok(start) if *step == 1 => x.narrow(axis, start, out[axis])?,
            _ => select(&x, axis, (0..out[axis] as i64).map(|i| start + i * step).collect())?,
        };
    }
    Ok(x.contiguous()?)
}

pub(super) fn expand(call: &Call<'_>) -> Result<Tensor, LearnError> {
    let out = call.out()?;
    Ok(call.aligned(0, out.len())?.broadcast_as(out)?.contiguous()?)
}

pub(super) fn pad(
    call: &Call<'_>,
    before: &[usize],
    after: &[usize],
    mode: PadMode,
) -> Result<Tensor, LearnError> {
    let mut x = call.operand(0)?.clone();
    for (axis, (before, after)) in before.iter().zip(after).enumerate() {
        if *before + *after == 0 {
            continue;
        }
        let size = x.dim(axis)? as i64;
        if let PadMode::Constant(value) = mode {
            let fill = |len: usize| {
                let mut shape = x.dims().to_vec();
                shape[axis] = len;
                Tensor::full(value, shape, x.device())
            };
            let mut parts = vec![x.clone()];
            if *before > 0 {
                parts.insert(0, fill(*before)?);
            }
            if *after > 0 {
                parts.push(fill(*after)?);
            }
            x = Tensor::cat(&parts, axis)?;
            continue;
        }
        let place = |i: i64| match mode {
            PadMode::Edge => i.clamp(0, size - 1),
            PadMode::Wrap => i.rem_euclid(size),
            _ => {
                // There and back again has twice the way between the ends.
                let period = (2 * (size - 1)).max(1);
                let i = i.rem_euclid(period);
                i.min(period - i)
            }
        };
        let places = (-(*before as i64)..size + *after as i64).map(place).collect();
        x = select(&x, axis, places)?;
    }
    Ok(x)
}

pub(super) fn gather(call: &Call<'_>, axis: usize) -> Result<Tensor, LearnError> {
    let (x, indices) = (call.operand(0)?, call.operand(1)?);
    if indices.dtype() != DType::I64 {
        return Err(call.unsupported("its indices are computed from reals"));
    }
    let size = x.dim(axis)? as i64;
    let places: Vec<i64> = indices.flatten_all()?.to_vec1()?;
    let places = places.into_iter().map(|i| if i < 0 { i + size } else { i }).collect();
    Ok(select(x, axis, places)?.reshape(call.out()?)?)
}

pub(super) fn interpolate(call: &Call<'_>, axis: usize) -> Result<Tensor, LearnError> {
    let (x, indices, weights) = (call.operand(0)?, call.operand(1)?, call.operand(2)?);
    let (size, taps) = indices.dims2()?;
    let mut shape = vec![1; x.rank()];
    shape[axis] = size;
    let mut sum: Option<Tensor> = None;
    for tap in 0..taps {
        let places = indices.narrow(1, tap, 1)?.flatten_all()?.to_vec1()?;
        let weights = weights.narrow(1, tap, 1)?.reshape(shape.as_slice())?;
        let part = select(x, axis, places)?.broadcast_mul(&weights)?;
        sum = Some(match sum {
            Some(sum) => (sum + part)?,
            None => part,
        });
    }
    sum.ok_or_else(|| call.unsupported("it has no taps"))
}

pub(super) fn cast(call: &Call<'_>) -> Result<Tensor, LearnError> {
    let x = call.operand(0)?;
    match call.forward.graph().value(call.node.outputs[0]).dtype {
        whit::DType::F32 => Ok(x.to_dtype(DType::F32)?),
        whit::DType::I32 | whit::DType::I64 if x.dtype() != DType::F32 => {
            Ok(x.to_dtype(DType::I64)?)
        }
        _ => Err(call.unsupported("reals become integers")),
    }
}
