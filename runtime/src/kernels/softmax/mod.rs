//! Softmax over one axis of a tensor seen as `[outer, extent, inner]`.
//!
//! f32: `y = exp(x - m) / s` with `m` the largest element along the axis and `s` the sum of the
//! exponentials; its logarithm is `(x - m) - ln(s)`.
//!
//! i8: with `table[d]` the fixed-point exponential of `-d` input steps and `m` as above,
//!
//! ```text
//! s = sum of table[m - x]                                        (i64)
//! y = clamp(round_ties_even(table[m - x] as f32 * (inverse_scale / s as f32)), -128 - zero_point, 127 - zero_point)
//!         + zero_point
//! ```
//!
//! i16: the exponential of `-d` steps, d = 256h + l, is a product of two table entries, both in units of
//! 2⁻³⁰: `e(d) = (high[h] · low[l] + 2³⁶) >> 37` in i64, units of 2⁻²³; the rest is as in i8, with a zero
//! point of 0.
//!
//! All with one IEEE division and one IEEE multiplication in f32, so the order of the sum is of no
//! consequence and every backend gets the same bits.

mod scalar;
#[cfg(test)]
mod tests;

use crate::Isa;

pub use scalar::{log_softmax_f32, softmax_i8, softmax_i16};

/// `(shape, x, y)`.
pub type SoftmaxF32Fn = fn(SoftmaxShape, &[f32], &mut [f32]);

/// The f32 softmax's entry for an instruction set.
pub fn select_f32(isa: Isa) -> SoftmaxF32Fn {
    select_compiled!(isa, scalar::softmax_f32: fn(shape: SoftmaxShape, x: &[f32], y: &mut [f32]))
}

/// `(shape, scaling, x, y)`.
pub type SoftmaxI8Fn = fn(SoftmaxShape, &SoftmaxI8<'_>, &[i8], &mut [i8]);

/// The i8 softmax's entry for an instruction set.
pub fn select_i8(isa: Isa) -> SoftmaxI8Fn {
    #[cfg(feature = "std")]
    if !matches!(isa, Isa::Scalar | Isa::CortexM) {
        return select_compiled!(isa, scalar::softmax_i8_wide: fn(shape: SoftmaxShape, to: &SoftmaxI8<'_>, x: &[i8], y: &mut [i8]));
    }
    let _ = isa;
    softmax_i8
}

/// Entries of the table of exponentials: one per difference of two i8.
pub const TABLE_LEN: usize = 256;

/// Shape around the axis; input and output have `outer * extent * inner` elements, at least one.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct SoftmaxShape {
    pub outer: usize,
    /// Size of the axis that sums to one.
    pub extent: usize,
    /// Elements between one index of the axis and the next.
    pub inner: usize,
}

impl SoftmaxShape {
    /// The positions of every row along the axis.
    fn rows(self) -> impl Iterator<Item = Row> {
        let SoftmaxShape { outer, extent, inner } = self;
        (0..outer).flat_map(move |o| {
            (0..inner).map(move |i| Row { start: o * extent * inner + i, extent, step: inner })
        })
    }
}

/// Positions of the elements of one row.
#[derive(Clone, Copy)]
struct Row {
    start: usize,
    extent: usize,
    step: usize,
}

impl Row {
    fn positions(self) -> impl Iterator<Item = usize> {
        (0..self.extent).map(move |index| self.start + index * self.step)
    }
}

/// How the i16 softmax is scaled.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "named in the formula above")]
pub struct SoftmaxI16<'a> {
    pub high: &'a [i32; TABLE_LEN],
    pub low: &'a [i32; TABLE_LEN],
    /// One over the output's scale.
    pub inverse_scale: f32,
}

/// How the i8 softmax is scaled.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "named in the formula above")]
pub struct SoftmaxI8<'a> {
    pub table: &'a [i32; TABLE_LEN],
    /// One over the output's scale.
    pub inverse_scale: f32,
    pub zero_point: i32,
}
