//! Convolution of i16 activations by i8 weights, also depthwise and fully connected layers.
//!
//! Activations are symmetric, so padding is 0. Sums are exact, in 64 bits:
//!
//! ```text
//! acc = bias[n] + sum over the taps of x * w                       (i64)
//! y = clamp(round_ties_even(acc as f32 * scale[n]), min, max)
//! ```
//!
//! with one rounding to f32 and one IEEE multiplication, so every backend gets the same bits.

use super::{ConvGeometry, PANEL_K};
use crate::Isa;

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod aarch64;
#[cfg(any(
    all(target_arch = "x86_64", feature = "std"),
    all(target_arch = "aarch64", target_feature = "neon")
))]
mod panels;
mod scalar;

#[cfg(all(test, feature = "std"))]
mod tests;

#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod x86_64;

pub use scalar::conv_i16_dense;

/// Output pixels whose inputs kernels gather at a time: they share a conversion of weights to i16.
const ROWS: usize = 2;

/// A quantized convolution, ready to run.
pub struct ConvI16<'a> {
    /// The shape of everything below.
    pub geometry: ConvGeometry,
    /// NHWC activations, [`ConvGeometry::input_len`] long.
    pub input: &'a [i16],
    /// Dense: `[out_c][kernel_h][kernel_w][in_c / groups]`. Panels: what
    /// [`conv_i8::pack_weights`](super::conv_i8::pack_weights) writes. Depthwise:
    /// `[kernel_h][kernel_w][channels rounded up to 16]`.
    pub weights: &'a [i8],
    /// Per output channel; but for dense weights padded as they are.
    pub bias: &'a [i64],
    /// Real scale of an accumulator over the output scale, as many as biases.
    pub scale: &'a [f32],
    /// Smallest output value.
    pub min: i32,
    /// Largest output value.
    pub max: i32,
    /// [`ConvGeometry::out_pixels`] rows of `out_c` elements.
    pub output: &'a mut [i16],
    /// For panels, at least [`scratch_len`] elements; contents don't matter before or after.
    pub scratch: &'a mut [i16],
}

/// A kernel.
///
/// # Panics
///
/// When a slice is shorter than the geometry needs.
pub type ConvI16Fn = fn(&mut ConvI16<'_>);

/// The kernel of convolutions over panels for `isa`, or for the next lower instruction set that there is.
pub fn select(isa: Isa) -> ConvI16Fn {
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    if isa.has_avx2()
        && let Some(kernel) = x86_64::conv_i16_avx2()
    {
        return kernel;
    }
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    if isa >= Isa::Neon {
        return aarch64::CONV_I16_NEON;
    }
    let _ = isa;
    scalar::conv_i16_scalar
}

/// The kernel of depthwise convolutions for `isa`, or for the next lower instruction set that there is.
pub fn select_depthwise(isa: Isa) -> ConvI16Fn {
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    if isa.has_avx2()
        && let Some(kernel) = x86_64::depthwise_i16_avx2()
    {
        return kernel;
    }
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    if isa >= Isa::Neon {
        return aarch64::DEPTHWISE_I16_NEON;
    }
    let _ = isa;
    scalar::depthwise_i16_scalar
}

/// Elements of scratch that the kernel [`select`]ed for `isa` needs, whichever CPU it runs on: the inputs of a
/// few output pixels.
pub fn scratch_len(geometry: &ConvGeometry, isa: Isa) -> usize {
    match isa {
        _ if isa.has_avx2() || isa >= Isa::Neon => ROWS * geometry.k().next_multiple_of(PANEL_K),
        _ => 0,
    }
}

/// [`scratch_len`] in bytes.
pub fn scratch_bytes(geometry: &ConvGeometry, isa: Isa) -> usize {
    scratch_len(geometry, isa) * size_of::<i16>()
}
