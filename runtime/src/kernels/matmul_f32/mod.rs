//! Float product of two activations, as in attention: neither factor is packed ahead of time.
//!
//! Every kernel computes `output[i, j] = sum over l of a[i, l] * b[l, j]`, row-major, where either
//! factor may be stored transposed.
//!
//! # Tolerance
//!
//! Any kernel is within `γ(k) * sum |a * b|` of the exact value; see
//! [`conv_f32`](super::conv_f32#tolerance).

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod aarch64;
#[cfg(any(
    all(target_arch = "x86_64", feature = "std"),
    all(target_arch = "aarch64", target_feature = "neon"),
    test
))]
mod blocked;
mod scalar;
#[cfg(test)]
mod tests;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod x86_64;

use super::conv_f32::product;
use crate::Isa;

/// Rows of `a` in a block: 240 × 256 f32 are 240 KiB, half of an L2. A multiple of the rows of a
/// tile, 6 and 12. A product cut in two at a multiple of it is the same to the bit, if as many rows follow.
pub const BLOCK_ROWS: usize = 240;

/// The arguments of a float matrix product. All matrices are row-major and dense.
pub struct MatMulF32<'a> {
    /// Rows of the output.
    pub m: usize,
    /// Products in a sum.
    pub k: usize,
    /// Columns of the output.
    pub n: usize,
    /// `m × k`, or `k × m` with `trans_a`.
    pub a: &'a [f32],
    /// `k × n`, or `n × k` with `trans_b`.
    pub b: &'a [f32],
    /// `m × n`.
    pub output: &'a mut [f32],
    /// Whether `a` is stored transposed.
    pub trans_a: bool,
    /// Whether `b` is stored transposed.
    pub trans_b: bool,
}

/// A float matrix product kernel.
///
/// # Panics
///
/// When a slice is shorter than its matrix, or a size overflows.
pub type MatMulF32Fn = fn(&mut MatMulF32<'_>);

/// The kernel for `isa`, or for the next lower instruction set that this CPU and build have.
pub fn select(isa: Isa) -> MatMulF32Fn {
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    {
        if isa >= Isa::Avx512
            && let Some(kernel) = x86_64::matmul_f32_avx512()
        {
            return kernel;
        }
        if isa >= Isa::Avx2
            && let Some(kernel) = x86_64::matmul_f32_avx2()
        {
            return kernel;
        }
    }
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    if isa >= Isa::Neon {
        return aarch64::matmul_f32_neon;
    }
    let _ = isa;
    scalar::matmul_f32_scalar
}

impl MatMulF32<'_> {
    /// Panics unless every slice holds its matrix, with no size overflowing. What the unsafe
    /// kernels rely on is proved here, not assumed of the caller.
    fn check(&self) {
        assert!(self.a.len() >= product(&[self.m, self.k]), "a");
        assert!(self.b.len() >= product(&[self.k, self.n]), "b");
        assert!(self.output.len() >= product(&[self.m, self.n]), "output");
    }
}
