//! The i8 convolution in AVX2 and in AVX-512 with VNNI.
//!
//! AVX2 widens both operands to i16 and multiplies pairs with `pmaddwd`, which is exact for all
//! i8. AVX-512 has `vpdpbusd`, which wants unsigned activations: it gets `x + 128`, and starts
//! from `bias − 128 · Σ weights`.

use super::ConvI8;
use super::implicit_gemm;
use crate::kernels::requantize::x86_64::scales_are_below_one;
use crate::kernels::{ConvGeometry, Packing};

mod avx2;
mod avx512;

use avx2::Avx2;
use avx512::Avx512;

pub(super) fn scratch_bytes_avx2(geometry: &ConvGeometry) -> usize {
    implicit_gemm::scratch_bytes::<Avx2>(geometry)
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

/// Only for CPUs with AVX-512 and VNNI: `select` hands it out after asking.
pub(super) fn conv_i8_avx512vnni(conv: &mut ConvI8<'_>) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn run(conv: &mut ConvI8<'_>) {
        // SAFETY: this function has the features.
        unsafe { implicit_gemm::run::<Avx512>(conv) }
    }
    // SAFETY: `select` gives this function out only if `Isa::Avx512.is_available()`.
    let below_one = unsafe { scales_are_below_one(&conv.epilogue) };
    if conv.weight_sums.is_empty() || conv.packing != Packing::Panels || !below_one {
        // `Isa::Avx512` includes `Isa::Avx2`.
        return conv_i8_avx2(conv);
    }
    // SAFETY: `select` gives this function out only if `Isa::Avx512.is_available()`.
    unsafe { run(conv) }
}
