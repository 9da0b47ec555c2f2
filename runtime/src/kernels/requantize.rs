//! Requantization: the one rounding that every integer kernel shares.

use super::EpilogueI8;
use crate::format::Element;

#[cfg(target_arch = "aarch64")]
pub(crate) mod aarch64;
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
    round_to_integer(x)
}

/// `round_ties_even(x)` as an integer, for |x| ≤ 2²².
#[inline(always)]
pub(crate) fn round_to_integer(x: f32) -> i32 {
    // Floats from 2²³ to 2²⁴ lie one apart, and so do their bits: cheaper than a conversion that saturates.
    ((x + ROUND_MAGIC).to_bits() as i32).wrapping_sub(ROUND_MAGIC.to_bits() as i32)
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
quantized!(i8, u8, i16);

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

#[cfg(test)]
mod tests {
    use super::*;

    /// Exact: the quotient's floor after adding a half, then ties away from zero.
    fn exact(x: i32, multiplier: i32, shift: i32) -> i32 {
        let (up, down) = (shift.clamp(0, 31), (-shift).clamp(0, 31));
        // What doesn't fit wraps, as in two's complement.
        let x = (i128::from(x) << up) as i32;
        let high = (i128::from(x) * i128::from(multiplier) + (1 << 30)).div_euclid(1 << 31);
        let high = high.min(i128::from(i32::MAX));
        let half = (1i128 << down) / 2;
        (high.signum() * ((high.abs() + half) >> down)) as i32
    }

    #[test]
    fn fixed_point_is_exact() {
        let edges = [i32::MIN, i32::MIN + 1, -(1 << 30), -3, -2, -1, 0, 1, 2, 3, 1 << 30, i32::MAX];
        let mut x = 0x9e37_79b9_u32;
        let mut random = || {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            x as i32
        };
        let mut cases: Vec<[i32; 2]> = edges.iter().flat_map(|a| edges.map(|b| [*a, b])).collect();
        // Random magnitudes, and multipliers as files have them.
        for at in 0..if cfg!(miri) { 2 } else { 2000u32 } {
            cases.push([random() >> (at % 32), random()]);
            cases.push([random() >> (at % 32), random() & i32::MAX | 1 << 30]);
        }
        for [x, multiplier] in cases {
            for shift in -31..=31 {
                let what = (x, multiplier, shift);
                assert_eq!(
                    fixed_point(x, multiplier, shift),
                    exact(x, multiplier, shift),
                    "{what:?}"
                );
            }
            // A file may say anything; it is bounded.
            for (shift, bounded) in [(i32::MIN, -31), (-32, -31), (32, 31), (i32::MAX, 31)] {
                assert_eq!(fixed_point(x, multiplier, shift), fixed_point(x, multiplier, bounded));
            }
        }
    }

    #[test]
    fn ties_of_both_roundings() {
        // x, shift, result, with the multiplier 2^30: a half.
        let cases = [
            // First rounding alone: up.
            (1, 0, 1),
            (-1, 0, 0),
            (3, 0, 2),
            (-3, 0, -1),
            // Second rounding: away from zero. A quarter of ±6, ±10.
            (6, -1, 2),
            (-6, -1, -2),
            (10, -1, 3),
            (-10, -1, -3),
            // Twice: 5 halves are 3, whose half is 2; once would be 1.
            (5, -1, 2),
            (-7, -1, -2),
        ];
        for (x, shift, result) in cases {
            assert_eq!(fixed_point(x, 1 << 30, shift), result, "{x} {shift}");
        }
        assert_eq!(fixed_point(i32::MIN, i32::MIN, 0), i32::MAX);
    }
}
