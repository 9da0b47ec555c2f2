//! The i8 depthwise convolution in AVX2 and in AVX-512 with VNNI, sixteen channels at a time.
//!
//! AVX2 interleaves the i16 activations of two taps and multiplies them by their interleaved
//! weights with `pmaddwd`. AVX-512 keeps activations as i32 and multiplies with `vpdpwssd`, whose
//! second product is with zero.
//!
//! 3×3 kernels of stride 1 or 2 have paths of their own, which widen every column of the input once
//! and keep it in registers for all the outputs that it meets.

use super::DepthwiseI8;
use super::walk::{Job, Layout};
use crate::kernels::{ConvGeometry, Packing};

mod avx2;
mod avx512;

use avx2::run_avx2;
use avx512::run_avx512vnni;

/// Bytes of a block of expanded weights: of a pair of taps as i16, or of one tap as i32.
const WEIGHT_BYTES: usize = 64;

fn layout(geometry: &ConvGeometry, weights_per_block: usize) -> Layout {
    Layout::new(geometry, weights_per_block * WEIGHT_BYTES)
}

pub(super) fn scratch_bytes_avx2(geometry: &ConvGeometry) -> usize {
    layout(geometry, (geometry.kernel_h * geometry.kernel_w).div_ceil(2)).bytes
}

pub(super) fn scratch_bytes_avx512(geometry: &ConvGeometry) -> usize {
    layout(geometry, geometry.kernel_h * geometry.kernel_w).bytes
}

/// Only for CPUs with AVX2: `select` hands it out after asking.
pub(super) fn depthwise_i8_avx2(conv: &mut DepthwiseI8<'_>) {
    if conv.packing != Packing::Panels {
        return super::scalar::depthwise_i8_scalar(conv);
    }
    super::check(conv, scratch_bytes_avx2);
    // SAFETY: `select` gives this function out only if `Isa::Avx2.is_available()`, and `check`
    // proved the lengths of all slices.
    unsafe { run_avx2(&Job::new(conv)) }
}

/// Only for CPUs with AVX-512 and VNNI: `select` hands it out after asking.
pub(super) fn depthwise_i8_avx512vnni(conv: &mut DepthwiseI8<'_>) {
    if conv.packing != Packing::Panels {
        return super::scalar::depthwise_i8_scalar(conv);
    }
    super::check(conv, scratch_bytes_avx512);
    // SAFETY: `select` gives this function out only if `Isa::Avx512.is_available()`, and `check`
    // proved the lengths of all slices.
    unsafe { run_avx512vnni(&Job::new(conv)) }
}
