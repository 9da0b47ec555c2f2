//! The definitions over slices, for the compiler to vectorise.

use super::Affine;
use crate::kernels::requantize::Quantized;

#[inline(always)]
pub(super) fn quantize<T: Quantized>(by: &Affine, x: &[f32], y: &mut [T]) {
    assert_eq!(x.len(), y.len(), "lengths differ");
    for (y, x) in y.iter_mut().zip(x) {
        *y = by.quantize(*x);
    }
}

#[inline(always)]
pub(super) fn dequantize<T: Quantized>(by: &Affine, x: &[T], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "lengths differ");
    for (y, x) in y.iter_mut().zip(x) {
        *y = by.dequantize(*x);
    }
}
