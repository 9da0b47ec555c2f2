//! Between f32 and integers that stand for reals by one scale and one zero point.

use super::requantize::{Quantized, round_clamp};
use crate::Isa;

mod scalar;
#[cfg(all(test, feature = "std"))]
mod tests;

/// `real = (q - zero_point) * scale`, for zero points within ±2¹⁶.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "named above")]
pub struct Affine {
    pub scale: f32,
    pub zero_point: i32,
}

impl Affine {
    /// `saturate(round_ties_even(x / scale) + zero_point)`; a NaN becomes the smallest number.
    #[inline(always)]
    pub fn quantize<T: Quantized>(&self, x: f32) -> T {
        let (least, most) = (T::LOWEST - self.zero_point, T::HIGHEST - self.zero_point);
        T::narrow(round_clamp(x / self.scale, least, most) + self.zero_point)
    }

    /// `(q - zero_point) * scale`
    #[inline(always)]
    pub fn dequantize<T: Quantized>(&self, q: T) -> f32 {
        (q.widen() - self.zero_point) as f32 * self.scale
    }
}

/// `(numbers, x, y)`.
pub type QuantizeFn<T> = fn(&Affine, &[f32], &mut [T]);

/// `(numbers, x, y)`.
pub type DequantizeFn<T> = fn(&Affine, &[T], &mut [f32]);

/// Integers that kernels quantize to.
pub trait Affinely: Quantized {
    /// [`Affine::quantize`] of every element, the entry for an instruction set. Panics when the slices are not of
    /// one length.
    fn select_quantize(isa: Isa) -> QuantizeFn<Self>;

    /// [`Affine::dequantize`] of every element, the entry for an instruction set. Panics when the slices are not of
    /// one length.
    fn select_dequantize(isa: Isa) -> DequantizeFn<Self>;
}

macro_rules! affinely {
    ($($ty:ty),*) => {$(
        impl Affinely for $ty {
            fn select_quantize(isa: Isa) -> QuantizeFn<Self> {
                select_compiled!(isa, scalar::quantize::<$ty>: fn(by: &Affine, x: &[f32], y: &mut [$ty]))
            }

            fn select_dequantize(isa: Isa) -> DequantizeFn<Self> {
                select_compiled!(isa, scalar::dequantize::<$ty>: fn(by: &Affine, x: &[$ty], y: &mut [f32]))
            }
        }
    )*};
}
affinely!(i8, u8, i16);
