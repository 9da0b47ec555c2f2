//! Addition of two quantized i8 tensors of one shape, also the residual addition of convolutions.
//!
//! In f32 with one IEEE rounding per operation:
//!
//! ```text
//! t = (a - zero_points[0]) as f32 * scales[0] + (b - zero_points[1]) as f32 * scales[1]
//! y = clamp(round_ties_even(t), min - zero_point, max - zero_point) + zero_point
//! ```

use super::ResidualI8;
use super::requantize::round_clamp;
use crate::Isa;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(all(target_os = "none", target_abi = "eabihf", not(feature = "no-dsp")))]
mod cortex_m;
#[cfg(all(test, feature = "std"))]
mod tests;

#[cfg(all(target_os = "none", target_abi = "eabihf", not(feature = "no-dsp")))]
pub(super) use cortex_m::add_raw;

/// The numbers of the formula above. All but the scales are i8.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "named in the formula above")]
pub struct AddI8 {
    pub zero_points: [i32; 2],
    /// Scale of each operand over that of the sum.
    pub scales: [f32; 2],
    pub zero_point: i32,
    pub min: i32,
    pub max: i32,
}

impl AddI8 {
    /// What adds a residual to the outputs of a convolution with this zero point of its own.
    pub fn residual(zero_point: i32, residual: &ResidualI8<'_>) -> Self {
        AddI8 {
            zero_points: [zero_point, residual.zero_point],
            scales: [residual.scale_conv, residual.scale_data],
            zero_point: residual.out_zero_point,
            min: residual.min,
            max: residual.max,
        }
    }

    /// One element.
    #[inline(always)]
    pub fn add(&self, a: i8, b: i8) -> i8 {
        let a = (i32::from(a) - self.zero_points[0]) as f32 * self.scales[0];
        let b = (i32::from(b) - self.zero_points[1]) as f32 * self.scales[1];
        let (min, max) = (self.min - self.zero_point, self.max - self.zero_point);
        (round_clamp(a + b, min, max) + self.zero_point) as i8
    }
}

/// The kernel for `isa`: `(numbers, a, b, y)`.
///
/// # Panics
///
/// The kernels panic when the slices are not of one length.
pub fn select(isa: Isa) -> fn(&AddI8, &[i8], &[i8], &mut [i8]) {
    match isa {
        #[cfg(all(target_os = "none", target_abi = "eabihf", not(feature = "no-dsp")))]
        Isa::CortexM => cortex_m::add_i8_cortex_m,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::Dotprod | Isa::I8mm if Isa::Neon.is_available() => aarch64::add_i8_neon,
        _ => {
            select_compiled!(isa, add_i8_scalar: fn(to: &AddI8, a: &[i8], b: &[i8], y: &mut [i8]))
        }
    }
}

#[inline(always)]
fn add_i8_scalar(to: &AddI8, a: &[i8], b: &[i8], y: &mut [i8]) {
    assert!(a.len() == y.len() && b.len() == y.len(), "lengths differ");
    for (y, (a, b)) in y.iter_mut().zip(a.iter().zip(b)) {
        *y = to.add(*a, *b);
    }
}
