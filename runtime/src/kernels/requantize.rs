//! Requantization: the one rounding that every integer kernel shares.

use super::EpilogueI8;
use crate::format::Element;

#[cfg(all(target_arch = "x86_64", feature = "std"))]
pub(crate) mod x86_64;

/// Added and subtracted, it rounds an f32 of magnitude below 2²² to the nearest integer, ties to
/// even: 1.5 × 2²³ has a unit in the last place of 1.
const ROUND_MAGIC: f32 = 12_582_912.0;

/// `round_ties_even(x)` for |x| ≤ 2²², by IEEE addition alone, so that it is the same everywhere.
#[inline(always)]
pub fn round_ties_even(x: f32) -> f32 {
    (x + ROUND_MAGIC) - ROUND_MAGIC
}

/// `clamp(round_ties_even(x), lo, hi)` as an integer, for integer bounds within ±2²².
/// A NaN (possible only with a NaN scale) gives `lo`.
#[inline(always)]
pub fn round_clamp(x: f32, lo: i32, hi: i32) -> i32 {
    let (lo_f, hi_f) = (lo as f32, hi as f32);
    let x = if x > lo_f { x } else { lo_f };
    let x = if x < hi_f { x } else { hi_f };
    round_ties_even(x) as i32
}

/// An integer type that stands for reals, by a scale and a zero point.
pub trait Quantized: Element + Ord {
    /// The type's smallest number.
    const LOWEST: i32;
    /// The type's largest number.
    const HIGHEST: i32;
    /// The number.
    fn widen(self) -> i32;
    /// The number, which lies in the type's range.
    fn narrow(number: i32) -> Self;
}

macro_rules! quantized {
    ($($ty:ty),*) => {$(
        impl Quantized for $ty {
            const LOWEST: i32 = <$ty>::MIN as i32;
            const HIGHEST: i32 = <$ty>::MAX as i32;
            #[inline(always)]
            fn widen(self) -> i32 {
                i32::from(self)
            }
            #[inline(always)]
            fn narrow(number: i32) -> Self {
                number as $ty
            }
        }
    )*};
}
quantized!(i8, i16);

/// `x * multiplier / 2^31 * 2^shift`, rounded twice: as TFLite's reference kernels requantize
/// (`MultiplyByQuantizedMultiplier` in `kernels/internal/common.h`).
///
/// The first rounding is to the integer nearest to `x * 2^max(shift, 0) * multiplier / 2^31`, ties up;
/// the second divides by `2^max(-shift, 0)`, ties away from zero. Shifts end at ±31.
pub fn fixed_point(x: i32, multiplier: i32, shift: i32) -> i32 {
    let x = x.wrapping_shl(shift.clamp(0, 31) as u32);
    let product = i64::from(x) * i64::from(multiplier);
    let nudge = if product >= 0 { 1 << 30 } else { 1 - (1 << 30) };
    // Rounds toward 0. Only −2³¹ · −2³¹ doesn't fit.
    let high = ((product + nudge) / (1 << 31)).min(i64::from(i32::MAX)) as i32;
    shift_right(high, (-shift.clamp(-31, 0)) as u32)
}

/// `x / 2^exponent`, ties away from zero, for exponents up to 31.
pub fn shift_right(x: i32, exponent: u32) -> i32 {
    let mask = ((1u32 << exponent) - 1) as i32;
    let threshold = (mask >> 1) + i32::from(x < 0);
    (x >> exponent) + i32::from(x & mask > threshold)
}

/// The formula of [`EpilogueI8`]: the output of an accumulator that ends at `channel` (an index of
/// the padded per-channel arrays), with the element of the residual that
/// [`EpilogueI8::residual_at`] tells. One of it serves all, since only scalar code calls it.
#[inline(never)]
pub fn requantize_i8(acc: i32, channel: usize, residual_data: i8, epilogue: &EpilogueI8<'_>) -> i8 {
    let EpilogueI8 { scale, fixed_point: numbers, zero_point, min, max, residual } = *epilogue;
    let (min, max) = (min - zero_point, max - zero_point);
    let q = match numbers.get(2 * channel..2 * channel + 2) {
        Some(&[multiplier, shift]) => fixed_point(acc, multiplier, shift).max(min).min(max),
        _ => round_clamp(acc as f32 * scale[channel], min, max),
    };
    let y = match residual {
        None => q + zero_point,
        Some(r) => {
            let conv = q as f32 * r.scale_conv;
            let data = (i32::from(residual_data) - r.zero_point) as f32 * r.scale_data;
            let (min, max) = (r.min - r.out_zero_point, r.max - r.out_zero_point);
            round_clamp(conv + data, min, max) + r.out_zero_point
        }
    };
    y as i8
}
