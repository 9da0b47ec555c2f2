//! An LSTM on i8: products of a row with the weights of all gates, and what is made of their sums.
//!
//! The formulas are those of the operator `quantized_lstm` in FORMAT.md. Everything is exact or rounds as it says, so that
//! every kernel gives the same bits.

use crate::Isa;

mod cell;
mod scalar;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(all(test, feature = "std"))]
mod tests;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod x86_64;

use super::{PANEL_K, PANEL_N};
pub use cell::{CellI8, StepFn, Table, lut_i16, select_step};
pub use scalar::gate_sums_dense;

/// Products of one row with a matrix whose columns are those of all gates.
pub struct GateSums<'a> {
    /// The row.
    pub x: &'a [i8],
    /// Panels `[N/16][K/4][16][4]` of N columns, zero-padded; or for [`gate_sums_dense`] `[N][K]`.
    pub weights: &'a [i8],
    /// Of each column.
    pub bias: &'a [i32],
    /// `bias[n] + sum over k of x[k] * w[n, k]`, wrapping; N long.
    pub sums: &'a mut [i32],
}

/// A kernel.
///
/// # Panics
///
/// When the weights or the bias are shorter than `x` and `sums` need.
pub type GateSumsFn = fn(&mut GateSums<'_>);

/// The kernel over panels for `isa`, or for the next lower instruction set that this CPU and build have.
pub fn select_sums(isa: Isa) -> GateSumsFn {
    match isa {
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::Avx512 if Isa::Avx512.is_available() => x86_64::gate_sums_avx512vnni,
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::AvxVnni if Isa::AvxVnni.is_available() => x86_64::gate_sums_avxvnni,
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        _ if isa.has_avx2() && Isa::Avx2.is_available() => x86_64::gate_sums_avx2,
        #[cfg(all(target_arch = "aarch64", feature = "std"))]
        Isa::Dotprod | Isa::I8mm if Isa::Dotprod.is_available() => aarch64::gate_sums_dotprod,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::Dotprod | Isa::I8mm if Isa::Neon.is_available() => aarch64::gate_sums_neon,
        _ => scalar::gate_sums_scalar,
    }
}

impl GateSums<'_> {
    /// Panics unless the slices are as long as the kernels rely on; gives the bytes of a panel.
    fn check(&self) -> usize {
        let (k, n) = (self.x.len(), self.sums.len());
        let panel_bytes = k.next_multiple_of(PANEL_K) * PANEL_N;
        let bytes = n.div_ceil(PANEL_N).checked_mul(panel_bytes);
        assert!(bytes.is_some_and(|bytes| self.weights.len() >= bytes), "weights too short");
        assert!(self.bias.len() >= n, "bias too short");
        panel_bytes
    }
}
