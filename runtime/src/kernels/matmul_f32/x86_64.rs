//! Float matrix product with AVX2 + FMA and AVX-512, in the tiles of the convolution.

use super::super::conv_f32::lanes::{Avx2, Avx512};
use super::super::conv_f32::x86_64::{TILE_AVX2, TILE_AVX512};
use super::blocked::{Kernels, dots, matmul_f32_blocked, weighted_rows};
use super::{MatMulF32, MatMulF32Fn};
use crate::Isa;

/// The AVX2 kernel, if this CPU runs it.
pub(super) fn matmul_f32_avx2() -> Option<MatMulF32Fn> {
    fn kernel(args: &mut MatMulF32<'_>) {
        let kernels =
            Kernels { tile: TILE_AVX2, dots: dots_f32_avx2, weighted_rows: weighted_rows_f32_avx2 };
        // SAFETY: this function leaves its parent only where AVX2, FMA and F16C are available.
        unsafe { matmul_f32_blocked(args, kernels) }
    }
    Isa::Avx2.is_available().then_some(kernel as MatMulF32Fn)
}

/// The AVX-512 kernel, if this CPU runs it.
pub(super) fn matmul_f32_avx512() -> Option<MatMulF32Fn> {
    fn kernel(args: &mut MatMulF32<'_>) {
        let kernels = Kernels {
            tile: TILE_AVX512,
            dots: dots_f32_avx512,
            weighted_rows: weighted_rows_f32_avx512,
        };
        // SAFETY: this function leaves its parent only where AVX-512 F is available.
        unsafe { matmul_f32_blocked(args, kernels) }
    }
    Isa::Avx512.is_available().then_some(kernel as MatMulF32Fn)
}

/// # Safety
///
/// Calling it needs the features.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dots_f32_avx2(a: &[f32], b: &[f32], output: &mut [f32]) {
    // SAFETY: the features are enabled.
    unsafe { dots::<Avx2>(a, b, output) }
}

/// # Safety
///
/// Calling it needs the feature.
#[target_feature(enable = "avx512f")]
unsafe fn dots_f32_avx512(a: &[f32], b: &[f32], output: &mut [f32]) {
    // SAFETY: the feature is enabled.
    unsafe { dots::<Avx512>(a, b, output) }
}

/// # Safety
///
/// Calling it needs the features.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn weighted_rows_f32_avx2(a: &[f32], b: &[f32], output: &mut [f32]) {
    // SAFETY: the features are enabled.
    unsafe { weighted_rows::<Avx2>(a, b, output) }
}

/// # Safety
///
/// Calling it needs the feature.
#[target_feature(enable = "avx512f")]
unsafe fn weighted_rows_f32_avx512(a: &[f32], b: &[f32], output: &mut [f32]) {
    // SAFETY: the feature is enabled.
    unsafe { weighted_rows::<Avx512>(a, b, output) }
}
