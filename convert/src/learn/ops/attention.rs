//! Scaled dot-product attention.

use candle_core::Tensor;

use super::reduce::softmax;
use crate::graph::Attention;
use crate::learn::LearnError;
use crate::learn::forward::Call;
use crate::learn::kernels::pointwise;

/// What hides a key: its exponential is 0 beside any score, and unlike −∞ it has no NaN in its gradient.
const HIDDEN: f32 = -1e30;

pub(super) fn attention(call: &Call<'_>, attention: &Attention) -> Result<Tensor, LearnError> {
    if attention.zero_rows {
        return Err(call.unsupported("queries without any key"));
    }
    let q = call.operand(0)?.contiguous()?;
    let heads = q.dim(1)?;
    let (k, v) = (shared(call.operand(1)?, heads)?, shared(call.operand(2)?, heads)?);
    let mut scores = (q.matmul(&k.t()?.contiguous()?)? * f64::from(attention.scale))?;
    if attention.softcap > 0.0 {
        let cap = attention.softcap;
        let slope = move |x: f32| 1.0 - (x / cap).tanh().powi(2);
        scores = pointwise(&scores, move |x| cap * (x / cap).tanh(), slope)?;
    }
    if call.optional(3).is_some() {
        let mask = call.aligned(3, 4)?;
        if mask.dtype() != scores.dtype() {
            return Err(call.unsupported("a mask that isn't added"));
        }
        let mask = pointwise(&mask, |x| x.max(HIDDEN), |_| 1.0)?;
        scores = scores.broadcast_add(&mask)?;
    }
    if let Some(offset) = &attention.causal {
        let offset = call
            .forward
            .number(offset)
            .ok_or_else(|| call.unsupported("the offset of its mask isn't known"))?;
        let (queries, keys) = (scores.dim(2)?, scores.dim(3)?);
        let hidden = |at: usize| (at % keys) as i64 > (at / keys) as i64 + offset;
        let mask = (0..queries * keys).map(|at| if hidden(at) { HIDDEN } else { 0.0 }).collect();
        scores = scores.broadcast_add(&Tensor::from_vec::<_, f32>(
            mask,
            (queries, keys),
            scores.device(),
        )?)?;
    }
    Ok(softmax(&scores, 3, false)?.matmul(&v)?)
}

/// Every key head once for each query head that reads it.
fn shared(x: &Tensor, heads: usize) -> Result<Tensor, LearnError> {
    let (b, own, n, d) = x.dims4()?;
    if own == heads {
        return Ok(x.contiguous()?);
    }
    let repeated = x.reshape((b, own, 1, n, d))?.broadcast_as((b, own, heads / own, n, d))?;
    Ok(repeated.reshape((b, heads, n, d))?)
}
