//! Integer rows with the dot products of AArch64: `sdot`, twice, on bytes.

use core::arch::aarch64::*;

use super::super::integers::{BLOCK, Inputs, Integers, Quads, quantize};
use super::super::lanes::Neon;
use super::{GroupedPanel, RowsKernel, Tile, panel_rows};
use crate::kernels::aarch64::sdot;

/// Of dotprod: a row has 8 sums and 4 totals.
pub(in super::super) const ROWS_DOTPROD: RowsKernel =
    RowsKernel { tile_rows: 2, quantize: quantize_neon, panel: panel_dotprod };

/// High and low halves of inputs.
pub(in super::super) struct Halves;

impl Quads for Halves {
    type Inputs = [int8x16_t; 2];
    type Weights = int8x16_t;
    type Words = uint32x4_t;

    const SURPLUS_W8: i32 = 0;
    const SURPLUS_NONLINEAR: i32 = 0;

    // The high halves of a quad, and the low ones, in i8.
    #[inline(always)]
    fn quads(inputs: [i16; BLOCK]) -> [u32; BLOCK / 2] {
        let mut elements = [0; BLOCK / 2];
        // SAFETY: the target has Advanced SIMD; 16 integers are read, and 8 elements written.
        unsafe {
            let (first, second) = (vld1q_s16(inputs.as_ptr()), vld1q_s16(inputs.as_ptr().add(8)));
            let high = vcombine_s8(vrshrn_n_s16::<8>(first), vrshrn_n_s16::<8>(second));
            let low = vcombine_s8(vmovn_s16(first), vmovn_s16(second));
            let (high, low) = (vreinterpretq_u32_s8(high), vreinterpretq_u32_s8(low));
            vst1q_u32(elements.as_mut_ptr(), vzip1q_u32(high, low));
            vst1q_u32(elements.as_mut_ptr().add(4), vzip2q_u32(high, low));
        }
        elements
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [int8x16_t; 2] {
        // SAFETY: the caller promises two elements.
        unsafe {
            let half = |at: usize| vreinterpretq_s8_f32(vld1q_dup_f32(from.add(at)));
            [half(0), half(1)]
        }
    }

    #[inline(always)]
    unsafe fn w8(from: *const u8) -> int8x16_t {
        // SAFETY: the caller promises 16 bytes.
        unsafe { vld1q_s8(from.cast()) }
    }

    #[inline(always)]
    unsafe fn w4(from: *const u8) -> [int8x16_t; 2] {
        // SAFETY: the caller promises 16 bytes.
        unsafe {
            let bytes = vld1q_u8(from);
            let low = vandq_u8(bytes, vdupq_n_u8(15));
            [vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(vshrq_n_u8::<4>(bytes))]
        }
    }

    #[inline(always)]
    unsafe fn bytes(words: uint32x4_t) -> int8x16_t {
        // SAFETY: the target has Advanced SIMD.
        unsafe { vreinterpretq_s8_u32(words) }
    }
}

/// The sums of high and of low halves.
struct Sdot;

impl Integers for Sdot {
    type Quads = Halves;
    type Outputs = Neon;
    type Sums = [int32x4_t; 2];

    #[inline(always)]
    unsafe fn zero() -> [int32x4_t; 2] {
        // SAFETY: the target has Advanced SIMD.
        unsafe { [vdupq_n_s32(0); 2] }
    }

    #[inline(always)]
    unsafe fn add(
        sums: [int32x4_t; 2],
        weights: int8x16_t,
        inputs: [int8x16_t; 2],
    ) -> [int32x4_t; 2] {
        // SAFETY: the caller has dotprod.
        unsafe { [sdot(sums[0], weights, inputs[0]), sdot(sums[1], weights, inputs[1])] }
    }

    #[inline(always)]
    unsafe fn total<const N: usize>(sums: [[int32x4_t; 2]; N], surplus: i32) -> Neon {
        // SAFETY: the target has Advanced SIMD.
        unsafe {
            let mut exact = vdupq_n_s32(surplus.wrapping_neg());
            for [high, low] in sums {
                exact = vaddq_s32(exact, vaddq_s32(vshlq_n_s32::<8>(high), low));
            }
            Neon::from_i32(exact)
        }
    }
}

pub(in super::super) fn quantize_neon<'s>(
    row: &[f32],
    group_size: usize,
    scratch: &'s mut [f32],
) -> Inputs<'s> {
    quantize::<Halves>(row, group_size, scratch)
}

/// # Safety
///
/// As [`RowsKernel::panel`] says.
#[target_feature(enable = "neon,dotprod")]
unsafe fn panel_dotprod(tile: &Tile<'_>, panel: &GroupedPanel, inputs: &[Inputs<'_>]) {
    // SAFETY: the contract is the same.
    unsafe {
        match inputs.len() {
            1 => panel_rows::<Sdot, 1, 4, 1>(tile, panel, inputs),
            _ => panel_rows::<Sdot, 2, 4, 1>(tile, panel, inputs),
        }
    }
}
