//! Convolution of i8 activations by i8 weights, also matrix products and fully connected layers.
//!
//! `scalar` is the definition. The SIMD kernels share one walk over the output, `implicit_gemm`,
//! and differ in the micro-kernel that multiplies a few patches by a few output channels.

use super::{ConvGeometry, EpilogueI8, PANEL_K, PANEL_N};
use crate::Isa;

#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod implicit_gemm;
mod scalar;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod x86_64;

#[cfg(all(test, feature = "std"))]
mod tests;

/// A quantized convolution, ready to run: `output = epilogue(bias + input ∗ weights)`, accumulated
/// in i32 with wrapping arithmetic.
pub struct ConvI8<'a> {
    /// The shape of everything below.
    pub geometry: ConvGeometry,
    /// NHWC activations, [`ConvGeometry::input_len`] long.
    pub input: &'a [i8],
    /// What padded taps read. The converter folds `−zero_point · Σ weights` into the bias over all
    /// taps, so a padded tap contributes `zero_point · weight`.
    pub input_zero_point: i8,
    /// Panels `[groups][N/16][K/4][16][4]`, [`ConvGeometry::packed_i8_len`] long; see
    /// [`pack_weights`].
    pub weights: &'a [i8],
    /// Per output channel, [`ConvGeometry::padded_out_c`] long.
    pub bias: &'a [i32],
    /// Per output channel, the sum of its weights, as long as the bias; see [`weight_sums`]. Empty
    /// if there are none: kernels that need them (AVX-512 VNNI) leave the work to the next.
    pub weight_sums: &'a [i32],
    /// From accumulator to output. Kernels compute every output once, and read its residual before
    /// they write it.
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
/// The kernels panic when a slice is shorter than its field says, when the geometry isn't
/// [bounded](ConvGeometry::is_bounded) or the epilogue isn't [sound](EpilogueI8::is_sound).
pub fn select(isa: Isa) -> fn(&mut ConvI8<'_>) {
    match isa {
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::Avx512 if Isa::Avx512.is_available() => x86_64::conv_i8_avx512vnni,
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::Avx2 | Isa::Avx512 if Isa::Avx2.is_available() => x86_64::conv_i8_avx2,
        _ => scalar::conv_i8_scalar,
    }
}

/// Bytes of scratch that the kernel which [`select`] gives for `isa` needs, or a little more.
#[cfg_attr(not(all(target_arch = "x86_64", feature = "std")), expect(unused_variables))] // scalar needs none
pub fn scratch_bytes(geometry: &ConvGeometry, isa: Isa) -> usize {
    match isa {
        Isa::Scalar => 0,
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::Avx2 => x86_64::scratch_bytes_avx2(geometry),
        // The AVX-512 kernel may leave its work to the AVX2 kernel.
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::Avx512 => {
            x86_64::scratch_bytes_avx2(geometry).max(x86_64::scratch_bytes_avx512(geometry))
        }
        #[cfg(not(all(target_arch = "x86_64", feature = "std")))]
        _ => 0,
    }
}

/// Packs weights from `[out_c][kernel_h][kernel_w][in_c / groups]` into panels, padded with zeros.
///
/// # Panics
///
/// If `ohwi` is not `out_c * k` long or `out` not [`ConvGeometry::packed_i8_len`].
pub fn pack_weights(geometry: &ConvGeometry, ohwi: &[i8], out: &mut [i8]) {
    let k = geometry.k();
    assert_eq!(ohwi.len(), geometry.out_c * k);
    assert_eq!(out.len(), geometry.packed_i8_len());
    out.fill(0);
    for channel in 0..geometry.out_c {
        let start = weights_start(geometry, channel);
        for i in 0..k {
            out[start + weight_offset(i)] = ohwi[channel * k + i];
        }
    }
}

/// Sums the weights of each output channel, given as in [`pack_weights`]; padding gets zeros.
///
/// # Panics
///
/// If `ohwi` is not `out_c * k` long or `out` not [`ConvGeometry::padded_out_c`].
pub fn weight_sums(geometry: &ConvGeometry, ohwi: &[i8], out: &mut [i32]) {
    let k = geometry.k();
    assert_eq!(ohwi.len(), geometry.out_c * k);
    assert_eq!(out.len(), geometry.padded_out_c());
    out.fill(0);
    for channel in 0..geometry.out_c {
        let weights = &ohwi[channel * k..][..k];
        out[padded_channel(geometry, channel)] = weights.iter().map(|&w| i32::from(w)).sum();
    }
}

/// Where an output channel is in the per-channel arrays, whose groups are padded to whole panels.
fn padded_channel(geometry: &ConvGeometry, channel: usize) -> usize {
    let (group, lane) = (channel / geometry.group_out_c(), channel % geometry.group_out_c());
    group * geometry.padded_group_out_c() + lane
}

/// Where the weights of an output channel start in the panels.
fn weights_start(geometry: &ConvGeometry, channel: usize) -> usize {
    let channel = padded_channel(geometry, channel);
    let panel_len = geometry.k().next_multiple_of(PANEL_K) * PANEL_N;
    channel / PANEL_N * panel_len + channel % PANEL_N * PANEL_K
}

/// Where weight `i` (in K order) of a channel lies behind the channel's start.
#[inline(always)]
fn weight_offset(i: usize) -> usize {
    i / PANEL_K * PANEL_K * PANEL_N + i % PANEL_K
}

impl ConvI8<'_> {
    /// Panics unless every slice but scratch is as long as the kernels rely on.
    fn check(&self) {
        let geometry = &self.geometry;
        assert!(geometry.is_bounded(), "geometry too large");
        let (channels, pixels) = (geometry.padded_out_c(), geometry.out_pixels());
        assert!(self.epilogue.is_sound(channels, pixels * geometry.out_c), "epilogue unsound");
        assert!(self.input.len() >= geometry.input_len(), "input too short");
        assert!(self.weights.len() >= geometry.packed_i8_len(), "weights too short");
        assert!(self.bias.len() >= channels, "bias too short");
        assert!(
            self.weight_sums.is_empty() || self.weight_sums.len() >= channels,
            "weight sums too short"
        );
        assert!(self.output_stride >= geometry.out_c, "output rows overlap");
        let last_row = pixels.saturating_sub(1).checked_mul(self.output_stride);
        assert!(
            pixels == 0
                || last_row.is_some_and(|row| {
                    self.output.len().checked_sub(row).is_some_and(|left| left >= geometry.out_c)
                }),
            "output too short"
        );
    }
}
