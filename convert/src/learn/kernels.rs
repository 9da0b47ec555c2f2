//! Elementwise functions, products and roundings as operations of candle with gradients of their own: exact formulas where
//! candle approximates, and no gradient computed that nobody asked for.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use crate::quantize::codebook::Codebook;

/// The elements of a contiguous f32 tensor.
pub(super) fn f32s<'s>(storage: &'s CpuStorage, layout: &Layout) -> Result<&'s [f32]> {
    let (start, end) = layout
        .contiguous_offsets()
        .ok_or_else(|| candle_core::Error::Msg("the tensor isn't contiguous".into()))?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// `f(x)` of every element; the gradient is multiplied by `slope(x)`.
pub(super) fn pointwise(
    x: &Tensor,
    f: impl Fn(f32) -> f32 + Send + Sync + 'static,
    slope: impl Fn(f32) -> f32 + Send + Sync + 'static,
) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Pointwise { f, slope })
}

struct Pointwise<F, S> {
    f: F,
    slope: S,
}

impl<F, S> CustomOp1 for Pointwise<F, S>
where
    F: Fn(f32) -> f32 + Send + Sync + 'static,
    S: Fn(f32) -> f32 + Send + Sync + 'static,
{
    fn name(&self) -> &'static str {
        "pointwise"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = f32s(x, layout)?.iter().map(|x| (self.f)(*x)).collect();
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let slope = &self.slope;
        Ok(Some(zip(grad, x, move |grad, x| grad * slope(x))?))
    }
}

/// `f(a, b)` of every pair of elements, without gradients.
pub(super) fn zip(a: &Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32) -> Result<Tensor> {
    a.contiguous()?.apply_op2_no_bwd(&b.contiguous()?, &Zip(f))
}

struct Zip<F>(F);

impl<F: Fn(f32, f32) -> f32> CustomOp2 for Zip<F> {
    fn name(&self) -> &'static str {
        "zip"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (a, b) = (f32s(a, a_layout)?, f32s(b, b_layout)?);
        let y = a.iter().zip(b).map(|(a, b)| (self.0)(*a, *b)).collect();
        Ok((CpuStorage::F32(y), a_layout.shape().clone()))
    }
}

/// Numbers on a grid, as integers hold them, while the gradient passes where they aren't cut: the straight-through
/// estimator (Bengio et al. 2013, arXiv:1308.3432).
pub(super) fn fake_quantize(
    x: &Tensor,
    scale: f32,
    zero_point: i32,
    [low, high]: [i32; 2],
) -> Result<Tensor> {
    let (low, high) = ((low - zero_point) as f32, (high - zero_point) as f32);
    pointwise(
        x,
        move |x| (x / scale).round_ties_even().clamp(low, high) * scale,
        move |x| if (low - 0.5..=high + 0.5).contains(&(x / scale)) { 1.0 } else { 0.0 },
    )
}

/// The nearest integers, both they and `x` in mean steps; the gradient passes where they aren't cut.
pub(super) fn round(x: &Tensor, codebook: Codebook) -> Result<Tensor> {
    let step = codebook.step();
    pointwise(
        x,
        move |x| f32::from(codebook.nearest(f64::from(x * step))) / step,
        move |x| f32::from(codebook.reaches(x * step)),
    )
}

/// Cut to a range; the gradient passes inside of it.
pub(super) fn clamp(x: &Tensor, min: f32, max: f32) -> Result<Tensor> {
    if min == f32::NEG_INFINITY && max == f32::INFINITY {
        return Ok(x.clone());
    }
    pointwise(x, move |x| x.max(min).min(max), move |x| f32::from(x > min && x < max))
}

/// `x · wᵀ` for rows of x `[rows, k]` and of weights `[n, k]`.
pub(super) fn product(x: &Tensor, weights: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&weights.contiguous()?, Product)
}

struct Product;

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, k) = x_layout.shape().dims2()?;
        let n = w_layout.shape().dims2()?.0;
        let y = x.matmul(w, (1, rows, n, k), x_layout, &w_layout.transpose(0, 1)?)?;
        Ok((y, Shape::from((rows, n))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let of_x = x.track_op().then(|| grad.matmul(&w.detach())).transpose()?;
        let of_w = w.track_op().then(|| grad.t()?.matmul(&x.detach())).transpose()?;
        Ok((of_x, of_w))
    }
}

/// A vector added to every row.
pub(super) fn add_rows(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&bias.contiguous()?, AddRows)
}

struct AddRows;

impl CustomOp2 for AddRows {
    fn name(&self) -> &'static str {
        "add-rows"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, bias) = (f32s(x, x_layout)?, f32s(bias, bias_layout)?);
        let mut y = x.to_vec();
        for row in y.chunks_exact_mut(bias.len().max(1)) {
            row.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
        }
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let of_bias =
            bias.track_op().then(|| grad.contiguous()?.apply_op1_no_bwd(&SumRows)).transpose()?;
        Ok((x.track_op().then(|| grad.clone()), of_bias))
    }
}

struct SumRows;

impl CustomOp1 for SumRows {
    fn name(&self) -> &'static str {
        "sum-rows"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let columns = layout.shape().dims().last().copied().unwrap_or(1);
        let mut sums = vec![0.0; columns];
        for row in f32s(x, layout)?.chunks_exact(columns.max(1)) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        Ok((CpuStorage::F32(sums), Shape::from(columns)))
    }
}
