//! The two products of attention over kept keys and values, for a few queries that share them: what a decoder does for
//! each new token.
//!
//! ```text
//! scores:  scores[h][j] = sum over i of q[h][i] · k[j][i]
//! mix:     y[h][i] = sum over j of scores[h][j] · v[j][i]
//! ```
//!
//! Keys and values are kept in f16, in f32, or in q8: i8 with a scale in f16 for every [`Q8_GROUP`](crate::format::Q8_GROUP) neighbours of a row. All widen to f32
//! exactly. Sums have the tolerance of [`matmul_f32`](super::matmul_f32#tolerance).

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::Isa;

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod aarch64;
#[cfg(any(
    all(target_arch = "x86_64", feature = "std"),
    all(target_arch = "aarch64", target_feature = "neon"),
    test
))]
mod lanes;
mod rows;
mod scalar;
#[cfg(test)]
mod tests;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod x86_64;

pub(crate) use rows::{Kept, Number, Plain, Q8};

/// The arguments of `scores`.
pub(crate) struct Scores<'a, K> {
    /// Queries `[heads][size]`, of the size of a key.
    pub(crate) queries: &'a [f32],
    /// Keys `[n][size]`.
    pub(crate) keys: K,
    /// Products `[heads][n]`.
    pub(crate) scores: &'a mut [f32],
}

impl<K: Kept> Scores<'_, K> {
    /// Heads and keys.
    ///
    /// # Panics
    ///
    /// When a slice doesn't have the length that follows from the others.
    fn check(&self) -> (usize, usize) {
        let (size, keys) = (self.keys.size(), self.keys.count());
        let heads = self.queries.len() / size;
        assert_eq!(self.queries.len(), heads * size, "queries");
        assert_eq!(self.scores.len(), heads * keys, "scores");
        (heads, keys)
    }
}

/// The arguments of `mix`.
pub(crate) struct Mix<'a, K> {
    /// Weights `[heads][n]`.
    pub(crate) weights: &'a [f32],
    /// Values `[n][size]`.
    pub(crate) values: K,
    /// Sums `[heads][size]`, of the size of a value.
    pub(crate) output: &'a mut [f32],
}

impl<K: Kept> Mix<'_, K> {
    /// Heads and values.
    ///
    /// # Panics
    ///
    /// When a slice doesn't have the length that follows from the others.
    fn check(&self) -> (usize, usize) {
        let (size, values) = (self.values.size(), self.values.count());
        let heads = self.output.len() / size;
        assert_eq!(self.output.len(), heads * size, "output");
        assert_eq!(self.weights.len(), heads * values, "weights");
        (heads, values)
    }
}

/// The kernels of an instruction set for keys and values in `K`.
pub(crate) struct AttentionKept<K> {
    /// Products of queries and keys.
    pub(crate) scores: fn(&mut Scores<'_, K>),
    /// Weighted sums of values.
    pub(crate) mix: fn(&mut Mix<'_, K>),
    /// Rows as f32, one behind the other.
    pub(crate) widen: fn(K, &mut [f32]),
}

/// `scores` and `mix` of an instruction set.
#[cfg(any(
    all(target_arch = "x86_64", feature = "std"),
    all(target_arch = "aarch64", target_feature = "neon")
))]
type Pair<K> = (fn(&mut Scores<'_, K>), fn(&mut Mix<'_, K>));

macro_rules! select {
    ($isa:ident, $widen:expr) => {{
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        {
            if $isa == Isa::Avx512
                && let Some((scores, mix)) = x86_64::avx512()
            {
                return AttentionKept { scores, mix, widen: $widen };
            }
            if $isa.has_avx2()
                && let Some((scores, mix)) = x86_64::avx2()
            {
                return AttentionKept { scores, mix, widen: $widen };
            }
        }
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        if $isa != Isa::Scalar {
            let (scores, mix) = aarch64::neon();
            return AttentionKept { scores, mix, widen: $widen };
        }
        let _ = $isa;
        AttentionKept { scores: scalar::scores, mix: scalar::mix, widen: $widen }
    }};
}

impl Number for f16 {
    #[inline(always)]
    fn widened(self) -> f32 {
        self.to_f32()
    }

    fn narrow(from: &[f32], to: &mut [f16]) {
        to.convert_from_f32_slice(from);
    }

    fn select<'v>(isa: Isa) -> AttentionKept<Plain<'v, f16>> {
        select!(isa, |rows, y| rows.numbers().convert_to_f32_slice(y))
    }
}

impl Number for f32 {
    #[inline(always)]
    fn widened(self) -> f32 {
        self
    }

    fn narrow(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    fn select<'v>(isa: Isa) -> AttentionKept<Plain<'v, f32>> {
        select!(isa, |rows, y| y.copy_from_slice(rows.numbers()))
    }
}

/// The kernels over q8 for `isa`, or for the next lower instruction set that this CPU and build have.
pub(crate) fn select_q8<'v>(isa: Isa) -> AttentionKept<Q8<'v>> {
    select!(isa, select_compiled!(isa, scalar::widen_q8: fn(rows: Q8<'_>, y: &mut [f32])))
}

/// Makes q8 of a row: `(x, numbers, scales)`. The scale of a group is its largest magnitude / 127, rounded to f16, and a number is
/// `clamp(round_ties_even(x · (1 / scale)), −127, 127)`, 0 where the scale is 0. A NaN makes the scale of its group one.
pub(crate) type NarrowQ8Fn = fn(&[f32], &mut [i8], &mut [f16]);

/// The entry for an instruction set. It panics when the slices don't belong together.
pub(crate) fn select_narrow_q8(isa: Isa) -> NarrowQ8Fn {
    select_compiled!(isa, scalar::narrow_q8: fn(x: &[f32], numbers: &mut [i8], scales: &mut [f16]))
}
