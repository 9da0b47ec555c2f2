//! Normalisation of rows by mean and variance, or by root mean square.
//!
//! ```text
//! layer: mean = sum(x) / n, variance = sum((x - mean)²) / n, y = (x - mean) / sqrt(variance + epsilon) · scale + bias
//! rms:   y = x / sqrt(sum(x²) / n + epsilon) · scale + bias
//! ```
//!
//! Two passes in f32. A sum over n elements is sixteen sums, of the elements whose index leaves the
//! same rest by sixteen, in their order; then they are added in halves: the first eight to the last
//! eight, and so on.

use crate::Isa;

mod scalar;
#[cfg(test)]
mod tests;

/// What rows are normalised by.
#[derive(Clone, Copy, Debug)]
pub struct NormalizeF32<'a> {
    /// Elements of a row, at least 1.
    pub row: usize,
    /// Whether the mean is subtracted: layer normalisation.
    pub centred: bool,
    /// Added to the variance.
    pub epsilon: f32,
    /// A factor per element of a row, or none.
    pub scale: &'a [f32],
    /// A term per element of a row, or none.
    pub bias: &'a [f32],
}

/// `(numbers, x, y)`: rows of x and of y, as many or more of x.
///
/// # Panics
///
/// When there are fewer rows of x.
pub type NormalizeF32Fn = fn(&NormalizeF32<'_>, &[f32], &mut [f32]);

/// The entry for an instruction set.
pub fn select(isa: Isa) -> NormalizeF32Fn {
    select_compiled!(isa, scalar::normalize_f32: fn(by: &NormalizeF32<'_>, x: &[f32], y: &mut [f32]))
}
