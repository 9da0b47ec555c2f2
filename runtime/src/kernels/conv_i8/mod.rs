//! Convolution of i8 activations by i8 weights, also matrix products and fully connected layers.
//!
//! `scalar` is the definition. The SIMD kernels share one walk over the output, `implicit_gemm`,
//! and differ in the micro-kernel that multiplies a few patches by a few output channels.

use super::{ConvGeometry, EpilogueI8, PAIR_N, PANEL_K, PANEL_N, Packing};
use crate::Isa;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(all(target_os = "none", target_abi = "eabihf", not(feature = "no-dsp")))]
mod cortex_m;
#[cfg(any(target_arch = "aarch64", all(target_arch = "x86_64", feature = "std")))]
mod implicit_gemm;
mod scalar;
#[cfg(any(target_arch = "aarch64", all(target_arch = "x86_64", feature = "std")))]
mod tile;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod x86_64;

#[cfg(all(target_os = "none", target_abi = "eabihf", not(feature = "no-dsp")))]
pub(super) use scalar::accumulate;
pub(super) use scalar::{Filter, Order, compute};

#[cfg(target_arch = "aarch64")]
pub(super) use aarch64::has_lowest;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
pub(super) use implicit_gemm::with_long_rows;

#[cfg(all(test, feature = "std"))]
mod tests;

/// What is added, modulo 256, to the weights of a pair's first channel: they are stored unsigned, so
/// that two weights fit a halfword whatever they are.
const FIRST_OFFSET: i8 = -128;

/// A quantized convolution, ready to run: `output = epilogue(bias + input ∗ weights)`, accumulated
/// in i32 with wrapping arithmetic.
pub struct ConvI8<'a> {
    /// The shape of everything below.
    pub geometry: &'a ConvGeometry,
    /// NHWC activations, [`ConvGeometry::input_len`] long.
    pub input: &'a [i8],
    /// What padded taps read. The converter folds `−zero_point · Σ weights` into the bias over all
    /// taps, so a padded tap contributes `zero_point · weight`.
    pub input_zero_point: i8,
    /// Panels `[groups][N/16][K/4][16][4]` or pairs, [`ConvGeometry::weights_i8_len`] long; see
    /// [`pack_weights`] and [`pack_weights_cortex_m`].
    pub weights: &'a [i8],
    /// How the weights, and the vectors along output channels, lie.
    pub packing: Packing,
    /// Per output channel, [`ConvGeometry::channels_len`] long.
    pub bias: &'a [i32],
    /// Per output channel, the sum of its weights, as long as the bias; see [`weight_sums`]. Empty
    /// if there are none: kernels that need them (VNNI) leave the work to the next.
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
        #[cfg(all(target_os = "none", target_abi = "eabihf", not(feature = "no-dsp")))]
        Isa::CortexM => cortex_m::conv_i8_cortex_m,
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::Avx512 if Isa::Avx512.is_available() => x86_64::conv_i8_avx512vnni,
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::AvxVnni if Isa::AvxVnni.is_available() => x86_64::conv_i8_avxvnni,
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        _ if isa.has_avx2() && Isa::Avx2.is_available() => x86_64::conv_i8_avx2,
        #[cfg(all(target_arch = "aarch64", feature = "std"))]
        Isa::I8mm if Isa::I8mm.is_available() => aarch64::conv_i8_i8mm,
        #[cfg(all(target_arch = "aarch64", feature = "std"))]
        Isa::Dotprod | Isa::I8mm if Isa::Dotprod.is_available() => aarch64::conv_i8_dotprod,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::Dotprod | Isa::I8mm if Isa::Neon.is_available() => aarch64::conv_i8_neon,
        _ => scalar::conv_i8_scalar,
    }
}

/// Bytes of scratch that the kernel which [`select`] gives for `isa` needs, or a little more.
#[allow(unused_variables, reason = "scalar needs none")]
pub fn scratch_bytes(geometry: &ConvGeometry, isa: Isa) -> usize {
    match isa {
        Isa::Scalar => 0,
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::Avx2 => x86_64::scratch_bytes_avx2(geometry),
        // The kernels with VNNI may leave their work to the AVX2 kernel.
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::AvxVnni => {
            x86_64::scratch_bytes_avx2(geometry).max(x86_64::scratch_bytes_avxvnni(geometry))
        }
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::Avx512 => {
            x86_64::scratch_bytes_avx2(geometry).max(x86_64::scratch_bytes_avx512(geometry))
        }
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::Dotprod | Isa::I8mm => aarch64::scratch_bytes(geometry),
        #[cfg(all(target_os = "none", target_abi = "eabihf", not(feature = "no-dsp")))]
        Isa::CortexM => cortex_m::scratch_bytes(geometry),
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
        let start = weights_start(geometry, Packing::Panels, channel);
        for i in 0..k {
            out[start + weight_offset(i)] = ohwi[channel * k + i];
        }
    }
}

/// Packs weights as [`pack_weights`] does, but in words of two channels and two inputs,
/// `[groups][N/2][K/4][2][2]` halfwords: halfword h of word j of a quad belongs to inputs `4q + j + 2h`
/// and is `256 · b + a + 128` for the weights a and b of the pair's first and second channel.
///
/// So `SMLAD` sums `256 · b + a + 128`, and sums `a + 128` after one `UXTB16`, for two inputs at a time.
///
/// # Panics
///
/// If `ohwi` is not `out_c * k` long or `out` not [`ConvGeometry::weights_i8_len`].
pub fn pack_weights_cortex_m(geometry: &ConvGeometry, ohwi: &[i8], out: &mut [i8]) {
    let k = geometry.k();
    assert_eq!(ohwi.len(), geometry.out_c * k);
    assert_eq!(out.len(), geometry.weights_i8_len(Packing::CortexM));
    for pair in out.chunks_exact_mut(PAIR_N) {
        pair.copy_from_slice(&[FIRST_OFFSET, 0]);
    }
    for channel in 0..geometry.out_c {
        let lane = channel % geometry.group_out_c() % PAIR_N;
        let pair_start = weights_start(geometry, Packing::CortexM, channel);
        let offset = if lane == 0 { FIRST_OFFSET } else { 0 };
        for i in 0..k {
            let at = pair_start + pair_offset(i) + lane;
            out[at] = ohwi[channel * k + i].wrapping_add(offset);
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
        out[padded_channel(geometry, Packing::Panels, channel)] =
            weights.iter().map(|&w| i32::from(w)).sum();
    }
}

/// Where an output channel is in the per-channel arrays, whose groups are padded to whole panels or
/// pairs.
fn padded_channel(geometry: &ConvGeometry, packing: Packing, channel: usize) -> usize {
    let (group, lane) = (channel / geometry.group_out_c(), channel % geometry.group_out_c());
    group * geometry.padded_channels(packing) + lane
}

/// Where the weights of an output channel start in the panels, or those of its pair.
fn weights_start(geometry: &ConvGeometry, packing: Packing, channel: usize) -> usize {
    let channel = padded_channel(geometry, packing, channel);
    let k = geometry.k().next_multiple_of(PANEL_K);
    match packing {
        Packing::Panels => channel / PANEL_N * k * PANEL_N + channel % PANEL_N * PANEL_K,
        Packing::CortexM => channel / PAIR_N * k * PAIR_N,
    }
}

/// Where weight `i` (in K order) of a channel lies behind the channel's start.
#[inline(always)]
fn weight_offset(i: usize) -> usize {
    i / PANEL_K * PANEL_K * PANEL_N + i % PANEL_K
}

/// Where the halfword of weight `i` (in K order) lies behind the start of its pair of channels.
#[inline(always)]
fn pair_offset(i: usize) -> usize {
    i / PANEL_K * PANEL_K * PAIR_N + i % 2 * 4 + i % PANEL_K / 2 * 2
}

impl ConvI8<'_> {
    /// Panics unless every slice but scratch is as long as the kernels rely on.
    pub(super) fn check(&self) {
        let geometry = self.geometry;
        assert!(geometry.is_bounded(), "geometry too large");
        self.check_lengths(
            geometry.channels_len(self.packing),
            geometry.weights_i8_len(self.packing),
        );
    }

    /// Panics unless the slices but scratch are as long as the geometry, which is bounded, says, the
    /// vectors along channels and the weights as long as told.
    #[inline(never)]
    pub(super) fn check_lengths(&self, channels: usize, weights: usize) {
        let geometry = self.geometry;
        let pixels = geometry.out_pixels();
        assert!(self.epilogue.is_sound(channels, pixels * geometry.out_c), "epilogue unsound");
        assert!(self.input.len() >= geometry.input_len(), "input too short");
        assert!(self.weights.len() >= weights, "weights too short");
        assert!(self.bias.len() >= channels, "bias too short");
        assert!(
            self.weight_sums.is_empty() || self.weight_sums.len() >= channels,
            "weight sums too short"
        );
        assert!(self.output_stride >= geometry.out_c, "output rows overlap");
        let output = pixels.saturating_sub(1).checked_mul(self.output_stride);
        let output = output.and_then(|last_row| last_row.checked_add(geometry.out_c));
        assert!(
            pixels == 0 || output.is_some_and(|len| self.output.len() >= len),
            "output too short"
        );
    }
}
