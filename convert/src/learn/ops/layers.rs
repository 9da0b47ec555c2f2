//! Convolutions, matrix products, pooling: a matrix of windows times a matrix of weights.

use candle_core::Tensor;

use crate::graph::{Clamp, Conv, MatMul, Pool, PoolKind};
use crate::learn::LearnError;
use crate::learn::forward::Call;
use crate::learn::kernels::{add_rows, clamp, product};
use crate::learn::windows::Windows;

/// Three axes, missing ones in front.
fn three(axes: &[usize], missing: usize) -> Option<[usize; 3]> {
    let mut all = [missing; 3];
    all.get_mut(3usize.checked_sub(axes.len())?..)?.copy_from_slice(axes);
    Some(all)
}

/// How the windows of a node with these attributes lie over x.
fn windows(
    call: &Call<'_>,
    x: &Tensor,
    kernel: &[usize],
    stride: &[usize],
    dilation: &[usize],
    pad: &[usize],
) -> Result<Windows, LearnError> {
    let (input, out) = (x.dims(), call.out()?);
    let fits = input.len() == kernel.len() + 2 && out.len() == input.len();
    let lie = fits.then(|| {
        let last = input.len() - 1;
        Some(Windows {
            images: input[0],
            channels: input[last],
            size: three(&input[1..last], 1)?,
            out: three(&out[1..last], 1)?,
            kernel: three(kernel, 1)?,
            stride: three(stride, 1)?,
            dilation: three(dilation, 1)?,
            pad: three(pad, 0)?,
        })
    });
    lie.flatten().ok_or_else(|| call.unsupported("it has more than three spatial axes"))
}

/// Bias, residual and clamp behind the rows of a product, in the shape of the result.
fn finish(call: &Call<'_>, rows: Tensor, bounds: Clamp) -> Result<Tensor, LearnError> {
    let mut y = rows;
    if let Some(bias) = call.optional(2) {
        let columns = y.dims().last().copied().unwrap_or(1);
        y = add_rows(&y, &bias.flatten_all()?.broadcast_as(columns)?)?;
    }
    y = y.reshape(call.out()?)?;
    if let Some(residual) = call.optional(3) {
        y = y.broadcast_add(residual)?;
    }
    Ok(clamp(&y, bounds.min, bounds.max)?)
}

pub(super) fn conv(call: &Call<'_>, conv: &Conv) -> Result<Tensor, LearnError> {
    let (x, weights) = (call.operand(0)?, call.operand(1)?);
    let lie = windows(call, x, &conv.kernel, &conv.stride, &conv.dilation, &conv.pad_before)?;
    let outputs = weights.dim(0)?;
    let (groups, taps) = (conv.groups, lie.taps());
    let inputs = lie.channels / groups;
    if groups > 1 && inputs == 1 {
        // Each output reads one channel; channels read by several outputs are repeated.
        let times = outputs / groups;
        let x = if times == 1 { x.clone() } else { repeat_channels(x, times)? };
        let rows = weights.reshape((outputs, taps))?.t()?;
        return finish(
            call,
            Windows { channels: outputs, ..lie }.depthwise(&x, &rows)?,
            conv.clamp,
        );
    }
    let mut parts = Vec::with_capacity(groups);
    let last = x.rank() - 1;
    for group in 0..groups {
        let x = if groups == 1 { x.clone() } else { x.narrow(last, group * inputs, inputs)? };
        let lie = Windows { channels: inputs, ..lie };
        let rows = if lie.is_pixels() { x } else { lie.gather(&x, 0.0)? };
        let rows = rows.reshape((lie.rows(), taps * inputs))?;
        let own = outputs / groups;
        let weights = weights.narrow(0, group * own, own)?.reshape((own, taps * inputs))?;
        parts.push(product(&rows, &weights)?);
    }
    let rows = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 1)? };
    finish(call, rows, conv.clamp)
}

/// Every channel several times in a row.
fn repeat_channels(x: &Tensor, times: usize) -> Result<Tensor, LearnError> {
    let mut shape = x.dims().to_vec();
    let channels = shape.pop().unwrap_or(1);
    let pixels: usize = shape.iter().product();
    let repeated = x.reshape((pixels, channels, 1))?.broadcast_as((pixels, channels, times))?;
    shape.push(channels * times);
    Ok(repeated.reshape(shape)?)
}

pub(super) fn matmul(call: &Call<'_>, matmul: &MatMul) -> Result<Tensor, LearnError> {
    let (a, b) = (call.operand(0)?, call.operand(1)?);
    if b.rank() == 2 && a.rank() >= 2 && !matmul.transpose_a {
        let weights = if matmul.transpose_b { b.clone() } else { b.t()? };
        let k = weights.dim(1)?;
        let rows = product(&a.reshape((a.elem_count() / k.max(1), k))?, &weights)?;
        return finish(call, rows, matmul.clamp);
    }
    let rank = a.rank().max(b.rank());
    if a.rank() < 2 || b.rank() < 2 {
        return Err(call.unsupported("an operand of a matrix product is a vector"));
    }
    let (mut a, mut b) = (call.aligned(0, rank)?, call.aligned(1, rank)?);
    if matmul.transpose_a {
        a = a.t()?;
    }
    if matmul.transpose_b {
        b = b.t()?;
    }
    let y = a.contiguous()?.broadcast_matmul(&b.contiguous()?)?;
    finish(call, y, matmul.clamp)
}

pub(super) fn pool(call: &Call<'_>, pool: &Pool) -> Result<Tensor, LearnError> {
    let x = call.operand(0)?;
    let lie = windows(call, x, &pool.kernel, &pool.stride, &pool.dilation, &pool.pad_before)?;
    let y = match pool.kind {
        PoolKind::Max => {
            let windows = lie.gather(x, f32::NEG_INFINITY)?;
            // The gradient goes to one of equal maxima.
            let largest = windows.detach().argmax_keepdim(1)?;
            windows.gather(&largest, 1)?
        }
        PoolKind::Average => {
            let sums = lie.gather(x, 0.0)?.sum(1)?;
            let counts = counts(pool, &lie);
            let counts = Tensor::from_vec(counts, (lie.rows(), 1), x.device())?;
            sums.broadcast_div(&counts)?
        }
        PoolKind::Norm { .. } => return Err(call.unsupported("a pooling by norms")),
    };
    Ok(y.reshape(call.out()?)?)
}

/// What each window's sum is divided by.
fn counts(pool: &Pool, lie: &Windows) -> Vec<f32> {
    if !pool.count_include_pad {
        return lie.counts();
    }
    // Padded positions count, those beyond the padding don't.
    let after = three(&pool.pad_after, 0).unwrap_or_default();
    let padded = std::array::from_fn(|axis| lie.size[axis] + lie.pad[axis] + after[axis]);
    Windows { size: padded, pad: [0; 3], ..*lie }.counts()
}

pub(super) fn batch_norm(call: &Call<'_>, epsilon: f32) -> Result<Tensor, LearnError> {
    let [scale, bias, mean, variance] = [1, 2, 3, 4].map(|operand| call.operand(operand));
    let factor = (scale? / (variance? + f64::from(epsilon))?.sqrt()?)?;
    let shift = (bias? - (mean? * &factor)?)?;
    Ok(call.operand(0)?.broadcast_mul(&factor)?.broadcast_add(&shift)?)
}
