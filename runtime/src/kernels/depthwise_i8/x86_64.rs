//! The i8 depthwise convolution in AVX2, AVX-VNNI and in AVX-512 with VNNI.
//!
//! AVX2 interleaves the i16 activations of two taps and multiplies them by their interleaved
//! weights with `pmaddwd`, sixteen channels at a time. The others interleave the bytes of four taps for
//! `vpdpbusd`, 32 or 64 outputs at a time. It wants unsigned activations: it gets `x + 128`, and starts from
//! `bias − 128 · Σ weights`.
//!
//! 3×3 kernels of stride 1 or 2 have paths of their own, which interleave every column of the input
//! once for all the outputs that it meets.

use super::DepthwiseI8;
use super::walk::{Job, Layout};
use crate::kernels::requantize::x86_64::scales_are_below_one;
use crate::kernels::{ConvGeometry, Packing};

mod avx2;
mod avx512;
mod avxvnni;
mod columns;

use avx2::run_avx2;
use avx512::run_avx512vnni;

/// Bytes of a block of weights that AVX2 has expanded: a pair of taps as i16.
const WEIGHT_BYTES: usize = 64;

fn layout_avx2(geometry: &ConvGeometry) -> Layout {
    let pairs = (geometry.kernel_h * geometry.kernel_w).div_ceil(2);
    Layout::new(geometry, pairs * WEIGHT_BYTES)
}

pub(super) fn scratch_bytes_avx2(geometry: &ConvGeometry) -> usize {
    layout_avx2(geometry).bytes
}

/// Enough for any output.
pub(super) fn scratch_bytes_avxvnni(geometry: &ConvGeometry) -> usize {
    let bytes = |contiguous| avxvnni::Plan::new(geometry, contiguous).map_or(0, |plan| plan.bytes);
    scratch_bytes_avx2(geometry).max(bytes(false)).max(bytes(true))
}

pub(super) fn scratch_bytes_avx512(geometry: &ConvGeometry) -> usize {
    avx512::scratch_bytes(geometry)
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

/// Only for CPUs with AVX2 and AVX-VNNI: `select` hands it out after asking.
pub(super) fn depthwise_i8_avxvnni(conv: &mut DepthwiseI8<'_>) {
    let g = conv.geometry;
    let fits = conv.packing == Packing::Panels && conv.epilogue.residual.is_none();
    let plan = if fits { avxvnni::Plan::new(g, conv.output_stride == g.out_c) } else { None };
    let Some(plan) = plan.filter(|_| g.out_pixels() > 0) else {
        // `Isa::AvxVnni` includes `Isa::Avx2`.
        return depthwise_i8_avx2(conv);
    };
    super::check(conv, scratch_bytes_avxvnni);
    // SAFETY: `select` gives this function out only if `Isa::AvxVnni.is_available()`, and `check` proved the lengths of
    // all slices, scratch's for any plan. The job has outputs, and no residual.
    unsafe { plan.run(&Job::new(conv)) }
}

/// Only for CPUs with AVX-512 and VNNI: `select` hands it out after asking.
pub(super) fn depthwise_i8_avx512vnni(conv: &mut DepthwiseI8<'_>) {
    // SAFETY: `select` gives this function out only if `Isa::Avx512.is_available()`.
    let below_one = unsafe { scales_are_below_one(&conv.epilogue) };
    if conv.packing != Packing::Panels || !below_one {
        // `Isa::Avx512` includes `Isa::Avx2`.
        return depthwise_i8_avx2(conv);
    }
    super::check(conv, |_| 0);
    let scratch_bytes = conv.scratch.len();
    // SAFETY: `select` gives this function out only if `Isa::Avx512.is_available()`, and `check`
    // proved the lengths of all slices but scratch.
    unsafe { run_avx512vnni(&Job::new(conv), scratch_bytes) }
}
