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

use super::ConvGeometry;

mod scalar;

#[cfg(all(test, feature = "std"))]
mod tests;

pub use scalar::{conv_i16, depthwise_i16};

/// A quantized convolution, ready to run.
pub struct ConvI16<'a> {
    /// The shape of everything below.
    pub geometry: ConvGeometry,
    /// NHWC activations, [`ConvGeometry::input_len`] long.
    pub input: &'a [i16],
    /// Convolution: `[out_c][kernel_h][kernel_w][in_c / groups]`. Depthwise:
    /// `[kernel_h][kernel_w][channels rounded up to 16]`.
    pub weights: &'a [i8],
    /// Per output channel.
    pub bias: &'a [i64],
    /// Real scale of an accumulator over the output scale, per output channel.
    pub scale: &'a [f32],
    /// Smallest output value.
    pub min: i32,
    /// Largest output value.
    pub max: i32,
    /// [`ConvGeometry::out_pixels`] rows of `out_c` elements.
    pub output: &'a mut [i16],
}
