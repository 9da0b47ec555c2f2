//! Arithmetic of two quantized i8 tensors, element by element; [`add_i8`](super::add_i8) is the sum.
//!
//! In f32 with one IEEE rounding per operation, `ra = (a - zero_points[0]) as f32 * scales[0]` and
//! `rb = (b - zero_points[1]) as f32 * scales[1]`:
//!
//! ```text
//! sub, min, max:   t = ra - rb,  the smaller,  the larger
//! mul:             t = ((a - zero_points[0]) * (b - zero_points[1])) as f32 * scales[0]      (product in i32)
//! y = clamp(round_ties_even(t), min - zero_point, max - zero_point) + zero_point
//! ```

use crate::Isa;

mod scalar;
#[cfg(all(test, feature = "std"))]
mod tests;

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named in the formulas above")]
pub enum Arithmetic {
    Sub,
    Mul,
    Min,
    Max,
}

/// The numbers of the formulas above. All but the scales are i8.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "named in the formulas above")]
pub struct BinaryI8 {
    pub arithmetic: Arithmetic,
    pub zero_points: [i32; 2],
    /// Scale of each operand over the result's, or of the product.
    pub scales: [f32; 2],
    pub zero_point: i32,
    pub min: i32,
    pub max: i32,
}

/// `(numbers, a, b, y)`.
pub type BinaryI8Fn = fn(&BinaryI8, &[i8], &[i8], &mut [i8]);

/// The entry for an instruction set.
///
/// # Panics
///
/// The kernels panic when the slices are not of one length.
pub fn select(isa: Isa) -> BinaryI8Fn {
    select_compiled!(isa, scalar::binary_i8: fn(to: &BinaryI8, a: &[i8], b: &[i8], y: &mut [i8]))
}
