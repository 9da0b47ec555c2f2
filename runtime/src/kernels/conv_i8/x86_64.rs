//! The i8 convolution in AVX2, in AVX2 with AVX-VNNI, and in AVX-512 with VNNI.
//!
//! AVX2 widens both operands to i16 and multiplies pairs with `pmaddwd`, which is exact for all
//! i8. VNNI is `vpdpbusd`, which wants unsigned activations: it gets `x + 128`, and starts
//! from `bias − 128 · Σ weights`.

use super::ConvI8;
use super::implicit_gemm;
use crate::kernels::requantize::x86_64::scales_are_below_one;
use crate::kernels::{ConvGeometry, PANEL_K, Packing};

mod avx2;
mod avx512;
mod avxvnni;

use avx2::Avx2;
use avx512::{Avx512, row_avx512vnni};
use avxvnni::AvxVnni;

pub(super) fn scratch_bytes_avx2(geometry: &ConvGeometry) -> usize {
    implicit_gemm::scratch_bytes::<Avx2>(geometry)
}

pub(super) fn scratch_bytes_avxvnni(geometry: &ConvGeometry) -> usize {
    implicit_gemm::scratch_bytes::<AvxVnni>(geometry)
}

pub(super) fn scratch_bytes_avx512(geometry: &ConvGeometry) -> usize {
    implicit_gemm::scratch_bytes::<Avx512>(geometry)
}

/// Only for CPUs with AVX2: `select` hands it out after asking.
pub(super) fn conv_i8_avx2(conv: &mut ConvI8<'_>) {
    #[target_feature(enable = "avx2")]
    fn run(conv: &mut ConvI8<'_>) {
        // SAFETY: this function has the feature.
        unsafe { implicit_gemm::run::<Avx2>(conv) }
    }
    if conv.packing != Packing::Panels {
        return super::scalar::conv_i8_scalar(conv);
    }
    // SAFETY: `select` gives this function out only if `Isa::Avx2.is_available()`.
    unsafe { run(conv) }
}

/// Only for CPUs with AVX2 and AVX-VNNI: `select` hands it out after asking.
pub(super) fn conv_i8_avxvnni(conv: &mut ConvI8<'_>) {
    #[target_feature(enable = "avx2,avxvnni")]
    fn run(conv: &mut ConvI8<'_>) {
        // SAFETY: this function has the features.
        unsafe { implicit_gemm::run::<AvxVnni>(conv) }
    }
    if conv.weight_sums.is_empty() || conv.packing != Packing::Panels {
        // `Isa::AvxVnni` includes `Isa::Avx2`.
        return conv_i8_avx2(conv);
    }
    // SAFETY: `select` gives this function out only if `Isa::AvxVnni.is_available()`.
    unsafe { run(conv) }
}

/// Only for CPUs with AVX-512 and VNNI: `select` hands it out after asking.
pub(super) fn conv_i8_avx512vnni(conv: &mut ConvI8<'_>) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn run(conv: &mut ConvI8<'_>) {
        // SAFETY: this function has the features.
        unsafe { implicit_gemm::run::<Avx512>(conv) }
    }
    // A pixel alone is bounded before it is rounded, which takes less than asking first.
    let fits = conv.geometry.out_pixels() == 1
        // SAFETY: `select` gives this function out only if `Isa::Avx512.is_available()`.
        || unsafe { scales_are_below_one(&conv.epilogue) };
    if conv.weight_sums.is_empty() || conv.packing != Packing::Panels || !fits {
        // `Isa::Avx512` includes `Isa::Avx2`.
        return conv_i8_avx2(conv);
    }
    let is_row = conv.geometry.is_row() && conv.geometry.k().is_multiple_of(PANEL_K);
    // SAFETY: `select` gives this function out only if `Isa::Avx512.is_available()`; there are weight sums, and the
    // weights are in panels.
    unsafe { if is_row { row_avx512vnni(conv) } else { run(conv) } }
}
