//! The i8 depthwise convolution in plain NEON: i16 products by `smull`, added to i32 by `saddw`.

use core::arch::aarch64::*;

use super::{
    BLOCK, Job, RequantizeNeon, Row3x3, RowFns, load_channels, load_column, load_partial, padded_c,
    store_partial,
};

/// Calls `$pixel!(index, column 0, column 1, column 2)` for every pixel of a row, and `$column!(index)` for every column
/// once. Names change places instead of registers. Macros, since what lives across a call would go to memory.
macro_rules! for_each_pixel_3x3 {
    ($stride:expr, $pixels:expr, $pixel:ident, $column:ident) => {
        let (mut ow, pixels) = (0usize, $pixels);
        let mut x0 = $column!(0);
        if $stride == 1 {
            let mut x1 = $column!(1);
            while ow < pixels {
                let x2 = $column!(ow + 2);
                $pixel!(ow, x0, x1, x2);
                if ow + 1 == pixels {
                    break;
                }
                x0 = $column!(ow + 3);
                $pixel!(ow + 1, x1, x2, x0);
                if ow + 2 == pixels {
                    break;
                }
                x1 = $column!(ow + 4);
                $pixel!(ow + 2, x2, x0, x1);
                ow += 3;
            }
        } else {
            while ow < pixels {
                let x1 = $column!(2 * ow + 1);
                let x2 = $column!(2 * ow + 2);
                $pixel!(ow, x0, x1, x2);
                if ow + 1 == pixels {
                    break;
                }
                let x1 = $column!(2 * ow + 3);
                x0 = $column!(2 * ow + 4);
                $pixel!(ow + 1, x2, x1, x0);
                ow += 2;
            }
        }
    };
}
#[cfg(feature = "std")]
pub(super) use for_each_pixel_3x3;

/// Where no weight is −128.
pub(super) const ROWS_PAIRS: RowFns = [
    [row_3x3::<1, BLOCK, 4, true>, row_3x3::<1, 8, 2, true>, row_3x3::<1, 0, 4, true>],
    [row_3x3::<2, BLOCK, 4, true>, row_3x3::<2, 8, 2, true>, row_3x3::<2, 0, 4, true>],
];

pub(super) const ROWS: RowFns = [
    [row_3x3::<1, BLOCK, 4, false>, row_3x3::<1, 8, 2, false>, row_3x3::<1, 0, 4, false>],
    [row_3x3::<2, BLOCK, 4, false>, row_3x3::<2, 8, 2, false>, row_3x3::<2, 0, 4, false>],
];

/// Copies the nine taps of a block.
///
/// # Safety
///
/// `weights` is valid for a block in each of nine taps, `to` for nine blocks of writes.
pub(super) unsafe fn pack(weights: *const i8, tap_step: usize, to: *mut i8) {
    for tap in 0..9 {
        // SAFETY: as the caller's.
        unsafe { to.add(tap * BLOCK).copy_from_nonoverlapping(weights.add(tap * tap_step), BLOCK) };
    }
}

/// Products of a tap, or the sum of those of two, in i16.
#[target_feature(enable = "neon")]
#[inline]
fn multiply(taps: [[int8x16_t; 2]; 2], is_pair: bool) -> [int16x8_t; 2] {
    let [[x, w], [x2, w2]] = taps;
    let low = vmull_s8(vget_low_s8(x), vget_low_s8(w));
    let high = vmull_high_s8(x, w);
    if !is_pair {
        return [low, high];
    }
    let low = vmlal_s8(low, vget_low_s8(x2), vget_low_s8(w2));
    [low, vmlal_high_s8(high, x2, w2)]
}

/// Adds products to the sums of `4 * N` channels.
#[target_feature(enable = "neon")]
#[inline]
fn add<const N: usize>(acc: &mut [int32x4_t; N], products: [int16x8_t; 2]) {
    for half in 0..N / 2 {
        acc[2 * half] = vaddw_s16(acc[2 * half], vget_low_s16(products[half]));
        acc[2 * half + 1] = vaddw_high_s16(acc[2 * half + 1], products[half]);
    }
}

/// Adds the products of two taps, each an input and a weight.
#[target_feature(enable = "neon")]
#[inline]
fn add_two<const N: usize, const PAIRS: bool>(
    acc: &mut [int32x4_t; N],
    first: [int8x16_t; 2],
    second: [int8x16_t; 2],
) {
    if PAIRS {
        add(acc, multiply([first, second], true));
    } else {
        add(acc, multiply([first; 2], false));
        add(acc, multiply([second; 2], false));
    }
}

/// `CHANNELS` is how many channels a block has, or 0; no more than `4 * N`. With `PAIRS`, no weight is −128.
///
/// # Safety
///
/// As [`for_each_row_3x3`](super::for_each_row_3x3) calls it.
#[target_feature(enable = "neon")]
unsafe fn row_3x3<const STRIDE: usize, const CHANNELS: usize, const N: usize, const PAIRS: bool>(
    row: &Row3x3,
    requantize: &RequantizeNeon,
) {
    let channels = if CHANNELS == 0 { row.channels } else { CHANNELS };
    let mut w = [vdupq_n_s8(0); 9];
    for tap in 0..9 {
        // SAFETY: a block has nine taps.
        w[tap] = unsafe { vld1q_s8(row.weights.cast::<i8>().add(tap * BLOCK)) };
    }
    // SAFETY: the caller vouches for the per-channel arrays, which have room for a whole block.
    let (bias, factors) =
        unsafe { (load_channels::<N>(row.bias), requantize.factors::<N>(row.scale)) };
    macro_rules! column {
        ($w:expr) => {
            // SAFETY: as the caller's.
            unsafe { load_column(row, $w, channels) }
        };
    }
    // The pixel whose columns these are.
    macro_rules! pixel {
        ($ow:expr, $x0:ident, $x1:ident, $x2:ident) => {{
            let mut acc = bias;
            add_two::<N, PAIRS>(&mut acc, [$x0[0], w[0]], [$x0[1], w[3]]);
            add_two::<N, PAIRS>(&mut acc, [$x0[2], w[6]], [$x1[0], w[1]]);
            add_two::<N, PAIRS>(&mut acc, [$x1[1], w[4]], [$x1[2], w[7]]);
            add_two::<N, PAIRS>(&mut acc, [$x2[0], w[2]], [$x2[1], w[5]]);
            add(&mut acc, multiply([[$x2[2], w[8]]; 2], false));
            // SAFETY: the pixel exists.
            unsafe {
                let bytes = requantize.apply(acc, &factors);
                store_partial(row.output.add($ow * row.output_stride), bytes, channels);
            }
        }};
    }
    for_each_pixel_3x3!(STRIDE, row.out_w, pixel, column);
}

/// All channels of one pixel, whose taps are at `pointers`. `CHANNELS` is how many channels a block has, or 0.
///
/// # Safety
///
/// As [`for_each_pixel`](super::for_each_pixel) calls it. With `PAIRS`, no weight is −128.
#[target_feature(enable = "neon")]
pub(super) unsafe fn pixel<const CHANNELS: usize, const PAIRS: bool>(
    job: &Job<'_>,
    requantize: &RequantizeNeon,
    pointers: *const *const i8,
    index: usize,
) {
    let g = &job.geometry;
    let (taps, tap_step) = (g.kernel_h * g.kernel_w, padded_c(g.in_c));
    let channels = if CHANNELS == 0 { g.in_c } else { CHANNELS };
    for block in 0..g.in_c.div_ceil(BLOCK) {
        let channel = job.overlapping_block(block);
        // SAFETY: the block has `channels` channels from `channel` on, in the input of every tap and in the output;
        // weights and per-channel arrays are padded to whole blocks, from any channel that a block starts at.
        unsafe {
            let weights = job.weights.add(channel);
            let mut acc = load_channels::<4>(job.bias.add(channel));
            let mut tap = 0;
            while PAIRS && tap + 2 <= taps {
                let x = load_partial(pointers.add(tap).read_unaligned().add(channel), channels);
                let x2 =
                    load_partial(pointers.add(tap + 1).read_unaligned().add(channel), channels);
                let w = vld1q_s8(weights.add(tap * tap_step));
                let w2 = vld1q_s8(weights.add((tap + 1) * tap_step));
                add_two::<4, PAIRS>(&mut acc, [x, w], [x2, w2]);
                tap += 2;
            }
            while tap < taps {
                let x = load_partial(pointers.add(tap).read_unaligned().add(channel), channels);
                let w = vld1q_s8(weights.add(tap * tap_step));
                add(&mut acc, multiply([[x, w]; 2], false));
                tap += 1;
            }
            let factors = requantize.factors::<4>(job.epilogue.scale.as_ptr().add(channel));
            let bytes = match &job.epilogue.residual {
                None => requantize.apply(acc, &factors),
                Some(r) => {
                    let (data, row) = r.data.rows(g.out_c, job.output, job.output_stride);
                    let data = load_partial(data.add(index * row + channel), channels);
                    requantize.apply_sum(acc, &factors, data)
                }
            };
            store_partial(job.output.add(index * job.output_stride + channel), bytes, channels);
        }
    }
}
