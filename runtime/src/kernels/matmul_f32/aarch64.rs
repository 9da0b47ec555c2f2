//! Float matrix product with Advanced SIMD, in the tiles of the convolution.

use super::super::conv_f32::aarch64::TILE_NEON;
use super::super::conv_f32::lanes::Neon;
use super::MatMulF32;
use super::blocked::{Kernels, dots, matmul_f32_blocked, weighted_rows};

pub(super) fn matmul_f32_neon(args: &mut MatMulF32<'_>) {
    let kernels =
        Kernels { tile: TILE_NEON, dots: dots::<Neon>, weighted_rows: weighted_rows::<Neon> };
    // SAFETY: targets that this module is built for have Advanced SIMD.
    unsafe { matmul_f32_blocked(args, kernels) }
}
