//! Float depthwise convolution: every channel has its own filter.
//!
//! Every kernel computes, for output pixel `p` and channel `c`,
//! `clamp(sum over taps t of x[p, t, c] * w[t, c] + bias[c] + residual[p, c], min, max)`; padding
//! reads as 0. A NaN passes through the clamp.
//!
//! # Tolerance
//!
//! That of [`conv_f32`](super::conv_f32), with K the number of taps.

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod aarch64;
#[cfg(any(
    all(target_arch = "x86_64", feature = "std"),
    all(target_arch = "aarch64", target_feature = "neon"),
    test
))]
mod rows;
mod scalar;
#[cfg(test)]
mod tests;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod x86_64;

use super::conv_f32::{check_geometry, check_output, product};
use super::{ConvGeometry, EpilogueF32, FloatWeights, PANEL_N, ResidualData};
use crate::Isa;

/// The arguments of a float depthwise convolution. It needs no scratch.
pub struct DepthwiseF32<'a> {
    /// The shape; [`ConvGeometry::is_depthwise`].
    pub geometry: ConvGeometry,
    /// NHWC, dense.
    pub input: &'a [f32],
    /// `[kernel_h * kernel_w][C]`, C rounded up to [`PANEL_N`] with zeros: what [`pack_weights`]
    /// writes.
    pub weights: FloatWeights<'a>,
    /// Bias (C rounded up to [`PANEL_N`] long), residual, clamp.
    pub epilogue: EpilogueF32<'a>,
    /// Pixel `p` of the output is the C elements from `p * output_stride` on. Elements between the
    /// rows aren't touched.
    pub output: &'a mut [f32],
    /// Elements from one output pixel to the next, at least C.
    pub output_stride: usize,
}

/// A float depthwise convolution kernel.
///
/// # Panics
///
/// When the geometry isn't depthwise, a slice is shorter than it needs, or a size overflows.
pub type DepthwiseF32Fn = fn(&mut DepthwiseF32<'_>);

/// The kernel for `isa`, or for the next lower instruction set that this CPU and build have.
pub fn select(isa: Isa) -> DepthwiseF32Fn {
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    {
        if isa >= Isa::Avx512
            && let Some(kernel) = x86_64::depthwise_f32_avx512()
        {
            return kernel;
        }
        if isa >= Isa::Avx2
            && let Some(kernel) = x86_64::depthwise_f32_avx2()
        {
            return kernel;
        }
    }
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    if isa >= Isa::Neon {
        return aarch64::depthwise_f32_neon;
    }
    let _ = isa;
    scalar::depthwise_f32_scalar
}

/// Bytes of scratch that the kernels need: none.
pub fn scratch_bytes(_geometry: &ConvGeometry, _isa: Isa) -> usize {
    0
}

/// Channels rounded up to whole registers: the row length of the weights and the bias.
pub const fn padded_channels(geometry: &ConvGeometry) -> usize {
    geometry.in_c.next_multiple_of(PANEL_N)
}

/// Elements of packed weights.
pub const fn packed_len(geometry: &ConvGeometry) -> usize {
    geometry.kernel_h * geometry.kernel_w * padded_channels(geometry)
}

/// Writes the weights `[C][kernel_h][kernel_w][1]` as `[kernel_h * kernel_w][C]`, C rounded up
/// with zeros.
///
/// # Panics
///
/// When `ohwi` isn't `C * kernel_h * kernel_w` long or `out` isn't [`packed_len`] long.
pub fn pack_weights(geometry: &ConvGeometry, ohwi: &[f32], out: &mut [f32]) {
    let taps = geometry.kernel_h * geometry.kernel_w;
    assert_eq!(ohwi.len(), geometry.in_c * taps);
    assert_eq!(out.len(), packed_len(geometry));
    out.fill(0.0);
    for channel in 0..geometry.in_c {
        for tap in 0..taps {
            out[tap * padded_channels(geometry) + channel] = ohwi[channel * taps + tap];
        }
    }
}

impl DepthwiseF32<'_> {
    /// Panics unless every slice is as long as the geometry says, with no size overflowing. What
    /// the unsafe kernels rely on is proved here, not assumed of the caller.
    fn check(&self) {
        let g = &self.geometry;
        check_geometry(g);
        assert!(g.is_depthwise(), "not depthwise");
        let weights = product(&[g.kernel_h, g.kernel_w, padded_channels(g)]);
        match self.weights {
            FloatWeights::F32(w) => assert!(w.len() >= weights, "weights"),
            FloatWeights::F16(w) => assert!(w.len() >= weights, "weights"),
        }
        assert!(self.input.len() >= g.input_len(), "input");
        assert!(self.epilogue.bias.len() >= padded_channels(g), "bias");
        let residual = self.epilogue.residual;
        check_output(g, g.out_pixels(), self.output.len(), self.output_stride, residual);
        let in_place = matches!(self.epilogue.residual, Some(ResidualData::InOutput));
        assert!(!in_place, "residual in the output");
    }
}
