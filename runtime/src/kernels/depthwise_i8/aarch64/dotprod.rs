//! The i8 depthwise convolution with dot products: a column of three taps is a quad of `sdot`, whose fourth weight is zero.

use core::arch::aarch64::*;

use super::neon::for_each_pixel_3x3;
use super::{BLOCK, RequantizeNeon, Row3x3, RowFns, load_channels, load_column, store_partial};
use crate::kernels::aarch64::sdot;

pub(super) const ROWS: RowFns = [
    [row_3x3::<1, BLOCK, 4>, row_3x3::<1, 8, 2>, row_3x3::<1, 0, 4>],
    [row_3x3::<2, BLOCK, 4>, row_3x3::<2, 8, 2>, row_3x3::<2, 0, 4>],
];

/// Interleaves each of the three columns of a block, as [`interleave`].
///
/// # Safety
///
/// The CPU has NEON; `weights` is valid for a block in each of nine taps, `to` for twelve blocks of writes.
pub(super) unsafe fn pack(weights: *const i8, tap_step: usize, to: *mut i8) {
    for column in 0..3 {
        // SAFETY: as the caller's.
        unsafe {
            let tap = |row: usize| vld1q_s8(weights.add((3 * row + column) * tap_step));
            let quads = interleave::<4>([tap(0), tap(1), tap(2)], vdupq_n_s8(0));
            for i in 0..4 {
                vst1q_s8(to.add((4 * column + i) * BLOCK), quads[i]);
            }
        }
    }
}

/// A quad for each of `4 * N` channels: of the three rows and of `fourth`.
#[target_feature(enable = "neon")]
#[inline]
fn interleave<const N: usize>(rows: [int8x16_t; 3], fourth: int8x16_t) -> [int8x16_t; N] {
    let [a, b, c] = rows;
    let mut quads = [fourth; N];
    for half in 0..N / 2 {
        let (upper, lower) = match half {
            0 => (vzip1q_s8(a, b), vzip1q_s8(c, fourth)),
            _ => (vzip2q_s8(a, b), vzip2q_s8(c, fourth)),
        };
        let (upper, lower) = (vreinterpretq_s16_s8(upper), vreinterpretq_s16_s8(lower));
        quads[2 * half] = vreinterpretq_s8_s16(vzip1q_s16(upper, lower));
        quads[2 * half + 1] = vreinterpretq_s8_s16(vzip2q_s16(upper, lower));
    }
    quads
}

/// `CHANNELS` is how many channels a block has, or 0; no more than `4 * N`. For sixteen channels, 12 registers of weights, 12 of
/// inputs and 4 accumulators.
///
/// # Safety
///
/// As [`for_each_row_3x3`](super::for_each_row_3x3) calls it, after [`pack`].
#[target_feature(enable = "neon,dotprod")]
unsafe fn row_3x3<const STRIDE: usize, const CHANNELS: usize, const N: usize>(
    row: &Row3x3,
    requantize: &RequantizeNeon,
) {
    let channels = if CHANNELS == 0 { row.channels } else { CHANNELS };
    let mut w = [[vdupq_n_s8(0); N]; 3];
    for column in 0..3 {
        for i in 0..N {
            // SAFETY: `pack` has written twelve registers.
            let from = unsafe { row.weights.cast::<i8>().add((4 * column + i) * BLOCK) };
            // SAFETY: as above.
            w[column][i] = unsafe { vld1q_s8(from) };
        }
    }
    // SAFETY: the caller vouches for the per-channel arrays, which have room for a whole block.
    let (bias, factors) =
        unsafe { (load_channels::<N>(row.bias), requantize.factors::<N>(row.scale)) };
    macro_rules! column {
        ($w:expr) => {{
            // SAFETY: as the caller's.
            let rows = unsafe { load_column(row, $w, channels) };
            // What meets the weight zero doesn't matter.
            interleave::<N>(rows, rows[2])
        }};
    }
    macro_rules! pixel {
        ($ow:expr, $x0:ident, $x1:ident, $x2:ident) => {{
            let mut acc = bias;
            for i in 0..N {
                acc[i] = sdot(acc[i], $x0[i], w[0][i]);
                acc[i] = sdot(acc[i], $x1[i], w[1][i]);
                acc[i] = sdot(acc[i], $x2[i], w[2][i]);
            }
            // SAFETY: the pixel exists.
            unsafe {
                let bytes = requantize.apply(acc, &factors);
                store_partial(row.output.add($ow * row.output_stride), bytes, channels);
            }
        }};
    }
    for_each_pixel_3x3!(STRIDE, row.out_w, pixel, column);
}
