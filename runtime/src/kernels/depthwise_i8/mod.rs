//! Depthwise convolution of i8 activations: every channel with a kernel of its own.
//!
//! `scalar` is the definition. A convolution whose groups have several channels is
//! [`conv_i8`](super::conv_i8)'s.

use super::conv_i8::ConvI8;
use super::{ConvGeometry, PANEL_N, Packing};
use crate::Isa;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(all(target_os = "none", target_abi = "eabihf", not(feature = "no-dsp")))]
mod cortex_m;
mod scalar;
#[cfg(any(target_arch = "aarch64", all(target_arch = "x86_64", feature = "std")))]
mod walk;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod x86_64;

#[cfg(all(test, feature = "std"))]
mod tests;

/// A quantized depthwise convolution, ready to run. It has the parts of [`ConvI8`], but
///
/// - the geometry [is depthwise](ConvGeometry::is_depthwise);
/// - weights are `[kernel_h · kernel_w][padded_c(in_c)]`, see [`pack_weights`], or for Cortex-M
///   `[in_c][kernel_h · kernel_w]`;
/// - the vectors along channels are [`channels_len`] long; none of today's kernels reads weight sums;
/// - a residual lies apart from the output, since channels may be computed twice.
pub type DepthwiseI8<'a> = ConvI8<'a>;

/// The kernel for `isa`, or for the best one below it that this CPU runs.
///
/// # Panics
///
/// The kernels panic when a slice is shorter than its field says, when the geometry isn't depthwise
/// or [bounded](ConvGeometry::is_bounded), the epilogue isn't [sound](super::EpilogueI8::is_sound), or the
/// residual is in the output.
pub fn select(isa: Isa) -> fn(&mut DepthwiseI8<'_>) {
    match isa {
        #[cfg(all(target_os = "none", target_abi = "eabihf", not(feature = "no-dsp")))]
        Isa::CortexM => cortex_m::depthwise_i8_cortex_m,
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::Avx512 if Isa::Avx512.is_available() => x86_64::depthwise_i8_avx512vnni,
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::AvxVnni if Isa::AvxVnni.is_available() => x86_64::depthwise_i8_avxvnni,
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        _ if isa.has_avx2() && Isa::Avx2.is_available() => x86_64::depthwise_i8_avx2,
        #[cfg(all(target_arch = "aarch64", feature = "std"))]
        Isa::Dotprod | Isa::I8mm if Isa::Dotprod.is_available() => aarch64::depthwise_i8_dotprod,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::Dotprod | Isa::I8mm if Isa::Neon.is_available() => {
            aarch64::depthwise_i8_neon
        }
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
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::AvxVnni => x86_64::scratch_bytes_avxvnni(geometry),
        // Without AVX-512, `select` gives the AVX2 kernel.
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

/// Length of the per-channel arrays.
pub const fn channels_len(channels: usize, packing: Packing) -> usize {
    match packing {
        Packing::Panels => padded_c(channels),
        Packing::CortexM => channels,
    }
}

/// Length of a row of weights packed in panels, and of the vectors that go with them.
#[inline]
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

/// Panics unless every slice is as long as a kernel with this much scratch relies on.
fn check(conv: &DepthwiseI8<'_>, scratch_bytes: fn(&ConvGeometry) -> usize) {
    let geometry = conv.geometry;
    assert!(geometry.is_bounded(), "geometry too large");
    assert!(geometry.is_depthwise(), "geometry not depthwise");
    assert!(!conv.epilogue.is_in_place(), "residual in the output");
    let channels = channels_len(geometry.in_c, conv.packing);
    conv.check_lengths(channels, geometry.kernel_h * geometry.kernel_w * channels);
    assert!(conv.scratch.len() >= scratch_bytes(geometry), "scratch too short");
}
