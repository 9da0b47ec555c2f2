//! Arithmetic of two f32 tensors, element by element, clamped.

use crate::Isa;

mod scalar;
#[cfg(all(test, feature = "std"))]
mod tests;

/// What is computed; one IEEE rounding each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`
    Div,
    /// The smaller, NaN when either is.
    Min,
    /// The larger, NaN when either is.
    Max,
    /// `a` where it isn't below 0, `a * b` elsewhere.
    PRelu,
}

impl Arithmetic {
    /// Every kind.
    pub const ALL: [Arithmetic; 7] = [
        Arithmetic::Add,
        Arithmetic::Sub,
        Arithmetic::Mul,
        Arithmetic::Div,
        Arithmetic::Min,
        Arithmetic::Max,
        Arithmetic::PRelu,
    ];
}

/// An arithmetic and the bounds of its results; NaN passes.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "named above")]
pub struct BinaryF32 {
    pub arithmetic: Arithmetic,
    pub min: f32,
    pub max: f32,
}

/// `(numbers, a, b, y)`.
pub type BinaryF32Fn = fn(&BinaryF32, &[f32], &[f32], &mut [f32]);

/// The entry for an instruction set.
///
/// # Panics
///
/// The kernels panic when the slices are not of one length.
pub fn select(isa: Isa) -> BinaryF32Fn {
    select_compiled!(isa, scalar::binary_f32: fn(to: &BinaryF32, a: &[f32], b: &[f32], y: &mut [f32]))
}
