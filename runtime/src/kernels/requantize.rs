//! Requantization: the one rounding that every integer kernel shares.

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
