//! Depthwise convolution of i8 activations: every channel with a kernel of its own.
//!
//! `scalar` is the definition. A convolution whose groups have several channels is
//! [`conv_i8`](super::conv_i8)'s.

use super::{ConvGeometry, EpilogueI8, PANEL_N, Packing};
use crate::Isa;

#[cfg(all(target_os = "none", target_abi = "eabihf", not(feature = "no-dsp")))]
mod cortex_m;
mod scalar;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod x86_64;

#[cfg(all(test, feature = "std"))]
mod tests;

/// A quantized depthwise convolution, ready to run: `output = epilogue(bias + input ∗ weights)`,
/// accumulated in i32 with wrapping arithmetic.
pub struct DepthwiseI8<'a> {
    /// The shape of everything below; [`ConvGeometry::is_depthwise`].
    pub geometry: ConvGeometry,
    /// NHWC activations, [`ConvGeometry::input_len`] long.
    pub input: &'a [i8],
    /// What padded taps read. The converter folds `−zero_point · Σ weights` into the bias over all
    /// taps, so a padded tap contributes `zero_point · weight`.
    pub input_zero_point: i8,
    /// `[kernel_h · kernel_w][padded_c(in_c)]`, see [`pack_weights`], or for Cortex-M
    /// `[in_c][kernel_h · kernel_w]`.
    pub weights: &'a [i8],
    /// How the weights, and the vectors along channels, lie.
    pub packing: Packing,
    /// Per channel, [`channels_len`] long.
    pub bias: &'a [i32],
    /// Per channel, the sum of its weights, or empty. For kernels that need unsigned activations;
    /// none of today's does.
    pub weight_sums: &'a [i32],
    /// From accumulator to output. A residual lies apart from the output, since channels may be
    /// computed twice.
    pub epilogue: EpilogueI8<'a>,
    /// [`ConvGeometry::out_pixels`] rows of `out_c` elements; row `p` starts at
    /// `p * output_stride`. What lies between rows is not written.
    pub output: &'a mut [i8],
    /// Elements from one output row to the next, at least `out_c`.
    pub output_stride: usize,
    /// At least [`scratch_bytes`] long. Its content doesn't matter; fastest when 64-byte aligned.
    pub scratch: &'a mut [u8],
}

/// The kernel for `isa`, or for the best one below it that this CPU runs.
///
/// # Panics
///
/// The kernels panic when a slice is shorter than its field says, when the geometry isn't depthwise
/// or [bounded](ConvGeometry::is_bounded), the epilogue isn't [sound](EpilogueI8::is_sound), or the
/// residual is in the output.
pub fn select(isa: Isa) -> fn(&mut DepthwiseI8<'_>) {
    match isa {
        #[cfg(all(target_os = "none", target_abi = "eabihf", not(feature = "no-dsp")))]
        Isa::CortexM => cortex_m::depthwise_i8_cortex_m,
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::Avx512 if Isa::Avx512.is_available() => x86_64::depthwise_i8_avx512vnni,
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::Avx2 | Isa::Avx512 if Isa::Avx2.is_available() => x86_64::depthwise_i8_avx2,
        _ => scalar::depthwise_i8_scalar,
    }
}

/// Bytes of scratch that the kernel which [`select`] gives for `isa` needs, or a little more.
#[allow(unused_variables, reason = "scalar needs none")]
pub fn scratch_bytes(geometry: &ConvGeometry, isa: Isa) -> usize {
    match isa {
        Isa::Scalar => 0,
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::Avx2 => x86_64::scratch_bytes_avx2(geometry),
        // Without AVX-512, `select` gives the AVX2 kernel.
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::Avx512 => {
            x86_64::scratch_bytes_avx2(geometry).max(x86_64::scratch_bytes_avx512(geometry))
        }
        #[cfg(all(target_os = "none", target_abi = "eabihf", not(feature = "no-dsp")))]
        Isa::CortexM => cortex_m::scratch_bytes(geometry),
        _ => 0,
    }
}

/// Length of the per-channel arrays.
pub const fn channels_len(channels: usize, packing: Packing) -> usize {
    match packing {
        Packing::Panels => padded_c(channels),
        Packing::CortexM => channels,
    }
}

/// Length of a row of weights packed in panels, and of the vectors that go with them.
pub const fn padded_c(channels: usize) -> usize {
    channels.next_multiple_of(PANEL_N)
}

/// Packs weights from `[kernel_h · kernel_w][channels]`: pads every tap with zeros to [`padded_c`].
///
/// # Panics
///
/// If `hwc` or `out` is not as long as that.
pub fn pack_weights(geometry: &ConvGeometry, hwc: &[i8], out: &mut [i8]) {
    let (taps, c) = (geometry.kernel_h * geometry.kernel_w, geometry.in_c);
    assert_eq!(hwc.len(), taps * c);
    assert_eq!(out.len(), taps * padded_c(c));
    out.fill(0);
    for tap in 0..taps {
        out[tap * padded_c(c)..][..c].copy_from_slice(&hwc[tap * c..][..c]);
    }
}

/// Sums the weights of each channel, given as in [`pack_weights`]; padding gets zeros.
///
/// # Panics
///
/// If `hwc` is not as long as in [`pack_weights`], or `out` not [`padded_c`].
pub fn weight_sums(geometry: &ConvGeometry, hwc: &[i8], out: &mut [i32]) {
    let (taps, c) = (geometry.kernel_h * geometry.kernel_w, geometry.in_c);
    assert_eq!(hwc.len(), taps * c);
    assert_eq!(out.len(), padded_c(c));
    out.fill(0);
    for tap in 0..taps {
        for channel in 0..c {
            out[channel] += i32::from(hwc[tap * c + channel]);
        }
    }
}

impl DepthwiseI8<'_> {
    /// Panics unless every slice is as long as a kernel with this much scratch relies on.
    fn check(&self, scratch_bytes: impl FnOnce(&ConvGeometry) -> usize) {
        let geometry = &self.geometry;
        assert!(geometry.is_bounded(), "geometry too large");
        assert!(geometry.is_depthwise(), "geometry not depthwise");
        let (channels, pixels) = (channels_len(geometry.in_c, self.packing), geometry.out_pixels());
        let taps = geometry.kernel_h * geometry.kernel_w;
        assert!(self.epilogue.is_sound(channels, pixels * geometry.out_c), "epilogue unsound");
        assert!(!self.epilogue.is_in_place(), "residual in the output");
        assert!(self.input.len() >= geometry.input_len(), "input too short");
        assert!(self.weights.len() >= taps * channels, "weights too short");
        assert!(self.bias.len() >= channels, "bias too short");
        assert!(self.output_stride >= geometry.out_c, "output rows overlap");
        let last_row = pixels.saturating_sub(1).checked_mul(self.output_stride);
        assert!(
            pixels == 0
                || last_row.is_some_and(|row| {
                    self.output.len().checked_sub(row).is_some_and(|left| left >= geometry.out_c)
                }),
            "output too short"
        );
        assert!(self.scratch.len() >= scratch_bytes(geometry), "scratch too short");
    }
}
