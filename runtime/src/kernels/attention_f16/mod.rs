//! The two products of attention over keys and values in f16, for a few queries that share them: what a decoder does for
//! each new token.
//!
//! ```text
//! scores:  scores[h][j] = sum over i of q[h][i] · k[j][i]
//! mix:     y[h][i] = sum over j of scores[h][j] · v[j][i]
//! ```
//!
//! f16 is widened exactly. Sums have the tolerance of [`matmul_f32`](super::matmul_f32#tolerance).

use crate::Isa;
use half::f16;

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod aarch64;
#[cfg(any(
    all(target_arch = "x86_64", feature = "std"),
    all(target_arch = "aarch64", target_feature = "neon"),
    test
))]
mod lanes;
mod scalar;
#[cfg(test)]
mod tests;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod x86_64;

/// The arguments of `scores`.
pub struct Scores<'a> {
    /// Channels of a query and of a key, at least 1.
    pub size: usize,
    /// Queries `[heads][size]`.
    pub queries: &'a [f32],
    /// Keys `[n][size]`.
    pub keys: &'a [f16],
    /// Products `[heads][n]`.
    pub scores: &'a mut [f32],
}

impl Scores<'_> {
    /// Heads and keys.
    ///
    /// # Panics
    ///
    /// When a slice doesn't have the length that follows from the others.
    fn check(&self) -> (usize, usize) {
        assert!(self.size > 0, "size");
        let (heads, keys) = (self.queries.len() / self.size, self.keys.len() / self.size);
        assert_eq!(self.queries.len(), heads * self.size, "queries");
        assert_eq!(self.keys.len(), keys * self.size, "keys");
        assert_eq!(self.scores.len(), heads * keys, "scores");
        (heads, keys)
    }
}

/// The arguments of `mix`.
pub struct Mix<'a> {
    /// Channels of a value, at least 1.
    pub size: usize,
    /// Weights `[heads][n]`.
    pub weights: &'a [f32],
    /// Values `[n][size]`.
    pub values: &'a [f16],
    /// Sums `[heads][size]`.
    pub output: &'a mut [f32],
}

impl Mix<'_> {
    /// Heads and values.
    ///
    /// # Panics
    ///
    /// When a slice doesn't have the length that follows from the others.
    fn check(&self) -> (usize, usize) {
        assert!(self.size > 0, "size");
        let (heads, values) = (self.output.len() / self.size, self.values.len() / self.size);
        assert_eq!(self.output.len(), heads * self.size, "output");
        assert_eq!(self.values.len(), values * self.size, "values");
        assert_eq!(self.weights.len(), heads * values, "weights");
        (heads, values)
    }
}

/// The kernels of an instruction set.
#[derive(Clone, Copy)]
pub struct AttentionF16 {
    /// Products of queries and keys.
    pub scores: fn(&mut Scores<'_>),
    /// Weighted sums of values.
    pub mix: fn(&mut Mix<'_>),
}

/// The kernels for `isa`, or for the next lower instruction set that this CPU and build have.
pub fn select(isa: Isa) -> AttentionF16 {
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    {
        if isa == Isa::Avx512
            && let Some(kernels) = x86_64::avx512()
        {
            return kernels;
        }
        if isa.has_avx2()
            && let Some(kernels) = x86_64::avx2()
        {
            return kernels;
        }
    }
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    if isa != Isa::Scalar {
        return aarch64::neon();
    }
    let _ = isa;
    AttentionF16 { scores: scalar::scores, mix: scalar::mix }
}
