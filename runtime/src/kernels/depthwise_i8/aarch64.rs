//! The i8 depthwise convolution in NEON and with dot products, sixteen channels at a time.
//!
//! NEON multiplies to i16 and adds to i32; as in [`conv_i8`](super::super::conv_i8), products of two taps are summed in i16
//! where no weight is −128. 3×3 kernels of stride 1 or 2 have paths of their own: plain NEON keeps the nine weights and
//! the columns of the input in registers, `sdot` takes a column of three taps at once, interleaved by channel.

use core::arch::aarch64::*;

use super::walk::{BLOCK, Job, Layout, Row3x3, for_each_pixel, for_each_row_3x3, is_3x3};
use super::{DepthwiseI8, padded_c};
use crate::kernels::conv_i8::has_lowest;
use crate::kernels::requantize::aarch64::{RequantizeNeon, load_partial, store_partial};
use crate::kernels::{ConvGeometry, Packing};

#[cfg(feature = "std")]
mod dotprod;
mod neon;

/// Bytes of a block's weights under a 3×3 kernel, as `sdot` reads them; plain NEON needs fewer.
const WEIGHT_BYTES_3X3: usize = 3 * 4 * 16;

fn layout(geometry: &ConvGeometry) -> Layout {
    Layout::new(geometry, WEIGHT_BYTES_3X3)
}

pub(super) fn scratch_bytes(geometry: &ConvGeometry) -> usize {
    layout(geometry).bytes
}

/// Only for CPUs with NEON: `select` hands it out after asking.
pub(super) fn depthwise_i8_neon(conv: &mut DepthwiseI8<'_>) {
    let pairs = !has_lowest(conv.weights);
    let rows = if pairs { neon::ROWS_PAIRS } else { neon::ROWS };
    run(conv, neon::pack, &rows, pairs);
}

/// Only for CPUs with dot products: `select` hands it out after asking.
#[cfg(feature = "std")]
pub(super) fn depthwise_i8_dotprod(conv: &mut DepthwiseI8<'_>) {
    let pairs = !has_lowest(conv.weights);
    run(conv, dotprod::pack, &dotprod::ROWS, pairs);
}

/// Writes the weights of a block for [`RowFn`]: `(weights, elements from one tap to the next, to)`.
type PackFn = unsafe fn(*const i8, usize, *mut i8);

/// One row of pixels under a 3×3 kernel.
type RowFn = unsafe fn(&Row3x3, &RequantizeNeon);

/// By stride less 1, for blocks of sixteen channels, of eight, and of as many as the row says.
type RowFns = [[RowFn; 3]; 2];

fn run(conv: &mut DepthwiseI8<'_>, pack: PackFn, rows: &RowFns, pairs: bool) {
    if conv.packing != Packing::Panels {
        return super::scalar::depthwise_i8_scalar(conv);
    }
    super::check(conv, scratch_bytes);
    let job = &Job::new(conv);
    let g = &job.geometry;
    if g.out_pixels() == 0 || g.in_c == 0 {
        return;
    }
    let layout = layout(g);
    // SAFETY: the functions that call this one are given out only where the CPU has their instructions, NEON among
    // them; `check` proved the lengths of all slices, and that scratch has this layout.
    unsafe {
        let padding = job.fill_padding(&layout);
        let requantize = RequantizeNeon::new(&job.epilogue);
        if is_3x3(job) {
            for block in 0..g.in_c.div_ceil(BLOCK) {
                let weights = job.weights.add(job.overlapping_block(block));
                let to = job.scratch.add(block * WEIGHT_BYTES_3X3).cast();
                pack(weights, padded_c(g.in_c), to);
            }
            let row = rows[g.stride_w - 1][match g.in_c {
                BLOCK.. => 0,
                8 => 1,
                _ => 2,
            }];
            let first_channel = |block| job.overlapping_block(block);
            for_each_row_3x3(job, padding, WEIGHT_BYTES_3X3, first_channel, |args| {
                row(args, &requantize);
            });
            return;
        }
        let pixel = match (g.in_c, pairs) {
            (BLOCK.., true) => neon::pixel::<BLOCK, true>,
            (BLOCK.., false) => neon::pixel::<BLOCK, false>,
            (_, true) => neon::pixel::<0, true>,
            (_, false) => neon::pixel::<0, false>,
        };
        let pointers = job.scratch.add(layout.pointers).cast::<*const i8>();
        for_each_pixel(job, padding, pointers, |index| {
            pixel(job, &requantize, pointers, index);
        });
    }
}

/// `4 * N` numbers along channels.
///
/// # Safety
///
/// `src` is valid for so many reads.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn load_channels<const N: usize>(src: *const i32) -> [int32x4_t; N] {
    let mut channels = [vdupq_n_s32(0); N];
    for i in 0..N {
        // SAFETY: as the caller's.
        channels[i] = unsafe { vld1q_s32(src.add(4 * i)) };
    }
    channels
}

/// The three rows of column `w` of the padded input.
///
/// # Safety
///
/// As [`for_each_row_3x3`] calls rows; a block has `channels` channels.
#[inline(always)]
unsafe fn load_column(row: &Row3x3, w: usize, channels: usize) -> [int8x16_t; 3] {
    // Columns of the left padding wrap to huge values.
    let w = w.wrapping_sub(row.pad_left);
    if w >= row.in_w {
        // SAFETY: the CPU has NEON.
        return [unsafe { vdupq_n_s8(row.zero_point) }; 3];
    }
    let [(row0, step0), (row1, step1), (row2, step2)] = row.rows;
    // SAFETY: column `w` of the rows exists; a row of padding has step zero.
    unsafe {
        [
            load_partial(row0.add(w * step0), channels),
            load_partial(row1.add(w * step1), channels),
            load_partial(row2.add(w * step2), channels),
        ]
    }
}
